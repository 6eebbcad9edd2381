"""The tasks that people disagree on, one after the other, until somebody has decided about each."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import streamlit as st

from labeling_app.components.tables import show_table
from labeling_app.components.texts import show_prompt, show_text
from labeling_app.session import counted
from labeling_app.untrusted import visible
from labeling_app.views.review import verdict as review_verdict
from labeling_app.views.review.parts import keep, mean_rank, rank_text, show_remark, start_at_top, utc
from rlhf.preferences import Judged, Labeler, LabelStore
from rlhf.preferences.opinions import Case, Opinion, cases
from rlhf.preferences.statistics.agreement import disputed

ANY_BATCH = ""


class Queued(NamedTuple):
    """A task that people disagree on: how much of what, and whether a verdict is newer than their last ranking."""

    task_id: int
    score: float
    people: int
    pairs: int
    decided: bool


class Found(NamedTuple):
    """What there is to decide; `agreed` counts the tasks on which everybody says the same."""

    disputes: tuple[Queued, ...]
    agreed: int


def show(store: LabelStore, labeler: Labeler) -> None:
    """One task, with what everybody said of it and the form for a verdict."""
    batches = [ANY_BATCH, *store.batches(by=labeler)]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        batch = st.selectbox(
            "Batch",
            batches,
            format_func=_batch,
            key=keep("review-batch", ANY_BATCH, batches),
            on_change=review_verdict.go,
            args=(None,),
        )
        decided_too = st.toggle("Show decided ones too", key=keep("review-decided", False))
    stamp = store.stamp(by=labeler)
    found = _found(store.name, store.project, stamp, batch or None, store, labeler)
    queue = [q.task_id for q in found.disputes if decided_too or not q.decided]
    _say_how_many(found)
    current = _current(queue)
    case = next(iter(cases(store, [current], by=labeler)), None) if current is not None else None
    if case is None or case.gold is not None:
        st.session_state.pop("review-task", None)
        _say_that_nothing_is_left(found)
        review_verdict.show_way_back(None)
        return
    dispute = next((q for q in found.disputes if q.task_id == current), None)
    _show(store, labeler, case, queue, dispute)


def _batch(name: str) -> str:
    return visible(name) if name else "All batches"


@st.cache_data(show_spinner=False, max_entries=8)
def _found(name: str, project: str, stamp: str, batch: str | None, _store: LabelStore, _labeler: Labeler) -> Found:
    said = [j for j in _store.judged(batch, by=_labeler) if counts(j)]
    verdicts = _store.verdicts(by=_labeler)
    last: dict[int, float] = {}
    for j in said:
        last[j.task_id] = max(j.at, last.get(j.task_id, 0.0))
    every = disputed(said)
    return Found(
        tuple(
            Queued(
                d.task_id,
                d.score,
                d.people,
                d.pairs,
                d.task_id in verdicts and verdicts[d.task_id].at >= last[d.task_id],
            )
            for d in every
            if d.score > 0
        ),
        sum(d.score == 0 for d in every),
    )


def counts(judged: Judged) -> bool:
    """Whether it is a ranking of an ordinary task that exports take."""
    return bool(judged.ranks) and judged.gold is None and not judged.surplus and not judged.excluded


def _say_how_many(found: Found) -> None:
    if not found.disputes and not found.agreed:
        return
    left = sum(not q.decided for q in found.disputes)
    st.caption(
        f"{counted(left, 'task')} to decide; {counted(len(found.disputes) - left, 'task')} decided; "
        f"{counted(found.agreed, 'task')} on which everybody agrees. Over tasks that two people or more ranked."
    )


def _say_that_nothing_is_left(found: Found) -> None:
    if not found.disputes and not found.agreed:
        st.write(
            "Nobody disagrees yet: that needs two people who ranked the same task. How many people are asked about "
            "each task is its overlap."
        )
    elif not found.disputes:
        st.write("Everybody agrees on every task that two people or more ranked.")
    else:
        st.write("Everything is decided.")


def _current(queue: Sequence[int]) -> int | None:
    """The task on screen stays there, whatever happens to the queue, until its reviewer goes on."""
    chosen = st.session_state.get("review-task")
    if chosen is None and queue:
        chosen = st.session_state["review-task"] = queue[0]
    return chosen


def numbered(case: Case, labeler: Labeler) -> list[int]:
    """The completions in the order in which this reviewer sees them, the same at every look.

    Not as they were added: to whoever knows that order, it says who wrote which.
    """
    order = [c.id for c in case.view.completions]
    random.Random(f"{case.view.id}-{labeler.id}").shuffle(order)
    return order


def _show(store: LabelStore, labeler: Labeler, case: Case, queue: Sequence[int], dispute: Queued | None) -> None:
    order = numbered(case, labeler)
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        st.subheader(f"Task {case.view.id:d}", anchor=False)
        sources = st.toggle("Show who wrote the answers", key=f"review-sources-{case.view.id}")
    if dispute is not None:
        st.caption(
            f"People differ on {100 * dispute.score:.0f} % of {counted(dispute.pairs, 'comparison')} "
            f"by {dispute.people:d} people (a tie against an order is half a difference)."
        )
    else:
        st.caption("Not among the disputed tasks: fewer than two rankings of it count, or they are all alike.")
    show_text(f"Batch: {case.view.batch}")
    review_verdict.show_changes(case)
    if case.verdict is not None:
        review_verdict.show_standing(case, order)
    show_prompt(case.view.prompt)
    _people(case, order)
    form = review_verdict.Form(store, labeler, case, order, queue)
    texts = {c.id: c for c in case.view.completions}
    rankings = [o.said.ranks for o in case.opinions if o.counts]
    for number, completion in enumerate(order, start=1):
        with st.container(border=True, key=f"card-{number}"):
            st.subheader(f"Answer {number:d}", anchor=False)
            show_text(texts[completion].text)
            if sources:
                show_text(f"Written by {texts[completion].source or 'nobody knows whom'}")
            _what_was_said(case, completion, number, rankings)
            form.place(number)
    form.finish()
    start_at_top(f"task-{case.view.id}")


def _people(case: Case, order: Sequence[int]) -> None:
    """A row a person, a column an answer: the columns are named by us, the people by themselves.

    The averages have a table of their own: whatever somebody is called, they look like no average.
    """
    if not case.opinions:
        st.write("Nobody has said anything about this task yet.")
        return
    show_table([_row(opinion, order) for opinion in case.opinions], key=f"review-grid-{case.view.id}")
    rankings = [o.said.ranks for o in case.opinions if o.counts]
    if rankings:
        st.caption(f"Average ranks, over {counted(len(rankings), 'ranking')} that count:")
        average = {f"Answer {n}": _average(rankings, completion) for n, completion in enumerate(order, start=1)}
        show_table([average], key=f"review-averages-{case.view.id}")
    for i, opinion in enumerate(case.opinions):
        if opinion.said.comment.strip():
            show_remark(opinion.labeler, opinion.said.comment, f"all-{i}")
    better = [(i, o) for i, o in enumerate(case.opinions) if o.said.better.strip()]
    if better:
        with st.expander(f"{counted(len(better), 'better answer')} that people wrote"):
            for i, opinion in better:
                show_remark(opinion.labeler, opinion.said.better, f"better-{i}")


def _row(opinion: Opinion, order: Sequence[int]) -> dict[str, str]:
    ranks = opinion.said.ranks
    number = {completion: str(n) for n, completion in enumerate(order, start=1)}
    return {
        "Person": opinion.labeler,
        **{f"Answer {n}": rank_text(ranks.get(c)) if ranks else "" for n, c in enumerate(order, start=1)},
        "Saw them in the order": ", ".join(number[c] for c in opinion.shown if c in number) or "imported",
        "Took": "" if opinion.seconds is None else f"{opinion.seconds:.0f} s",
        "Counts": counts_in_words(opinion),
        "When": utc(opinion.at),
    }


def counts_in_words(opinion: Opinion) -> str:
    """Whether exports take it, and whether it was corrected."""
    if opinion.skip_reason is not None:
        return f"skipped: {opinion.skip_reason}" if opinion.skip_reason else "skipped"
    if opinion.excluded:
        return "no: this person is left out of exports"
    if opinion.surplus:
        return "no: an extra, the task was full"
    return "yes" if opinion.revision == 1 else f"yes, after {counted(opinion.revision - 1, 'correction')}"


def _average(rankings: list[Mapping[int, int | None]], completion: int) -> str:
    mean, _ = mean_rank(rankings, completion)
    return "–" if mean is None else f"{mean:.2f}"


def _what_was_said(case: Case, completion: int, number: int, rankings: list[Mapping[int, int | None]]) -> None:
    mean, people = mean_rank(rankings, completion)
    if mean is None:
        st.caption("Ranked by nobody whose ranking counts.")
    else:
        first = sum(o.shown[:1] == (completion,) for o in case.opinions if o.counts)
        st.caption(
            f"Average rank {mean:.2f} among {len(case.view.completions):d}, over {counted(people, 'ranking')}; shown "
            f"first to {first:d} of those whose ranking counts."
        )
    for i, opinion in enumerate(case.opinions):
        note = opinion.said.notes.get(completion)
        if note is None:
            continue
        said = [f"flagged as {', '.join(note.flags)}"] if note.flags else []
        said += [f"quality {note.quality} of 7"] if note.quality is not None else []
        if said:
            show_text(f"{opinion.labeler}: {'; '.join(said)}")
        if note.comment.strip():
            show_remark(opinion.labeler, note.comment, f"{number}-{i}")
