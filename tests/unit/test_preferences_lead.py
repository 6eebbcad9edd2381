"""What a lead does in a store: judgments seen together, verdicts, exclusions, the order of the queue."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rlhf.data.records import Ranking
from rlhf.errors import DataError, StoreError
from rlhf.preferences import Labeler, LabelStore, NewTask, Note, Outcome


def person(store: LabelStore, name: str, role: str) -> Labeler:
    store.invite(name, role)
    return store.labeler(name)


def rank(store: LabelStore, name: str, best: str, **more: Any) -> int:
    """This labeler ranks their next task, `best` before the rest in the order of the alphabet; returns its number."""
    assignment = store.claim(store.labeler(name))
    assert assignment is not None
    order = sorted(assignment.completions, key=lambda c: (c.text != best, c.text))
    ranks = {c.id: i + 1 for i, c in enumerate(order)}
    notes = {c.id: note for c in order if (note := more.get(c.text)) is not None}
    store.submit(
        assignment, ranks, submit_id=f"{name}-{assignment.id}", notes=notes, active_seconds=more.get("seconds")
    )
    return assignment.task_id


def ranked(store: LabelStore) -> dict[tuple[str, str], tuple[int | None, ...]]:
    return {(str(r.prompt), r.labeler): r.ranks for r in store.rankings()}


def test_judged_tells_all_that_statistics_need(store: LabelStore) -> None:
    store.add_tasks([NewTask("p", ("aa", "b"), ("sft", "policy"), group="g")], batch="one", overlap=2)
    rank(store, "ann", "b", seconds=4.5, aa=Note(flags=("Not true",)))
    assignment = store.claim(store.labeler("bob"))
    assert assignment is not None
    store.skip(assignment, "Something else", submit_id="s")
    first, second = store.judged()
    ids = {length: completion for completion, length in first.lengths.items()}
    assert set(ids) == {2, 1} and first.ranks == {ids[2]: 2, ids[1]: 1} and set(first.shown) == set(first.ranks)
    assert first.sources == {ids[2]: "sft", ids[1]: "policy"} and first.flags == {ids[2]: ("Not true",)}
    assert (first.labeler, first.batch, first.seconds, first.group, first.gold) == ("ann", "one", 4.5, "g", None)
    assert (second.labeler, second.ranks, second.skip_reason, second.excluded) == ("bob", {}, "Something else", False)
    store.exclude("ann", "In a hurry.")
    assert [j.excluded for j in store.judged("one")] == [True, False] and store.judged("two") == []


def test_judged_takes_the_latest_revision_and_marks_gold_and_imports(store: LabelStore) -> None:
    store.configure({"gold_share": 0.5})
    store.add_gold([Ranking(f"g{i}", ("a", "b"), (1, 2)) for i in range(40)])
    store.add_tasks([NewTask(f"p{i}", ("a", "b")) for i in range(40)], batch="one")
    for _ in range(20):
        rank(store, "ann", "b")
    store.import_rankings([Ranking("i", ("a", "b"), (1, 1), "cid", meta={"sources": ["x", "y"]})], batch="file")
    found = store.judged()
    golden = [j for j in found if j.gold is not None]
    assert golden and all(sorted(j.gold.values()) == [1, 2] for j in golden if j.gold)  # type: ignore[type-var]
    assert all(j.batch == "gold" for j in golden) and len(found) == 21
    assert list(found[-1].sources.values()) == ["x", "y"] and found[-1].shown == () and found[-1].labeler == "cid"
    again = store.reopen(store.labeler("ann"))
    assert again is not None
    store.submit(again, {c.id: 1 for c in again.completions}, submit_id="new")
    latest = [j for j in store.judged() if j.revision == 2]
    assert len(store.judged()) == 21 and [set(j.ranks.values()) for j in latest] == [{1}]


def test_the_stamp_changes_with_whatever_the_numbers_depend_on(store: LabelStore) -> None:
    lead = person(store, "lead", "admin")
    seen = [store.stamp(by=lead)]

    def changed(what: Callable[[], object]) -> None:
        what()
        assert store.stamp(by=lead) not in seen
        seen.append(store.stamp(by=lead))

    changed(lambda: store.add_tasks([NewTask("p", ("a", "b"))], batch="one"))
    changed(lambda: rank(store, "ann", "a"))
    changed(lambda: store.decide(1, "keep", by=lead))
    changed(lambda: store.exclude("ann", "why", by=lead))
    changed(lambda: store.include("ann", by=lead))
    changed(lambda: store.erase("ann", by=lead))
    store.sign_in_by_name("zoe")
    changed(lambda: None if store.stamp() != seen[-1] else pytest.fail("a new name is shown, too"))
    assert store.stamp() == seen[-1]


def test_tasks_can_be_looked_at_with_their_sources(store: LabelStore) -> None:
    store.add_tasks(
        [NewTask("p", ("a", "b"), ("x", "y")), NewTask("q", ("c", "d"), priority=5)], batch="one", overlap=2
    )
    done = rank(store, "ann", "c")
    views = store.task_views([2, 99, 1])
    assert [(v.id, v.prompt, v.judged, v.overlap) for v in views] == [(2, "q", 1, 2), (1, "p", 0, 2)] and done == 2
    assert [(c.text, c.source) for c in views[1].completions] == [("a", "x"), ("b", "y")]
    assert [v.id for v in store.waiting()] == [2, 1] and store.waiting("two") == []
    assert store.open_places("one") == {1: 2, 2: 1} and store.open_places("two") == {}
    rank(store, "bob", "c")
    assert [v.id for v in store.waiting()] == [1]


def test_a_new_order_is_the_one_in_which_tasks_are_handed_out(store: LabelStore) -> None:
    store.add_tasks([NewTask(str(i), ("a", "b")) for i in range(1, 7)], batch="one")
    bob = store.labeler("bob")
    rank(store, "ann", "a")
    first = store.claim(bob)  # a bookmark, which the new order must not believe
    assert first is not None
    store.skip(first, "no")
    assert store.reorder([5, 1, 3]) == 2  # the first is done
    asked = []
    while (assignment := store.claim(bob)) is not None:
        asked.append(assignment.task_id)
        store.skip(assignment, "no")
    assert asked == [5, 3, 4, 6] and first.task_id == 2
    assert [v.id for v in store.waiting()] == [5, 3, 2, 4, 6]
    store.reorder([6])
    assert [v.id for v in store.waiting()] == [6, 2, 3, 4, 5]
    with pytest.raises(StoreError, match="twice"):
        store.reorder([2, 2])


def test_many_tasks_are_ordered_in_parts(store: LabelStore) -> None:
    store.add_tasks([NewTask(str(i), ("a", "b")) for i in range(450)], batch="one")
    ids = [v.id for v in store.waiting()]
    assert store.reorder(ids[::-1]) == 450
    assert [v.id for v in store.waiting()] == ids[::-1]


def test_a_verdict_stands_for_everybodys_rankings(store: LabelStore) -> None:
    store.add_tasks([NewTask(p, ("a", "b")) for p in ("p", "q", "r")], batch="one", overlap=2)
    for name, best in (("ann", "a"), ("bob", "b")):
        for _ in range(3):
            rank(store, name, best)
    rex = person(store, "rex", "reviewer")
    by_text = {c.text: c.id for c in store.task_views([1])[0].completions}
    store.decide(1, "ranking", {by_text["a"]: 2, by_text["b"]: 1}, "Ann overlooked it.", by=rex)
    store.decide(2, "drop", by=rex)
    store.decide(3, "keep", by=rex)
    assert ranked(store) == {("p", "rex"): (2, 1), ("r", "ann"): (1, 2), ("r", "bob"): (2, 1)}
    assert store.counts().rankings == 3 and store.counts("one").rankings == 3
    (first, *_) = store.rankings()
    assert first.meta == {"batch": "one", "comment": "Ann overlooked it.", "adjudicated": True}
    verdicts = store.verdicts(by=rex)
    assert {t: (v.kind, v.by, v.comment) for t, v in verdicts.items()} == {
        1: ("ranking", "rex", "Ann overlooked it."),
        2: ("drop", "rex", ""),
        3: ("keep", "rex", ""),
    }
    before = store.fingerprint()
    store.decide(1, "keep", by=rex)  # a later verdict replaces it
    assert ranked(store)["p", "ann"] == (1, 2) and store.fingerprint() != before and store.check() == []


@pytest.mark.parametrize(
    ("task", "kind", "ranks", "message"),
    [
        (99, "keep", {}, r"task 99: this project has none of that number"),
        (1, "maybe", {}, r"verdict: expected one of ranking, keep, drop, found 'maybe'"),
        (1, "ranking", {}, r"ranks: expected one for each of the completions \[1, 2\], found \[\]"),
        (1, "ranking", {1: 1, 3: 2}, r"ranks: expected one for each of the completions \[1, 2\], found \[1, 3\]"),
        (1, "ranking", {1: 0, 2: 1}, r"ranks: completion 1: expected a whole number from 1 \(best\), found 0"),
        (1, "ranking", {1: 1, 2: None}, r"at least two completions must have one"),
        (1, "drop", {1: 1, 2: 2}, r"ranks: belong to a verdict 'ranking', found 'drop'"),
        (2, "keep", {}, r"task 2: is a gold one"),
    ],
)
def test_a_verdict_that_cannot_be_is_refused(store: LabelStore, task: int, kind: Any, ranks: Any, message: str) -> None:
    store.add_tasks([NewTask("p", ("a", "b"))], batch="one")
    store.add_gold([Ranking("g", ("a", "b"), (1, 2))])
    with pytest.raises(StoreError, match=message):
        store.decide(task, kind, ranks, by=person(store, "rex", "reviewer"))
    assert store.verdicts() == {}


def test_who_is_excluded_is_in_no_export_and_can_be_taken_in_again(store: LabelStore) -> None:
    store.add_tasks([NewTask("p", ("a", "b")), NewTask("q", ("a", "b"))], batch="one", overlap=2)
    for name, best in (("ann", "a"), ("bob", "b")):
        assignment_task = rank(store, name, best)
        assert assignment_task == 1
    assignment = store.claim(store.labeler("bob"))
    assert assignment is not None
    store.submit(assignment, {c.id: 1 for c in assignment.completions}, submit_id="b2", better="So.")
    root = person(store, "root", "admin")
    assert len(store.rankings()) == 3 and len(store.demonstrations()) == 1
    store.exclude("bob", "Always the first card.", by=root)
    assert ranked(store) == {("p", "ann"): (1, 2)} and store.demonstrations() == [] and store.counts().rankings == 1
    (why,) = store.exclusions(by=root)
    assert (why.labeler, why.reason, why.by) == ("bob", "Always the first card.", "root")
    with pytest.raises(StoreError, match="left out of exports already"):
        store.exclude("bob", "again", by=root)
    store.include("bob", by=root)
    assert len(store.rankings()) == 3 and store.exclusions() == []
    with pytest.raises(StoreError, match="are not left out"):
        store.include("bob", by=root)
    with pytest.raises(DataError, match="reason: the text is blank"):
        store.exclude("bob", " ", by=root)
    with pytest.raises(StoreError, match="nobody here is called 'eve'"):
        store.exclude("eve", "why", by=root)
    assert [e.action for e in store.events(2)] == ["include", "exclude"]


def test_an_exclusion_can_ask_others_instead(store: LabelStore) -> None:
    store.add_tasks([NewTask("p", ("a", "b")), NewTask("q", ("a", "b"))], batch="one")
    assert rank(store, "bob", "b") == 1
    assert store.claim(store.labeler("ann")) is not None  # the second task
    assert store.claim(store.labeler("cid")) is None
    store.exclude("bob", "At random.", replace=True)
    assert rank(store, "cid", "a") == 1 and ranked(store) == {("p", "cid"): (1, 2)} and store.check() == []
    assert store.claim(store.labeler("dan")) is None


def test_who_is_excluded_gets_nothing_more_and_takes_nobodys_place(store: LabelStore) -> None:
    store.add_tasks([NewTask(p, ("a", "b")) for p in "pqr"], batch="one")
    rank(store, "bob", "b")
    bob = store.labeler("bob")
    begun = store.claim(bob)
    assert begun is not None and store.progress(bob).remaining == 2
    store.exclude("bob", "At random.")
    assert store.claim(bob) is None and store.progress(bob).remaining == 0
    said = store.submit(begun, {c.id: 1 for c in begun.completions}, submit_id="late")
    assert said is Outcome.SURPLUS and store.counts().waiting == 2 and store.check() == []
    store.include("bob")
    assert rank(store, "bob", "b") == 3


def test_places_that_nobody_took_close_when_the_excluded_person_comes_back(store: LabelStore) -> None:
    store.add_tasks([NewTask(p, ("a", "b")) for p in "pqr"], batch="one")
    for _ in range(3):
        rank(store, "bob", "b")
    for _ in range(3):
        store.exclude("bob", "why", replace=True)
        assert store.open_places() == {1: 1, 2: 1, 3: 1}
        store.include("bob")
        assert store.open_places() == {}
    store.exclude("bob", "why", replace=True)
    assert rank(store, "ann", "a") == 1 and store.claim(store.labeler("cid")) is not None
    store.include("bob")
    assert store.open_places() == {2: 1}  # Cid works on it
    assert [(v.judged, v.overlap) for v in store.task_views([1, 2, 3])] == [(2, 2), (1, 2), (1, 1)]
    assert store.check() == []


def test_nobody_is_asked_again_what_a_reviewer_has_decided(store: LabelStore) -> None:
    store.add_tasks([NewTask(p, ("a", "b")) for p in "pqr"], batch="one")
    for _ in range(3):
        rank(store, "bob", "b")
    rex = person(store, "rex", "reviewer")
    store.decide(1, "drop", by=rex)
    store.decide(2, "keep", by=rex)
    store.exclude("bob", "why", replace=True)
    assert store.open_places() == {2: 1, 3: 1}
    store.decide(1, "keep", by=rex)  # now it would be asked; but taking Bob in again closes what was opened, no more
    store.include("bob")
    assert store.open_places() == {} and [v.overlap for v in store.task_views([1, 2, 3])] == [1, 1, 1]


def test_the_verdict_of_somebody_excluded_does_not_stand(store: LabelStore) -> None:
    store.add_tasks([NewTask("p", ("a", "b"))], batch="one")
    rank(store, "ann", "a")
    rita, rex = person(store, "rita", "reviewer"), person(store, "rex", "reviewer")
    store.decide(1, "keep", by=rex)
    store.decide(1, "drop", by=rita)
    assert store.rankings() == [] and store.counts().rankings == 0
    store.exclude("rita", "Made it all up.")
    assert len(store.rankings()) == store.counts().rankings == 1 and store.verdicts()[1].by == "rex"


def test_somebody_erased_can_be_excluded(store: LabelStore) -> None:
    store.add_tasks([NewTask("p", ("a", "b"))], batch="one")
    rank(store, "bob", "b")
    pseudonym = store.erase("bob")
    store.exclude(pseudonym, "At random.")
    assert store.rankings() == []
    store.include(pseudonym)
    assert len(store.rankings()) == 1


def test_exclusion_is_by_project(store: LabelStore, store_url: str) -> None:
    store.create_project("second")
    with LabelStore.open(store_url, project="second") as second:
        for project in (store, second):
            project.add_tasks([NewTask("p", ("a", "b"))], batch="one")
            assert rank(project, "bob", "b")
        store.exclude("bob", "why")
        assert store.rankings() == [] and len(second.rankings()) == 1 and second.exclusions() == []


LEADS: list[tuple[str, Callable[[LabelStore, Labeler], object]]] = [
    ("reviewer", lambda store, by: store.judged(by=by)),
    ("reviewer", lambda store, by: store.stamp(by=by)),
    ("reviewer", lambda store, by: store.task_views([1], by=by)),
    ("reviewer", lambda store, by: store.waiting(by=by)),
    ("reviewer", lambda store, by: store.open_places(by=by)),
    ("reviewer", lambda store, by: store.verdicts(by=by)),
    ("reviewer", lambda store, by: store.decide(1, "keep", by=by)),
    ("reviewer", lambda store, by: store.exclusions(by=by)),
    ("admin", lambda store, by: store.exclude("ann", "why", by=by)),
    ("admin", lambda store, by: store.include("ann", by=by)),
    ("admin", lambda store, by: store.reorder([1], by=by)),
]


@pytest.mark.parametrize(("role", "act"), LEADS, ids=lambda v: v if isinstance(v, str) else "")
def test_each_is_for_its_role(store: LabelStore, role: str, act: Callable[[LabelStore, Labeler], object]) -> None:
    store.add_tasks([NewTask("p", ("a", "b"))], batch="one")
    rank(store, "ann", "a")
    people = {name: person(store, name, name) for name in ("labeler", "reviewer", "admin")}
    if act is LEADS[9][1]:
        store.exclude("ann", "why")
    for name in {"reviewer": ("labeler",), "admin": ("labeler", "reviewer")}[role]:
        with pytest.raises(StoreError, match=rf"this is for the role '{role}', and yours is '{name}'"):
            act(store, people[name])
    act(store, people[role])
