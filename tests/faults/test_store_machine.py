"""The label store against a model of it: whatever people do in whatever order, both say the same."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from rlhf.errors import StoreError
from rlhf.preferences import Assignment, LabelStore, NewTask, Outcome, VerdictKind
from rlhf.preferences.schema import assignments

LEASE = 1_000.0  # far longer than any run of the machine
PEOPLE = ("ann", "bob", "cid")


@dataclass
class Place:
    """What the model knows of a task and a person."""

    state: str = "open"  # open, done, surplus, skipped
    until: float = 0.0  # when the lease ends, by the model's clock
    reopened: bool = False


class StoreMachine(RuleBasedStateMachine):
    """Claims, submits (late, again), skips, corrections, releases, suspensions, what leads decide, time that passes."""

    new_store: Callable[[], str]
    runs = 0

    @initialize(overlaps=st.lists(st.integers(1, 3), min_size=1, max_size=4))
    def begin(self, overlaps: list[int]) -> None:
        type(self).runs += 1
        self.store = LabelStore.open(type(self).new_store())
        for number, overlap in enumerate(overlaps):
            self.store.add_tasks([NewTask(f"p{number}", ("a", "b"))], batch="one", overlap=overlap)
        self.overlap = dict(enumerate(overlaps, start=1))  # by task id
        self.priority = dict.fromkeys(self.overlap, 0)
        self.people = {name: self.store.labeler(name) for name in PEOPLE}
        self.places: dict[tuple[int, str], Place] = {}
        self.given: dict[tuple[int, str], Assignment] = {}
        self.said: list[tuple[int, str, str]] = []  # task, person, submit id
        self.clock = 0
        self.out: set[str] = set()  # who is suspended
        self.excluded: dict[str, list[int]] = {}  # whose rankings are in no export; what others are asked instead
        self.verdicts: dict[int, str] = {}
        self.store.invite("rex", "admin")
        self.rex = self.store.labeler("rex")

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()

    # --- the model

    def tick(self) -> int:
        time.sleep(0.002)  # SQLite's clock has milliseconds
        self.clock += 1
        return self.clock

    def taken(self, task: int, but: str | None = None) -> int:
        """Places of a task that are judged or under a live lease, one person's left out."""
        of = [p for (t, name), p in self.places.items() if t == task and name != but]
        return sum(p.state == "done" or (p.state == "open" and p.until > self.clock) for p in of)

    def free(self, task: int, name: str) -> int:
        return self.overlap[task] - self.taken(task, but=name)

    def expected_claim(self, name: str) -> int | None:
        if name in self.excluded:
            return None
        mine = [(t, p) for (t, n), p in self.places.items() if n == name and (p.state == "open" or p.reopened)]
        for task, place in sorted(mine, key=lambda tp: (not tp[1].reopened, -tp[1].until)):
            if place.reopened or self.free(task, name) > 0:
                return task
        for task in sorted(self.overlap, key=lambda t: (-self.priority[t], t)):
            if (task, name) not in self.places and self.taken(task) < self.overlap[task]:
                return task
        return None

    # --- what people do

    @precondition(lambda self: len(self.overlap) < 8)
    @rule(overlap=st.integers(1, 2), priority=st.integers(-1, 1))
    def add(self, overlap: int, priority: int) -> None:
        """A task that comes later, before or behind what people have been through."""
        task = len(self.overlap) + 1
        self.overlap[task], self.priority[task] = overlap, priority
        new = NewTask(f"later {task}", ("a", "b"), priority=priority)
        assert self.store.add_tasks([new], batch="one", overlap=overlap) == 1

    def refused(self, name: str, act: Callable[[], object]) -> bool:
        """Whether this person is suspended: then whatever they try is refused, and changes nothing."""
        if name in self.out:
            with pytest.raises(StoreError, match="not active here any more"):
                act()
        return name in self.out

    @rule(name=st.sampled_from(PEOPLE))
    def claim(self, name: str) -> None:
        if self.refused(name, lambda: self.store.claim(self.people[name])):
            return
        expected, now = self.expected_claim(name), self.tick()
        found = self.store.claim(self.people[name])
        assert (None if found is None else found.task_id) == expected
        if found is not None:
            place = self.places.setdefault((found.task_id, name), Place())
            place.until = now + LEASE
            assert found.reopened == place.reopened
            self.given[found.task_id, name] = found

    @precondition(lambda self: self.given)
    @rule(data=st.data(), skip=st.booleans())
    def submit(self, data: st.DataObject, skip: bool) -> None:
        task, name = data.draw(st.sampled_from(sorted(self.given)))
        place, now = self.places[task, name], self.tick()
        submit_id = f"{now}"
        if self.refused(name, lambda: self.send(task, name, submit_id, skip)):
            return
        if place.state != "open" and not place.reopened:
            with pytest.raises(StoreError, match="judged or skipped already"):
                self.send(task, name, submit_id, skip)
            return
        surplus = not skip and place.state != "done" and (name in self.excluded or self.free(task, name) < 1)
        assert self.send(task, name, submit_id, skip) is (Outcome.SURPLUS if surplus else Outcome.COUNTED)
        state = "skipped" if skip else "surplus" if surplus else "done"
        self.places[task, name] = Place(state, until=now)
        self.said.append((task, name, submit_id))

    def send(self, task: int, name: str, submit_id: str, skip: bool) -> Outcome:
        assignment = self.given[task, name]
        if skip:
            return self.store.skip(assignment, "no", submit_id=submit_id)
        return self.store.submit(assignment, {c.id: 1 for c in assignment.completions}, submit_id=submit_id)

    @precondition(lambda self: self.said)
    @rule(data=st.data(), skip=st.booleans())
    def send_again(self, data: st.DataObject, skip: bool) -> None:
        task, name, submit_id = data.draw(st.sampled_from(self.said))
        if self.refused(name, lambda: self.send(task, name, submit_id, skip)):
            return
        assert self.send(task, name, submit_id, skip) is Outcome.REPEATED

    @precondition(lambda self: self.given)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        task, name = data.draw(st.sampled_from(sorted(self.given)))
        if self.refused(name, lambda: self.store.release(self.given[task, name])):
            return
        place = self.places[task, name]
        place.until, place.reopened = self.tick(), False
        self.store.release(self.given[task, name])

    @precondition(lambda self: self.given)
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        task, name = data.draw(st.sampled_from(sorted(self.given)))
        if self.refused(name, lambda: self.store.renew(self.given[task, name])):
            return
        place, now = self.places[task, name], self.tick()
        expected = place.reopened or (place.state == "open" and self.free(task, name) > 0)
        assert self.store.renew(self.given[task, name]) is expected
        if expected:
            place.until = now + LEASE

    @rule(name=st.sampled_from(PEOPLE))
    def reopen_last(self, name: str) -> None:
        if self.refused(name, lambda: self.store.reopen(self.people[name])):
            return
        mine = [task for task, who, _ in self.said if who == name]
        found = self.store.reopen(self.people[name])
        assert (None if found is None else found.task_id) == (mine[-1] if mine else None)
        if found is not None:
            for (_, who), place in self.places.items():
                place.reopened = place.reopened and who != name
            self.places[found.task_id, name].reopened = True
            self.given[found.task_id, name] = found

    @rule(name=st.sampled_from(PEOPLE))
    def suspend_or_reinstate(self, name: str) -> None:
        """What a suspended person has open goes to others at once; a correction that they had begun is off."""
        if name in self.out:
            self.store.reinstate(name)
            self.out.remove(name)
            return
        now = self.tick()
        self.store.suspend(name)
        self.out.add(name)
        for (_, who), place in self.places.items():
            if who == name:
                place.until, place.reopened = (now if place.state == "open" else place.until), False

    # --- what leads do

    @rule(name=st.sampled_from(PEOPLE), replace=st.booleans())
    def exclude_or_include(self, name: str, replace: bool) -> None:
        """With `replace`, each task that they ranked wants one person more, until they are taken in again."""
        if name in self.excluded:
            self.store.include(name, by=self.rex)
            for task in self.excluded.pop(name):
                self.overlap[task] -= self.taken(task) < self.overlap[task]
            return
        self.store.exclude(name, "why", replace=replace, by=self.rex)
        theirs = [task for (task, who), place in self.places.items() if who == name and place.state == "done"]
        self.excluded[name] = [t for t in theirs if replace and self.verdicts.get(t, "keep") == "keep"]
        for task in self.excluded[name]:
            self.overlap[task] += 1

    @rule(data=st.data(), kind=st.sampled_from(("ranking", "keep", "drop")))
    def decide(self, data: st.DataObject, kind: VerdictKind) -> None:
        task = data.draw(st.sampled_from(sorted(self.overlap)))
        (view,) = self.store.task_views([task])
        ranks = {c.id: i for i, c in enumerate(view.completions, start=1)} if kind == "ranking" else {}
        self.store.decide(task, kind, ranks, by=self.rex)
        self.verdicts[task] = kind

    @rule(data=st.data())
    def reorder(self, data: st.DataObject) -> None:
        """Those that are open come in this order, the other open ones after them; what is full stays where it was."""
        wanted = data.draw(st.lists(st.sampled_from(sorted(self.overlap)), unique=True))
        self.store.reorder(wanted, by=self.rex)
        for task in self.overlap:
            if self.judged(task) < self.overlap[task]:
                self.priority[task] = len(wanted) - wanted.index(task) if task in wanted else 0

    def judged(self, task: int) -> int:
        return sum(place.state == "done" for (t, _), place in self.places.items() if t == task)

    @rule()
    def time_passes(self) -> None:
        """Every lease runs out."""
        with self.store._writing() as connection:
            connection.execute(sa.update(assignments).values(leased_until=assignments.c.leased_until - 1e6))
        for place in self.places.values():
            place.until -= 1e6

    # --- what always holds

    @invariant()
    def nothing_is_lost_or_too_many(self) -> None:
        if not hasattr(self, "store"):
            return
        assert self.store.check() == []
        counts = self.store.counts()
        states = [place.state for place in self.places.values()]
        assert counts.judgments == len(self.said)
        for name, person in self.people.items():
            if name in self.out:
                continue
            had = {task for task, who in self.places if who == name}
            open_ones = [t for t in had if self.places[t, name].state == "open"]
            wanted = [t for t in self.overlap if self.judged(t) < self.overlap[t]]
            to_come = [t for t in wanted if t not in had or t in open_ones] if name not in self.excluded else []
            assert self.store.progress(person).remaining == len(to_come)
        kept = [
            task
            for (task, name), place in self.places.items()
            if place.state == "done" and name not in self.excluded and self.verdicts.get(task, "keep") == "keep"
        ]
        decided = list(self.verdicts.values()).count("ranking")
        assert counts.rankings == len(self.store.rankings()) == len(kept) + decided
        assert counts.skips == states.count("skipped")
        for task, overlap in self.overlap.items():
            assert self.judged(task) <= overlap


@pytest.mark.parametrize("examples", [15, pytest.param(400, marks=(pytest.mark.slow, pytest.mark.timeout(1800)))])
def test_the_store_does_what_the_model_says_on_sqlite(tmp_path: Path, examples: int) -> None:
    empty = tmp_path / "empty.db"
    LabelStore.open(empty, create=True).close()

    class Machine(StoreMachine):
        @staticmethod
        def new_store() -> str:  # type: ignore[override]
            return str(shutil.copy(empty, Path(tempfile.mkdtemp(dir=tmp_path)) / "labels.db"))

    assert _run(Machine, examples) >= examples


@pytest.mark.postgres
@pytest.mark.parametrize("examples", [6, pytest.param(150, marks=(pytest.mark.slow, pytest.mark.timeout(1800)))])
def test_and_on_postgresql(new_postgres_store: Callable[[], str], examples: int) -> None:
    class Machine(StoreMachine):
        new_store = staticmethod(new_postgres_store)

    assert _run(Machine, examples) >= examples


def _run(machine: type[StoreMachine], examples: int) -> int:
    """Have hypothesis drive the machine, whose rules and invariant assert; how many runs there were."""
    checks = (HealthCheck.too_slow, HealthCheck.filter_too_much)
    how = settings(max_examples=examples, stateful_step_count=30, deadline=None, suppress_health_check=checks)
    run_state_machine_as_test(machine, settings=how)  # type: ignore[no-untyped-call]
    return machine.runs
