"""Colours and type of the charts and the page, light and dark.

Charts are drawn once, in the light colours; in the page, CSS swaps each for its dark partner by the SVG attribute that
holds it. So a tone used in a chart must be one of `TONES`. The hues stay apart for colour-blind readers: SFT is grey
and the policy blue throughout, and nothing is told by colour alone.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Tone(NamedTuple):
    """One colour on the light and on the dark page."""

    light: str
    dark: str


SURFACE = Tone("#ffffff", "#1b1d21")
INK = Tone("#1b1f27", "#eceef2")
SECOND = Tone("#4c535f", "#b6bcc8")
MUTED = Tone("#727986", "#8f96a3")
AXIS = Tone("#c3c8d0", "#474c56")
GRID = Tone("#e9ebef", "#2a2d33")
BLUE = Tone("#2467b3", "#6ba9ee")
SFT_GREY = Tone("#8d95a3", "#98a0ae")
ORANGE = Tone("#c2611a", "#ec9a57")
# Early to late updates: light to strong on white, dim to bright on the dark page.
RAMP = (
    Tone("#b4cdea", "#31527a"),
    Tone("#86b0de", "#3f74b0"),
    Tone("#558fcc", "#5994d6"),
    Tone("#2d6cb4", "#85b8f2"),
    Tone("#17457d", "#c4defb"),
)
TONES = (SURFACE, INK, SECOND, MUTED, AXIS, GRID, BLUE, SFT_GREY, ORANGE, *RAMP)
FONT = "Liberation Sans, Arial, Helvetica, sans-serif"


def chart_config() -> dict[str, Any]:
    """The Vega-Lite config that every chart shares."""
    axis = {
        "domainColor": AXIS.light, "tickColor": AXIS.light, "gridColor": GRID.light, "labelColor": MUTED.light,
        "titleColor": SECOND.light, "titleFontWeight": "normal", "titleFontSize": 11, "labelFontSize": 10.5,
        "titlePadding": 8, "labelPadding": 4, "tickSize": 4,
    }  # fmt: skip
    return {
        "font": FONT,
        "background": SURFACE.light,
        "padding": 6,
        "aria": False,
        "view": {"stroke": None},
        "axis": axis,
        "axisX": {"grid": False},
        "axisY": {"domain": False, "ticks": False, "tickCount": 5, "minExtent": 30},
        "title": {
            "anchor": "start", "frame": "group", "fontSize": 13, "fontWeight": "bold", "color": INK.light, "offset": 10,
            "subtitleFontSize": 11, "subtitleColor": MUTED.light, "subtitlePadding": 4,
        },
        "legend": {
            "orient": "top", "title": None, "labelFontSize": 11, "labelColor": SECOND.light, "symbolSize": 70,
            "symbolOpacity": 1, "offset": 2, "padding": 0, "columnPadding": 14,
        },
        "concat": {"spacing": 28},
        "line": {"strokeWidth": 2, "strokeJoin": "round", "strokeCap": "round"},
    }  # fmt: skip


def css_variables(dark: bool) -> str:
    """The page's colours as CSS custom properties."""
    named = {
        "surface": SURFACE, "ink": INK, "second": SECOND, "muted": MUTED, "axis": AXIS, "grid": GRID, "blue": BLUE,
        "sft": SFT_GREY, "orange": ORANGE,
    }  # fmt: skip
    return "".join(f"--{name}:{tone.dark if dark else tone.light};" for name, tone in named.items())


def dark_chart_css() -> str:
    """Rules that turn a chart drawn in light colours into a dark one."""
    rules = []
    for tone in TONES:
        for attribute in ("fill", "stroke"):
            rules.append(f'figure svg [{attribute}="{tone.light}"]{{{attribute}:{tone.dark}}}')
    return "\n".join(rules)
