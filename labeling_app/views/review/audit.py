"""For admins: who did what, newest first."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time
from typing import Any, NamedTuple

import streamlit as st

from labeling_app.components.tables import show_table
from labeling_app.session import counted
from labeling_app.untrusted import visible
from labeling_app.views.review.parts import beginning, keep, short, start_at_top
from rlhf.data.readers import escaped
from rlhf.preferences import Event, Labeler, LabelStore
from rlhf.preferences.opinions import project_names, tasks_of

PAGE = 50
DEPTH = 2_000  # events that are looked through at first
ANYBODY, A_PROGRAM = "\x00anybody", "\x00program"  # no name can be one of these
WORDS_LENGTH = 80  # characters of a prompt


class Names(NamedTuple):
    """What numbers in events stand for."""

    people: Mapping[int, str]
    projects: Mapping[int, str]
    tasks: Mapping[int, int]  # by assignment
    prompts: Mapping[int, str]  # by task, of those that are on screen


def show(store: LabelStore, labeler: Labeler) -> None:
    """The filters, a page of events, and all that they let through as a file."""
    depth = st.session_state.setdefault("review-depth", DEPTH)
    events = store.events(depth + 1, by=labeler)
    more = len(events) > depth
    events = events[:depth]
    names = _names(store, labeler, events)
    found = _filtered(events, names)
    if more:
        st.caption(f"The newest {depth:d} events are looked through.")
        st.button("Look further back", key="review-deeper", type="tertiary", on_click=_deeper)
    if not found:
        st.write("Nothing like that was done.")
        return
    pages = 1 + (len(found) - 1) // PAGE
    page = min(st.session_state.get("review-events-page", 0), pages - 1)
    shown = found[page * PAGE : (page + 1) * PAGE]
    st.caption(f"{counted(len(found), 'event')}, newest first; page {page + 1:d} of {pages:d}. Times are UTC.")
    st.caption("Where nobody stands under Who, a program or the command line did it.")
    told = _with_prompts(store, labeler, shown, names)
    show_table([_row(event, told) for event in shown], key="review-events")
    with st.container(horizontal=True):
        st.button("Newer", key="review-newer", disabled=page == 0, on_click=_turn, args=(page - 1,))
        st.button("Older", key="review-older", disabled=page + 1 >= pages, on_click=_turn, args=(page + 1,))
        st.download_button(
            "Download as CSV",
            as_csv([_row(event, names) for event in found]),
            file_name="events.csv",
            mime="text/csv",
            key="review-events-csv",
            on_click="ignore",
        )
    start_at_top(f"events-{page}")


def _names(store: LabelStore, labeler: Labeler, events: Sequence[Event]) -> Names:
    return Names(
        people={p.id: p.name for p in store.people(by=labeler)},
        projects=project_names(store, by=labeler),
        tasks=tasks_of(store, [e.subject["assignment"] for e in events if "assignment" in e.subject], by=labeler),
        prompts={},
    )


def _with_prompts(store: LabelStore, labeler: Labeler, shown: Sequence[Event], names: Names) -> Names:
    """With the beginnings of the tasks that these events are about."""
    tasks = {names.tasks.get(e.subject.get("assignment", 0)) or e.subject.get("task") for e in shown}
    views = store.task_views([task for task in tasks if task is not None], by=labeler)
    return names._replace(prompts={view.id: short(beginning(view.prompt), WORDS_LENGTH) for view in views})


def _filtered(events: Sequence[Event], names: Names) -> list[Event]:
    """The events that the filters let through, which are drawn here."""
    who = [ANYBODY, A_PROGRAM, *names.people.values()]
    what = sorted({event.action for event in events})
    with st.container(horizontal=True, vertical_alignment="bottom"):
        by = st.selectbox("Who", who, format_func=_who, key=keep("review-event-who", ANYBODY, who), on_change=_restart)
        kept = [action for action in st.session_state.get("review-event-what", []) if action in what]
        st.session_state["review-event-what"] = kept
        actions = st.multiselect("What", what, placeholder="Anything", key="review-event-what", on_change=_restart)
        since = st.date_input("Since", key=keep("review-event-since", None), format="YYYY-MM-DD", on_change=_restart)
    first = datetime.combine(since, time(), UTC).timestamp() if isinstance(since, date) else 0.0
    name = "" if by == A_PROGRAM else by
    return [
        event
        for event in events
        if event.at >= first and (not actions or event.action in actions) and (by == ANYBODY or event.name == name)
    ]


def _who(name: str) -> str:
    return {ANYBODY: "Anybody", A_PROGRAM: "A program or the command line"}.get(name) or visible(name)


def _restart() -> None:
    st.session_state["review-events-page"] = 0


def _turn(page: int) -> None:
    st.session_state["review-events-page"] = page


def _deeper() -> None:
    st.session_state["review-depth"] *= 4


def _row(event: Event, names: Names) -> dict[str, str]:
    return {
        "When": f"{datetime.fromtimestamp(event.at, UTC):%Y-%m-%d %H:%M:%S}",
        "Who": event.name,
        "By a program": "" if event.name else "yes",  # a column of its own: anybody may be called "a program"
        "What": event.action,
        "About": "; ".join(_about(name, value, names) for name, value in event.subject.items()),
    }


def _about(name: str, value: Any, names: Names) -> str:
    """One thing that an event is about, in words."""
    if name == "labeler":
        return names.people.get(value, f"person {value}")
    if name == "project":
        return f"project {names.projects.get(value, value)}"
    if name == "assignment":
        task = names.tasks.get(value)
        return f"assignment {value}" if task is None else f"{_task(task, names)} (assignment {value})"
    if name == "task":
        return _task(value, names)
    if name == "replace":
        return "others are asked instead" if value else "nobody is asked instead"
    if isinstance(value, list):
        return f"{name} {', '.join(map(str, value)) or 'none'}"
    return f"{name} {value}"


def _task(task: int, names: Names) -> str:
    return f"task {task}: {names.prompts[task]}" if task in names.prompts else f"task {task}"


def as_csv(rows: Sequence[Mapping[str, str]]) -> bytes:
    """The rows as a file for spreadsheets: UTF-8 with its mark, and no cell that would be taken for a formula."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(rows[0] if rows else ())
    for row in rows:
        writer.writerow([escaped(cell) for cell in row.values()])
    return out.getvalue().encode("utf-8-sig", "replace")
