"""Bias by position and length, flags and skips: hand-worked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from scipy import stats

from rlhf.preferences.statistics.bias import (
    NO_FIRST,
    NO_LENGTHS,
    TOO_FEW,
    flags,
    length_bias,
    position_bias,
    skips,
)
from rlhf.preferences.statistics.estimate import wilson
from rlhf.preferences.types import Judged


def said(task: int, name: str, ranks: Sequence[int | None], **more: Any) -> Judged:
    return Judged(task, "one", name, {10 * task + i: rank for i, rank in enumerate(ranks)}, **more)


def won(task: int, position: int, size: int, name: str = "ann") -> Judged:
    """A ranking whose best completion stood at this position (from 0)."""
    ranks = [1 + (i != position) for i in range(size)]
    return said(task, name, ranks, shown=tuple(10 * task + i for i in range(size)))


def test_first_places_are_counted_by_the_screen_not_by_the_store() -> None:
    """Completion 11 is best. It was shown first, then last."""
    judged = [said(1, "ann", (2, 1, 3), shown=(11, 12, 10)), said(1, "bob", (2, 1, 3), shown=(10, 12, 11))]
    found = position_bias(judged)
    assert [(p.position, p.share.value, p.share.n) for p in found.overall.positions] == [
        (1, 0.5, 2),
        (2, 0.0, 2),
        (3, 0.5, 2),
    ]
    assert found.by_labeler["ann"].first.value == 1.0 and found.by_labeler["bob"].first.value == 0.0


def test_a_tied_best_an_import_and_a_skip_say_nothing_and_a_partial_ranking_does() -> None:
    tied = said(1, "ann", (1, 1, 3), shown=(10, 11, 12))
    imported = said(2, "bob", (1, 2, 3))
    skip = Judged(3, "one", "cat", {}, skip_reason="", shown=(30, 31))
    found = position_bias([tied, imported, skip])
    assert (found.overall.first.value, found.overall.first.why, found.overall.why) == (None, NO_FIRST, NO_FIRST)
    assert list(found.by_labeler) == ["ann"] and found.by_labeler["ann"].p is None
    assert position_bias([said(1, "ann", (None, 1, 2), shown=(11, 10, 12))]).overall.first.value == 1.0


def test_shares_stand_beside_what_chance_gives() -> None:
    """30 rankings of two (18 firsts) and 20 of four (11 firsts, then 5, 2, 2): 29 of 50 where (15 + 5) / 50 is due."""
    judged = [won(t, int(t >= 18), 2) for t in range(30)]
    judged += [won(100 + t, p, 4) for t, p in enumerate([0] * 11 + [1] * 5 + [2] * 2 + [3] * 2)]
    found = position_bias(judged).overall
    assert [(p.share.value, p.share.n, p.expected) for p in found.positions] == [
        (29 / 50, 50, 20 / 50),
        (17 / 50, 50, 20 / 50),
        (2 / 20, 20, 1 / 4),
        (2 / 20, 20, 1 / 4),
    ]
    assert (found.first.low, found.first.high) == wilson(29, 50)
    # chi-square: 9/15 + 9/15 over two; 36/5 + 0 + 9/5 + 9/5 over four; 1 + 3 degrees of freedom
    assert found.p == pytest.approx(stats.chi2.sf(1.2 + 10.8, 4))


def test_of_one_size_the_p_value_is_scipys_and_needs_five_a_place() -> None:
    counts = [9, 4, 7]
    judged = [won(t, p, 3) for t, p in enumerate([i for i, n in enumerate(counts) for _ in range(n)])]
    assert position_bias(judged).overall.p == pytest.approx(stats.chisquare(counts).pvalue)
    few = position_bias(judged[:14]).overall
    assert (few.p, few.why) == (None, TOO_FEW) and few.first.value == 9 / 14


def test_the_longer_one_is_preferred_in_four_of_five_pairs() -> None:
    """Lengths 30, 20, 10. Ann prefers the longer thrice. Bob ties the ends, takes 30 over 20 and 10 over 20."""
    lengths = {10: 30, 11: 20, 12: 10}
    judged = [said(1, "ann", (1, 2, 3), lengths=lengths), said(1, "bob", (1, 3, 1), lengths=lengths)]
    found = length_bias(judged)
    assert (found.overall.value, found.overall.over) == (4 / 5, "5 pairs of 1 task")
    assert {name: (e.value, e.n) for name, e in found.by_labeler.items()} == {"ann": (1.0, 3), "bob": (0.5, 2)}


def test_equal_and_unknown_lengths_ties_and_what_is_not_ranked_are_no_pairs() -> None:
    judged = [
        said(1, "ann", (1, 2), lengths={10: 5, 11: 5}),
        said(2, "ann", (1, 2)),
        said(3, "ann", (1, 1), lengths={30: 5, 31: 6}),
        said(4, "ann", (1, None), lengths={40: 5, 41: 6}),
    ]
    found = length_bias(judged)
    assert (found.overall.value, found.overall.n, found.overall.why) == (None, 0, NO_LENGTHS)
    assert found.by_labeler["ann"].why == NO_LENGTHS and length_bias([]).overall.why == NO_LENGTHS


def test_the_interval_of_the_length_bias_is_over_tasks() -> None:
    """40 tasks, in half of which four completions are ordered by length and in half against it."""
    judged = [
        said(t, "ann", (1, 2, 3, 4) if t % 2 else (4, 3, 2, 1), lengths={10 * t + i: 40 - i for i in range(4)})
        for t in range(40)
    ]
    found = length_bias(judged).overall
    assert found.value == 0.5 and found.n == 240 and found.high - found.low == pytest.approx(0.31, abs=0.05)


def test_ten_tasks_that_all_prefer_the_longer_one_are_not_certain() -> None:
    judged = [said(t, "ann", (1, 2), lengths={10 * t: 9, 10 * t + 1: 5}) for t in range(10)]
    found = length_bias(judged).overall
    assert found.value == 1.0 and (found.low, found.high) == wilson(10, 10)


def test_flags_are_counted_by_name_labeler_and_source() -> None:
    sources = {10: "sft", 11: "ppo"}
    judged = [
        said(1, "ann", (1, 2), flags={10: ("untrue", "rude"), 11: ("rude",)}, sources=sources),
        said(1, "bob", (1, 2), flags={11: ("rude",)}, sources=sources),
        Judged(1, "one", "cat", {}, skip_reason="no", flags={10: ("rude",)}),
    ]
    found = flags(judged)
    assert found.by_name == {"rude": 3, "untrue": 1}
    assert {n: (e.value, e.over) for n, e in found.by_labeler.items()} == {
        "ann": (1.0, "2 completions in rankings"),
        "bob": (0.5, "2 completions in rankings"),
    }
    assert {n: e.value for n, e in found.by_source.items()} == {"ppo": 1.0, "sft": 0.5}
    assert flags([]).by_name == {}


def test_skips_are_counted_by_reason_and_labeler() -> None:
    judged = [
        said(1, "ann", (1, 2)),
        Judged(2, "one", "ann", {}, skip_reason="too long"),
        Judged(3, "one", "ann", {}, skip_reason=""),
        Judged(4, "one", "ann", {}, skip_reason="too long"),
        said(1, "bob", (1, 2)),
    ]
    found = skips(judged)
    assert found.by_reason == {"too long": 2, "": 1}
    assert {n: (e.value, e.over) for n, e in found.by_labeler.items()} == {
        "ann": (0.75, "4 tasks"),
        "bob": (0.0, "1 task"),
    }
