"""What the dashboard shows: read from the store and computed once for each state of the store and choice of a lead."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime

import streamlit as st

from rlhf.preferences import Labeler, LabelStore
from rlhf.preferences.statistics import agreement, bias, detection, pace
from rlhf.preferences.statistics.estimate import FEW, Estimate, counted
from rlhf.preferences.statistics.table import rank_table

HOURLY = 48 * 3600  # a campaign younger than this is drawn by the hour, else by the day
FEWEST_UNITS = 12  # hours or days that are drawn: one bar alone says nothing


@dataclass(frozen=True)
class Choice:
    """What a lead wants to see: one batch or all, with or without those who are excluded from exports."""

    batch: str | None
    without_excluded: bool


@dataclass(frozen=True)
class Numbers:
    """Everything on the page. Gold tasks are in `gold` and `suspects` alone, of whatever batch they are."""

    judgments: int  # rankings and skips of ordinary tasks, surplus left out
    rankings: int
    surplus: int
    excluded: tuple[str, ...]  # whoever is, shown or not
    places: pace.Places
    made: tuple[float, ...]
    agreed: dict[str, agreement.Agreed]  # by the keys "pairs", "alpha", "w"
    ties: agreement.Ties
    gold: pace.Accuracy
    times: pace.TimesOf
    position: bias.PositionBiases
    length: bias.LengthBias
    flags: bias.Flags
    skips: bias.Skips
    suspects: tuple[detection.Suspicion, ...]


def numbers(store: LabelStore, labeler: Labeler, choice: Choice) -> Numbers:
    """The numbers of the store as it is now. The store checks the role of whoever asks."""
    return _numbers(store, labeler, store.name, store.project, store.stamp(by=labeler), choice)


@st.cache_data(show_spinner=False, max_entries=16)
def _numbers(_store: LabelStore, _labeler: Labeler, name: str, project: str, stamp: str, choice: Choice) -> Numbers:
    everything = _store.judged(by=_labeler)
    outside = tuple(sorted({j.labeler for j in everything if j.excluded}))
    mine = [j for j in everything if j.gold is None and choice.batch in (None, j.batch)]
    left = _store.open_places(choice.batch, by=_labeler)
    counting = [j for j in everything if not (j.surplus or (choice.without_excluded and j.excluded))]
    seen = [j for j in counting if j.gold is None and choice.batch in (None, j.batch)]
    table = rank_table(seen)
    return Numbers(
        judgments=len(seen),
        rankings=sum(bool(j.ranks) for j in seen),
        surplus=sum(j.surplus for j in mine),
        excluded=outside,
        places=pace.places(mine, left),
        made=tuple(pace.made_here(mine)),
        agreed={"pairs": agreement.pairwise(table), "alpha": agreement.alpha(table), "w": agreement.concordance(table)},
        ties=agreement.ties(table),
        gold=pace.gold_accuracy(counting),
        times=pace.times(seen),
        position=bias.position_bias(seen),
        length=bias.length_bias(table),
        flags=bias.flags(seen),
        skips=bias.skips(seen),
        suspects=tuple(
            detection.suspects([j for j in counting if j.gold is not None or choice.batch in (None, j.batch)])
        ),
    )


@dataclass(frozen=True)
class ByTime:
    """Rankings made in each hour or day (UTC) that had any; `start` to `end` is what to draw, short at the least."""

    unit: str  # "hour" or "day"
    rows: list[dict[str, str | int]]  # "when" a unit begins, "number"
    start: str
    end: str


def by_time(made: tuple[float, ...]) -> ByTime:
    """By the hour while all was made within two days, and later by the day."""
    hourly = max(made) - min(made) < HOURLY
    length = pace.HOUR if hourly else pace.DAY
    counts = Counter(at // length * length for at in made)
    first, last = min(counts), max(counts)
    return ByTime(
        "hour" if hourly else "day",
        [{"when": _iso(at), "number": counts[at]} for at in sorted(counts)],
        _iso(min(first, last - (FEWEST_UNITS - 1) * length)),
        _iso(last + length),
    )


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def words(estimate: Estimate, *, share: bool = True) -> str:
    """The interval of a value and what it is over, or why there is none: our own words and numbers alone."""
    if estimate.value is None:
        return f"None yet: {estimate.why}."
    if estimate.low is None or estimate.high is None:
        return f"Over {estimate.over}: {estimate.why or FEW}."
    return f"{shown(estimate.low, share)} to {shown(estimate.high, share)} (95 % interval), over {estimate.over}."


def over(estimate: Estimate) -> str:
    """What a value in a table is over and why it has no interval, or why there is no value."""
    if estimate.value is None:
        return estimate.why
    return estimate.over if estimate.low is not None else f"{estimate.over}: {estimate.why or FEW}"


def shown(value: float | None, share: bool = True) -> str:
    """`73 %` or `0.73`; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{100 * value:.0f} %" if share else f"{value:.2f}"


def lasting(hours: float) -> str:
    """`40 minutes`, `15 hours`, `6 days`: as coarse as a forecast is."""
    for unit, length in (("day", 24.0), ("hour", 1.0)):
        if hours >= 2 * length:
            return counted(round(hours / length), unit)
    return counted(max(math.ceil(hours * 60), 1), "minute")
