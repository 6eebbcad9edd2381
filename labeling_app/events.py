"""What the ranking sheet sends, checked: a browser may send anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from rlhf.errors import StoreError
from rlhf.preferences import Note
from rlhf.preferences.judging import BEST, MUCH, WORST
from rlhf.preferences.settings import MOST_COMPLETIONS

# A completion's position on screen, from 0: its number in the store would say who wrote it. JSON has text for keys.
Position = Annotated[str, Field(pattern=r"^[0-8]$")]
UNREADABLE = "the page sent something that cannot be read; reload it and try again"
Rank = Annotated[int, Field(ge=1, le=MOST_COMPLETIONS)]


class _Event(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _OfTask(_Event):
    task: Annotated[str, Field(pattern=r"^[0-9]{1,18}-[0-9]{1,9}$")]

    @property
    def assignment_id(self) -> int:
        """The assignment that it is about."""
        return int(self.task.partition("-")[0])

    @property
    def revision(self) -> int:
        """The revision that it would write."""
        return int(self.task.partition("-")[2])


class _Sent(_OfTask):
    submit_id: Annotated[str, Field(min_length=8, max_length=100)]
    guidelines: Annotated[int, Field(ge=0, le=10**9)]  # the version on screen, 0 for none
    active_seconds: Annotated[float, Field(ge=0, le=1e7)] | None = None


class SheetNote(_Event):
    """What was said of one completion."""

    quality: Annotated[int, Field(ge=WORST, le=BEST)] | None = None
    flags: Annotated[list[Annotated[str, Field(max_length=80)]], Field(max_length=9)] = []
    comment: str = ""

    def said(self) -> Note:
        """As the store has it, each flag once."""
        return Note(self.quality, tuple(dict.fromkeys(self.flags)), self.comment.strip())


class Submit(_Sent):
    """A ranking."""

    do: Literal["submit"]
    ranks: Annotated[dict[Position, Rank | None], Field(max_length=MOST_COMPLETIONS)]
    strength: Annotated[int, Field(ge=0, le=MUCH)] | None = None
    notes: Annotated[dict[Position, SheetNote], Field(max_length=MOST_COMPLETIONS)] = {}
    comment: str = ""
    better: str = ""

    def said(self, shown: Sequence[int]) -> dict[str, Any]:
        """As `LabelStore.submit` takes it, for the completions shown; StoreError if it is not of these."""
        places = {str(i): completion for i, completion in enumerate(shown)}
        if self.ranks.keys() != places.keys() or self.notes.keys() - places.keys():
            raise StoreError(UNREADABLE)
        return {
            "ranks": {places[i]: rank for i, rank in self.ranks.items()},
            "strength": self.strength,
            "notes": {places[i]: note.said() for i, note in self.notes.items()},
            "comment": self.comment.strip(),
            "better": self.better.strip(),
            "submit_id": self.submit_id,
            "active_seconds": self.active_seconds,
        }


class Skip(_Sent):
    """Not this one."""

    do: Literal["skip"]
    reason: Annotated[str, Field(min_length=1)]


class Reopen(_Event):
    """Back to the last one."""

    do: Literal["reopen"]


class Leave(_OfTask):
    """The earlier judgment stays as it was."""

    do: Literal["leave"]


class Alive(_OfTask):
    """Somebody is at work on it."""

    do: Literal["alive"]


Event = Submit | Skip | Reopen | Leave | Alive
_events: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="do")])


def parse_event(raw: Mapping[str, Any]) -> Event:
    """The event; StoreError, in words for a labeler, if it is none that the sheet would send."""
    try:
        return _events.validate_python(dict(raw))
    except (ValidationError, TypeError, ValueError):
        raise StoreError(UNREADABLE) from None
