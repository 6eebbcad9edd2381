"""For admins: who wins the blind comparisons, while people vote. Labelers and reviewers see none of it."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from labeling_app.components.charts import show_chart
from labeling_app.components.tables import show_table
from labeling_app.components.texts import show_text
from labeling_app.session import counted, share
from labeling_app.untrusted import visible
from labeling_app.views import sign_in
from labeling_app.views.arena import charts
from rlhf.errors import RLHFError, StoreError
from rlhf.preferences import Labeler, LabelStore
from rlhf.preferences.access import may
from rlhf.preferences.arena import LEGEND, rows, votes, words
from rlhf.preferences.statistics.strengths import Leaderboard, leaderboard

SECONDS = 5.0  # between two looks at the store, each of which costs one small query while nothing changes
COMMANDS = "rlhf arena add ours.jsonl theirs.jsonl --batch NAME\nrlhf sample -c CONFIG.yaml 'sample.against=[sft]'"


def show(store: LabelStore, labeler: Labeler) -> None:
    """The whole page."""
    if not may(labeler, "admin"):
        raise StoreError(f"this is for the role 'admin', and yours is {labeler.role!r}; ask an admin of the project")
    st.title("Arena", anchor=False)
    batches = _arenas(store, store.name, store.project, store.stamp(by=labeler))
    chosen = None
    if batches:
        chosen = st.selectbox("Batch", batches, index=len(batches) - 1, format_func=visible, key="arena-batch")
    _live(_standings)(store, labeler, batches, chosen)


def _live(draw: Callable[..., None]) -> Callable[..., None]:
    """A part of the page that is drawn anew by itself. Nobody checks roles before it then, so it does itself."""

    def checked(store: LabelStore, labeler: Labeler, *rest: object) -> None:
        try:
            person = sign_in.signed_in(store)
        except RLHFError:
            person = None
        if person is None or person.id != labeler.id or not may(person, "admin"):
            st.rerun()  # the whole page, which says what there is to say
        draw(store, person, *rest)

    return st.fragment(checked, run_every=SECONDS, key="arena-live")


def _standings(store: LabelStore, labeler: Labeler, batches: list[str], batch: str | None) -> None:
    stamp = store.stamp(by=labeler)
    if _arenas(store, store.name, store.project, stamp) != batches:
        st.rerun()  # the choice above is of the batches as they were
    if batch is None:
        st.write(
            "No votes yet on completions from two sources. Queue some, let people rank them on the ranking page, where "
            "nobody sees who wrote what, and the standings appear here with the first vote."
        )
        show_text(COMMANDS)
        return
    board, said, waiting, tasks = _board(store, store.name, store.project, batch, stamp)
    st.progress(share(tasks - waiting, waiting))
    st.caption(
        f"{tasks - waiting:d} of {counted(tasks, 'task')} have all their votes. This page follows them by itself."
    )
    if not board.standings:
        st.write("The votes on this batch compare no two sources.")
        return
    show_table(rows(board), key="arena-table")
    st.caption(LEGEND)
    show_chart(charts.strengths(board), key="arena-strengths")
    for line in said:
        show_text(line)
    if len(board.standings) > 2:
        st.subheader("Who beats whom", anchor=False)
        show_chart(charts.matrix(board), key="arena-matrix")
        st.caption("The share of their comparisons that the one on the left won, ties half; empty: they never met.")


@st.cache_data(show_spinner=False, max_entries=4)
def _arenas(_store: LabelStore, store: str, project: str, stamp: str) -> list[str]:
    """The batches with votes on completions from two sources or more, oldest first."""
    sources: dict[str, set[str]] = {}
    for vote in votes(_store.judged()):
        sources.setdefault(vote.batch, set()).update(filter(None, vote.sources.values()))
    return [batch for batch in _store.batches() if len(sources.get(batch, ())) > 1]


@st.cache_data(show_spinner=False, max_entries=16)
def _board(
    _store: LabelStore, store: str, project: str, batch: str, stamp: str
) -> tuple[Leaderboard, list[str], int, int]:
    """The standings, what is to be said beside them, the tasks that still want votes, and all tasks."""
    dropped = {task for task, verdict in _store.verdicts().items() if verdict.kind == "drop"}
    counting = votes(_store.judged(batch), dropped)
    board = leaderboard(counting)
    counts = _store.counts(batch)
    return board, words(board, counting), counts.waiting, counts.tasks
