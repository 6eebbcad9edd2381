"""Pace, time a ranking, accuracy on gold: hand-worked."""

from __future__ import annotations

from typing import Any

import pytest

from rlhf.preferences.statistics.estimate import wilson
from rlhf.preferences.statistics.pace import (
    DAY,
    DONE,
    HOUR,
    NO_GOLD,
    Pace,
    Places,
    Times,
    gold_accuracy,
    made_here,
    pace,
    places,
    times,
)
from rlhf.preferences.types import Judged

NOW = 2_000_000_000.0


def said(task: int, name: str = "ann", *, ago: float = 0.0, **more: Any) -> Judged:
    return Judged(task, "one", name, {1: 1, 2: 2}, shown=(2, 1), at=NOW - ago, **more)


def ago(*hours: float) -> list[float]:
    return [NOW - HOUR * h for h in hours]


def test_the_rest_takes_as_long_as_the_last_days_pace_says() -> None:
    """48 in the last day, 4 of them in the last hour: 2 an hour, so 30 places take 15 hours. Older ones are past."""
    made = ago(*[100] * 500, *[0.5] * 4, *[5] * 44)
    assert pace(made, 30, now=NOW) == Pace(4, 48, 2.0, 15.0)
    assert pace(made, 0, now=NOW) == Pace(4, 48, 2.0, None, DONE)


def test_a_young_campaign_is_paced_from_its_first_ranking_over_an_hour_at_least() -> None:
    assert pace(ago(*[4] * 8), 10, now=NOW) == Pace(0, 8, 2.0, 5.0)
    assert pace(ago(*[0.01] * 3), 9, now=NOW) == Pace(3, 3, 3.0, 3.0)


def test_nobody_lately_is_no_forecast() -> None:
    assert pace([], 5, now=NOW) == Pace(0, 0, None, None, "nobody has ranked yet")
    assert pace(ago(24), 5, now=NOW) == Pace(0, 0, None, None, "nobody ranked in the last 24 hours")
    assert pace([], 0, now=NOW).why == DONE


def test_only_rankings_that_fill_a_place_count() -> None:
    """Task 1 is full with two, task 2 wants one more, task 3 wants two and only a surplus and a skip came."""
    judged = [
        said(1, "ann"), said(1, "bob", ago=DAY), said(2, "ann"),
        said(3, "ann", surplus=True),
        said(9, "ann", gold={1: 1, 2: 2}),
        Judged(3, "one", "bob", {}, skip_reason="", shown=(1, 2), at=NOW),
        Judged(8, "one", "ann", {1: 1, 2: 2}, at=NOW),  # imported
    ]  # fmt: skip
    assert made_here(judged) == [NOW, NOW - DAY, NOW]
    assert places(judged, {2: 1, 3: 2}) == Places(done=3, wanted=6, finished=1, tasks=3)
    assert places([], {}) == Places(0, 0, 0, 0)


def test_times_are_medians_with_quartiles() -> None:
    judged = [said(i, seconds=s) for i, s in enumerate((10.0, 20.0, 30.0, 40.0, 50.0))]
    judged += [said(9, "bob", seconds=None), said(9, "cat", seconds=5.0)]
    judged += [Judged(10, "one", "ann", {}, skip_reason="", seconds=1.0)]
    found = times(judged)
    assert found.by_labeler == {"ann": Times(5, 30.0, 20.0, 40.0), "cat": Times(1, 5.0, 5.0, 5.0)}
    assert found.overall == Times(6, 25.0, 12.5, 37.5)
    assert times([]).overall is None


def test_fast_is_below_a_third_of_the_crowds_median() -> None:
    """Medians 30, 33 and 9.9: the crowd's is 30, the limit 10. Without a third person there is no crowd."""
    judged = [said(i, name, seconds=s) for name, s in (("ann", 30.0), ("bob", 33.0), ("cat", 9.9)) for i in range(5)]
    found = times(judged)
    assert (found.limit, found.fast) == (pytest.approx(10.0), ("cat",))
    assert times([j for j in judged if j.labeler != "ann"]).fast == ()
    # Four rankings are too few to call somebody fast.
    few = times([*judged, *(said(i, "dan", seconds=0.5) for i in range(4))])
    assert few.fast == ("cat",)


def test_gold_counts_the_pairs_that_the_answer_orders() -> None:
    """The answer orders 1 before 2 and 3, which are tied. Ann has both; bob ties one and leaves one out."""
    answer = {1: 1, 2: 2, 3: 2}
    judged = [
        Judged(1, "one", "ann", {1: 1, 2: 3, 3: 2}, gold=answer),
        Judged(1, "one", "bob", {1: 1, 2: 1, 3: None}, gold=answer),
        Judged(1, "one", "cat", {}, skip_reason="", gold=answer),
        Judged(2, "one", "dan", {1: 1, 2: 2}),
    ]
    found = gold_accuracy(judged)
    assert {n: (e.value, e.over) for n, e in found.by_labeler.items()} == {
        "ann": (1.0, "2 pairs of 1 gold task"),
        "bob": (0.0, "2 pairs of 1 gold task"),
    }
    assert (found.overall.value, found.overall.over) == (0.5, "4 pairs of 2 gold tasks")
    assert (found.overall.low, found.overall.high) == wilson(2, 4)
    assert gold_accuracy([]).overall.why == NO_GOLD
