"""On PostgreSQL people and leads act at the same time: nobody deadlocks, and labelers wait for no import."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa

from rlhf.data.records import Ranking
from rlhf.errors import StoreError
from rlhf.preferences import Labeler, LabelStore, NewTask, Said, evidence, imports, judging, queue
from rlhf.preferences.schema import assignments

pytestmark = pytest.mark.postgres


@pytest.fixture
def url(new_postgres_store: Callable[[], str]) -> str:
    return new_postgres_store()


def work(url: str, name: str, over: threading.Event, refused: list[str]) -> int:
    """Claim, submit, correct, skip until the lead is through; what was refused for another reason than suspension."""
    done = 0
    with LabelStore.open(url) as store:
        person = store.labeler(name)
        patience = time.monotonic() + 300
        while not (over.is_set() and done):
            assert time.monotonic() < patience, "the lead is not through"
            try:
                done += one_round(store, person, f"{name}-{done}-{time.monotonic_ns()}")
            except StoreError as error:
                if "not active" not in str(error) and "judged or skipped already" not in str(error):
                    refused.append(str(error))
    return done


def lead(store: LabelStore, number: int) -> None:
    """Everything that takes locks on people, tasks and places, once."""
    store.suspend("ann")
    store.reinstate("ann")
    rows = [Ranking(f"i{number}-{j}", ("a", "b"), (1, 2), name) for j in range(5) for name in ("ann", "bob")]
    store.import_rankings(rows, batch="imported")
    store.add_tasks([NewTask(f"later {number}", ("a", "b"), priority=1)], batch="one", overlap=2)
    store.exclude("bob", "to see whether it hangs", replace=True)
    store.include("bob")
    store.reorder([view.id for view in store.waiting()][::-1][:500])


def one_round(store: LabelStore, person: Labeler, submit_id: str) -> int:
    assignment = store.claim(person)
    if assignment is None:
        return 0
    store.submit(assignment, {c.id: 1 for c in assignment.completions}, submit_id=submit_id)
    if store.reopen(person) is not None:
        again = store.claim(person)
        assert again is not None
        store.skip(again, "no")
    return 1


def test_whatever_leads_do_while_people_work_deadlocks_nobody(url: str) -> None:
    """Counted in rounds, not seconds: a slow machine takes longer over the same work."""
    refused: list[str] = []
    over = threading.Event()
    with LabelStore.open(url) as store:
        store.add_tasks([NewTask(str(i), ("a", "b")) for i in range(3000)], batch="one", overlap=3)
        store.labeler("ann")
        with ThreadPoolExecutor(3) as pool:
            people = [pool.submit(work, url, name, over, refused) for name in ("ann", "bob", "cid")]
            try:
                for number in range(5):
                    lead(store, number)
            finally:
                over.set()
            done = [future.result() for future in people]
        assert refused == []
        assert min(done) > 0
        assert store.check() == []


def test_a_labeler_goes_on_while_an_import_holds_one_of_their_rankings(url: str) -> None:
    with LabelStore.open(url) as store, LabelStore.open(url) as other:
        store.add_tasks([NewTask(p, ("a", "b")) for p in "pqr"], batch="one")
        ann = store.labeler("ann")
        waited = threading.Event()

        def label() -> None:
            assert one_round(store, ann, "s1") == 1
            waited.set()

        row = [Ranking("i", ("a", "b"), (1, 2), "ann")]
        with other._filling() as connection:
            imports.write(connection, other._project_id, row, "imported")
            thread = threading.Thread(target=label)
            thread.start()
            assert waited.wait(60)  # before the import has committed
        thread.join(60)
        assert store.check() == []


def test_nobody_is_told_that_all_is_done_because_another_claims_in_the_same_moment(url: str) -> None:
    with LabelStore.open(url) as store, LabelStore.open(url) as other:
        store.add_tasks([NewTask("p", ("a", "b"))], batch="one", overlap=2)
        ann, bob = store.labeler("ann"), store.labeler("bob")
        found = []
        with other._writing() as connection:  # as Ann's claim does, for as long as it takes
            assert queue.claim(connection, other._project_id, ann) is not None
            thread = threading.Thread(target=lambda: found.append(store.claim(bob)))
            thread.start()
            time.sleep(0.3)
        thread.join(60)
        assert [a is not None and a.prompt for a in found] == ["p"]


def test_what_is_read_is_one_moment_however_many_queries_it_takes(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two of them another task and its judgment come in."""
    with LabelStore.open(url) as store, LabelStore.open(url) as other:
        store.import_rankings([Ranking("p", ("a", "b"), (1, 2), "ann")], batch="one")
        before = store.stamp()
        facts = evidence._facts

        def slow(where: Any) -> Any:
            found = facts(where)
            monkeypatch.setattr(evidence, "_facts", facts)
            other.import_rankings([Ranking("q", ("c", "d"), (1, 2), "bob")], batch="one")
            return found

        monkeypatch.setattr(evidence, "_facts", slow)
        with store._reading() as connection:
            connection.execute(sa.text("SELECT 1"))  # the moment
            assert [j.labeler for j in evidence.judged(connection, store._project_id, None)] == ["ann"]
        assert [j.labeler for j in store.judged()] == ["ann", "bob"] and store.stamp() != before


def test_the_stamp_sees_what_is_committed_after_a_higher_number(url: str) -> None:
    with LabelStore.open(url) as store, LabelStore.open(url) as other:
        store.add_tasks([NewTask(p, ("a", "b")) for p in "pq"], batch="one")
        first, second = (store.claim(store.labeler(name)) for name in ("ann", "bob"))
        assert first is not None and second is not None
        with other._writing() as connection:
            said = Said({c.id: 1 for c in first.completions})
            judging.submit(connection, other._project_id, first, said, submit_id="1")
            store.submit(second, {c.id: 1 for c in second.completions}, submit_id="2")
            before = store.stamp()
        assert store.stamp() != before and len(store.judged()) == 2


def test_claims_that_wait_hold_nothing_that_others_wait_for(url: str) -> None:
    """Leases that ran out and cannot be taken up are let go of before the next task is waited for."""
    with LabelStore.open(url) as store, LabelStore.open(url) as other:
        store.add_tasks([NewTask(p, ("a", "b")) for p in "pq"], batch="one")
        ann, bob = store.labeler("ann"), store.labeler("bob")
        lost = store.claim(ann)
        assert lost is not None
        with store._writing() as connection:
            connection.execute(sa.update(assignments).values(leased_until=0.0))
        given = store.claim(bob)
        assert given is not None and given.task_id == lost.task_id
        found: list[Any] = []
        with other._writing() as connection:  # as a lead's new order does, from the second task on to the first
            queue.locked(connection, 2)
            thread = threading.Thread(target=lambda: found.append(store.claim(ann)))
            thread.start()
            time.sleep(0.5)
            queue.locked(connection, 1)
        thread.join(60)
        assert [a is not None and a.task_id for a in found] == [2]
