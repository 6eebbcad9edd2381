"""Who may come in, and as what: invites, sessions, roles, suspension, erasure, and the record of all that."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from rlhf.data.records import Ranking
from rlhf.errors import DataError, StoreError
from rlhf.preferences import Labeler, LabelStore, NewTask
from rlhf.preferences.schema import drafts, events, labelers, sessions


def admin(store: LabelStore) -> Labeler:
    store.invite("root", "admin")
    return store.labeler("root")


def test_an_invite_signs_its_owner_in_and_nobody_else(store: LabelStore) -> None:
    token = store.invite(" ann ", "reviewer", email="Ann@Example.org")
    key = store.sign_in_by_token(token)
    ann = store.signed_in(key)
    assert ann is not None and (ann.name, ann.role) == ("ann", "reviewer")
    assert store.labeler_by_email("ANN@example.ORG ") == ann
    assert store.labeler_by_email("bob@example.org") is None
    for wrong in ("", token[:-1], key, "\ud800", "a\x00b"):
        with pytest.raises(StoreError, match="this invite is not valid"):
            store.sign_in_by_token(wrong)
        assert store.signed_in(wrong if wrong != key else "") is None
    store.sign_out(key)
    store.sign_out(key)
    assert store.signed_in(key) is None


def test_secrets_are_kept_as_hashes_only(store: LabelStore) -> None:
    token = store.invite("ann")
    key = store.sign_in_by_token(token)
    with store._reading() as connection:
        everything = str(connection.execute(sa.select(labelers)).all() + connection.execute(sa.select(sessions)).all())
    assert token not in everything and key not in everything


def test_a_second_invite_makes_the_first_one_worthless(store: LabelStore) -> None:
    first = store.invite("ann")
    key = store.sign_in_by_token(first)
    second = store.invite("ann", "admin")
    assert store.signed_in(key) is None
    with pytest.raises(StoreError, match="not valid"):
        store.sign_in_by_token(first)
    found = store.signed_in(store.sign_in_by_token(second))
    assert found is not None and found.role == "admin"


def test_a_name_alone_is_enough_only_for_people_without_an_invite(store: LabelStore) -> None:
    found = store.signed_in(store.sign_in_by_name("guest"))
    assert found is not None and (found.name, found.role) == ("guest", "labeler")
    store.invite("ann")
    with pytest.raises(StoreError, match="has a personal invite"):
        store.sign_in_by_name("ann")
    with pytest.raises(StoreError, match="'guest' has no invite, and the role admin needs one"):
        store.set_role("guest", "admin")  # else anybody could type an admin's name
    with pytest.raises(StoreError, match="1 to 80 visible characters"):
        store.sign_in_by_name("a\nb")


def test_sessions_end(store: LabelStore) -> None:
    key = store.sign_in_by_name("guest")
    with store._writing() as connection:
        connection.execute(sa.update(sessions).values(expires_at=sessions.c.expires_at - 31 * 86400))
    assert store.signed_in(key) is None
    store.sign_in_by_name("guest")
    with store._reading() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(sessions)) == 1  # old ones are swept out


def test_a_suspended_person_can_do_nothing_and_their_tasks_go_to_others(store: LabelStore) -> None:
    store.add_tasks([NewTask("p", ("a", "b"))], batch="one")
    token = store.invite("ann")
    key = store.sign_in_by_token(token)
    ann = store.signed_in(key)
    assert ann is not None
    assignment = store.claim(ann)
    assert assignment is not None
    store.suspend("ann")
    assert store.signed_in(key) is None and store.labeler_by_email("") is None
    with pytest.raises(StoreError, match="not valid"):
        store.sign_in_by_token(token)
    ranks = {c.id: 1 for c in assignment.completions}
    acts: list[Callable[[], object]] = [
        lambda: store.claim(ann),
        lambda: store.submit(assignment, ranks, submit_id="s"),
        lambda: store.skip(assignment, "no"),
        lambda: store.renew(assignment),
        lambda: store.reopen(ann),
        lambda: store.save_draft(assignment, {}),
    ]
    for act in acts:
        with pytest.raises(StoreError, match="not active here any more"):
            act()
    other = store.claim(store.labeler("bob"))
    assert other is not None and other.task_id == assignment.task_id
    store.reinstate("ann")
    assert store.signed_in(store.sign_in_by_token(token)) == ann
    with pytest.raises(StoreError, match="nobody here is called 'eve'"):
        store.suspend("eve")


def test_someone_elses_assignment_is_refused(store: LabelStore) -> None:
    store.add_tasks([NewTask("p", ("a", "b"))], batch="one")
    ann, bob = store.labeler("ann"), store.labeler("bob")
    assignment = store.claim(ann)
    assert assignment is not None
    with pytest.raises(StoreError, match="has none of that number"):
        store.assignment(bob, assignment.id)
    assert store.assignment(ann, assignment.id) == assignment
    with pytest.raises(StoreError, match="has none of that number"):
        store.assignment(ann, 999)


LEADS: dict[str, tuple[str, Callable[[LabelStore, Labeler], object]]] = {
    "rankings": ("reviewer", lambda s, by: s.rankings(by=by)),
    "demonstrations": ("reviewer", lambda s, by: s.demonstrations(by=by)),
    "gold_results": ("reviewer", lambda s, by: s.gold_results(by=by)),
    "people": ("reviewer", lambda s, by: s.people(by=by)),
    "events": ("admin", lambda s, by: s.events(by=by)),
    "invite": ("admin", lambda s, by: s.invite("new", by=by)),
    "set_role": ("admin", lambda s, by: s.set_role("other", "labeler", by=by)),
    "suspend": ("admin", lambda s, by: s.suspend("other", by=by)),
    "reinstate": ("admin", lambda s, by: s.reinstate("other", by=by)),
    "erase": ("admin", lambda s, by: s.erase("other", by=by)),
    "configure": ("admin", lambda s, by: s.configure({"overlap": 2}, by=by)),
    "create_project": ("admin", lambda s, by: s.create_project("two", by=by)),
    "set_guidelines": ("admin", lambda s, by: s.set_guidelines("Be kind.", by=by)),
    "add_tasks": ("admin", lambda s, by: s.add_tasks([NewTask("p", ("a", "b"))], batch="x", by=by)),
    "add_gold": ("admin", lambda s, by: s.add_gold([Ranking("p", ("a", "b"), (1, 2))], by=by)),
    "import_rankings": ("admin", lambda s, by: s.import_rankings([Ranking("p", ("a", "b"), (1, 2))], batch="x", by=by)),
}


@pytest.mark.parametrize("method", LEADS)
def test_a_leads_method_wants_the_leads_role(store: LabelStore, method: str) -> None:
    """The store looks the role up: a Labeler object that claims to be an admin's is believed nothing."""
    wanted, act = LEADS[method]
    store.labeler("other")
    for role in ("labeler", "reviewer", "admin"):
        store.invite(role, role)
        person = store.labeler(role)
        lying = Labeler(person.id, person.name, "admin")
        if ("labeler", "reviewer", "admin").index(role) < ("labeler", "reviewer", "admin").index(wanted):
            before = store.events(1)
            with pytest.raises(StoreError, match=f"this is for the role '{wanted}', and yours is '{role}'"):
                act(store, lying)
            assert store.events(1) == before  # refused whole: nothing was written
        else:
            act(store, lying)
            break
    store.suspend(wanted)
    with pytest.raises(StoreError, match="not active here any more"):
        act(store, person)


def test_erasing_forgets_the_person_and_keeps_the_rankings(store: LabelStore) -> None:
    store.add_tasks([NewTask("p", ("a", "b")), NewTask("q", ("a", "b"))], batch="one")
    token = store.invite("Ann Smith", email="ann@example.org")
    ann = store.labeler("Ann Smith")
    first = store.claim(ann)
    assert first is not None
    store.submit(first, {c.id: 1 for c in first.completions}, submit_id="s1")
    second = store.claim(ann)
    assert second is not None
    store.save_draft(second, {"comment": "I am Ann"})
    pseudonym = store.erase("Ann Smith")
    assert [r.labeler for r in store.rankings()] == [pseudonym]
    assert pseudonym.startswith("erased-") and len(store.rankings()) == 1
    with pytest.raises(StoreError, match="not valid"):
        store.sign_in_by_token(token)
    with store._reading() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(drafts)) == 0
        for table in (labelers, events):
            assert "Ann" not in str(connection.execute(sa.select(table)).all())
            assert "example.org" not in str(connection.execute(sa.select(table)).all())
    assert store.labeler("Ann Smith").id != ann.id  # whoever comes by that name now is somebody else
    assert store.check() == []


def test_who_did_what_is_written_down_with_it(store: LabelStore) -> None:
    root = admin(store)
    store.add_tasks([NewTask("p", ("a", "b"))], batch="one", by=root)
    ann = store.labeler("ann")
    assignment = store.claim(ann)
    assert assignment is not None
    store.submit(assignment, {c.id: 1 for c in assignment.completions}, submit_id="s1")
    store.submit(assignment, {c.id: 1 for c in assignment.completions}, submit_id="s1")  # sent again
    store.reopen(ann)
    store.release(assignment)
    store.suspend("ann", by=root)
    said = [(e.name, e.action) for e in reversed(store.events())]
    assert said == [
        ("", "invite"),
        ("root", "add tasks"),
        ("", "add person"),
        ("ann", "judge"),
        ("ann", "reopen"),
        ("ann", "release"),
        ("root", "suspend"),
    ]
    assert next(e.subject for e in store.events() if e.action == "judge") == {
        "assignment": assignment.id,
        "revision": 1,
    }


def test_what_fails_leaves_no_event(store: LabelStore) -> None:
    store.add_tasks([NewTask("p", ("a", "b"))], batch="one")
    assignment = store.claim(store.labeler("ann"))
    assert assignment is not None
    before = store.events()
    with pytest.raises(StoreError, match="ranks"):
        store.submit(assignment, {}, submit_id="s1")
    with pytest.raises(DataError, match="NUL"):
        store.submit(assignment, {c.id: 1 for c in assignment.completions}, submit_id="s1", comment="\x00")
    assert store.events() == before


def test_people_lists_everybody_with_what_they_did(store: LabelStore) -> None:
    store.invite("ann", "admin", email="ann@example.org")
    store.import_rankings([Ranking("p", ("a", "b"), (1, 2), "bob")], batch="one")
    ann, bob = store.people()
    assert (ann.name, ann.role, ann.email, ann.active, ann.invited, ann.judgments, ann.last) == (
        "ann", "admin", "ann@example.org", True, True, 0, None,
    )  # fmt: skip
    assert (bob.name, bob.role, bob.invited, bob.judgments) == ("bob", "labeler", False, 1)
    assert bob.last is not None
    with pytest.raises(StoreError, match="somebody else's"):
        store.invite("eve", email="ANN@example.org")
    for bad in ("ann", "@x", "a@", "a b@c"):
        with pytest.raises(StoreError, match="email: expected one like"):
            store.invite("eve", email=bad)
    with pytest.raises(StoreError, match="role: expected one of labeler, reviewer, admin, found 'king'"):
        store.invite("eve", "king")


def test_inviting_again_keeps_the_role_and_lets_nobody_back_in(store: LabelStore) -> None:
    store.invite("ann", "admin", email="ann@example.org")
    store.invite("ann")
    assert (store.labeler("ann").role, store.people()[0].email) == ("admin", "ann@example.org")
    store.suspend("ann")
    with pytest.raises(StoreError, match="'ann' is suspended; let them in again"):
        store.invite("ann")


def test_a_role_above_labeler_needs_an_invite_and_ends_sessions(store: LabelStore) -> None:
    key = store.sign_in_by_name("guest")
    with pytest.raises(StoreError, match="needs one"):
        store.set_role("guest", "reviewer")
    assert store.signed_in(key) is not None
    key = store.sign_in_by_token(store.invite("guest"))
    store.set_role("guest", "reviewer")
    assert store.signed_in(key) is None


def test_who_was_erased_does_not_come_back(store: LabelStore) -> None:
    store.labeler("ann")
    pseudonym = store.erase("ann")
    acts: list[Callable[[], object]] = [
        lambda: store.reinstate(pseudonym),
        lambda: store.set_role(pseudonym, "labeler"),
        lambda: store.invite(pseudonym),
        lambda: store.sign_in_by_name(pseudonym),
        lambda: store.labeler("erased-me"),
    ]
    for act in acts:
        with pytest.raises(StoreError, match=r"nobody here is called|stand for people who were forgotten"):
            act()


def test_nobody_speaks_as_another_by_typing_a_name(store: LabelStore) -> None:
    store.import_rankings([Ranking("p", ("a", "b"), (1, 2), "Dr. Expert"), Ranking("p", ("a", "b"), (2, 1))], batch="x")
    for name in ("Dr. Expert", " Dr. Expert ", "anonymous"):
        with pytest.raises(StoreError, match="stands on imported rankings"):
            store.sign_in_by_name(name)
    store.sign_in_by_name("Jos\u00e9")
    store.sign_in_by_name("Jose\u0301")  # the same letters, written otherwise
    assert [p.name for p in store.people()].count("Jos\u00e9") == 1
    for name in ("JOS\u00c9", "\uff2aos\u00e9"):
        with pytest.raises(StoreError, match="somebody here is called 'Jos\u00e9'"):
            store.sign_in_by_name(name)


def test_erased_names_are_nowhere_in_the_files(tmp_path: Path) -> None:
    """Not in SQLite's log while the store is open, nor in pages that were let go."""
    path = tmp_path / "labels.db"
    with LabelStore.open(path, create=True) as store:
        with store._reading() as connection:
            assert connection.exec_driver_sql("PRAGMA secure_delete").scalar() == 1
        for i in range(50):
            store.invite(f"Zebedee Quux {i}", email=f"zebedee{i}@example.org")
        for i in range(50):
            store.erase(f"Zebedee Quux {i}")
        for file in tmp_path.iterdir():
            assert b"Zebedee" not in file.read_bytes() and b"zebedee" not in file.read_bytes(), file
