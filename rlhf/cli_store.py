"""`rlhf store`: the tasks of a label store, its projects, its health."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from rlhf.errors import ConfigError, DataError, StoreError

if TYPE_CHECKING:
    from rich.text import Text

    from rlhf.preferences import LabelStore, ProjectSettings

R = TypeVar("R")

store_app = typer.Typer(no_args_is_help=True, help="Tasks to rank, projects, gold tasks, backups, checks.")

MaybeConfigPath = Annotated[Path | None, typer.Option("-c", "--config", metavar="CONFIG.yaml", help="a run's config")]
StoreOption = Annotated[
    str | None, typer.Option("--store", metavar="URL", help="label store: a file, or postgresql://…")
]
ProjectOption = Annotated[
    str | None, typer.Option("--project", help="project of the store; without it: the config's, else `default`")
]
BatchOption = Annotated[str | None, typer.Option("--batch", help="one batch of the store; without it: all")]
Changes = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="settings, as overlap=3 or flags='[Rude, Wrong]'")
]


def visible(text: str) -> str:
    """The text with whatever is no plain character written as an escape: nothing steers the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def cell(text: str) -> Text:
    """A table's cell with a text that people or files gave: neither markup nor control characters count."""
    from rich.text import Text

    return Text(visible(text))


def located(store: str | None, config: Path | None, project: str | None) -> tuple[str, str]:
    """The store's URL and the project's name, from exactly one of `--store` and `-c`; else ConfigError."""
    if project is not None:
        _check_project(project)
    if store is not None and config is None:
        return _reachable(store), project or "default"
    if config is not None and store is None:
        from rlhf.config import load

        loaded = load(config, [])
        return _reachable(loaded.store_url), project or loaded.store.project
    raise ConfigError("name the label store by exactly one of --store URL and -c CONFIG.yaml")


def _check_project(name: str) -> str:
    from rlhf.preferences.intake import NAME_LENGTH, check_name

    return check_name(name, "project", NAME_LENGTH)


def opened(store: str | None, config: Path | None, project: str | None, *, create: bool = False) -> LabelStore:
    """The store that these options name. `create`: made where there is none, unless it lacked the project then."""
    url, name = located(store, config, project)
    from rlhf.preferences import LabelStore
    from rlhf.preferences.engine import shown, store_url

    where = store_url(url)
    if create and name != "default" and where.get_backend_name() == "sqlite" and not Path(shown(where)).exists():
        raise StoreError(
            f"label store {shown(where)}: no such file, so there is no project {name!r} in it; "
            f"make both with: rlhf store project {name} --create"
        )
    return LabelStore.open(url, create=create and name == "default", project=name)


def _reachable(url: str) -> str:
    """The store's URL; StoreError for a path that the system refuses to look at."""
    scheme, sign, rest = url.partition("://")
    if not sign or scheme.startswith("sqlite"):
        try:
            os.stat(rest.removeprefix("/") if sign else Path(url).expanduser())
        except (FileNotFoundError, NotADirectoryError):
            pass  # opening it says so, or makes it
        except (OSError, RuntimeError, ValueError) as error:  # too long, shut, a home of nobody, no name for a file
            reason = getattr(error, "strerror", None) or str(error)
            raise StoreError(f"label store {_short(url)}: {reason}; give another path") from None
    return url


def read(file: str, load: Callable[[str], list[R]]) -> list[R]:
    """What `load` makes of a file; one that cannot be read is a DataError."""
    if not file.strip():
        raise DataError(f"file: expected a file's name, found {file!r}")
    try:
        return load(file)
    except OSError as error:
        raise DataError(f"{_short(file)}: cannot be read ({error.strerror or error}); check the path") from None


def check_target(file: Path) -> None:
    """ConfigError for what no file can be written to."""
    try:
        if not file.name or file.is_dir():
            raise ConfigError(f"{file}: is a folder; name a file to write")
    except OSError as error:
        raise ConfigError(f"{_short(str(file))}: cannot be written ({error.strerror}); give another name") from None


def _short(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}…"


@store_app.command("tasks")
def store_tasks(
    file: Annotated[str, typer.Argument(help='rows {"prompt", "completions": [...]}: JSON Lines or Parquet')],
    batch: Annotated[str, typer.Option("--batch", help="name under which they are kept")],
    store: StoreOption = None,
    config: MaybeConfigPath = None,
    project: ProjectOption = None,
) -> None:
    """Queue completions of your own for people to rank; optional keys: sources, group, priority."""
    located(store, config, project)
    from rlhf.data.sources import load_rows
    from rlhf.preferences.intake import check_batch, parse_task

    check_batch(batch)  # before the store is made: a bad name or row leaves nothing behind
    new = read(file, lambda source: load_rows(source, parse_task))
    with opened(store, config, project, create=True) as labels:
        typer.echo(f"{labels.name}: {labels.add_tasks(new, batch=batch)} new tasks of {len(new)} in batch {batch!r}")


@store_app.command("project")
def store_project(
    name: Annotated[str | None, typer.Argument(help="the project; without it: all of them")] = None,
    changes: Changes = None,
    create: Annotated[bool, typer.Option("--create", help="make it, and the store where there is none")] = False,
    guidelines: Annotated[
        Path | None, typer.Option(metavar="FILE", help="text for labelers, kept as a new version of the instructions")
    ] = None,
    store: StoreOption = None,
    config: MaybeConfigPath = None,
) -> None:
    """Show projects and their settings; change one, or make one."""
    if name is None:
        if create or guidelines is not None:
            raise ConfigError("name the project: rlhf store project NAME")
        with opened(store, config, None) as labels:
            for project in labels.projects():
                typer.echo(_described(project.name, project.settings))
        return
    from rlhf.data.records import check_text

    _check_project(name)
    if "=" in name:
        raise ConfigError(f"{name!r}: is a setting; name the project before it: rlhf store project default {name}")
    wanted = _settings(changes or [])
    text = None if guidelines is None else check_text(_text_of(guidelines), str(guidelines))
    if create:
        from rlhf.preferences.settings import parse_settings

        parse_settings(wanted, f"project {name!r}")  # before the store is made, as in `rlhf data import`
        with opened(store, config, "default", create=True) as labels:
            if name != "default":  # every store has that one, a new one too
                labels.create_project(name, wanted)
    with opened(store, config, name) as labels:
        if wanted and (not create or name == "default"):
            labels.configure(wanted)
            if "overlap" in wanted and (queued := len(labels.open_places())):
                typer.echo(f"{queued} of the tasks that wait keep the overlap that they were queued with", err=True)
        if text is not None:
            typer.echo(f"instructions: version {labels.set_guidelines(text)}")
        typer.echo(_described(name, labels.settings()))


def _settings(changes: list[str]) -> dict[str, Any]:
    from rlhf.config_yaml import read_yaml

    found = {}
    for change in changes:
        key, sign, value = change.partition("=")
        if not sign or not key.strip():
            raise ConfigError(f"{_short(repr(change))}: expected key=value, for example overlap=3")
        where = f"setting {_short(repr(change))}"
        if key.strip() in found:
            raise ConfigError(f"{where}: {key.strip()!r} is set twice; leave one out")
        found[key.strip()] = read_yaml(value, where, line=False)
        try:
            repr(found[key.strip()])
        except ValueError:  # no message could show it
            raise ConfigError(f"{where}: a number of so many digits is of no use here; give a smaller one") from None
    return found


def _described(name: str, settings: ProjectSettings) -> str:
    """The project as YAML, with what each key means."""
    import yaml

    lines = [f"{visible(name)}:"]
    for key, field in type(settings).model_fields.items():
        value = getattr(settings, key)
        plain = list(value) if isinstance(value, tuple) else value
        shown = yaml.safe_dump([plain], default_flow_style=True, width=10_000).strip()[1:-1]
        lines.append(f"  {key}: {shown}  # {field.description}")
    return "\n".join(lines)


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"{_short(str(file))}: cannot be read ({reason})") from None


@store_app.command("gold")
def store_gold(
    file: Annotated[str | None, typer.Argument(help="rankings that are the known answers; without it: results")] = None,
    batch: Annotated[str, typer.Option("--batch", help="name under which they are kept")] = "gold",
    store: StoreOption = None,
    config: MaybeConfigPath = None,
    project: ProjectOption = None,
) -> None:
    """Add gold tasks, mixed in unseen (`gold_share`), or show how each labeler did on them."""
    if file is not None:
        from rlhf.data.sources import load_rankings
        from rlhf.preferences import gold
        from rlhf.preferences.intake import check_batch

        located(store, config, project)
        check_batch(batch)  # before the store is made, as in `rlhf data import`
        known = gold.checked(read(file, load_rankings), None, file)
        with opened(store, config, project, create=True) as labels:
            typer.echo(f"{labels.name}: {labels.add_gold(known, batch=batch)} new gold tasks of {len(known)}")
        return
    from rich.console import Console
    from rich.table import Table

    with opened(store, config, project) as labels:
        table = Table("labeler", "gold tasks", "pairs", "accuracy", title=cell(labels.name))
        for found in labels.gold_results():
            share = "" if found.accuracy is None else f"{found.accuracy:.2f}"
            table.add_row(cell(found.labeler), str(found.tasks), str(found.pairs), share)
    Console().print(table)


@store_app.command("events")
def store_events(
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="how many, newest first")] = 50,
    store: StoreOption = None,
    config: MaybeConfigPath = None,
    project: ProjectOption = None,
) -> None:
    """What was done in a store, by whom and when: the audit record."""
    from datetime import UTC, datetime

    from rich.console import Console
    from rich.table import Table

    from rlhf.preferences import audit

    with opened(store, config, project) as labels:
        events = labels.events(limit)
        names = audit.look_up(labels, events)
        table = Table("when (UTC)", "who", "by a program", "what", "about", title=cell(labels.name))
        for event in events:
            when = datetime.fromtimestamp(event.at, UTC).strftime("%Y-%m-%d %H:%M:%S")
            by_program = "" if event.name else "yes"  # a column of its own: anybody may be called "a program"
            table.add_row(when, cell(event.name), by_program, cell(event.action), cell(audit.about(event, names)))
    Console().print(table)


@store_app.command("stats")
def store_stats(store: StoreOption = None, config: MaybeConfigPath = None, project: ProjectOption = None) -> None:
    """How much a project of a store holds, by batch."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    columns = ("tasks", "waiting", "rankings", "skips", "judgments", "labelers")
    with opened(store, config, project) as labels:
        table = Table("batch", *columns, title=cell(labels.name))
        for name in (*labels.batches(), None):
            counts = labels.counts(name)
            title = Text("all", style="bold") if name is None else cell(name)
            table.add_row(title, *(str(getattr(counts, column)) for column in columns))
    Console().print(table)


@store_app.command("backup")
def store_backup(
    file: Annotated[Path, typer.Argument(help="file to write; it must not be there yet")],
    store: StoreOption = None,
    config: MaybeConfigPath = None,
) -> None:
    """Copy a store as it is now, while people go on working: a store again, or (PostgreSQL) a file for pg_restore."""
    check_target(file)
    with opened(store, config, "default") as labels:
        labels.backup(file)
        typer.echo(f"{file}: copy of {labels.name}")


@store_app.command("check")
def store_check(store: StoreOption = None, config: MaybeConfigPath = None) -> None:
    """Look for damage, missing triggers, and counts and judgments that do not fit; if all is well, say what is there.

    Exit code 1 if there is any, 2 if the store cannot be read at all.
    """
    from rlhf.preferences import LabelStore

    with opened(store, config, "default") as labels:
        found, projects = labels.check(), labels.projects()
        for problem in found:
            typer.echo(visible(f"{labels.name}: {problem}"), err=True)
        if found:
            raise typer.Exit(1)
        typer.echo(f"{labels.name}: all is well")
    for project in projects:
        with LabelStore.open(located(store, config, None)[0], project=project.name) as labels:
            counts = labels.counts()
            typer.echo(visible(f"project {project.name}: {counts.tasks} tasks, {counts.judgments} judgments"))


@store_app.command("upgrade")
def store_upgrade(
    where: Annotated[str | None, typer.Argument(metavar="[URL]", help="the store, as --store names it")] = None,
    store: StoreOption = None,
    config: MaybeConfigPath = None,
) -> None:
    """Bring a store that an older version made to this version's schema. Make a copy of it first."""
    if where is not None and store is not None:
        raise ConfigError("the store is named twice; leave out --store")
    url, _ = located(where if where is not None else store, config, None)
    from rlhf.preferences import LabelStore

    found, now = LabelStore.upgrade(url)
    typer.echo(f"label store: schema {now} already" if found == now else f"label store: schema {found} -> {now}")
