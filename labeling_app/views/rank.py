"""The page that labelers spend their day on: one prompt, its answers, an order, next."""

from __future__ import annotations

import time
from collections.abc import Callable

import streamlit as st

from labeling_app.components.texts import show_prompt, show_text
from labeling_app.session import Draft, keep_only, letter, listed
from rlhf.errors import RLHFError
from rlhf.preferences import Assignment, Labeler, LabelStore, Outcome

SKIP_REASONS = (
    "I cannot judge this topic",
    "The prompt makes no sense",
    "It is upsetting or harmful",
    "Something else",
)
COMMENT_LENGTH = 2000
BESIDE = 4  # up to so many choices fit beside a card's text


def show(store: LabelStore, labeler: Labeler, assignment: Assignment) -> None:
    """Draw the task and react to its buttons. Whatever is clicked here can only ever land on this assignment."""
    draft = _draft(assignment)
    draft.clock.tick(time.monotonic())
    if assignment.reopened:
        st.info("You are correcting an earlier ranking. Saving replaces it.", icon=":material/undo:")
    if assignment.guidelines:
        with st.expander("Instructions", icon=":material/menu_book:"):
            show_text(assignment.guidelines)
    show_prompt(assignment.prompt)
    st.caption("Give every answer a number: 1 is best. The same number means a tie.")
    for position in range(len(assignment.completions)):
        _card(assignment, draft, position)
    _comment(draft)
    with st.container(key="actions", gap="xsmall"):
        _order(draft)
        _actions(store, labeler, assignment, draft)


def _draft(assignment: Assignment) -> Draft:
    """This tab's draft of the assignment; other tasks' drafts are kept while a correction is in between."""
    drafts: dict[str, Draft] = st.session_state.setdefault("drafts", {})
    key = f"{assignment.id}-{assignment.reopened}"
    if not assignment.reopened:
        keep_only(drafts, [key])
    if key not in drafts:
        drafts[key] = Draft.of(assignment, time.monotonic())
    return drafts[key]


def _card(assignment: Assignment, draft: Draft, position: int) -> None:
    completion = assignment.completions[position]
    choices = len(assignment.completions)
    with st.container(border=True, key=f"card-{position}"):
        if choices <= BESIDE:
            name, text, control = st.columns([1, 14, 7], vertical_alignment="top")
        else:
            name, text = st.columns([1, 16], vertical_alignment="top")
            control = text
        with name:
            st.markdown(f"**{letter(position)}**")
        with text:
            show_text(completion.text)
        with control, st.container(horizontal_alignment="right" if choices <= BESIDE else "left"):
            key = f"rank-{draft.submit_id}-{completion.id}"
            st.session_state.setdefault(key, draft.choices.get(completion.id))
            st.segmented_control(
                f"Rank of answer {letter(position)}, 1 is best",
                range(1, choices + 1),
                key=key,
                label_visibility="collapsed",
                wrap=True,
                on_change=_choose,
                args=(draft, completion.id, key),
            )


def _choose(draft: Draft, completion: int, key: str) -> None:
    draft.choose(completion, st.session_state[key])


def _order(draft: Draft) -> None:
    missing = draft.missing()
    if len(missing) == len(draft.shown):
        st.markdown(":gray[Your order will appear here.]")
    elif missing:
        st.markdown(f"**Your order:** {draft.words()}. :gray[Still to rank: {listed(missing)}.]")
    else:
        st.markdown(f"**Your order:** {draft.words()}.")


def _comment(draft: Draft) -> None:
    key = f"comment-{draft.submit_id}"
    st.session_state.setdefault(key, draft.comment)
    st.text_area(
        "Comment (optional)",
        key=key,
        max_chars=COMMENT_LENGTH,
        height=72,
        label_visibility="collapsed",
        placeholder="Comment (optional)",
        on_change=_note,
        args=(draft, key),
    )


def _note(draft: Draft, key: str) -> None:
    draft.comment = st.session_state[key]


def _actions(store: LabelStore, labeler: Labeler, assignment: Assignment, draft: Draft) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(
            "Save the correction" if assignment.reopened else "Submit and go on",
            type="primary",
            key=f"submit-{draft.submit_id}",
            disabled=bool(draft.missing()),
            on_click=_submit,
            args=(store, assignment, draft),
        )
        with st.popover("Skip"):
            reason = st.radio("Why?", SKIP_REASONS, index=None, key=f"reason-{draft.submit_id}")
            st.button(
                "Skip this one",
                key=f"skip-{draft.submit_id}",
                disabled=reason is None,
                on_click=_skip,
                args=(store, assignment, draft, reason),
            )
        if assignment.reopened:
            st.button("Leave it as it was", key=f"leave-{draft.submit_id}", on_click=_leave, args=(store, assignment))
        else:
            st.button(
                "Correct my last one",
                type="tertiary",
                icon=":material/undo:",
                key=f"reopen-{draft.submit_id}",
                on_click=reopen,
                args=(store, labeler),
            )


def _submit(store: LabelStore, assignment: Assignment, draft: Draft) -> None:
    def save() -> Outcome:
        seconds = round(draft.clock.tick(time.monotonic()), 1)
        return store.submit(
            assignment,
            draft.ranks(),
            submit_id=draft.submit_id,
            comment=st.session_state[f"comment-{draft.submit_id}"],
            active_seconds=seconds,
        )

    _do(save)


def _skip(store: LabelStore, assignment: Assignment, draft: Draft, reason: str) -> None:
    def save() -> Outcome:
        seconds = round(draft.clock.tick(time.monotonic()), 1)
        return store.skip(assignment, reason, submit_id=draft.submit_id, active_seconds=seconds)

    _do(save)


def _leave(store: LabelStore, assignment: Assignment) -> None:
    _do(lambda: store.release(assignment))


def reopen(store: LabelStore, labeler: Labeler) -> None:
    """Take the labeler's last judgment up again; a notice if they have none."""

    def again() -> str:
        return "" if store.reopen(labeler) else "nothing"

    _do(again)


def _do(action: Callable[[], Outcome | str | None]) -> None:
    """Run what a button asks for; the next run of the page says how it went."""
    try:
        result = action()
    except RLHFError as error:
        st.session_state["problem"] = str(error)
        return
    if result in (Outcome.SURPLUS, "nothing"):
        st.session_state["notice"] = str(result)
