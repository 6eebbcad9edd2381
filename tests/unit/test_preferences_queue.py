"""Who is asked what: leases, overlap, one judgment for one submit, corrections as revisions."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest
import sqlalchemy as sa

from rlhf.data.records import Ranking
from rlhf.errors import ConfigError, StoreError
from rlhf.preferences import Assignment, Counts, Labeler, LabelStore, NewTask, Outcome, Progress
from rlhf.preferences.schema import assignments

T = TypeVar("T")


def claimed(store: LabelStore, labeler: Labeler) -> Assignment:
    assignment = store.claim(labeler)
    assert assignment is not None
    return assignment


def rank(store: LabelStore, assignment: Assignment, submit_id: str, *, reverse: bool = False) -> Outcome:
    """Rank in the order of the task's texts (they are given in alphabetical order), or in the reverse of it."""
    ordered = sorted(assignment.completions, key=lambda c: c.text, reverse=reverse)
    return store.submit(assignment, {c.id: i + 1 for i, c in enumerate(ordered)}, submit_id=submit_id)


def expire(store: LabelStore) -> None:
    """Let every lease run out, as time would: no API does this."""
    with store._writing() as connection:
        connection.execute(sa.update(assignments).values(leased_until=assignments.c.leased_until - 1e6))


def test_ranks_belong_to_completions_whatever_was_shown_or_clicked(store: LabelStore) -> None:
    """Stored order a, b, c, d; shown order b, d, a, c; ranks d = 1, a = c = 2, b = 4: three different orders."""
    store.add_tasks([NewTask("p", ("a", "b", "c", "d"), ("sft", "ppo", "ppo", "sft"))], batch="one")
    ann = store.labeler("ann")
    assignment = claimed(store, ann)
    ids = {c.text: c.id for c in assignment.completions}
    with store._writing() as connection:
        connection.execute(sa.update(assignments).values(shown=[ids[text] for text in "bdac"]))
    assignment = claimed(store, ann)
    assert [c.text for c in assignment.completions] == ["b", "d", "a", "c"]
    by_id = {ids["d"]: 1, ids["a"]: 2, ids["c"]: 2, ids["b"]: 4}
    assert store.submit(assignment, by_id, submit_id="s1", comment="close", active_seconds=7.5) is Outcome.COUNTED
    (ranking,) = store.rankings()
    assert ranking.completions == ("a", "b", "c", "d")
    assert ranking.ranks == (2, 4, 2, 1)
    assert ranking.meta == {
        "batch": "one",
        "sources": ["sft", "ppo", "ppo", "sft"],
        "shown": [1, 3, 0, 2],
        "comment": "close",
        "active_seconds": 7.5,
    }


def test_the_order_on_screen_is_drawn_for_each_labeler(store: LabelStore) -> None:
    store.add_tasks([NewTask("p", tuple("abcdefghi"))], batch="one", overlap=8)
    orders = {tuple(c.text for c in claimed(store, store.labeler(f"l{i}")).completions) for i in range(8)}
    assert len(orders) > 1  # all eight alike: once in 9!^7


def test_a_claim_gives_what_is_open_before_anything_new(store: LabelStore) -> None:
    store.add_tasks([NewTask("p", ("a", "b")), NewTask("q", ("a", "b"))], batch="one")
    ann = store.labeler("ann")
    first = claimed(store, ann)
    assert claimed(store, ann) == first


def test_priority_then_age(store: LabelStore) -> None:
    tasks = [NewTask("old", ("a", "b")), NewTask("new", ("a", "b")), NewTask("urgent", ("a", "b"), priority=5)]
    store.add_tasks(tasks, batch="one")
    ann = store.labeler("ann")
    seen = []
    for i in range(3):
        assignment = claimed(store, ann)
        seen.append(assignment.prompt)
        rank(store, assignment, f"s{i}")
    assert seen == ["urgent", "old", "new"]
    assert store.claim(ann) is None


def test_overlap_is_exact_and_nobody_waits(store: LabelStore) -> None:
    """Two tasks for two people each: three labelers at once get p, p, q; then q's second place; then nothing."""
    store.add_tasks([NewTask("p", ("a", "b")), NewTask("q", ("a", "b"))], batch="one", overlap=2)
    ann, bob, cid = (store.labeler(n) for n in ("ann", "bob", "cid"))
    a, b, c = claimed(store, ann), claimed(store, bob), claimed(store, cid)
    assert [x.prompt for x in (a, b, c)] == ["p", "p", "q"]
    for i, x in enumerate((a, b, c)):
        assert rank(store, x, f"s{i}") is Outcome.COUNTED
    assert store.claim(cid) is None  # q was theirs already, p is full
    again = claimed(store, ann)
    assert again.prompt == "q"
    assert store.claim(bob) is None  # q's last place is under ann's lease
    rank(store, again, "s3")
    assert store.counts() == Counts(tasks=2, waiting=0, rankings=4, skips=0, judgments=4, labelers=3)


def test_imported_tasks_are_never_handed_out(store: LabelStore) -> None:
    store.import_rankings([Ranking("p", ("a", "b"), (1, 2), "ann")], batch="one")
    assert store.claim(store.labeler("bob")) is None
    assert store.reopen(store.labeler("ann")) is None


def test_a_submit_sent_twice_counts_once(store: LabelStore) -> None:
    store.add_tasks([NewTask("p", ("a", "b")), NewTask("q", ("a", "b"))], batch="one")
    ann = store.labeler("ann")
    first = claimed(store, ann)
    assert rank(store, first, "same") is Outcome.COUNTED
    assert rank(store, first, "same") is Outcome.REPEATED
    with pytest.raises(StoreError, match="judged or skipped already; reopen it"):
        rank(store, first, "another")
    with pytest.raises(StoreError, match="used for another task"):
        rank(store, claimed(store, ann), "same")
    assert store.counts().judgments == 1


def test_an_expired_lease_frees_the_task_for_others(store: LabelStore) -> None:
    store.add_tasks([NewTask("p", ("a", "b"))], batch="one")
    ann, bob = store.labeler("ann"), store.labeler("bob")
    mine = claimed(store, ann)
    assert store.claim(bob) is None
    expire(store)
    theirs = claimed(store, bob)
    assert theirs.task_id == mine.task_id
    assert store.renew(mine) is False
    assert store.claim(ann) is None


def test_a_late_submit_counts_while_there_is_room_and_is_kept_as_surplus_after(store: LabelStore) -> None:
    store.add_tasks([NewTask("p", ("a", "b")), NewTask("q", ("a", "b"))], batch="one")
    ann, bob = store.labeler("ann"), store.labeler("bob")
    late = claimed(store, ann)
    expire(store)
    assert rank(store, late, "s1") is Outcome.COUNTED  # nobody took it
    late = claimed(store, ann)
    expire(store)
    rank(store, claimed(store, bob), "s2")
    assert rank(store, late, "s3", reverse=True) is Outcome.SURPLUS
    assert [(r.prompt, r.labeler, r.ranks) for r in store.rankings()] == [("p", "ann", (1, 2)), ("q", "bob", (1, 2))]
    assert store.counts().judgments == 3  # kept all the same
    assert store.progress(ann) == Progress(ranked=2, skipped=0, remaining=0, today=2)


def test_after_a_break_the_same_task_is_there_in_the_same_order(store: LabelStore) -> None:
    store.add_tasks([NewTask(str(i), tuple("abcdef")) for i in range(3)], batch="one")
    ann = store.labeler("ann")
    before = claimed(store, ann)
    expire(store)
    assert claimed(store, ann) == before
    expire(store)
    assert store.renew(before) is True
    assert store.claim(store.labeler("bob")) != before


def test_a_skip_goes_to_the_next_person_and_does_not_come_back(store: LabelStore) -> None:
    store.add_tasks([NewTask("p", ("a", "b"))], batch="one")
    ann, bob = store.labeler("ann"), store.labeler("bob")
    mine = claimed(store, ann)
    assert store.skip(mine, "no idea", submit_id="s1") is Outcome.COUNTED
    assert store.skip(mine, "no idea", submit_id="s1") is Outcome.REPEATED
    assert store.claim(ann) is None
    rank(store, claimed(store, bob), "s2")
    assert store.counts() == Counts(tasks=1, waiting=0, rankings=1, skips=1, judgments=2, labelers=2)
    assert store.progress(ann) == Progress(ranked=0, skipped=1, remaining=0)


def test_a_correction_is_a_new_revision_and_the_last_one_counts(store: LabelStore) -> None:
    store.add_tasks([NewTask("p", ("a", "b")), NewTask("q", ("a", "b"))], batch="one")
    ann = store.labeler("ann")
    assert store.reopen(ann) is None
    first = claimed(store, ann)
    rank(store, first, "s1")
    other = claimed(store, ann)
    reopened = store.reopen(ann)
    assert reopened is not None and reopened.reopened
    ids = {c.text: c.id for c in reopened.completions}
    assert reopened.before.ranks == {ids["a"]: 1, ids["b"]: 2}
    assert [c.id for c in reopened.completions] == [c.id for c in first.completions]
    assert claimed(store, ann) == reopened  # a reload goes on with the correction
    assert rank(store, reopened, "s2", reverse=True) is Outcome.COUNTED
    assert [r.ranks for r in store.rankings()] == [(2, 1)]
    assert store.counts().judgments == 2
    assert claimed(store, ann) == other  # and then with what was open before


def test_a_correction_can_be_left_or_turned_into_a_skip(store: LabelStore) -> None:
    store.add_tasks([NewTask("p", ("a", "b"))], batch="one")
    ann = store.labeler("ann")
    rank(store, claimed(store, ann), "s1")
    reopened = store.reopen(ann)
    assert reopened is not None
    store.release(reopened)
    assert store.claim(ann) is None
    assert [r.ranks for r in store.rankings()] == [(1, 2)]
    reopened = store.reopen(ann)
    assert reopened is not None
    store.skip(reopened, "on second thought", submit_id="s2")
    assert store.rankings() == []
    assert claimed(store, store.labeler("bob")).prompt == "p"  # its place is free again


def test_a_released_task_is_free_at_once(store: LabelStore) -> None:
    store.add_tasks([NewTask("p", ("a", "b"))], batch="one")
    store.release(claimed(store, store.labeler("ann")))
    assert claimed(store, store.labeler("bob")).prompt == "p"


def test_ranks_that_do_not_fit_are_refused(store: LabelStore) -> None:
    store.add_tasks([NewTask("p", ("a", "b"))], batch="one")
    assignment = claimed(store, store.labeler("ann"))
    a, b = (c.id for c in assignment.completions)
    bad: list[dict[int, int | None]] = [{a: 1}, {a: 1, b: 2, 999: 3}, {a: 0, b: 1}, {a: True, b: 2}, {a: 1, b: None}]
    for ranks in bad:
        with pytest.raises(StoreError, match="ranks: "):
            store.submit(assignment, ranks, submit_id="s")
    assert store.counts().judgments == 0


def test_guidelines_have_versions_and_judgments_remember_theirs(store: LabelStore) -> None:
    store.add_tasks([NewTask("p", ("a", "b"))], batch="one")
    assert store.set_guidelines("Be kind.") == 1
    assignment = claimed(store, store.labeler("ann"))
    assert (assignment.guidelines, assignment.guideline_version) == ("Be kind.", 1)
    assert store.set_guidelines("Be fair.") == 2
    rank(store, assignment, "s1")
    assert store.rankings()[0].meta["guideline_version"] == 1


def test_leases_last_as_long_as_the_project_says(store: LabelStore) -> None:
    store.add_tasks([NewTask("p", ("a", "b"))], batch="one")
    store.configure({"lease_seconds": 0.001})
    claimed(store, store.labeler("ann"))
    threading.Event().wait(0.05)
    assert claimed(store, store.labeler("bob")).prompt == "p"
    with pytest.raises(ConfigError, match=r"lease_seconds: Input should be greater than 0, found 0"):
        store.configure({"lease_seconds": 0})


def test_threads_that_claim_at_once_never_get_one_task_twice(store: LabelStore, store_url: str) -> None:
    """8 threads, each with a store of its own, take 40 tasks and send every submit twice: 40 judgments, no more."""
    store.add_tasks([NewTask(str(i), ("a", "b")) for i in range(40)], batch="one")
    taken: list[int] = []

    def work(name: str) -> None:
        with LabelStore.open(store_url) as own:
            labeler = own.labeler(name)
            while (assignment := own.claim(labeler)) is not None:
                taken.append(assignment.task_id)
                rank(own, assignment, f"{name}-{assignment.task_id}")
                rank(own, assignment, f"{name}-{assignment.task_id}")

    threads = [threading.Thread(target=work, args=(f"l{i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == len(set(taken)) == 40
    assert store.counts().judgments == 40


def at_once(count: int, work: Callable[[LabelStore], T], store_url: str) -> list[T]:
    """What `count` threads get that do the same thing at the same moment, each with a store of its own."""
    barrier = threading.Barrier(count)

    def one(_: int) -> T:
        with LabelStore.open(store_url) as own:
            barrier.wait(30)
            return work(own)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def test_one_submit_sent_by_many_at_once_counts_once(store: LabelStore, store_url: str) -> None:
    """A double Enter, or two tabs: whichever comes second is told that it was a repetition, not an error."""
    store.add_tasks([NewTask("p", ("a", "b"))], batch="one")
    assignment = claimed(store, store.labeler("ann"))
    outcomes = at_once(8, lambda own: rank(own, assignment, "same"), store_url)
    assert sorted(outcomes, key=str) == sorted([Outcome.COUNTED] + [Outcome.REPEATED] * 7, key=str)
    assert store.counts().judgments == 1


def test_one_person_in_many_tabs_is_given_one_task(store: LabelStore, store_url: str) -> None:
    store.add_tasks([NewTask(str(i), ("a", "b")) for i in range(20)], batch="one")
    ann = store.labeler("ann")
    assert len({claimed.id for claimed in at_once(8, lambda own: own.claim(ann), store_url) if claimed}) == 1


def test_one_new_name_given_by_many_at_once_is_one_person(store: LabelStore, store_url: str) -> None:
    assert len({labeler.id for labeler in at_once(8, lambda own: own.labeler("ann"), store_url)}) == 1


def test_the_same_file_and_tasks_given_by_many_at_once_are_added_once(store: LabelStore, store_url: str) -> None:
    rankings = [Ranking(f"p{i}", ("a", "b"), (1, 2), "ann") for i in range(20)]
    reports = at_once(6, lambda own: own.import_rankings(rankings, batch="one"), store_url)
    assert sum(report.added for report in reports) == len(store.rankings()) == 20
    added = at_once(6, lambda own: own.add_tasks([NewTask("q", ("a", "b"))], batch="two"), store_url)
    assert sorted(added) == [0, 0, 0, 0, 0, 1]
    assert sorted(at_once(6, lambda own: own.set_guidelines("Be kind."), store_url)) == [1, 2, 3, 4, 5, 6]


def test_a_bookmark_never_hides_a_task_that_has_become_free(store: LabelStore) -> None:
    """Ann is at the end of the queue; then something changes in front of her bookmark."""
    store.add_tasks([NewTask(p, ("a", "b")) for p in "pq"], batch="one", overlap=2)
    ann, bob, cid = (store.labeler(name) for name in ("ann", "bob", "cid"))
    for submit_id in ("a1", "a2"):
        rank(store, claimed(store, ann), submit_id)
    assert store.claim(ann) is None
    store.add_tasks([NewTask("urgent", ("a", "b"), priority=5)], batch="one", overlap=2)
    assert claimed(store, ann).prompt == "urgent"  # a task of higher priority came
    rank(store, claimed(store, ann), "a3")
    for submit_id in ("b1", "b2", "b3"):
        rank(store, claimed(store, bob), submit_id)
    assert store.claim(cid) is None  # everything is full
    assert store.progress(cid).remaining == 0
    assert store.reopen(bob) is not None
    store.skip(claimed(store, bob), "no")  # a judgment became a skip: its place is free again
    assert store.progress(cid).remaining == 1
    assert claimed(store, cid).prompt == "q"


def test_without_the_version_a_bookmark_would_hide_it(store: LabelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above has teeth: it is the queue's version that makes bookmarks invalid."""
    from rlhf.preferences import queue

    monkeypatch.setattr(queue, "changed", lambda *_: None)
    store.add_tasks([NewTask(p, ("a", "b")) for p in "pq"], batch="one")
    ann = store.labeler("ann")
    rank(store, claimed(store, ann), "a1")
    assert claimed(store, ann).prompt == "q"  # her bookmark is at q
    rank(store, claimed(store, ann), "a2")
    store.add_tasks([NewTask("urgent", ("a", "b"), priority=5)], batch="one")
    assert store.claim(ann) is None
