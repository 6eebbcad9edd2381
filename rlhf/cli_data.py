"""`rlhf data`: rankings into a label store and out of it, in the formats of other tools."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlhf.cli_store import (
    BatchOption,
    MaybeConfigPath,
    ProjectOption,
    StoreOption,
    check_target,
    located,
    opened,
    visible,
)
from rlhf.errors import StoreError

if TYPE_CHECKING:
    from rlhf.data.records import Ranking
    from rlhf.preferences import LabelStore
    from rlhf.preferences.exchange import RankingFile

data_app = typer.Typer(no_args_is_help=True, help="Rankings in and out of a label store, in other tools' formats too.")

BUILTIN = "builtin:"


class ImportFormat(StrEnum):
    """What `rlhf data import` reads."""

    AUTO = "auto"
    RANKINGS = "rankings"
    TRL = "trl"
    HH_RLHF = "hh-rlhf"
    ARGILLA = "argilla"
    LABEL_STUDIO = "label-studio"
    OASST = "oasst"


class ExportFormat(StrEnum):
    """What `rlhf data export` writes."""

    RANKINGS = "rankings"
    TRL = "trl"
    HH_RLHF = "hh-rlhf"
    ARGILLA = "argilla"
    LABEL_STUDIO = "label-studio"
    OASST = "oasst"
    DATASETS = "datasets"
    DEMONSTRATIONS = "demonstrations"


@data_app.command("import")
def data_import(
    file: Annotated[str, typer.Argument(help="file (.jsonl .json .csv .parquet, .gz), folder of `datasets`, its name")],
    batch: Annotated[str, typer.Option("--batch", help="name under which they are kept")],
    format: Annotated[ImportFormat, typer.Option(help="what the file holds; `auto` tells it by its first row")] = (
        ImportFormat.AUTO
    ),
    store: StoreOption = None,
    config: MaybeConfigPath = None,
    project: ProjectOption = None,
) -> None:
    """Add a file's rankings to a store, which is made where there is none. Rows it holds already add nothing.

    Every row is looked at before the first is written. Stopped in between, the same command goes on.
    """
    located(store, config, project)
    from rlhf.preferences.exchange import RankingFile
    from rlhf.preferences.intake import check_batch

    check_batch(batch)  # before the store is made: a bad name or row leaves nothing behind
    if file.startswith(BUILTIN):
        from rlhf.data.sources import load_rankings

        rankings: list[Ranking] | RankingFile = load_rankings(file)
    else:
        rankings = RankingFile(file, format.value)
        with _progress("checking", rankings):
            for _ in rankings:
                pass
    with opened(store, config, project, create=True) as labels:
        if not isinstance(rankings, list):
            told = "" if format is not ImportFormat.AUTO else ", told by its content"
            typer.echo(visible(f"{file}: {rankings.format.name}{told}; {rankings.count} to import"))
            _say_left_out(rankings.tally.left_out)
        with _progress("importing", None if isinstance(rankings, list) else rankings):
            report = labels.import_rankings(rankings, batch=batch)
        typer.echo(
            f"{labels.name}: read {report.read} rankings, added {report.added} to batch {batch!r} "
            f"({report.revisions} of them revisions), {report.repeated} were there already"
        )


@data_app.command("export")
def data_export(
    file: Annotated[
        Path, typer.Argument(help="file to write; its ending says how: .jsonl .json .csv .parquet, or text.gz")
    ],
    format: Annotated[
        ExportFormat,
        typer.Option(help="rankings as they are, another tool's rows, or the better answers that labelers wrote"),
    ] = ExportFormat.RANKINGS,
    batch: BatchOption = None,
    store: StoreOption = None,
    config: MaybeConfigPath = None,
    project: ProjectOption = None,
) -> None:
    """Write what counts of a store's rankings, or the better answers, to a file; says what the format cannot hold."""
    check_target(file)
    from rlhf.preferences.exchange import check_ending

    check_ending(file, format.value)
    with opened(store, config, project) as labels:
        if batch is not None and batch not in labels.batches():
            known = ", ".join(labels.batches()) or "none"
            raise StoreError(f"{labels.name}: holds no batch {batch!r}; its batches: {known}")
        if format is ExportFormat.DEMONSTRATIONS:
            _write_demonstrations(labels, file, batch)
        else:
            _write_rankings(labels, file, format, batch)


def _write_rankings(labels: LabelStore, file: Path, format: ExportFormat, batch: str | None) -> None:
    from rlhf.preferences.exchange import listed, write

    rankings = labels.rankings(batch=batch)
    if not rankings:
        waiting = labels.counts(batch).waiting
        raise StoreError(f"{labels.name}: nothing is ranked yet ({waiting} tasks wait); rank some with `rlhf label`")
    done = write(file, rankings, format.value)
    typer.echo(visible(f"{file}: {done.rows} rows ({format.value}) of {done.rankings} rankings from {labels.name}"))
    _say_left_out(done.left_out)
    if done.lost:
        typer.echo(f"no place in this format: {listed(done.lost)}")
    for note in done.notes:
        typer.echo(note)


def _write_demonstrations(labels: LabelStore, file: Path, batch: str | None) -> None:
    from rlhf.preferences import write_demonstrations

    written = labels.demonstrations(batch=batch)
    if not written:
        raise StoreError(f"{labels.name}: nobody has written a better answer yet; labelers may on the ranking page")
    typer.echo(visible(f"{file}: {write_demonstrations(file, written)} demonstrations from {labels.name}"))


def _say_left_out(counts: Mapping[str, int]) -> None:
    from rlhf.preferences.exchange import listed

    if counts:
        typer.echo(f"left out: {listed(counts)}")


@contextmanager
def _progress(doing: str, file: RankingFile | None) -> Iterator[None]:
    """A bar on stderr while this file is walked, by its bytes; nothing where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if file is None or not console.is_terminal:
        yield
        return
    rate = TextColumn("{task.fields[rows]:,} rows, {task.fields[rate]:,}/s")
    columns = (TextColumn(doing), BarColumn(), TaskProgressColumn(), rate, TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task(doing, total=None, rows=0, rate=0)

        def show(walked: RankingFile) -> None:
            rate = int(walked.count / max(progress.tasks[0].elapsed or 0, 0.001))
            meter = walked.meter
            progress.update(bar, total=meter.size or None, completed=meter.done, rows=walked.count, rate=rate)

        file.watch = show
        try:
            yield
        finally:
            file.watch = None
