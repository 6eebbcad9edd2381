"""A run's numbers as charts: one a quantity, all chosen runs in it, long curves thinned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from labeling_app.untrusted import visible
from labeling_app.views.runs.reading import POINTS, Stage
from rlhf.report.figures import STAGE_TITLES

# Title, unit, whether it is a share; in the order in which they are shown, as in the report.
WORDS: dict[str, tuple[str, str, bool]] = {
    "loss": ("Loss", "nats", False),
    "eval_loss": ("Loss, held-out", "nats", False),
    "accuracy": ("Accuracy", "share of pairs ordered as labelled", True),
    "score": ("Reward score", "mean raw score", False),
    "kl": ("Distance from SFT (KL)", "nats a response", False),
    "length": ("Response length", "tokens", False),
    "eos_rate": ("Responses that end by themselves", "share with EOS", True),
    "entropy": ("Entropy of the policy", "nats a token", False),
    "clip_fraction": ("Clipped policy ratios", "share of tokens", True),
    "explained_variance": ("Value function: explained variance", "1 = all, 0 = none", False),
    "policy_loss": ("Policy loss", "", False),
    "value_loss": ("Value loss", "", False),
    "kl_coef": ("KL coefficient", "", False),
    "normalized_score": ("Normalised score", "deviations of SFT's scores", False),
    "learning_rate": ("Learning rate", "", False),
    "grad_norm": ("Gradient norm", "before clipping", False),
    "tokens_per_second": ("Speed", "tokens a second", False),
    "rss_mib": ("Resident memory", "MiB", False),
}
WITHIN = {  # their axes hold this much at least, so that small changes look small
    "kl": (0.0, 1.0), "length": (0.0, 1.0), "eos_rate": (0.5, 1.0), "entropy": (0.0, 1.0), "clip_fraction": (0.0, 0.2),
    "explained_variance": (0.0, 1.0),
}  # fmt: skip
FIRST = 10  # of WORDS: what is shown before anybody asks for more
HELD_OUT = {"loss": "eval_loss"}  # drawn into the same chart, where both are there
STEADY_FROM = 36  # points: from here on a running mean stands over the values
HEIGHT, LEGEND_LINE = 240, 22  # pixels, with titles and axes
LONGEST_NAME = 40


def ordered(stages: Sequence[Stage]) -> tuple[list[str], list[str]]:
    """The quantities that these stages have: those of most interest, and the rest."""
    there = {name for stage in stages for name in stage.names()}
    there -= {held_out for name, held_out in HELD_OUT.items() if name in there}
    known = [name for name in WORDS if name in there]
    first = [name for name in list(WORDS)[:FIRST] if name in there]
    return first, [name for name in known if name not in first] + sorted(there - set(WORDS))


def stage_title(stage: str) -> str:
    """A stage's name for a list of choices (which is plain text)."""
    return visible(STAGE_TITLES.get(stage, stage))[:80]


def chart(name: str, runs: Mapping[str, Stage], dark: bool = False) -> alt.LayerChart | alt.FacetChart | None:
    """One quantity of one stage, for each run by its name; None where none has it."""
    drawn = {run: stage for run, stage in runs.items() if stage.points(name, 1)}
    if not drawn:
        return None
    several = len(runs) > 1
    title, unit, share = WORDS.get(name, (visible(name)[:60], "", False))
    tips = [alt.Tooltip("x:Q", title="step", format=","), alt.Tooltip("y:Q", title="value", format=".4g")]
    labels = _labels(list(runs))
    color = alt.Color("who:N", sort=list(labels.values()), legend=_legend(), scale=alt.Scale(domain=[*labels.values()]))
    if not several:
        kinds = ["training", "held-out"] if _held_out(runs, name) else []
        color = alt.Color("who:N", legend=_legend() if kinds else None, sort=kinds or None)
    else:
        tips.append(alt.Tooltip("who:N", title="run"))
    values, means = _values(drawn, name, labels if several else None)
    held_out = _held_out(runs, name)
    seen = [point["y"] for point in values] + [mean for points in held_out.values() for _, mean, _, _ in points]
    flat = alt.Scale(zero=False, nice=False)
    x = alt.X("x:Q", title="step", axis=alt.Axis(tickMinStep=1, format=",d", tickCount=6), scale=flat)
    axis = alt.Axis(format="%", tickCount=4) if share else alt.Axis(tickCount=4)
    y = alt.Y("y:Q", title=unit or None, axis=axis, scale=_scale(seen, WITHIN.get(name)))
    base = alt.Chart(alt.InlineData(values=values)).encode(x=x, y=y, color=color, tooltip=tips)
    alone = len(values) == len(drawn)  # a line of one point is not seen
    layers = [base.mark_line(opacity=0.3 if means else 1, strokeWidth=1 if means else 2, point=alone)]
    if means:
        layers.append(alt.Chart(alt.InlineData(values=means)).encode(x=x, y=y, color=color).mark_line(strokeWidth=2))
    if held_out:
        points = [
            {"x": step, "y": mean, "who": labels[run] if several else "held-out"}
            for run, found in held_out.items()
            for step, mean, _, _ in found
        ]
        beside = alt.Chart(alt.InlineData(values=points)).encode(x=x, y=y, color=color, tooltip=tips)
        layers.append(beside.mark_line(strokeWidth=1.5, strokeDash=[5, 3], point=len(points) <= 40))
    height = HEIGHT + LEGEND_LINE * (len(runs) if several else 2 if held_out else 0)
    return alt.layer(*layers).properties(height=height, title=_titled(title, _said(runs, drawn, name), dark))


def _values(
    drawn: Mapping[str, Stage], name: str, labels: Mapping[str, str] | None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Points of every run, and the running means over them where they are many."""
    values, means = [], []
    for run, stage in drawn.items():
        who = "training" if labels is None else labels[run]
        points = stage.points(name)
        values += [{"x": step, "y": mean, "who": who} for step, mean, _, _ in points]
        if len(points) < STEADY_FROM:
            continue
        window, known = len(points) // 12, [mean for _, mean, _, _ in points]
        for i, (step, *_) in enumerate(points):
            near = known[max(0, i + 1 - window) : i + 1]
            means.append({"x": step, "y": sum(near) / len(near), "who": who})
    return values, means


def _held_out(runs: Mapping[str, Stage], name: str) -> dict[str, list[tuple[float, float, float, float]]]:
    if name not in HELD_OUT:
        return {}
    return {run: found for run, stage in runs.items() if (found := stage.points(HELD_OUT[name]))}


def _said(runs: Mapping[str, Stage], drawn: Mapping[str, Stage], name: str) -> str:
    """What the curve is over, and its last value."""
    steps = max(len(stage.steps) for stage in drawn.values())
    said = f"{steps:,} step{'s' if steps != 1 else ''}"
    if len(drawn) == 1:
        (stage,) = drawn.values()
        said += f", last {stage.points(name, POINTS)[-1][1]:.4g}"
    else:
        said = f"{len(drawn)} runs, up to {said}"
    return said + ("; dashed: held-out" if _held_out(runs, name) else "")


def _titled(title: str, said: str, dark: bool) -> alt.TitleParams:
    return alt.TitleParams(title, subtitle=said, subtitleColor="#aab4b1" if dark else "#59635f")  # as of captions


def _labels(names: Sequence[str]) -> dict[str, str]:
    """Short names for a legend; two that would look the same are told apart by number."""
    labels: dict[str, str] = {}
    for name in names:
        seen = visible(name)
        short = seen if len(seen) <= LONGEST_NAME else "…" + seen[1 - LONGEST_NAME :]
        labels[name] = short if short not in labels.values() else f"{len(labels) + 1}: {short}"
    return labels


def _scale(seen: Sequence[float], within: tuple[float, float] | None) -> alt.Scale:
    """What the axis holds: what is seen, and more where that is one value alone or a range is wanted."""
    low, high = min(seen), max(seen)
    if within is not None:
        low, high = min(low, within[0]), max(high, within[1])
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        room = abs(low) / 10 or 1.0
        low, high = low - room, high + room
    return alt.Scale(domain=[low, high], nice=True)


def _legend() -> alt.Legend:
    return alt.Legend(orient="bottom", title=None, columns=1, labelLimit=300, symbolOpacity=1)
