"""The dashboard's charts, as Altair specifications with their data inside. Colours can be told apart in light and dark.

Names of people and flags are data here: Vega draws them as text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from labeling_app.untrusted import visible
from labeling_app.views.dashboard.numbers import by_time, shown
from rlhf.preferences.statistics.agreement import Agreed
from rlhf.preferences.statistics.bias import PositionBias
from rlhf.preferences.statistics.estimate import FEW, Estimate
from rlhf.preferences.statistics.pace import TimesOf

Chart = Any  # altair's chart classes share no useful base
OURS, ODD, CHANCE = "#2a8f86", "#c8701a", "#87918e"
LOW, MIDDLE, HIGH = "#b5541c", "#66726f", "#1f7f76"  # white numbers can be read on each
LONGEST_NAME = 22
MOST_ROWS, MOST_CELLS_A_SIDE, MOST_NUMBERED = 40, 25, 10
TIMES = {"hour": ("utcyearmonthdatehours", "%d %b, %H:%M"), "day": ("utcyearmonthdate", "%d %b")}
ROW, AXIS = 20, 70  # pixels: of a line, and below all of them


def labels(names: Sequence[str]) -> dict[str, str]:
    """Names short enough for an axis, no two alike."""
    found: dict[str, str] = {}
    for name in names:
        seen = visible(name).replace("\n", " ")
        short = seen if len(seen) <= LONGEST_NAME else seen[: LONGEST_NAME - 1] + "…"
        found[name] = short if short not in found.values() else f"{len(found) + 1}: {short}"
    return found


def ordered(by_name: Mapping[str, Estimate], most: int = MOST_ROWS, *, highest: bool = False) -> list[str]:
    """Who has a value, lowest or highest first."""
    known = {name: -e.value if highest else e.value for name, e in by_name.items() if e.value is not None}
    return sorted(known, key=lambda name: (known[name], name))[:most]


def dots(
    by_name: Mapping[str, Estimate],
    *,
    title: str,
    chance: float,
    share: bool = True,
    ends: tuple[float, float] = (0.0, 1.0),
    highest: bool = False,
) -> Chart:
    """A dot and its interval for each name, lowest value first (or highest); a dashed line where chance would be."""
    names = ordered(by_name, highest=highest)
    short = labels(names)
    rows = [_row(short[name], by_name[name], share) for name in names]
    y = alt.Y("who:N", sort=list(short.values()), title=None, axis=_names())
    scale = alt.Scale(domain=list(ends), clamp=True, nice=False)
    x = alt.X("value:Q", title=title, scale=scale, axis=alt.Axis(format="%" if share else ".1f", tickCount=5))
    tips = [
        alt.Tooltip("who:N", title="labeler"),
        alt.Tooltip("said:N", title="value"),
        alt.Tooltip("between:N", title="95 % interval"),
        alt.Tooltip("over:N", title="over"),
    ]
    base = alt.Chart(alt.InlineData(values=rows)).encode(y=y, tooltip=tips)
    wide = alt.Chart(alt.InlineData(values=[r for r in rows if "low" in r])).encode(y=y, tooltip=tips)
    layers = [
        _rule("x", chance),
        wide.mark_rule(color=OURS, strokeWidth=2, opacity=0.7).encode(x=alt.X("low:Q", title=title), x2="high:Q"),
        base.mark_point(color=OURS, filled=True, size=70, opacity=1).encode(x=x),
    ]
    return alt.layer(*layers).properties(height=_height(len(rows)))


def heat(agreed: Agreed, *, title: str, chance: float, share: bool = True) -> Chart | None:
    """How far any two agree, those who agree least with everybody in the upper left; None where no two can be said."""
    order = ordered(agreed.by_labeler, MOST_CELLS_A_SIDE)
    short = labels(order)
    cells = [
        {"one": short[one], "other": short[other], "value": e.value, "said": shown(e.value, share), "over": e.over,
         "between": _between(e, share)}
        for (a, b), e in agreed.by_pair.items() if a in short and b in short and e.value is not None
        for one, other in ((a, b), (b, a))
    ]  # fmt: skip
    if not cells:
        return None
    sort = list(short.values())
    scale = alt.Scale(domain=[2 * chance - 1, chance, 1], range=[LOW, MIDDLE, HIGH], clamp=True, interpolate="rgb")
    base = alt.Chart(alt.InlineData(values=cells)).encode(
        x=alt.X("one:N", sort=sort, title=None, axis=_names(labelAngle=-60)),
        y=alt.Y("other:N", sort=sort, title=None, axis=_names()),
        tooltip=[
            alt.Tooltip("one:N", title="labeler"),
            alt.Tooltip("other:N", title="and"),
            alt.Tooltip("said:N", title="value"),
            alt.Tooltip("between:N", title="95 % interval"),
            alt.Tooltip("over:N", title="over"),
        ],
    )
    legend = alt.Legend(title=title, orient="bottom", format="%" if share else ".1f", gradientLength=180)
    layers = [base.mark_rect().encode(color=alt.Color("value:Q", scale=scale, legend=legend))]
    if len(order) <= MOST_NUMBERED:
        layers.append(base.mark_text(color="white", fontSize=11).encode(text="said:N"))
    return alt.layer(*layers).properties(height=_height(len(order)) + 130)


def over_time(made: tuple[float, ...]) -> Chart:
    """Rankings a day, or an hour of a young campaign."""
    found = by_time(made)
    step, form = TIMES[found.unit]
    scale = alt.Scale(domain=[found.start, found.end])
    return (
        alt.Chart(alt.InlineData(values=found.rows))
        .mark_bar(color=OURS)
        .encode(
            x=alt.X("when:T", timeUnit=step, title=None, scale=scale, axis=alt.Axis(format=form, tickCount=6)),
            y=alt.Y("number:Q", title=f"per {found.unit} (UTC)", axis=alt.Axis(tickMinStep=1, tickCount=4)),
            tooltip=[
                alt.Tooltip("when:T", timeUnit=step, title=found.unit, format=form),
                alt.Tooltip("number:Q", title="rankings", format=","),
            ],
        )
        .properties(height=140)
    )


def positions(found: PositionBias) -> Chart:
    """How often the card at each place came first, with its interval; a tick where chance would be."""
    rows = [
        {
            "place": f"card {p.position}",
            "expected": p.expected,
            "chance": shown(p.expected),
            **_row("", p.share, True),
        }
        for p in found.positions
    ]
    tips = [
        alt.Tooltip("place:N", title="shown as"),
        alt.Tooltip("said:N", title="came first"),
        alt.Tooltip("between:N", title="95 % interval"),
        alt.Tooltip("chance:N", title="by chance"),
        alt.Tooltip("over:N", title="over"),
    ]
    top = max([p.expected for p in found.positions] + [p.share.high or 0.0 for p in found.positions])
    scale = alt.Scale(domain=[0, min(math.ceil(10 * top) / 10, 1.0)])
    y = alt.Y("value:Q", title="share of first places", axis=alt.Axis(format="%", tickCount=5), scale=scale)
    base = alt.Chart(alt.InlineData(values=rows)).encode(
        x=alt.X("place:N", sort=None, title=None, axis=alt.Axis(labelAngle=0)), tooltip=tips
    )
    return alt.layer(
        base.mark_bar(color=OURS, opacity=0.75, width={"band": 0.6}).encode(y=y),
        base.mark_rule(color=CHANCE, strokeWidth=2).encode(y=alt.Y("low:Q"), y2="high:Q"),
        base.mark_tick(color=ODD, thickness=3, width={"band": 0.8}, opacity=1).encode(y=alt.Y("expected:Q")),
    ).properties(height=230)


def durations(found: TimesOf) -> Chart:
    """The median time a ranking with its quartiles for each labeler, quickest first; who is too quick in orange."""
    names = sorted(found.by_labeler, key=lambda name: (found.by_labeler[name].median, name))[:MOST_ROWS]
    short = labels(names)
    rows = []
    for name in names:
        t = found.by_labeler[name]
        kind = "implausibly fast" if name in found.fast else "labeler"
        rows.append({"who": short[name], "value": t.median, "low": t.low, "high": t.high, "number": t.n, "kind": kind})
    tips = [
        alt.Tooltip("who:N", title="labeler"),
        alt.Tooltip("value:Q", title="median, seconds", format=",.0f"),
        alt.Tooltip("low:Q", title="a quarter is below", format=",.0f"),
        alt.Tooltip("high:Q", title="a quarter is above", format=",.0f"),
        alt.Tooltip("number:Q", title="rankings", format=","),
    ]
    base = alt.Chart(alt.InlineData(values=rows)).encode(
        y=alt.Y("who:N", sort=list(short.values()), title=None, axis=_names()),
        color=alt.Color(
            "kind:N", legend=None, scale=alt.Scale(domain=["labeler", "implausibly fast"], range=[OURS, ODD])
        ),
        tooltip=tips,
    )
    title = "seconds a ranking: median and quartiles"
    layers = [
        base.mark_rule(strokeWidth=2, opacity=0.7).encode(
            x=alt.X("low:Q", title=title, scale=_from_zero()), x2="high:Q"
        ),
        base.mark_point(filled=True, size=70, opacity=1).encode(x=alt.X("value:Q", title=title)),
    ]
    if found.limit is not None:
        layers.insert(0, _rule("x", found.limit))
    return alt.layer(*layers).properties(height=_height(len(rows)))


def counts(found: Mapping[str, int], *, title: str, nothing: str) -> Chart:
    """A bar for each name, longest first; `nothing` stands for the name that is empty."""
    names = list(found)[:MOST_ROWS]
    short = labels([name or nothing for name in names])
    rows = [{"what": short[name or nothing], "number": found[name]} for name in names]
    return (
        alt.Chart(alt.InlineData(values=rows))
        .mark_bar(color=OURS)
        .encode(
            x=alt.X("number:Q", title=title, axis=alt.Axis(tickMinStep=1, tickCount=5, format=",d")),
            y=alt.Y("what:N", sort=list(short.values()), title=None, axis=_names()),
            tooltip=[alt.Tooltip("what:N", title="what"), alt.Tooltip("number:Q", title="how often", format=",")],
        )
        .properties(height=_height(len(rows)))
    )


def _row(who: str, estimate: Estimate, share: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"who": who, "value": estimate.value, "said": shown(estimate.value, share)}
    if estimate.low is not None:
        row |= {"low": estimate.low, "high": estimate.high}
    return row | {"between": _between(estimate, share), "over": estimate.over}


def _between(estimate: Estimate, share: bool) -> str:
    if estimate.low is None:
        return f"none: {estimate.why or FEW}"
    return f"{shown(estimate.low, share)} to {shown(estimate.high, share)}"


def _rule(channel: str, value: float) -> Chart:
    rule = alt.Chart(alt.InlineData(values=[{channel: value}])).mark_rule(color=CHANCE, strokeDash=[4, 3])
    return rule.encode(**{channel: f"{channel}:Q"})


def _names(**more: Any) -> alt.Axis:
    return alt.Axis(
        labelLimit=140, labelOverlap=False, labelBound=False, labelFlush=False, ticks=False, domain=False, **more
    )


def _from_zero() -> alt.Scale:
    return alt.Scale(zero=True, nice=True)


def _height(rows: int) -> int:
    return max(rows, 2) * ROW + AXIS
