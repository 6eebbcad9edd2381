"""Who met whom on one task, how reliable that makes them, and tests of it: the arithmetic under detection.py.

A meeting is two rankings of one task. The known answer of a gold task is met as one more person's, called GOLD.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlhf.preferences.statistics.estimate import Floats
from rlhf.preferences.statistics.table import Bools, Ints, RankTable, orders

RATE = 0.1  # of false discoveries
SPREAD = 0.25  # standard deviation of ordinary people's reliability, as a share of what is typical here
GOLD = "\x00"  # nobody can be called so
_STEPS = 60  # of the fit, each half way


@dataclass(frozen=True)
class Meetings:
    """Every two rankings of one task, twice, each as seen by one of them, [M]; the known answer only as the other."""

    row: Ints  # of the table
    person: Ints
    other: Ints
    net: Floats  # pairs ordered alike minus pairs ordered against
    pairs: Floats  # ordered by both

    def those(self, keep: Bools) -> Meetings:
        return Meetings(self.row[keep], self.person[keep], self.other[keep], self.net[keep], self.pairs[keep])


def meet(table: RankTable) -> Meetings:
    """The meetings in which both order some pair of completions."""
    order = orders(table.ranks)
    first, second = table.same_task()
    product = order[first] * order[second]
    net, pairs = np.nansum(product, axis=1), np.nansum(np.abs(product), axis=1)
    row, other = np.concatenate([first, second]), table.person[np.concatenate([second, first])]
    both = Meetings(row, table.person[row], other, np.tile(net, 2), np.tile(pairs, 2))
    gold = np.array([name == GOLD for name in table.people], dtype=np.bool_)
    return both.those((both.pairs > 0) & ~gold[both.person])


def fit(used: Meetings, n: int, fixed: Floats, out: Bools) -> tuple[Floats, Floats]:
    """Reliabilities [N], by least squares one person at a time; and the other's in each meeting, without the one, [M].

    They are held near the crowd's by the weight of four pairs, so that a person of little data weighs as the crowd.
    """
    two, place = np.unique(used.person * n + used.other, return_inverse=True)
    one, other = two // n, two % n
    net, pairs = (added(place, part, len(two)) for part in (used.net, used.pairs))
    back = np.searchsorted(two, other * n + one)  # where the other's view of the one is, if it is here
    back = np.where((back < len(two)) & (two[np.minimum(back, len(two) - 1)] == other * n + one), back, -1)
    weight = np.where(np.isnan(fixed), 0.5, fixed)
    held = 4.0
    for _ in range(_STEPS):
        over = added(one, weight[other] * net, n)
        under = added(one, weight[other] ** 2 * pairs, n)
        inside = np.isnan(fixed) & ~out
        crowd = min(max(float(over[inside].sum() / max(under[inside].sum(), 1e-9)), 0.0), 1.0)
        step = np.clip((over + held * crowd) / (under + held), 0.0, 1.0)
        weight = np.where(np.isnan(fixed), (weight + step) / 2, fixed)
    with np.errstate(invalid="ignore"):
        reliability = np.where(under > 0, over / np.maximum(under, 1e-9), np.nan)
    mine = np.where(back >= 0, weight[one], 0.0)
    others = (over[other] - mine * net + held * crowd) / (np.maximum(under[other] - mine**2 * pairs, 0) + held)
    without = np.where(np.isnan(fixed[other]), np.clip(others, 0.0, 1.0), 1.0)
    return reliability, without[place]


def added(person: Ints, values: Floats | Bools, n: int) -> Floats:
    """Each person's sum, [N]."""
    return np.bincount(person, values, minlength=n).astype(np.float64)


def score(residuals: Floats, person: Ints, n: int) -> Floats:
    """Each person's sum of residuals over the root of their sum of squares [N]: about standard normal under the null.

    It is at most the root of their number, however extreme they are.
    """
    total = added(person, residuals, n)
    size = np.sqrt(added(person, residuals**2, n))
    return np.divide(total, size, out=np.zeros(n), where=size > 0)


def below(x: Floats, d: Floats, person: Ints, typical: float, n: int) -> Floats:
    """How far each person's reliability sum(x) / sum(d) is from the crowd's, in standard deviations, [N].

    The crowd's are taken as normal about what is typical, with SPREAD times that as standard deviation.
    """
    total, size = added(person, x - typical * d, n), added(person, d, n)
    spread = np.sqrt(added(person, (x - typical * d) ** 2, n) + (SPREAD * typical * size) ** 2)
    return np.divide(total, spread, out=np.zeros(n), where=spread > 0)


def discoveries(p: Floats, candidates: Bools) -> Bools:
    """Whose null is rejected, by Benjamini and Hochberg's procedure at RATE over the candidates."""
    values = np.sort(p[candidates])
    passing = np.flatnonzero(values <= RATE * np.arange(1, len(values) + 1) / max(len(values), 1))
    found: Bools = candidates & (p <= values[passing[-1]]) if len(passing) else np.zeros_like(candidates)
    return found
