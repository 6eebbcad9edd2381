"""Splits that leak nothing."""

from __future__ import annotations

import pytest

from rlhf.data.records import Demonstration, Prompt
from rlhf.data.splits import check_no_leak, split_by_hash
from rlhf.errors import DataError


def test_a_group_stays_on_its_side_when_rows_are_added() -> None:
    few = [Prompt(f"p{i}") for i in range(100)]
    train, held_out = split_by_hash(few, 0.3)
    more_train, more_held_out = split_by_hash(few + [Prompt(f"q{i}") for i in range(100)], 0.3)
    assert set(train) <= set(more_train) and set(held_out) <= set(more_held_out)
    assert split_by_hash(few, 0.3, salt="other") != (train, held_out)


def test_all_kinds_of_records_of_a_group_go_together() -> None:
    groups = [str(i) for i in range(50)]
    _, prompts = split_by_hash([Prompt(f"p{g}", g) for g in groups], 0.4)
    _, shown = split_by_hash([Demonstration(f"d{g}", "c", g) for g in groups], 0.4)
    assert [p.group for p in prompts] == [d.group for d in shown]


@pytest.mark.parametrize("fraction", [0.001, 0.5, 0.999])
def test_neither_side_is_empty(fraction: float) -> None:
    train, held_out = split_by_hash([Prompt("a"), Prompt("b")], fraction)
    assert len(train) == len(held_out) == 1


def test_refuses_what_cannot_be_split() -> None:
    with pytest.raises(DataError, match="at least 2 distinct prompts"):
        split_by_hash([Prompt("a"), Prompt("a")], 0.5)
    with pytest.raises(DataError, match="between 0 and 1"):
        split_by_hash([Prompt("a"), Prompt("b")], 1.0)


def test_leaks_are_errors() -> None:
    check_no_leak([Prompt("a")], [Prompt("b")])
    check_no_leak([Demonstration("", "x")], [Demonstration("", "y")])
    with pytest.raises(DataError, match=r"1 group\(s\) .* 'g'"):
        check_no_leak([Prompt("a", "g")], [Prompt("b", "g")])
    with pytest.raises(DataError, match=r"1 prompt\(s\) .* 'a'"):
        check_no_leak([Prompt("a", "g")], [Demonstration("a", "c", "h")])
