"""Tasks as reviewers look at them and decide about them: what was said, and that nobody decides on an old picture."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from rlhf.data.records import Ranking
from rlhf.errors import StoreError
from rlhf.preferences import Labeler, LabelStore, NewTask, Note
from rlhf.preferences.opinions import Case, cases, decide, in_hand


def reviewer(store: LabelStore, name: str = "rex") -> Labeler:
    store.invite(name, "reviewer")
    return store.labeler(name)


def case_of(store: LabelStore, number: int = 1) -> Case:
    (case,) = cases(store, [number])
    return case


def test_a_case_holds_all_that_was_said_in_latest_revisions(store: LabelStore) -> None:
    store.configure({"better_answer": True})
    store.add_tasks([NewTask("p", ("a", "b"), ("sft", "ppo"))], batch="one", overlap=3)
    for name in ("ann", "bob"):
        assignment = store.claim(store.labeler(name))
        assert assignment is not None
        first, second = sorted(c.id for c in assignment.completions)
        note = Note(3, ("Not true",), "odd")
        store.submit(assignment, {first: 1, second: 2}, submit_id=name, notes={first: note}, comment="c", better="B")
    again = store.reopen(store.labeler("ann"))
    assert again is not None
    store.submit(again, {first: 1, second: 1}, submit_id="again", active_seconds=3.5)
    skipped = store.claim(store.labeler("cid"))
    assert skipped is not None
    store.skip(skipped, "no")
    store.exclude("bob", "why")
    case = case_of(store)
    bob, ann, cid = case.opinions
    assert (bob.labeler, bob.said.ranks, bob.said.comment, bob.said.better) == ("bob", {first: 1, second: 2}, "c", "B")
    assert bob.said.notes == {first: Note(3, ("Not true",), "odd")} and bob.excluded and not bob.counts
    assert (ann.revision, ann.said.ranks, ann.seconds, ann.counts) == (2, {first: 1, second: 1}, 3.5, True)
    assert ann.shown == tuple(c.id for c in again.completions)
    assert (cid.skip_reason, cid.said.ranks, cid.counts) == ("no", {}, False)
    assert case.gold is None and case.verdict is None
    assert [c.source for c in case.view.completions] == ["sft", "ppo"]


def test_surplus_counts_nowhere_and_gold_has_its_answer(store: LabelStore) -> None:
    store.configure({"lease_seconds": 60})
    store.add_tasks([NewTask("p", ("a", "b"))], batch="one")
    late = store.claim(store.labeler("ann"))
    assert late is not None
    store.release(late)
    quick = store.claim(store.labeler("bob"))
    assert quick is not None
    store.submit(quick, {c.id: 1 for c in quick.completions}, submit_id="bob")
    store.submit(late, {c.id: 1 for c in late.completions}, submit_id="ann")
    assert {o.labeler: (o.surplus, o.counts) for o in case_of(store).opinions} == {
        "bob": (False, True),
        "ann": (True, False),
    }
    store.add_gold([Ranking("g", ("a", "b"), (2, 1))])
    gold = case_of(store, 2)
    assert gold.gold is not None and [gold.gold[c.id] for c in gold.view.completions] == [2, 1]
    assert case_of(store).gold is None
    with pytest.raises(StoreError, match=r"gold"):
        decide(store, gold, "keep", by=reviewer(store))


@pytest.mark.parametrize(
    ("meta", "comment", "first"),
    [
        ({"comment": "so so", "flags": [["Rude"], []], "quality": [2, 7]}, "so so", Note(2, ("Rude",), "")),
        ({"comments": ["odd", None], "flags": None}, "", Note(comment="odd")),
        ({"comment": 5, "flags": "Rude", "quality": [1], "comments": {"a": "b"}}, "", None),  # of another form
        ({"flags": [[1, None], "x"], "quality": [True, "7"], "comments": [[], {}]}, "", None),
    ],
)
def test_what_a_file_said_beside_the_ranks_is_read_where_it_has_our_form(
    store: LabelStore, meta: dict[str, object], comment: str, first: Note | None
) -> None:
    store.import_rankings([Ranking("p", ("a", "b"), (1, 2), "cid", meta=meta)], batch="file")
    case = case_of(store)
    (opinion,) = case.opinions
    assert opinion.said.comment == comment and opinion.shown == () and opinion.counts
    assert opinion.said.notes.get(case.view.completions[0].id) == first


def test_nobody_decides_on_an_old_picture(store: LabelStore) -> None:
    store.add_tasks([NewTask("p", ("a", "b")), NewTask("q", ("a", "b"))], batch="one", overlap=2)
    rex = reviewer(store)
    before = case_of(store)
    assignment = store.claim(store.labeler("ann"))
    assert assignment is not None and assignment.task_id == 1
    assert decide(store, case_of(store, 2), "drop", by=rex)  # of another task: no news to this one
    assert case_of(store).seen == before.seen
    store.submit(assignment, {c.id: 1 for c in assignment.completions}, submit_id="ann")
    assert not decide(store, before, "drop", by=rex) and 1 not in store.verdicts()
    judged = case_of(store)
    assert decide(store, judged, "keep", by=rex)
    assert not decide(store, judged, "drop", by=rex) and store.verdicts()[1].kind == "keep"
    ranks = {c.id: i + 1 for i, c in enumerate(judged.view.completions)}
    assert decide(store, case_of(store), "ranking", ranks, "so", by=rex)
    assert store.verdicts()[1].ranks == ranks and store.verdicts()[1].comment == "so"
    with pytest.raises(StoreError, match=r"ranks"):
        decide(store, case_of(store), "ranking", {1: 1}, by=rex)


def test_of_many_who_decide_at_once_one_does(store: LabelStore) -> None:
    store.add_tasks([NewTask("p", ("a", "b"))], batch="one")
    people = [reviewer(store, f"r{i}") for i in range(6)]
    case = case_of(store)
    ready = threading.Barrier(len(people))

    def at_once(person: Labeler) -> bool:
        ready.wait()
        return decide(store, case, "keep", by=person)

    with ThreadPoolExecutor(len(people)) as pool:
        assert sorted(pool.map(at_once, people)) == [False] * 5 + [True]


def test_what_is_in_somebodys_hand(store: LabelStore) -> None:
    store.add_tasks([NewTask("p", ("a", "b"))], batch="one")
    assert in_hand(store, store.labeler("ann").name) == 0
    assignment = store.claim(store.labeler("ann"))
    assert assignment is not None and in_hand(store, "ann") == 1
    store.release(assignment)
    assert in_hand(store, "ann") == 0
    assert in_hand(store, "zoe") == 0
