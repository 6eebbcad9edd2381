"""Charts as functions of plain rows (Vega-Lite through Altair), and files of them for a README.

A chart function gives None where its rows hold nothing to show. Nothing here reads the network: data is inline, and
vl-convert renders in this process.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert

from rlhf.report import theme
from rlhf.report.record import Row, RunRecord, Sample, number, read_run
from rlhf.report.words import Judge, count, judges, percent, plain, setting

Chart = Any  # altair's chart classes share no useful base
WIDTH, HEIGHT = 262, 150
WIDE = 620
MOST_POINTS = 400  # longer curves are shown as means of equal stretches
BINS = 24
SMOOTHED_FROM = 36  # shorter curves are shown as they are

STAGE_TITLES = {"sft": "Supervised fine-tuning", "reward": "Reward model", "gold": "Gold reward model", "ppo": "PPO"}


# --- rendering ---------------------------------------------------------------------------------------------------


def to_svg(chart: Chart) -> str:
    """The chart as SVG text."""
    return str(vl_convert.vegalite_to_svg(_spec(chart)))


def inline_svg(chart: Chart, prefix: str) -> str:
    """SVG to stand inside a page: no namespace declarations, and ids that no other chart has."""
    svg = re.sub(r'\s(?:xmlns(?::xlink)?|version|class)="[^"]*"', "", to_svg(chart))
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', svg)
    return re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", svg)


def save_svg(chart: Chart, path: Path) -> Path:
    path.write_text(to_svg(chart), encoding="utf-8")
    return path


def save_png(chart: Chart, path: Path, scale: float = 2.0) -> Path:
    path.write_bytes(vl_convert.vegalite_to_png(_spec(chart), scale=scale))
    return path


def write_figures(run_dir: Path, out_dir: Path) -> list[Path]:
    """Every figure that the run has data for, each as SVG and PNG; gives the files written."""
    out_dir.mkdir(parents=True, exist_ok=True)
    written = []
    for name, chart in collected(read_run(run_dir)).items():
        written += [save_svg(chart, out_dir / f"{name}.svg"), save_png(chart, out_dir / f"{name}.png")]
    return written


def collected(run: RunRecord) -> dict[str, Chart]:
    """The run's figures by file name; several small charts share a figure."""
    compared = judges(run)
    groups = {
        "learning-curves": [c for stage in ("sft", "reward", "gold") for c in stage_charts(run, stage)],
        "ppo": ppo_charts(run),
        "reward-against-kl": [reward_against_kl(run.curve("ppo"))],
        "win-rates": [win_rates(compared)],
        "distributions": distribution_charts(run),
    }
    figures = {}
    for name, charts in groups.items():
        present = [c for c in charts if c is not None]
        if present:
            columns = min(len(present), 3)
            figures[name] = (
                present[0]
                if len(present) == 1
                else alt.concat(*present, columns=columns).resolve_scale(color="independent")
            )
    return figures


def stage_charts(run: RunRecord, stage: str) -> list[Chart]:
    """The learning curves of a supervised stage: loss, and accuracy where it has one."""
    rows, summary = run.curve(stage), run.section(stage)
    title = STAGE_TITLES.get(stage, stage)
    charts = [loss_curve(rows, title)]
    if stage != "sft":
        charts.append(accuracy_curve(rows, title, number(summary, "accuracy"), number(summary, "human_agreement")))
    return [c for c in charts if c is not None]


def ppo_charts(run: RunRecord) -> list[Chart]:
    """The PPO panel of a run."""
    kl = run.setting("ppo", "kl")
    target = number(kl, "target") if isinstance(kl, dict) and kl.get("controller", "adaptive") == "adaptive" else None
    return ppo_panel(run.curve("ppo"), target, number(run.section("eval"), "length_sft"))


def distribution_charts(run: RunRecord) -> list[Chart]:
    """Scores by judge and lengths, SFT beside policy."""
    names = list(dict.fromkeys(name for sample in run.samples for name in sample.scores))
    found = [score_distribution(run.samples, name) for name in names] + [length_distribution(run.samples)]
    return [c for c in found if c is not None]


# --- charts ------------------------------------------------------------------------------------------------------


def loss_curve(rows: Sequence[Row], title: str) -> Chart | None:
    """Loss of every step, its running mean, and the held-out loss where it was measured."""
    curve = _curve(rows, "loss", f"{title}: loss", "loss (nats)", x="optimizer step")
    held_out = _points(rows, "eval_loss")
    if curve is None or not held_out:
        return curve
    x, y = _x("optimizer step"), alt.Y("y:Q", scale=alt.Scale(zero=False))
    base = alt.Chart(_data(held_out)).encode(x=x, y=y)
    line = base.mark_line(color=theme.ORANGE.light, strokeWidth=1.5)
    points = base.mark_point(color=theme.ORANGE.light, filled=True, size=36, opacity=1)
    last = base.transform_filter(alt.datum.x == held_out[-1]["x"]).mark_text(
        text="held-out", color=theme.ORANGE.light, align="right", dy=-10, fontSize=10.5
    )
    return _titled(alt.layer(curve, line, points, last), f"{title}: loss", curve.title.subtitle)


def accuracy_curve(
    rows: Sequence[Row], title: str, held_out: float | None = None, agreement: float | None = None
) -> Chart | None:
    """Accuracy on training batches, with the held-out accuracy and people's own agreement as rules."""
    rules = [(held_out, "held-out pairs", theme.BLUE.light), (agreement, "two ratings agree", theme.ORANGE.light)]
    lines = [(v, f"{name} {percent(v)}", color) for v, name, color in rules if v is not None]
    return _curve(
        rows, "accuracy", f"{title}: accuracy", "share of pairs ordered as labelled", x="optimizer step",
        rules=lines, share=True,
    )  # fmt: skip


def ppo_panel(rows: Sequence[Row], kl_target: float | None = None, sft_length: float | None = None) -> list[Chart]:
    """What to watch in PPO, one small chart a quantity, means over each update's rollout."""
    orange = theme.ORANGE.light
    target = [] if kl_target is None else [(kl_target, f"target {setting(kl_target)}", orange)]
    sft = [] if sft_length is None else [(sft_length, f"SFT {plain(sft_length)}", orange)]
    charts = [
        _curve(rows, "score", "Reward score", "mean raw score"),
        _curve(rows, "kl", "Distance from SFT (KL)", "nats a response", rules=target, within=(0, 1)),
        _curve(rows, "length", "Response length", "tokens", rules=sft, within=(0, 1)),
        _curve(rows, "eos_rate", "Responses that end by themselves", "share with EOS", share=True, within=(0.5, 1)),
        _curve(rows, "entropy", "Entropy of the policy", "nats a token", within=(0, 1)),
        _curve(rows, "clip_fraction", "Clipped policy ratios", "share of tokens", share=True, within=(0, 0.2)),
        _curve(rows, "explained_variance", "Value function: explained variance", "1 = all, 0 = none", within=(0, 1)),
    ]
    return [c for c in charts if c is not None]


def reward_against_kl(rows: Sequence[Row]) -> Chart | None:
    """The path of PPO: score gained for distance moved; Gao et al. 2022 draw it against the square root of KL."""
    found = [(r["step"], number(r, "kl"), number(r, "score")) for r in rows]
    path = [{"step": s, "x": math.sqrt(max(k, 0.0)), "y": v} for s, k, v in found if k is not None and v is not None]
    if len(path) < 2:
        return None
    ranges = _stretches([int(p["step"]) for p in path], len(theme.RAMP))
    for point in path:
        point["when"] = next(name for name, first, last in ranges if first <= point["step"] <= last)
    names = [name for name, _, _ in ranges]
    colors = [tone.light for tone in theme.RAMP[-len(names) :]]
    base = alt.Chart(_data(path)).encode(
        x=alt.X("x:Q", title="√KL from SFT (√nats a response)", scale=alt.Scale(zero=True, nice=True)),
        y=alt.Y("y:Q", title="mean raw score", scale=alt.Scale(zero=False)),
    )
    line = base.mark_line(color=theme.AXIS.light, strokeWidth=1.2).encode(order="step:Q")
    dots = base.mark_point(filled=True, size=64, opacity=1, stroke=theme.SURFACE.light, strokeWidth=1).encode(
        color=alt.Color("when:N", scale=alt.Scale(domain=names, range=colors), sort=names)
    )
    ends = [
        base.transform_filter(alt.datum.step == p["step"]).mark_text(
            text=f"update {p['step']:.0f}", dx=dx, dy=dy, align="left", fontSize=10.5, color=theme.SECOND.light
        )
        for p, dx, dy in ((path[0], -4, -13), (path[-1], 10, 0))
    ]
    chart = alt.layer(line, dots, *ends).properties(width=WIDE + 80, height=270)
    return _titled(chart, "Reward against distance from SFT", f"each point is one update’s rollout; n = {len(path)}")


def win_rates(compared: Sequence[Judge]) -> Chart | None:
    """Win-rate of policy over SFT by judge, with 95 % intervals and a rule at an even split."""
    shown = [j for j in compared if j.win_rate is not None]
    rows = [
        {"judge": _named(j), "rate": j.win_rate, "low": j.low, "high": j.high, "text": percent(j.win_rate)}
        for j in shown
    ]
    if not rows:
        return None
    y = alt.Y("judge:N", sort=[str(r["judge"]) for r in rows], axis=None)
    x_axis = alt.Axis(format="%", grid=True, tickCount=5)
    x = alt.X("rate:Q", title="prompts won by the policy (ties half)", scale=alt.Scale(domain=[0, 1]), axis=x_axis)
    base = alt.Chart(_data(rows)).encode(y=y)
    names = base.mark_text(align="left", dy=-17, fontSize=11.5, color=theme.SECOND.light)
    numbers = base.mark_text(align="left", dx=12, fontSize=12, fontWeight="bold", color=theme.INK.light)
    bars = base.transform_filter("isValid(datum.low) && isValid(datum.high)")
    even = alt.Chart(_data([{"x": 0.5}])).mark_rule(color=theme.ORANGE.light, strokeDash=[4, 3])
    chart = alt.layer(
        even.encode(x=alt.X("x:Q")),
        bars.mark_rule(color=theme.BLUE.light, strokeWidth=2.5).encode(x=alt.X("low:Q"), x2="high:Q"),
        base.mark_point(filled=True, size=110, color=theme.BLUE.light, opacity=1).encode(x=x),
        names.encode(x=alt.value(2), text="judge:N"),
        numbers.encode(x=alt.value(WIDE - 220), text="text:N"),
    ).properties(width=WIDE - 220, height=52 * len(rows) + 14)
    prompts = next((j.prompts for j in compared if j.prompts), None)
    over = f"{count(prompts)} held-out prompts, " if prompts else ""
    return _titled(chart, "Policy against SFT, by judge", f"{over}95% intervals; dashed: an even split")


def score_distribution(samples: Sequence[Sample], judge: str) -> Chart | None:
    """One judge's scores of SFT's and of the policy's texts."""
    pairs = [s.scores.get(judge, (None, None)) for s in samples]
    return _two_histograms(pairs, f"Scores by “{judge}”", "score")


def length_distribution(samples: Sequence[Sample]) -> Chart | None:
    """Lengths of SFT's and of the policy's texts, in tokens."""
    return _two_histograms([s.lengths for s in samples], "Response lengths", "tokens", whole=True)


# --- parts -------------------------------------------------------------------------------------------------------


def _curve(
    rows: Sequence[Row],
    field: str,
    title: str,
    y_title: str,
    *,
    x: str = "PPO update",
    rules: Sequence[tuple[float, str, str]] = (),
    share: bool = False,
    within: tuple[float, float] | None = None,
) -> Chart | None:
    """A faint line of every value under its running mean, with labelled rules."""
    points = _points(rows, field)
    if not points:
        return None
    window = len(points) // 12 if len(points) >= SMOOTHED_FROM else 1
    for i, point in enumerate(points):
        nearby = points[max(0, i + 1 - window) : i + 1]
        point["mean"] = sum(p["y"] for p in nearby) / len(nearby)
    axis = alt.Axis(format="%") if share else alt.Axis()
    base = alt.Chart(_data(points)).encode(x=_x(x))
    seen = [p["y"] for p in points] + [value for value, _, _ in rules]
    y_scale = alt.Scale(zero=False, nice=True)
    if within is not None:  # the axis holds this much at least, so that small changes look small
        y_scale = alt.Scale(domain=[min(within[0], *seen), max(within[1], *seen)], nice=True)
    layers = []
    for value, label, color in rules:
        rule = alt.Chart(_data([{"y": value}])).encode(y=alt.Y("y:Q"))
        layers.append(rule.mark_rule(color=color, strokeDash=[4, 3], strokeWidth=1.2))
        # The label stands at the end where the curve keeps farther away from the rule, on the side away from the curve.
        left = abs(points[0]["y"] - value) > abs(points[-1]["y"] - value)
        below = points[0 if left else -1]["y"] > value
        text = rule.mark_text(
            text=label,
            color=color,
            align="left" if left else "right",
            baseline="top" if below else "bottom",
            dy=3 if below else -3,
            fontSize=10.5,
        )
        layers.append(text.encode(x=alt.value(0 if left else WIDTH)))
    if len(points) == 1:
        layers.append(base.mark_point(filled=True, size=60, color=theme.BLUE.light, opacity=1).encode(y="y:Q"))
    if window > 1:
        faint = base.mark_line(color=theme.BLUE.light, opacity=0.3, strokeWidth=1)
        layers.append(faint.encode(y=alt.Y("y:Q")))
    line = base.mark_line(color=theme.BLUE.light)
    layers.append(line.encode(y=alt.Y("mean:Q", title=y_title, scale=y_scale, axis=axis)))
    chart = alt.layer(*layers).properties(width=WIDTH, height=HEIGHT)
    steps = f"{len(rows):,} {'update' if x == 'PPO update' else 'step'}{'s' if len(rows) != 1 else ''}"
    return _titled(chart, title, steps + (f"; strong line: mean of the last {window} shown" if window > 1 else ""))


def _two_histograms(
    pairs: Iterable[tuple[float | None, float | None]], title: str, x_title: str, *, whole: bool = False
) -> Chart | None:
    """SFT (grey) and policy (blue) as stepped outlines over the same bins, with their means."""
    both = [(a, b) for a, b in pairs if a is not None and b is not None]
    if len(both) < 2:
        return None
    every = [v for pair in both for v in pair]
    low, high = min(every), max(every)
    width = (high - low) / BINS or 1.0
    if whole:
        width = max(1.0, math.ceil(width))
    bins = int((high - low) / width) + 1
    rows, means, averages = [], [], []
    for who, values in (("SFT", [a for a, _ in both]), ("policy", [b for _, b in both])):
        counts = [0] * (bins + 1)
        for value in values:
            counts[min(int((value - low) / width), bins - 1)] += 1
        rows += [{"x": low + i * width, "n": n, "who": who} for i, n in enumerate(counts)]
        averages.append(sum(values) / len(values))
        means.append({"x": averages[-1], "who": who})
    names, colors = ["SFT", "policy"], [theme.SFT_GREY.light, theme.BLUE.light]
    color = alt.Color("who:N", scale=alt.Scale(domain=names, range=colors), sort=names)
    base = alt.Chart(_data(rows)).encode(
        x=alt.X("x:Q", title=x_title, scale=alt.Scale(zero=False, nice=False)),
        y=alt.Y("n:Q", title="texts", stack=None, axis=alt.Axis(tickMinStep=1, format="d")),
        color=color,
    )
    area = base.mark_area(interpolate="step-after", opacity=0.22, line=False)
    outline = base.mark_line(interpolate="step-after", strokeWidth=1.8, strokeCap="butt", strokeJoin="miter")
    mean = alt.Chart(_data(means)).mark_rule(strokeDash=[4, 3], strokeWidth=1.4).encode(x="x:Q", color=color)
    chart = alt.layer(area, outline, mean).properties(width=WIDTH, height=HEIGHT)
    said = f"mean {plain(averages[0])} → {plain(averages[1])} (dashed); {len(both):,} prompts"
    return _titled(chart, title, said)


def _points(rows: Sequence[Row], field: str) -> list[dict[str, float]]:
    """(step, value) where there is one; a long curve as means of equal stretches."""
    found = [(float(r["step"]), v) for r in rows if (v := number(r, field)) is not None]
    size = math.ceil(len(found) / MOST_POINTS) or 1
    parts = [found[i : i + size] for i in range(0, len(found), size)]
    return [{"x": part[-1][0], "y": sum(v for _, v in part) / len(part)} for part in parts]


def _stretches(steps: Sequence[int], most: int) -> list[tuple[str, int, int]]:
    """The steps in at most `most` stretches of about equal size, each with its name."""
    size = math.ceil(len(steps) / most)
    parts = [steps[i : i + size] for i in range(0, len(steps), size)]
    return [(f"{p[0]}–{p[-1]}" if len(p) > 1 else f"{p[0]}", p[0], p[-1]) for p in parts]


def _x(title: str) -> alt.X:
    axis = alt.Axis(tickMinStep=1, format=",d", tickCount=6)
    return alt.X("x:Q", title=title, axis=axis, scale=alt.Scale(zero=False, nice=False))


def _named(judge: Judge) -> str:
    return f"{judge.name} ({judge.short})"


def _titled(chart: Chart, title: str, subtitle: str) -> Chart:
    return chart.properties(title=alt.TitleParams(title, subtitle=subtitle))


def _data(rows: Sequence[Mapping[str, Any]]) -> alt.InlineData:
    return alt.InlineData(values=[dict(row) for row in rows])


def _spec(chart: Chart) -> dict[str, Any]:
    spec: dict[str, Any] = chart.configure(**theme.chart_config()).to_dict(validate=False)
    return spec
