"""A reviewer's verdict on one task: a ranking of their own, or everybody's kept, or none.

Whatever is clicked lands on the task that was on screen, and only if nobody judged or decided it since it came there.
What was begun is kept by task until a verdict is given, so going elsewhere and coming back loses nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import streamlit as st

from labeling_app.actions import act
from labeling_app.components.texts import show_text
from labeling_app.session import in_words, ordinal, standard_ranks
from labeling_app.views.review.parts import show_remark, utc
from rlhf.preferences import Labeler, LabelStore, VerdictKind
from rlhf.preferences.judging import COMMENT_LENGTH
from rlhf.preferences.opinions import Case, decide

NOT_RANKED = 0  # among the places
KINDS = {
    "ranking": "Decided: the reviewer's own ranking stands for everybody's.",
    "keep": "Decided: everybody's rankings stay as they are.",
    "drop": "Decided: exports leave this task out.",
}


@dataclass
class Draft:
    """A verdict that was begun: the place chosen for each completion, a comment."""

    choices: dict[int, int] = field(default_factory=dict)
    comment: str = ""


class Form:
    """The widgets of one task's verdict; `place` is called once for each answer, `finish` at the end."""

    def __init__(
        self, store: LabelStore, labeler: Labeler, case: Case, order: Sequence[int], queue: Sequence[int]
    ) -> None:
        self._store = store
        self._labeler = labeler
        self._case = case
        self._order = order
        self._queue = queue
        self._seen = _seen(case)
        drafts = st.session_state.setdefault("review-drafts", {})
        self._draft: Draft = drafts.setdefault(case.view.id, _begun(case))

    def place(self, number: int) -> None:
        """Where the reviewer puts this answer."""
        completion = self._order[number - 1]
        key = f"review-place-{self._case.view.id}-{completion}"
        st.session_state.setdefault(key, self._draft.choices.get(completion))
        st.radio(
            f"Your place for answer {number:d}",
            options=range(NOT_RANKED, len(self._order) + 1),
            format_func=_place,
            index=None,
            horizontal=True,
            key=key,
            on_change=self._take_place,
            args=(key, completion),
        )

    def finish(self) -> None:
        """The comment and the buttons."""
        key = f"review-comment-{self._case.view.id}"
        st.session_state.setdefault(key, self._draft.comment)
        st.text_area(
            "Comment on your verdict (optional)",
            max_chars=COMMENT_LENGTH,
            height=72,
            key=key,
            on_change=self._take_comment,
            args=(key,),
        )
        with st.container(key="actions", gap="xsmall"):
            self._order_so_far()
            with st.container(horizontal=True, vertical_alignment="center"):
                decide, task = self._decide, self._case.view.id
                st.button(
                    "Decide by my ranking",
                    type="primary",
                    key=f"review-ranking-{task}",
                    disabled=self._ranks() is None,
                    on_click=decide,
                    args=("ranking",),
                )
                st.button("Keep everybody's", key=f"review-keep-{task}", on_click=decide, args=("keep",))
                st.button("Leave the task out", key=f"review-drop-{task}", on_click=decide, args=("drop",))
                self._ways()

    def _order_so_far(self) -> None:
        chosen = self._draft.choices
        missing = [str(n) for n, c in enumerate(self._order, start=1) if c not in chosen]
        words = in_words(self._order, self._standard())
        if not chosen:
            st.caption("Give every answer a place, or say that it is not ranked. The same place means a tie.")
        elif missing:
            st.text(f"Your order: {words or 'none yet'}. Still to place: {', '.join(missing)}.")
        elif self._ranks() is None:
            st.text("Your order: two answers at least must have a place.")
        else:
            st.text(f"Your order: {words}.")

    def _ways(self) -> None:
        """To the task before, the one after, and back to the last verdict."""
        at = self._queue.index(self._case.view.id) if self._case.view.id in self._queue else None
        if len(self._queue) > 1 or (self._queue and at is None):
            before = self._queue[(at or 0) - 1]
            st.button("Previous", type="tertiary", key="review-previous", on_click=go, args=(before,))
            st.button("Next", type="tertiary", key="review-next", on_click=go, args=(self._after(),))
        if at is not None:
            st.caption(f"{at + 1:d} of {len(self._queue):d}")
        show_way_back(self._case.view.id)

    def _after(self) -> int | None:
        """The task after this one in the queue, from its end back to its start; None if there is no other."""
        here = self._case.view.id
        at = self._queue.index(here) if here in self._queue else -1
        others = [*self._queue[at + 1 :], *self._queue[: max(at, 0)]]
        return others[0] if others else None

    def _take_place(self, key: str, completion: int) -> None:
        self._draft.choices[completion] = st.session_state[key]

    def _take_comment(self, key: str) -> None:
        self._draft.comment = st.session_state[key]

    def _standard(self) -> dict[int, int]:
        return standard_ranks({c: place for c, place in self._draft.choices.items() if place != NOT_RANKED})

    def _ranks(self) -> dict[int, int | None] | None:
        """The verdict's ranks once every answer has a place or has none on purpose, and two have one."""
        given = self._standard()
        if len(given) < 2 or set(self._draft.choices) != set(self._order):
            return None
        return {completion: given.get(completion) for completion in self._order}

    def _decide(self, kind: VerdictKind) -> None:
        def action() -> None:
            case = replace(self._case, seen=self._seen)  # as it was when it came on screen
            ranks = self._ranks() if kind == "ranking" else None
            if decide(self._store, case, kind, ranks, self._draft.comment, by=self._labeler):
                st.session_state["notice"] = "decided"
                st.session_state["review-last"] = case.view.id
                _forget(case.view.id)
                go(self._after())
            else:
                st.session_state["notice"] = "moved"
                st.session_state["review-seen"].pop(case.view.id, None)

        act(self._store, self._labeler, action)


def show_changes(case: Case) -> None:
    """Say that the task is not any more as it was when it came on screen."""
    if _seen(case) != case.seen:
        st.warning("Somebody judged or decided this task while it was on your screen. This is how it stands now.")


def show_standing(case: Case, order: Sequence[int]) -> None:
    """The verdict that stands, and whether people ranked the task after it."""
    verdict = case.verdict
    if verdict is None:
        return
    st.info(KINDS[verdict.kind])
    ranked = f": {in_words(order, verdict.ranks)}" if verdict.kind == "ranking" else ""
    show_text(f"By {verdict.by}, {utc(verdict.at)}{ranked}")
    if verdict.comment.strip():
        show_remark(verdict.by, verdict.comment, "verdict")
    if any(o.at > verdict.at for o in case.opinions if o.counts):
        st.caption("People ranked it after that, so it is among the tasks to decide again.")


def show_way_back(current: int | None) -> None:
    """A button to what this reviewer decided last: a later verdict replaces an earlier one."""
    last = st.session_state.get("review-last")
    if last is not None and last != current:
        st.button(
            "Back to my last verdict",
            type="tertiary",
            icon=":material/undo:",
            key="review-back",
            on_click=go,
            args=(last,),
        )


def go(task_id: int | None) -> None:
    """Put this task on screen; None: the first of the queue."""
    st.session_state.pop("review-seen", None)
    if task_id is None:
        st.session_state.pop("review-task", None)
    else:
        st.session_state["review-task"] = task_id


def _seen(case: Case) -> str:
    """How the task stood when it came on screen."""
    known: dict[int, str] = st.session_state.setdefault("review-seen", {})
    return known.setdefault(case.view.id, case.seen)


def _begun(case: Case) -> Draft:
    """Empty, or the ranking that stands already: who looks at it again changes what they want to."""
    verdict = case.verdict
    if verdict is None or verdict.kind != "ranking":
        return Draft()
    return Draft({c: rank or NOT_RANKED for c, rank in verdict.ranks.items()})


def _forget(task_id: int) -> None:
    """What was begun for this task has been sent."""
    st.session_state["review-drafts"].pop(task_id, None)
    mine = f"review-comment-{task_id}"
    for key in [str(k) for k in st.session_state]:
        if key == mine or key.startswith(f"review-place-{task_id}-"):
            del st.session_state[key]


def _place(number: int) -> str:
    return "Not ranked" if number == NOT_RANKED else ordinal(number)
