"""`rlhf label --simulate`: people who are none rank on a store, for demonstrations and to try a campaign out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from rlhf.cli_store import cell, opened, visible
from rlhf.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from pathlib import Path

    from rlhf.functions import Scorer
    from rlhf.preferences import LabelStore
    from rlhf.preferences.simulation import SimulatedLabeler, Worked

OURS = ("simulate", "truth", "tasks", "seed", "among_people")
STORES = ("store", "config", "project")
NAMED = 3  # of the people in the way, so many are named

SimulateOption = Annotated[
    str | None,
    typer.Option(
        "--simulate",
        metavar="KIND=N,...",
        help="serve nothing; let simulated people rank instead, as careful=3,noisy=1,spammer=1",
        show_default=False,
    ),
]
TruthOption = Annotated[
    str | None,
    typer.Option(
        metavar="MODULE:FUNCTION",
        help="with --simulate: what they think good, a function as evaluate.judges takes it; without it: a number made "
        "up from each text",
        show_default=False,
    ),
]
TasksOption = Annotated[
    int | None,
    typer.Option(
        min=1, help="with --simulate: tasks for each of them; without it: until none is left", show_default=False
    ),
]
SeedOption = Annotated[int, typer.Option(min=0, help="with --simulate: repeats what they think")]
AmongPeople = Annotated[
    bool, typer.Option("--among-people", help="with --simulate: even where real people's rankings are, for good")
]


def check_together(context: typer.Context) -> None:
    """ConfigError for options of which one says to simulate and the other to serve."""
    given = {p.name: p.opts[0] for p in context.command.params if p.name and _is_given(context, p.name)}
    if "simulate" not in given:
        if without := [given[name] for name in OURS if name in given]:
            raise ConfigError(f"{without[0]}: says how --simulate works; give that too, or leave this out")
        return
    if serving := [option for name, option in given.items() if name not in (*OURS, *STORES)]:
        raise ConfigError(
            f"{serving[0]}: is for serving the page, and --simulate serves nothing; leave one of them out"
        )


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def run_simulation(
    kinds: str,
    store: str | None,
    config: Path | None,
    project: str | None,
    *,
    truth: str | None,
    tasks: int | None,
    seed: int,
    among_people: bool,
) -> None:
    """Let them rank, with a bar that tells how far they are, and print what they did."""
    from rlhf.preferences import simulation

    crowd = simulation.make_crowd(parse_kinds(kinds))
    judge: Scorer = simulation.by_hash
    if truth is not None:
        from rlhf.functions import import_function

        _, colon, function = truth.partition(":")
        if not colon or not function:
            raise ConfigError(f"--truth {truth!r}: expected module:function, as my_judges:quality")
        judge = import_function(truth, "truth")
    with opened(store, config, project) as labels:
        if not among_people:
            _refuse_among_people(labels)
        done = _watched(labels, crowd, judge, truth or "", tasks, seed)
        _show(labels, done)
    if truth is None:
        typer.echo("What is good was made up from the texts by a hash: to try things out, not to train on.")


def parse_kinds(text: str) -> dict[str, int]:
    """`careful=3,noisy=1` as numbers by kind; ConfigError for what is none. Whether a kind exists is not looked at."""
    kinds: dict[str, int] = {}
    for part in text.split(","):
        kind, sign, number = (piece.strip() for piece in part.partition("="))
        if not (sign and kind and number.isascii() and number.isdigit() and len(number) <= 9):
            raise ConfigError(f"--simulate: expected KIND=N as careful=3, found {part.strip()[:80]!r}")
        if kind in kinds:
            raise ConfigError(f"--simulate: {kind} is there twice; give it one number")
        kinds[kind] = int(number)
    return kinds


def _refuse_among_people(labels: LabelStore) -> None:
    """StoreError if real people's rankings are in the project: they would be exported together for ever."""
    from rlhf.preferences.simulation import PREFIX

    real = sorted({j.labeler for j in labels.judged() if not j.labeler.startswith(PREFIX)})
    if real:
        names = ", ".join(visible(name) for name in real[:NAMED]) + (", …" if len(real) > NAMED else "")
        raise StoreError(
            f"{labels.name}: project {labels.project!r} holds rankings by people ({len(real)}: {names}), and simulated "
            "ones could never be taken out again; give them a project of their own (rlhf store project NAME --create) "
            "or say --among-people"
        )


def _watched(
    labels: LabelStore, crowd: list[SimulatedLabeler], judge: Scorer, name: str, tasks: int | None, seed: int
) -> list[Worked]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from rlhf.preferences import simulation

    places = sum(min(task.overlap - task.judged, len(crowd)) for task in labels.waiting())
    total = places if tasks is None else min(places, tasks * len(crowd))  # gold tasks and skips come on top
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        row, count = bar.add_task("simulated people rank", total=total), 0

        def watch(_work: Worked) -> None:
            nonlocal count
            count += 1
            bar.update(row, completed=count, total=max(count, total))

        return simulation.simulate(labels, crowd, truth=judge, name=name, each=tasks, seed=seed, watch=watch)


def _show(labels: LabelStore, done: list[Worked]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("simulated person", "ranked", "skipped", "pairs", "as the truth has them", "minutes it would take")
    table.title = cell(f"{labels.name}, project {labels.project}")
    for work in done:
        share = f"{100 * work.right / work.pairs:.0f} %" if work.pairs else ""
        numbers = (str(work.ranked), str(work.skipped), str(work.pairs), share, f"{work.seconds / 60:.1f}")
        table.add_row(cell(work.name), *numbers)
    Console().print(table)
    ranked, waiting = sum(work.ranked for work in done), labels.counts().waiting
    rankings = "1 ranking" if ranked == 1 else f"{ranked} rankings"
    people = "1 simulated person" if len(done) == 1 else f"{len(done)} simulated people"
    wanting = "1 task still wants" if waiting == 1 else f"{waiting} tasks still want"
    typer.echo(f"{rankings} by {people}; {wanting} somebody.")
