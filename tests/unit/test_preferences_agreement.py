"""Agreement between labelers, against counts made by hand."""

from __future__ import annotations

import random
from itertools import combinations

from rlhf.data.records import Ranking
from rlhf.preferences import Agreement, pairwise_agreement


def test_two_labelers_agree_on_two_of_three_pairs() -> None:
    """ann: a < b < c; bob: a < c < b. They differ on (b, c) alone. The order of listing is no matter."""
    ann = Ranking("p", ("a", "b", "c"), (1, 2, 3), "ann")
    bob = Ranking("p", ("c", "a", "b"), (2, 1, 3), "bob")
    assert pairwise_agreement([ann, bob]) == Agreement(2 / 3, 3)


def test_ties_and_unranked_completions_are_no_pairs() -> None:
    ann = Ranking("p", ("a", "b", "c", "d"), (1, 1, 2, None), "ann")
    bob = Ranking("p", ("a", "b", "c", "d"), (1, 2, 3, 4), "bob")
    # (a, b) is tied by ann, everything with d is unranked by her: (a, c) and (b, c) remain, and they agree.
    assert pairwise_agreement([ann, bob]) == Agreement(1.0, 2)


def test_nothing_shared_is_undefined() -> None:
    ann = Ranking("p", ("a", "b"), (1, 2), "ann")
    for other in (
        Ranking("p", ("a", "b"), (2, 1), "ann"),  # herself
        Ranking("q", ("a", "b"), (2, 1), "bob"),  # another prompt
        Ranking("p", ("a", "x"), (2, 1), "bob"),  # another pair
        Ranking("p", ("a", "b"), (1, 1), "bob"),  # a tie
    ):
        assert pairwise_agreement([ann, other]) == Agreement(None, 0)
    assert pairwise_agreement([]) == Agreement(None, 0)


def test_anonymous_rankings_are_not_compared_with_each_other() -> None:
    mine, yours = Ranking("p", ("a", "b"), (1, 2)), Ranking("p", ("a", "b"), (2, 1))
    assert pairwise_agreement([mine, yours]) == Agreement(None, 0)
    assert pairwise_agreement([mine, yours, Ranking("p", ("a", "b"), (1, 2), "ann")]) == Agreement(0.5, 2)


def test_three_labelers_make_three_couples() -> None:
    """On one pair: a first, a first, b first. One couple of three agrees."""
    votes = [Ranking("p", ("a", "b"), ranks, name) for name, ranks in (("x", (1, 2)), ("y", (1, 2)), ("z", (2, 1)))]
    assert pairwise_agreement(votes) == Agreement(1 / 3, 3)


def test_it_is_the_plain_count_over_all_couples() -> None:
    """The definition spelled out, slowly, on random rankings with ties and gaps."""
    dice = random.Random(0)
    rankings = [
        Ranking(dice.choice("pq"), ("a", "b", "c"), tuple(dice.choice((1, 2, 3, None)) for _ in range(3)), labeler)
        for labeler in "vwxyz"
        for _ in range(6)
    ]
    agreed = pairs = 0
    for one, two in combinations(rankings, 2):
        if one.labeler != two.labeler and one.prompt == two.prompt:
            for i, j in combinations(range(3), 2):
                ranks = (one.ranks[i], one.ranks[j], two.ranks[i], two.ranks[j])
                if None not in ranks and ranks[0] != ranks[1] and ranks[2] != ranks[3]:
                    pairs += 1
                    agreed += (ranks[0] < ranks[1]) == (ranks[2] < ranks[3])
    assert pairs > 20
    assert pairwise_agreement(rankings) == Agreement(agreed / pairs, pairs)


def test_a_text_listed_twice_is_left_out() -> None:
    ann = Ranking("p", ("a", "a", "b"), (1, 3, 2), "ann")
    bob = Ranking("p", ("a", "b"), (1, 2), "bob")
    assert pairwise_agreement([ann, bob]) == Agreement(None, 0)
