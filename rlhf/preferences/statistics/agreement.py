"""How far people agree who ranked the same completions: overall, each against the others, and any two.

Three measures. The share of pairs ordered alike is the plainest; Krippendorff's alpha takes away what chance would
give; Kendall's W says how much a task's rankings go together as wholes. Intervals are bootstraps over tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rlhf.preferences.statistics.estimate import APART, RESAMPLES, Estimate, Floats, counted, estimated, ratio
from rlhf.preferences.statistics.table import Ints, RankTable, mid_ranks, orders, rank_table, summed
from rlhf.preferences.types import Judged

TOGETHER = "needs a task that two people ranked"
NOT_TIED = "needs a pair of completions that two people ranked and neither tied"
VARIED = "needs ranks that differ: so far every rank given is the same"
COMPLETE = "needs a task that two people ranked completely, with not everything tied"


@dataclass(frozen=True)
class Agreed:
    """A measure overall, of each labeler against everybody else on the same tasks, and of two labelers.

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

    def one(units: Floats, resamples: int = RESAMPLES) -> Estimate:
        used = units[units[:, 1] > 0]
        pairs = int(used[:, 1].sum())
        over = f"{counted(pairs, 'pair')} of {counted(len(used), 'task')}"
        return estimated(used, ratio, n=pairs, over=over, why=NOT_TIED if len(units) else TOGETHER, resamples=resamples)

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
    values, a, b, weights, meeting = _coincidences(table, first, second)
    low, high = np.minimum(a, b), np.maximum(a, b)
    cells, cell = np.unique(low * max(len(values), 1) + high, return_inverse=True)
    number = np.bincount(meeting, minlength=len(first))  # of coincidences, for `over`

    def parts(weight: Floats) -> Floats:
        met = np.bincount(meeting * len(cells) + cell, weight, minlength=len(first) * len(cells))
        return np.column_stack([met.reshape(len(first), len(cells)), number])

    statistic = _alpha_of(cells // max(len(values), 1), cells % max(len(values), 1), len(values))

    def one(units: Floats, resamples: int = RESAMPLES) -> Estimate:
        used = units[units[:, -1] > 0]
        n = int(used[:, -1].sum())
        over = f"{counted(n, 'pair')} of ranks in {counted(len(used), 'task')}"
        return estimated(
            used[:, :-1], statistic, n=n, over=over, why=VARIED if len(used) else TOGETHER, resamples=resamples
        )

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
        return estimated(means, ratio, n=len(used), over=counted(len(used), "task"), why=COMPLETE, resamples=resamples)

    groups = _agreed(table, first, second, parts, one)
    return Agreed(one(np.stack([whole, np.ones(len(whole))], axis=1)), groups.by_labeler, groups.by_pair)


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


def _agreed(
    table: RankTable,
    first: Ints,
    second: Ints,
    parts: Floats,
    one: Callable[..., Estimate],
    of_two: Floats | None = None,
) -> Agreed:
    """The measure `one` of the parts [P, C] that meetings of two people add: of all, by labeler, by two.

    `of_two`: the parts where only those two people count, if these are others.
    """
    tasks = table.task[first]
    everyone = [units for _, units in summed(np.zeros_like(tasks), tasks, parts)]
    a, b = table.person[first], table.person[second]
    by_person = dict(summed(np.concatenate([a, b]), np.concatenate([tasks, tasks]), np.concatenate([parts, parts])))
    by_two = summed(a * len(table.people) + b, tasks, parts if of_two is None else of_two)
    nothing = np.empty((0, parts.shape[1]))
    return Agreed(
        one(everyone[0] if everyone else nothing),
        {name: one(by_person.get(i, nothing), APART) for i, name in enumerate(table.people)},
        {(table.people[i // len(table.people)], table.people[i % len(table.people)]): one(u, APART) for i, u in by_two},
    )


def _compared(table: RankTable, first: Ints, second: Ints) -> tuple[Ints, Ints, Ints, Ints]:
    """How many pairs of completions that both rows rank: ordered alike, tied by one, by both, ordered against; [P]."""
    order = orders(table.ranks)
    a, b = order[first], order[second]
    product, size = a * b, np.abs(a) + np.abs(b)  # NaN equals nothing, so what is not ranked counts nowhere
    return (product > 0).sum(axis=1), (size == 1).sum(axis=1), (size == 0).sum(axis=1), (product < 0).sum(axis=1)


def _coincidences(table: RankTable, first: Ints, second: Ints) -> tuple[Floats, Ints, Ints, Floats, Ints]:
    """The values that occur [V]; then, for each completion that the two people of a meeting ranked: the first one's
    value and the second one's (indices), the weight 1 / (people who ranked it - 1), and the meeting."""
    ranked = ~np.isnan(table.ranks)
    common = ranked[first] & ranked[second]
    common &= common.sum(axis=1, keepdims=True) >= 2  # of one completion there is no order
    m = common.sum(axis=1, keepdims=True)
    places = [
        (2 * mid_ranks(np.where(common, table.ranks[rows], np.nan))[0] - 1) / np.maximum(2 * m, 1)
        for rows in (first, second)
    ]
    many = np.zeros((len(table.task_ids), table.ranks.shape[1]))
    np.add.at(many, table.task, ranked)
    meeting = np.nonzero(common)[0]
    values, index = np.unique(np.concatenate([places[0][common], places[1][common]]), return_inverse=True)
    weights = 1.0 / (many[table.task[first]][common] - 1.0)
    return values, index[: len(meeting)], index[len(meeting) :], weights, meeting


def _alpha_of(low: Ints, high: Ints, values: int) -> Callable[[Floats], Floats]:
    """Alpha as a statistic of summed weights [R, cells]; cell i says that values low[i] and high[i] met.

    The ordinal distance of two values is the number of values between them, each end counted half: the difference of
    `scale`. See Krippendorff, Computing Krippendorff's Alpha-Reliability, 2011.
    """
    ends = np.zeros((len(low), values))
    np.add.at(ends, (np.arange(len(low)), low), 1.0)
    np.add.at(ends, (np.arange(len(low)), high), 1.0)

    def statistic(sums: Floats) -> Floats:
        counts = sums @ ends  # [R, V], how often each value was given
        total = counts.sum(axis=1)
        scale = np.cumsum(counts, axis=1) - counts / 2
        observed = 2 * (sums * (scale[:, low] - scale[:, high]) ** 2).sum(axis=1)
        mean = ratio(np.stack([(counts * scale).sum(axis=1), total], axis=1))
        expected = 2 * total * (counts * (scale - mean[:, None]) ** 2).sum(axis=1)
        varied = (counts > 0).sum(axis=1) > 1
        share = np.divide((total - 1) * observed, expected, out=np.full(len(sums), np.nan), where=varied)
        result: Floats = 1 - share
        return result

    return statistic


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
