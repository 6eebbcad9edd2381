"""The project's instructions, every version of them."""

from __future__ import annotations

from datetime import UTC, datetime

import streamlit as st

from labeling_app.components.ranking import show_formatted
from rlhf.preferences import LabelStore


def show(store: LabelStore) -> None:
    """The newest version open, earlier ones folded away."""
    st.title("Instructions", anchor=False)
    versions = store.guidelines()
    if not versions:
        st.write("Your lead has not written any yet. Say which answer you would rather have been given.")
        return
    for version in versions:
        written = datetime.fromtimestamp(version.at, UTC)
        with st.expander(f"Version {version.version:d}, {written:%d %b %Y}", expanded=version is versions[0]):
            show_formatted(version.text, f"instructions-{version.version}")
