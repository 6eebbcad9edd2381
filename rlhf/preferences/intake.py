"""Checks of what comes in; writing prompts, completions and tasks, many at once.

Everything is found again by the sha256 of its content, so that what is already there is not written twice.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Row

from rlhf.data.records import (
    PromptLike,
    Ranking,
    check_text,
    parse_prompt_like,
    parse_ranking,
    prompt_text,
    ranking_row,
)
from rlhf.errors import DataError
from rlhf.preferences.schema import completions, labelers, now, prompts, task_completions, tasks
from rlhf.preferences.settings import MOST_COMPLETIONS
from rlhf.preferences.types import NewTask

ANONYMOUS = "anonymous"
TEXT_LENGTH = 200_000  # characters of one prompt or completion on a labeler's screen
NAME_LENGTH = 80  # of a labeler or project
LINE_LENGTH = 200  # of the name of a batch or of a completion's source
GROUP_LENGTH = 10_000
MOST_OVERLAP = 1_000
MOST_PRIORITY = 10**9  # it is kept in 32 bits
CHUNK = 5_000  # keys looked up in one statement


@dataclass(frozen=True)
class Task:
    """A task on its way in: `key` is what makes it this task within its batch."""

    key: str
    prompt: PromptLike
    completions: tuple[str, ...]
    sources: tuple[str, ...]
    group: str
    overlap: int
    priority: int = 0
    where: str = ""  # it came from, for messages

    @cached_property
    def prompt_sha(self) -> str:
        """What the prompt is found again by."""
        return prompt_sha(self.prompt)

    @cached_property
    def completion_shas(self) -> list[str]:
        """One a completion; an imported ranking may hold a text twice, told apart by a copy number."""
        copies: Counter[tuple[str, str]] = Counter()
        out = []
        for text, source in zip(self.completions, self.sources, strict=True):
            out.append(sha(self.prompt_sha, text, source, copies[text, source]))
            copies[text, source] += 1
        return out


def sha(*parts: object) -> str:
    """sha256 of values that JSON can hold, unambiguous between them: ("ab", "c") and ("a", "bc") differ."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, allow_nan=False).encode()).hexdigest()


def prompt_sha(prompt: PromptLike) -> str:
    """What a prompt is found again by."""
    return sha(prompt if isinstance(prompt, str) else list(prompt))


def named(ranking: Ranking) -> Ranking:
    """The ranking with a labeler: nobody's rankings are `anonymous`."""
    return ranking if ranking.labeler else replace(ranking, labeler=ANONYMOUS)


class Checked(ABC):
    """Rankings that can be walked as often as one likes, each of them checked on the way and with a labeler.

    A walk raises DataError at the first that is unusable. `whole`: one walk came to the end.
    """

    whole = False

    @abstractmethod
    def __iter__(self) -> Iterator[Ranking]:
        """Each ranking, checked."""


class Given(Checked):
    """Rankings that a program sends in something that can be walked again, a list say."""

    def __init__(self, rankings: Iterable[Ranking]) -> None:
        self._rankings = rankings

    def __iter__(self) -> Iterator[Ranking]:
        yield from checked_rankings(self._rankings)
        self.whole = True


def checked_rankings(rankings: Iterable[Ranking]) -> Iterator[Ranking]:
    """The rankings with a labeler each; DataError at the first that could not be read back from its JSON row."""
    for i, ranking in enumerate(rankings):
        where = f"ranking {i}"
        parse_ranking(ranking_row(ranking), where)
        yield accepted(ranking, where)


def accepted(ranking: Ranking, where: str) -> Ranking:
    """A ranking that `parse_ranking` let pass, with a labeler; DataError from `where` if no store can keep it."""
    if ranking.meta:
        try:
            sha(dict(ranking.meta))
        except (TypeError, ValueError, RecursionError) as error:
            raise DataError(
                f"{where}, field 'meta': cannot be written as JSON ({error}); keep text, numbers, lists"
            ) from None
    whose = named(ranking)
    if whose.labeler != ANONYMOUS:
        check_name(whose.labeler, f"{where}, field 'labeler'", NAME_LENGTH)
    check_group(ranking.group, where)
    return whose


def place(what: str, number: int, source: str) -> str:
    """Where a row came from, for messages: the file and its row, else its index in what a program sent."""
    return f"{source}, row {number + 1}" if source else f"{what} {number}"


def parse_task(row: Mapping[str, Any], where: str) -> NewTask:
    """`{"prompt", "completions": [...]}`, and perhaps sources (one a completion), group, priority."""
    for name in ("prompt", "completions"):
        if name not in row:
            raise DataError(f"{where}: field {name!r} is missing; a task has prompt and completions")
    lists = {name: row.get(name) or () for name in ("completions", "sources")}
    for name, value in lists.items():
        if not isinstance(value, Sequence) or isinstance(value, str) or not all(isinstance(v, str) for v in value):
            raise DataError(f"{where}, field {name!r}: expected a list of texts")
    prompt, group = parse_prompt_like(row["prompt"], f"{where}, field 'prompt'"), row.get("group") or ""
    task = NewTask(prompt, tuple(lists["completions"]), tuple(lists["sources"]), group, row.get("priority") or 0)
    checked_task(task, where, 1)
    return task


def checked_tasks(new: Iterable[NewTask], overlap: int, k: int | None = None) -> list[Task]:
    """The tasks with their keys, each once; DataError for texts that cannot be shown, ranked or told apart.

    `k`: how many completions each must have; None: 2 to MOST_COMPLETIONS, a key of the keyboard for each.
    """
    _check_number(overlap, "overlap", 1, MOST_OVERLAP)
    out: dict[str, Task] = {}
    for i, task in enumerate(new):
        checked = checked_task(task, f"task {i}", overlap)
        check_count(task, checked.where, k)
        out.setdefault(checked.key, checked)
    return list(out.values())


def checked_task(task: NewTask, where: str, overlap: int) -> Task:
    """The task with its key; DataError that begins with `where`."""
    parse_prompt_like(task.prompt, f"{where}, field 'prompt'")
    check_count(task, where, None)
    check_length(prompt_text(task.prompt), f"{where}, field 'prompt'")
    for j, text in enumerate(task.completions):
        check_text(text, f"{where}, field 'completions'[{j}]")
        check_length(text, f"{where}, field 'completions'[{j}]")
        if text in task.completions[:j]:
            first = task.completions.index(text)
            raise DataError(f"{where}, field 'completions'[{j}]: repeats [{first}]; nobody can rank equal texts")
    if task.sources and len(task.sources) != len(task.completions):
        raise DataError(f"{where}, field 'sources': found {len(task.sources)} for {len(task.completions)} completions")
    for j, name in enumerate(task.sources):
        if name != "":
            check_name(name, f"{where}, field 'sources'[{j}]", LINE_LENGTH)
    check_group(task.group, where)
    _check_number(task.priority, f"{where}, field 'priority'", -MOST_PRIORITY, MOST_PRIORITY)
    sources = task.sources or ("",) * len(task.completions)
    key = task_key(task.prompt, task.completions, sources, task.group)
    return Task(key, task.prompt, task.completions, sources, task.group, overlap, task.priority, where)


def task_key(prompt: PromptLike, completions: Sequence[str], sources: Sequence[str], group: str) -> str:
    """What a queued task is known by within its batch."""
    return sha("task", prompt_sha(prompt), completions, sources, group)


def check_count(task: NewTask | Task, where: str, k: int | None) -> None:
    """DataError unless the task has as many completions as the project asks for."""
    found = len(task.completions)
    if found not in (range(k, k + 1) if k else range(2, MOST_COMPLETIONS + 1)):
        asked = f"{k} (the project's k)" if k else f"2 to {MOST_COMPLETIONS}"
        raise DataError(f"{where}, field 'completions': expected {asked} texts, found {found}")


def check_name(name: str, where: str, most: int) -> str:
    """The name, if people can read it and tell it from others; else DataError."""
    check_text(name, where, blank=True)
    if not 1 <= len(name) <= most or not name.isprintable() or name != name.strip():
        raise DataError(
            f"{where}: expected 1 to {most} visible characters without spaces around them, found "
            f"{name[:most]!r}{f' and {len(name) - most} more' if len(name) > most else ''}; change it"
        )
    return name


def check_batch(batch: str) -> str:
    """The name of a batch, if it can be one; else DataError."""
    return check_name(batch, "batch", LINE_LENGTH)


def _check_number(value: int, where: str, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        found = value if isinstance(value, int) and abs(value) < 10**40 else f"another {type(value).__name__}"
        raise DataError(f"{where}: expected a whole number from {low} to {high}, found {found}")


def check_length(text: str, where: str) -> None:
    """DataError for a text that no page could show and nobody would read."""
    if len(text) > TEXT_LENGTH:
        raise DataError(f"{where}: {len(text)} characters are too many to rank; shorten it to {TEXT_LENGTH}")


def check_group(group: str, where: str) -> None:
    """DataError for what cannot be the name of a split group."""
    check_text(group, f"{where}, field 'group'", blank=True)
    if len(group) > GROUP_LENGTH:
        raise DataError(f"{where}, field 'group': {len(group)} characters are too many; shorten it to {GROUP_LENGTH}")


def write_tasks(
    connection: Connection, project_id: int, new: Iterable[Task], batch: str, *, gold: bool = False
) -> dict[str, int]:
    """Insert those tasks that the batch lacks; return the ids of all by key.

    `gold`: they are to be gold ones. DataError where the batch holds one of them as the other kind.
    """
    new = list(new)
    check_batch(batch)
    scope = (tasks.c.project_id == project_id) & (tasks.c.batch == batch)
    query = sa.select(tasks.c.key, tasks.c.id, tasks.c.gold.is_not(None).label("gold")).where(scope)
    places = {t.key: t.where for t in new}
    known: dict[str, int] = {}
    for row in select_in(connection, query, tasks.c.key, list(places)):
        if row.gold != gold:
            there = "a gold task" if row.gold else "an ordinary task"
            raise DataError(
                f"{places[row.key]}: batch {batch!r} holds this as {there}; give another batch, or leave it out"
            )
        known[row.key] = row.id
    missing = [t for t in new if t.key not in known]
    if not missing:
        return known
    prompt_ids = _write_prompts(connection, missing)
    completion_ids = _write_completions(connection, missing, prompt_ids)
    connection.execute(
        sa.insert(tasks).values(created_at=now(connection.dialect.name)),
        [
            {
                "project_id": project_id,
                "batch": batch,
                "key": t.key,
                "prompt_id": prompt_ids[t.prompt_sha],
                "split_group": t.group,
                "overlap": t.overlap,
                "judged": 0,
                "priority": t.priority,
                "shuffle": int(t.key[:8], 16) >> 1,
            }
            for t in missing
        ],
    )
    known = {row.key: row.id for row in select_in(connection, query, tasks.c.key, list(places))}
    connection.execute(
        sa.insert(task_completions),
        [
            {"task_id": known[t.key], "position": i, "completion_id": completion_ids[text]}
            for t in missing
            for i, text in enumerate(t.completion_shas)
        ],
    )
    return known


def write_labelers(connection: Connection, names: Iterable[str]) -> dict[str, int]:
    """Ids of these names, new ones added."""
    new = {"created_at": now(connection.dialect.name), "role": "labeler", "active": True}
    return _ensure(connection, labelers, "name", {n: new for n in sorted(names)})


def without_places(task: Task) -> Task:
    """The task as one that wants nobody: gold tasks stand outside the overlap."""
    return replace(task, overlap=0)


def _write_prompts(connection: Connection, new: Sequence[Task]) -> dict[str, int]:
    bodies = {t.prompt_sha: t.prompt if isinstance(t.prompt, str) else list(t.prompt) for t in new}
    return _ensure(connection, prompts, "sha", {key: {"body": body} for key, body in bodies.items()})


def _write_completions(connection: Connection, new: Sequence[Task], prompt_ids: Mapping[str, int]) -> dict[str, int]:
    rows = {
        key: {"prompt_id": prompt_ids[t.prompt_sha], "text": text, "source": source}
        for t in new
        for key, text, source in zip(t.completion_shas, t.completions, t.sources, strict=True)
    }
    return _ensure(connection, completions, "sha", rows)


def _ensure(
    connection: Connection, table: sa.Table, column: str, rows: Mapping[str, Mapping[str, Any]]
) -> dict[str, int]:
    """Insert the rows whose key (in `column`, unique) is new; return the ids of all by key.

    Another transaction may add the same key meanwhile: its row is the one that stays.
    """
    key = table.c[column]
    query = sa.select(key.label("key"), table.c.id)
    ids = {row.key: row.id for row in select_in(connection, query, key, list(rows))}
    missing = [k for k in rows if k not in ids]
    if missing:
        # A value that is an SQL expression (the clock) cannot be a parameter of many rows: it is part of the statement.
        fixed = {n: v for n, v in rows[missing[0]].items() if isinstance(v, sa.ColumnElement)}
        plain = [{column: k, **{n: v for n, v in rows[k].items() if n not in fixed}} for k in missing]
        insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
        connection.execute(insert(table).values(fixed).on_conflict_do_nothing(), plain)
        ids |= {row.key: row.id for row in select_in(connection, query, key, missing)}
    return ids


def select_in(
    connection: Connection, query: sa.Select[Any], column: sa.ColumnElement[Any], values: Sequence[Any]
) -> list[Row[Any]]:
    """The query's rows whose column has one of these values, which go as one list: no statement grows with them."""
    rows: list[Row[Any]] = []
    for start in range(0, len(values), CHUNK):
        some = list(values[start : start + CHUNK])
        among: sa.ColumnElement[bool]
        if connection.dialect.name == "sqlite":
            among = column.in_(sa.select(sa.func.json_each(json.dumps(some)).table_valued("value").c.value))
        else:
            among = column == sa.any_(sa.literal(some, postgresql.ARRAY(column.type)))
        rows += connection.execute(query.where(among)).all()
    return rows


def completion_ids(connection: Connection, task_ids: Sequence[int]) -> dict[int, list[int]]:
    """Completion ids of each task, in the order of the task."""
    columns = task_completions.c
    query = sa.select(columns.task_id, columns.completion_id).order_by(columns.task_id, columns.position)
    out: dict[int, list[int]] = {}
    for row in select_in(connection, query, columns.task_id, task_ids):
        out.setdefault(row.task_id, []).append(row.completion_id)
    return out
