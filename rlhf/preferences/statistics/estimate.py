"""A number with its 95 % interval and what it is over; or, where it is undefined, why."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

Floats = npt.NDArray[np.float64]
RESAMPLES = 1000
APART = 400  # resamples where each labeler, or any two, have an interval: of those there are many
FEWEST_UNITS = 10  # of fewer, a percentile interval is far too narrow: none is better than a wrong one
Z95 = 1.959963984540054
NO_SPREAD = 1e-9  # an interval narrower than this is none
AT_ONCE = 500_000  # weights or sums at a time: 4 MB, which stays in the cache
FEW = "too few tasks for an interval"
SAME = "every task says the same, and that tells no interval"
MANY = "so many of them are shown without intervals"


@dataclass(frozen=True)
class Estimate:
    """`value` with its 95 % interval from `low` to `high`, each None where undefined.

    `n` is how many of what `over` names ("212 pairs of 40 tasks"). `why` says in words why there is no value, or none
    but the value.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    over: str
    why: str = ""


def bootstrap(
    per_unit: npt.ArrayLike | sparse.csr_array,
    statistic: Callable[[Floats], Floats],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float | None, float | None]:
    """The 95 % percentile interval of a statistic of sums, units drawn anew with replacement.

    `per_unit` [N, ...] is what each unit (a task, unless said otherwise) adds to the sums. `statistic` maps sums
    [some resamples, ...] to their values, NaN where undefined; such resamples are left out. (None, None) for fewer
    than 10 units, or where more than half of the resamples are undefined. The same input gives the same interval.
    """
    units = per_unit if isinstance(per_unit, sparse.csr_array) else np.asarray(per_unit, dtype=np.float64)
    n, *shape = units.shape
    if n < FEWEST_UNITS:
        return None, None
    rng = np.random.default_rng(seed)
    flat = units if isinstance(units, sparse.csr_array) else units.reshape(n, -1)
    values = np.empty(resamples)
    step = max(1, AT_ONCE // max(n, flat.shape[1]))
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = rng.integers(0, n, size=(rows, n), dtype=np.int32)
        drawn += np.arange(0, rows * n, n, dtype=np.int32)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
        sums = times.astype(np.float64) @ flat
        values[start : start + rows] = statistic(sums.reshape(rows, *shape))
    values = values[np.isfinite(values)]
    if len(values) * 2 < resamples:
        return None, None
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def estimated(
    per_unit: npt.ArrayLike | sparse.csr_array,
    statistic: Callable[[Floats], Floats],
    *,
    n: int,
    over: str,
    why: str,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """The statistic of all units' sum with its `bootstrap` interval; without a value, `why` says what is missing.

    There is no interval of fewer than 10 units, of units that all say the same, or with `resamples` 0.
    """
    units = per_unit if isinstance(per_unit, sparse.csr_array) else np.asarray(per_unit, dtype=np.float64)
    value = _value(units, statistic)
    if value is None:
        return Estimate(None, None, None, n, over, why)
    if units.shape[0] < FEWEST_UNITS or not resamples:
        return Estimate(value, None, None, n, over, MANY if units.shape[0] >= FEWEST_UNITS else FEW)
    low, high = bootstrap(units, statistic, resamples=resamples, seed=seed)
    if low is None or high is None:
        return Estimate(value, None, None, n, over, FEW)
    if high - low < NO_SPREAD:
        return Estimate(value, None, None, n, over, SAME)
    return Estimate(value, low, high, n, over)


def estimated_share(
    per_unit: npt.ArrayLike, *, n: int, over: str, why: str, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """The share of all cases that are hits, units being (hits, cases) [N, 2]; with its interval, as `estimated`.

    Resamples are of the units and two made-up ones of usual size, one all hits and one none: of few units or of shares
    near 0 or 1, the units alone give far too narrow an interval. Units that all say the same get Wilson's, each unit
    counting as one case.
    """
    units = np.asarray(per_unit, dtype=np.float64)
    value = _value(units, ratio)
    if value is None or len(units) < FEWEST_UNITS or not resamples:
        return estimated(units, ratio, n=n, over=over, why=why, resamples=0)
    shares = ratio(units)
    if np.nanmax(shares) - np.nanmin(shares) < NO_SPREAD:
        return Estimate(value, *wilson(value * len(units), len(units)), n, over)
    size = units[:, 1].mean()
    made_up = [[size, size], [0.0, size]]
    return Estimate(value, *bootstrap(np.concatenate([units, made_up]), ratio, resamples=resamples, seed=seed), n, over)


def _value(units: Floats | sparse.csr_array, statistic: Callable[[Floats], Floats]) -> float | None:
    value = float(statistic(np.asarray(units.sum(axis=0))[None])[0]) if units.shape[0] else math.nan
    return value if math.isfinite(value) else None


def ratio(sums: Floats) -> Floats:
    """First column over second, as a `statistic`; NaN where the second is 0."""
    shares: Floats = np.divide(sums[:, 0], sums[:, 1], out=np.full(len(sums), np.nan), where=sums[:, 1] > 0)
    return shares


def wilson(hits: float, n: int) -> tuple[float | None, float | None]:
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
