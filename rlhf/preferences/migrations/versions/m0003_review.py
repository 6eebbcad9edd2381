"""What leads decide: verdicts on disputed tasks, and whose rankings no export shall hold."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from rlhf.preferences.migrations.append_only import append_only

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "verdicts",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("task_id", sa.Integer, nullable=False),
        sa.Column("labeler_id", sa.Integer, nullable=False),
        sa.Column("kind", sa.String(10), nullable=False),
        sa.Column("ranks", sa.JSON),
        sa.Column("comment", sa.Text, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_verdicts"),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name="fk_verdicts_task_id"),
        sa.ForeignKeyConstraint(["labeler_id"], ["labelers.id"], name="fk_verdicts_labeler_id"),
    )
    op.create_index("ix_verdicts_task_id", "verdicts", ["task_id"])
    op.create_table(
        "exclusions",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("project_id", sa.Integer, nullable=False),
        sa.Column("labeler_id", sa.Integer, nullable=False),
        sa.Column("excluded", sa.Boolean, nullable=False),
        sa.Column("replaced", sa.JSON, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("by_id", sa.Integer),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_exclusions"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_exclusions_project_id"),
        sa.ForeignKeyConstraint(["labeler_id"], ["labelers.id"], name="fk_exclusions_labeler_id"),
        sa.ForeignKeyConstraint(["by_id"], ["labelers.id"], name="fk_exclusions_by_id"),
    )
    op.create_index("ix_exclusions_project_id", "exclusions", ["project_id"])
    for table in ("verdicts", "exclusions"):
        append_only(table, taken="id = NEW.id")
