"""What one person said, latest first: what lies behind a number."""

from __future__ import annotations

from typing import NamedTuple

import streamlit as st

from labeling_app.components.tables import show_table
from labeling_app.components.texts import show_text
from labeling_app.session import counted
from labeling_app.untrusted import visible
from labeling_app.views.review.disputed import ANY_BATCH, counts_in_words, numbered
from labeling_app.views.review.parts import beginning, choose, keep, rank_text, short, show_remark, start_at_top, utc
from labeling_app.views.review.verdict import go
from rlhf.data.records import prompt_text
from rlhf.preferences import Labeler, LabelStore
from rlhf.preferences.opinions import Case, Opinion, cases

PAGE = 10
ANSWER_LENGTH = 200  # characters of an answer in a line


class Spoken(NamedTuple):
    """A judgment of somebody's: on which task of which batch."""

    task_id: int
    batch: str


def show(store: LabelStore, labeler: Labeler) -> None:
    """Choose a person, then look through what they said."""
    by_person = _said(store.name, store.project, store.stamp(by=labeler), store, labeler)
    if not by_person:
        st.write("Nobody has ranked anything yet.")
        return
    names = sorted(by_person)
    batches = [ANY_BATCH, *dict.fromkeys(s.batch for said in by_person.values() for s in said)]
    with st.container(horizontal=True):
        name = st.selectbox("Person", names, format_func=visible, key=keep("review-whose", names[0], names))
        batch = st.selectbox("Batch", batches, format_func=_batch, key=keep("review-of", ANY_BATCH, batches))
    ids = [s.task_id for s in by_person[name] if batch in (ANY_BATCH, s.batch)]
    if not ids:
        st.write("Nothing of theirs in this batch.")
        return
    pages = 1 + (len(ids) - 1) // PAGE
    if st.session_state.get("review-page-of") != (name, batch):
        st.session_state["review-page-of"] = (name, batch)
        st.session_state["review-page"] = 0
    page = min(st.session_state["review-page"], pages - 1)
    st.caption(f"{counted(len(ids), 'judgment')}, latest first; page {page + 1:d} of {pages:d}.")
    for case in cases(store, ids[page * PAGE : (page + 1) * PAGE], by=labeler):
        opinion = next((o for o in case.opinions if o.labeler == name), None)
        if opinion is not None:
            _entry(case, opinion, numbered(case, labeler))
    with st.container(horizontal=True):
        st.button("Later ones", key="review-later", disabled=page == 0, on_click=_turn, args=(page - 1,))
        st.button("Earlier ones", key="review-earlier", disabled=page + 1 >= pages, on_click=_turn, args=(page + 1,))
    start_at_top(f"rankings-{page}")


@st.cache_data(show_spinner=False, max_entries=4)
def _said(name: str, project: str, stamp: str, _store: LabelStore, _labeler: Labeler) -> dict[str, list[Spoken]]:
    """By person: what they judged, last said first."""
    found: dict[str, list[Spoken]] = {}
    for judged in reversed(_store.judged(by=_labeler)):
        found.setdefault(judged.labeler, []).append(Spoken(judged.task_id, judged.batch))
    return found


def _batch(name: str) -> str:
    return visible(name) if name else "All batches"


def _turn(page: int) -> None:
    st.session_state["review-page"] = page


def _entry(case: Case, opinion: Opinion, order: list[int]) -> None:
    task = case.view.id
    with st.container(border=True, key=f"past-{task}", gap="xsmall"):
        st.caption(f"Task {task:d}")
        show_text(f"{utc(opinion.at)}, batch {case.view.batch}{_time(opinion)}")
        show_text(beginning(case.view.prompt))
        if opinion.said.ranks:
            show_table(_lines(case, opinion, order), key=f"review-said-{task}")
        show_text(_outcome(case, opinion))
        _remarks(case, opinion, order)
        with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            with st.expander("Whole texts"):
                show_text(prompt_text(case.view.prompt))
                texts = {c.id: c.text for c in case.view.completions}
                for number, completion in enumerate(order, start=1):
                    st.caption(f"Answer {number:d}")
                    show_text(texts[completion])
            if case.gold is None:
                st.button("Decide about this task", key=f"review-look-{task}", on_click=_look, args=(task,))


def _time(opinion: Opinion) -> str:
    return "" if opinion.seconds is None else f", {opinion.seconds:.0f} s"


def _lines(case: Case, opinion: Opinion, order: list[int]) -> list[dict[str, str]]:
    """The answers as this person ordered them, best first; those without a rank last."""
    ranks = opinion.said.ranks
    seen = {completion: str(n) for n, completion in enumerate(opinion.shown, start=1)}
    rows = []
    for c in sorted(case.view.completions, key=lambda c: (ranks.get(c.id) or len(ranks) + 1, order.index(c.id))):
        number = str(order.index(c.id) + 1)
        row = {"Rank": rank_text(ranks.get(c.id)), "Answer": number, "Shown as": seen.get(c.id, "imported")}
        if case.gold is not None:
            row["Known rank"] = rank_text(case.gold.get(c.id))
        rows.append({**row, "Begins": short(" ".join(c.text[: 4 * ANSWER_LENGTH].split()), ANSWER_LENGTH)})
    return rows


def _outcome(case: Case, opinion: Opinion) -> str:
    if case.gold is not None:
        return "A gold task: its answer is known, and it is in no export."
    if opinion.counts and case.verdict is not None and case.verdict.kind != "keep":
        return f"In exports: no, {case.verdict.by} decided about this task."
    return f"In exports: {counts_in_words(opinion)}"


def _remarks(case: Case, opinion: Opinion, order: list[int]) -> None:
    numbers = {completion: n for n, completion in enumerate(order, start=1)}
    for completion, note in sorted(opinion.said.notes.items(), key=lambda item: numbers.get(item[0], 0)):
        said = [f"flagged as {', '.join(note.flags)}"] if note.flags else []
        said += [f"quality {note.quality} of 7"] if note.quality is not None else []
        said += [f"“{note.comment}”"] if note.comment.strip() else []
        if said:
            show_text(f"Answer {numbers.get(completion, 0)}: {'; '.join(said)}")
    if opinion.said.comment.strip():
        show_remark(opinion.labeler, opinion.said.comment, f"past-{case.view.id}")
    if opinion.said.better.strip():
        st.caption("A better answer of their own:")
        show_remark(opinion.labeler, opinion.said.better, f"own-{case.view.id}")


def _look(task: int) -> None:
    go(task)
    choose("review-part", "Disputed")
