"""An arena's standings as charts."""

from __future__ import annotations

from typing import Any

import altair as alt

from labeling_app.untrusted import visible
from rlhf.preferences.arena import percent
from rlhf.preferences.statistics.estimate import Estimate
from rlhf.preferences.statistics.strengths import Leaderboard, Standing

KINDS = ("strength", "at equal length")
LONGEST_NAME = 40
# Seen on light and dark ground alike, as the theme's own colours are not.
COLOURS = ("#2a8a80", "#c9792b")
LOST, EVEN, WON, RULE = "#b3592e", "#efece4", "#1f6f68", "#8a9291"


def strengths(board: Leaderboard) -> alt.LayerChart:
    """A dot and its interval for each contestant, as voted and at equal length."""
    labels = _labels(board)
    values = [
        _dot(labels[s.name], kind, estimate)
        for s in board.standings
        for kind, estimate in zip(KINDS, (s.strength, s.equal_length), strict=True)
        if estimate.value is not None
    ]
    base = alt.Chart(alt.InlineData(values=values)).encode(
        y=alt.Y("who:N", sort=list(labels.values()), title=None, axis=alt.Axis(labelLimit=260, ticks=False)),
        yOffset=alt.YOffset("kind:N", sort=list(KINDS)),
        color=alt.Color(
            "kind:N",
            sort=list(KINDS),
            scale=alt.Scale(domain=list(KINDS), range=list(COLOURS)),
            legend=alt.Legend(orient="top", title=None),
        ),
        tooltip=[
            alt.Tooltip("who:N", title="contestant"),
            alt.Tooltip("kind:N", title="what"),
            alt.Tooltip("said:N", title="chance to win"),
            alt.Tooltip("over:N", title="over"),
        ],
    )
    x = alt.X(
        "value:Q",
        title="chance to beat another contestant",
        scale=alt.Scale(domain=[0, 1]),
        axis=alt.Axis(format="%", tickCount=5),
    )
    even = alt.Chart(alt.InlineData(values=[{"half": 0.5}])).mark_rule(strokeDash=[4, 4], color=RULE).encode(x="half:Q")
    interval = base.mark_rule(strokeWidth=3).encode(x=alt.X("low:Q"), x2="high:Q")
    dot = base.mark_point(filled=True, size=110, opacity=1).encode(
        x=x, shape=alt.Shape("kind:N", sort=list(KINDS), legend=alt.Legend(orient="top", title=None))
    )
    return alt.layer(even, interval, dot).properties(height=70 + 52 * len(board.standings))


def matrix(board: Leaderboard) -> alt.LayerChart:
    """Win-rates of each (rows) over each (columns)."""
    labels = _labels(board)
    order = list(labels.values())
    values: list[dict[str, Any]] = [
        {
            "who": labels[a],
            "other": labels[b],
            "won": estimate.value,
            "said": f"{100 * (estimate.value or 0):.0f} %",
            "whole": percent(estimate),
            "over": estimate.over,
        }
        for (a, b), estimate in board.pairs.items()
    ]
    base = alt.Chart(alt.InlineData(values=values)).encode(
        x=alt.X(
            "other:N",
            sort=order,
            title="over",
            axis=alt.Axis(orient="top", labelAngle=-30, labelLimit=160, labelOverlap=False),
        ),
        y=alt.Y("who:N", sort=order, title=None, axis=alt.Axis(labelLimit=220)),
        tooltip=[
            alt.Tooltip("who:N", title="contestant"),
            alt.Tooltip("other:N", title="over"),
            alt.Tooltip("whole:N", title="won"),
            alt.Tooltip("over:N", title="of"),
        ],
    )
    colours = alt.Scale(domain=[0, 0.5, 1], range=[LOST, EVEN, WON], clamp=True)
    ink = alt.condition("abs(datum.won - 0.5) > 0.42", alt.value("#ffffff"), alt.value("#1d2a2c"))
    cells = base.mark_rect().encode(color=alt.Color("won:Q", scale=colours, legend=None))
    return alt.layer(cells, base.mark_text(fontSize=13).encode(text="said:N", color=ink)).properties(
        height=90 + 36 * len(order)
    )


def _dot(who: str, kind: str, estimate: Estimate) -> dict[str, Any]:
    value = estimate.value
    return {
        "who": who,
        "kind": kind,
        "value": value,
        "low": value if estimate.low is None else estimate.low,
        "high": value if estimate.high is None else estimate.high,
        "said": percent(estimate),
        "over": estimate.over,
    }


def _labels(board: Leaderboard) -> dict[str, str]:
    """Short names, best first; two that would look the same are told apart by number."""
    labels: dict[str, str] = {}
    for s in board.standings:
        short = _short(s)
        labels[s.name] = short if short not in labels.values() else f"{len(labels) + 1}: {short}"
    return labels


def _short(s: Standing) -> str:
    seen = visible(s.name)
    return seen if len(seen) <= LONGEST_NAME else "…" + seen[1 - LONGEST_NAME :]
