"""What buttons do: ask the store, and leave word for the next run of the page of how that went."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

import streamlit as st

from labeling_app.components.texts import show_refusal
from labeling_app.launch import is_local
from labeling_app.views.sign_in import is_still
from rlhf.errors import RLHFError
from rlhf.preferences import Assignment, Labeler, LabelStore, Outcome

NOTICES = {
    "surplus": "Saved. Others had finished this one meanwhile, so yours is kept as an extra.",
    "earlier": "This one was saved before you changed it. To save the change too, correct your last one.",
    "nothing": "You have not ranked anything yet, so there is nothing to correct.",
    "lost": "Your reservation of the last task ran out and others have it now.",
    "decided": "Saved. A later verdict on the same task replaces it.",
    "moved": "Nothing was saved: somebody judged or decided this task while it was on your screen. Look at it again.",
    "self": "Nothing was done: this is you, and you would lock yourself out. Another admin can do it.",
    "suspended": "Suspended. Their sessions have ended, and what they had open goes to others.",
    "reinstated": "They may come in again, with the invite they had.",
    "excluded": "Their rankings are left out of exports from now on; what they said stays here.",
    "included": "Their rankings are in exports again.",
    "known": "Nobody was invited: somebody here has that name. Choose them in the list to invite them anew.",
    "reason": "Nothing was done: say why, it is kept on record.",
    "email": "Nobody was invited: without an e-mail address they cannot sign in with your identity provider.",
    "role": "The role is changed. Their sessions have ended: they sign in again.",
}
LONGEST = 290  # characters of a refusal
# Completions are numbered as they were added: to whoever knows the numbers, they say which model wrote which.
NUMBERED = re.compile(r"completions? (\[[\d, ]*\]|\d+)")


def act(store: LabelStore, labeler: Labeler, action: Callable[[], Outcome | None]) -> None:
    """Run what a button asks for, unless this tab's session has ended: then nothing is done, and the page says so.

    A refusal of the store's is shown, never raised.
    """
    try:
        if is_still(store, labeler) and action() is Outcome.SURPLUS:
            st.session_state["notice"] = "surplus"
    except RLHFError as error:
        st.session_state["problem"] = told(error)


def told(error: RLHFError) -> str:
    """A refusal as a labeler may read it: without completions' numbers, and without the store's address elsewhere."""
    text = NUMBERED.sub("an answer", str(error))
    if text.startswith("label store") and not is_local(os.environ):
        return "the label store cannot be reached; please tell your lead"
    return text if len(text) <= LONGEST else text[:LONGEST] + "…"


def reopen(store: LabelStore, labeler: Labeler, assignment_id: int | None = None) -> None:
    """Take a judgment of the labeler's up again, the last one or the given one, on the ranking page."""
    if store.reopen(labeler, assignment_id) is None:
        st.session_state["notice"] = "nothing"
    st.session_state["go"] = "rank"


def leave(store: LabelStore, assignment: Assignment) -> None:
    """Let an earlier judgment stay as it was; nothing happens if another tab has corrected it meanwhile."""
    found = store.assignment(assignment.labeler, assignment.id)
    if found.reopened and found.revision == assignment.revision:
        store.release(found)


def show_notices() -> None:
    """Say how the last action went, once."""
    problem = st.session_state.pop("problem", None)
    if problem:
        show_refusal(problem)
    notice = st.session_state.pop("notice", None)
    if notice:
        st.info(NOTICES[notice])
