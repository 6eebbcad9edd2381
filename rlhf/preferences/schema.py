"""The label store's tables, and the few expressions that differ between SQLite and PostgreSQL.

Three rules shape them. What was said or decided is never changed: the tables of APPEND_ONLY only grow (triggers, made
by the migrations, refuse anything else). Positions mean nothing: a judgment names completions by id, in
whatever order its labeler saw them. And a person's name and e-mail stand in `labelers` alone: they can be erased.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    ColumnElement,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    exists,
    func,
    literal_column,
    text,
)

SCHEMA_VERSION = "0003"  # the newest migration in migrations/versions; a test holds the two together
DEFAULT_PROJECT = "default"
APPEND_ONLY = ("judgments", "guidelines", "events", "verdicts", "exclusions")

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

projects = Table(
    "projects",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(200), nullable=False, unique=True),
    Column("settings", JSON(none_as_null=True), nullable=False),  # see settings.ProjectSettings
    Column("secret", String(64), nullable=False),  # decides which of a labeler's tasks are gold; nobody can foresee it
)

guidelines = Table(
    "guidelines",
    metadata,
    Column("project_id", ForeignKey("projects.id"), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("body", Text, nullable=False),
    Column("created_at", Float, nullable=False),
)

# Names live here and nowhere else, so that a person can be forgotten without touching a judgment.
labelers = Table(
    "labelers",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(200), nullable=False, unique=True),
    Column("created_at", Float, nullable=False),
    Column("role", String(10), nullable=False),
    Column("email", String(320), index=True, unique=True),  # lower case; who signs in through an identity provider
    Column(
        "token_sha", String(64), index=True, unique=True
    ),  # of the personal invite; the token itself is kept nowhere
    Column("active", Boolean, nullable=False),  # False: suspended, or erased
)

sessions = Table(
    "sessions",
    metadata,
    Column("key_sha", String(64), primary_key=True),
    Column("labeler_id", ForeignKey("labelers.id"), nullable=False, index=True),
    Column("expires_at", Float, nullable=False),
)

# Who did what and when, written in the transaction that did it. Ids only: a name here could not be erased.
events = Table(
    "events",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", Float, nullable=False),  # the database's clock
    Column("labeler_id", ForeignKey("labelers.id")),  # NULL: a program or the command line
    Column("action", String(40), nullable=False),
    Column("subject", JSON(none_as_null=True), nullable=False),
)

prompts = Table(
    "prompts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("sha", String(64), nullable=False, unique=True),
    Column("body", JSON(none_as_null=True), nullable=False),  # text, or a list of chat messages
)

completions = Table(
    "completions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("sha", String(64), nullable=False, unique=True),  # over prompt, text, source and copy number
    Column("prompt_id", ForeignKey("prompts.id"), nullable=False, index=True),
    Column("text", Text, nullable=False),
    Column("source", String(200), nullable=False),  # who wrote it, an adapter's name say; never shown to labelers
)

tasks = Table(
    "tasks",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("project_id", ForeignKey("projects.id"), nullable=False),
    Column("batch", String(200), nullable=False, index=True),
    Column("key", String(64), nullable=False),  # sha256 of the content: the same task is not added twice to a batch
    Column("prompt_id", ForeignKey("prompts.id"), nullable=False, index=True),
    Column("split_group", Text, nullable=False),  # see records.Ranking.group
    Column("overlap", Integer, nullable=False),  # how many people shall judge it; 0: imported, never handed out
    Column("judged", Integer, nullable=False),  # how many have, kept beside the rows so that the queue has an index
    Column("priority", Integer, nullable=False),
    Column("shuffle", Integer, nullable=False),  # from the key: the order of projects that hand out at random
    Column("gold", JSON(none_as_null=True)),  # {completion id: rank or null}, the answer known beforehand; overlap 0
    Column("created_at", Float, nullable=False),
    UniqueConstraint("project_id", "batch", "key"),
)
Index(
    "ix_tasks_queue",
    tasks.c.project_id,
    tasks.c.priority.desc(),
    tasks.c.id,
    sqlite_where=text("judged < overlap"),
    postgresql_where=text("judged < overlap"),
)
Index(
    "ix_tasks_shuffled",
    tasks.c.project_id,
    tasks.c.shuffle,
    tasks.c.id,
    sqlite_where=text("judged < overlap"),
    postgresql_where=text("judged < overlap"),
)
Index(
    "ix_tasks_gold",
    tasks.c.project_id,
    tasks.c.shuffle,
    sqlite_where=text("gold IS NOT NULL"),
    postgresql_where=text("gold IS NOT NULL"),
)

task_completions = Table(
    "task_completions",
    metadata,
    Column("task_id", ForeignKey("tasks.id"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("completion_id", ForeignKey("completions.id"), nullable=False),
    UniqueConstraint("task_id", "completion_id"),
)

# One row for a task and a person, whatever happens between them. `state`: open, done, surplus (judged after the task
# was full), skipped. `reopened` is apart: while a person corrects a judgment, the one they made still counts.
assignments = Table(
    "assignments",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("task_id", ForeignKey("tasks.id"), nullable=False),
    Column("project_id", Integer, nullable=False),  # the task's: counting somebody's tasks of a project needs no join
    Column("labeler_id", ForeignKey("labelers.id"), nullable=False),
    Column("state", String(10), nullable=False),
    Column("reopened", Boolean, nullable=False),
    Column("shown", JSON(none_as_null=True), nullable=False),  # completion ids, in the order on this person's screen
    Column("leased_until", Float, nullable=False),  # the database's clock, seconds since 1970
    UniqueConstraint("task_id", "labeler_id"),
)
IN_HAND = text("(assignments.state = 'open' OR assignments.reopened)")  # as the index has it: no parameters
Index("ix_assignments_mine", assignments.c.labeler_id, assignments.c.project_id, assignments.c.state)
Index(
    "ix_assignments_in_hand",
    assignments.c.labeler_id,
    assignments.c.project_id,
    sqlite_where=text("state = 'open' OR reopened"),
    postgresql_where=text("state = 'open' OR reopened"),
)

# Counts up whenever a project's queue gets tasks, or a place in it is free again that was judged. See queue.py.
queues = Table(
    "queues",
    metadata,
    Column("project_id", ForeignKey("projects.id"), primary_key=True),
    Column("version", Integer, nullable=False),
)

# Of the open tasks before this one, in the order of ix_tasks_queue, this labeler has had every one. See queue.py.
bookmarks = Table(
    "bookmarks",
    metadata,
    Column("project_id", ForeignKey("projects.id"), primary_key=True),
    Column("labeler_id", ForeignKey("labelers.id"), primary_key=True),
    Column("version", Integer, nullable=False),  # of the queue; under another one the bookmark says nothing
    Column("priority", Integer, nullable=False),
    Column("task_id", Integer, nullable=False),
)

# What a labeler has begun to say; the one table whose rows come and go.
drafts = Table(
    "drafts",
    metadata,
    Column("assignment_id", ForeignKey("assignments.id"), primary_key=True),
    Column("body", JSON(none_as_null=True), nullable=False),
    Column("saved_at", Float, nullable=False),
)

judgments = Table(
    "judgments",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("task_id", ForeignKey("tasks.id"), nullable=False),
    Column("labeler_id", ForeignKey("labelers.id"), nullable=False),
    Column("revision", Integer, nullable=False),  # from 1; the latest is what the person means
    Column("submit_id", String(100), nullable=False, unique=True),
    Column("ranks", JSON(none_as_null=True)),  # {completion id: rank or null}; NULL: skipped
    Column("skip_reason", Text),  # NULL: not skipped
    Column("surplus", Boolean, nullable=False),  # came after the task was full: kept, but left out of exports
    Column("comment", Text, nullable=False),
    Column("active_seconds", Float),
    Column("guideline_version", Integer),  # NULL: imported
    Column("shown", JSON(none_as_null=True)),  # NULL: imported
    Column("stated_at", Text, nullable=False),  # a ranking's created_at as its file gives it, or the time of the submit
    Column("meta", JSON(none_as_null=True), nullable=False),
    Column("created_at", Float, nullable=False),  # when this row was written, the database's clock
    Column("strength", Integer),  # of two completions: how much better the better one is, 0 (the same) to 3 (much)
    Column("notes", JSON(none_as_null=True)),  # {completion id: {"quality": 1-7, "flags": [...], "comment": ...}}
    Column("better", Text),  # a better answer of the labeler's own
    UniqueConstraint("task_id", "labeler_id", "revision"),
)

Index("ix_judgments_made", judgments.c.labeler_id, judgments.c.created_at)

# What a reviewer decided about a task that people disagree on; the latest row of a task counts.
verdicts = Table(
    "verdicts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("task_id", ForeignKey("tasks.id"), nullable=False, index=True),
    Column("labeler_id", ForeignKey("labelers.id"), nullable=False),  # the reviewer
    Column("kind", String(10), nullable=False),  # see types.Verdict
    Column("ranks", JSON(none_as_null=True)),  # {completion id: rank or null}; NULL: no ranking of the reviewer's own
    Column("comment", Text, nullable=False),
    Column("created_at", Float, nullable=False),
)

# Whose rankings a project's exports leave out; the latest row of a project and person counts.
exclusions = Table(
    "exclusions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("project_id", ForeignKey("projects.id"), nullable=False, index=True),
    Column("labeler_id", ForeignKey("labelers.id"), nullable=False),
    Column("excluded", Boolean, nullable=False),  # False: taken in again
    Column("replaced", JSON(none_as_null=True), nullable=False),  # ids of the tasks that one person more is asked
    Column("reason", Text, nullable=False),
    Column("by_id", ForeignKey("labelers.id")),  # NULL: a program or the command line
    Column("created_at", Float, nullable=False),
)


def is_latest() -> ColumnElement[bool]:
    """Of `judgments` rows: no later revision replaced this one."""
    later = judgments.alias("later")
    same = (later.c.task_id == judgments.c.task_id) & (later.c.labeler_id == judgments.c.labeler_id)
    return ~exists().where(same, later.c.revision > judgments.c.revision)


def now(dialect: str) -> ColumnElement[float]:
    """The database's clock in seconds since 1970: leases of many machines can only be compared on one clock."""
    if dialect == "sqlite":
        return (func.julianday("now") - literal_column("2440587.5", Float)) * literal_column("86400.0", Float)
    return func.extract("epoch", func.clock_timestamp()).cast(Float)
