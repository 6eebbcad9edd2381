"""What goes into the label store and what comes out of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from rlhf.data.records import PromptLike


@dataclass(frozen=True)
class NewTask:
    """A prompt with two or more different completions for people to rank; `sources[i]` says who wrote completion i."""

    prompt: PromptLike
    completions: tuple[str, ...]
    sources: tuple[str, ...] = ()
    group: str = ""
    priority: int = 0  # higher is handed out earlier


@dataclass(frozen=True)
class ImportReport:
    """What an import did: `read` = `added` + `repeated`; `revisions` of the added replaced an earlier ranking."""

    read: int
    added: int
    repeated: int
    revisions: int


@dataclass(frozen=True)
class Labeler:
    """A person who ranks."""

    id: int
    name: str


@dataclass(frozen=True)
class ShownCompletion:
    """A completion as a labeler may see it: no source, so that nobody ranks a name."""

    id: int
    text: str


@dataclass(frozen=True)
class Assignment:
    """One task lent to one labeler; `completions` are in the order to show, drawn anew for every assignment."""

    id: int
    task_id: int
    labeler: Labeler
    prompt: PromptLike
    completions: tuple[ShownCompletion, ...]
    guidelines: str = ""
    guideline_version: int = 0
    reopened: bool = False  # the labeler is correcting an earlier judgment: `ranks` and `comment` hold it
    ranks: Mapping[int, int | None] = field(default_factory=dict, hash=False)
    comment: str = ""


class Outcome(StrEnum):
    """What became of a submit."""

    COUNTED = "counted"  # it is the labeler's judgment now
    REPEATED = "repeated"  # this submit_id was here before: nothing changed
    SURPLUS = "surplus"  # the lease had run out and others filled the task: kept in the store, left out of exports


@dataclass(frozen=True)
class Progress:
    """How far one labeler is, in tasks."""

    ranked: int
    skipped: int
    remaining: int  # that this labeler could still be given


@dataclass(frozen=True)
class Counts:
    """How much a store, or one batch of it, holds."""

    tasks: int
    waiting: int  # tasks that still want a labeler
    rankings: int  # what `rankings()` returns
    skips: int
    judgments: int  # every row ever written, revisions and skips included
    labelers: int  # who wrote at least one
