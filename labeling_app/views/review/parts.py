"""What the parts of the review page share: choices that outlive a change of part, times, names of tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import streamlit as st
from streamlit.components.v2.types import ComponentRenderer

from labeling_app.components.frame import SCROLL
from labeling_app.components.texts import show_text
from rlhf.data.records import PromptLike, prompt_text

PROMPT_LENGTH = 300  # characters of a prompt: enough to know it again


def keep(name: str, first: Any, options: Sequence[Any] | None = None) -> str:
    """The key of a widget whose value outlives the runs in which it is not drawn; Streamlit forgets it otherwise.

    `options`: what it can be; a value that is none of them (any more) gives way to `first`.
    """
    memory = st.session_state.setdefault("review-kept", {})
    if name not in st.session_state:
        st.session_state[name] = memory.get(name, first)
    if options is not None and st.session_state[name] not in options:
        st.session_state[name] = first
    memory[name] = st.session_state[name]
    return name


def choose(name: str, value: Any) -> None:
    """Set such a widget's value, from a button's callback."""
    st.session_state.setdefault("review-kept", {})[name] = value
    st.session_state[name] = value


def utc(at: float) -> str:
    """A time as people read it: `22 Nov 2026, 12:30 UTC`."""
    return f"{datetime.fromtimestamp(at, UTC):%d %b %Y, %H:%M} UTC"


def short(text: str, length: int = PROMPT_LENGTH) -> str:
    """The beginning of a text."""
    return text if len(text) <= length else text[:length] + " …"


def beginning(prompt: PromptLike) -> str:
    """A prompt's beginning, on one line."""
    return short(" ".join(prompt_text(prompt)[: 4 * PROMPT_LENGTH].split()))


def rank_text(rank: int | None) -> str:
    """A rank in a cell."""
    return "–" if rank is None else str(rank)


def mean_rank(rankings: list[Mapping[int, int | None]], completion: int) -> tuple[float | None, int]:
    """The mean of the ranks that this completion was given, and how many people gave it one."""
    given = [rank for ranks in rankings if (rank := ranks.get(completion)) is not None]
    return (sum(given) / len(given) if given else None), len(given)


def show_remark(name: str, text: str, key: str) -> None:
    """A comment in a frame of its own: whatever it holds, it cannot look like somebody else's."""
    with st.container(border=True, key=f"remark-{key}", gap="xxsmall"):
        show_text(f"{name} wrote:")
        show_text(text)


def start_at_top(page: str) -> None:
    """Have the view go to its top whenever `page` changes: the next task begins where the last one's foot was."""
    _top()(key="review-top", data={"page": page})


@st.cache_resource(show_spinner=False)
def _top() -> ComponentRenderer:
    return st.components.v2.component("rlhf_review_top", js=SCROLL, isolate_styles=False)
