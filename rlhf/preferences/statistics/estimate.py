"""A number with its 95 % interval and what it is over; or, where it is undefined, why."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
RESAMPLES = 1000
APART = 400  # resamples where each labeler, or any two, have an interval: of those there are many
FEWEST_UNITS = 10  # of fewer, a percentile interval is far too narrow: none is better than a wrong one
Z95 = 1.959963984540054
AT_ONCE = 500_000  # weights drawn at a time: 4 MB, which stays in the cache


@dataclass(frozen=True)
class Estimate:
    """`value` with its 95 % interval from `low` to `high`, each None where undefined; `why` then says so in words.

    `n` is how many of what `over` names ("212 pairs of 40 tasks").
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    over: str
    why: str = ""


def bootstrap(
    per_unit: npt.ArrayLike, statistic: Callable[[Floats], Floats], *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float | None, float | None]:
    """The 95 % percentile interval of a statistic of sums, units drawn anew with replacement.

    `per_unit` [N, ...] is what each unit (a task, unless said otherwise) adds to the sums. `statistic` maps sums
    [resamples, ...] to values [resamples], NaN where undefined; such resamples are left out. (None, None) for fewer
    than 10 units, or where more than half of the resamples are undefined. The same input gives the same interval.
    """
    units = np.asarray(per_unit, dtype=np.float64)
    n = len(units)
    if n < FEWEST_UNITS:
        return None, None
    rng = np.random.default_rng(seed)
    flat = units.reshape(n, -1)
    sums = np.empty((resamples, flat.shape[1]))
    step = max(1, AT_ONCE // n)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = rng.integers(0, n, size=(rows, n), dtype=np.int32)
        drawn += np.arange(0, rows * n, n, dtype=np.int32)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
        sums[start : start + rows] = times.astype(np.float64) @ flat
    values = statistic(sums.reshape(resamples, *units.shape[1:]))
    values = values[np.isfinite(values)]
    if len(values) * 2 < resamples:
        return None, None
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def estimated(
    per_unit: npt.ArrayLike,
    statistic: Callable[[Floats], Floats],
    *,
    n: int,
    over: str,
    why: str,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """The statistic of all units' sum with its `bootstrap` interval; without a value, `why` says what is missing."""
    units = np.asarray(per_unit, dtype=np.float64)
    value = float(statistic(units.sum(axis=0)[None])[0]) if len(units) else math.nan
    if not math.isfinite(value):
        return Estimate(None, None, None, n, over, why)
    return Estimate(value, *bootstrap(units, statistic, resamples=resamples, seed=seed), n, over)


def ratio(sums: Floats) -> Floats:
    """First column over second, as a `statistic`; NaN where the second is 0."""
    shares: Floats = np.divide(sums[:, 0], sums[:, 1], out=np.full(len(sums), np.nan), where=sums[:, 1] > 0)
    return shares


def wilson(hits: int, n: int) -> tuple[float | None, float | None]:
    """Wilson's 95 % interval of a plain proportion of `n` independent cases; it holds for few cases and for 0 or n."""
    if not n:
        return None, None
    share, z2 = hits / n, Z95 * Z95
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def proportion(hits: int, n: int, *, over: str, why: str) -> Estimate:
    """`hits` of `n` with Wilson's interval; without cases, `why` says what is missing."""
    if not n:
        return Estimate(None, None, None, 0, over, why)
    return Estimate(hits / n, *wilson(hits, n), n, over)


def counted(number: int, noun: str) -> str:
    """`1 task`, `2 tasks`, `1,667 tasks`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
