"""Rankings from elsewhere into the store, part by part, in memory that does not grow with their number.

Every ranking is found again by the sha256 of its content: as the `submit_id` of its judgment, which has an index. So a
part is compared with what the batch holds without reading the batch, and an import that was cut off goes on.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf.data.records import Ranking, ranking_row
from rlhf.preferences import exports, intake
from rlhf.preferences.intake import ANONYMOUS, Task, select_in, sha
from rlhf.preferences.people import ERASED
from rlhf.preferences.schema import judgments, now, prompts, tasks
from rlhf.preferences.types import ImportReport

ROOM = 64 * 1024  # KiB of pages that SQLite may hold during a part: keys are hashes, which lie all over its indexes
SPOOLED = 2**22  # bytes of an iterator's rankings that are kept in memory; more go to a temporary file


class Spooled(intake.Checked):
    """Rankings of an iterator, which gives each once: checked, and kept beside to be walked again."""

    whole = True

    def __init__(self, rankings: Iterable[Ranking]) -> None:
        self._file = tempfile.SpooledTemporaryFile(SPOOLED)  # noqa: SIM115  # lives as long as this
        for r in intake.checked_rankings(rankings):
            row = [r.prompt, r.completions, r.ranks, r.labeler, r.created_at, r.group, dict(r.meta)]
            self._file.write(json.dumps(row).encode() + b"\n")

    def __iter__(self) -> Iterator[Ranking]:
        self._file.seek(0)
        for line in self._file:
            prompt, completions, ranks, *rest = json.loads(line)
            kept = prompt if isinstance(prompt, str) else tuple(prompt)
            yield Ranking(kept, tuple(completions), tuple(ranks), *rest)


def walkable(rankings: Iterable[Ranking]) -> intake.Checked:
    """The rankings as something that checks them and can be walked again."""
    if isinstance(rankings, intake.Checked):
        return rankings
    return Spooled(rankings) if isinstance(rankings, Iterator) else intake.Given(rankings)


def content(ranking: Ranking) -> str:
    """Equal for equal rankings, meta included."""
    return sha(ranking_row(intake.named(ranking)))


def fresh(connection: Connection, project_id: int, rankings: Sequence[Ranking], batch: str) -> dict[str, Ranking]:
    """Those that the batch does not hold yet, by submit_id."""
    said = [content(ranking) for ranking in rankings]
    found = {"import:" + sha(project_id, batch, what): i for i, what in reversed(list(enumerate(said)))}
    for known in select_in(connection, sa.select(judgments.c.submit_id), judgments.c.submit_id, list(found)):
        found.pop(known.submit_id)
    left = dict(sorted(found.items(), key=lambda item: item[1]))
    exported = [rankings[i] for i in left.values() if _may_be_ours(rankings[i])]
    held = _held(connection, project_id, exported, batch) if exported else set()
    return {submit_id: rankings[i] for submit_id, i in left.items() if said[i] not in held}


def _may_be_ours(ranking: Ranking) -> bool:
    """Whether it could be an export of a judgment that has another submit_id than its import would have.

    Those made in the app say how they were shown, a reviewer's say that they are, and the erased have another name.
    """
    return "shown" in ranking.meta or "adjudicated" in ranking.meta or ranking.labeler.startswith(ERASED)


def _held(connection: Connection, project_id: int, rankings: Sequence[Ranking], batch: str) -> set[str]:
    """The contents of what the batch says of these rankings' prompts, as exports give them."""
    shas = list({intake.prompt_sha(ranking.prompt) for ranking in rankings})
    prompt_ids = [row.id for row in select_in(connection, sa.select(prompts.c.id), prompts.c.sha, shas)]
    mine = exports.scope(project_id, batch)
    ids = [row.id for row in select_in(connection, sa.select(tasks.c.id).where(mine), tasks.c.prompt_id, prompt_ids)]
    held: set[str] = set()
    for start in range(0, len(ids), intake.CHUNK):
        some = mine & tasks.c.id.in_(ids[start : start + intake.CHUNK])
        held.update(map(content, exports.every_ranking(connection, some)))
        held.update(map(content, exports.rankings(connection, project_id, some)))
    return held


@contextmanager
def room(connection: Connection) -> Iterator[None]:
    """Let SQLite hold the pages of a part until its commit; else it would write and read them again and again."""
    if connection.dialect.name != "sqlite":
        yield
        return
    before = connection.exec_driver_sql("PRAGMA cache_size").scalar()
    connection.exec_driver_sql(f"PRAGMA cache_size=-{ROOM}")
    try:
        yield
    finally:  # the connection goes back to its pool, and there may be many
        connection.exec_driver_sql(f"PRAGMA cache_size={before}")


def write(connection: Connection, project_id: int, rankings: Sequence[Ranking], batch: str) -> ImportReport:
    """Write checked rankings as judgments; those that the batch holds are left.

    A named labeler's second ranking of the same completions is a revision of the first. Anonymous rankings come from
    anyone, so each different one stands by itself.
    """
    with room(connection):
        return _written(connection, project_id, rankings, batch)


def _written(connection: Connection, project_id: int, rankings: Sequence[Ranking], batch: str) -> ImportReport:
    new = fresh(connection, project_id, rankings, batch)
    placed = {submit_id: _task(ranking) for submit_id, ranking in new.items()}
    task_ids = intake.write_tasks(connection, project_id, {t.key: t for t in placed.values()}.values(), batch)
    people = intake.write_labelers(connection, {r.labeler for r in new.values()})
    latest = _latest_revisions(connection, list(task_ids.values()), set(people.values()))
    order = intake.completion_ids(connection, list(task_ids.values()))
    rows: list[dict[str, Any]] = []
    revisions = 0
    for submit_id, ranking in new.items():
        task_id, labeler_id = task_ids[placed[submit_id].key], people[ranking.labeler]
        latest[task_id, labeler_id] += 1
        revisions += latest[task_id, labeler_id] > 1
        rows.append(
            {
                "task_id": task_id,
                "labeler_id": labeler_id,
                "revision": latest[task_id, labeler_id],
                "submit_id": submit_id,
                "ranks": {str(c): rank for c, rank in zip(order[task_id], ranking.ranks, strict=True)},
                "surplus": False,
                "comment": "",
                "stated_at": ranking.created_at,
                "meta": dict(ranking.meta),
            }
        )
    if rows:
        connection.execute(sa.insert(judgments).values(created_at=now(connection.dialect.name)), rows)
    return ImportReport(len(rankings), len(rows), len(rankings) - len(rows), revisions)


def _task(ranking: Ranking) -> Task:
    whose = content(ranking) if ranking.labeler == ANONYMOUS else ""
    key = sha("import", intake.prompt_sha(ranking.prompt), ranking.completions, ranking.group, whose)
    blank = ("",) * len(ranking.completions)
    return Task(key, ranking.prompt, ranking.completions, blank, ranking.group, overlap=0)


def _latest_revisions(
    connection: Connection, task_ids: Sequence[int], labeler_ids: set[int]
) -> Counter[tuple[int, int]]:
    query = sa.select(judgments.c.task_id, judgments.c.labeler_id, judgments.c.revision)
    query = query.where(judgments.c.labeler_id.in_(labeler_ids))
    latest: Counter[tuple[int, int]] = Counter()
    for row in select_in(connection, query, judgments.c.task_id, task_ids):
        latest[row.task_id, row.labeler_id] = max(latest[row.task_id, row.labeler_id], row.revision)
    return latest
