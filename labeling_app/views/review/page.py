"""For reviewers: tasks that people disagree on, who ranks here, what each of them said; for admins: what was done."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from labeling_app.components.texts import show_text
from labeling_app.views.review import audit, disputed, rankings
from labeling_app.views.review import people as review_people
from labeling_app.views.review.parts import keep
from rlhf.errors import StoreError
from rlhf.preferences import Labeler, LabelStore
from rlhf.preferences.access import may

PARTS: dict[str, Callable[[LabelStore, Labeler], None]] = {
    "Disputed": disputed.show,
    "People": review_people.show,
    "Rankings": rankings.show,
    "Audit": audit.show,
}
FOR_ADMINS = tuple(PARTS)
FOR_REVIEWERS = FOR_ADMINS[:3]


def show(store: LabelStore, labeler: Labeler) -> None:
    """The part that was chosen, Disputed at first."""
    if not may(labeler, "reviewer"):
        raise StoreError(f"this is for the role 'reviewer', and yours is {labeler.role!r}; ask an admin of the project")
    st.title("Review", anchor=False)
    admin = may(labeler, "admin")
    parts = FOR_ADMINS if admin else FOR_REVIEWERS
    part = st.segmented_control(
        "Part of this page",
        FOR_ADMINS if admin else FOR_REVIEWERS,
        required=True,
        label_visibility="collapsed",
        key=keep("review-part", FOR_REVIEWERS[0], parts),
    )
    try:
        PARTS[str(part)](store, labeler)
    except StoreError as error:  # a role that was taken away since this page was drawn
        st.warning("This part of the page cannot be shown.")
        show_text(str(error))
