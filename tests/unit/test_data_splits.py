"""Splits that leak nothing, and the counts that a stage reports."""

from __future__ import annotations

import pytest

from rlhf.data.quality import find_conflicts, inspect_records
from rlhf.data.records import Demonstration, Prompt, Ranking
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


def test_counts_of_demonstrations() -> None:
    rows = [
        Demonstration("p", "one two"),
        Demonstration("p", "one two"),
        Demonstration("", "  "),
        Demonstration("q", "x"),
    ]
    report = inspect_records(rows, length=lambda prompt, text: len(text.split()), max_length=1)
    assert (report.rows, report.duplicates, report.blank, report.over_long, report.longest) == (4, 1, 1, 2, 2)
    assert report.notes == (
        "1 rows repeat an earlier row (first: row 2)",
        "1 rows hold a blank text (first: row 3)",
        "2 rows are longer than 1 tokens (first: row 1)",
    )
    assert inspect_records(rows[-1:]).clean


def test_counts_of_rankings() -> None:
    rows = [
        Ranking("p", ("a", "b", "c"), (1, 2, 2), "ada"),
        Ranking("p", ("b", "a", "c"), (2, 1, 2), "ada"),  # the same judgement, shown in another order
        Ranking("p", ("a", "b"), (2, 1), "ada"),  # contradicts it
        Ranking("p", ("a", "b"), (2, 1), "bob"),  # another person may think otherwise
        Ranking("p", ("a", "b"), (1, 1), "bob"),
        Ranking("p", ("a", "a"), (1, None), "bob"),
    ]
    report = inspect_records(rows)
    assert (report.duplicates, report.conflicts, report.unusable, report.repeated_completions) == (1, 1, 2, 1)
    assert report.untied_pairs == 6 and report.longest is None
    assert find_conflicts(rows) == [("ada", "p", "a", "b")]


def test_one_text_ranked_above_itself_is_a_conflict() -> None:
    assert find_conflicts([Ranking("p", ("a", "a"), (1, 2), "ada")]) == [("ada", "p", "a", "a")]
