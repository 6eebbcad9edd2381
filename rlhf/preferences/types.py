"""What goes into the label store and what comes out of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from rlhf.data.records import PromptLike
from rlhf.preferences.settings import ProjectSettings


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
class Project:
    """A project of a store."""

    name: str
    settings: ProjectSettings


@dataclass(frozen=True)
class Labeler:
    """A person who ranks. `role` is what it was when asked; the store looks it up again wherever it matters."""

    id: int
    name: str
    role: str = "labeler"


@dataclass(frozen=True)
class Person:
    """What a lead sees of a person. `last` is the time of their last judgment, seconds since 1970."""

    id: int
    name: str
    role: str
    email: str
    active: bool
    invited: bool
    judgments: int
    last: float | None
    imported: bool = False  # rankings of theirs came from a file: a name alone does not let them in


@dataclass(frozen=True)
class Event:
    """Something that was done: when (seconds since 1970), by whom ("" = a program), what, and to which ids."""

    at: float
    name: str
    action: str
    subject: Mapping[str, Any] = field(hash=False)


@dataclass(frozen=True)
class ShownCompletion:
    """A completion as a labeler may see it: no source, so that nobody ranks a name."""

    id: int
    text: str


@dataclass(frozen=True)
class Note:
    """What a labeler says of one completion by itself: a quality of 1 (bad) to 7 (excellent), flags, a comment."""

    quality: int | None = None
    flags: tuple[str, ...] = ()
    comment: str = ""


@dataclass(frozen=True)
class Said:
    """A judgment's content. `ranks` by completion id: 1 = best, equal = tie, None = not ranked; empty: skipped.

    `strength` (two completions only): how much better the better one is, 0 = the same to 3 = much better.
    """

    ranks: Mapping[int, int | None] = field(default_factory=dict, hash=False)
    strength: int | None = None
    notes: Mapping[int, Note] = field(default_factory=dict, hash=False)
    comment: str = ""
    better: str = ""


@dataclass(frozen=True)
class Assignment:
    """One task lent to one labeler; `completions` are in the order to show, drawn anew for every assignment."""

    id: int
    task_id: int
    labeler: Labeler
    prompt: PromptLike
    completions: tuple[ShownCompletion, ...]
    settings: ProjectSettings = field(default_factory=ProjectSettings)
    guidelines: str = ""
    guideline_version: int = 0
    revision: int = 1  # which revision a submit would write
    reopened: bool = False  # the labeler is correcting an earlier judgment: `before` holds it
    before: Said = Said()
    draft: Mapping[str, Any] = field(default_factory=dict, hash=False)  # what `save_draft` kept


class Outcome(StrEnum):
    """What became of a submit."""

    COUNTED = "counted"  # it is the labeler's judgment now
    REPEATED = "repeated"  # this submit_id was here before: nothing changed
    SURPLUS = "surplus"  # the lease had run out and others filled the task: kept in the store, left out of exports


@dataclass(frozen=True)
class Past:
    """A judgment that a labeler made, in its latest revision."""

    assignment_id: int
    prompt: PromptLike
    completions: tuple[ShownCompletion, ...]  # in the order shown
    said: Said
    skip_reason: str | None
    outcome: str  # counted, surplus or skipped
    revision: int
    at: float  # seconds since 1970


@dataclass(frozen=True)
class Guidelines:
    """A version of a project's instructions. Versions count from 1; `at` is seconds since 1970."""

    version: int
    text: str
    at: float


@dataclass(frozen=True)
class Progress:
    """How far one labeler is, in tasks. `seconds` is the median of their last rankings' active seconds."""

    ranked: int
    skipped: int
    remaining: int  # that this labeler could still be given; counted up to queue.MOST_COUNTED
    today: int = 0  # ranked in the last 24 hours
    seconds: float | None = None


@dataclass(frozen=True)
class GoldResult:
    """How one labeler did on gold tasks: of `pairs` that the known answer orders, `agreed` ordered alike."""

    labeler: str
    tasks: int
    pairs: int
    agreed: int

    @property
    def accuracy(self) -> float | None:
        """The share that agrees; None without pairs."""
        return self.agreed / self.pairs if self.pairs else None


@dataclass(frozen=True)
class Judged:
    """A judgment in its latest revision, as statistics read it; mappings are by completion id."""

    task_id: int
    batch: str
    labeler: str
    ranks: Mapping[int, int | None] = field(hash=False)  # 1 = best, equal = tie, None = not ranked; empty: skipped
    skip_reason: str | None = None  # None: not skipped
    shown: tuple[int, ...] = ()  # in the order on this person's screen; empty: imported
    seconds: float | None = None  # active ones
    at: float = 0.0  # when it was written, seconds since 1970
    flags: Mapping[int, tuple[str, ...]] = field(default_factory=dict, hash=False)
    strength: int | None = None
    surplus: bool = False  # came after the task was full: in no export
    excluded: bool = False  # its labeler is excluded from exports
    gold: Mapping[int, int | None] | None = field(default=None, hash=False)  # the known answer; None: ordinary task
    lengths: Mapping[int, int] = field(default_factory=dict, hash=False)  # characters of each completion of the task
    sources: Mapping[int, str] = field(default_factory=dict, hash=False)  # who wrote each completion; "": unknown
    revision: int = 1
    group: str = ""  # see records.Ranking.group


@dataclass(frozen=True)
class SourcedCompletion:
    """A completion with who wrote it, as leads may see it."""

    id: int
    text: str
    source: str


@dataclass(frozen=True)
class TaskView:
    """A task as leads and programs may see it."""

    id: int
    batch: str
    prompt: PromptLike
    completions: tuple[SourcedCompletion, ...]
    group: str
    priority: int
    overlap: int
    judged: int
    gold: bool


VerdictKind = Literal["ranking", "keep", "drop"]


@dataclass(frozen=True)
class Verdict:
    """What a reviewer decided about a task: a ranking that replaces everybody's in exports, keep all, or drop all."""

    task_id: int
    kind: VerdictKind
    ranks: Mapping[int, int | None] = field(hash=False)  # by completion id; empty unless `kind` is "ranking"
    comment: str
    by: str
    at: float  # seconds since 1970


@dataclass(frozen=True)
class Exclusion:
    """A labeler whose rankings the project's exports leave out, why, and who decided it ("" = a program)."""

    labeler: str
    reason: str
    by: str
    at: float  # seconds since 1970


@dataclass(frozen=True)
class Counts:
    """How much a store, or one batch of it, holds; gold tasks are left out."""

    tasks: int
    waiting: int  # tasks that still want a labeler
    rankings: int  # what `rankings()` returns
    skips: int
    judgments: int  # every row ever written, revisions and skips included
    labelers: int  # who wrote at least one
