"""The same task as a plain form: for screen readers, for phones, and where the ranking sheet does not run.

Nothing here has a script of its own. Every change is kept in the store as it is made, so a reload loses nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import streamlit as st

from labeling_app.actions import act, leave, reopen
from labeling_app.components.texts import show_prompt, show_text
from labeling_app.session import Draft, ordinal
from labeling_app.untrusted import visible
from rlhf.preferences import Assignment, Labeler, LabelStore, Note, Outcome
from rlhf.preferences.judging import BETTER_LENGTH, COMMENT_LENGTH

STRENGTHS = (
    "1 is much better",
    "1 is better",
    "1 is slightly better",
    "About the same",
    "2 is slightly better",
    "2 is better",
    "2 is much better",
)

LEFT_OUT = 0  # among the places, where the project lets people leave answers out


def show(store: LabelStore, labeler: Labeler, assignment: Assignment, can_reopen: bool) -> None:
    """Draw the task and react to its buttons. Whatever is clicked here can only ever land on this assignment."""
    form = _Form(store, assignment, _draft(assignment))
    form.draft.clock.tick(time.monotonic())
    if assignment.reopened:
        st.info("You are correcting an earlier ranking. Saving replaces it.", icon=":material/undo:")
    if assignment.guidelines:
        with st.expander("Instructions", icon=":material/menu_book:"):
            show_text(assignment.guidelines)
    show_prompt(assignment.prompt)
    for position in range(len(assignment.completions)):
        _card(form, position)
    if form.scaled:
        form.bound(
            st.radio,
            "point",
            "Which one is better?",
            form.draft.point,
            form.set("point"),
            options=range(1, 8),
            format_func=_strength,
            index=None,
        )
    _words(form)
    with st.container(key="actions", gap="xsmall"):
        _order(form)
        _actions(form, labeler, can_reopen)


class _Form:
    """One assignment's draft, and the widgets that change it."""

    def __init__(self, store: LabelStore, assignment: Assignment, draft: Draft) -> None:
        self.store = store
        self.assignment = assignment
        self.draft = draft
        self.scaled = assignment.settings.strength and len(assignment.completions) == 2

    def key(self, name: str) -> str:
        """A widget's key: another one for every task, so that nothing typed for one shows up on the next."""
        return f"{name}-{self.draft.submit_id}"

    def bound(
        self, widget: Callable[..., Any], name: str, label: str, value: Any, take: Callable[[Any], None], **options: Any
    ) -> None:
        """A widget that shows `value` and hands what it is changed to on to `take`; the draft is kept after that."""
        key = self.key(name)
        st.session_state.setdefault(key, value)
        widget(label, key=key, on_change=self._change, args=(key, take), **options)

    def set(self, name: str) -> Callable[[Any], None]:
        """What takes a new value for the draft's attribute of this name."""
        return lambda value: setattr(self.draft, name, value)

    def _change(self, key: str, take: Callable[[Any], None]) -> None:
        def keep() -> None:
            take(st.session_state[key])
            self.store.save_draft(self.assignment, self.draft.body())

        self.act(keep)

    def act(self, action: Callable[[], Outcome | None]) -> None:
        """Do it in the name of whose task this is."""
        act(self.store, self.assignment.labeler, action)


def _draft(assignment: Assignment) -> Draft:
    """This tab's draft of the assignment, at first the one that the store kept."""
    name = f"{assignment.id}-{assignment.revision}"
    known = st.session_state.get("draft")
    if known is None or known[0] != name:
        known = (name, Draft.of(assignment, time.monotonic()))
        st.session_state["draft"] = known
    return known[1]


def _card(form: _Form, position: int) -> None:
    completion = form.assignment.completions[position]
    settings, draft = form.assignment.settings, form.draft
    number = position + 1
    start = LEFT_OUT if settings.allow_partial else 1
    with st.container(border=True, key=f"card-{position}"):
        st.subheader(f"Answer {number:d}", anchor=False)
        show_text(completion.text)
        if not form.scaled:
            form.bound(
                st.radio,
                f"place-{position}",
                f"Place of answer {number:d}",
                draft.choices.get(completion.id),
                lambda place: draft.choose(completion.id, place or None),
                options=range(start, len(draft.shown) + 1),
                format_func=_place,
                index=None,
                horizontal=True,
            )
        with st.expander(f"Rate, flag or comment on answer {number:d}"):
            _note(form, position, draft.notes.get(completion.id, Note()), settings.quality, settings.flags)


def _note(form: _Form, position: int, note: Note, quality: bool, flags: tuple[str, ...]) -> None:
    completion, number = form.draft.shown[position], position + 1

    def change(**said: Any) -> None:
        form.draft.note(completion, **said)

    if quality:
        form.bound(
            st.radio,
            f"quality-{position}",
            f"Quality of answer {number:d}, 1 is bad and 7 is excellent",
            note.quality,
            lambda value: change(quality=value),
            options=range(1, 8),
            index=None,
            horizontal=True,
        )
    if flags:
        form.bound(
            st.multiselect,
            f"flags-{position}",
            f"Flags for answer {number:d}",
            [flag for flag in note.flags if flag in flags],
            lambda value: change(flags=tuple(value)),
            options=flags,
            format_func=visible,
        )
    form.bound(
        st.text_area,
        f"note-{position}",
        f"Comment on answer {number:d}",
        note.comment,
        lambda value: change(comment=value),
        max_chars=COMMENT_LENGTH,
        height=72,
    )


def _words(form: _Form) -> None:
    draft, short, long = form.draft, COMMENT_LENGTH, BETTER_LENGTH
    comment, better = form.set("comment"), form.set("better")
    form.bound(st.text_area, "comment", "Comment (optional)", draft.comment, comment, max_chars=short, height=72)
    if form.assignment.settings.better_answer:
        with st.expander("Write a better answer (optional)", expanded=bool(draft.better)):
            form.bound(st.text_area, "better", "A better answer", draft.better, better, max_chars=long, height=160)


def _place(number: int) -> str:
    return "Leave out" if number == LEFT_OUT else ordinal(number)


def _strength(point: int) -> str:
    return STRENGTHS[point - 1]


def _order(form: _Form) -> None:
    draft = form.draft
    missing = draft.missing()
    if form.scaled:
        return
    if not draft.choices:
        if form.assignment.settings.allow_partial:
            st.caption("Give the answers places, two at least. The same place means a tie.")
        else:
            st.caption("Give every answer a place. The same place means a tie.")
    elif missing:
        left = "You may leave out" if form.assignment.settings.allow_partial else "Still to place"
        st.text(f"Your order: {draft.words()}. {left}: {', '.join(missing)}.")
    else:
        st.text(f"Your order: {draft.words()}.")


def _actions(form: _Form, labeler: Labeler, can_reopen: bool) -> None:
    store, assignment = form.store, form.assignment
    complete = form.draft.complete(assignment.settings.allow_partial, form.scaled)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(
            "Save the correction" if assignment.reopened else "Submit and go on",
            type="primary",
            key=form.key("submit"),
            disabled=not complete,
            on_click=form.act,
            args=(lambda: _submit(form),),
        )
        with st.popover("Skip", key=form.key("why")):
            reason = st.selectbox(
                "Why?", assignment.settings.skip_reasons, index=None, format_func=visible, key=form.key("reason")
            )
            st.button(
                "Skip this one",
                key=form.key("skip"),
                disabled=reason is None,
                on_click=form.act,
                args=(lambda: _skip(form, reason or ""),),
            )
        if assignment.reopened:
            st.button(
                "Leave it as it was",
                key=form.key("leave"),
                on_click=form.act,
                args=(lambda: _leave(form),),
            )
        elif can_reopen:
            st.button(
                "Correct my last one",
                type="tertiary",
                icon=":material/undo:",
                key=form.key("reopen"),
                on_click=form.act,
                args=(lambda: reopen(store, labeler),),
            )


def _leave(form: _Form) -> None:
    leave(form.store, form.assignment)
    st.session_state.pop("draft", None)  # taken up again, it starts with what was said


def _seconds(form: _Form) -> float:
    return round(form.draft.clock.tick(time.monotonic()), 1)


def _submit(form: _Form) -> Outcome:
    said = form.draft.said(form.scaled, form.assignment.settings)
    return form.store.submit(
        form.assignment,
        said.ranks,
        strength=said.strength,
        notes=said.notes,
        comment=said.comment,
        better=said.better,
        submit_id=form.draft.submit_id,
        active_seconds=_seconds(form),
    )


def _skip(form: _Form, reason: str) -> Outcome:
    return form.store.skip(form.assignment, reason, submit_id=form.draft.submit_id, active_seconds=_seconds(form))
