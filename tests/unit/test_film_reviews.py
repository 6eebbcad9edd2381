"""The film ratings: how records are made of snippets (hand-written here), and what the real file gives."""

from __future__ import annotations

import inspect
from collections import Counter, defaultdict

import pytest

from rlhf.data import film_reviews as film
from rlhf.data import sources
from rlhf.data.records import Ranking, parse_ranking, ranking_row
from rlhf.data.splits import check_no_leak
from rlhf.errors import DataError, RLHFError

RATED = "[3, 1, 2, -4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]"


def test_parses_the_two_tables() -> None:
    texts = "7\t0.13333333333\tA  film that\u00a0 dares.\r\n\r\n"
    parsed = film.parse_snippets(texts, f"7\t0.1333\t1.5\t{RATED}\r\n")
    assert parsed == [film.Snippet(7, "A film that dares.", (3, 1, 2, -4, *[0] * 11))]


@pytest.mark.parametrize(
    ("texts", "ratings", "message"),
    [
        ("7\t0.13333333333\n", f"7\t0\t0\t{RATED}", "GroundTruth.txt, line 1: expected 3 cells"),
        ("7\t0.9\tA film\n", f"7\t0\t0\t{RATED}", "mean 0.9, but its ratings give 0.133333"),
        ("7\t0.9\tA film\n", "7\t0\t0\t[1, 2]", "at least 15 ratings"),
        ("7\t0.9\tA film\n", "7\t0\t0\t[" + "5, " * 14 + "5]", "ratings from -4 to 4"),
        ("8\t0.0\tA film\n", f"7\t0\t0\t{RATED}", "file damaged"),
    ],
)
def test_a_damaged_table_is_refused(texts: str, ratings: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        film.parse_snippets(texts, ratings)


def snippet(number: int, text: str, ratings: dict[int, int] | None = None) -> film.Snippet:
    values = [0] * 15
    for position, value in (ratings or {}).items():
        values[position] = value
    return film.Snippet(number, text, tuple(values))


def test_what_cannot_be_asked_for_is_left_out() -> None:
    texts = ["Too short here", "...what a film this", "(It is) a film worth", "One of the best", "one of The Best"]
    kept = film.usable(snippet(i, t) for i, t in enumerate(texts, 1))
    assert [s.text for s in kept] == ["One of the best"]


def test_blocks_are_thirty_consecutive_ids() -> None:
    assert [snippet(i, "a b c d").block for i in (1, 30, 31, 60, 61)] == [0, 0, 1, 1, 2]


def test_the_opening_leaves_three_words() -> None:
    assert {snippet(1, f"Film{i} is so good").chosen_opening for i in range(20)} == {f"Film{i}" for i in range(20)}
    longer = [snippet(1, f"Film{i} is so very good").chosen_opening.split() for i in range(50)]
    assert {len(words) for words in longer} == {1, 2}


def test_ranks_are_competition_ranks_of_one_position() -> None:
    values = (2, -1, 2, 3)
    four = [snippet(i * 30 + 1, f"The film number {i}", {4: v}) for i, v in enumerate(values)]
    made = film._ranking("The", four, 4)
    assert made.ranks == (2, 4, 2, 1)
    assert made.prompt == "Write one sentence of a film review that begins with: The\n"
    assert made.labeler == "film-ratings position 04 (pseudo-labeler)" and made.group == "the"


def test_vader_is_an_outside_judge() -> None:
    pytest.importorskip("vaderSentiment")
    texts = ["A haunting and moving love story.", "Dull and awful.", "The film is ninety minutes long."]
    good, bad, neutral = film.vader_compound([""] * 3, texts)
    assert good > 0.3 > neutral > -0.3 > bad
    with pytest.raises(DataError, match="1 prompts but 2 completions"):
        film.vader_compound(["p"], ["a", "b"])


def test_vader_missing_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    film._analyzer.cache_clear()
    monkeypatch.setitem(sys.modules, "vaderSentiment.vaderSentiment", None)
    with pytest.raises(RLHFError, match="pip install vaderSentiment"):
        film.vader_compound(["p"], ["c"])


def test_unknown_split_or_judge() -> None:
    with pytest.raises(DataError, match="unknown judge 'silver'; expected one of reward, gold"):
        film.rankings("train", "silver")  # type: ignore[arg-type]
    assert list(inspect.signature(film.vader_compound).parameters) == ["prompts", "completions"]


@pytest.fixture(scope="module")
def fetched() -> None:
    try:
        film.snippets()
    except DataError as error:
        pytest.skip(f"the film ratings are not here and cannot be fetched: {error}")


real = [pytest.mark.network, pytest.mark.usefixtures("fetched")]


class TestRealFile:
    pytestmark = real

    def test_counts(self) -> None:
        assert len(film.snippets()) == 9922
        assert [len(film.demonstrations(s)) for s in ("train", "eval")] == [7996, 1926]
        assert [len(film.prompts(s)) for s in ("train", "eval")] == [3931, 972]
        with pytest.raises(DataError, match="unknown split 'test'"):
            film.prompts("test")  # type: ignore[arg-type]

    def test_a_completion_begins_with_what_its_prompt_asks_for(self) -> None:
        for row in film.demonstrations("train") + film.demonstrations("eval"):
            before, _, opening = row.prompt.rstrip("\n").partition(": ")
            assert before == "Write one sentence of a film review that begins with"
            assert row.completion.startswith(opening + " ") and row.group == opening.split(" ")[0].lower()

    def test_nothing_leaks_between_the_splits(self) -> None:
        sides = []
        for split in ("train", "eval"):
            sides.append([*film.demonstrations(split), *film.prompts(split)])
            sides[-1] += film.rankings(split, "reward") + film.rankings(split, "gold")
        check_no_leak(*sides)
        texts = [{c for r in side if isinstance(r, Ranking) for c in r.completions} for side in sides]
        assert not texts[0] & texts[1]

    def test_training_rankings(self) -> None:
        reward, gold = film.rankings("train", "reward"), film.rankings("train", "gold")
        assert (len(reward), len(gold)) == (1902, 1885)
        assert {r.meta["position"] % 2 for r in reward} == {0} and {r.meta["position"] % 2 for r in gold} == {1}
        shared = {i for r in reward for i in r.meta["snippets"]} & {i for r in gold for i in r.meta["snippets"]}
        assert not shared
        for rankings in (reward, gold):
            assert all(len({(i - 1) // 30 for i in r.meta["snippets"]}) == 4 for r in rankings)
            assert max(Counter(i for r in rankings for i in r.meta["snippets"]).values()) <= 3
            assert len({(r.labeler, r.prompt, frozenset(r.completions)) for r in rankings}) == len(rankings)
            assert all(len(set(r.completions)) == len(r.completions) for r in rankings)
            pairs = [len(r.pairs()) for r in rankings]
            assert pairs.count(0) <= 20 and sum(pairs) > 9000
            assert len({r.prompt for r in rankings[:200]}) > 40
        assert parse_ranking(ranking_row(reward[0]), "row") == reward[0]

    @pytest.mark.parametrize(("judge", "parity"), [("reward", 1), ("gold", 0)])
    def test_evaluation_pairs(self, judge: film.Judge, parity: int) -> None:
        rankings = film.rankings("eval", judge)
        pairs = defaultdict(list)
        for r in rankings:
            pairs[r.prompt, r.completions].append(r)
            assert r.meta["position"] % 2 == parity
        assert len(pairs) == 3000 and all(len(two) == 2 for two in pairs.values())
        assert all([r.meta["rating"] for r in two] == [1, 2] for two in pairs.values())
        assert all(len({r.labeler for r in two}) == 2 and two[0].pairs() for two in pairs.values())
        scored = {(r.prompt, c) for r in rankings for c in r.completions}
        assert len(scored) == len({c for _, c in scored}) <= 900
        assert all(len({(i - 1) // 30 for i in r.meta["snippets"]}) == 2 for r in rankings)
        assert 0.45 < sum(two[0].ranks == (1, 2) for two in pairs.values()) / 3000 < 0.55
        both = [two for two in pairs.values() if two[1].pairs()]
        assert len(both) > 2500
        assert 0.84 < sum(a.ranks == b.ranks for a, b in both) / len(both) < 0.89

    def test_by_name(self) -> None:
        name = "builtin:film-reviews"
        assert len(sources.load_demonstrations(name)) == 9922 and len(sources.load_prompts(name)) == 4903
        assert sources.load_rankings(f"{name}:gold", "train") == film.rankings("train", "gold")
        assert sources.load_rankings(name) == film.rankings("train", "reward")
        assert sources.load_rankings(name, "eval", judge="gold") == film.rankings("eval", "gold")
        with pytest.raises(DataError, match="unknown split"):
            sources.load_prompts(name, "test")  # type: ignore[arg-type]
