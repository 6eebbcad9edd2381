"""Simulated labelers: they rank on a real store, for demonstrations, tests, and to see bad labelers being found.

A completion has a utility u: the truth's score of it, in units of the truth's spread within a prompt. A person who
reads feels u + noise·g with g from a standard Gumbel distribution, adds what biases them, and ranks by that. This is
the model of Plackett and Luce with weights exp(u / noise) (Yellott 1977), so that without bias

    P(a before b) = σ((u_a − u_b) / noise)

Every draw depends on the seed, the person's name and the task alone. Which task somebody gets, and the order on their
screen, is the store's choice as for everybody: gold tasks and shuffles differ from store to store.
"""

from __future__ import annotations

import hashlib
import math
import random
import statistics
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, islice
from typing import Literal

from rlhf.data.records import PromptLike, prompt_text
from rlhf.errors import ConfigError, StoreError
from rlhf.functions import Scorer, checked_scores
from rlhf.preferences.settings import ProjectSettings
from rlhf.preferences.store import LabelStore
from rlhf.preferences.types import Assignment, Labeler, Note, Outcome

PREFIX = "sim-"  # how the name begins of everybody who is simulated
MOST = 1000  # people of one kind
SPREAD_TASKS = 500  # the truth's spread is measured on so many of the tasks that wait
LARGEST = 1e100  # score of a truth, either way: the squares of larger ones are no floats
GLANCE, GLANCE_EACH = 1.0, 0.4  # seconds a task, and a completion, that somebody takes who does not read
OVERHEAD = 3.0  # seconds a task that reading people take beside the reading


@dataclass(frozen=True)
class Character:
    """How somebody ranks; utilities in units of the truth's spread."""

    noise: float = 0.35  # 0: exactly the truth; 1: a difference of one spread is seen right in 73 of 100 cases
    tie_width: float = 0.0  # felt differences below it are ties
    position_bias: float = 0.0  # bonus of what is shown first; it falls evenly to 0 for what is shown last
    length_bias: float = 0.0  # bonus for each doubling of a completion's length
    laziness: float = 0.0  # share of tasks that are not read
    unread: Literal["shuffled", "shown"] = "shuffled"  # what is not read is ranked by chance, or as it is shown
    inverted: bool = False  # takes 1 for the worst
    skips: float = 0.02  # share of tasks that are skipped
    remarks: float = 0.0  # share of tasks read on which quality and flags are given, if the project asks for them
    pace: float = 22.0  # characters read a second: about 240 words a minute (Brysbaert 2019)


KINDS: Mapping[str, Character] = {
    "careful": Character(tie_width=0.1, remarks=0.4),
    "noisy": Character(noise=1.2, remarks=0.1, pace=26.0),
    "hasty": Character(noise=0.6, laziness=0.25, skips=0.0, pace=40.0),
    "length": Character(noise=0.5, length_bias=1.0),
    "position": Character(noise=0.5, position_bias=6.0, skips=0.0),
    "lazy": Character(laziness=0.95, unread="shown", skips=0.0),
    "spammer": Character(laziness=1.0, skips=0.0),
    "inverted": Character(inverted=True, remarks=0.1),
}


@dataclass(frozen=True)
class SimulatedLabeler:
    """A person who is not one."""

    name: str
    kind: str
    character: Character


@dataclass(frozen=True)
class Seen:
    """A completion as a simulated person meets it: its utility, and its length in characters."""

    id: int
    utility: float
    length: int


@dataclass(frozen=True)
class Reply:
    """What somebody makes of a task: ranks by completion id; what they felt of each, empty if they did not read."""

    ranks: Mapping[int, int] = field(hash=False)
    seconds: float
    felt: Mapping[int, float] = field(default_factory=dict, hash=False)


@dataclass
class Worked:
    """What one simulated person did. Of `pairs` that the truth orders and they did not tie, `right` as it does."""

    name: str
    kind: str
    ranked: int = 0
    skipped: int = 0
    surplus: int = 0  # of the ranked: came after others had filled the task
    pairs: int = 0
    right: int = 0
    seconds: float = 0.0  # that the work would have taken


def make_crowd(kinds: Mapping[str, int]) -> list[SimulatedLabeler]:
    """So many people of each kind of `KINDS`, called sim-careful-1, sim-careful-2, …; ConfigError for what is none."""
    for kind, number in kinds.items():
        if kind not in KINDS:
            raise ConfigError(f"there is no kind {kind!r} of simulated labeler; there are: {', '.join(KINDS)}")
        if not 1 <= number <= MOST:
            raise ConfigError(f"{kind}: expected 1 to {MOST} people, found {number}")
    return [
        SimulatedLabeler(f"{PREFIX}{kind}-{i}", kind, KINDS[kind])
        for kind, number in kinds.items()
        for i in range(1, number + 1)
    ]


def by_hash(_prompts: list[str], completions: list[str]) -> list[float]:
    """A made-up truth that needs nothing: a number in [0, 1) from each completion's sha256. It means nothing."""
    return [int.from_bytes(hashlib.sha256(c.encode()).digest()[:6], "big") / 2**48 for c in completions]


def reply(character: Character, shown: Sequence[Seen], chance: random.Random, *, prompt_length: int = 0) -> Reply:
    """How somebody ranks completions in the order shown; `prompt_length` in characters."""
    if chance.random() < character.laziness:
        seconds = (GLANCE + GLANCE_EACH * len(shown)) * chance.lognormvariate(0.0, 0.35)
        order = [c.id for c in shown]
        if character.unread == "shuffled":
            order.sort()  # so that the draw does not depend on the order shown
            chance.shuffle(order)
        return Reply({c: rank for rank, c in enumerate(order, start=1)}, seconds)
    gumbel = {c: -math.log(chance.expovariate(1.0) or 1e-300) for c in sorted(c.id for c in shown)}
    usual = statistics.fmean(math.log2(max(c.length, 1)) for c in shown)
    felt = {}
    for place, c in enumerate(shown):
        higher = (len(shown) - 1 - place) / max(len(shown) - 1, 1)
        longer = math.log2(max(c.length, 1)) - usual
        truly = -c.utility if character.inverted else c.utility
        felt[c.id] = (
            truly + character.noise * gumbel[c.id] + character.position_bias * higher + character.length_bias * longer
        )
    read = prompt_length + sum(c.length for c in shown)
    seconds = (OVERHEAD + read / character.pace) * chance.lognormvariate(0.0, 0.35)
    return Reply(_ranked(felt, character.tie_width), seconds, felt)


def _ranked(felt: Mapping[int, float], tie_width: float) -> dict[int, int]:
    """Ranks from what was felt: whatever lies less than `tie_width` below the first of a tie belongs to the tie."""
    ranks: dict[int, int] = {}
    first, rank = math.inf, 0
    for place, c in enumerate(sorted(felt, key=lambda c: -felt[c]), start=1):
        if place == 1 or not first - felt[c] < tie_width:
            first, rank = felt[c], place
        ranks[c] = rank
    return ranks


class Truth:
    """The truth's scores as utilities: minus their mean, over their spread within a prompt."""

    def __init__(self, function: Scorer, tasks: Iterable[tuple[PromptLike, Sequence[str]]], name: str = "") -> None:
        """`tasks`: where mean and spread are measured. ConfigError for a truth that fails or orders none of them."""
        self._function, self._where = function, f"truth {name!r}" if name else "truth"
        self._mean, self._spread = 0.0, 1.0
        scores = [self(prompt, texts) for prompt, texts in tasks]
        spread = math.sqrt(statistics.fmean(statistics.pvariance(s) for s in scores))
        if not spread > 0:
            raise ConfigError(
                f"{self._where}: scores all completions of a task alike in each of {len(scores)} tasks, "
                "so nobody could rank by it; give another"
            )
        self._mean, self._spread = statistics.fmean(x for s in scores for x in s), spread

    def __call__(self, prompt: PromptLike, texts: Sequence[str]) -> list[float]:
        scores = checked_scores(self._function, [prompt_text(prompt)] * len(texts), list(texts), self._where)
        for score, text in zip(scores, texts, strict=True):
            if abs(score) > LARGEST:
                raise ConfigError(
                    f"{self._where} returned {score} for the completion {text[:80]!r}; "
                    f"expected a number from -{LARGEST:g} to {LARGEST:g}, so scale its scores down"
                )
        return [(score - self._mean) / self._spread for score in scores]


def simulate(
    store: LabelStore,
    crowd: Sequence[SimulatedLabeler],
    *,
    truth: Scorer = by_hash,
    name: str = "",
    each: int | None = None,
    seed: int = 0,
    watch: Callable[[Worked], None] | None = None,
) -> list[Worked]:
    """Let the crowd work on the store's project, in turns, until nothing is left for anybody or everybody had `each`.

    They claim, submit and skip as people do, so leases, overlap and gold count; when they did is the database's clock,
    while `active_seconds` says what it would have taken. `name`: the truth's, for messages. `watch` is called after
    every task. Raises StoreError if nothing waits, or a real person has one of the names.
    """
    _check_names(store, crowd)
    waiting = [(t.prompt, [c.text for c in t.completions]) for t in islice(store.waiting(), SPREAD_TASKS)]
    if not waiting:
        raise StoreError(f"{store.name}: nothing waits to be ranked in project {store.project!r}; queue tasks first")
    known = Truth(truth, waiting, name)
    turns, done = random.Random(seed), [Worked(one.name, one.kind) for one in crowd]
    busy = [(one, store.labeler(one.name), work) for one, work in zip(crowd, done, strict=True)]
    while busy:
        turns.shuffle(busy)
        going = []
        for one, labeler, work in busy:
            if _do_next(store, one, labeler, known, seed, work):
                if watch is not None:
                    watch(work)
                if each is None or work.ranked + work.skipped < each:
                    going.append((one, labeler, work))
        busy = going
    return done


def _check_names(store: LabelStore, crowd: Sequence[SimulatedLabeler]) -> None:
    mine = {one.name for one in crowd}
    for person in store.people():
        if person.name in mine and (person.invited or person.email or person.imported or person.role != "labeler"):
            raise StoreError(
                f"{store.name}: {person.name!r} was invited or imported here, so nobody is simulated under that name"
            )


def _do_next(store: LabelStore, one: SimulatedLabeler, labeler: Labeler, truth: Truth, seed: int, work: Worked) -> bool:
    """One task of one person; False if nothing is left for them."""
    task = store.claim(labeler)
    if task is None:
        return False
    chance = random.Random(f"{seed}:{one.name}:{task.task_id}")
    key = uuid.uuid4().hex
    if chance.random() < one.character.skips:
        reason = chance.choice(task.settings.skip_reasons)
        seconds = OVERHEAD + len(prompt_text(task.prompt)) / one.character.pace
        store.skip(task, reason, submit_id=key, active_seconds=round(seconds, 1))
        work.skipped, work.seconds = work.skipped + 1, work.seconds + seconds
        return True
    utilities = truth(task.prompt, [c.text for c in task.completions])
    seen = [Seen(c.id, u, len(c.text)) for c, u in zip(task.completions, utilities, strict=True)]
    said = reply(one.character, seen, chance, prompt_length=len(prompt_text(task.prompt)))
    outcome = store.submit(
        task,
        said.ranks,
        submit_id=key,
        strength=_strength(said, task, chance),
        notes=_notes(one.character, said, task.settings, chance),
        active_seconds=round(said.seconds, 1),
    )
    work.ranked, work.seconds = work.ranked + 1, work.seconds + said.seconds
    work.surplus += outcome is Outcome.SURPLUS
    for a, b in combinations(seen, 2):
        if a.utility != b.utility and said.ranks[a.id] != said.ranks[b.id]:
            work.pairs += 1
            work.right += (a.utility > b.utility) == (said.ranks[a.id] < said.ranks[b.id])
    return True


def _strength(said: Reply, task: Assignment, chance: random.Random) -> int | None:
    """How much better the better of two is, where the project asks: from the felt difference, unread by chance."""
    if not task.settings.strength or len(said.ranks) != 2:
        return None
    if len(set(said.ranks.values())) == 1:
        return 0
    if not said.felt:
        return chance.randint(1, 3)
    first, second = said.felt.values()
    return 1 + (abs(first - second) > 0.75) + (abs(first - second) > 1.5)


def _notes(character: Character, said: Reply, settings: ProjectSettings, chance: random.Random) -> dict[int, Note]:
    """Now and then a quality for each completion, and a flag on the last one if it is bad."""
    if not said.felt or chance.random() >= character.remarks:
        return {}
    last = min(said.felt, key=lambda c: said.felt[c])
    notes = {}
    for c, felt in said.felt.items():
        quality = min(max(round(4 + 1.5 * felt), 1), 7) if settings.quality else None
        bad = c == last and felt < -1 and bool(settings.flags)
        notes[c] = Note(quality, (chance.choice(settings.flags),) if bad else ())
    return notes
