"""What events are about, in words: the audit record as people read it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from rlhf.preferences import access, intake
from rlhf.preferences.people import People
from rlhf.preferences.schema import assignments, projects
from rlhf.preferences.types import Event, Labeler


class Names(NamedTuple):
    """What numbers in events stand for."""

    people: Mapping[int, str]
    projects: Mapping[int, str]
    tasks: Mapping[int, int]  # by assignment
    prompts: Mapping[int, str] = {}  # beginnings, by task, of those that shall be shown


def look_up(store: People, events: Sequence[Event], *, by: Labeler | None = None) -> Names:
    """The names of whatever these events are about, of all projects; no prompts. For admins."""
    ids = sorted({event.subject["assignment"] for event in events if "assignment" in event.subject})
    of_assignment: dict[int, int] = {}
    with store._reading() as connection:
        access.allow(connection, by, "admin")
        of_project = dict(connection.execute(sa.select(projects.c.id, projects.c.name)).tuples().all())
        for start in range(0, len(ids), intake.CHUNK):
            some = assignments.c.id.in_(ids[start : start + intake.CHUNK])
            found = connection.execute(sa.select(assignments.c.id, assignments.c.task_id).where(some))
            of_assignment |= dict(found.tuples().all())
    return Names({person.id: person.name for person in store.people(by=by)}, of_project, of_assignment)


def task_of(event: Event, names: Names) -> int | None:
    """The task that an event is about, if it is about one."""
    return names.tasks.get(event.subject.get("assignment", 0)) or event.subject.get("task")


def about(event: Event, names: Names) -> str:
    """Whom and what an event is about. Names are quoted, so that none can imitate the words around it; a number stays
    one where nothing has it any more."""
    return "; ".join(_part(key, value, names) for key, value in event.subject.items())


def _part(key: str, value: Any, names: Names) -> str:
    if key == "labeler":
        return _quoted(names.people[value]) if value in names.people else f"person {value}"
    if key == "project":
        return f"project {_quoted(names.projects[value]) if value in names.projects else value}"
    if key == "assignment":
        task = names.tasks.get(value)
        return f"assignment {value}" if task is None else f"{_task(task, names)} (assignment {value})"
    if key == "task":
        return _task(value, names)
    if key == "replace":
        return "others are asked instead" if value else "nobody is asked instead"
    if isinstance(value, list):
        return f"{key} {', '.join(map(str, value)) or 'none'}"
    return f"{key} {value}"


def _task(task: int, names: Names) -> str:
    return f"task {task}: {_quoted(names.prompts[task])}" if task in names.prompts else f"task {task}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
