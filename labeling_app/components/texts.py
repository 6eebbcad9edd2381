"""Showing text that somebody else wrote.

A model's text may hold anything: image links that would call home, markup, formulas, characters that cannot be seen.
`st.text` shows characters and nothing else, so it is the one way here; what Streamlit reads as Markdown (labels and
captions too) gets constants and numbers.
"""

from __future__ import annotations

import streamlit as st

from labeling_app.untrusted import visible
from rlhf.data.records import PromptLike

ROLES = {"system": "System", "assistant": "Assistant", "user": "User", "": "Prompt"}


def show_text(text: str) -> None:
    """The text as it is, line breaks included, and what cannot be seen spelled out."""
    st.text(visible(text), width="stretch")


def show_prompt(prompt: PromptLike) -> None:
    """A prompt in a frame of its own; a chat with one turn under the other."""
    turns = [{"role": "", "content": prompt}] if isinstance(prompt, str) else prompt
    with st.container(border=True, key="prompt", gap="xsmall"):
        for turn in turns:
            st.caption(ROLES[turn["role"]])
            show_text(turn["content"])


def show_refusal(detail: str) -> None:
    """What the store refused, in its own words."""
    st.error("That was not saved.", icon=":material/error:")
    show_text(detail)
