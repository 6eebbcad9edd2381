"""How far people agree who ranked the same completions: overall, each against the others, and any two.

Three measures. The share of pairs ordered alike is the plainest; Krippendorff's alpha takes away what chance would
give; Kendall's W says how much a task's rankings go together as wholes. Intervals are bootstraps over tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy import sparse

from rlhf.preferences.statistics.estimate import (
    APART,
    RESAMPLES,
    Estimate,
    Floats,
    counted,
    estimated,
    estimated_share,
    ratio,
)
from rlhf.preferences.statistics.table import Ints, Parts, RankTable, mid_ranks, orders, rank_table, summed
from rlhf.preferences.types import Judged

TOGETHER = "needs a task that two people ranked"
NOT_TIED = "needs a pair of completions that two people ranked and neither tied"
VARIED = "needs ranks that differ: so far every rank given is the same"
COMPLETE = "needs a task that two people ranked completely, with not everything tied"
MOST_APART = 400  # labelers, or twos of them, that have intervals of their own: 28 people make 378 twos
AT_ONCE = 20_000  # meetings compared at a time
DENSE = 2_000_000  # numbers, above which tasks by cells are kept sparse


@dataclass(frozen=True)
class Agreed:
    """A measure overall, of each labeler against everybody else on the same tasks, and of two labelers.

    More than 400 labelers, or twos of them, have values without intervals. Where more than 100 people ranked a task,
    each is compared with some of the others, drawn by chance (`RankTable.same_task`); `over` then says so.
    `by_pair` has the two names in the order of the alphabet, and only those who ranked a task in common.
    """

    overall: Estimate
    by_labeler: dict[str, Estimate]
    by_pair: dict[tuple[str, str], Estimate]


@dataclass(frozen=True)
class Ties:
    """Of the pairs of completions that two people both ranked: tied by neither, by one of them, by both."""

    neither: int
    one: int
    both: int


@dataclass(frozen=True)
class Dispute:
    """How far the people who ranked a task differ: `score` 0 = all alike, 1 = of two people, one reversed the other.

    `pairs` is what the score is over: pairs of people times the pairs of completions that both ranked.
    """

    task_id: int
    score: float
    people: int
    pairs: int


def pairwise(judged: Sequence[Judged] | RankTable) -> Agreed:
    """The share of pairs of completions that two people order alike, of those both ranked and neither tied."""
    table = rank_table(judged)
    first, second = table.same_task()
    agree, _, _, against = _compared(table, first, second)
    parts = np.stack([agree, agree + against], axis=1).astype(np.float64)
    drawn = _drawn(table)

    def one(units: Floats, resamples: int = RESAMPLES) -> Estimate:
        used = units[units[:, 1] > 0]
        pairs = int(used[:, 1].sum())
        over = f"{counted(pairs, 'pair')} of {counted(len(used), 'task')}{drawn}"
        why = NOT_TIED if len(units) else TOGETHER
        return estimated_share(used, n=pairs, over=over, why=why, resamples=resamples)

    return _agreed(table, first, second, parts, one)


def ties(judged: Sequence[Judged] | RankTable) -> Ties:
    """How many pairs `pairwise` has nothing to say of, because one or both tied them."""
    table = rank_table(judged)
    agree, one, both, against = (int(part.sum()) for part in _compared(table, *table.same_task()))
    return Ties(agree + against, one, both)


def alpha(judged: Sequence[Judged] | RankTable) -> Agreed:
    """Krippendorff's alpha with the ordinal metric: 1 = perfect agreement, 0 = as chance would have it.

    A unit is one completion of one task; its values are the places that people gave it. A place is the share of the
    compared completions that stand above it, ties halved: (mid rank - 1/2) / m among m, so that the third of 3 and
    the third of 9 are not the same, and reversing every order changes nothing. Two people's places are taken among
    the completions that both ranked, so that leaving some out disagrees with nobody; where all rank everything this
    is Krippendorff's coincidence matrix to the letter. Of a labeler or of two, only coincidences with them enter.
    """
    table = rank_table(judged)
    first, second = table.same_task()
    values, a, b, weights, number = _coincidences(table, first, second)
    met = np.minimum(a, b).astype(np.int64) * max(values, 1) + np.maximum(a, b)
    cells, cell = np.unique(met, return_inverse=True)
    starts = np.concatenate([[0], np.cumsum(number)])

    def parts(weight: Floats) -> sparse.csr_array:
        """Of each meeting that has any, the weight in each cell, and last how many coincidences, for `over`."""
        each = sparse.csr_array((weight, cell, starts), shape=(len(first), len(cells)))
        return sparse.hstack([each, sparse.csr_array(number[:, None].astype(np.float64))], format="csr")

    drawn = _drawn(table)
    low, high = np.divmod(cells, max(values, 1))

    def one(units: sparse.csr_array, resamples: int = RESAMPLES) -> Estimate:
        n = int(units.data[units.indices == len(cells)].sum())
        sums, statistic = _alpha_of(units, low, high)
        over = f"{counted(n, 'pair')} of ranks in {counted(sums.shape[0], 'task')}{drawn}"
        why = VARIED if n else TOGETHER
        return estimated(sums, statistic, n=n, over=over, why=why, resamples=resamples)

    return _agreed(table, first, second, parts(weights), one, parts(np.ones(len(weights))))


def concordance(judged: Sequence[Judged] | RankTable) -> Agreed:
    """Kendall's W, corrected for ties: 1 = all rank alike. The mean over tasks, each counting once.

    Of a task, all who ranked all of its completions. Chance alone gives about 1 / people, so it compares campaigns of
    the same overlap only. Of a labeler: per task, the mean of W between them and each of the others; there, and of
    two labelers, chance gives 1/2. Tasks where the people compared tie everything have no W and are left out.
    """
    table = rank_table(judged)
    full = np.flatnonzero((~np.isnan(table.ranks)).sum(axis=1) == table.size)
    whole = _w_of_tasks(table, full)
    first, second = table.same_task()
    both = np.isin(first, full) & np.isin(second, full)
    first, second = first[both], second[both]
    two = _w_of_two(table, first, second)
    parts = np.stack([np.nan_to_num(two), ~np.isnan(two)], axis=1)

    def one(units: Floats, resamples: int = RESAMPLES) -> Estimate:
        used = units[units[:, 1] > 0]
        means = np.stack([used[:, 0] / used[:, 1], np.ones(len(used))], axis=1)
        over = counted(len(used), "task") + drawn
        return estimated(means, ratio, n=len(used), over=over, why=COMPLETE, resamples=resamples)

    drawn = ""  # of the tasks themselves, everybody counts
    overall = one(np.stack([whole, np.ones(len(whole))], axis=1))
    drawn = _drawn(table)
    groups = _agreed(table, first, second, parts, one)
    return Agreed(overall, groups.by_labeler, groups.by_pair)


def disputed(judged: Sequence[Judged] | RankTable) -> list[Dispute]:
    """The tasks of two or more rankings, most disputed first.

    The score is the share of pairs of people times pairs of completions that both ranked on which they differ; a pair
    that one of them ties counts half. A task where no two people ranked the same two completions is left out.
    """
    table = rank_table(judged)
    first, second = table.same_task()
    agree, one, both, against = _compared(table, first, second)
    parts = np.stack([against + one / 2, agree + one + both + against], axis=1)
    people = np.bincount(table.task, minlength=len(table.task_ids))
    found = []
    for index, sums in summed(table.task[first], np.zeros(len(first), dtype=np.int64), parts):
        differ, pairs = sums[0]
        if pairs:
            found.append(Dispute(table.task_ids[index], float(differ / pairs), int(people[index]), int(pairs)))
    return sorted(found, key=lambda d: (-d.score, -d.pairs, d.task_id))


def _drawn(table: RankTable) -> str:
    return ", a random sample of more" if (table.sampled() > 1).any() else ""


def _agreed(
    table: RankTable,
    first: Ints,
    second: Ints,
    parts: Parts,
    one: Callable[..., Estimate],
    of_two: Parts | None = None,
) -> Agreed:
    """The measure `one` of the parts [P, C] that meetings of two people add: of all, by labeler, by two.

    `of_two`: the parts where only those two people count, if these are others.
    """
    tasks = table.task[first]
    everyone = [units for _, units in summed(np.zeros_like(tasks), tasks, parts)]
    a, b = table.person[first], table.person[second]
    stack = sparse.vstack if isinstance(parts, sparse.csr_array) else np.concatenate
    by_person = dict(summed(np.concatenate([a, b]), np.concatenate([tasks, tasks]), stack([parts, parts])))
    by_two = list(summed(a * len(table.people) + b, tasks, parts if of_two is None else of_two))
    nothing = parts[:0]

    def apart(groups: int) -> int:
        return APART if groups <= MOST_APART else 0

    return Agreed(
        one(everyone[0] if everyone else nothing),
        {name: one(by_person.get(i, nothing), apart(len(table.people))) for i, name in enumerate(table.people)},
        {
            (table.people[i // len(table.people)], table.people[i % len(table.people)]): one(u, apart(len(by_two)))
            for i, u in by_two
        },
    )


def _compared(table: RankTable, first: Ints, second: Ints) -> tuple[Ints, Ints, Ints, Ints]:
    """How many pairs of completions that both rows rank: ordered alike, tied by one, by both, ordered against; [P]."""
    order = orders(table.ranks)
    code = np.where(order == 0, 2, np.nan_to_num(order)).astype(np.int8)  # 0: not ranked, so it counts nowhere
    counts = np.empty((4, len(first)), dtype=np.int64)
    for start in range(0, len(first), AT_ONCE):
        these = slice(start, start + AT_ONCE)
        product = code[first[these]] * code[second[these]]
        for row, found in zip(counts, (product == 1, np.abs(product) == 2, product == 4, product == -1), strict=True):
            row[these] = np.count_nonzero(found, axis=1)
    agree, one, both, against = counts
    return agree, one, both, against


def _coincidences(table: RankTable, first: Ints, second: Ints) -> tuple[int, Ints, Ints, Floats, Ints]:
    """How many values occur; for each completion that the two people of a meeting ranked, meeting by meeting: the
    first one's value and the second one's (numbered from the lowest), and the weight 1 / (people who ranked it - 1);
    and of each meeting, how many of these it has."""
    ranked = ~np.isnan(table.ranks)
    width = table.ranks.shape[1]
    above = table.ranks[:, None, :] < table.ranks[:, :, None]
    equal = table.ranks[:, None, :] == table.ranks[:, :, None]
    many = np.zeros((len(table.task_ids), width))
    np.add.at(many, table.task, ranked)
    stands_for = table.sampled()
    number = np.zeros(len(first), dtype=np.int64)
    codes: tuple[list[Ints], list[Ints]] = ([], [])
    weights = [np.empty(0)]
    for start in range(0, len(first), AT_ONCE):
        these = slice(start, start + AT_ONCE)
        common = ranked[first[these]] & ranked[second[these]]
        common &= common.sum(axis=1, keepdims=True) >= 2  # of one completion there is no order
        number[these] = m = common.sum(axis=1)
        for found, rows in zip(codes, (first[these], second[these]), strict=True):
            twice = 2 * np.count_nonzero(above[rows] & common[:, None, :], axis=2)
            twice += np.count_nonzero(equal[rows] & common[:, None, :], axis=2)  # 2 mid ranks - 1
            found.append((m[:, None] * 2 * width + twice)[common].astype(np.int32))
        task = table.task[first[these]]
        weights.append((stands_for[task, None] / np.maximum(many[task] - 1.0, 1.0))[common])
    a, b = (np.concatenate([np.empty(0, dtype=np.int32), *found]) for found in codes)
    occur = np.unique(np.concatenate([np.flatnonzero(np.bincount(found)) for found in (a, b)]))
    values, place = np.unique((occur % (2 * width)) / np.maximum(2 * (occur // (2 * width)), 1), return_inverse=True)
    numbers = np.zeros(int(occur.max(initial=0)) + 1, dtype=np.int32)
    numbers[occur] = place
    return len(values), numbers[a], numbers[b], np.concatenate(weights), number


def _alpha_of(
    units: sparse.csr_array, low: Ints, high: Ints
) -> tuple[Floats | sparse.csr_array, Callable[[Floats], Floats]]:
    """What to sum over units, and alpha as a statistic of the sums.

    `units` [N, cells + 1] are the weights with which values low[i] and high[i] met in each. The sums are those weights
    of unlike values, then how often each value was given; what does not occur here has no row and no column.

    The ordinal distance of two values is the number of values between them, each end counted half: the difference of
    `scale`. See Krippendorff, Computing Krippendorff's Alpha-Reliability, 2011.
    """
    columns = np.flatnonzero(np.bincount(units.indices, minlength=len(low) + 1)[:-1])  # the last one is a number
    kept = units.indices < len(low)
    place = np.zeros(len(low), dtype=np.int64)
    place[columns] = np.arange(len(columns))
    there, row = np.unique(np.repeat(np.arange(units.shape[0]), np.diff(units.indptr))[kept], return_inverse=True)
    shape, here, weights = (len(there), len(columns)), place[units.indices[kept]], units.data[kept]
    met: Floats | sparse.csr_array
    if shape[0] * shape[1] <= DENSE:
        met = np.bincount(row * shape[1] + here, weights, minlength=shape[0] * shape[1]).reshape(shape)
    else:
        met = sparse.csr_array((weights, (row, here)), shape=shape)
    values, ends = np.unique(np.concatenate([low[columns], high[columns]]), return_inverse=True)
    lows, highs = ends[: shape[1]], ends[shape[1] :]
    given = np.zeros((shape[1], len(values)))  # of each cell, how often its weight counts for each value
    np.add.at(given, (np.tile(np.arange(shape[1]), 2), ends), 1.0)
    unlike = np.flatnonzero(lows != highs)
    lows, highs = lows[unlike], highs[unlike]
    stack = np.hstack if isinstance(met, np.ndarray) else partial(sparse.hstack, format="csr")
    parts = stack([met[:, unlike], met @ given])

    def statistic(sums: Floats) -> Floats:
        weights, counts = sums[:, : len(unlike)], sums[:, len(unlike) :]
        total = counts.sum(axis=1)
        scale = np.cumsum(counts, axis=1) - counts / 2
        observed = 2 * (weights * (scale[:, lows] - scale[:, highs]) ** 2).sum(axis=1)
        mean = ratio(np.stack([(counts * scale).sum(axis=1), total], axis=1))
        expected = 2 * total * (counts * (scale - mean[:, None]) ** 2).sum(axis=1)
        varied = (counts > 0).sum(axis=1) > 1
        share = np.divide((total - 1) * observed, expected, out=np.full(len(sums), np.nan), where=varied)
        result: Floats = 1 - share
        return result

    return parts, statistic


def _w_of_tasks(table: RankTable, rows: Ints) -> Floats:
    """Kendall's W of each task that two or more of these rows rank, those without one left out."""
    if not len(rows):
        return np.empty(0)
    mids, tied = mid_ranks(table.ranks[rows])
    task = table.task[rows]
    starts = np.flatnonzero(np.diff(task, prepend=-1))
    m = np.diff(starts, append=len(task)).astype(np.float64)
    sums = np.add.reduceat(np.nan_to_num(mids), starts, axis=0)
    correction = np.add.reduceat(_tie_term(tied), starts)
    found = _w(sums, m, table.size[rows][starts].astype(np.float64), correction)
    return found[(m >= 2) & ~np.isnan(found)]


def _w_of_two(table: RankTable, first: Ints, second: Ints) -> Floats:
    """Kendall's W of two complete rankings of a task, [P]; NaN where both tie everything."""
    mids, tied = mid_ranks(table.ranks)
    mids, term = np.nan_to_num(mids), _tie_term(tied)
    two = np.full(len(first), 2.0)
    return _w(mids[first] + mids[second], two, table.size[first].astype(np.float64), term[first] + term[second])


def _tie_term(tied: Ints) -> Floats:
    """Sum over a row's ties of t^3 - t: each of the t members adds t^2 - 1."""
    term: Floats = np.where(tied > 0, tied**2 - 1, 0).sum(axis=1).astype(np.float64)
    return term


def _w(sums: Floats, m: Floats, k: Floats, correction: Floats) -> Floats:
    """(12 sum R^2 - 3 m^2 k (k + 1)^2) / (m^2 k (k^2 - 1) - m T), for sums R of m people's mid ranks of k."""
    over = 12 * (sums**2).sum(axis=1) - 3 * m**2 * k * (k + 1) ** 2
    under = m**2 * k * (k**2 - 1) - m * correction
    found: Floats = np.divide(over, under, out=np.full(len(over), np.nan), where=under > 0)
    return found
