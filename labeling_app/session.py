"""What a labeler has in hand between two clicks, without Streamlit: drafts, orders in words, time at work."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rlhf.preferences import Assignment, Note, Progress, Said
from rlhf.preferences.judging import BEST, WORST
from rlhf.preferences.queue import MOST_COUNTED
from rlhf.preferences.settings import ProjectSettings

IDLE_SECONDS = 60.0  # a longer gap between two clicks is a break, and counts as this much work
MIDDLE = 4  # of the seven points of strength: about the same


def standard_ranks(choices: Mapping[int, int]) -> dict[int, int]:
    """The order that the choices express as standard competition ranks: 1 = best, equal = tie, 1 + how many are better.

    So 1, 2, 2, 3 and 2, 5, 5, 9 both become 1, 2, 2, 4: the numbers say an order and nothing else.
    """
    return {key: 1 + sum(other < value for other in choices.values()) for key, value in choices.items()}


def in_words(shown: Sequence[int], choices: Mapping[int, int | None]) -> str:
    """The order so far, best first, by the cards' numbers: `2 first, then 1 and 4 (tied), then 3`."""
    places: dict[int, list[str]] = {}
    for position, completion in enumerate(shown):
        place = choices.get(completion)
        if place is not None:
            places.setdefault(place, []).append(str(position + 1))
    if len(places) == 1 and sum(map(len, places.values())) == len(shown):
        return f"{listed(next(iter(places.values())))} are all tied"
    steps = [listed(places[value]) + (" (tied)" if len(places[value]) > 1 else "") for value in sorted(places)]
    return ", then ".join([f"{steps[0]} first", *steps[1:]]) if steps else ""


def listed(names: Sequence[str]) -> str:
    """`1`, `1 and 2`, `1, 2 and 3`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def ordinal(place: int) -> str:
    """`1st`, `2nd`, `3rd`, `4th`; for places up to 20."""
    return f"{place}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(place, 'th') }"


def counted(number: int, noun: str) -> str:
    """`1 ranking`, `2 rankings`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


@dataclass
class ActiveClock:
    """Seconds at work: the gaps between signs of life, each counted up to IDLE_SECONDS."""

    last: float
    seconds: float = 0.0

    def tick(self, now: float) -> float:
        """Note a sign of life at `now` (seconds on any clock that never runs backwards); return the sum so far."""
        self.seconds += min(max(now - self.last, 0.0), IDLE_SECONDS)
        self.last = now
        return self.seconds


class _Kept(BaseModel):
    model_config = ConfigDict(strict=True)


class _KeptNote(_Kept):
    quality: Annotated[int, Field(ge=WORST, le=BEST)] | None
    flags: list[str]
    comment: str


Id = Annotated[str, Field(pattern=r"^[0-9]{1,18}$")]  # JSON has text for keys


class _KeptDraft(_Kept):
    """What `Draft.body` gives."""

    revision: int
    choices: dict[Id, Annotated[int, Field(ge=1)]]
    point: Annotated[int, Field(ge=1, le=7)] | None
    notes: dict[Id, _KeptNote]
    comment: str
    better: str
    submit_id: Annotated[str, Field(min_length=8, max_length=100)]
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass
class Draft:
    """One labeler's unfinished judgment of one assignment. Its `submit_id` makes a double click count once."""

    shown: tuple[int, ...]  # completion ids, in the order on screen
    clock: ActiveClock
    revision: int = 1  # which one it would write
    choices: dict[int, int] = field(default_factory=dict)  # by completion id: the place chosen on its card
    point: int | None = None  # of two: 1 = the first is much better, 4 = about the same, 7 = the second
    notes: dict[int, Note] = field(default_factory=dict)
    comment: str = ""
    better: str = ""
    submit_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    @classmethod
    def of(cls, assignment: Assignment, now: float) -> Draft:
        """The draft that the store kept; else what a reopened judgment said before; else an empty one."""
        shown = tuple(c.id for c in assignment.completions)
        draft = cls(shown, ActiveClock(now), assignment.revision)
        kept = _kept(assignment.draft)
        if kept is not None and kept.revision == assignment.revision:  # else of a tab that still shows an earlier one
            draft._take(kept)
        else:
            before = assignment.before
            draft.choices = {c: rank for c, rank in before.ranks.items() if rank is not None}
            draft.notes, draft.comment, draft.better = dict(before.notes), before.comment, before.better
            if before.strength is not None:
                first, second = (draft.choices[c] for c in shown)
                draft.point = MIDDLE + (-before.strength if first < second else before.strength)
        return draft

    def body(self) -> dict[str, Any]:
        """As the store keeps it."""
        notes = {
            str(c): {"quality": n.quality, "flags": list(n.flags), "comment": n.comment} for c, n in self.notes.items()
        }
        return {
            "revision": self.revision,
            "choices": {str(c): place for c, place in self.choices.items()},
            "point": self.point,
            "notes": notes,
            "comment": self.comment,
            "better": self.better,
            "submit_id": self.submit_id,
            "seconds": self.clock.seconds,
        }

    def _take(self, kept: _KeptDraft) -> None:
        places = len(self.shown)
        choices = {int(c): place for c, place in kept.choices.items() if place <= places}
        notes = {int(c): Note(n.quality, tuple(n.flags), n.comment) for c, n in kept.notes.items()}
        self.choices = {c: place for c, place in choices.items() if c in self.shown}
        self.notes = {c: note for c, note in notes.items() if c in self.shown}
        self.point, self.comment, self.better = kept.point, kept.comment, kept.better
        self.submit_id, self.clock.seconds = kept.submit_id, kept.seconds

    def choose(self, completion: int, place: int | None) -> None:
        """Give a card a place; None takes it back."""
        if place is None:
            self.choices.pop(completion, None)
        else:
            self.choices[completion] = place

    def note(self, completion: int, **change: Any) -> None:
        """Change what is said of one completion: quality, flags, comment."""
        old = self.notes.get(completion, Note())
        self.notes[completion] = Note(**{**vars(old), **change})

    def missing(self) -> list[str]:
        """Numbers of the cards that have no place yet."""
        return [str(i + 1) for i, completion in enumerate(self.shown) if completion not in self.choices]

    def complete(self, allow_partial: bool, strength: bool) -> bool:
        """Whether it can be submitted."""
        if strength:
            return self.point is not None
        return not self.missing() or (allow_partial and len(self.choices) >= 2)

    def said(self, strength: bool, settings: ProjectSettings | None = None) -> Said:
        """The judgment to submit; given settings, without what the project does not ask for (any more)."""
        if strength and self.point is not None:
            first, second = self.shown
            ranks: dict[int, int | None] = {first: 1 + (self.point > MIDDLE), second: 1 + (self.point < MIDDLE)}
            power = abs(self.point - MIDDLE)
        else:
            placed = standard_ranks(self.choices)
            ranks, power = {c: placed.get(c) for c in self.shown}, None
        notes = {c: _fitting(note, settings) for c, note in self.notes.items()}
        better = self.better.strip() if settings is None or settings.better_answer else ""
        return Said(ranks, power, {c: n for c, n in notes.items() if n != Note()}, self.comment.strip(), better)

    def words(self) -> str:
        """The order so far, in words."""
        return in_words(self.shown, self.choices)


def _kept(body: Mapping[str, Any]) -> _KeptDraft | None:
    """A draft as the store has it; None for one of another shape, which some other program or version left there."""
    try:
        return _KeptDraft.model_validate(dict(body))
    except ValidationError:
        return None


def _fitting(note: Note, settings: ProjectSettings | None) -> Note:
    if settings is None:
        return note
    flags = tuple(flag for flag in note.flags if flag in settings.flags)
    return Note(note.quality if settings.quality else None, flags, note.comment.strip())


def share(done: int, remaining: int) -> float:
    """How much of the work is done, in [0, 1]; nothing to do counts as nothing done."""
    return done / (done + remaining) if done + remaining else 0.0


def progress_words(progress: Progress) -> str:
    """`12 rankings done, 4 of them in the last day · 38 tasks to go · about 40 s each`."""
    done = f"{counted(progress.ranked, 'ranking')} done"
    if 0 < progress.today < progress.ranked:
        done += f", {progress.today} of them in the last day"
    more = "+" if progress.remaining >= MOST_COUNTED else ""
    parts = [done, f"{progress.remaining}{more} {'task' if progress.remaining == 1 else 'tasks'} to go"]
    if progress.seconds is not None:
        parts.append(f"about {max(round(progress.seconds), 1)} s each")
    return " · ".join(parts)
