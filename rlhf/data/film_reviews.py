"""`builtin:film-reviews`: short film reviews, each rated by 15 to 29 people from -4 (negative) to 4 (positive).

What the ratings measure is positivity, not quality: say "more positive", never "better".

A list position is one person only inside a block of 30 consecutive ids, so there is no rater to name across blocks.
Every ranking here compares snippets of different blocks by one list position and is signed by a *pseudo-labeler*
named after that position. Nothing about a person may be concluded from that name.

Who sees what (all choices are sha256 of a salted text, so they are the same on every machine):
  train / eval   by the snippet's first word, lower-cased: no prompt, and no opening word, is on both sides;
  half A / B     by the snippet's text: rankings for judge "reward" use A, those for judge "gold" use B;
  positions      judge "reward" learns from even list positions, judge "gold" from odd ones, and each is evaluated on
                 the other's: snippets and ratings of an evaluation are both unseen.
"""

from __future__ import annotations

import hashlib
import json
import math
import tarfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Literal, TypeVar, get_args

from rlhf.data.cache import PinnedPackage, build_once, cache_dir, fetch_package
from rlhf.data.records import Demonstration, Prompt, Ranking
from rlhf.errors import DataError, RLHFError

NAME = "builtin:film-reviews"
PACKAGE = PinnedPackage(
    name="vaderSentiment",
    version="3.3.2",
    filename="vaderSentiment-3.3.2.tar.gz",
    sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
)
NOTICE = (
    "Film-review snippets and their ratings come from the source archive of vaderSentiment 3.3.2 (Hutto and Gilbert, "
    "ICWSM 2014). That package is under the MIT licence, which cannot cover the reviews: their writers hold the "
    "rights. They are fetched at run time, kept in the local cache, and are no part of this project."
)
PROMPT_TEMPLATE = "Write one sentence of a film review that begins with: {opening}\n"
VERSION = 1  # of everything below: raise it when a record, a split or an order changes

T = TypeVar("T")
Split = Literal["train", "eval"]
Judge = Literal["reward", "gold"]

EVAL_FRACTION = 0.2
# The split is by word and words are very uneven ("the" opens 13 % of the snippets, "a" 11 %), so most salts give a
# lopsided eval side. Of the salts tried in order (… 0, … 1, …) this is the first that gives 18 to 22 % of the
# snippets, no word above a fifth of them, "the" and "a" (the bulk of training) in train, and a mean rating within
# 0.05 of train's. No model was run to choose it.
SPLIT_SALT = "film-reviews split 38"
MIN_WORDS_AFTER_OPENING = 3
K = 4
BLOCK = 30  # consecutive ids rated by the same people
POSITIONS = 15  # every snippet has at least so many ratings
ROUNDS = 3  # a snippet is in at most one training ranking a round
EVAL_SNIPPETS, EVAL_PAIRS = 900, 3000
MAX_GROUP, MAX_USES = 60, 12  # in eval pairs: snippets an opening, pairs a snippet


@dataclass(frozen=True)
class Snippet:
    """One text with its individual ratings, in the file's order of raters; runs of blanks are single spaces."""

    id: int
    text: str
    ratings: tuple[int, ...]

    @property
    def block(self) -> int:
        return (self.id - 1) // BLOCK

    @property
    def group(self) -> str:
        return self.text.split(" ", 1)[0].lower()

    @property
    def split(self) -> Split:
        return "eval" if _fraction(SPLIT_SALT, self.group) < EVAL_FRACTION else "train"

    @property
    def half(self) -> Literal["A", "B"]:
        return "A" if _fraction("half", self.text.lower()) < 0.5 else "B"

    def opening(self, words: int) -> str:
        return " ".join(self.text.split(" ")[:words])

    @property
    def chosen_opening(self) -> str:
        """The one or two words that this snippet's own prompt gives away; one word if two leave too little to write."""
        words = 1 if _fraction("opening", self.text) < 0.5 else 2
        enough = len(self.text.split(" ")) >= words + MIN_WORDS_AFTER_OPENING
        return self.opening(words if enough else 1)


def demonstrations(split: Split) -> list[Demonstration]:
    """Each snippet as the completion of a prompt that names its opening; the completion begins with that opening."""
    chosen = _by_hash(_of(snippets(), split), lambda s: s.text, "demonstrations")
    return [Demonstration(prompt_for(s.chosen_opening), s.text, s.group) for s in chosen]


def prompts(split: Split) -> list[Prompt]:
    """The distinct prompts of the split's demonstrations, in an order shuffled by hash."""
    openings = {s.chosen_opening: s.group for s in _of(snippets(), split)}
    return [Prompt(prompt_for(o), openings[o]) for o in _by_hash(openings, str, "prompts")]


def rankings(split: Split, judge: Judge = "reward") -> list[Ranking]:
    """Training rankings of K = 4 (train), or pairs that are each rated twice (eval); see the two functions below."""
    if judge not in get_args(Judge):
        raise DataError(f"{NAME}: unknown judge {judge!r}; expected one of {', '.join(get_args(Judge))}")
    chosen = _of(snippets(), split)
    return training_rankings(chosen, judge) if split == "train" else evaluation_pairs(chosen, judge)


def training_rankings(pool: Sequence[Snippet], judge: Judge) -> list[Ranking]:
    """Rankings of K snippets that share their opening words, by the ratings at one list position; ties stay ties.

    Three rounds, each using a snippet at most once: rounds 0 and 2 draw from snippets with the same first word, round
    1 from those with the same first two words where at least K have them, else by the first word. A draw that has two
    snippets of one block is left out. The result is shuffled by hash, so any first n are a fair sample of all.
    """
    half, parity = ("A", 0) if judge == "reward" else ("B", 1)
    mine = [s for s in pool if s.half == half]
    found: dict[tuple[int, ...], Ranking] = {}
    for number in range(ROUNDS):
        for opening, members in sorted(_groups(mine, two_words=number % 2 == 1).items()):
            order = _by_hash(members, lambda s: s.text, f"{judge} round {number}")
            for four in zip(*[iter(order)] * K, strict=False):
                if len({s.block for s in four}) == K:
                    key = "|".join(str(s.id) for s in four)
                    position = _pick(range(parity, POSITIONS, 2), f"{judge} position", key)
                    found.setdefault(tuple(sorted(s.id for s in four)), _ranking(opening, four, position))
    return _by_hash(found.values(), lambda r: "|".join(r.completions), f"{judge} rankings")


def evaluation_pairs(pool: Sequence[Snippet], judge: Judge) -> list[Ranking]:
    """Pairs of held-out snippets with one prompt, from blocks apart, two records a pair, one after the other.

    The first record ranks the pair by one list position held out from the judge, and is never a tie; the second ranks
    the same two completions by another such position, and may be one. Accuracy is measured on the first records (or on
    all untied ones); how often the two records of a pair agree, ties left out, is the agreement of two ratings.
    A snippet has one prompt only and is in at most `MAX_USES` pairs, so that few texts need scoring; pairs are
    therefore not independent, and an interval should resample snippets or openings. `meta["rating"]` is 1 or 2.
    """
    held_out = range(1, POSITIONS, 2) if judge == "reward" else range(0, POSITIONS, 2)
    candidates = []
    for opening, members in _evaluation_groups(pool).items():
        for a, b in combinations(members, 2):
            if a.block != b.block:
                candidates.append((opening, *((a, b) if _fraction("first", a.text, b.text) < 0.5 else (b, a))))
    uses: dict[int, int] = defaultdict(int)
    result = []
    for opening, a, b in _by_hash(candidates, lambda c: f"{c[1].id}|{c[2].id}", f"{judge} pairs"):
        key = f"{min(a.id, b.id)}|{max(a.id, b.id)}"
        first = _pick(held_out, "first rating", key)
        if a.ratings[first] == b.ratings[first] or max(uses[a.id], uses[b.id]) >= MAX_USES:
            continue
        second = _pick([p for p in held_out if p != first], "second rating", key)
        uses[a.id] += 1
        uses[b.id] += 1
        result += [_ranking(opening, (a, b), p, rating=n) for n, p in enumerate((first, second), start=1)]
        if len(result) == 2 * EVAL_PAIRS:
            break
    return result


def prompt_for(opening: str) -> str:
    """The prompt text; its last newline separates it from the completion."""
    return PROMPT_TEMPLATE.format(opening=opening)


def vader_compound(prompts: list[str], completions: list[str]) -> list[float]:
    """VADER's rule-based compound score of each completion, from -1 to 1: a judge that no model was trained on."""
    if len(prompts) != len(completions):
        raise DataError(f"vader_compound: {len(prompts)} prompts but {len(completions)} completions; expected one each")
    analyzer = _analyzer()
    return [analyzer(text) for text in completions]


@cache
def _analyzer() -> Callable[[str], float]:
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError as error:
        raise RLHFError("the judge vader_compound needs vaderSentiment: run `pip install vaderSentiment`") from error
    analyzer = SentimentIntensityAnalyzer()
    return lambda text: float(analyzer.polarity_scores(text)["compound"])


@cache
def snippets() -> tuple[Snippet, ...]:
    """The usable snippets of the file, by id; the first call may download the package (2.5 MB)."""
    folder = build_once(cache_dir() / "data" / f"film-reviews-{PACKAGE.sha256[:12]}", _extract)
    texts = (folder / TEXTS).read_text(encoding="utf-8")
    ratings = (folder / RATINGS).read_text(encoding="utf-8")
    return tuple(usable(parse_snippets(texts, ratings)))


TEXTS = "movieReviewSnippets_GroundTruth.txt"
RATINGS = "movieReviewSnippets_anonDataRatings.txt"


def parse_snippets(texts: str, ratings: str) -> list[Snippet]:
    """The package's two tables joined by id: `id, mean, text` and `id, mean, deviation, [ratings]`, tab separated."""
    rated: dict[int, tuple[int, ...]] = {}
    for number, line in _lines(ratings):
        where = f"{RATINGS}, line {number}"
        cells = _cells(line, 4, where)
        values = json.loads(cells[3])
        if len(values) < POSITIONS or not all(isinstance(v, int) and -4 <= v <= 4 for v in values):
            raise DataError(f"{where}: expected at least {POSITIONS} ratings from -4 to 4, found {cells[3]}")
        rated[int(cells[0])] = tuple(values)
    result = []
    for number, line in _lines(texts):
        cells = _cells(line, 3, f"{TEXTS}, line {number}")
        snippet = Snippet(int(cells[0]), " ".join(cells[2].split()), rated.get(int(cells[0]), ()))
        mean = sum(snippet.ratings) / max(1, len(snippet.ratings))
        if not snippet.ratings or not math.isclose(float(cells[1]), mean, abs_tol=1e-6):
            raise DataError(f"{TEXTS}, line {number}: mean {cells[1]}, but its ratings give {mean:.6f}; file damaged")
        result.append(snippet)
    return result


def usable(parsed: Iterable[Snippet]) -> list[Snippet]:
    """Leave out what cannot be asked for by its opening: fewer than four words, a first word that does not begin with
    a letter or digit ("...", "(Drumline"), and a second copy of a text (683 of 10,605 in all)."""
    seen: dict[str, Snippet] = {}
    for s in parsed:
        if s.text[:1].isalnum() and len(s.text.split(" ")) >= 1 + MIN_WORDS_AFTER_OPENING:
            seen.setdefault(s.text.lower(), s)
    return list(seen.values())


def _extract(staging: Path) -> None:
    """Take the two tables out of the archive inside the package's source archive."""
    inside = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
    try:
        with tarfile.open(fetch_package(PACKAGE)) as outer, tarfile.open(fileobj=outer.extractfile(inside)) as inner:
            for name in (TEXTS, RATINGS):
                member = inner.getmember(f"hutto_ICWSM_2014/{name}")
                inner.extract(member.replace(name=name, mode=0o644, deep=False), staging, filter="data")
    except (KeyError, tarfile.TarError) as error:
        raise DataError(f"{PACKAGE.filename}: does not hold the film ratings as expected ({error})") from error
    (staging / "NOTICE.txt").write_text(NOTICE + "\n", encoding="utf-8")


def _of(pool: Iterable[Snippet], split: Split) -> list[Snippet]:
    if split not in get_args(Split):
        raise DataError(f"{NAME}: unknown split {split!r}; expected one of {', '.join(get_args(Split))}")
    return [s for s in pool if s.split == split]


def _groups(pool: Iterable[Snippet], *, two_words: bool) -> dict[str, list[Snippet]]:
    """Snippets by their exact opening: two words where at least K share them and it is asked for, else one."""
    by_two, by_one = defaultdict(list), defaultdict(list)
    for s in pool:
        by_two[s.opening(2)].append(s)
    for members in by_two.values():
        for s in members if not (two_words and len(members) >= K) else ():
            by_one[s.opening(1)].append(s)
    shared = {o: m for o, m in by_two.items() if two_words and len(m) >= K}
    return shared | {o: m for o, m in by_one.items() if len(m) >= K}


def _evaluation_groups(pool: Iterable[Snippet]) -> dict[str, list[Snippet]]:
    """At most `EVAL_SNIPPETS` snippets, grouped by their own prompt's opening; at most `MAX_GROUP` an opening."""
    by_opening = defaultdict(list)
    for s in pool:
        by_opening[s.chosen_opening].append(s)
    result: dict[str, list[Snippet]] = {}
    left = EVAL_SNIPPETS
    for opening in _by_hash([o for o, m in by_opening.items() if len(m) > 1], str, "eval openings"):
        members = _by_hash(by_opening[opening], lambda s: s.text, "eval members")[: min(MAX_GROUP, left)]
        if len(members) > 1:
            result[opening] = members
            left -= len(members)
    return result


def _ranking(opening: str, chosen: Sequence[Snippet], position: int, rating: int = 1) -> Ranking:
    given = [s.ratings[position] for s in chosen]
    return Ranking(
        prompt=prompt_for(opening),
        completions=tuple(s.text for s in chosen),
        ranks=tuple(1 + sum(other > mine for other in given) for mine in given),
        labeler=f"film-ratings position {position:02d} (pseudo-labeler)",
        group=chosen[0].group,
        meta={"source": NAME, "position": position, "rating": rating, "snippets": [s.id for s in chosen]},
    )


def _lines(text: str) -> list[tuple[int, str]]:
    return [(n, line) for n, line in enumerate(text.split("\n"), start=1) if line.strip()]


def _cells(line: str, count: int, where: str) -> list[str]:
    cells = line.rstrip("\r").split("\t")
    if len(cells) != count:
        raise DataError(f"{where}: expected {count} cells separated by tabs, found {len(cells)}; the file is damaged")
    return cells


def _digest(*parts: str) -> int:
    return int.from_bytes(hashlib.sha256("|".join(parts).encode()).digest()[:8], "big")


def _fraction(*parts: str) -> float:
    """A number from 0 to 1 that depends on the text alone."""
    return _digest(*parts) / 2**64


def _pick(options: Sequence[T], *parts: str) -> T:
    return options[_digest(*parts) % len(options)]


def _by_hash(items: Iterable[T], key: Callable[[T], str], salt: str) -> list[T]:
    """An order that looks random and is the same everywhere."""
    return sorted(items, key=lambda item: _digest(salt, key(item)))
