"""Projects with settings of their own; roles, invites, sessions; gold tasks; drafts; notes on completions; events.

Columns are added and dropped one by one: making a table anew, as SQLite's batch mode does, would lose its triggers.
"""

from __future__ import annotations

import secrets

import sqlalchemy as sa
from alembic import op

from rlhf.preferences.migrations.append_only import append_only

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _projects()
    _people()
    _tasks()
    _queues()
    op.create_table(
        "drafts",
        sa.Column("assignment_id", sa.Integer, nullable=False),
        sa.Column("body", sa.JSON, nullable=False),
        sa.Column("saved_at", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("assignment_id", name="pk_drafts"),
        sa.ForeignKeyConstraint(["assignment_id"], ["assignments.id"], name="fk_drafts_assignment_id"),
    )
    op.drop_index("ix_judgments_labeler_id", "judgments")
    op.create_index("ix_judgments_made", "judgments", ["labeler_id", "created_at"])
    op.add_column("judgments", sa.Column("strength", sa.Integer))
    op.add_column("judgments", sa.Column("notes", sa.JSON))
    op.add_column("judgments", sa.Column("better", sa.Text))


def _projects() -> None:
    """What were columns becomes a JSON object, so that a setting more is no migration more."""
    op.add_column("projects", sa.Column("settings", sa.JSON, nullable=False, server_default="{}"))
    op.add_column("projects", sa.Column("secret", sa.String(64), nullable=False, server_default=""))
    projects = sa.table(
        "projects",
        sa.column("id", sa.Integer),
        sa.column("lease_seconds", sa.Float),
        sa.column("allow_partial", sa.Boolean),
        sa.column("settings", sa.JSON),
        sa.column("secret", sa.String),
    )
    connection = op.get_bind()
    for row in connection.execute(sa.select(projects.c.id, projects.c.lease_seconds, projects.c.allow_partial)).all():
        lease = min(row.lease_seconds, 7 * 86400.0)  # there was no upper bound
        settings = {"lease_seconds": lease, "allow_partial": bool(row.allow_partial)}
        changed = sa.update(projects).where(projects.c.id == row.id)
        connection.execute(changed.values(settings=settings, secret=secrets.token_hex(32)))
    for name in ("lease_seconds", "allow_partial", "guideline_version"):
        op.drop_column("projects", name)


def _people() -> None:
    op.add_column("labelers", sa.Column("role", sa.String(10), nullable=False, server_default="labeler"))
    op.add_column("labelers", sa.Column("email", sa.String(320)))
    op.add_column("labelers", sa.Column("token_sha", sa.String(64)))
    op.add_column("labelers", sa.Column("active", sa.Boolean, nullable=False, server_default=sa.true()))
    op.create_index("ix_labelers_email", "labelers", ["email"], unique=True)
    op.create_index("ix_labelers_token_sha", "labelers", ["token_sha"], unique=True)
    op.create_table(
        "sessions",
        sa.Column("key_sha", sa.String(64), nullable=False),
        sa.Column("labeler_id", sa.Integer, nullable=False),
        sa.Column("expires_at", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("key_sha", name="pk_sessions"),
        sa.ForeignKeyConstraint(["labeler_id"], ["labelers.id"], name="fk_sessions_labeler_id"),
    )
    op.create_index("ix_sessions_labeler_id", "sessions", ["labeler_id"])
    op.create_table(
        "events",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("labeler_id", sa.Integer),
        sa.Column("action", sa.String(40), nullable=False),
        sa.Column("subject", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
        sa.ForeignKeyConstraint(["labeler_id"], ["labelers.id"], name="fk_events_labeler_id"),
    )
    append_only("events", taken="id = NEW.id")


def _tasks() -> None:
    op.add_column("tasks", sa.Column("shuffle", sa.Integer, nullable=False, server_default="0"))
    op.add_column("tasks", sa.Column("gold", sa.JSON))
    # Knuth's multiplicative hash of the id, below 2^31: as good an order as any for tasks that are there already.
    op.execute("UPDATE tasks SET shuffle = (CAST(id AS BIGINT) * 2654435761) % 2147483648")
    for name, columns, where in (
        ("ix_tasks_shuffled", ["project_id", "shuffle", "id"], "judged < overlap"),
        ("ix_tasks_gold", ["project_id", "shuffle"], "gold IS NOT NULL"),
    ):
        op.create_index(name, "tasks", columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))


def _queues() -> None:
    """What finds the next task, and counts one's own, without passing over all that one ever did."""
    op.add_column("assignments", sa.Column("project_id", sa.Integer, nullable=False, server_default="0"))
    op.execute("UPDATE assignments SET project_id = (SELECT project_id FROM tasks WHERE tasks.id = task_id)")
    op.drop_index("ix_assignments_mine", "assignments")
    op.create_index("ix_assignments_mine", "assignments", ["labeler_id", "project_id", "state"])
    in_hand = sa.text("state = 'open' OR reopened")
    names = ["labeler_id", "project_id"]
    op.create_index("ix_assignments_in_hand", "assignments", names, sqlite_where=in_hand, postgresql_where=in_hand)
    op.create_table(
        "queues",
        sa.Column("project_id", sa.Integer, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("project_id", name="pk_queues"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_queues_project_id"),
    )
    op.execute("INSERT INTO queues (project_id, version) SELECT id, 1 FROM projects")
    op.create_table(
        "bookmarks",
        sa.Column("project_id", sa.Integer, nullable=False),
        sa.Column("labeler_id", sa.Integer, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("task_id", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("project_id", "labeler_id", name="pk_bookmarks"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_bookmarks_project_id"),
        sa.ForeignKeyConstraint(["labeler_id"], ["labelers.id"], name="fk_bookmarks_labeler_id"),
    )
