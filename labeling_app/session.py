"""What a labeler has in hand between two clicks, without Streamlit: drafts, orders in words, time at work."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from rlhf.preferences import Assignment

LOOPBACK = ("127.0.0.1", "localhost", "::1")  # addresses that only this machine reaches
IDLE_SECONDS = 60.0  # a longer gap between two clicks is a break, and counts as this much work
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def letter(position: int) -> str:
    """What the card at this position on screen is called: A, B, … Z, then AA, AB, …"""
    if position < len(LETTERS):
        return LETTERS[position]
    return letter(position // len(LETTERS) - 1) + LETTERS[position % len(LETTERS)]


def standard_ranks(choices: Mapping[int, int]) -> dict[int, int]:
    """The order that the choices express as standard competition ranks: 1 = best, equal = tie, 1 + how many are better.

    So 1, 2, 2, 3 and 2, 5, 5, 9 both become 1, 2, 2, 4: the numbers say an order and nothing else.
    """
    return {key: 1 + sum(other < value for other in choices.values()) for key, value in choices.items()}


def in_words(shown: Sequence[int], choices: Mapping[int, int]) -> str:
    """The order so far, best first, by the cards' letters: `B first, then A and D (tied), then C`."""
    places: dict[int, list[str]] = {}
    for position, completion in enumerate(shown):
        if completion in choices:
            places.setdefault(choices[completion], []).append(letter(position))
    if len(places) == 1 and len(choices) == len(shown):
        return f"{listed(next(iter(places.values())))} are all tied"
    steps = [listed(places[value]) + (" (tied)" if len(places[value]) > 1 else "") for value in sorted(places)]
    return ", then ".join([f"{steps[0]} first", *steps[1:]]) if steps else ""


def listed(names: Sequence[str]) -> str:
    """`A`, `A and B`, `A, B and C`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


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


@dataclass
class Draft:
    """One labeler's unfinished judgment of one assignment. Its `submit_id` makes a double click count once."""

    shown: tuple[int, ...]  # completion ids, in the order on screen
    clock: ActiveClock
    choices: dict[int, int] = field(default_factory=dict)  # by completion id: the number chosen on its card
    comment: str = ""
    submit_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    @classmethod
    def of(cls, assignment: Assignment, now: float) -> Draft:
        """A fresh draft; for a reopened judgment it starts with what was said before."""
        before = {c: rank for c, rank in assignment.before.ranks.items() if rank is not None}
        return cls(tuple(c.id for c in assignment.completions), ActiveClock(now), before, assignment.before.comment)

    def choose(self, completion: int, number: int | None) -> None:
        """Give a card a number; None takes it back."""
        if number is None:
            self.choices.pop(completion, None)
        else:
            self.choices[completion] = number

    def missing(self) -> list[str]:
        """Letters of the cards that have no number yet."""
        return [letter(i) for i, completion in enumerate(self.shown) if completion not in self.choices]

    def ranks(self) -> dict[int, int]:
        """The ranking to submit; every card must have a number."""
        assert not self.missing(), "the button is off until every card has a number"
        return standard_ranks(self.choices)

    def words(self) -> str:
        """The order so far, in words."""
        return in_words(self.shown, self.choices)


def is_loopback(address: object) -> bool:
    """Whether a server bound to this address is reachable from this machine only."""
    return isinstance(address, str) and address in LOOPBACK


def share(done: int, remaining: int) -> float:
    """How much of the work is done, in [0, 1]; nothing to do counts as nothing done."""
    return done / (done + remaining) if done + remaining else 0.0


def keep_only(drafts: dict[str, Draft], keys: Iterable[str]) -> None:
    """Drop the drafts of tasks that are over."""
    for key in set(drafts) - set(keys):
        del drafts[key]
