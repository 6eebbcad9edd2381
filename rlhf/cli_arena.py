"""`rlhf arena`: completions by models that this toolkit does not run, side by side for people to vote; and who wins."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlhf.cli_store import (
    BatchOption,
    MaybeConfigPath,
    ProjectOption,
    StoreOption,
    cell,
    located,
    opened,
    read,
    visible,
)
from rlhf.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from rich.console import Console

    from rlhf.data.records import Demonstration, Prompt
    from rlhf.preferences import LabelStore

arena_app = typer.Typer(no_args_is_help=True, help="Blind comparisons of models: votes by people, and who wins.")


@arena_app.command("add")
def arena_add(
    files: Annotated[
        list[str], typer.Argument(help='two files or more of rows {"prompt", "completion"} (or messages), one a model')
    ],
    batch: Annotated[str, typer.Option("--batch", help="name under which the tasks are kept")],
    name: Annotated[
        list[str] | None, typer.Option("--name", help="a model's name, one for each file; without it: the file's")
    ] = None,
    overlap: Annotated[
        int | None, typer.Option(min=1, max=1000, help="people who rank each task; without it: as the project says")
    ] = None,
    store: StoreOption = None,
    config: MaybeConfigPath = None,
    project: ProjectOption = None,
) -> None:
    """Queue a task for every prompt that is in all files: their completions, for people to rank unseen."""
    located(store, config, project)
    from rlhf.data.sources import load_demonstrations
    from rlhf.preferences.arena import paired
    from rlhf.preferences.intake import check_batch, checked_tasks

    names = _names(files, name or [])
    check_batch(batch)  # before the store is made: a bad name or row leaves nothing behind
    prompts, written, others, repeated = _matched([read(file, load_demonstrations) for file in files])
    pairing = paired(prompts, dict(zip(names, written, strict=True)))
    checked_tasks(pairing.tasks, overlap or 1)
    if not pairing.tasks:
        why = f"of {len(prompts)} prompts that all of them hold, {pairing.words()}" if prompts else "share no prompt"
        raise ConfigError(f"{', '.join(files)}: {why}; there is nothing to compare")
    with opened(store, config, project, create=True) as labels:
        added = labels.add_tasks(pairing.tasks, batch=batch, overlap=overlap)
        typer.echo(f"{labels.name}: {added} new tasks of {len(pairing.tasks)} in batch {batch!r}: {', '.join(names)}")
    if others:
        typer.echo(f"{others} prompts are not in all files: left out")
    if repeated:
        typer.echo(f"{repeated} more completions of one prompt in one file: its first counts")
    if left_out := pairing.words():
        typer.echo(f"of {len(prompts)} prompts, {visible(left_out)}")


@arena_app.command("show")
def arena_show(
    batch: BatchOption = None,
    store: StoreOption = None,
    config: MaybeConfigPath = None,
    project: ProjectOption = None,
) -> None:
    """Win-rates and strengths of each batch's contestants, as the labeling app's admins see them live."""
    from rich.console import Console

    from rlhf.preferences.arena import LEGEND

    with opened(store, config, project) as labels:
        if batch is not None and batch not in labels.batches():
            known = ", ".join(labels.batches()) or "none"
            raise StoreError(f"{labels.name}: holds no batch {batch!r}; its batches: {known}")
        console = Console()
        shown = [b for b in ([batch] if batch is not None else labels.batches()) if _show(console, labels, b)]
        if not shown:
            raise StoreError(
                f"{labels.name}: no votes on completions of two sources yet; queue some with `rlhf arena add`, or "
                "`rlhf sample` with sample.against, and rank them with `rlhf label`"
            )
    console.print(LEGEND, markup=False, highlight=False)


def _show(console: Console, labels: LabelStore, batch: str) -> bool:
    """Print one batch's leaderboard; False where it has none."""
    from rich.table import Table

    from rlhf.preferences.arena import rows, votes, words
    from rlhf.preferences.statistics.strengths import leaderboard

    dropped = {task for task, verdict in labels.verdicts().items() if verdict.kind == "drop"}
    counting = votes(labels.judged(batch), dropped)
    board = leaderboard(counting)
    if not board.standings:
        return False
    lines = rows(board)
    table = Table(*lines[0], title=cell(batch), title_justify="left")
    for line in lines:
        table.add_row(*(cell(str(value)) for value in line.values()))
    console.print(table)
    counts = labels.counts(batch)
    console.print(f"{counts.waiting} of {counts.tasks} tasks still want votes.")
    for text in words(board, counting):
        console.print(text, markup=False, highlight=False)
    console.print()
    return True


def _names(files: list[str], given: list[str]) -> list[str]:
    """The contestants' names: as given, else the files' own."""
    from rlhf.preferences.intake import LINE_LENGTH, check_name

    if not 2 <= len(files) <= 9:
        raise ConfigError(f"name 2 to 9 files, one a model; found {len(files)}")
    if given and len(given) != len(files):
        raise ConfigError(f"--name: found {len(given)} for {len(files)} files; give one for each, in their order")
    names = [check_name(name, "--name", LINE_LENGTH) for name in given or [Path(file).stem for file in files]]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(f"--name: two contestants would be called {twice!r}; give each file a --name of its own")
    return names


def _matched(found: list[list[Demonstration]]) -> tuple[list[Prompt], list[list[str]], int, int]:
    """The prompts that all have and what each wrote; how many prompts not all have, and how many repeat one."""
    from rlhf.data.records import Prompt, prompt_key

    by_prompt = [{prompt_key(row.prompt): row for row in reversed(rows)} for rows in found]
    order = list(dict.fromkeys(prompt_key(row.prompt) for row in found[0]))
    common = [key for key in order if all(key in known for known in by_prompt)]
    first = [by_prompt[0][key] for key in common]
    prompts = [Prompt(row.prompt, row.group) for row in first]
    written = [[known[key].completion for key in common] for known in by_prompt]
    others = len({key for known in by_prompt for key in known}) - len(common)
    return prompts, written, others, sum(len(rows) - len(known) for rows, known in zip(found, by_prompt, strict=True))
