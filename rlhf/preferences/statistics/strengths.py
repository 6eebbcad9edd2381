"""Who writes what people prefer: win-rates and Bradley-Terry strengths of the sources of completions, with intervals.

A ranking of K completions says for every two of different sources which one won (equal ranks: a tie, half a win for
each; unranked: nothing). Intervals are by bootstrap over tasks, for what several people say of one task, and of its K
completions among each other, is not independent. Into what is drawn from goes, for each pair that met, a task won by
the one and a task won by the other (after Agresti & Coull 1998): ten wins in ten tasks are no certainty.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from rlhf.preferences.statistics.bradley_terry import (
    Cells,
    Floats,
    Ints,
    bradley_terry,
    can_tell_apart,
    chances,
    limit,
)
from rlhf.preferences.statistics.estimate import FEWEST_UNITS, RESAMPLES, Estimate, counted
from rlhf.preferences.types import Judged

LEAST_APART = 0.01  # share of the lengths' variation that must not be who wrote the text
BINS = 10  # of the length contrast on either side of 0: resamples count what falls into one together
OVERLAP = "who wrote an answer says how long it is, so nothing tells the worth of the one from that of the other"
ALIKE = "all completions that were compared are of one length"
FEW = "needs a ranking of two completions from different sources"


@dataclass(frozen=True)
class Standing:
    """Where one contestant stands.

    Attributes:
        group: contestants of different groups never met, not through others either: nothing compares them.
        win_rate: the share of its comparisons that it won, ties half.
        strength: the chance to beat another contestant of its group, on average over those, by the fitted model.
        equal_length: the same between texts of one length.
        places: the best and the worst place in its group that the intervals of the differences leave open.
        equal_length_places: the same between texts of one length; None where that is not known.
        mean_length: characters of its completions that were compared.
    """

    name: str
    group: int
    win_rate: Estimate
    strength: Estimate
    equal_length: Estimate
    places: tuple[int, int]
    equal_length_places: tuple[int, int] | None
    wins: int
    ties: int
    losses: int
    mean_length: float


@dataclass(frozen=True)
class Leaderboard:
    """All contestants, best first within their groups, largest group first.

    Attributes:
        pairs: by two names, the share of their comparisons that the first won, ties half; absent where they never met.
        length: the chance of the longer of two texts by equally strong contestants, `length_unit` characters apart.
        length_unit: the typical (root mean square) difference in length of two compared texts.
        limited: somebody won, or lost, all comparisons with the rest, so that no finite strength fits: a tie was added
            for every pair that met.
    """

    standings: tuple[Standing, ...]
    pairs: Mapping[tuple[str, str], Estimate]
    length: Estimate
    length_unit: float
    limited: bool
    comparisons: int
    judgments: int
    tasks: int


@dataclass(frozen=True)
class _Games:
    """Every comparison: `(G,)` each; `won` is 1, 0 or 1/2 of `first`, `longer` its characters more than `second`'s.

    `first` and `second` number the names, which are sorted; the lower number is first.
    """

    names: list[str]
    task: Ints
    first: Ints
    second: Ints
    won: Floats
    longer: Floats
    judgments: int
    mean_lengths: list[float]


def leaderboard(judged: Sequence[Judged], *, resamples: int = RESAMPLES, seed: int = 0) -> Leaderboard:
    """Win-rates and strengths from judgments that the caller chose; skips and unknown sources say nothing."""
    games = _games(judged)
    if not games.names:
        nothing = Estimate(None, None, None, 0, "0 comparisons", FEW)
        return Leaderboard((), {}, nothing, 0.0, False, 0, 0, 0)
    drawn = _Drawn.of(games, resamples, seed)
    as_voted = drawn.cells()
    plain, limited = _fitted(as_voted, len(drawn.met))
    over = _over(games.task)
    at_length, unit, length = _at_equal_length(games, drawn, over)
    order = np.lexsort((-plain[0], _by_size(drawn.groups)))
    wins, met = _table(as_voted)
    by_votes = chances(plain, drawn.groups)
    by_text = None if at_length is None else chances(at_length, drawn.groups)
    standings = []
    for i in order.tolist():
        mine = (games.first == i) | (games.second == i)
        won = np.where(games.first == i, games.won, 1 - games.won)[mine]
        own = _over(games.task[mine])
        standings.append(
            Standing(
                name=games.names[i],
                group=int(_by_size(drawn.groups)[i]),
                win_rate=_estimate(_share(wins[:, i].sum(1), met[:, i].sum(1)), len(won), own),
                strength=_estimate(by_votes[:, i], len(won), own),
                equal_length=Estimate(None, None, None, len(won), own, length.why)
                if by_text is None
                else _estimate(by_text[:, i], len(won), own),
                places=_places(plain, drawn.groups, i),
                equal_length_places=None if at_length is None else _places(at_length, drawn.groups, i),
                wins=int((won == 1).sum()),
                ties=int((won == 0.5).sum()),
                losses=int((won == 0).sum()),
                mean_length=games.mean_lengths[i],
            )
        )
    return Leaderboard(
        tuple(standings),
        _pairs(games, drawn.met, wins, met),
        length,
        unit,
        limited,
        len(games.task),
        games.judgments,
        drawn.tasks,
    )


def _games(judged: Sequence[Judged]) -> _Games:
    """The comparisons that the judgments hold, between sources that are known and different."""
    found: list[tuple[int, str, str, float, int]] = []
    lengths: dict[str, dict[int, int]] = {}
    judgments = 0
    for one in judged:
        ranked = {c: rank for c, rank in one.ranks.items() if rank is not None and one.sources.get(c)}
        before = len(found)
        for a, b in combinations(sorted(ranked, key=one.sources.__getitem__), 2):
            if one.sources[a] != one.sources[b]:
                won = 1.0 if ranked[a] < ranked[b] else 0.5 if ranked[a] == ranked[b] else 0.0
                longer = one.lengths[a] - one.lengths[b]
                found.append((one.task_id, one.sources[a], one.sources[b], won, longer))
                for c in (a, b):
                    lengths.setdefault(one.sources[c], {})[c] = one.lengths[c]
        judgments += len(found) > before
    names = sorted(lengths)
    number = {name: i for i, name in enumerate(names)}
    return _Games(
        names,
        np.array([g[0] for g in found], dtype=np.int64),
        np.array([number[g[1]] for g in found], dtype=np.int64),
        np.array([number[g[2]] for g in found], dtype=np.int64),
        np.array([g[3] for g in found], dtype=np.float64),
        np.array([g[4] for g in found], dtype=np.float64),
        judgments,
        [sum(lengths[n].values()) / len(lengths[n]) for n in names],
    )


@dataclass(frozen=True)
class _Drawn:
    """The comparisons as they are (column 0), and as resampled (the others; none for fewer than 10 tasks).

    Attributes:
        tasks: how many tasks they are of; unit: `(G,)`, which of those each is of.
        weights: `(units, 1 + R)`, how often each task is drawn, and behind them the two made-up tasks of each pair.
        met: `(M, 2)`, the pairs that met; pair: `(G,)`, which of those each comparison is of.
    """

    games: _Games
    tasks: int
    unit: Ints
    weights: Floats
    met: Ints
    pair: Ints
    groups: Ints

    @classmethod
    def of(cls, games: _Games, resamples: int, seed: int) -> _Drawn:
        players = len(games.names)
        known, unit = np.unique(games.task, return_inverse=True)
        numbers, pair = np.unique(games.first * players + games.second, return_inverse=True)
        met = np.column_stack(np.divmod(numbers, players))
        links = sparse.coo_array((np.ones(len(met)), met.T), shape=(players, players))
        _, groups = connected_components(links, directed=False)
        units = len(known) + 2 * len(met)
        resamples = resamples if len(known) >= FEWEST_UNITS else 0
        weights = np.zeros((units, 1 + resamples))
        weights[: len(known), 0] = 1.0
        drawn = np.random.default_rng(seed).integers(0, units, size=(units, resamples), dtype=np.int32)
        drawn *= resamples
        drawn += np.arange(resamples, dtype=np.int32)
        counts = np.bincount(drawn.ravel(), minlength=units * resamples)
        weights[:, 1:] = counts.reshape(units, resamples)
        return cls(games, len(known), unit, weights, met, pair, groups.astype(np.int64))

    def cells(self, contrast: Floats | None = None, kind: Ints | None = None, *, point: bool = False) -> Cells:
        """One cell a pair that met, and one a pair and kind of contrast (its mean) where there is one.

        What was made up is in the first ones, without contrast. `point`: of column 0 alone.
        """
        pairs = len(self.met)
        column, of, mean = self.pair, self.met, None
        if contrast is not None and kind is not None:
            low = int(kind.min())
            span = int(kind.max()) - low + 1
            keys, column = np.unique(self.pair * span + kind - low, return_inverse=True)
            mean = np.concatenate([np.zeros(pairs), np.bincount(column, contrast) / np.bincount(column)])
            column, of = column + pairs, np.concatenate([self.met, self.met[keys // span]])
        made_up = np.arange(pairs)
        units = np.concatenate([self.unit, self.tasks + made_up, self.tasks + pairs + made_up])
        column = np.concatenate([column, made_up, made_up])
        won = np.concatenate([self.games.won, np.ones(pairs), np.zeros(pairs)])
        each = np.concatenate([np.ones(len(won)), won]), (np.concatenate([column, column + len(of)]), np.tile(units, 2))
        sums = sparse.csr_array(each, shape=(2 * len(of), len(self.weights)))
        games, wins = np.split(sums @ (self.weights[:, :1] if point else self.weights), 2)
        return Cells(of[:, 0], of[:, 1], mean, games.T, wins.T, self.groups)


def _fitted(cells: Cells, pairs: int) -> tuple[Floats, bool]:
    """Log-strengths `(R, players)`, g behind them where there is a contrast; and whether row 0 had to be limited."""
    cells, limited = limit(cells, np.arange(pairs))
    return bradley_terry(cells), bool(limited[0])


def _at_equal_length(games: _Games, drawn: _Drawn, over: str) -> tuple[Floats | None, float, Estimate]:
    """Log-strengths between texts of one length `(1 + R, players)`, the unit of length, and what a unit is worth.

    The contrast is tanh(difference / unit), as in AlpacaEval 2 (Dubois et al. 2024): one very long text does not
    decide what length is worth. The comparisons themselves are fitted exactly; in resamples, those of about the same
    contrast are counted together.
    """
    unit = math.sqrt(float(np.mean(games.longer**2)))
    if unit == 0:
        return None, 0.0, Estimate(None, None, None, len(games.task), over, ALIKE)
    contrast = np.tanh(games.longer / unit)
    exact = drawn.cells(contrast, np.arange(len(contrast)), point=True)
    if not can_tell_apart(exact, LEAST_APART):
        return None, unit, Estimate(None, None, None, len(games.task), over, OVERLAP)
    fitted, _ = _fitted(exact, len(drawn.met))
    if drawn.weights.shape[1] > 1:
        binned = drawn.cells(contrast, np.rint(contrast * BINS).astype(np.int64))
        fitted = np.vstack([fitted, _fitted(binned, len(drawn.met))[0][1:]])
    longer = 1 / (1 + np.exp(-fitted[:, -1] * math.tanh(1.0)))
    return fitted[:, :-1], unit, _estimate(longer, len(games.task), over)


def _table(cells: Cells) -> tuple[Floats, Floats]:
    """Wins and comparisons `(1 + R, players, players)` of each over each."""
    players = len(cells.groups)
    wins, met = np.zeros((2, len(cells.games), players, players))
    for cell, (i, j) in enumerate(zip(cells.first, cells.second, strict=True)):
        wins[:, i, j] = cells.wins[:, cell]
        wins[:, j, i] = cells.games[:, cell] - cells.wins[:, cell]
        met[:, i, j] = met[:, j, i] = cells.games[:, cell]
    return wins, met


def _pairs(games: _Games, pairs: Ints, wins: Floats, met: Floats) -> dict[tuple[str, str], Estimate]:
    found = {}
    for i, j in pairs.tolist():
        theirs = games.task[(games.first == i) & (games.second == j)]
        for a, b in ((i, j), (j, i)):
            share = _share(wins[:, a, b], met[:, a, b])
            found[games.names[a], games.names[b]] = _estimate(share, len(theirs), _over(theirs))
    return found


def _share(wins: Floats, met: Floats) -> Floats:
    """NaN where nothing was compared."""
    share: Floats = np.divide(wins, met, out=np.full(len(met), np.nan), where=met > 0)
    return share


def _over(task: Ints) -> str:
    """What a number is over, from the task of each comparison."""
    return f"{counted(len(task), 'comparison')} of {counted(len(set(task.tolist())), 'task')}"


def _estimate(values: Floats, n: int, over: str) -> Estimate:
    """The first value, with the interval of those behind it."""
    low, high = _interval(values[1:])
    return Estimate(float(values[0]), low, high, n, over)


def _interval(values: Floats) -> tuple[float | None, float | None]:
    kept = values[np.isfinite(values)]
    if not len(kept):
        return None, None
    low, high = np.percentile(kept, [2.5, 97.5])
    return float(low), float(high)


def _places(strengths: Floats, groups: Ints, i: int) -> tuple[int, int]:
    """Behind all that are stronger in 97.5 % of the resamples, and before all that are weaker in as many."""
    others = [j for j in np.flatnonzero(groups == groups[i]).tolist() if j != i]
    intervals = [_interval(strengths[1:, j] - strengths[1:, i]) for j in others]
    ahead = sum(low is not None and low > 0 for low, _ in intervals)
    behind = sum(high is not None and high < 0 for _, high in intervals)
    return 1 + ahead, 1 + len(others) - behind


def _by_size(groups: Ints) -> Ints:
    """The groups' numbers anew: 0 is the largest."""
    sizes = np.bincount(groups)
    return np.argsort(np.argsort(-sizes, kind="stable"), kind="stable")[groups]
