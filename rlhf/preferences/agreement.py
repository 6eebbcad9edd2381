"""How often people agree: the ceiling that a reward model trained on their rankings can be measured against."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations

from rlhf.data.records import Ranking, prompt_key


@dataclass(frozen=True)
class Agreement:
    """`value` in [0, 1] over `pairs` comparisons; None where no two people judged the same pair."""

    value: float | None
    pairs: int


def pairwise_agreement(rankings: Iterable[Ranking]) -> Agreement:
    """The fraction of completion pairs that two labelers order alike.

    Two rankings are compared if they are of the same prompt and by different labelers, on every pair of texts that
    both rank and neither ties; the order in which the completions are listed does not matter. Anonymous rankings may
    be one person's, so they are compared with named ones only. A text that a ranking holds twice is left out of it.
    """
    votes: dict[tuple[str, str, str], Counter[tuple[str, bool]]] = defaultdict(Counter)
    for ranking in rankings:
        key, labeler = prompt_key(ranking.prompt), ranking.labeler or "anonymous"
        once = [t for t, n in Counter(ranking.completions).items() if n == 1]
        ranks = {t: r for t, r in zip(ranking.completions, ranking.ranks, strict=True) if r is not None and t in once}
        for a, b in combinations(sorted(ranks), 2):
            if ranks[a] != ranks[b]:
                votes[key, a, b][labeler, ranks[a] < ranks[b]] += 1
    agreed = pairs = 0
    for pair in votes.values():
        people = {labeler for labeler, _ in pair}
        firsts = _between(pair[p, True] for p in people)
        seconds = _between(pair[p, False] for p in people)
        agreed += firsts + seconds
        pairs += _between(pair[p, True] + pair[p, False] for p in people)
    return Agreement(agreed / pairs if pairs else None, pairs)


def _between(votes: Iterable[int]) -> int:
    """How many couples of votes are of different people, from each person's number of votes."""
    each = list(votes)
    return (sum(each) ** 2 - sum(n * n for n in each)) // 2
