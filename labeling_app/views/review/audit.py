"""For admins: who did what, newest first."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time

import streamlit as st

from labeling_app.components.tables import show_table
from labeling_app.session import counted
from labeling_app.untrusted import visible
from labeling_app.views.review.parts import beginning, keep, short, start_at_top
from rlhf.data.readers import escaped
from rlhf.preferences import Event, Labeler, LabelStore, audit
from rlhf.preferences.audit import Names

PAGE = 50
DEPTH = 2_000  # events that are looked through at first
ANYBODY, A_PROGRAM = "\x00anybody", "\x00program"  # no name can be one of these
WORDS_LENGTH = 80  # characters of a prompt


def show(store: LabelStore, labeler: Labeler) -> None:
    """The filters, a page of events, and all that they let through as a file."""
    depth = st.session_state.setdefault("review-depth", DEPTH)
    events = store.events(depth + 1, by=labeler)
    more = len(events) > depth
    events = events[:depth]
    names = audit.look_up(store, events, by=labeler)
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


def _with_prompts(store: LabelStore, labeler: Labeler, shown: Sequence[Event], names: Names) -> Names:
    """With the beginnings of the tasks that these events are about."""
    tasks = {task for event in shown if (task := audit.task_of(event, names)) is not None}
    views = store.task_views(sorted(tasks), by=labeler)
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
        "About": audit.about(event, names),
    }


def as_csv(rows: Sequence[Mapping[str, str]]) -> bytes:
    """The rows as a file for spreadsheets: UTF-8 with its mark, and no cell that would be taken for a formula."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(rows[0] if rows else ())
    for row in rows:
        writer.writerow([escaped(cell) for cell in row.values()])
    return out.getvalue().encode("utf-8-sig", "replace")
