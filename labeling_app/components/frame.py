"""The page's frame: a little of our own style, and a page that starts at its top with every new task.

Streamlit keeps the scroll position when the content changes; after a submit at the foot of one task that would be the
middle of the next. Both texts below are constants: a component's code must never hold what somebody typed.
"""

from __future__ import annotations

import streamlit as st
from streamlit.components.v2.types import ComponentRenderer

STYLE = """
header[data-testid="stHeader"] { display: none; }
[data-testid="stMainBlockContainer"] { padding-top: 1rem; padding-bottom: 2rem; max-width: 66rem; }
[data-testid="stText"], textarea { unicode-bidi: plaintext; overflow-wrap: anywhere; }
.st-key-prompt { background: light-dark(#eef3f0, #1b2726); border-color: transparent; }
[data-testid="stElementToolbar"] button[aria-label="Download as CSV"] { display: none; }
h1 { font-size: 1.75rem !important; }
[data-testid="stCaptionContainer"], [data-testid="stCaptionContainer"] p { opacity: 1; }
[data-testid="stCaptionContainer"] p { color: light-dark(#59635f, #aab4b1); }
button[data-variant="segmented_control"][data-selected="true"] p { color: light-dark(#1f6f68, #62b9b0); }
button[kind="tertiary"]:is(:hover, :focus, :active) p { color: light-dark(#1f6f68, #62b9b0); }
[class*="st-key-card-"] h3 { font-size: 1.0625rem; padding: 0; }
.st-key-prompt [data-testid="stCaptionContainer"] p { font-weight: 600; }
[class*="st-key-card-"], [class*="st-key-past-"] { background: light-dark(#ffffff, #1d2324); }
[data-testid="stLayoutWrapper"]:has(> .st-key-actions) { position: sticky; bottom: 0; z-index: 5; }
.st-key-actions {
    padding: 0.75rem 0;
    background: light-dark(#fafaf7, #15191a); border-top: 1px solid light-dark(#d9ddd8, #364041);
}
[data-testid="stProgress"] [role="progressbar"] > div { background: light-dark(#e3e8e3, #2b3435); }
"""

SCROLL = """
let last = null;
export default function ({ data }) {
    if (last !== null && last !== data.page) {
        document.querySelector('[data-testid="stMain"]')?.scrollTo({ top: 0 });
    }
    last = data.page;
}
"""


def show_frame(page: str) -> None:
    """Draw the frame; `page` names what is shown, and the view goes to the top whenever it changes."""
    _component()(key="frame", data={"page": page})


@st.cache_resource(show_spinner=False)
def _component() -> ComponentRenderer:
    return st.components.v2.component("rlhf_frame", css=STYLE, js=SCROLL, isolate_styles=False)
