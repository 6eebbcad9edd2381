"""Simulated labelers: what they choose, against probabilities worked by hand, and what they do on a real store."""

from __future__ import annotations

import random
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from rlhf.data.records import Ranking
from rlhf.errors import ConfigError, StoreError
from rlhf.preferences import LabelStore, NewTask
from rlhf.preferences.simulation import (
    KINDS,
    Character,
    Seen,
    SimulatedLabeler,
    Truth,
    Worked,
    _ranked,
    by_hash,
    make_crowd,
    reply,
    simulate,
)

EXACT = Character(noise=0.0, skips=0.0)


def seen(*utilities: float, lengths: Sequence[int] = ()) -> list[Seen]:
    """Completions 0, 1, 2, ... shown in this order."""
    return [Seen(i, u, lengths[i] if lengths else 100) for i, u in enumerate(utilities)]


def replies(character: Character, shown: Sequence[Seen], n: int) -> list[dict[int, int]]:
    return [dict(reply(character, shown, random.Random(f"{i}")).ranks) for i in range(n)]


def first_share(character: Character, shown: Sequence[Seen], best: int, n: int = 8000) -> float:
    return sum(ranks[best] == 1 for ranks in replies(character, shown, n)) / n


# ---- one reply -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("difference", "noise", "expected"),
    [(1.0, 1.0, 0.7311), (1.0, 0.5, 0.8808), (2.0, 1.0, 0.8808), (0.0, 1.0, 0.5), (1.2, 1.2, 0.7311)],
)
def test_pairs_are_chosen_by_the_logistic_of_their_difference(difference: float, noise: float, expected: float) -> None:
    shown = seen(0.3, 0.3 + difference)
    assert first_share(Character(noise=noise), shown, best=1) == pytest.approx(expected, abs=0.016)  # 3 deviations


def test_rankings_follow_plackett_and_luce() -> None:
    """Weights 1, 2 and 3: first with 1/6, 2/6, 3/6; and the whole order 2, 1, 0 with 3/6 · 2/3 = 1/3."""
    shown = seen(0.0, 0.6931, 1.0986)
    found = Counter(tuple(sorted(r, key=lambda c: r[c])) for r in replies(Character(noise=1.0), shown, 8000))
    for best, expected in ((0, 1 / 6), (1, 2 / 6), (2, 3 / 6)):
        assert sum(n for order, n in found.items() if order[0] == best) / 8000 == pytest.approx(expected, abs=0.017)
    assert found[2, 1, 0] / 8000 == pytest.approx(1 / 3, abs=0.017)


def test_ties_are_what_lies_close_to_the_first_of_them() -> None:
    felt = {7: 1.0, 8: 0.95, 9: 0.91, 10: 0.86, 11: 0.0}  # 10 is close to 9 but not to 7
    assert _ranked(felt, 0.1) == {7: 1, 8: 1, 9: 1, 10: 4, 11: 5}
    assert _ranked(felt, 0.0) == {7: 1, 8: 2, 9: 3, 10: 4, 11: 5}
    assert _ranked({1: 2.0, 2: 2.0}, 0.0) == {1: 1, 2: 2}  # without a width nobody ties


def test_what_is_shown_higher_gets_a_bonus() -> None:
    """Three are shown: the bonus of 2 is 2, 1 and 0."""
    biased = replace(EXACT, position_bias=2.0)
    assert reply(biased, seen(0.0, 0.9, 1.8), random.Random(0)).ranks == {0: 1, 1: 2, 2: 3}
    assert reply(biased, seen(0.0, 1.1, 2.2), random.Random(0)).ranks == {2: 1, 1: 2, 0: 3}
    assert reply(EXACT, seen(0.0, 0.9, 1.8), random.Random(0)).ranks == {2: 1, 1: 2, 0: 3}


def test_each_doubling_of_the_length_gets_a_bonus() -> None:
    biased = replace(EXACT, length_bias=0.5)
    assert reply(biased, seen(0.0, 0.9, lengths=(400, 100)), random.Random(0)).ranks == {0: 1, 1: 2}  # 2 doublings: 1.0
    assert reply(biased, seen(0.0, 1.1, lengths=(400, 100)), random.Random(0)).ranks == {1: 1, 0: 2}
    assert reply(EXACT, seen(0.0, 0.9, lengths=(400, 100)), random.Random(0)).ranks == {1: 1, 0: 2}
    assert reply(biased, seen(0.0, 1.1, lengths=(0, 1)), random.Random(0)).ranks == {1: 1, 0: 2}  # an empty answer


def test_who_takes_one_for_the_worst() -> None:
    assert reply(replace(EXACT, inverted=True), seen(1.0, 2.0, 3.0), random.Random(0)).ranks == {0: 1, 1: 2, 2: 3}


def test_who_does_not_read_ranks_what_is_shown_or_by_chance() -> None:
    as_shown = replace(EXACT, laziness=1.0, unread="shown")
    shown = [Seen(5, 0.0, 9), Seen(2, 9.0, 9), Seen(4, 4.0, 9)]
    assert reply(as_shown, shown, random.Random(0)).ranks == {5: 1, 2: 2, 4: 3}
    found = Counter(tuple(sorted(r.items())) for r in replies(KINDS["spammer"], shown, 6000))
    assert len(found) == 6
    assert all(n / 6000 == pytest.approx(1 / 6, abs=0.016) for n in found.values())


def test_laziness_is_the_share_of_tasks_that_are_not_read() -> None:
    some = replace(EXACT, laziness=0.3, unread="shown")
    unread = sum(r == {0: 1, 1: 2} for r in replies(some, seen(0.0, 1.0), 4000)) / 4000
    assert unread == pytest.approx(0.3, abs=0.022)


def test_reading_takes_the_time_that_it_takes() -> None:
    """3 seconds and 440 characters at 22 a second: 23 seconds in the median; unread three completions: 2.2."""
    times = [reply(KINDS["careful"], seen(0, 1, 2), random.Random(i), prompt_length=140).seconds for i in range(4000)]
    assert statistics.median(times) == pytest.approx(23.0, rel=0.03)
    assert min(times) > 0
    times = [reply(KINDS["spammer"], seen(0, 1, 2), random.Random(i)).seconds for i in range(4000)]
    assert statistics.median(times) == pytest.approx(2.2, rel=0.03)


@pytest.mark.parametrize("kind", ["careful", "noisy", "length", "spammer", "inverted"])
def test_a_draw_does_not_depend_on_the_order_shown(kind: str) -> None:
    """The store shuffles by chance that no seed repeats; who does not look at the order says the same."""
    shown = seen(0.1, 0.4, 0.5, 0.7)
    for i in range(20):
        one = reply(KINDS[kind], shown, random.Random(i))
        other = reply(KINDS[kind], shown[::-1], random.Random(i))
        assert (one.ranks, one.seconds) == (other.ranks, other.seconds)


def test_kinds_are_as_good_as_their_names() -> None:
    """Of pairs one spread apart, how many each kind orders right. Spammers and the lazy: half of them."""
    right = {}
    for kind, character in KINDS.items():
        shown, rights = seen(0.0, 1.0), 0
        for i in range(2000):
            ranks = reply(character, shown if i % 2 else shown[::-1], random.Random(f"{i}")).ranks
            rights += ranks[1] < ranks[0]
        right[kind] = rights / 2000
    assert right["careful"] > 0.9 > right["length"] > 0.8 > right["hasty"] > 0.7 > right["noisy"] > 0.65
    assert all(0.45 < right[kind] < 0.55 for kind in ("position", "lazy", "spammer"))
    assert right["inverted"] < 0.1


# ---- who and what ----------------------------------------------------------------------------------------------------


def test_a_crowd_has_names_that_say_what_they_are() -> None:
    crowd = make_crowd({"careful": 2, "spammer": 1})
    assert [(one.name, one.kind) for one in crowd] == [
        ("sim-careful-1", "careful"),
        ("sim-careful-2", "careful"),
        ("sim-spammer-1", "spammer"),
    ]
    assert crowd[2].character == KINDS["spammer"]


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        ({"carefull": 1}, r"there is no kind 'carefull' of simulated labeler; there are: careful, noisy, .*inverted$"),
        ({"careful": 0}, r"^careful: expected 1 to 1000 people, found 0$"),
        ({"noisy": 1001}, r"^noisy: expected 1 to 1000 people, found 1001$"),
    ],
)
def test_no_crowd_of_these(kinds: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_crowd(kinds)


def test_the_hash_is_the_same_everywhere() -> None:
    """sha256("abc") begins with ba7816bf8f01: over 2^48 that is 0.7283949105904..."""
    assert by_hash(["p"], ["abc"]) == [pytest.approx(0.7283949105904)]


def test_utilities_are_in_units_of_the_spread_within_a_prompt() -> None:
    """Scores 0 and 4, 10 and 14: variance 4 within either, so the spread is 2; the mean is 7."""
    scores = {"a": 0.0, "b": 4.0, "c": 10.0, "d": 14.0}
    truth = Truth(lambda _, texts: [scores[t] for t in texts], [("p", ["a", "b"]), ("q", ["c", "d"])])
    assert truth("p", ["a", "b", "d"]) == [-3.5, -1.5, 3.5]


def test_the_truth_sees_prompts_as_people_do() -> None:
    asked: list[str] = []

    def function(prompts: list[str], texts: list[str]) -> list[float]:
        asked.extend(prompts)
        return [float(len(t)) for t in texts]

    Truth(function, [(({"role": "user", "content": "hello"},), ["a", "bb"])])
    assert asked == ["user: hello", "user: hello"]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda p, c: [1.0] * len(c), r"truth 'm:f': scores all completions of a task alike in each of 1 tasks"),
        (lambda p, c: [1.0], r"truth 'm:f' returned 1 scores for 2 completions"),
        (lambda p, c: [float("nan"), 0.0], r"truth 'm:f' returned nan for the completion 'a'; expected a number"),
        (
            lambda p, c: [1e308 * (-1) ** i for i in range(len(c))],
            r"truth 'm:f' returned 1e\+308 for the completion 'a'; expected a number from -1e\+100 to 1e\+100",
        ),
        (lambda p, c: 1 / 0, r"truth 'm:f' raised ZeroDivisionError"),
    ],
)
def test_a_truth_nobody_could_rank_by(function: Callable[..., list[float]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Truth(function, [("p", ["a", "b"])], "m:f")


# ---- on a store ------------------------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path) -> Iterator[LabelStore]:
    """An empty store on SQLite, where the database makes no difference."""
    with LabelStore.open(tmp_path / "labels.db", create=True) as opened:
        yield opened


def by_number(_prompts: list[str], completions: list[str]) -> list[float]:
    """`answer 3 of 7` is worth 3."""
    return [float(c.split()[1]) for c in completions]


def fill(store: LabelStore, tasks: int = 12, k: int = 3, overlap: int = 2) -> None:
    new = [NewTask(f"prompt {t}", tuple(f"answer {i} of {t}" for i in range(k))) for t in range(tasks)]
    store.add_tasks(new, batch="b", overlap=overlap)


def exact(store: LabelStore, n: int = 3, **how: object) -> list[Worked]:
    crowd = [SimulatedLabeler(f"sim-exact-{i}", "exact", EXACT) for i in range(n)]
    return simulate(store, crowd, truth=by_number, **how)


def test_they_work_until_nothing_is_left(store: LabelStore) -> None:
    fill(store)
    done = exact(store)
    counts = store.counts()
    assert (counts.waiting, counts.rankings, counts.labelers) == (0, 24, 3)
    assert sum(work.ranked for work in done) == 24 and sum(work.pairs for work in done) == 72
    assert all(work.right == work.pairs == 3 * work.ranked and work.surplus == 0 for work in done)
    for one in store.rankings():
        assert one.ranks == (3, 2, 1) and one.labeler.startswith("sim-exact-")
        assert one.meta["active_seconds"] > 0
    assert store.check() == []


def test_each_does_so_many_and_goes_on_another_day(here: LabelStore) -> None:
    fill(here, tasks=20)
    seen_so_far: list[str] = []
    done = exact(here, each=4, watch=lambda work: seen_so_far.append(work.name))
    assert [work.ranked for work in done] == [4, 4, 4]
    assert Counter(seen_so_far) == {f"sim-exact-{i}": 4 for i in range(3)}
    assert seen_so_far[:3] != seen_so_far[3:6] or seen_so_far[3:6] != seen_so_far[6:9]  # turns are mixed
    exact(here, each=5)
    assert here.counts().rankings == 27


def test_skips_are_given_to_others_with_a_reason_of_the_project(here: LabelStore) -> None:
    here.configure({"skip_reasons": ["Too hard"]})
    fill(here, tasks=30, overlap=1)
    shy = SimulatedLabeler("sim-shy-1", "shy", replace(EXACT, skips=0.5))
    steady = SimulatedLabeler("sim-exact-1", "exact", EXACT)
    first, second = simulate(here, [shy, steady], truth=by_number)
    assert first.skipped > 3 and second.skipped == 0
    assert first.ranked + second.ranked == 30 == here.counts().rankings
    reasons = {j.skip_reason for j in here.judged() if not j.ranks}
    assert reasons == {"Too hard"}


def test_they_say_what_the_project_asks(here: LabelStore) -> None:
    """Of two with utilities 2 spreads apart the better one is much better; remarks give qualities and flag the bad."""
    here.configure({"strength": True, "flags": ["Wrong"]})
    fill(here, tasks=10, k=2, overlap=1)
    talker = SimulatedLabeler("sim-talker-1", "talker", replace(EXACT, remarks=1.0))
    simulate(here, [talker], truth=lambda p, c: [3 * score for score in by_number(p, c)])
    for one in here.rankings():
        assert one.meta["strength"] == 3  # 0 and 3, spread 1.5: utilities -1 and 1
        assert one.meta["quality"] == [2, 6]  # 4 - 1.5 and 4 + 1.5, rounded to even
        assert "flags" not in one.meta  # -1 is not bad enough


def test_bad_ones_are_flagged(here: LabelStore) -> None:
    here.configure({"quality": False, "flags": ["Wrong"]})
    fill(here, tasks=5, k=4, overlap=1)
    talker = SimulatedLabeler("sim-talker-1", "talker", replace(EXACT, remarks=1.0))
    simulate(here, [talker], truth=by_number)
    for one in here.rankings():  # 0 to 3, spread 1.118: the last one's utility is -1.34
        assert one.meta["flags"] == [["Wrong"], None, None, None]
        assert "quality" not in one.meta


def test_gold_tasks_are_mixed_in_as_for_everybody(here: LabelStore) -> None:
    here.configure({"gold_share": 0.5})
    fill(here, tasks=40, overlap=1)
    here.add_gold(Ranking(f"gold {i}", (f"answer 1 of g{i}", f"answer 2 of g{i}"), (2, 1)) for i in range(6))
    inverted = SimulatedLabeler("sim-inverted-1", "inverted", replace(EXACT, inverted=True))
    simulate(here, [inverted], truth=by_number)
    (result,) = here.gold_results()
    assert result.tasks == 6 and result.accuracy == 0.0


def test_a_seed_repeats_what_they_think(tmp_path: Path) -> None:
    """In another store, where completions are shown in other orders: the same people say the same of the same tasks."""

    def said(name: str, seed: int) -> dict[tuple[str, str], tuple[int | None, ...]]:
        with LabelStore.open(tmp_path / name, create=True) as store:
            fill(store, tasks=15, k=4)
            simulate(store, make_crowd({"noisy": 2, "spammer": 1}), truth=by_number, seed=seed)
            return {(r.labeler, str(r.prompt)): r.ranks for r in store.rankings()}

    first, again, other = said("a.db", 1), said("b.db", 1), said("c.db", 2)
    assert first == again != other


def test_nothing_to_do_and_nothing_begun(here: LabelStore) -> None:
    with pytest.raises(StoreError, match=r"nothing waits to be ranked in project 'default'; queue tasks first$"):
        exact(here)
    fill(here)
    with pytest.raises(ConfigError, match=r"truth 'm:f': scores all completions"):
        simulate(here, make_crowd({"careful": 1}), truth=lambda p, c: [0.0] * len(c), name="m:f")
    assert here.people() == [] and here.counts().judgments == 0


def test_nobody_real_is_simulated(here: LabelStore) -> None:
    fill(here)
    here.invite("sim-careful-1")
    with pytest.raises(StoreError, match=r"'sim-careful-1' was invited or imported here"):
        simulate(here, make_crowd({"careful": 1}))
    here.import_rankings([Ranking("p", ("a", "b"), (1, 2), labeler="sim-noisy-1")], batch="file")
    with pytest.raises(StoreError, match=r"'sim-noisy-1' was invited or imported here"):
        simulate(here, make_crowd({"noisy": 1}))
