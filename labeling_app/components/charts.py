"""Charts: drawn in the browser from data that is inline, in the page's own colours, light and dark."""

from __future__ import annotations

from typing import Any

import streamlit as st


def show_chart(chart: Any, *, key: str) -> None:
    """Draw an Altair chart as wide as its place.

    No field of it may be called `image` or `url`: Vega's tooltip would load what such a field names.
    """
    st.altair_chart(chart, theme="streamlit", width="stretch", key=key)
