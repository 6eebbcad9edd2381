"""Projects and what their settings do: K, overlap, order, gold, partial rankings, notes, strength, drafts, history."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from rlhf.data.records import Demonstration, Ranking
from rlhf.errors import ConfigError, DataError, RLHFError, StoreError
from rlhf.preferences import Assignment, GoldResult, LabelStore, NewTask, Note, Outcome, ProjectSettings, Said
from rlhf.preferences import queue as queue_module
from rlhf.preferences.gold import agreement
from rlhf.preferences.schema import assignments, projects, tasks


def claimed(store: LabelStore, name: str = "ann") -> Assignment:
    assignment = store.claim(store.labeler(name))
    assert assignment is not None
    return assignment


def ids(assignment: Assignment) -> dict[str, int]:
    return {c.text: c.id for c in assignment.completions}


def ranks(assignment: Assignment, **by_text: int | None) -> dict[int, int | None]:
    return {ids(assignment)[text]: rank for text, rank in by_text.items()}


# --- settings


def test_settings_are_checked_whole_and_kept(store: LabelStore) -> None:
    assert store.settings() == ProjectSettings()
    changed = store.configure({"overlap": 3, "flags": ["Rude"], "order": "random"})
    assert (changed.overlap, changed.flags, changed.order) == (3, ("Rude",), "random")
    assert store.settings() == changed
    for bad, message in (
        ({"overlap": 0}, "project 'default': overlap: Input should be greater than or equal to 1, found 0"),
        ({"overlaps": 2}, "there is no setting 'overlaps'; there are: k, overlap"),
        ({"gold_share": 0.6}, "gold_share: "),
        ({"flags": ["a", "a"]}, "'a' is there twice"),
        ({"flags": ["a\x00"]}, "NUL"),
        ({"order": "alphabet"}, "order: Input should be 'priority', 'random' or 'active', found 'alphabet'"),
    ):
        with pytest.raises(ConfigError, match=message):
            store.configure({"lease_seconds": 5, **bad})
    assert store.settings() == changed  # a refused change changes nothing, its good keys neither


def test_projects_are_apart(store: LabelStore, store_url: str) -> None:
    store.create_project("second", {"overlap": 2})
    with pytest.raises(StoreError, match="exists already"):
        store.create_project("second")
    with pytest.raises(StoreError, match=r"holds no project 'third' but default, second; make it with"):
        LabelStore.open(store_url, project="third")
    store.add_tasks([NewTask("p", ("a", "b"))], batch="one")
    with LabelStore.open(store_url, project="second") as second:
        second.add_tasks([NewTask("q", ("a", "b"))], batch="one")
        assert claimed(second).prompt == "q" and claimed(store).prompt == "p"
        assert second.counts().tasks == store.counts().tasks == 1
        second.set_guidelines("Only here.")
        assert (claimed(second).guidelines, claimed(store).guidelines) == ("Only here.", "")
        assert [p.name for p in second.projects()] == ["default", "second"]
        assert second.settings().overlap == 2


def test_k_and_overlap_are_the_projects_unless_a_task_says_otherwise(store: LabelStore) -> None:
    store.configure({"k": 3, "overlap": 2})
    with pytest.raises(DataError, match=r"task 0, field 'completions': expected 3 \(the project's k\) texts, found 2"):
        store.add_tasks([NewTask("p", ("a", "b"))], batch="one")
    store.add_tasks([NewTask("p", ("a", "b", "c"))], batch="one")
    store.add_tasks([NewTask("q", ("a", "b", "c"))], batch="one", overlap=1)
    with store._reading() as connection:
        assert list(connection.scalars(sa.select(tasks.c.overlap).order_by(tasks.c.id))) == [2, 1]
    store.configure({"k": None})
    with pytest.raises(DataError, match="expected 2 to 9 texts, found 10"):
        store.add_tasks([NewTask("p", tuple("abcdefghij"))], batch="one")
    with pytest.raises(DataError, match="200001 characters are too many to rank"):
        store.add_tasks([NewTask("p", ("a", "b" * 200_001))], batch="one")


def test_random_order_hands_out_everything_once_and_not_in_order(store: LabelStore) -> None:
    store.configure({"order": "random"})
    store.add_tasks([NewTask(str(i), ("a", "b"), priority=i) for i in range(12)], batch="one")
    orders = []
    for name in ("ann", "bob", "cid"):
        store.configure({"overlap": 1})
        seen = []
        while (assignment := store.claim(store.labeler(name))) is not None:
            seen.append(assignment.prompt)
            store.skip(assignment, "no")
        orders.append(tuple(seen))
        assert sorted(seen, key=lambda p: int(str(p))) == [str(i) for i in range(12)]
    assert len(set(orders)) == 3  # two of twelve alike by chance: once in tens of millions


# --- gold


def test_gold_is_mixed_in_unseen_and_left_out_of_everything_else(store: LabelStore) -> None:
    store.configure({"gold_share": 0.5})
    store.add_tasks([NewTask(f"p{i}", ("a", "b")) for i in range(10)], batch="one")
    known = [Ranking(f"g{i}", ("good", "bad"), (1, 2)) for i in range(4)]
    assert (store.add_gold(known), store.add_gold(known)) == (4, 0)
    ann = store.labeler("ann")
    to_go, seen = [store.progress(ann).remaining], []
    while (assignment := store.claim(ann)) is not None:
        seen.append(str(assignment.prompt))
        ordered = sorted(assignment.completions, key=lambda c: c.text, reverse=True)  # good before bad, b before a
        if assignment.prompt == "g3":
            ordered.reverse()
        assert store.progress(ann).remaining == to_go[-1]  # the open one counts
        store.submit(assignment, {c.id: i + 1 for i, c in enumerate(ordered)}, submit_id=f"s{len(seen)}")
        to_go.append(store.progress(ann).remaining)
    gold = [p for p in seen if p.startswith("g")]
    assert len([p for p in seen if p.startswith("p")]) == 10 and len(set(seen)) == len(seen)
    assert to_go == list(range(len(seen), -1, -1))  # it goes down by one each time, so it betrays nothing
    assert len(store.rankings()) == 10 and store.batches() == ["one"]
    counts = store.counts()
    assert (counts.tasks, counts.rankings, counts.waiting) == (10, 10, 0)
    assert store.check() == []
    wrong = int("g3" in gold)
    assert store.gold_results() == ([GoldResult("ann", len(gold), len(gold), len(gold) - wrong)] if gold else [])


def test_gold_stands_outside_the_overlap(store: LabelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everybody gets each gold task once, at the same time too, and it never runs out of places."""
    monkeypatch.setattr(queue_module, "gold_at", lambda *_: True)
    store.add_tasks([NewTask("p", ("a", "b"))], batch="one", overlap=1)
    store.add_gold([Ranking("g", ("good", "bad"), (1, 2))])
    people = ("ann", "bob", "cid")
    given = {name: claimed(store, name) for name in people}
    assert [a.prompt for a in given.values()] == ["g"] * 3
    for name, assignment in given.items():
        right = {c.id: 1 + (c.text == "bad") for c in assignment.completions}
        assert store.submit(assignment, right, submit_id=name) is Outcome.COUNTED
    assert [(r.labeler, r.accuracy) for r in store.gold_results()] == [(name, 1.0) for name in people]
    assert claimed(store, "ann").prompt == "p"
    assert store.claim(store.labeler("bob")) is None  # no gold without an ordinary task beside it
    assert store.check() == []


def test_gold_comes_at_its_share_and_by_the_projects_secret() -> None:
    for share in (0.0, 0.1, 0.5):
        drawn = sum(queue_module.gold_at("secret", labeler, i, share) for labeler in range(40) for i in range(250))
        assert abs(drawn - 10_000 * share) <= 4 * (10_000 * share * (1 - share)) ** 0.5
    one, other = ([queue_module.gold_at(s, 1, i, 0.5) for i in range(64)] for s in ("secret", "other"))
    assert one != other


def test_agreement_with_a_known_answer() -> None:
    """Answer a < b = c < d: five pairs it orders. The labeler turns a and b round, ties c and d, leaves none out."""
    answer = {"a": 1, "b": 2, "c": 2, "d": 4}
    assert agreement({"a": 2, "b": 1, "c": 3, "d": 3}, answer) == (5, 3)  # a<c, a<d, b<d
    assert agreement({"a": 1, "b": None, "c": 2, "d": 3}, answer) == (5, 3)  # a<c, a<d, c<d
    assert agreement(dict(answer), answer) == (5, 5)


def test_gold_without_an_answer_is_refused(store: LabelStore) -> None:
    with pytest.raises(DataError, match=r"gold 1, field 'ranks': \[1, 1\] orders nothing"):
        store.add_gold([Ranking("g", ("a", "b"), (1, 2)), Ranking("h", ("a", "b"), (1, 1))])
    with pytest.raises(DataError, match="nobody can rank equal texts"):
        store.add_gold([Ranking("g", ("a", "a"), (1, 2))])
    assert store.add_gold([]) == 0


# --- what is said


def test_everything_that_can_be_said_comes_out_again(store: LabelStore) -> None:
    store.configure({"allow_partial": True})
    store.add_tasks([NewTask("p", ("a", "b", "c"), group="g")], batch="one")
    first = claimed(store)
    notes = {ids(first)["a"]: Note(7, ("Not true",), "nearly"), ids(first)["c"]: Note(comment="dull")}
    store.submit(
        first, ranks(first, a=1, b=2, c=None), submit_id="s1", notes=notes, comment="hm", better="A much better one."
    )
    (ranking,) = store.rankings()
    assert ranking.ranks == (1, 2, None)
    assert {k: ranking.meta[k] for k in ("quality", "flags", "comments", "comment", "better")} == {
        "quality": [7, None, None],
        "flags": [["Not true"], None, None],
        "comments": ["nearly", None, "dull"],
        "comment": "hm",
        "better": "A much better one.",
    }
    assert store.demonstrations() == [Demonstration("p", "A much better one.", "g")]
    again = store.reopen(store.labeler("ann"))
    assert again is not None and again.revision == 2
    assert again.before == Said(ranks(first, a=1, b=2, c=None), None, notes, "hm", "A much better one.")
    store.submit(again, ranks(again, a=2, b=1, c=None), submit_id="s2")
    assert store.demonstrations() == []  # the revision says what the person means now
    assert store.rankings()[0].meta.keys() == {"batch", "shown"}


def test_a_comparison_of_two_may_have_a_strength(store: LabelStore) -> None:
    store.configure({"strength": True})
    store.add_tasks([NewTask("p", ("a", "b")), NewTask("q", ("a", "b", "c"))], batch="one")
    first = claimed(store)
    for strength, second in ((0, 2), (4, 2), (1, 1), (-1, 2)):
        with pytest.raises(StoreError, match="strength: expected 0 for a tie and 1 to 3"):
            store.submit(first, ranks(first, a=1, b=second), submit_id="s", strength=strength)
    store.submit(first, ranks(first, a=1, b=2), submit_id="s1", strength=3)
    assert store.rankings()[0].meta["strength"] == 3
    three = claimed(store)
    with pytest.raises(StoreError, match="has not 2 answers"):
        store.submit(three, ranks(three, a=1, b=2, c=3), submit_id="s2", strength=1)
    store.submit(three, ranks(three, a=1, b=2, c=3), submit_id="s2")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ({"notes": {"a": Note(8)}}, "quality: expected 1 to 7, found 8"),
        ({"notes": {"a": Note(0)}}, "quality: expected 1 to 7, found 0"),
        ({"notes": {"a": Note(flags=("Rude",))}}, "flags: this project has no 'Rude' but Not true"),
        ({"notes": {"a": Note(comment="x" * 2001)}}, "comment: 2001 characters are too many; write 2000 at most"),
        ({"comment": "x" * 2001}, "comment: 2001 characters"),
        ({"better": "x" * 20_001}, "better: 20001 characters"),
        ({"better": "\ud800"}, "lone surrogate"),
        ({"strength": 1}, "does not ask how much better"),
        ({"ranks": {"a": 1, "b": None}}, "1 of 2 completions have none; this project wants all"),
    ],
)
def test_what_does_not_fit_is_refused_and_the_task_stays_open(store: LabelStore, what: dict, message: str) -> None:
    store.add_tasks([NewTask("p", ("a", "b"))], batch="one")
    assignment = claimed(store)
    said = {"ranks": {"a": 1, "b": 2}, **what}
    given = ranks(assignment, **said.pop("ranks"))
    if "notes" in said:
        said["notes"] = {ids(assignment)[text]: note for text, note in said["notes"].items()}
    with pytest.raises(RLHFError, match=message):
        store.submit(assignment, given, submit_id="s1", **said)
    assert claimed(store) == assignment and store.counts().judgments == 0
    with pytest.raises(StoreError, match="which this task does not have"):
        store.submit(assignment, ranks(assignment, a=1, b=1), submit_id="s1", notes={999: Note(3)})


def test_a_partial_ranking_says_at_least_one_thing(store: LabelStore) -> None:
    store.configure({"allow_partial": True, "quality": False, "better_answer": False})
    store.add_tasks([NewTask("p", ("a", "b"))], batch="one")
    assignment = claimed(store)
    with pytest.raises(StoreError, match="at least two completions must have one"):
        store.submit(assignment, ranks(assignment, a=1, b=None), submit_id="s1")
    with pytest.raises(StoreError, match="quality: is not asked for here"):
        store.submit(assignment, ranks(assignment, a=1, b=2), submit_id="s", notes={ids(assignment)["a"]: Note(3)})
    with pytest.raises(StoreError, match="does not ask for answers of your own"):
        store.submit(assignment, ranks(assignment, a=1, b=2), submit_id="s1", better="x")


# --- drafts and the past


def test_a_draft_lasts_until_the_task_is_judged(store: LabelStore, store_url: str) -> None:
    store.add_tasks([NewTask("p", ("a", "b")), NewTask("q", ("a", "b"))], batch="one")
    first = claimed(store)
    store.save_draft(first, {"comment": "half a th"})
    store.save_draft(first, {"comment": "half a thought"})
    with LabelStore.open(store_url) as elsewhere:
        assert claimed(elsewhere).draft == {"comment": "half a thought"}
    store.submit(first, ranks(first, a=1, b=2), submit_id="s1")
    assert claimed(store).draft == {}
    store.save_draft(first, {"comment": "too late"})
    assert claimed(store).prompt == "q" and claimed(store).draft == {}
    again = store.reopen(store.labeler("ann"), first.id)
    assert again is not None and again.draft == {}
    store.save_draft(again, {"comment": "better so"})
    store.release(again)
    again = store.reopen(store.labeler("ann"), first.id)
    assert again is not None and again.draft == {}
    with pytest.raises(StoreError, match=r"draft: .* characters are too many"):
        store.save_draft(again, {"comment": "x" * 100_001})
    store.save_draft(again, {"comment": "字" * 20_000})  # as it is typed, not as JSON may spell it
    store.save_draft(first, {"comment": "of a stale tab"})
    again = store.reopen(store.labeler("ann"), first.id)
    assert again is not None and again.draft == {"comment": "字" * 20_000}
    with pytest.raises(DataError, match="lone surrogate"):
        store.save_draft(again, {"comment": "\ud800"})


def test_any_past_judgment_can_be_looked_at_and_corrected(store: LabelStore) -> None:
    store.add_tasks([NewTask(p, ("a", "b")) for p in "pqr"], batch="one")
    ann = store.labeler("ann")
    for prompt in "pq":
        assignment = claimed(store)
        store.submit(assignment, ranks(assignment, a=1, b=2), submit_id=prompt)
    store.skip(claimed(store), "I cannot judge this topic")
    past = store.history(ann)
    assert [(p.prompt, p.outcome, p.revision, p.skip_reason) for p in past] == [
        ("r", "skipped", 1, "I cannot judge this topic"),
        ("q", "counted", 1, None),
        ("p", "counted", 1, None),
    ]
    first = store.reopen(ann, past[2].assignment_id)
    assert first is not None and first.reopened and first.prompt == "p" and first.before == past[2].said
    store.submit(first, ranks(first, a=2, b=1), submit_id="p2")
    assert [(p.prompt, p.revision) for p in store.history(ann, 2)] == [("p", 2), ("r", 1)]
    assert [r.ranks for r in store.rankings()] == [(2, 1), (1, 2)]
    assert store.reopen(store.labeler("bob"), past[2].assignment_id) is None
    assert store.history(store.labeler("bob")) == []


def test_guidelines_keep_every_version(store: LabelStore) -> None:
    assert store.guidelines() == []
    store.set_guidelines("Be kind.")
    store.set_guidelines("Be fair.")
    assert [(g.version, g.text) for g in store.guidelines()] == [(2, "Be fair."), (1, "Be kind.")]


def test_progress_says_this_projects_pace(store: LabelStore, store_url: str) -> None:
    store.add_tasks([NewTask(str(i), ("a", "b")) for i in range(4)], batch="one")
    ann = store.labeler("ann")
    for i, seconds in enumerate((10.0, 30.0, 20.0)):
        assignment = claimed(store)
        store.submit(assignment, ranks(assignment, a=1, b=2), submit_id=f"s{i}", active_seconds=seconds)
    store.skip(claimed(store), "no", active_seconds=900.0)
    found = store.progress(ann)
    assert (found.ranked, found.skipped, found.remaining, found.today, found.seconds) == (3, 1, 0, 3, 20.0)
    store.create_project("second")
    with LabelStore.open(store_url, project="second") as second:
        elsewhere = second.progress(ann)
    assert (elsewhere.today, elsewhere.seconds) == (0, None)


def test_progress_counts_no_further_than_anybody_reads(store: LabelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_module, "MOST_COUNTED", 5)
    store.add_tasks([NewTask(str(i), ("a", "b")) for i in range(9)], batch="one")
    assert store.progress(store.labeler("ann")).remaining == 5


# --- what one project, or one version, is to another


def test_another_projects_assignment_is_not_this_ones(store: LabelStore, store_url: str) -> None:
    """A page of one project is handed the number of an assignment of another."""
    store.create_project("second")
    with LabelStore.open(store_url, project="second") as second:
        second.add_tasks([NewTask("q", ("a", "b"))], batch="one")
        theirs = claimed(second)
        ann = store.labeler("ann")
        acts: list[Callable[[], object]] = [
            lambda: store.assignment(ann, theirs.id),
            lambda: store.submit(theirs, ranks(theirs, a=1, b=2), submit_id="s1"),
            lambda: store.skip(theirs, "no"),
            lambda: store.save_draft(theirs, {}),
            lambda: store.renew(theirs),
            lambda: store.release(theirs),
        ]
        for act in acts:
            with pytest.raises(StoreError, match="has none of that number"):
                act()
        second.submit(theirs, ranks(theirs, a=1, b=2), submit_id="s1")
        assert second.reopen(ann) is not None
        store.add_tasks([NewTask("p", ("a", "b"))], batch="one")
        mine = claimed(store)
        store.submit(mine, ranks(mine, a=1, b=2), submit_id="s2")
        assert store.reopen(ann) is not None
        assert claimed(second).reopened  # the correction there is still under way


def test_a_correction_that_was_left_for_another_one_keeps_no_draft(store: LabelStore) -> None:
    store.add_tasks([NewTask(p, ("a", "b")) for p in "pq"], batch="one")
    ann = store.labeler("ann")
    done = []
    for submit_id in ("s1", "s2"):
        done.append(claimed(store))
        store.submit(done[-1], ranks(done[-1], a=1, b=2), submit_id=submit_id)
    first = store.reopen(ann, done[0].id)
    assert first is not None
    store.save_draft(first, {"comment": "begun"})
    store.reopen(ann, done[1].id)
    again = store.reopen(ann, done[0].id)
    assert again is not None and again.draft == {}


def test_an_extras_better_answer_is_no_demonstration(store: LabelStore) -> None:
    store.add_tasks([NewTask("p", ("a", "b"))], batch="one")
    late = claimed(store)
    with store._writing() as connection:
        connection.execute(sa.update(assignments).values(leased_until=0.0))
    other = claimed(store, "bob")
    store.submit(other, ranks(other, a=1, b=2), submit_id="s1", better=" ")
    assert store.submit(late, ranks(late, a=1, b=2), submit_id="s2", better="late") is Outcome.SURPLUS
    assert store.demonstrations() == []  # nor is a blank one


def test_what_a_newer_version_set_beside_ours_is_left_alone(store: LabelStore) -> None:
    with store._writing() as connection:
        connection.execute(sa.update(projects).values(settings={"overlap": 2, "shiny": True}))
    assert store.settings().overlap == 2
    store.configure({"overlap": 3})
    with store._reading() as connection:
        kept = connection.scalar(sa.select(projects.c.settings))
    assert (kept["overlap"], kept["shiny"]) == (3, True)
    with store._writing() as connection:
        connection.execute(sa.update(projects).values(settings={"lease_seconds": 1e9}))
    with pytest.raises(ConfigError, match="project 'default': lease_seconds"):
        store.settings()
    assert store.configure({"lease_seconds": 60}).lease_seconds == 60  # and it can be mended


def test_a_page_that_changes_nothing_waits_for_no_writer(store: LabelStore, store_url: str) -> None:
    """An import holds SQLite's only write lock; whoever has a fresh lease goes on all the same."""
    store.add_tasks([NewTask("p", ("a", "b"))], batch="one")
    mine = claimed(store)
    with LabelStore.open(store_url) as other, other._filling():
        assert claimed(store) == mine
        assert store.progress(store.labeler("ann")).remaining == 1


def test_a_large_import_is_written_in_parts_and_goes_on_where_it_was(
    store: LabelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rlhf.preferences import store as store_module

    monkeypatch.setattr(store_module, "IMPORTED_AT_ONCE", 3)
    rows = [Ranking(f"p{i}", ("a", "b"), (1, 2), "ann") for i in range(8)]
    store.import_rankings(rows[:4], batch="one")
    report = store.import_rankings([*rows, Ranking("p0", ("a", "b"), (2, 1), "ann")], batch="one")
    assert (report.read, report.added, report.repeated, report.revisions) == (9, 5, 4, 1)
    assert [r.ranks for r in store.rankings()] == [(2, 1), *[(1, 2)] * 7]
    assert store.check() == []


# --- a store of the first schema


def test_a_store_of_the_first_schema_is_brought_up_with_all_that_it_holds(tmp_path: Path) -> None:
    """Made by the first migration and filled with plain SQL, as version 0001 of the code filled it."""
    from alembic import command
    from alembic.config import Config

    from rlhf.preferences import engine as db

    path = tmp_path / "old.db"
    engine = db.make_engine(db.store_url(path))
    config = Config()
    config.set_main_option("script_location", str(Path(db.__file__).parent / "migrations"))
    with db.transaction(engine) as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        for statement in OLD_ROWS:
            connection.exec_driver_sql(statement)
    engine.dispose()
    with pytest.raises(StoreError, match=r"has schema 0001, this version needs 0003.*rlhf store upgrade"):
        LabelStore.open(path)
    assert LabelStore.upgrade(path) == ("0001", "0003")
    with LabelStore.open(path) as store:
        assert [(r.prompt, r.completions, r.ranks, r.labeler) for r in store.rankings()] == [
            ("p", ("a", "b"), (2, 1), "ann")
        ]
        settings = store.settings()
        assert (settings.lease_seconds, settings.allow_partial) == (
            7 * 86400.0,
            True,
        )  # 30 days were more than is taken now
        assert store.check() == []
        assert store.labeler("ann").role == "labeler"
        assert claimed(store, "bob").prompt == "q"
        with pytest.raises(StoreError, match="append-only"), store._writing() as connection:
            connection.exec_driver_sql("DELETE FROM judgments")
        with store._reading() as connection:
            assert connection.scalar(sa.select(sa.func.count()).select_from(assignments)) == 2
            assert Counter(connection.scalars(sa.select(tasks.c.shuffle > 0))) == {True: 2}


OLD_ROWS = (
    "UPDATE projects SET lease_seconds = 2592000, allow_partial = 1",
    "INSERT INTO labelers (id, name, created_at) VALUES (1, 'ann', 0)",
    "INSERT INTO prompts (id, sha, body) VALUES (1, 'x', '\"p\"'), (2, 'y', '\"q\"')",
    "INSERT INTO completions (id, sha, prompt_id, text, source) VALUES (1, 'a', 1, 'a', ''), (2, 'b', 1, 'b', ''), "
    "(3, 'c', 2, 'c', ''), (4, 'd', 2, 'd', '')",
    "INSERT INTO tasks (id, project_id, batch, key, prompt_id, split_group, overlap, judged, priority, created_at) "
    "VALUES (1, 1, 'one', 'k1', 1, '', 1, 1, 0, 0), (2, 1, 'one', 'k2', 2, '', 1, 0, 0, 0)",
    "INSERT INTO task_completions (task_id, position, completion_id) VALUES (1, 0, 1), (1, 1, 2), (2, 0, 3), (2, 1, 4)",
    "INSERT INTO assignments (task_id, labeler_id, state, reopened, shown, leased_until) VALUES (1, 1, 'done', 0, "
    "'[2, 1]', 0)",
    "INSERT INTO judgments (task_id, labeler_id, revision, submit_id, ranks, surplus, comment, shown, stated_at, meta, "
    "created_at) VALUES (1, 1, 1, 's', '{\"1\": 2, \"2\": 1}', 0, '', '[2, 1]', '', '{}', 0)",
)
