"""A long file into a store: checked before anything is written, in memory that does not grow, again after a kill."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from rlhf.data.records import Ranking
from rlhf.errors import DataError, StoreError
from rlhf.preferences import ImportReport, LabelStore, NewTask, imports
from rlhf.preferences import store as store_module
from rlhf.preferences.exchange import RankingFile, write
from rlhf.preferences.schema import prompts


def pairs(path: Path, count: int) -> Path:
    """A file of pairs, each with another prompt."""
    with path.open("w") as out:
        for i in range(count):
            row = {"prompt": f"prompt {i}", "chosen": f"{i} good " * 5, "rejected": f"{i} bad " * 5, "labeler": "ann"}
            out.write(json.dumps(row) + "\n")
    return path


def peak(work: Any) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("way", ["file", "iterator"])
def test_memory_does_not_grow_with_the_rows(tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times the rows take hardly more; all of them at once would take ten times as much."""
    monkeypatch.setattr(store_module, "IMPORTED_AT_ONCE", 50)
    monkeypatch.setattr(imports, "SPOOLED", 2**14)

    def run(count: int) -> None:
        file = RankingFile(pairs(tmp_path / f"{count}.jsonl", count))
        given = file if way == "file" else iter(file)
        with LabelStore.open(tmp_path / f"{count}.db", create=True) as store:
            assert store.import_rankings(given, batch="one").added == count

    run(50)  # what is imported and cached once
    small, large = peak(lambda: run(250)), peak(lambda: run(2_500))
    assert large < 1.5 * small


KILLED = """
import sys
from rlhf.preferences import LabelStore
from rlhf.preferences.exchange import RankingFile
with LabelStore.open(sys.argv[2], create=True) as store:
    store.import_rankings(RankingFile(sys.argv[1]), batch="one")
"""


def held(path: Path) -> int:
    if not path.exists():
        return 0
    try:
        with LabelStore.open(path) as store:
            return store.counts("one").judgments
    except StoreError:  # it is being made
        return 0


def test_an_import_that_was_killed_goes_on(tmp_path: Path) -> None:
    file, path = pairs(tmp_path / "pairs.jsonl", 6_000), tmp_path / "labels.db"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(file), str(path)])
    while held(path) < 1_000 and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    there = held(path)
    assert 1_000 <= there < 6_000 and there % 1_000 == 0  # whole parts
    with LabelStore.open(path) as store:
        report = store.import_rankings(RankingFile(file), batch="one")
        assert report == ImportReport(read=6_000, added=6_000 - there, repeated=there, revisions=0)
        assert store.check() == []
        started = time.monotonic()
        assert store.import_rankings(RankingFile(file), batch="one").added == 0
        assert time.monotonic() - started < 20  # about 1 s on a quiet core: nothing is written
        assert len({r.prompt for r in store.rankings()}) == 6_000


class Watched:
    """Rankings that say how often they were walked."""

    def __init__(self, rankings: list[Ranking]) -> None:
        self.walks = 0
        self._rankings = rankings

    def __iter__(self) -> Iterator[Ranking]:
        self.walks += 1
        return iter(self._rankings)


def test_what_can_be_walked_again_is_walked_twice_and_an_iterator_once(store: LabelStore) -> None:
    rankings = [Ranking(f"p{i}", ("a", "b"), (1, 2), "ann") for i in range(5)]
    watched = Watched(rankings)
    assert store.import_rankings(watched, batch="one").added == 5
    assert watched.walks == 2
    assert store.import_rankings((r for r in rankings), batch="one").repeated == 5
    assert store.import_rankings((r for r in rankings), batch="two").added == 5


def test_a_file_that_was_walked_is_not_checked_again(store: LabelStore, tmp_path: Path) -> None:
    file = RankingFile(pairs(tmp_path / "p.jsonl", 3))
    seen: list[int] = []
    file.watch = lambda walked: seen.append(walked.count)
    list(file)
    assert file.whole and store.import_rankings(file, batch="one").added == 3


@pytest.mark.parametrize("way", ["list", "iterator", "file"])
def test_a_bad_row_at_the_end_writes_nothing(
    store: LabelStore, tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "IMPORTED_AT_ONCE", 2)
    rows = [Ranking(f"p{i}", ("a", "b"), (1, 2), "ann") for i in range(6)] + [
        Ranking("p", ("a", "b"), (1, 2), "a\u202eb")
    ]
    write(tmp_path / "r.jsonl", rows)
    given: Any = {"list": rows, "iterator": iter(rows), "file": RankingFile(tmp_path / "r.jsonl")}[way]
    where = r"r\.jsonl, line 7" if way == "file" else "ranking 6"
    with pytest.raises(DataError, match=rf"{where}, field 'labeler': expected 1 to 80 visible characters"):
        store.import_rankings(given, batch="one")
    assert store.counts().judgments == 0
    with store._reading() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(prompts)) == 0


def test_rows_are_told_apart_within_a_file_and_across_its_parts(
    store: LabelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "IMPORTED_AT_ONCE", 2)
    one, other = Ranking("p", ("a", "b"), (1, 2), "ann"), Ranking("p", ("a", "b"), (2, 1), "ann")
    report = store.import_rankings([one, one, Ranking("q", ("a", "b"), (1, 2)), one, other, one], batch="one")
    assert report == ImportReport(read=6, added=3, repeated=3, revisions=1)
    assert [(r.prompt, r.ranks) for r in store.rankings()] == [("p", (2, 1)), ("q", (1, 2))]


def test_whoever_goes_on_waits_for_no_writer_until_there_is_something_new(
    store: LabelStore, store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "IMPORTED_AT_ONCE", 2)
    rows = [Ranking(f"p{i}", ("a", "b"), (1, 2), "ann") for i in range(6)]
    store.import_rankings(rows, batch="one")
    with LabelStore.open(store_url) as other, other._filling():
        assert store.import_rankings(rows, batch="one").repeated == 6


# --- what the app made, exported and imported again


def judged(store: LabelStore, name: str = "ann") -> None:
    labeler = store.labeler(name)
    while (task := store.claim(labeler)) is not None:
        ranks = {c.id: i for i, c in enumerate(sorted(task.completions, key=lambda c: c.text), start=1)}
        store.submit(task, ranks, submit_id=f"{name}-{task.id}", comment="so it is")


def test_what_was_made_on_the_page_comes_back_as_nothing_new(store: LabelStore, tmp_path: Path) -> None:
    """With sources and without, beside an imported ranking of the same prompt; through a file and in parts."""
    store.add_tasks([NewTask("p", ("a", "b"), ("sft", "policy")), NewTask("p", ("a", "c")), NewTask("q", ("a", "b"))],
                    batch="one", overlap=2)  # fmt: skip
    store.import_rankings([Ranking("p", ("a", "b"), (1, 2), "bob")], batch="one")
    judged(store)
    judged(store, "cid")
    before = store.rankings(batch="one")
    assert len(before) == 7
    write(tmp_path / "r.jsonl", before)
    report = store.import_rankings(RankingFile(tmp_path / "r.jsonl"), batch="one")
    assert (report.added, report.repeated) == (0, 7)
    assert store.import_rankings(before, batch="two").added == 7  # another batch holds none of them
    assert store.import_rankings(store.rankings(batch="two"), batch="two").added == 0


def test_what_an_erased_person_said_comes_back_as_nothing_new(store: LabelStore) -> None:
    store.import_rankings([Ranking("p", ("a", "b"), (1, 2), "bob"), Ranking("p", ("a", "b"), (2, 1))], batch="one")
    gone = store.erase("bob")
    (mine,) = [r for r in store.rankings() if r.labeler == gone]
    assert store.import_rankings([mine], batch="one") == ImportReport(1, 0, 1, 0)


def test_a_reviewers_ranking_comes_back_as_nothing_new(store: LabelStore) -> None:
    store.add_tasks([NewTask("p", ("a", "b"))], batch="one")
    judged(store)
    store.invite("Lena", "reviewer")
    lena = next(p for p in store.people() if p.name == "Lena")
    (task,) = store.judged("one")
    first, second = sorted(task.ranks)
    from rlhf.preferences import Labeler

    store.decide(task.task_id, "ranking", {first: 2, second: 1}, "no", by=Labeler(lena.id, "Lena", "reviewer"))
    (decided,) = store.rankings(batch="one")
    assert decided.meta["adjudicated"] is True
    assert store.import_rankings([decided], batch="one") == ImportReport(1, 0, 1, 0)


def test_only_what_may_be_ours_is_looked_for_in_the_batch(store: LabelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else every part of a long file would read what the batch says of its prompts."""
    asked: list[int] = []
    held_before = imports._held
    monkeypatch.setattr(
        imports, "_held", lambda c, p, rankings, b: (asked.append(len(rankings)), held_before(c, p, rankings, b))[1]
    )
    store.import_rankings([Ranking("p", ("a", "b"), (1, 2), name) for name in ("ann", "bob")], batch="one")
    assert asked == []
    store.import_rankings([Ranking("p", ("a", "b"), (1, 2), "ann", meta={"shown": [0, 1]})], batch="one")
    assert asked == [1, 1]  # before a write transaction, and in it
