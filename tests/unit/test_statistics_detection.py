"""Finding bad labelers: what is known of small crowds by hand, and how often it is right about many simulated ones."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rlhf.data.records import Ranking
from rlhf.preferences import LabelStore, NewTask
from rlhf.preferences.simulation import KINDS, Seen, SimulatedLabeler, by_hash, make_crowd, reply, simulate
from rlhf.preferences.statistics.detection import Suspicion, _compare, _on_gold, suspects
from rlhf.preferences.statistics.meetings import GOLD, RATE, discoveries, meet
from rlhf.preferences.statistics.table import rank_table
from rlhf.preferences.types import Judged

BAD = ("spammer", "position", "lazy")
HONEST = ("careful", "careful", "noisy", "hasty")


def rankings(
    crowd: Sequence[SimulatedLabeler],
    *,
    tasks: int,
    overlap: int,
    k: int,
    seed: object = 0,
    timed: bool = True,
    gold: int = 0,
) -> list[Judged]:
    """What a crowd says, without a store: each person ranks `tasks` tasks, and everybody the first `gold` ones."""
    chance = random.Random(f"tasks {seed}")
    left = {person.name: tasks for person in crowd}
    found = []
    for task in range(gold + round(len(crowd) * tasks / overlap)):
        ids = range(task * k, task * k + k)
        utility = {c: chance.gauss(0, 1) for c in ids}
        lengths = {c: int(chance.lognormvariate(5, 0.5)) + 1 for c in ids}
        known = {c: rank for rank, c in enumerate(sorted(ids, key=lambda c: -utility[c]), start=1)}
        free = sorted((p for p in crowd if left[p.name]), key=lambda p: (-left[p.name], chance.random()))
        for person in crowd if task < gold else free[:overlap]:
            left[person.name] -= task >= gold
            shown = chance.sample(list(ids), k)
            seen = [Seen(c, utility[c], lengths[c]) for c in shown]
            said = reply(person.character, seen, random.Random(f"{seed}:{person.name}:{task}"), prompt_length=80)
            found.append(
                Judged(
                    task,
                    "b",
                    person.name,
                    said.ranks,
                    shown=tuple(shown),
                    seconds=said.seconds if timed else None,
                    lengths=lengths,
                    gold=known if task < gold else None,
                )
            )
    return found


def found_in(judged: Sequence[Judged]) -> dict[str, Suspicion]:
    return {s.labeler: s for s in suspects(judged)}


def crowds(seeds: int, bad: Sequence[str], honest: Sequence[str]) -> Iterator[tuple[list[SimulatedLabeler], dict]]:
    """Crowds of many makes: 8 to 40 people, 10 to 40 % of them bad, and how their work is cut."""
    sizes, shares, overlaps, ks, tasks = (8, 20, 40), (0.1, 0.25, 0.4), (2, 3, 5), (2, 3, 5), (20, 40, 100)
    for n, share, overlap, k, each in itertools.product(sizes, shares, overlaps, ks, tasks):
        for seed in range(seeds):
            key = f"{n} {share} {overlap} {k} {each} {seed}"
            chance, number = random.Random(key), round(n * share) if bad else 0
            kinds = Counter(chance.choice(bad if i < number else honest) for i in range(n))
            yield make_crowd(kinds), {"tasks": each, "overlap": overlap, "k": k, "seed": key}


def tally(chosen: Iterator[tuple[list[SimulatedLabeler], dict]], **how: object) -> Counter[tuple[str, bool]]:
    """How many people of each kind there were, suspected and not."""
    found: Counter[tuple[str, bool]] = Counter()
    for crowd, work in chosen:
        names = found_in(rankings(crowd, **work, **how)).keys()
        found.update((person.kind, person.name in names) for person in crowd)
    return found


def share(counts: Counter[tuple[str, bool]], *kinds: str) -> float:
    """Of the people of these kinds, the share suspected."""
    caught = sum(counts[kind, True] for kind in kinds)
    return caught / (caught + sum(counts[kind, False] for kind in kinds))


def precision(counts: Counter[tuple[str, bool]], *bad: str) -> float:
    """Of the people suspected, the share that is of a bad kind."""
    return sum(counts[kind, True] for kind in bad) / sum(n for (_, suspected), n in counts.items() if suspected)


# ---- many crowds -----------------------------------------------------------------------------------------------------


def every(
    n: int, chosen: Iterator[tuple[list[SimulatedLabeler], dict]]
) -> Iterator[tuple[list[SimulatedLabeler], dict]]:
    return itertools.islice(chosen, 0, None, n)


def test_spammers_are_found_and_honest_people_are_not() -> None:
    counts = tally(every(8, crowds(1, BAD, HONEST)))
    assert share(counts, *BAD) >= 0.9
    assert precision(counts, *BAD) >= 0.9
    assert share(counts, *HONEST) <= 0.02


@pytest.mark.parametrize("honest", [HONEST, ("noisy",), ("careful",), ("length",)], ids="-".join)
def test_an_honest_crowd_has_few_false_alarms(honest: tuple[str, ...]) -> None:
    counts = tally(every(10, crowds(1, (), honest)))
    assert sum(counts.values()) > 200
    assert share(counts, *honest) <= 0.02


@pytest.mark.slow
def test_spammers_are_found_and_honest_people_are_not_in_hundreds_of_crowds() -> None:
    counts = tally(every(11, crowds(20, BAD, HONEST)))
    assert share(counts, *BAD) >= 0.95
    assert min(share(counts, kind) for kind in BAD) >= 0.85
    assert precision(counts, *BAD) >= 0.95
    assert max(share(counts, kind) for kind in HONEST) <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("honest", [HONEST, ("noisy",)], ids="-".join)
def test_false_alarms_in_hundreds_of_honest_crowds(honest: tuple[str, ...]) -> None:
    counts = tally(every(11, crowds(20, (), honest)))
    assert max(share(counts, kind) for kind in honest) <= 0.01


@pytest.mark.slow
def test_spammers_who_take_their_time_are_found_once_there_is_enough_to_compare() -> None:
    """Only disagreement gives them away. 40 tasks of two completions are not enough for anybody; 100 of three are."""
    counts = tally(every(11, crowds(20, ("spammer",), HONEST)), timed=False)
    assert precision(counts, "spammer") >= 0.9
    assert max(share(counts, kind) for kind in HONEST) <= 0.05
    much = ((crowd, work) for crowd, work in crowds(2, ("spammer",), HONEST) if work["tasks"] == 100 and work["k"] >= 3)
    assert share(tally(much, timed=False), "spammer") >= 0.95


@pytest.mark.slow
def test_who_takes_one_for_the_worst_is_found() -> None:
    counts = tally(every(11, crowds(20, ("inverted",), HONEST)), timed=False)
    assert share(counts, "inverted") >= 0.9
    assert precision(counts, "inverted") >= 0.9


# ---- one crowd at a time ---------------------------------------------------------------------------------------------


def test_reasons_have_numbers_in_plain_words() -> None:
    crowd = make_crowd({"careful": 8, "spammer": 1, "position": 1, "lazy": 1, "inverted": 1})
    found = found_in(rankings(crowd, tasks=60, overlap=4, k=4, gold=10))
    assert found.keys() == {"sim-spammer-1", "sim-position-1", "sim-lazy-1", "sim-inverted-1"}
    said = {name.split("-")[1]: " | ".join(s.reasons) for name, s in found.items()}
    assert "agrees with the others no better than chance: 5" in said["spammer"]
    assert "of 60 pairs of 10 gold tasks as known, where people here have" in said["spammer"]
    assert "characters a second in the median of 70 rankings, where people here have" in said["spammer"]
    assert "follows the order shown in 9" in said["position"] and "pairs of 70 tasks" in said["position"]
    assert "follows the order shown in 9" in said["lazy"]
    assert "the other way round than the others, perhaps taking 1 for the worst" in said["inverted"]
    assert {s.n for s in found.values()} == {70}
    assert "nan" not in " ".join(said.values())


@pytest.mark.parametrize("tasks", [1, 3, 7])
def test_too_little_data_is_no_reason(tasks: int) -> None:
    crowd = make_crowd({"careful": 6, "spammer": 1, "lazy": 2})
    assert suspects(rankings(crowd, tasks=tasks, overlap=3, k=5)) == []


def test_nothing_is_said_of_nothing() -> None:
    assert suspects([]) == []
    skipped = [Judged(task, "b", "ann", {}, skip_reason="no") for task in range(50)]
    assert suspects(skipped) == []


def test_of_two_who_differ_nobody_knows_which_one_is_wrong() -> None:
    crowd = make_crowd({"careful": 1, "spammer": 1})
    judged = rankings(crowd, tasks=80, overlap=2, k=3, timed=False)
    assert suspects(judged) == []
    known = rankings(crowd, tasks=80, overlap=2, k=3, timed=False, gold=60)
    assert found_in(known).keys() == {"sim-spammer-1"}


def test_a_crowd_without_agreement_has_no_suspects_by_agreement_not_even_fast_ones() -> None:
    """All rank by chance, and one of them is ten times as fast: nobody here is more reliable than that one."""
    slow, fast = (replace(KINDS["careful"], noise=1e9, pace=pace) for pace in (22.0, 2000.0))
    crowd = [SimulatedLabeler(f"{i}", "chance", fast if i == 0 else slow) for i in range(8)]
    for seed in range(10):
        assert suspects(rankings(crowd, tasks=40, overlap=4, k=3, seed=seed)) == []


def test_speed_alone_is_no_reason() -> None:
    quick = replace(KINDS["careful"], pace=2000.0)
    crowd = [*make_crowd({"careful": 7}), SimulatedLabeler("quick", "quick", quick)]
    judged = rankings(crowd, tasks=60, overlap=3, k=4)
    speed = [sum(j.lengths.values()) / (j.seconds or 1) for j in judged if j.labeler == "quick"]
    assert np.median(speed) > 150  # nobody reads so fast
    assert suspects(judged) == []


def test_a_third_of_the_crowd_spams() -> None:
    crowd = make_crowd({"careful": 4, "noisy": 4, "spammer": 4})
    found = found_in(rankings(crowd, tasks=100, overlap=4, k=4, timed=False))
    assert found.keys() == {f"sim-spammer-{i}" for i in range(1, 5)}


def test_suspects_are_taken_out_of_what_others_are_compared_with() -> None:
    """42 % of the crowd spam, and 40 tasks say little of each: one look alone finds 36 of the 60, this one 51."""
    crowd = make_crowd({"careful": 4, "noisy": 3, "spammer": 5})
    found: Counter[str] = Counter()
    for seed in range(12):
        judged = rankings(crowd, tasks=40, overlap=3, k=3, seed=seed, timed=False)
        found.update(s.labeler.split("-")[1] for s in suspects(judged))
    assert found["spammer"] >= 45
    assert found["careful"] + found["noisy"] <= 3


def test_everybody_is_measured_by_people_whose_weight_they_did_not_set() -> None:
    """Of people who rank by chance, one in ten should have a p-value below 0.1 for not doing so.

    Where whoever happens to agree with them weighs more because of that, one in five has.
    """
    low = 0
    for seed in range(100):
        crowd = make_crowd({"careful": 4, "spammer": 2})
        table = rank_table(rankings(crowd, tasks=20, overlap=2, k=2, seed=seed, timed=False))
        everybody = np.ones(len(table.people), dtype=np.bool_)
        found = _compare(table, meet(table), everybody, ~everybody)
        low += sum(p < 0.1 for p, name in zip(found.high, table.people, strict=True) if "spammer" in name)
    assert 0.06 <= low / 200 <= 0.15


def test_people_here_are_those_who_are_no_suspects() -> None:
    """Two careful people order 85 % of the pairs alike that neither ties (drawn a million times, without rankings).

    With the three spammers among those they are compared with, it would be 71 %.
    """
    found = found_in(rankings(make_crowd({"careful": 5, "spammer": 3}), tasks=100, overlap=4, k=4, timed=False))
    said = found["sim-spammer-1"].reasons[0]
    assert 83 <= int(said.rpartition("people here have ")[2].rstrip(" %")) <= 89


@pytest.mark.parametrize(("place", "word"), [(0, "first"), (-1, "last")])
def test_always_the_same_card_best(place: int, word: str) -> None:
    """The rest is ranked honestly, so that it is not the order shown that is followed."""
    judged = rankings(make_crowd({"careful": 6}), tasks=40, overlap=3, k=6)
    for i, one in enumerate(judged):
        if one.labeler == "sim-careful-1":
            judged[i] = replace(one, ranks={**{c: rank + 1 for c, rank in one.ranks.items()}, one.shown[place]: 1})
    assert found_in(judged).keys() == {"sim-careful-1"}
    assert found_in(judged)["sim-careful-1"].reasons[0] == (
        f"ranks the {word} card best in 40 of 40 tasks, where chance gives 7"
    )


def test_upside_down() -> None:
    judged = rankings(make_crowd({"careful": 5, "lazy": 1}), tasks=40, overlap=3, k=3)
    upside = [
        replace(j, ranks={c: 4 - rank for c, rank in j.ranks.items()}) if j.labeler == "sim-lazy-1" else j
        for j in judged
    ]
    assert found_in(upside)["sim-lazy-1"].reasons[0].startswith("follows the reversed order shown in ")


def test_everything_tied() -> None:
    judged = [
        replace(j, ranks=dict.fromkeys(j.ranks, 1)) if j.labeler == "sim-careful-1" else j
        for j in rankings(make_crowd({"careful": 6}), tasks=40, overlap=3, k=3)
    ]
    assert found_in(judged) == {
        "sim-careful-1": Suspicion(
            "sim-careful-1", ("ties everything in 40 of 40 rankings, where people here do in 0 %",), 40
        )
    }


def test_what_was_not_ranked_says_nothing_and_anonymous_is_nobody() -> None:
    judged = rankings(make_crowd({"careful": 6, "spammer": 2}), tasks=60, overlap=3, k=4)
    partial = [replace(j, ranks={c: r if i < 3 else None for i, (c, r) in enumerate(j.ranks.items())}) for j in judged]
    assert found_in(partial).keys() == {"sim-spammer-1", "sim-spammer-2"}
    renamed = [replace(j, labeler="anonymous") if j.labeler == "sim-spammer-1" else j for j in judged]
    assert found_in(renamed).keys() == {"sim-spammer-2"}


def test_imported_rankings_have_no_screen_to_follow() -> None:
    """Listed best first, as many data sets are: no position bias, for nobody was shown that order."""
    judged = [
        replace(j, shown=(), seconds=None) for j in rankings(make_crowd({"careful": 6}), tasks=40, overlap=3, k=3)
    ]
    assert suspects(judged) == []


def test_the_order_of_the_judgments_does_not_matter() -> None:
    judged = rankings(make_crowd({"careful": 5, "noisy": 3, "spammer": 2, "lazy": 1}), tasks=40, overlap=3, k=3)
    mixed = random.Random(1).sample(judged, len(judged))
    assert suspects(mixed) == suspects(judged) != []


def test_benjamini_and_hochberg_by_hand() -> None:
    """Of five, sorted thresholds are 0.02, 0.04, 0.06, 0.08, 0.10: the third largest p that passes takes all below."""
    assert RATE == 0.1
    p = np.array([0.30, 0.055, 0.001, 0.045, 0.90, 0.0])
    asked = np.array([True, True, True, True, True, False])
    assert discoveries(p, asked).tolist() == [False, True, True, True, False, False]
    assert not discoveries(np.array([0.2, 0.3]), np.array([True, True])).any()


# ---- known answers, and another quality ------------------------------------------------------------------------------


def of_two_qualities(first: int, second: int, *, tasks: int = 100, gold: int = 0, seed: int = 0) -> list[Judged]:
    """So many rank by one quality and so many by another that has nothing to do with it; gold goes by the first.

    Every second task is the one before with the other quality upside down, so that no luck makes the two alike.
    """
    chance, found = random.Random(seed), []
    people = [f"first {i}" for i in range(first)] + [f"second {i}" for i in range(second)]
    for task in range(gold + tasks):
        ids = range(4 * task, 4 * task + 4)
        if task % 2 == 0:
            qualities = {word: [chance.gauss(0, 1) for _ in ids] for word in ("first", "second")}
        else:
            qualities["second"] = [-u for u in qualities["second"]]
        known = dict(zip(ids, _ranks(qualities["first"]), strict=True))
        for name in people if task < gold else chance.sample(people, 3):
            felt = [u + chance.gauss(0, 0.5) for u in qualities[name.split()[0]]]
            ranks = dict(zip(ids, _ranks(felt), strict=True))
            found.append(Judged(task, "b", name, ranks, gold=known if task < gold else None))
    return found


@pytest.mark.parametrize("seed", range(3))
def test_who_is_right_on_gold_is_no_suspect_however_few_think_alike(seed: int) -> None:
    found = found_in(of_two_qualities(3, 8, gold=20, seed=seed))
    assert found.keys() == {f"second {i}" for i in range(8)}
    for suspicion in found.values():
        said = suspicion.reasons[-1]
        assert "pairs of 20 gold tasks as known, where people here have 8" in said
        assert said.endswith("chance gives 50 %; most here do no better, so look at the known answers too")


def test_nor_where_the_crowd_is_not_bad_enough_on_gold_to_be_suspected() -> None:
    """Of nine gold tasks the many rank three as known and the rest their own way: 2/3 of pairs right, half at work."""
    for seed in range(5):
        judged = of_two_qualities(2, 9, gold=9, tasks=500, seed=seed)
        mild = [replace(j, ranks=j.gold) if j.gold and j.task_id % 3 == 0 else j for j in judged]
        assert suspects(mild) == []


def test_who_is_at_chance_on_gold_is_a_suspect_whatever_the_crowd_does() -> None:
    """Even one person alone, and a crowd of which nobody agrees with anybody."""
    spammers = rankings(make_crowd({"spammer": 8}), tasks=20, overlap=3, k=4, timed=False, gold=25)
    assert len(found_in(spammers)) == 8
    alone = found_in([j for j in spammers if j.labeler == "sim-spammer-1"])
    assert (
        alone["sim-spammer-1"].reasons[0].endswith(" of 150 pairs of 25 gold tasks as known, where chance gives 50 %")
    )


def test_seven_spammers_of_eleven_are_found_by_gold() -> None:
    crowd = make_crowd({"careful": 2, "noisy": 2, "spammer": 7})
    found: Counter[str] = Counter()
    for seed in range(10):
        judged = rankings(crowd, tasks=40, overlap=3, k=4, seed=seed, timed=False, gold=25)
        found.update(s.labeler.split("-")[1] for s in suspects(judged))
    assert found["spammer"] >= 63
    assert found["careful"] + found["noisy"] <= 1


def test_who_is_merely_noisy_is_right_often_enough_on_gold() -> None:
    crowd = make_crowd({"noisy": 10})
    for k, gold in ((2, 8), (2, 30), (4, 8), (4, 60)):
        found = [suspects(rankings(crowd, tasks=0, overlap=3, k=k, seed=s, gold=gold)) for s in range(5)]
        assert sum(map(len, found)) <= 1


@pytest.mark.parametrize(("right", "cleared"), [(6, False), (7, True)])
def test_above_chance_on_gold_by_hand(right: int, cleared: bool) -> None:
    """Of eight pairs, six right are (6 - 2) / √8 = 1.41 from chance (p = 0.08), and seven are 2.12 (p = 0.017)."""
    known = {1: 1, 2: 2}
    said = [known if task < right else {1: 2, 2: 1} for task in range(8)]
    judged = [Judged(task, "b", name, r) for task, one in enumerate(said) for name, r in ((GOLD, known), ("ann", one))]
    table = rank_table(judged)
    gold = _on_gold(table, meet(table), np.array([False, True]))
    assert gold.asked.tolist() == [False, True]
    assert gold.cleared.tolist() == [False, cleared]


def test_a_minority_that_judges_by_another_quality_is_not_said_to_be_at_chance() -> None:
    said: Counter[bool] = Counter()
    for seed in range(5):
        found = found_in(of_two_qualities(7, 3, tasks=150, seed=seed))
        assert found.keys() == {"second 0", "second 1", "second 2"}
        for suspicion in found.values():
            (reason,) = suspicion.reasons
            said[reason.startswith("3 suspects rank alike among themselves (this one in ")] += 1
            assert "but differently from the others, so look whether the instructions allow both: " in reason
            assert "chance" not in reason
    assert said[True] == 15


def test_spammers_and_the_inverted_do_not_count_as_of_one_mind() -> None:
    said: Counter[str] = Counter()
    for seed in range(10):
        crowd = make_crowd({"careful": 9, "spammer": 3, "inverted": 2})
        for suspicion in suspects(rankings(crowd, tasks=60, overlap=4, k=4, seed=seed, timed=False)):
            said[f"{suspicion.labeler.split('-')[1]} {'alike among' in suspicion.reasons[0]}"] += 1
    assert said["spammer False"] >= 28 and said["inverted False"] == 20
    assert said["spammer True"] <= 1


# ---- through a store -------------------------------------------------------------------------------------------------


def test_spammers_of_a_real_campaign(tmp_path: Path) -> None:
    with LabelStore.open(tmp_path / "labels.db", create=True) as store:
        store.configure({"gold_share": 0.2})
        new = [NewTask(f"prompt {i}", tuple(f"answer {i} {c}" + " so" * 40 for c in "abcd")) for i in range(50)]
        store.add_tasks(new, batch="b", overlap=3)
        texts = [tuple(f"known {i} {c}" for c in "abc") for i in range(12)]
        store.add_gold(Ranking(f"gold {i}", t, _ranks(by_hash([], list(t)))) for i, t in enumerate(texts))
        simulate(store, make_crowd({"careful": 4, "noisy": 1, "spammer": 2}), seed=3)
        found = found_in(store.judged())
    assert found.keys() == {"sim-spammer-1", "sim-spammer-2"}
    assert all(s.n > 15 for s in found.values())


def _ranks(scores: list[float]) -> tuple[int, ...]:
    return tuple(1 + sum(other > score for other in scores) for score in scores)
