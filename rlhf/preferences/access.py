"""Who may do what, and a record of who did. Functions on a connection within a transaction."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf.errors import StoreError
from rlhf.preferences.schema import events, exclusions, labelers, now
from rlhf.preferences.types import Labeler

ROLES = ("labeler", "reviewer", "admin")  # each may do what those before it may


def allow(connection: Connection, by: Labeler | None, role: str) -> None:
    """Raise StoreError unless this person is active and has the role, as the store has it now, not as `by` says.

    None is a program or the command line, which holds the database in its hands and could write anything anyway.
    """
    if by is None:
        return
    row = connection.execute(sa.select(labelers.c.role, labelers.c.active).where(labelers.c.id == by.id)).one_or_none()
    if row is None or not row.active:
        raise StoreError("this person is not active here any more; ask an admin of the project")
    if ROLES.index(row.role) < ROLES.index(role):
        raise StoreError(f"this is for the role {role!r}, and yours is {row.role!r}; ask an admin of the project")


def may(labeler: Labeler, role: str) -> bool:
    """Whether this person's role, as it was when they were looked up, does: to choose what to show, not to act."""
    return ROLES.index(labeler.role) >= ROLES.index(role)


def active(connection: Connection, labeler: Labeler, *, alone: bool = False) -> None:
    """Raise StoreError if this person is suspended.

    `alone`: let this transaction be the only one that acts for them (two tabs, a double Enter, a request sent again):
    whoever comes second waits here and then sees what the first one did. SQLite has one writer anyway. The lock comes
    before any other, and is the weak one that does not wait for rows that name this person.
    """
    query = sa.select(labelers.c.active).where(labelers.c.id == labeler.id)
    if not connection.scalar(query.with_for_update(key_share=True) if alone else query):
        raise StoreError("this person is not active here any more; ask an admin of the project")


def excluded(connection: Connection, project_id: int) -> set[int]:
    """Ids of the people whose rankings the project's exports leave out."""
    return set(connection.scalars(latest_exclusions(project_id).with_only_columns(exclusions.c.labeler_id)))


def latest_exclusions(project_id: int) -> sa.Select[tuple[int]]:
    """Of each person who is excluded now, the row of `exclusions` that says so."""
    mine = exclusions.c.project_id == project_id
    last = sa.select(sa.func.max(exclusions.c.id)).where(mine).group_by(exclusions.c.labeler_id)
    return sa.select(exclusions.c.id).where(exclusions.c.id.in_(last), exclusions.c.excluded)


def record(connection: Connection, by: Labeler | None, action: str, **subject: Any) -> None:
    """Write down who did what, in the transaction that does it. `subject` holds ids, never names."""
    row = {"labeler_id": None if by is None else by.id, "action": action, "subject": subject}
    connection.execute(sa.insert(events).values(at=now(connection.dialect.name), **row))
