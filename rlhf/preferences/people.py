"""The people of a store: invitations, sign-in, roles, suspension, and being forgotten."""

from __future__ import annotations

import hashlib
import secrets
import unicodedata

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from rlhf.errors import StoreError
from rlhf.preferences import access, intake
from rlhf.preferences import engine as db
from rlhf.preferences.handle import StoreHandle
from rlhf.preferences.schema import assignments, drafts, events, judgments, labelers, now, sessions
from rlhf.preferences.types import Event, Labeler, Person

NAME_LENGTH = 80
ERASED = "erased-"  # how the name begins of somebody who was forgotten
SESSION_SECONDS = 30 * 86400.0
IMPORTED = sa.exists().where(judgments.c.labeler_id == labelers.c.id, judgments.c.shown.is_(None)).label("imported")


class People(StoreHandle):
    """Who may come in, and as what."""

    def labeler(self, name: str) -> Labeler:
        """The person of this name, made (as a labeler) on first use: for programs, and sign-in on one's own machine.

        StoreError for a name that is blank, long or unprintable.
        """
        name = _checked_name(name)
        known = sa.select(labelers.c.id, labelers.c.role).where(labelers.c.name == name)
        with self._reading() as connection:
            row = connection.execute(known).one_or_none()
        if row is None:
            with self._writing() as connection:
                intake.write_labelers(connection, [name])
                row = connection.execute(known).one()
                access.record(connection, None, "add person", labeler=row.id)
        return Labeler(row.id, name, row.role)

    def invite(self, name: str, role: str | None = None, *, email: str = "", by: Labeler | None = None) -> str:
        """Add a person, or invite one anew; returns a personal token to sign in with, which is kept nowhere.

        No role: the one they have, of a new person `labeler`. An earlier token of theirs is worthless from now on, and
        their sessions end. StoreError for somebody suspended. For admins.
        """
        name, email = check_invite(name, role, email)
        token = secrets.token_urlsafe(24)
        with self._writing() as connection:
            access.allow(connection, by, "admin")
            if email and connection.scalar(
                sa.select(labelers.c.id).where(labelers.c.email == email, labelers.c.name != name)
            ):
                raise StoreError(f"email: {email!r} is somebody else's; give another, or invite that person")
            intake.write_labelers(connection, [name])
            person = find_person(connection, name)
            if not person.active:
                raise StoreError(f"name: {name!r} is suspended; let them in again with `rlhf people reinstate` first")
            values = {"role": role or person.role, "token_sha": _sha(token), "email": email or person.email}
            connection.execute(sa.update(labelers).where(labelers.c.id == person.id).values(**values))
            _end_sessions(connection, person.id)
            access.record(connection, by, "invite", labeler=person.id, role=values["role"])
        return token

    def set_role(self, name: str, role: str, *, by: Labeler | None = None) -> None:
        """Make this person a labeler, reviewer or admin; their sessions end. For admins.

        StoreError if somebody shall be more than a labeler who comes in by name alone, which anybody could say.
        """
        _check_role(role)
        with self._writing() as connection:
            access.allow(connection, by, "admin")
            person = find_person(connection, name)
            if role != access.ROLES[0] and person.token_sha is None and person.email is None:
                raise StoreError(f"name: {name!r} has no invite, and the role {role} needs one: rlhf people invite")
            _end_sessions(connection, person.id)
            connection.execute(sa.update(labelers).where(labelers.c.id == person.id).values(role=role))
            access.record(connection, by, "set role", labeler=person.id, role=role)

    def suspend(self, name: str, *, by: Labeler | None = None) -> None:
        """Let this person do nothing more here: sessions end and open tasks go to others; what they said stays."""
        with self._writing() as connection:
            access.allow(connection, by, "admin")
            person = find_person(connection, name)
            _shut_out(connection, person.id)
            access.record(connection, by, "suspend", labeler=person.id)

    def reinstate(self, name: str, *, by: Labeler | None = None) -> None:
        """Let a suspended person come in again, with the invite they had. For admins."""
        with self._writing() as connection:
            access.allow(connection, by, "admin")
            person = find_person(connection, name)
            connection.execute(sa.update(labelers).where(labelers.c.id == person.id).values(active=True))
            access.record(connection, by, "reinstate", labeler=person.id)

    def erase(self, name: str, *, by: Labeler | None = None) -> str:
        """Forget who this was: name, e-mail and invite are gone for good; their rankings stay, under the name returned.

        Comments and answers that they wrote stay too; backups and exports made before hold the old name. For admins.
        """
        with self._writing() as connection:
            access.allow(connection, by, "admin")
            person = find_person(connection, name)
            _shut_out(connection, person.id)
            open_ones = sa.select(assignments.c.id).where(assignments.c.labeler_id == person.id)
            connection.execute(sa.delete(drafts).where(drafts.c.assignment_id.in_(open_ones)))
            pseudonym = f"{ERASED}{secrets.token_hex(4)}"
            gone = {"name": pseudonym, "email": None, "token_sha": None}
            connection.execute(sa.update(labelers).where(labelers.c.id == person.id).values(**gone))
            access.record(connection, by, "erase", labeler=person.id)
        db.forget(self._engine)
        return pseudonym

    def people(self, *, by: Labeler | None = None) -> list[Person]:
        """Everybody, in the order in which they came. For reviewers and admins."""
        number, last = sa.func.count().label("n"), sa.func.max(judgments.c.created_at).label("last")
        counted = sa.select(judgments.c.labeler_id, number, last).group_by(judgments.c.labeler_id).subquery()
        query = sa.select(labelers, sa.func.coalesce(counted.c.n, 0).label("judged"), counted.c.last, IMPORTED)
        with self._reading() as connection:
            access.allow(connection, by, "reviewer")
            joined = query.outerjoin(counted, counted.c.labeler_id == labelers.c.id).order_by(labelers.c.id)
            rows = connection.execute(joined).all()
        return [
            Person(r.id, r.name, r.role, r.email or "", r.active, r.token_sha is not None, r.judged, r.last, r.imported)
            for r in rows
        ]

    def events(self, limit: int = 100, *, by: Labeler | None = None) -> list[Event]:
        """What was done here last, newest first. For admins."""
        query = sa.select(events, labelers.c.name).outerjoin(labelers, labelers.c.id == events.c.labeler_id)
        with self._reading() as connection:
            access.allow(connection, by, "admin")
            rows = connection.execute(query.order_by(events.c.id.desc()).limit(limit)).all()
        return [Event(r.at, r.name or "", r.action, dict(r.subject)) for r in rows]

    # Signing in

    def sign_in_by_token(self, token: str) -> str:
        """A new session's key for the owner of this personal invite; StoreError if it is nobody's, or suspended."""
        with self._writing() as connection:
            found = sa.select(labelers).where(labelers.c.token_sha == _sha(token), labelers.c.active)
            row = connection.execute(found.with_for_update(key_share=True)).one_or_none()
            if row is None:
                raise StoreError("this invite is not valid (any more); ask your lead for a new one")
            return _new_session(connection, row)

    def sign_in_by_name(self, name: str) -> str:
        """A new session's key for whoever says this name; for a page that only this machine reaches.

        StoreError for a name that cannot be used, for one that has an invite (that one proves who it is), for one that
        only imported rankings have, and for one that differs from another person's in case or width alone.
        """
        name = _checked_name(name)
        with self._reading() as connection:
            _refuse_others(connection, name)
        name = self.labeler(name).name
        with self._writing() as connection:
            row = find_person(connection, name)
            if row.token_sha is not None or row.email is not None or row.role != "labeler":
                raise StoreError("this name has a personal invite: sign in with that, or choose another name")
            if not row.active:
                raise StoreError("this name is not active here any more; ask an admin of the project")
            return _new_session(connection, row)

    def labeler_by_email(self, email: str) -> Labeler | None:
        """The active person who was invited with this e-mail address (in whatever case), or None."""
        mine = sa.select(labelers).where(labelers.c.email == email.strip().lower(), labelers.c.active)
        with self._reading() as connection:
            row = connection.execute(mine).one_or_none()
        return None if row is None else Labeler(row.id, row.name, row.role)

    def signed_in(self, session_key: str) -> Labeler | None:
        """The person of a session that is alive: not run out, not signed out, its owner not suspended."""
        live = (sessions.c.key_sha == _sha(session_key)) & (sessions.c.expires_at > now(self._engine.dialect.name))
        query = sa.select(labelers.c.id, labelers.c.name, labelers.c.role).join_from(sessions, labelers)
        with self._reading() as connection:
            row = connection.execute(query.where(live, labelers.c.active)).one_or_none()
        return None if row is None else Labeler(row.id, row.name, row.role)

    def sign_out(self, session_key: str) -> None:
        """End a session; nothing happens if there is none."""
        with self._writing() as connection:
            mine = sa.delete(sessions).where(sessions.c.key_sha == _sha(session_key)).returning(sessions.c.labeler_id)
            person = connection.scalar(mine)
            if person is not None:
                access.record(connection, Labeler(person, ""), "sign out")


def _sha(secret: str) -> str:
    """One round of sha256 is enough for a long random secret; and comparing hashes leaks nothing of it by time."""
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()


def _new_session(connection: Connection, person: Row[tuple[object, ...]]) -> str:
    key = secrets.token_urlsafe(32)
    clock = now(connection.dialect.name)
    connection.execute(sa.delete(sessions).where(sessions.c.expires_at < clock))
    row = {"key_sha": _sha(key), "labeler_id": person.id, "expires_at": clock + SESSION_SECONDS}
    connection.execute(sa.insert(sessions).values(**row))
    access.record(connection, Labeler(person.id, person.name), "sign in")
    return key


def _end_sessions(connection: Connection, labeler_id: int) -> None:
    connection.execute(sa.delete(sessions).where(sessions.c.labeler_id == labeler_id))


def _shut_out(connection: Connection, labeler_id: int) -> None:
    """No sessions, no open leases, not active."""
    _end_sessions(connection, labeler_id)
    mine = sa.update(assignments).where(assignments.c.labeler_id == labeler_id)
    clock = now(connection.dialect.name)
    connection.execute(mine.where(assignments.c.state == "open").values(leased_until=clock))
    connection.execute(mine.where(assignments.c.reopened).values(reopened=False))
    connection.execute(sa.update(labelers).where(labelers.c.id == labeler_id).values(active=False))


def find_person(connection: Connection, name: str, *, erased: bool = False) -> Row[tuple[object, ...]]:
    """The person's row, locked as `access.active` locks it. Nobody is brought back who was erased, but may be named."""
    mine = sa.select(labelers).where(labelers.c.name == name.strip()).with_for_update(key_share=True)
    row = connection.execute(mine).one_or_none()
    if row is None or (name.startswith(ERASED) and not erased):
        raise StoreError(f"name: nobody here is called {name!r}; `rlhf people list` says who there is")
    return row


def _refuse_others(connection: Connection, name: str) -> None:
    """Raise StoreError for a name under which somebody would speak as another, or be two people by mistake."""
    rows = connection.execute(sa.select(labelers.c.name, IMPORTED)).all()
    if name == intake.ANONYMOUS or any(row.name == name and row.imported for row in rows):
        raise StoreError("this name stands on imported rankings; choose another, or ask your lead for an invite")
    for other in (row.name for row in rows if row.name != name):
        if _folded(other) == _folded(name):
            raise StoreError(
                f"somebody here is called {other!r}; if that is you, write it so, else choose another name"
            )


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold()


def check_invite(name: str, role: str | None, email: str) -> tuple[str, str]:
    """Name and e-mail as they will be kept; StoreError for what no invite can have."""
    if role is not None:
        _check_role(role)
    return _checked_name(name), _checked_email(email)


def _checked_name(name: str) -> str:
    name = unicodedata.normalize("NFC", name.strip())  # one spelling of an accented letter
    if not name or len(name) > NAME_LENGTH or not name.isprintable():
        raise StoreError(f"name: expected 1 to {NAME_LENGTH} visible characters, found {name[:NAME_LENGTH]!r}")
    if name.startswith(ERASED):
        raise StoreError(f"name: those that begin with {ERASED!r} stand for people who were forgotten; choose another")
    return name


def _checked_email(email: str) -> str:
    email = email.strip().lower()
    user, at, host = email.partition("@")
    if email and (not (user and at and host) or len(email) > 320 or not email.isprintable() or " " in email):
        raise StoreError(f"email: expected one like ann@example.org, found {email[:80]!r}")
    return email


def _check_role(role: str) -> None:
    if role not in access.ROLES:
        raise StoreError(f"role: expected one of {', '.join(access.ROLES)}, found {role!r}")
