"""The ranking sheet: prompt, answers, order, notes and buttons of one judgment, in the browser.

It is one Streamlit component, because ranking by keys cannot wait for the server: an order grows in the browser, key by
key, and reaches Python as one event. The JavaScript parts beside this file share one module scope. They are constants;
what somebody typed reaches them as `data` only, and only as text nodes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import streamlit as st
from streamlit.components.v2.types import ComponentRenderer

from labeling_app.untrusted import formatted, visible

FOLDER = Path(__file__).parent
PARTS = ("order", "drafts", "dom", "sheet", "cards", "dock", "drag", "panels", "keys", "main")
TEXT_PARTS = ("dom", "text")


def source(parts: tuple[str, ...] = PARTS) -> str:
    """The JavaScript module: the parts in one text. The last of them exports what Streamlit calls."""
    return "\n".join((FOLDER / f"{part}.js").read_text(encoding="utf-8") for part in parts)


def style() -> str:
    """The sheet's CSS. It is isolated in a shadow root: the page's own style and this one do not meet."""
    return (FOLDER / "ranking.css").read_text(encoding="utf-8")


def show_ranking(data: dict[str, Any], on_event: Callable[[], None], key: str = "ranking") -> None:
    """Draw the sheet for `data`; `on_event` is called with the event in `st.session_state[key].event`."""
    _component()(key=key, data=data, on_event_change=on_event)


def show_formatted(text: str, key: str) -> None:
    """Somebody else's text as Markdown, of which only harmless tags remain; see `untrusted.formatted`."""
    _text_component()(key=key, data={"text": visible(text), "tree": formatted(text)})


@st.cache_resource(show_spinner=False)
def _text_component() -> ComponentRenderer:
    return st.components.v2.component("rlhf_text", css=style(), js=source(TEXT_PARTS), isolate_styles=True)


@st.cache_resource(show_spinner=False)
def _component() -> ComponentRenderer:
    return st.components.v2.component("rlhf_ranking", css=style(), js=source(), isolate_styles=True)
