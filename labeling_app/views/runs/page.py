"""For engineers: the runs under a folder, their curves while they are made, samples, settings and the report."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import altair as alt
import streamlit as st

from labeling_app.components.charts import show_chart
from labeling_app.components.tables import show_table
from labeling_app.components.texts import show_text
from labeling_app.launch import Serving
from labeling_app.session import counted
from labeling_app.untrusted import visible
from labeling_app.views import sign_in
from labeling_app.views.runs import charts as runs_charts
from labeling_app.views.runs import details
from labeling_app.views.runs.details import PARTS
from labeling_app.views.runs.finding import MOST_FOLDERS, Finder, Found, Run
from labeling_app.views.runs.reading import Curves, inside
from rlhf.errors import ConfigError, RLHFError, StoreError
from rlhf.preferences import Labeler, LabelStore
from rlhf.preferences.access import may

LIVE_SECONDS = 3.0  # between two looks at the numbers of a run that is at work; at others nobody looks again
LIST_SECONDS = 10.0  # until a run that begins, goes on or ends is noticed
LONGEST_READ = 20.0  # seconds that a long file is read before what there is of it is drawn
MOST_COMPARED = 6
LATEST = ""  # the choice that follows the run from stage to stage; no stage has this name
COMMAND = "rlhf label -c CONFIG.yaml --runs DIR"


def show(store: LabelStore, labeler: Labeler) -> None:
    """The whole page, for admins."""
    if not may(labeler, "admin"):
        raise StoreError(f"this is for the role 'admin', and yours is {labeler.role!r}; ask an admin of the project")
    st.title("Runs", anchor=False)
    folder = _folder()
    if folder is None:
        st.write("No folder of runs was named. Start the page with one:")
        show_text(COMMAND)
        return
    found = _finder(str(folder)).find()
    _fragment(_list, LIST_SECONDS)(store, labeler, folder, found)
    if not found.runs:
        return
    names = [run.name for run in found.runs]
    chosen = st.multiselect(
        "Runs to look at", names, default=names[:1], format_func=visible, max_selections=MOST_COMPARED, key="runs"
    )
    if not chosen:
        st.write("Choose a run, or several to compare.")
        return
    alive = any(run.alive for run in found.runs if run.name in chosen)
    _fragment(_curves, LIVE_SECONDS if alive else None)(store, labeler, folder, tuple(chosen))
    _fragment(_details, None)(store, labeler, folder, tuple(chosen))


def _folder() -> Path | None:
    try:
        runs = Serving.from_environment(os.environ).runs
    except ConfigError:
        return None
    return Path(runs) if runs else None


def _fragment(draw: Callable[..., None], seconds: float | None) -> Callable[..., None]:
    """A part of the page that is drawn anew by itself. Nobody checks roles before it then, so it does itself."""

    def checked(store: LabelStore, labeler: Labeler, *rest: object) -> None:
        try:
            person = sign_in.signed_in(store)
        except RLHFError:
            person = None
        if person is None or person.id != labeler.id or not may(person, "admin"):
            st.rerun()  # the whole page, which says what there is to say
        draw(*rest)

    return st.fragment(checked, run_every=seconds, key=f"runs{draw.__name__}")


# --- the list ----------------------------------------------------------------------------------------------------


@st.cache_resource(show_spinner=False, max_entries=4)
def _finder(folder: str) -> Finder:
    return Finder(Path(folder))


def _list(folder: Path, before: Found) -> None:
    found = _finder(str(folder)).find()
    if {(run.name, run.alive) for run in found.runs} != {(run.name, run.alive) for run in before.runs}:
        st.rerun()  # the rest of the page is of the list as it was
    if not found.runs:
        st.write("There is no run in this folder yet. A run appears here with its first file.")
        show_text(str(folder))
        return
    now = time.time()
    show_table([_row(run, now) for run in found.runs], key="runs-list", height=None if len(found.runs) < 9 else 320)
    if found.left_out:
        st.caption(
            f"{counted(found.left_out, 'folder')} left out: older than those above "
            f"({counted(len(found.runs), 'run')}), not for this page to read, or with a name that is no text."
        )
    if not found.whole:
        st.caption(f"Only {MOST_FOLDERS:,} folders are looked through, and there are more.")


def _row(run: Run, now: float) -> dict[str, object]:
    of = "" if run.total is None else f" of {run.total:,}"
    step = None if run.step is None else f"{run.step:,}{of}"
    stage = runs_charts.stage_title(run.stage)
    return {"Run": run.name, "State": run.state, "Stage": stage, "Step": step, "Last news": _ago(now - run.updated)}


def _ago(seconds: float) -> str:
    for size, name in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            return f"{counted(int(seconds // size), name)} ago"
    return "just now"


# --- the curves --------------------------------------------------------------------------------------------------


class Reader(Curves):
    """A run's numbers, shared by all who look at it."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


@st.cache_resource(show_spinner=False, max_entries=24)
def _reader(folder: str, run: str) -> Reader:
    return Reader()


def _curves(folder: Path, chosen: tuple[str, ...]) -> None:
    readers = {name: _reader(str(folder), name) for name in chosen}
    with ExitStack() as locks:
        for name in sorted(readers):
            locks.enter_context(readers[name].lock)
        for name, reader in readers.items():
            path = inside(folder, name, "metrics.jsonl")
            if path is not None:
                _read(reader, path)
        charts, rest = _charts(readers)
    if not charts:
        st.write("No numbers yet: they appear with the first step of a stage.")
    for i in range(0, len(charts), 2):
        for j, (column, chart) in enumerate(zip(st.columns(2), charts[i : i + 2], strict=False)):
            with column:
                show_chart(chart, key=f"curve-{i + j}")
    if rest:
        st.toggle("Show every number that was logged", key="runs-every")
    _say_what_is_missing(list(readers.values()))


def _read(reader: Reader, path: Path) -> None:
    """Take in what is new, in small parts: other people's clicks come in between."""
    end = time.monotonic() + LONGEST_READ
    reader.read(path)
    while reader.lines.behind and time.monotonic() < end:
        time.sleep(0.02)
        reader.read(path)


def _charts(readers: dict[str, Reader]) -> tuple[list[alt.LayerChart | alt.FacetChart], bool]:
    """The charts of the chosen stage, drawn anew only where something changed; and whether there are more."""
    stages = list(dict.fromkeys(name for r in readers.values() for name, stage in r.stages.items() if stage.numbers))
    if not stages:
        return [], False
    last = next((reader.last for reader in readers.values() if reader.last), stages[0])
    wanted = st.selectbox("Stage", [LATEST, *stages], format_func=_choice, key="runs-stage")
    stage = wanted if wanted in stages else last
    shown = {name: reader.stages[stage] for name, reader in readers.items() if stage in reader.stages}
    first, rest = runs_charts.ordered(list(shown.values()))
    every = bool(st.session_state.get("runs-every")) or not first
    dark = st.context.theme.type == "dark"
    key = (stage, every, dark, tuple((name, reader.version) for name, reader in readers.items()))
    kept = st.session_state.get("runs-charts")
    if kept is None or kept[0] != key:
        drawn = [runs_charts.chart(name, shown, dark) for name in (first + rest if every else first)]
        kept = st.session_state["runs-charts"] = (key, [chart for chart in drawn if chart is not None])
    return kept[1], bool(first and rest)


def _choice(stage: str) -> str:
    return "The one that logged last" if stage == LATEST else runs_charts.stage_title(stage)


def _say_what_is_missing(readers: Sequence[Reader]) -> None:
    broken = sum(reader.lines.broken + reader.strange for reader in readers)
    if broken:
        st.caption(f"{counted(broken, 'line')} could not be read, and left out.")
    if any(reader.lines.behind for reader in readers):
        st.caption("A file is so long that only its beginning was read so far.")
        st.button("Read on", key="runs-on")


# --- one run -----------------------------------------------------------------------------------------------------


def _details(folder: Path, chosen: tuple[str, ...]) -> None:
    part = st.segmented_control("More of a run", PARTS, default=PARTS[0], required=True, key="runs-part")
    run = chosen[0]
    if len(chosen) > 1:
        run = st.selectbox("Of which run", list(chosen), format_func=visible, key="runs-one") or run
    details.show(folder, run, str(part))
