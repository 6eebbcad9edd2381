"""The first store: projects, prompts, completions, tasks, assignments, append-only judgments.

A migration spells its tables out instead of importing them: it must make the same schema in ten years' time.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from rlhf.preferences.migrations.append_only import append_only

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    _content_tables()
    _task_tables()
    _assignment_table()
    _judgment_table()
    project = sa.table(
        "projects",
        sa.column("name", sa.String),
        sa.column("guideline_version", sa.Integer),
        sa.column("lease_seconds", sa.Float),
        sa.column("allow_partial", sa.Boolean),
    )
    row = {"name": "default", "guideline_version": 0, "lease_seconds": 1800.0, "allow_partial": False}
    op.bulk_insert(project, [row])
    append_only(
        "judgments",
        taken="id = NEW.id OR submit_id = NEW.submit_id OR "
        "(task_id = NEW.task_id AND labeler_id = NEW.labeler_id AND revision = NEW.revision)",
    )
    append_only("guidelines", taken="project_id = NEW.project_id AND version = NEW.version")


def _content_tables() -> None:
    op.create_table(
        "projects",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("guideline_version", sa.Integer, nullable=False),
        sa.Column("lease_seconds", sa.Float, nullable=False),
        sa.Column("allow_partial", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_projects"),
        sa.UniqueConstraint("name", name="uq_projects_name"),
    )
    op.create_table(
        "guidelines",
        sa.Column("project_id", sa.Integer, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("project_id", "version", name="pk_guidelines"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_guidelines_project_id"),
    )
    op.create_table(
        "labelers",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_labelers"),
        sa.UniqueConstraint("name", name="uq_labelers_name"),
    )
    op.create_table(
        "prompts",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("sha", sa.String(64), nullable=False),
        sa.Column("body", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_prompts"),
        sa.UniqueConstraint("sha", name="uq_prompts_sha"),
    )
    op.create_table(
        "completions",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("sha", sa.String(64), nullable=False),
        sa.Column("prompt_id", sa.Integer, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("source", sa.String(200), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_completions"),
        sa.UniqueConstraint("sha", name="uq_completions_sha"),
        sa.ForeignKeyConstraint(["prompt_id"], ["prompts.id"], name="fk_completions_prompt_id"),
    )
    op.create_index("ix_completions_prompt_id", "completions", ["prompt_id"])


def _task_tables() -> None:
    op.create_table(
        "tasks",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("project_id", sa.Integer, nullable=False),
        sa.Column("batch", sa.String(200), nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("prompt_id", sa.Integer, nullable=False),
        sa.Column("split_group", sa.Text, nullable=False),
        sa.Column("overlap", sa.Integer, nullable=False),
        sa.Column("judged", sa.Integer, nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_tasks"),
        sa.UniqueConstraint("project_id", "batch", "key", name="uq_tasks_project_id_batch_key"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_tasks_project_id"),
        sa.ForeignKeyConstraint(["prompt_id"], ["prompts.id"], name="fk_tasks_prompt_id"),
    )
    op.create_index("ix_tasks_batch", "tasks", ["batch"])
    op.create_index("ix_tasks_prompt_id", "tasks", ["prompt_id"])
    unfinished = sa.text("judged < overlap")
    op.create_index(
        "ix_tasks_queue",
        "tasks",
        ["project_id", sa.text("priority DESC"), "id"],
        sqlite_where=unfinished,
        postgresql_where=unfinished,
    )
    op.create_table(
        "task_completions",
        sa.Column("task_id", sa.Integer, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("completion_id", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("task_id", "position", name="pk_task_completions"),
        sa.UniqueConstraint("task_id", "completion_id", name="uq_task_completions_task_id_completion_id"),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name="fk_task_completions_task_id"),
        sa.ForeignKeyConstraint(["completion_id"], ["completions.id"], name="fk_task_completions_completion_id"),
    )


def _assignment_table() -> None:
    op.create_table(
        "assignments",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("task_id", sa.Integer, nullable=False),
        sa.Column("labeler_id", sa.Integer, nullable=False),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("reopened", sa.Boolean, nullable=False),
        sa.Column("shown", sa.JSON, nullable=False),
        sa.Column("leased_until", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_assignments"),
        sa.UniqueConstraint("task_id", "labeler_id", name="uq_assignments_task_id_labeler_id"),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name="fk_assignments_task_id"),
        sa.ForeignKeyConstraint(["labeler_id"], ["labelers.id"], name="fk_assignments_labeler_id"),
    )
    op.create_index("ix_assignments_mine", "assignments", ["labeler_id", "state"])


def _judgment_table() -> None:
    op.create_table(
        "judgments",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("task_id", sa.Integer, nullable=False),
        sa.Column("labeler_id", sa.Integer, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("submit_id", sa.String(100), nullable=False),
        sa.Column("ranks", sa.JSON),
        sa.Column("skip_reason", sa.Text),
        sa.Column("surplus", sa.Boolean, nullable=False),
        sa.Column("comment", sa.Text, nullable=False),
        sa.Column("active_seconds", sa.Float),
        sa.Column("guideline_version", sa.Integer),
        sa.Column("shown", sa.JSON),
        sa.Column("stated_at", sa.Text, nullable=False),
        sa.Column("meta", sa.JSON, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_judgments"),
        sa.UniqueConstraint("submit_id", name="uq_judgments_submit_id"),
        sa.UniqueConstraint("task_id", "labeler_id", "revision", name="uq_judgments_task_id_labeler_id_revision"),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name="fk_judgments_task_id"),
        sa.ForeignKeyConstraint(["labeler_id"], ["labelers.id"], name="fk_judgments_labeler_id"),
    )
    op.create_index("ix_judgments_labeler_id", "judgments", ["labeler_id"])
