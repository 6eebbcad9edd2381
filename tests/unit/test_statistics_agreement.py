"""Agreement: hand-worked literals, and the package `krippendorff` and scipy as second opinions."""

from __future__ import annotations

import random
import time
import tracemalloc

import krippendorff
import numpy as np
import pytest
from scipy import stats

from rlhf.preferences.statistics import agreement
from rlhf.preferences.statistics.agreement import (
    COMPLETE,
    MOST_APART,
    NOT_TIED,
    TOGETHER,
    VARIED,
    Dispute,
    Ties,
    alpha,
    concordance,
    disputed,
    pairwise,
    ties,
)
from rlhf.preferences.statistics.estimate import FEW, MANY, SAME, wilson
from rlhf.preferences.types import Judged

SEVERAL = range(8)


def said(task: int, name: str, *ranks: int | None) -> Judged:
    """A ranking of the completions 10 task, 10 task + 1, ..."""
    return Judged(task, "one", name, {10 * task + i: rank for i, rank in enumerate(ranks)})


def campaign(seed: int, *, tasks: int = 40, people: int = 5, overlap: int = 3, k: int = 4) -> list[Judged]:
    """Noisy rankings with ties by random people."""
    rng = random.Random(seed)
    found = []
    for task in range(tasks):
        good = [rng.gauss(0, 1) for _ in range(k)]
        for person in rng.sample(range(people), overlap):
            seen = [x + rng.gauss(0, 1) for x in good]
            if rng.random() < 0.5:
                seen = [float(round(x)) for x in seen]
            found.append(said(task, f"p{person}", *(1 + sum(y > x for y in seen) for x in seen)))
    return found


def reliability(judged: list[Judged], *names: str) -> np.ndarray:
    """Mid ranks as scipy gives them, people by completions, NaN where somebody did not rank it."""
    units = sorted({c for j in judged for c in j.ranks})
    data = np.full((len(names), len(units)), np.nan)
    for j in judged:
        if j.labeler in names:
            for completion, rank in zip(j.ranks, stats.rankdata(list(j.ranks.values())), strict=True):
                data[names.index(j.labeler), units.index(completion)] = rank
    return data


# Task 1: ann and bob differ on the pair of the last two; cat ranks these two alone. Task 2: ann ties the first two.
HAND = [
    said(1, "ann", 1, 2, 3), said(1, "bob", 1, 3, 2), said(1, "cat", None, 1, 2),
    said(2, "ann", 1, 1, 3), said(2, "bob", 1, 2, 3),
]  # fmt: skip


# --- pairs ---------------------------------------------------------------------------------------------------------


def test_pairs_ordered_alike() -> None:
    """Ann and bob: 2 of 3, then 2 of 2. Cat's only pair is as ann has it, and against bob."""
    found = pairwise(HAND)
    assert (found.overall.value, found.overall.n, found.overall.over) == (5 / 7, 7, "7 pairs of 2 tasks")
    assert found.overall.low is None  # two tasks
    assert {name: (e.value, e.over) for name, e in found.by_labeler.items()} == {
        "ann": (5 / 6, "6 pairs of 2 tasks"),
        "bob": (4 / 6, "6 pairs of 2 tasks"),
        "cat": (1 / 2, "2 pairs of 1 task"),
    }
    assert {names: (e.value, e.n) for names, e in found.by_pair.items()} == {
        ("ann", "bob"): (4 / 5, 5),
        ("ann", "cat"): (1.0, 1),
        ("bob", "cat"): (0.0, 1),
    }
    assert ties(HAND) == Ties(neither=7, one=1, both=0)
    assert ties([said(1, "ann", 1, 1, 3), said(1, "bob", 2, 2, 1)]) == Ties(neither=2, one=0, both=1)


def test_the_order_of_the_judgments_and_skips_change_nothing() -> None:
    skip = Judged(1, "one", "dan", {}, skip_reason="unclear")
    for measure in (pairwise, alpha, concordance):
        assert measure([skip, *reversed(HAND)]) == measure(HAND)
    assert disputed([skip, *reversed(HAND)]) == disputed(HAND)


def test_one_persons_two_rankings_of_a_task_do_not_agree_with_each_other() -> None:
    twice = [said(1, "anonymous", 1, 2), said(1, "anonymous", 1, 2), said(1, "ann", 2, 1)]
    assert (pairwise(twice).overall.value, pairwise(twice).overall.n) == (0.0, 2)


# --- alpha ---------------------------------------------------------------------------------------------------------


def test_alpha_by_hand() -> None:
    """Task 1, ann and bob: values 1, 2, 3 twice each (n = 6), met as 11, 23, 32. Ordinal distances squared: 4 between
    neighbours, 16 between 1 and 3. Observed 4 x 4 = 16, expected 2 x 4 x (4 + 4 + 16) = 192: 1 - 5 x 16 / 192.

    Task 2: 1.5, 1.5, 3 and 1, 2, 3. Counts of 1, 1.5, 2, 3: 1, 2, 1, 2; each one's middle: 0.5, 2, 3.5, 5. Observed
    2 x (1.5^2 + 1.5^2) = 9, expected 2 x (6 x 70.5 - 18^2) = 198: 1 - 5 x 9 / 198.
    """
    first, second = alpha(HAND[:2]), alpha(HAND[3:])
    assert first.overall.value == pytest.approx(7 / 12)
    assert (first.overall.n, first.overall.over) == (3, "3 pairs of ranks in 1 task")
    assert second.overall.value == pytest.approx(17 / 22)
    assert first.by_pair == {("ann", "bob"): first.overall} and first.by_labeler["ann"] == first.overall


@pytest.mark.parametrize("seed", SEVERAL)
def test_alpha_is_the_packages(seed: int) -> None:
    """With ties, and with people who did not rank every task."""
    judged = campaign(seed, overlap=2 + seed % 3, k=2 + seed % 4)
    names = sorted({j.labeler for j in judged})
    found = alpha(judged)
    expected = krippendorff.alpha(reliability(judged, *names), level_of_measurement="ordinal")
    assert found.overall.value == pytest.approx(expected, abs=1e-12)
    for two, estimate in found.by_pair.items():
        both = {j.task_id for j in judged if j.labeler == two[0]} & {j.task_id for j in judged if j.labeler == two[1]}
        data = reliability([j for j in judged if j.task_id in both], *two)
        expected = krippendorff.alpha(data, level_of_measurement="ordinal")
        assert estimate.value == pytest.approx(expected, abs=1e-12)


def test_alpha_of_one_against_the_others_weighs_each_of_their_ranks_once() -> None:
    """Of three people a task: the package on (p0, other) rows, where each of p0's values stands twice.

    It has twice the coincidences, and so 2 n - 1 where n - 1 belongs.
    """
    judged = campaign(3)
    mine = [j for j in judged if j.labeler == "p0"]
    rows = [(a, b) for a in mine for b in judged if b.task_id == a.task_id and b.labeler != "p0"]
    ranked = [[stats.rankdata(list(j.ranks.values())) for j in row] for row in rows]
    twice = krippendorff.alpha(np.concatenate(ranked, axis=1), level_of_measurement="ordinal")
    n = 2 * 4 * len(mine)
    expected = 1 - (1 - twice) * 2 * (n - 1) / (2 * n - 1)
    assert alpha(judged).by_labeler["p0"].value == pytest.approx(expected, abs=1e-12)


def test_places_count_from_both_ends_whatever_the_number_of_completions() -> None:
    """Reversing every order changes nothing, and neither does a larger task that says the same."""
    judged = campaign(1) + [said(100 + j.task_id, j.labeler, *j.ranks.values()) for j in campaign(2, k=3)]
    turned = [
        Judged(j.task_id, "", j.labeler, {c: 1 + sum(o > r for o in j.ranks.values()) for c, r in j.ranks.items()})
        for j in judged
    ]
    assert alpha(turned).overall.value == pytest.approx(alpha(judged).overall.value, abs=1e-12)
    perfect = [said(t, name, *range(1, k + 1)) for t, k in enumerate((2, 3, 5)) for name in ("ann", "bob", "cat")]
    assert alpha(perfect).overall.value == 1.0


def test_what_somebody_left_out_is_compared_with_nothing() -> None:
    """Bob ranks two of ann's four as she does, so their places among these two are the same."""
    found = alpha([said(1, "ann", 1, 2, 3, 4), said(1, "bob", None, 1, None, 2)])
    assert (found.overall.value, found.overall.n) == (1.0, 2)
    only_one = alpha([said(1, "ann", 1, 2, None), said(1, "bob", None, 1, 2)])
    assert (only_one.overall.value, only_one.overall.why) == (None, TOGETHER)


# --- W -------------------------------------------------------------------------------------------------------------


def test_w_by_hand() -> None:
    """Sums of ranks 3, 7, 8 of three people: 12 x 14 / (9 x 24). With ann's tie, 2.5, 3.5, 6: 12 x 6.5 / (96 - 12)."""
    three = [said(1, "ann", 1, 2, 3), said(1, "bob", 1, 3, 2), said(1, "cat", 1, 2, 3)]
    found = concordance([*three, *HAND[3:]])
    assert found.overall.value == pytest.approx((7 / 9 + 13 / 14) / 2)
    assert (found.overall.n, found.overall.over) == (2, "2 tasks")
    # Of two people W is (1 + Spearman's rho) / 2: rho is 1/2 for one swap of neighbours.
    assert found.by_pair["ann", "cat"].value == 1.0 and found.by_pair["bob", "cat"].value == pytest.approx(3 / 4)
    assert found.by_labeler["ann"].value == pytest.approx(((3 / 4 + 1) / 2 + 13 / 14) / 2)


@pytest.mark.parametrize("seed", SEVERAL)
def test_w_is_scipys_friedman_statistic(seed: int) -> None:
    k, people = 3 + seed % 3, 3 + seed % 2
    judged = campaign(seed, tasks=12, people=people, overlap=people, k=k)
    expected = []
    for task in range(12):
        rows = [list(j.ranks.values()) for j in judged if j.task_id == task]
        expected.append(stats.friedmanchisquare(*np.transpose(rows)).statistic / (people * (k - 1)))
    assert concordance(judged).overall.value == pytest.approx(np.nanmean(expected))


def test_w_leaves_out_partial_rankings_and_tasks_where_all_is_tied() -> None:
    partial = said(1, "cat", 1, None, 2)
    tied = [said(2, "ann", 1, 1, 1), said(2, "bob", 1, 1, 1)]
    found = concordance([said(1, "ann", 1, 2, 3), said(1, "bob", 1, 2, 3), partial, *tied])
    assert (found.overall.value, found.overall.n) == (1.0, 1)
    assert found.by_labeler["cat"].why == COMPLETE and set(found.by_pair) == {("ann", "bob")}
    # Who ties everything still counts beside one who does not: sums 3, 4, 5, so 12 x 2 / (96 - 2 x 24).
    assert concordance([said(1, "ann", 1, 2, 3), said(1, "bob", 1, 1, 1)]).overall.value == pytest.approx(0.5)


# --- intervals, and what is undefined --------------------------------------------------------------------------------


def test_intervals_hold_the_value_and_narrow_with_more_tasks() -> None:
    few, many = campaign(5, tasks=30), campaign(5, tasks=480)
    for measure in (pairwise, alpha, concordance):
        a, b = measure(few).overall, measure(many).overall
        assert a.low is not None and b.low is not None and a.low < a.value < a.high and b.low < b.value < b.high
        assert 2.8 < (a.high - a.low) / (b.high - b.low) < 5.5  # four times as narrow, more or less


def test_an_interval_is_over_tasks_and_not_over_pairs() -> None:
    """Every task is all alike or all reversed: 40 independent cases, however many pairs each has."""
    judged = []
    for task in range(40):
        judged += [said(task, "ann", 1, 2, 3, 4), said(task, "bob", *((1, 2, 3, 4) if task % 2 else (4, 3, 2, 1)))]
    found = pairwise(judged).overall
    assert found.value == 0.5 and found.n == 240
    assert found.high - found.low == pytest.approx(2 * 1.96 * np.sqrt(0.25 / 40), abs=0.05)


@pytest.mark.parametrize(
    ("judged", "why"),
    [
        ([], (TOGETHER, TOGETHER, COMPLETE)),
        ([said(1, "ann", 1, 2)], (TOGETHER, TOGETHER, COMPLETE)),
        ([said(1, "ann", 1, 2), said(2, "bob", 1, 2)], (TOGETHER, TOGETHER, COMPLETE)),
        ([said(1, "ann", 1, 1), said(1, "bob", 1, 1)], (NOT_TIED, VARIED, COMPLETE)),
    ],
)
def test_what_is_undefined_says_why(judged: list[Judged], why: tuple[str, ...]) -> None:
    for measure, reason in zip((pairwise, alpha, concordance), why, strict=True):
        found = measure(judged)
        for estimate in (found.overall, *found.by_labeler.values()):
            assert (estimate.value, estimate.low, estimate.high, estimate.n) == (None, None, None, estimate.n)
            assert estimate.why == reason
    assert ties([]) == Ties(0, 0, 0)


def test_five_thousand_rankings_take_a_moment() -> None:
    """Measured: 0.2 to 0.3 s each, with intervals of 20 people and 190 pairs of them."""
    judged = campaign(0, tasks=1667, people=20)
    for measure in (pairwise, alpha, concordance):
        start = time.process_time()
        measure(judged)
        assert time.process_time() - start < 2.0


def test_a_hundred_people_on_every_task_need_little_memory() -> None:
    """Every two of them meet on 10 tasks. Measured: 41 MB. Dense, meetings by cells took 550 MB."""
    rng = random.Random(0)
    judged = [
        said(task, f"p{i}", *(rng.choice([None, *range(1, 8)]) for _ in range(7)))
        for task in range(10) for i in range(100)
    ]  # fmt: skip
    tracemalloc.start()
    found = alpha(judged)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6
    assert all(e.low is not None for e in (found.overall, *found.by_labeler.values()))
    assert len(found.by_pair) > MOST_APART and {e.why for e in found.by_pair.values()} <= {MANY, FEW}


def test_cells_too_many_for_a_dense_table_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    judged = campaign(6)
    dense = alpha(judged)
    monkeypatch.setattr(agreement, "DENSE", 0)
    monkeypatch.setattr(agreement, "AT_ONCE", 7)
    found = alpha(judged)
    for a, b in [(dense.overall, found.overall), *((dense.by_pair[two], e) for two, e in found.by_pair.items())]:
        assert (b.value, b.low, b.high) == (pytest.approx(a.value), pytest.approx(a.low), pytest.approx(a.high))
    assert pairwise(judged).overall.n > 0


def test_of_very_many_people_on_a_task_each_meets_a_sample() -> None:
    """150 people: 33 to either side in the circle are 4,950 meetings of 11,175. Values stay near; `over` says so."""
    judged = [j for t in range(3) for j in campaign(t, tasks=1, people=150, overlap=150)]
    judged = [said(1 + i // 150, j.labeler, *j.ranks.values()) for i, j in enumerate(judged)]
    found = alpha(judged)
    names = sorted({j.labeler for j in judged})
    expected = krippendorff.alpha(reliability(judged, *names), level_of_measurement="ordinal")
    assert found.overall.value == pytest.approx(expected, abs=0.02)
    assert (found.overall.n, found.overall.over) == (
        59_400,
        "59,400 pairs of ranks in 3 tasks, a random sample of more",
    )
    assert len(found.by_pair) == 4950  # the same twos on every task
    assert pairwise(judged).by_labeler["p0"].over.endswith("of 3 tasks, a random sample of more")
    assert pairwise(HAND).overall.over.endswith("tasks")


def test_tasks_that_all_agree_have_no_interval_of_alpha_and_w_and_wilsons_of_pairs() -> None:
    judged = [said(t, name, 1, 2) for t in range(10) for name in ("ann", "bob")]
    for measure in (alpha, concordance):
        e = measure(judged).overall
        assert (e.value, e.low, e.high, e.why) == (1.0, None, None, SAME)
    e = pairwise(judged).overall
    assert e.value == 1.0 and (e.low, e.high) == wilson(10, 10)


# --- disputes --------------------------------------------------------------------------------------------------------


def test_disputes_come_most_disputed_first() -> None:
    """Task 1 of HAND: ann/bob 1 of 3 pairs, ann/cat 0 of 1, bob/cat 1 of 1. Task 2: one tie of 3 pairs counts half."""
    judged = [*HAND, said(3, "ann", 1, 2), said(3, "bob", 2, 1), said(4, "ann", 1, 2), said(5, "ann", 1, 1),
              said(5, "bob", 1, 1), said(6, "ann", 1, None, 2), said(6, "bob", 1, 2, None)]  # fmt: skip
    assert disputed(judged) == [
        Dispute(3, 1.0, people=2, pairs=1),
        Dispute(1, 2 / 5, people=3, pairs=5),
        Dispute(2, 0.5 / 3, people=2, pairs=3),
        Dispute(5, 0.0, people=2, pairs=1),
    ]
    assert disputed([]) == []
