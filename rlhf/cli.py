"""The `rlhf` command: thin, and quick to answer. Everything heavy is imported by the command that needs it.

A fault that a person can mend (RLHFError) ends with one line on stderr and exit code 2; Ctrl+C with one line and 130.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from rlhf import __version__
from rlhf.errors import ConfigError, RLHFError

if TYPE_CHECKING:
    from rlhf.config import Config


class ExportFormat(StrEnum):
    """What `rlhf store export` writes."""

    RANKINGS = "rankings"
    PAIRS = "pairs"


class RewardAdapter(StrEnum):
    """Which reward model `rlhf reward` trains: PPO's own, or the evaluation's judge on labels of its own."""

    REWARD = "reward"
    GOLD = "gold"


class _Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except RLHFError as error:
            typer.echo(f"rlhf: error: {error}", err=True)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            typer.echo("rlhf: stopped by Ctrl+C; what was finished is kept, and the same command goes on", err=True)
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Align a language model with your own people's judgement. Begin with `rlhf quickstart`.",
)
store_app = typer.Typer(no_args_is_help=True, help="Put rankings into a label store, and take them out.")
app.add_typer(store_app, name="store")

ConfigPath = Annotated[Path, typer.Option("-c", "--config", metavar="CONFIG.yaml", help="the run's config")]
MaybeConfigPath = Annotated[Path | None, typer.Option("-c", "--config", metavar="CONFIG.yaml", help="a run's config")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="change the config, as ppo.updates=10")
]
Force = Annotated[bool, typer.Option("--force", help="run again even where config, inputs and parents are unchanged")]
StoreOption = Annotated[
    str | None, typer.Option("--store", metavar="URL", help="label store: a file, or postgresql://…")
]
BatchOption = Annotated[str | None, typer.Option("--batch", help="one batch of the store; without it: all")]


def main() -> None:
    """Run the command line."""
    app(prog_name="rlhf")


def packaged_config(name: str) -> Path:
    """A config that comes with the toolkit: `rlhf/configs/` in an installed wheel, `configs/` in a checkout."""
    package = Path(__file__).resolve().parent
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / name).is_file():
            return folder / name
    raise ConfigError(f"{name}: this config should have come with the toolkit; install rlhf-toolkit again")


def _load(path: Path, overrides: list[str] | None) -> Config:
    from rlhf import config

    return config.load(path, overrides or [])


def _run(path: Path, overrides: list[str] | None, force: bool, stages: tuple[str, ...] | None = None) -> None:
    config = _load(path, overrides)  # before torch is imported, so that a typo answers at once
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns at import of a kernel that we do not want
    from rlhf.stages import pipeline

    if stages is None:
        pipeline.run(config, force=force)
    else:
        pipeline.run(config, stages=stages, force=force)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rlhf-toolkit {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="show the version and leave")
    ] = False,
) -> None:
    """Options that stand before any command."""


# --- running -----------------------------------------------------------------------------------------------------


@app.command()
def quickstart(overrides: Overrides = None, force: Force = False) -> None:
    """The whole loop on real people's film ratings, no GPU needed: `rlhf run -c configs/quickstart.yaml`."""
    _run(packaged_config("quickstart.yaml"), overrides, force)


@app.command()
def run(config: ConfigPath, overrides: Overrides = None, force: Force = False) -> None:
    """All stages of a config, each skipped where nothing that it depends on has changed."""
    _run(config, overrides, force)


def _stage_command(name: str, text: str) -> None:
    def command(config: ConfigPath, overrides: Overrides = None, force: Force = False) -> None:
        _run(config, overrides, force, stages=(name,))

    app.command(name, help=text)(command)


_stage_command("sft", "Fine-tune the `sft` adapter on demonstrations.")


@app.command()
def reward(
    config: ConfigPath,
    overrides: Overrides = None,
    force: Force = False,
    adapter: Annotated[
        RewardAdapter, typer.Option(help="PPO's reward model, or the evaluation's")
    ] = RewardAdapter.REWARD,
) -> None:
    """Train a reward model on the label store's rankings."""
    _run(config, overrides, force, stages=(adapter.value,))


_stage_command("ppo", "Train the `policy` adapter against the reward model, held near `sft`.")
_stage_command("evaluate", "Compare the policy with SFT on held-out prompts.")
_stage_command("export", "Write the aligned adapter for plain PEFT, and check it in a fresh process.")
_stage_command("sample", "Put the policy's completions into the label store, for people to rank.")


# --- looking -----------------------------------------------------------------------------------------------------


@app.command("config")
def show_config(config: MaybeConfigPath = None, overrides: Overrides = None) -> None:
    """The resolved config as YAML, every key with its range, default and meaning; without -c, the defaults."""
    from rlhf import config as configs
    from rlhf.config_help import annotated

    typer.echo(annotated(_load(config, overrides) if config else configs.parse(_from_nothing(overrides), "defaults")))


def _from_nothing(overrides: list[str] | None) -> dict[str, Any]:
    if overrides:
        raise ConfigError(f"override {overrides[0]!r}: there is no config to change; name one with -c")
    return {}


@app.command()
def doctor(config: MaybeConfigPath = None, overrides: Overrides = None) -> None:
    """What this machine can do; with -c, whether the config fits into its memory."""
    loaded = _load(config, overrides) if config else None
    from rlhf import doctor as checks

    raise typer.Exit(checks.run(loaded))


# --- labels ------------------------------------------------------------------------------------------------------


def _store_url(store: str | None, config: Path | None) -> str:
    if store is not None and config is None:
        return store
    if config is not None and store is None:
        return _load(config, None).store_url
    raise ConfigError("name the label store by exactly one of --store URL and -c CONFIG.yaml")


@app.command()
def label(
    store: StoreOption = None,
    config: MaybeConfigPath = None,
    host: Annotated[str, typer.Option(help="address to listen on, on this machine alone")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8501,
    open_browser: Annotated[bool, typer.Option("--open", help="open the page in a browser")] = False,
) -> None:
    """Open the labeling app on a label store."""
    url = _store_url(store, config)
    from labeling_app.launch import launch

    raise typer.Exit(launch(url, host=host, port=port, open_browser=open_browser))


@store_app.command("import")
def store_import(
    file: Annotated[str, typer.Argument(help="rankings or TRL pairs: JSON Lines, Parquet or CSV")],
    batch: Annotated[str, typer.Option("--batch", help="name under which they are kept")],
    store: StoreOption = None,
    config: MaybeConfigPath = None,
) -> None:
    """Add a file's rankings to a store, which is made where there is none. Rows it holds already add nothing."""
    url = _store_url(store, config)
    from rlhf.data.records import check_text
    from rlhf.data.sources import load_rankings
    from rlhf.preferences import LabelStore

    check_text(batch, "batch")  # before the store is made: a bad name or row leaves nothing behind
    rankings = load_rankings(file)
    with LabelStore.open(url, create=True) as labels:
        report = labels.import_rankings(rankings, batch=batch)
        typer.echo(
            f"{labels.name}: read {report.read} rankings, added {report.added} to batch {batch!r} "
            f"({report.revisions} of them revisions), {report.repeated} were there already"
        )


@store_app.command("export")
def store_export(
    file: Annotated[Path, typer.Argument(help="JSON Lines file to write")],
    format: Annotated[ExportFormat, typer.Option(help="rankings as they are, or every untied pair as TRL reads it")] = (
        ExportFormat.RANKINGS
    ),
    batch: BatchOption = None,
    store: StoreOption = None,
    config: MaybeConfigPath = None,
) -> None:
    """Write everybody's latest rankings to a file."""
    url = _store_url(store, config)
    from rlhf.errors import StoreError
    from rlhf.preferences import LabelStore, write_pairs, write_rankings

    with LabelStore.open(url) as labels:
        write: Callable[..., int] = write_pairs if format is ExportFormat.PAIRS else write_rankings
        if batch is not None and batch not in labels.batches():
            known = ", ".join(labels.batches()) or "none"
            raise StoreError(f"{labels.name}: holds no batch {batch!r}; its batches: {known}")
        rankings = labels.rankings(batch=batch)
        if not rankings:
            waiting = labels.counts(batch).waiting
            raise StoreError(
                f"{labels.name}: nothing is ranked yet ({waiting} tasks wait); rank some with `rlhf label`"
            )
        count = write(file, rankings)
        typer.echo(f"{file}: {count} {format.value} from {labels.name}")


@store_app.command("stats")
def store_stats(store: StoreOption = None, config: MaybeConfigPath = None) -> None:
    """How much a store holds, by batch."""
    url = _store_url(store, config)
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from rlhf.preferences import LabelStore

    columns = ("tasks", "waiting", "rankings", "skips", "judgments", "labelers")
    with LabelStore.open(url) as labels:
        table = Table("batch", *columns, title=Text(labels.name))
        for name in (*labels.batches(), None):
            counts = labels.counts(name)
            title = Text("all", style="bold") if name is None else Text(name)
            table.add_row(title, *(str(getattr(counts, column)) for column in columns))
    Console().print(table)


@store_app.command("backup")
def store_backup(
    file: Annotated[Path, typer.Argument(help="file to write; it must not be there yet")],
    store: StoreOption = None,
    config: MaybeConfigPath = None,
) -> None:
    """Copy a store as it is now, while people go on working: a store again, or (PostgreSQL) a file for pg_restore."""
    url = _store_url(store, config)
    from rlhf.preferences import LabelStore

    with LabelStore.open(url) as labels:
        labels.backup(file)
        typer.echo(f"{file}: copy of {labels.name}")


@store_app.command("check")
def store_check(store: StoreOption = None, config: MaybeConfigPath = None) -> None:
    """Look for damage, missing triggers, and counts and judgments that do not fit.

    Exit code 1 if there is any, 2 if the store cannot be read at all.
    """
    url = _store_url(store, config)
    from rlhf.preferences import LabelStore

    with LabelStore.open(url) as labels:
        found, counts = labels.check(), labels.counts()
        for problem in found:
            typer.echo(f"{labels.name}: {problem}", err=True)
        if found:
            raise typer.Exit(1)
        typer.echo(f"{labels.name}: all is well ({counts.tasks} tasks, {counts.judgments} judgments)")


@store_app.command("upgrade")
def store_upgrade(
    where: Annotated[str | None, typer.Argument(metavar="[URL]", help="the store, as --store names it")] = None,
    store: StoreOption = None,
    config: MaybeConfigPath = None,
) -> None:
    """Bring a store that an older version made to this version's schema. Make a copy of it first."""
    if where is not None and store is not None:
        raise ConfigError("the store is named twice; leave out --store")
    url = _store_url(where if where is not None else store, config)
    from rlhf.preferences import LabelStore

    found, now = LabelStore.upgrade(url)
    typer.echo(f"label store: schema {now} already" if found == now else f"label store: schema {found} -> {now}")
