"""Intervals: against scipy's bootstrap, statsmodels' Wilson interval, and how often they cover the truth."""

from __future__ import annotations

import time

import numpy as np
import pytest
from scipy import sparse, stats
from statsmodels.stats.proportion import proportion_confint

from rlhf.preferences.statistics.estimate import (
    FEW,
    MANY,
    SAME,
    Estimate,
    bootstrap,
    counted,
    estimated,
    estimated_share,
    proportion,
    ratio,
    wilson,
)


def test_the_interval_of_a_ratio_is_scipys() -> None:
    rng = np.random.default_rng(1)
    hits = rng.binomial(6, 0.7, size=300)
    units = np.stack([hits, np.full(300, 6)], axis=1)
    low, high = bootstrap(units, ratio, resamples=4000)
    other = stats.bootstrap((hits,), lambda h, axis: h.sum(axis) / (6 * 300), n_resamples=4000, method="percentile")
    assert low == pytest.approx(other.confidence_interval.low, abs=0.003)
    assert high == pytest.approx(other.confidence_interval.high, abs=0.003)
    assert (low, high) == bootstrap(units, ratio, resamples=4000)  # the same again
    assert (low, high) != bootstrap(units, ratio, resamples=4000, seed=1)


def test_an_interval_covers_the_truth_about_95_times_in_100() -> None:
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(200):
        pairs = rng.integers(1, 7, size=60)  # units of different size
        units = np.stack([rng.binomial(pairs, 0.6), pairs], axis=1)
        low, high = bootstrap(units, ratio, resamples=400)
        assert low is not None and high is not None
        covered += low <= 0.6 <= high
    assert 180 <= covered <= 199


def test_units_of_any_shape_are_summed() -> None:
    """Twenty times the same unit: every resample has the same sums."""
    units = np.tile([[1.0, 2.0], [3.0, 4.0]], (20, 1, 1))
    assert bootstrap(units, lambda sums: sums[:, 1, 0] / sums[:, 0, 1]) == (1.5, 1.5)


def test_few_units_have_a_value_and_no_interval() -> None:
    found = estimated([[1, 2]] * 9, ratio, n=18, over="18 pairs of 9 tasks", why="needs more")
    assert found == Estimate(0.5, None, None, 18, "18 pairs of 9 tasks", FEW)
    assert estimated_share([[1, 2]] * 9, n=18, over="18 pairs of 9 tasks", why="needs more") == found
    one_more = [[1, 2]] * 9 + [[0, 2]]
    assert estimated(one_more, ratio, n=20, over="", why="").low is not None
    assert estimated_share(one_more, n=20, over="", why="").low is not None


def test_units_that_all_say_the_same_have_no_bootstrap_interval() -> None:
    """Wilson's of 10 cases, 10 of them hits, is 1 / (1 + 1.96^2 / 10) to 1; a unit is a case, however large it is."""
    alike = [[3, 3], [6, 6]] * 5
    assert estimated(alike, ratio, n=45, over="x", why="y") == Estimate(1.0, None, None, 45, "x", SAME)
    found = estimated_share(alike, n=45, over="x", why="y")
    assert (found.value, found.low, found.high) == (1.0, pytest.approx(0.7225, abs=1e-4), pytest.approx(1.0))
    half = estimated_share([[1, 2]] * 12, n=24, over="x", why="y")
    assert (half.low, half.high) == pytest.approx(proportion_confint(6, 12, method="wilson"))


def test_without_resamples_there_is_a_value_and_the_reason_why_no_more() -> None:
    alike = [[1, 2], [2, 2]] * 10
    nothing_more = Estimate(0.75, None, None, 40, "x", MANY)
    assert estimated(alike, ratio, n=40, over="x", why="y", resamples=0) == nothing_more
    assert estimated_share(alike, n=40, over="x", why="y", resamples=0) == nothing_more


@pytest.mark.parametrize(("tasks", "share"), [(10, 0.9), (12, 0.9), (12, 0.97), (20, 0.7), (40, 0.9)])
def test_the_interval_of_a_share_covers_the_truth_where_tasks_are_few(tasks: int, share: float) -> None:
    """Each task is one pair. Of the tasks alone, 12 at 0.9 are covered 7 times in 10."""
    rng = np.random.default_rng(3)
    covered = 0
    for hits in rng.random((400, tasks)) < share:
        found = estimated_share(np.column_stack([hits, np.ones(tasks)]), n=tasks, over="", why="", resamples=400)
        assert found.low is not None and found.high is not None and found.low < found.high
        covered += found.low <= share <= found.high
    assert covered >= 368  # 92 %


def test_sparse_units_are_the_same_units() -> None:
    units = np.random.default_rng(4).random((30, 2))
    assert bootstrap(sparse.csr_array(units), ratio) == pytest.approx(bootstrap(units, ratio), abs=1e-12)


def test_without_units_or_a_value_the_reason_is_given() -> None:
    nothing = Estimate(None, None, None, 0, "0 pairs", "needs two people")
    assert estimated(np.empty((0, 2)), ratio, n=0, over="0 pairs", why="needs two people") == nothing
    assert estimated([[0, 0]] * 20, ratio, n=0, over="0 pairs", why="needs two people") == nothing


def test_resamples_without_a_value_are_left_out_and_most_of_them_are_no_interval() -> None:
    """One unit of twenty says something: about 64 of 100 resamples hold it, about 26 of 100 hold it twice."""
    one = np.zeros((20, 2))
    one[0] = (1, 4)
    assert bootstrap(one, ratio) == (0.25, 0.25)
    assert bootstrap(one, lambda sums: np.where(sums[:, 1] >= 8, 0.25, np.nan)) == (None, None)


@pytest.mark.parametrize(("hits", "n"), [(0, 5), (5, 5), (3, 17), (41, 60), (1, 1)])
def test_wilson_is_statsmodels(hits: int, n: int) -> None:
    assert wilson(hits, n) == pytest.approx(proportion_confint(hits, n, method="wilson"), abs=1e-12)
    found = proportion(hits, n, over="x", why="y")
    assert (found.value, found.n, found.over, found.why) == (hits / n, n, "x", "")


def test_a_share_of_nothing_says_why() -> None:
    assert wilson(0, 0) == (None, None)
    assert proportion(0, 0, over="0 pairs", why="needs a pair") == Estimate(
        None, None, None, 0, "0 pairs", "needs a pair"
    )


def test_five_thousand_units_take_a_moment() -> None:
    """Measured: 0.05 s on one core. A loop over resamples in Python would take many times the limit."""
    units = np.random.default_rng(0).random((5000, 30))
    start = time.process_time()
    bootstrap(units, ratio)
    assert time.process_time() - start < 1.0


def test_numbers_have_their_noun() -> None:
    assert [counted(n, "task") for n in (0, 1, 2, 1667)] == ["0 tasks", "1 task", "2 tasks", "1,667 tasks"]
