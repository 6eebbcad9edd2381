"""For admins: files into the label store and out of it. Labelers and reviewers see none of it."""

from __future__ import annotations

import streamlit as st

from labeling_app.views.data import incoming, outgoing
from rlhf.errors import StoreError
from rlhf.preferences import Labeler, LabelStore
from rlhf.preferences.access import may

TABS = ("Bring in", "Take out")


def show(store: LabelStore, labeler: Labeler) -> None:
    """The whole page."""
    if not may(labeler, "admin"):
        raise StoreError(f"this is for the role 'admin', and yours is {labeler.role!r}; ask an admin of the project")
    st.title("Data", anchor=False)
    into, out_of = st.tabs(TABS)
    with into:
        incoming.show(store, labeler)
    with out_of:
        outgoing.show(store, labeler)
