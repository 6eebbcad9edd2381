"""A label store with a million open tasks, and how long it takes to find the next one; see labeling_load.py.

The store is filled by bulk statements that write the rows which intake and labelers would have written: afterwards
the store itself must find that these tasks are there already, and a sample of what it serves must be whole.
"""

from __future__ import annotations

import itertools
import json
import random
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from rlhf.preferences import LabelStore, NewTask, intake, queue
from rlhf.preferences.handle import project_settings
from rlhf.preferences.schema import assignments, completions, judgments, labelers, prompts, task_completions, tasks

K, OVERLAP, POOL, PROMPTS = 4, 2, 8, 5000  # each task shows K of its prompt's POOL completions, in an order of its own
PEOPLE = 10
BATCH = "load"
CHUNK = 20_000  # rows a statement
DAY = 86400.0
ORDERS = list(itertools.permutations(range(POOL), K))
REPEATED, AHEAD, LONE = "everybody", "ahead", "newcomer"


@dataclass(frozen=True)
class Shape:
    """How many tasks are in which state; ids rise from the front of the queue to its end."""

    open: int = 1_000_000
    done: int = 250_000  # beside the open ones: a fifth of all
    skipped: int = 3_000  # at the very front: each of the ten people skipped these, so all of them pass over them
    ahead: int = 100_000  # then: judged by one person alone, who is far ahead, and waiting for a second one
    each: int = 5_000  # then: as many again for each of the ten, in turns

    @classmethod
    def of(cls, count: int) -> Shape:
        """The same shares of another number of open tasks."""
        part = count / cls.open
        return cls(count, *(int(n * part) for n in (cls.done, cls.skipped, cls.ahead, cls.each)))

    @property
    def all(self) -> int:
        return self.open + self.done


# ---- filling ---------------------------------------------------------------------------------------------------------


def new_task(number: int) -> NewTask:
    """What somebody would have sent in as task `number`, from 0."""
    prompt, order = number % PROMPTS, ORDERS[number // PROMPTS]
    return NewTask(f"Prompt {prompt}: what shall we read?", tuple(completion(prompt, i) for i in order))


def completion(prompt: int, i: int) -> str:
    """About a hundred words, formatted as a model's answers are."""
    said = "It speaks of a book, at some length and to no end, and names the chapter that I would begin with. "
    points = "".join(f"- **Chapter {n}**: {said}\n" for n in range(1, 4))
    return f"Answer {i} to prompt {prompt}. {said}\n\n{points}\nThen run `read --from {i}` and see."


def fill(store: LabelStore, shape: Shape) -> None:
    """Write all rows, refresh the database's statistics, and let the store check some of them."""
    if shape.all > PROMPTS * len(ORDERS):
        raise ValueError(f"tasks: {shape.all} are more than the {PROMPTS * len(ORDERS)} different ones there are")
    store.configure({"overlap": OVERLAP})
    with store._filling() as connection:
        people = intake.write_labelers(connection, [f"person {i}" for i in range(PEOPLE)] + [AHEAD, LONE])
        first = [people[f"person {i}"] for i in range(PEOPLE)]
        _insert(connection, prompts, ("id", "sha", "body"), _prompts())
        _insert(connection, completions, ("id", "sha", "prompt_id", "text", "source"), _completions())
        columns = ("id", "project_id", "batch", "key", "prompt_id", "split_group", "overlap", "judged", "priority")
        rows = _tasks(shape, store._project_id)
        _insert(connection, tasks, (*columns, "shuffle", "gold", "created_at"), rows)
        _insert(connection, task_completions, ("task_id", "position", "completion_id"), _task_completions(shape))
        columns = ("task_id", "labeler_id", "state", "reopened", "shown", "leased_until")
        rows = _assignments(shape, first, people[AHEAD])
        columns, rows = (*columns, "project_id"), ((*row, store._project_id) for row in rows)
        _insert(connection, assignments, columns, rows)
        columns = ("task_id", "labeler_id", "revision", "submit_id", "ranks", "skip_reason", "surplus", "comment")
        columns = (*columns, "active_seconds", "guideline_version", "shown", "stated_at", "meta", "created_at")
        _insert(connection, judgments, columns, _judgments(shape, first, people[AHEAD]))
        if connection.dialect.name == "postgresql":  # ids were given, so its counters still stand at 1
            for table in ("prompts", "completions", "tasks"):
                counter = f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), (SELECT max(id) FROM {table}))"
                connection.exec_driver_sql(counter)
    if store._engine.dialect.name == "postgresql":
        with store._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM ANALYZE")  # as autovacuum would have by then
    again = [new_task(n) for n in random.Random(0).sample(range(shape.all), 50)]
    if store.add_tasks(again, batch=BATCH) != 0:
        raise RuntimeError(
            "the store does not know the tasks that were filled in; labeling_queue.py must follow intake"
        )


def _insert(
    connection: sa.Connection, table: sa.Table, columns: Sequence[str], rows: Iterable[tuple[Any, ...]]
) -> None:
    """Many rows past SQLAlchemy, which would take minutes: executemany, or COPY where there is one."""
    raw: Any = connection.connection.driver_connection
    names = ", ".join(f'"{name}"' for name in columns)
    if connection.dialect.name == "postgresql":
        with raw.cursor().copy(f"COPY {table.name} ({names}) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
        return
    places = ", ".join("?" for _ in columns)
    for chunk in _chunks(rows):
        raw.executemany(f"INSERT INTO {table.name} ({names}) VALUES ({places})", chunk)


def _chunks(rows: Iterable[tuple[Any, ...]]) -> Iterator[list[tuple[Any, ...]]]:
    source = iter(rows)
    while chunk := list(itertools.islice(source, CHUNK)):
        yield chunk


def _prompts() -> Iterator[tuple[Any, ...]]:
    for n in range(PROMPTS):
        body = new_task(n).prompt
        yield n + 1, intake.sha(body), json.dumps(body)


def _completions() -> Iterator[tuple[Any, ...]]:
    for n in range(PROMPTS):
        key = intake.sha(new_task(n).prompt)
        for i in range(POOL):
            text = completion(n, i)
            yield n * POOL + i + 1, intake.sha(key, text, "", 0), n + 1, text, ""


def _tasks(shape: Shape, project_id: int) -> Iterator[tuple[Any, ...]]:
    clock = time.time()
    half = shape.skipped + shape.ahead + PEOPLE * shape.each
    shas = [intake.sha(new_task(n).prompt) for n in range(PROMPTS)]
    for n in range(shape.all):
        key = intake.sha("task", shas[n % PROMPTS], new_task(n).completions, ("",) * K, "")
        place = n - shape.done
        judged = OVERLAP if place < 0 else int(shape.skipped <= place < half)
        shuffle = int(key[:8], 16) >> 1
        yield (
            n + 1, project_id, BATCH, key, n % PROMPTS + 1, "", OVERLAP, judged, 0, shuffle, None,
            clock - 60 * DAY,
        )  # fmt: skip


def _ids(number: int) -> list[int]:
    """The ids of a task's completions, in the task's order."""
    return [number % PROMPTS * POOL + i + 1 for i in ORDERS[number // PROMPTS]]


def _task_completions(shape: Shape) -> Iterator[tuple[Any, ...]]:
    for n in range(shape.all):
        for position, completion_id in enumerate(_ids(n)):
            yield n + 1, position, completion_id


def _who(shape: Shape, people: Sequence[int], ahead: int) -> Iterator[tuple[int, int, bool]]:
    """Task number, labeler and whether they skipped it, for everything that was said so far, in time's order."""
    for n in range(shape.done):
        for turn in range(OVERLAP):
            yield n, people[(n + turn * (1 + n // PEOPLE % (PEOPLE - 1))) % PEOPLE], False
    for n in range(shape.done, shape.done + shape.skipped):
        for person in (*people, ahead):
            yield n, person, True
    start = shape.done + shape.skipped
    for n in range(start, start + shape.ahead):
        yield n, ahead, False
    for n in range(start + shape.ahead, start + shape.ahead + PEOPLE * shape.each):
        yield n, people[n % PEOPLE], False


def _assignments(shape: Shape, people: Sequence[int], ahead: int) -> Iterator[tuple[Any, ...]]:
    clock = time.time() - DAY
    for n, person, skipped in _who(shape, people, ahead):
        yield n + 1, person, "skipped" if skipped else "done", False, json.dumps(_ids(n)), clock


def _judgments(shape: Shape, people: Sequence[int], ahead: int) -> Iterator[tuple[Any, ...]]:
    said = shape.done * OVERLAP + shape.skipped * (PEOPLE + 1) + shape.ahead + PEOPLE * shape.each
    began = time.time() - 60 * DAY
    for i, (n, person, skipped) in enumerate(_who(shape, people, ahead)):
        at = began + i / said * 60 * DAY
        ids = _ids(n)
        ranks = None if skipped else json.dumps({str(c): rank for rank, c in enumerate(ids, 1)})
        yield (
            n + 1, person, 1, f"load-{i}", ranks, "" if skipped else None, False, "", 20.0, 0, json.dumps(ids),
            time.strftime("%Y-%m-%dT%H:%M:%S.000+00:00", time.gmtime(at)), "{}", at,
        )  # fmt: skip


# ---- measuring -------------------------------------------------------------------------------------------------------


@dataclass
class Times:
    """Milliseconds of one kind of work."""

    ms: list[float]

    @property
    def p50(self) -> float:
        return statistics.median(self.ms)

    @property
    def p95(self) -> float:
        return percentile(self.ms, 0.95)

    def row(self) -> dict[str, float]:
        """For JSON."""
        return {"p50_ms": self.p50, "p95_ms": self.p95, "max_ms": max(self.ms), "n": len(self.ms)}


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of them does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-int(share * 1000 * len(ordered)) // 1000) - 1))]


WORK = ("next task", "claim", "progress", "submit")


def measure(store: LabelStore, rounds: int) -> dict[str, dict[str, Times]]:
    """Claims of ten people in turns, of the one far ahead and of a new one, in both orders; times by kind of work."""
    with store._reading() as connection:
        rows = connection.execute(sa.select(labelers.c.id, labelers.c.name)).all()
    ids = {row.name: row.id for row in rows}
    team = [f"person {i}" for i in range(PEOPLE)]
    found: dict[str, dict[str, Times]] = {}
    for order in ("priority", "random"):
        store.configure({"order": order})
        for case, names in (("team of ten", team), ("far ahead", [AHEAD]), ("newcomer", [LONE])):
            count = rounds if len(names) > 1 else max(20, rounds // 3)
            found[f"{order}, {case}"] = _claims(store, [ids[n] for n in names], names, count)
    return found


def _claims(store: LabelStore, ids: Sequence[int], names: Sequence[str], count: int) -> dict[str, Times]:
    from rlhf.preferences import Labeler

    people = [Labeler(i, name) for i, name in zip(ids, names, strict=True)]
    times: dict[str, Times] = {work: Times([]) for work in WORK}
    warm = 2 * len(people)
    for i in range(-warm, count):
        person = people[i % len(people)]
        one = _one(store, person, f"{names[0]}-{time.time_ns()}")
        if i >= 0:
            for work, ms in one.items():
                times[work].ms.append(ms)
    return times


def _one(store: LabelStore, person: Any, submit_id: str) -> dict[str, float]:
    """Milliseconds of one task's work; the query alone runs in a transaction that writes nothing."""
    with store._writing() as connection:
        settings = project_settings(connection, store._project_id)
        marks = [time.perf_counter()]
        queue._next_task(connection, store._project_id, person, settings)
        marks.append(time.perf_counter())
    query = marks[1] - marks[0]
    marks = [time.perf_counter()]
    task = store.claim(person)
    marks.append(time.perf_counter())
    store.progress(person)
    marks.append(time.perf_counter())
    if task is None or len(task.completions) != K:
        raise RuntimeError(f"{person.name} was given {task}: the store was not filled as it should be")
    store.submit(task, {c.id: rank for rank, c in enumerate(task.completions, 1)}, submit_id=submit_id)
    marks.append(time.perf_counter())
    spans = [query, *(b - a for a, b in itertools.pairwise(marks))]
    return {work: 1000 * span for work, span in zip(WORK, spans, strict=True)}
