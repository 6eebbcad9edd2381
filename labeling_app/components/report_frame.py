"""A run's report inside the page, in a frame that may run nothing and reach nothing.

The frame's content is a file of a run, so somebody else's. It comes from a route of this server that is for admins
alone, with a policy of its own (`reports.py`); the script below is constant, and puts the run's name into an address.
"""

from __future__ import annotations

import streamlit as st
from streamlit.components.v2.types import ComponentRenderer

FRAME = """
export default function ({ parentElement, data }) {
    const address = `/runs/report?run=${encodeURIComponent(data.run)}&at=${encodeURIComponent(data.at)}`;
    let frame = parentElement.querySelector("iframe");
    let link = parentElement.querySelector("a");
    if (!frame) {
        link = document.createElement("a");
        link.textContent = "Open the report in a tab of its own";
        link.target = "_blank";
        link.rel = "noopener noreferrer";
        link.style = "color: light-dark(#1f6f68, #62b9b0)";
        frame = document.createElement("iframe");
        frame.title = "Report of the run";
        frame.setAttribute("sandbox", "");
        frame.style = "display: block; width: 100%; height: 80vh; margin-top: 0.5rem; border: 1px solid #8884; "
            + "border-radius: 0.5rem;";
        parentElement.append(link, frame);
    }
    if (link.getAttribute("href") !== address) {
        link.setAttribute("href", address);
        frame.setAttribute("src", address);
    }
}
"""


def show_report(run: str, at: float) -> None:
    """The report of this run; `at`, when it was written, has it loaded anew."""
    _component()(key="report", data={"run": run, "at": f"{at:.3f}"})


@st.cache_resource(show_spinner=False)
def _component() -> ComponentRenderer:
    return st.components.v2.component("rlhf_report", js=FRAME, isolate_styles=False)
