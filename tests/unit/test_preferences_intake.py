"""What the store refuses to take in: names nobody can read, numbers no column holds, gold that contradicts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from rlhf.data.records import Ranking
from rlhf.errors import DataError
from rlhf.preferences import LabelStore, NewTask, gold, intake
from rlhf.preferences.schema import queues, tasks

UNREADABLE = ["", " ", " padded", "padded ", "a\nb", "\x1b[31mred", "a\u202eb", "a\u200bb", "\ta"]
GOLD = Ranking("g", ("a", "b"), (1, 2))
TASK = NewTask("p", ("a", "b"))


@pytest.fixture(autouse=True)
def _nothing_is_left(store: LabelStore) -> Any:
    """What is refused leaves nothing: every test here ends with what it says there is."""
    yield
    assert store.check() == []


def held(store: LabelStore) -> int:
    with store._reading() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(tasks)) or 0


@pytest.mark.parametrize("name", [*UNREADABLE[1:], "x" * 81, "x" * 250], ids=ascii)
def test_an_imported_labelers_name_can_be_read(store: LabelStore, name: str) -> None:
    rows = [Ranking("p", ("a", "b"), (1, 2), "ann"), Ranking("p", ("a", "b"), (1, 2), name)]
    with pytest.raises(DataError, match=r"^ranking 1, field 'labeler': expected 1 to 80 visible characters"):
        store.import_rankings(rows, batch="one")
    with pytest.raises(DataError, match=r"^x\.csv, line 3, field 'labeler': "):
        intake.accepted(rows[1], "x.csv, line 3")
    assert held(store) == 0


def test_names_as_long_as_may_be_are_taken(store: LabelStore) -> None:
    """On PostgreSQL too, whose columns count characters."""
    name, batch, source = "ü" * 80, "😀" * 200, "é" * 200
    row = Ranking("p", ("a", "b"), (1, 2), name, group="g" * 10_000)
    assert store.import_rankings([row], batch=batch).added == 1
    assert store.add_tasks([NewTask("p", ("a", "b"), (source, ""), "g" * 10_000)], batch=batch) == 1
    assert [(r.labeler, r.group) for r in store.rankings(batch=batch)] == [(name, "g" * 10_000)]


FILL: dict[str, Callable[[LabelStore, str], object]] = {
    "import": lambda s, batch: s.import_rankings([GOLD], batch=batch),
    "tasks": lambda s, batch: s.add_tasks([TASK], batch=batch),
    "gold": lambda s, batch: s.add_gold([GOLD], batch=batch),
}


@pytest.mark.parametrize("batch", [*UNREADABLE, "x" * 201], ids=ascii)
@pytest.mark.parametrize("way", FILL)
def test_a_batchs_name_can_be_read(store: LabelStore, way: str, batch: str) -> None:
    with pytest.raises(DataError, match=r"^batch: "):
        FILL[way](store, batch)
    assert held(store) == 0 and store.events() == []


@pytest.mark.parametrize(
    ("task", "message"),
    [
        *(
            (NewTask("p", ("a", "b"), ("sft", name)), r"task 1, field 'sources'\[1\]: expected 1 to 200 visible")
            for name in [*UNREADABLE[1:], "x" * 201]
        ),
        (NewTask("p", ("a", "b"), group="g" * 10_001), "task 1, field 'group': 10001 characters are too many"),
        (NewTask("p", ("a", "b"), group="\x00"), "task 1, field 'group': holds a NUL"),
        *(
            (NewTask("p", ("a", "b"), priority=n), "task 1, field 'priority': expected a whole number from -1000000000")
            for n in (10**9 + 1, -(10**9) - 1, 2**31, 10**20, 10**5000, True, 1.5, "3", None)
        ),
    ],
    ids=lambda value: ascii(value)[:60] if isinstance(value, str) else "",
)
def test_a_task_that_no_column_could_hold_is_refused(store: LabelStore, task: NewTask, message: str) -> None:
    with pytest.raises(DataError, match=message):
        store.add_tasks([TASK, task], batch="one")
    assert held(store) == 0


@pytest.mark.parametrize(
    "overlap", [0, -1, 1001, 2**31, 10**20, 10**5000, True, 1.0], ids=lambda n: f"{n:.3e}" if n < 10**30 else "huge"
)
def test_an_overlap_that_cannot_be_meant_is_refused(store: LabelStore, overlap: Any) -> None:
    with pytest.raises(DataError, match=r"^overlap: expected a whole number from 1 to 1000, found"):
        store.add_tasks([TASK], batch="one", overlap=overlap)
    assert held(store) == 0


def test_the_outermost_numbers_are_taken(store: LabelStore) -> None:
    new = [NewTask(str(n), ("a", "b"), priority=n) for n in (-(10**9), 10**9)]
    assert store.add_tasks(new, batch="one", overlap=1000) == 2
    first = store.claim(store.labeler("ann"))
    assert first is not None and first.prompt == str(10**9)


def test_of_two_equal_tasks_the_first_counts(store: LabelStore) -> None:
    """As where the second is sent later: a task keeps its first priority."""
    assert store.add_tasks([NewTask("p", ("a", "b"), priority=1), NewTask("p", ("a", "b"), priority=2)], batch="b") == 1
    with store._reading() as connection:
        assert connection.scalar(sa.select(tasks.c.priority)) == 1


def test_writing_tasks_does_not_lock_the_queues_row(store: LabelStore) -> None:
    """Corrections need that row: whoever adds tasks touches it last, and gold and imports never do."""

    def version() -> int:
        with store._reading() as connection:
            return int(connection.scalar(sa.select(queues.c.version)) or 0)

    before = version()
    with store._writing() as connection:
        new = intake.checked_tasks([TASK], 1)
        assert len(intake.write_tasks(connection, store._project_id, new, "one")) == 1
        assert connection.scalar(sa.select(queues.c.version)) == before
    store.add_gold([GOLD])
    store.import_rankings([GOLD], batch="two")
    assert version() == before


# --- gold


def test_two_answers_to_one_gold_task_are_refused(store: LabelStore) -> None:
    known = [GOLD, Ranking("h", ("a", "b"), (1, 2)), Ranking("g", ("a", "b"), (2, 1))]
    message = r"gold 2, field 'ranks': \[2, 1\] contradicts \[1, 2\], the answer to the same task in gold 0; leave one"
    with pytest.raises(DataError, match=message):
        store.add_gold(known)
    with pytest.raises(DataError, match=r"^g\.csv, row 3, field 'ranks': .* in g\.csv, row 1; leave one out$"):
        gold.checked(known, None, "g.csv")
    assert held(store) == 0
    same = [GOLD, Ranking("g", ("a", "b"), (3, 7))]  # says the same in other numbers
    assert store.add_gold(same) == 1
    assert store.add_gold([Ranking("g", ("a", "b"), (1, 2), group="other")]) == 1  # another task


def test_gold_of_a_wrong_k_names_its_row(store: LabelStore) -> None:
    store.configure({"k": 3})
    known = [Ranking("g", ("a", "b", "c"), (1, 2, 3)), GOLD]
    with pytest.raises(DataError, match=r"^gold 1, field 'completions': expected 3 \(the project's k\) texts, found 2"):
        store.add_gold(known)
    with pytest.raises(DataError, match=r"^g\.csv, row 2, field 'completions': expected 3"):
        store.add_gold(gold.checked(known, None, "g.csv"))
    with pytest.raises(DataError, match=r"gold 0, field 'completions'\[1\]: repeats \[0\]"):
        store.add_gold([Ranking("g", ("a", "a", "b"), (1, 2, 3))])
    assert held(store) == 0


def test_a_gold_file_is_checked_once(store: LabelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    check = intake.checked_task
    monkeypatch.setattr(intake, "checked_task", lambda *a: (looked.append(a[1]), check(*a))[1])
    known = gold.checked([GOLD, Ranking("h", ("a", "b"), (1, 2))], None, "g.csv")
    assert (store.add_gold(known), store.add_gold(known)) == (2, 0)
    assert looked == ["g.csv, row 1", "g.csv, row 2"]


def test_a_task_is_not_gold_and_ordinary_in_one_batch(store: LabelStore) -> None:
    store.add_tasks([NewTask("g", ("a", "b"))], batch="one")
    new = Ranking("h", ("a", "b"), (1, 2))
    with pytest.raises(DataError, match=r"^gold 1: batch 'one' holds this as an ordinary task; give another batch"):
        store.add_gold([new, GOLD], batch="one")
    assert held(store) == 1
    assert (store.add_gold([new, GOLD]), store.add_gold([GOLD])) == (2, 0)
    ordinary = [NewTask("o", ("a", "b")), NewTask("g", ("a", "b"))]
    with pytest.raises(DataError, match=r"^task 1: batch 'gold' holds this as a gold task; give another batch"):
        store.add_tasks(ordinary, batch="gold")
    assert held(store) == 3
    assert store.add_tasks(ordinary, batch="one") == 1
