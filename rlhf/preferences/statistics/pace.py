"""How far a campaign is, how fast it goes, how long people take, and how they do on tasks whose answer is known."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from rlhf.preferences.statistics.estimate import Estimate, counted, proportion
from rlhf.preferences.types import Judged

HOUR, DAY = 3600.0, 86400.0
FEWEST_TIMES = 5  # rankings of a person, to call them fast
FAST = 1 / 3  # of the crowd's median: three times as fast as the person in the middle
DONE = "nothing is left to rank"
NO_GOLD = "needs a ranking of a gold task"


@dataclass(frozen=True)
class Places:
    """Each task wants so many people: that many places. `done` of `wanted` are filled, `finished` of `tasks` full."""

    done: int
    wanted: int
    finished: int
    tasks: int


@dataclass(frozen=True)
class Pace:
    """How fast rankings come in now, and when the rest is done if it goes on so.

    `hours` is calendar time, nights and breaks as in the last day; None with nothing left, or if nobody ranked in it.
    """

    last_hour: int
    last_day: int
    per_hour: float | None
    hours: float | None
    why: str = ""  # why `hours` is None


@dataclass(frozen=True)
class Times:
    """Active seconds of one ranking: median and quartiles of `n`."""

    n: int
    median: float
    low: float
    high: float


@dataclass(frozen=True)
class TimesOf:
    """Of everybody and of each labeler. `fast`: whose median is below `limit`, implausibly quick beside the others."""

    overall: Times | None
    by_labeler: dict[str, Times]
    limit: float | None
    fast: tuple[str, ...]


@dataclass(frozen=True)
class Accuracy:
    """On gold tasks, the share of pairs that the known answer orders which people order alike."""

    overall: Estimate
    by_labeler: dict[str, Estimate]


def made_here(judged: Sequence[Judged]) -> list[float]:
    """When each ranking was made that fills a place of a task: no imported one, no skip, no surplus, no gold task."""
    return [j.at for j in judged if _fills(j)]


def places(judged: Sequence[Judged], left: Mapping[int, int]) -> Places:
    """How far the queue is: `left` says, of each task that still wants people, how many."""
    done = Counter(j.task_id for j in judged if _fills(j))
    finished = len(done.keys() - left.keys())
    return Places(done.total(), done.total() + sum(left.values()), finished, finished + len(left))


def pace(made: Sequence[float], remaining: int, *, now: float) -> Pace:
    """The pace of the last 24 hours, and how long `remaining` places take at that pace.

    `made`: when rankings were made, `now`: both in seconds since 1970. A campaign younger than a day is paced from its
    first ranking, over an hour at least.
    """
    last_hour, last_day = (sum(now - at < span for at in made) for span in (HOUR, DAY))
    if not last_day:
        why = "nobody ranked in the last 24 hours" if made else "nobody has ranked yet"
        return Pace(0, 0, None, None, why if remaining else DONE)
    per_hour = last_day / (min(max(now - min(made), HOUR), DAY) / HOUR)
    return Pace(last_hour, last_day, per_hour, remaining / per_hour if remaining else None, "" if remaining else DONE)


def times(judged: Sequence[Judged]) -> TimesOf:
    """How long people work on a ranking, breaks left out. Skips and imported rankings have no such time.

    Fast is a person of 5 or more rankings whose median is below a third of the crowd's: the median of all such
    people's medians, if there are three of them at least.
    """
    found: dict[str, list[float]] = {}
    for j in judged:
        if j.ranks and j.seconds is not None:
            found.setdefault(j.labeler, []).append(j.seconds)
    by_labeler = {name: _times(found[name]) for name in sorted(found)}
    enough = {name: t.median for name, t in by_labeler.items() if t.n >= FEWEST_TIMES}
    limit = FAST * statistics.median(enough.values()) if len(enough) >= 3 else None
    fast = () if limit is None else tuple(name for name, median in enough.items() if median < limit)
    everyone = [seconds for each in found.values() for seconds in each]
    return TimesOf(_times(everyone) if everyone else None, by_labeler, limit, fast)


def gold_accuracy(judged: Sequence[Judged]) -> Accuracy:
    """How people do on the gold tasks among these judgments. A pair they tie or leave unranked is not ordered alike.

    Intervals are Wilson's: they hold for few tasks, and take the pairs of a task for independent.
    """
    totals: dict[str, list[int]] = {}
    for j in judged:
        if j.gold is not None and j.ranks:
            of = totals.setdefault(j.labeler, [0, 0, 0])
            of[0] += 1
            for a, b in combinations(j.gold, 2):
                right = _order(j.gold[a], j.gold[b])
                of[1] += right != 0
                of[2] += right != 0 and _order(j.ranks.get(a), j.ranks.get(b)) == right
    by_labeler = {name: _accuracy(*totals[name]) for name in sorted(totals)}
    return Accuracy(_accuracy(*(sum(of[i] for of in totals.values()) for i in range(3))), by_labeler)


def _fills(j: Judged) -> bool:
    return bool(j.ranks and j.shown) and not j.surplus and j.gold is None


def _accuracy(tasks: int, pairs: int, agreed: int) -> Estimate:
    return proportion(agreed, pairs, over=f"{counted(pairs, 'pair')} of {counted(tasks, 'gold task')}", why=NO_GOLD)


def _order(first: int | None, second: int | None) -> int:
    """1: the first is better, -1: the second, 0: a tie or unknown."""
    if first is None or second is None:
        return 0
    return (first < second) - (first > second)


def _times(seconds: Sequence[float]) -> Times:
    low, median, high = np.percentile(seconds, [25, 50, 75])
    return Times(len(seconds), float(median), float(low), float(high))
