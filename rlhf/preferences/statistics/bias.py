"""What sways people besides the text: a completion's place on the screen, its length. And what they flag and skip."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from rlhf.preferences.statistics.estimate import (
    APART,
    RESAMPLES,
    Estimate,
    Floats,
    counted,
    estimated_share,
    proportion,
)
from rlhf.preferences.statistics.table import RankTable, orders, rank_table, summed
from rlhf.preferences.types import Judged

NO_FIRST = "needs rankings made here with one best completion"
NO_LENGTHS = "needs a pair of completions of different length that somebody ordered"
FEWEST_EXPECTED = 5.0  # first places a position should have by chance, for chi-square to hold
TOO_FEW = "needs about 5 first places for every position"


@dataclass(frozen=True)
class Position:
    """How often the card at this place on the screen (from 1) came first; `expected`: if only the text mattered."""

    position: int
    share: Estimate
    expected: float


@dataclass(frozen=True)
class PositionBias:
    """First places by position on the screen. `p`: how likely chance alone gives shares as uneven, by chi-square."""

    positions: tuple[Position, ...]
    p: float | None
    why: str = ""  # why `p` is None

    @property
    def first(self) -> Estimate:
        """The first card's share."""
        return self.positions[0].share if self.positions else Estimate(None, None, None, 0, "0 rankings", NO_FIRST)


@dataclass(frozen=True)
class PositionBiases:
    """Of everybody, and of each labeler."""

    overall: PositionBias
    by_labeler: dict[str, PositionBias]


@dataclass(frozen=True)
class LengthBias:
    """The share of pairs in which the longer completion is preferred; without bias and real difference, 1/2."""

    overall: Estimate
    by_labeler: dict[str, Estimate]


@dataclass(frozen=True)
class Flags:
    """How often each flag was given, by labeler, and by who wrote the completion ("" = unknown).

    The estimates are shares of completions in somebody's rankings that carry any flag.
    """

    by_name: dict[str, int]
    by_labeler: dict[str, Estimate]
    by_source: dict[str, Estimate]


@dataclass(frozen=True)
class Skips:
    """How often each reason was given for a skip ("" = none), and the share of each labeler's tasks that they skip."""

    by_reason: dict[str, int]
    by_labeler: dict[str, Estimate]


def position_bias(judged: Sequence[Judged]) -> PositionBiases:
    """Which place on the screen the best completion had, in rankings with an untied best; imported ones have no screen.

    Everybody sees a task in an order of their own drawing, so text alone gives each of K places 1/K.
    """
    found: dict[str, list[tuple[int, int]]] = {}
    for j in judged:
        best = min((r for r in j.ranks.values() if r is not None), default=None)
        winners = [c for c, r in j.ranks.items() if r is not None and r == best]
        if len(winners) == 1 and winners[0] in j.shown:
            found.setdefault(j.labeler, []).append((j.shown.index(winners[0]), len(j.shown)))
    everyone = [pair for pairs in found.values() for pair in pairs]
    people = sorted({j.labeler for j in judged if j.ranks and j.shown})
    return PositionBiases(_positions(everyone), {name: _positions(found.get(name, [])) for name in people})


def length_bias(judged: Sequence[Judged] | RankTable) -> LengthBias:
    """How often the longer of two completions is preferred, over pairs that are not tied and differ in length.

    Longer ones may well be better: this says what people do, not whether they are wrong. Intervals are over tasks.
    """
    table = rank_table(judged)
    order = orders(table.ranks)
    longer = -orders(_lengths(table))  # 1: the first is longer
    product = order * longer
    parts = np.stack([(product > 0).sum(axis=1), (np.abs(product) > 0).sum(axis=1)], axis=1).astype(np.float64)

    def one(units: Floats, resamples: int = RESAMPLES) -> Estimate:
        used = units[units[:, 1] > 0]
        pairs = int(used[:, 1].sum())
        over = f"{counted(pairs, 'pair')} of {counted(len(used), 'task')}"
        return estimated_share(used, n=pairs, over=over, why=NO_LENGTHS, resamples=resamples)

    everyone = dict(summed(np.zeros_like(table.task), table.task, parts))
    by_person = dict(summed(table.person, table.task, parts))
    return LengthBias(
        one(everyone.get(0, np.empty((0, 2)))), {name: one(by_person[i], APART) for i, name in enumerate(table.people)}
    )


def flags(judged: Sequence[Judged]) -> Flags:
    """What was flagged in the rankings among these judgments; a skip says nothing of single completions."""
    by_name: Counter[str] = Counter()
    flagged: Counter[tuple[str, str]] = Counter()
    seen: Counter[tuple[str, str]] = Counter()
    for j in judged:
        for completion in j.ranks:
            given = j.flags.get(completion, ())
            by_name.update(given)
            for key in (("labeler", j.labeler), ("source", j.sources.get(completion, ""))):
                seen[key] += 1
                flagged[key] += bool(given)

    def shares(kind: str) -> dict[str, Estimate]:
        names = sorted(name for what, name in seen if what == kind)
        return {name: _share(flagged[kind, name], seen[kind, name]) for name in names}

    return Flags(dict(by_name.most_common()), shares("labeler"), shares("source"))


def skips(judged: Sequence[Judged]) -> Skips:
    """Who passed tasks over, and why."""
    reasons = Counter(j.skip_reason or "" for j in judged if not j.ranks)
    skipped = Counter(j.labeler for j in judged if not j.ranks)
    seen = Counter(j.labeler for j in judged)
    shares = {
        name: proportion(skipped[name], seen[name], over=counted(seen[name], "task"), why="needs a judgment")
        for name in sorted(seen)
    }
    return Skips(dict(reasons.most_common()), shares)


def _share(hits: int, n: int) -> Estimate:
    return proportion(hits, n, over=f"{counted(n, 'completion')} in rankings", why="needs a ranking")


def _positions(found: list[tuple[int, int]]) -> PositionBias:
    """From (place of the best, number of cards) of each ranking."""
    sizes = Counter(size for _, size in found)
    taken = Counter(found)
    places = []
    for position in range(max(sizes, default=0)):
        n = sum(number for size, number in sizes.items() if size > position)
        hits = sum(taken[position, size] for size in sizes)
        expected = sum(number / size for size, number in sizes.items() if size > position) / n
        share = proportion(hits, n, over=counted(n, "ranking"), why=NO_FIRST)
        places.append(Position(position + 1, share, expected))
    p = _chi_square({size: [taken[i, size] for i in range(size)] for size in sizes})
    why = "" if p is not None else TOO_FEW if found else NO_FIRST
    return PositionBias(tuple(places), p, why)


def _chi_square(taken: dict[int, list[int]]) -> float | None:
    """The p-value of first places by position, added up over tasks of different size; None where too few."""
    enough = [counts for size, counts in taken.items() if sum(counts) / size >= FEWEST_EXPECTED]
    if not enough:
        return None
    statistic = sum(float(stats.chisquare(counts).statistic) for counts in enough)
    return float(stats.chi2.sf(statistic, sum(len(counts) - 1 for counts in enough)))


def _lengths(table: RankTable) -> Floats:
    """Characters of each completion, laid out as `table.ranks`; NaN where unknown."""
    found = np.full(table.ranks.shape, np.nan)
    for row, j in enumerate(table.judged):
        for column, completion in enumerate(table.columns[int(table.task[row])]):
            found[row, column] = j.lengths.get(completion, np.nan)
    return found
