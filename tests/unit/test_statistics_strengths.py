"""Win-rates and Bradley-Terry strengths: beside literals, scipy and statsmodels; and what they must not claim."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from rlhf.preferences.statistics import bradley_terry as maths
from rlhf.preferences.statistics.bradley_terry import Cells, bradley_terry, limit
from rlhf.preferences.statistics.strengths import Leaderboard, Standing, leaderboard
from rlhf.preferences.types import Judged

Vote = tuple[str, str, float]  # a beats b (1), ties with it (1/2), loses to it (0)


def judged(task: int, sources: Sequence[str], ranks: Sequence[int | None], lengths: Sequence[int] = ()) -> Judged:
    ids = [100 * task + i for i in range(len(sources))]
    long = lengths or [10] * len(ids)
    return Judged(
        task,
        "arena",
        "ann",
        dict(zip(ids, ranks, strict=True)),
        sources=dict(zip(ids, sources, strict=True)),
        lengths=dict(zip(ids, long, strict=True)),
    )


def vote(task: int, a: str, b: str, won: float, lengths: Sequence[int] = ()) -> Judged:
    return judged(task, (a, b), {1.0: (1, 2), 0.5: (1, 1), 0.0: (2, 1)}[won], lengths)


def votes(*found: tuple[str, str, float, int]) -> list[Judged]:
    """`(a, b, won, times)`, each in a task of its own."""
    each = [(a, b, won) for a, b, won, times in found for _ in range(times)]
    return [vote(task, a, b, won) for task, (a, b, won) in enumerate(each)]


def named(board: Leaderboard) -> dict[str, Standing]:
    return {s.name: s for s in board.standings}


def cells_of(found: Iterable[Vote], players: int, contrast: Sequence[float] | None = None) -> Cells:
    """One resample, one cell a vote; contestants are named 0, 1, …"""
    first, second, won = zip(*found, strict=True)
    return Cells(
        np.array(list(map(int, first))),
        np.array(list(map(int, second))),
        None if contrast is None else np.array(contrast),
        np.ones((1, len(won))),
        np.array([won]),
        np.zeros(players, dtype=np.int64),
    )


# --- the fit -----------------------------------------------------------------------------------------------------


def test_two_players_are_apart_by_the_log_of_their_odds() -> None:
    strengths = bradley_terry(cells_of([("0", "1", 1.0)] * 7 + [("1", "0", 1.0)] * 3, 2))[0]
    assert strengths[0] - strengths[1] == pytest.approx(math.log(7 / 3), abs=1e-9)
    assert strengths.sum() == pytest.approx(0, abs=1e-9)


def test_a_tie_is_half_a_win_for_each() -> None:
    strengths = bradley_terry(cells_of([("0", "1", 1.0)] * 6 + [("0", "1", 0.5)] * 2 + [("0", "1", 0.0)] * 2, 2))[0]
    assert strengths[0] - strengths[1] == pytest.approx(math.log(7 / 3), abs=1e-9)


def test_three_players_in_a_chain() -> None:
    """0 and 2 never met: their odds multiply, 3 and 2 to 6."""
    found = [("0", "1", 1.0)] * 3 + [("0", "1", 0.0)] + [("1", "2", 1.0)] * 2 + [("1", "2", 0.0)]
    strengths = bradley_terry(cells_of(found, 3))[0]
    assert strengths[0] - strengths[2] == pytest.approx(math.log(6), abs=1e-9)


def random_votes(seed: int, players: int, number: int) -> tuple[list[Vote], list[float]]:
    rng = np.random.default_rng(seed)
    true = rng.normal(size=players)
    found, contrast = [], []
    for _ in range(number):
        a, b = rng.choice(players, 2, replace=False)
        c = float(np.tanh(rng.normal()))
        p = expit(true[a] - true[b] + 0.7 * c)
        found.append((str(a), str(b), 0.5 if rng.random() < 0.1 else float(rng.random() < p)))
        contrast.append(c)
    return found, contrast


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("with_length", [False, True])
def test_the_fit_is_scipys_optimum(seed: int, with_length: bool) -> None:
    found, contrast = random_votes(seed, 5, 200)
    first, second = ([int(v[i]) for v in found] for i in (0, 1))
    won, c = np.array([v[2] for v in found]), np.array(contrast) * with_length

    def loss(theta: np.ndarray) -> float:
        gap = theta[first] - theta[second] + theta[5] * c
        likelihood = won * np.log(expit(gap)) + (1 - won) * np.log(expit(-gap))
        return float(-likelihood.sum() + 0.02 * theta[5] ** 2 + 0.5 * theta[:5].sum() ** 2)

    best = minimize(loss, np.zeros(6), method="BFGS", options={"gtol": 1e-8}).x
    fitted = bradley_terry(cells_of(found, 5, contrast if with_length else None))[0]
    assert fitted == pytest.approx(best[: len(fitted)], abs=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_the_fit_is_that_of_statsmodels(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A logistic regression without intercept, the first contestant's strength taken for 0."""
    models = pytest.importorskip("statsmodels.api")
    monkeypatch.setattr(maths, "CONTRAST_PRECISION", 0.0)
    found, contrast = random_votes(seed, 4, 300)
    x = np.zeros((len(found), 5))
    for row, (a, b, _) in enumerate(found):
        x[row, int(a)], x[row, int(b)], x[row, 4] = 1, -1, contrast[row]
    theirs = models.GLM([v[2] for v in found], x[:, 1:], family=models.families.Binomial()).fit(tol=1e-12)
    ours = bradley_terry(cells_of(found, 4, contrast))[0]
    assert ours[1:4] - ours[0] == pytest.approx(theirs.params[:3], abs=1e-6)
    assert ours[4] == pytest.approx(theirs.params[3], abs=1e-6)


def test_resamples_are_fitted_as_if_each_were_alone() -> None:
    rng = np.random.default_rng(0)
    one = cells_of(random_votes(1, 4, 40)[0], 4)
    times = rng.multinomial(40, np.full(40, 1 / 40), size=30).astype(float)
    spare = np.unique(np.sort(np.stack([one.first, one.second]), axis=0), axis=1, return_index=True)[1]
    many, _ = limit(Cells(one.first, one.second, None, times, times * one.wins, one.groups), spare)
    together = bradley_terry(many)
    for row in range(30):
        alone = Cells(one.first, one.second, None, many.games[[row]], many.wins[[row]], one.groups)
        assert bradley_terry(alone)[0] == pytest.approx(together[row], abs=1e-7)
    assert np.isfinite(together).all()


@pytest.mark.parametrize(
    ("found", "limited"),
    [
        ([("0", "1", 1.0), ("1", "2", 1.0), ("2", "0", 1.0)], False),  # a circle: everybody wins and loses
        ([("0", "1", 1.0), ("1", "2", 1.0), ("0", "2", 1.0)], True),
        ([("0", "1", 0.5), ("1", "2", 1.0), ("2", "1", 1.0)], False),  # a tie holds both ways
        ([("0", "1", 1.0), ("0", "1", 0.0), ("1", "2", 1.0)], True),
    ],
)
def test_strengths_are_limited_exactly_where_none_fit(found: list[Vote], limited: bool) -> None:
    cells, said = limit(cells_of(found, 3), np.array([0, 1, 2]))
    assert said.tolist() == [limited]
    assert cells.games.sum() == 3 + 3 * limited


# --- the leaderboard ---------------------------------------------------------------------------------------------


def test_win_rates_and_strengths_of_two() -> None:
    board = leaderboard(votes(("b", "a", 1.0, 6), ("a", "b", 0.5, 2), ("a", "b", 1.0, 2)))
    assert [s.name for s in board.standings] == ["b", "a"]
    best = board.standings[0]
    assert (best.wins, best.ties, best.losses) == (6, 2, 2)
    assert best.win_rate.value == pytest.approx(0.7)
    assert best.strength.value == pytest.approx(0.7)  # between two, the chance to beat the other
    assert (best.win_rate.n, best.win_rate.over) == (10, "10 comparisons of 10 tasks")
    assert board.pairs["a", "b"].value == pytest.approx(0.3)
    assert (board.comparisons, board.judgments, board.tasks, board.limited) == (10, 10, 10, False)
    low, high = best.win_rate.low, best.win_rate.high
    assert low is not None and high is not None and low < 0.5 < 0.7 < high
    assert best.places == (1, 2)  # ten votes settle nothing


def test_a_ranking_is_all_its_pairs() -> None:
    """c and d are tied, b is not ranked, and of e nobody knows who wrote it."""
    board = leaderboard([judged(1, ("a", "b", "c", "d", ""), (1, None, 2, 2, 3))])
    found = named(board)
    assert set(found) == {"a", "c", "d"}
    assert [(found[n].wins, found[n].ties, found[n].losses) for n in "acd"] == [(2, 0, 0), (0, 1, 1), (0, 1, 1)]
    assert board.pairs["c", "d"].value == 0.5
    assert (board.comparisons, board.judgments, board.tasks) == (3, 1, 1)


def test_two_completions_of_one_source_are_not_compared() -> None:
    board = leaderboard([judged(1, ("a", "a", "b"), (1, 3, 2))])
    assert (board.comparisons, board.pairs["a", "b"].value) == (2, 0.5)


def test_without_two_sources_there_is_nothing_to_say() -> None:
    for nothing in ([], [judged(1, ("a", "a"), (1, 2))], [judged(1, ("", "a"), (1, 2))]):
        board = leaderboard(nothing)
        assert (board.standings, board.pairs, board.comparisons) == ((), {}, 0)
        assert (board.length.value, board.length.why) == (
            None,
            "needs a ranking of two completions from different sources",
        )
    skipped = Judged(1, "arena", "ann", {}, "unclear", sources={1: "a", 2: "b"}, lengths={1: 1, 2: 1})
    assert leaderboard([skipped]).standings == ()


def test_who_won_everything_is_finite_and_no_certainty() -> None:
    """Ten of ten. One tie more: odds of 10.5 to 0.5. Clopper & Pearson's interval begins at 0.69, Wilson's at 0.72."""
    board = leaderboard(votes(("a", "b", 1.0, 10)))
    best = board.standings[0]
    assert board.limited
    assert best.win_rate.value == 1.0 and best.win_rate.high == 1.0
    assert best.strength.value == pytest.approx(10.5 / 11)
    # Of 12 drawn from ten wins and one of each, 3 losses or more come in 7 %, and 4 or more in 1.5 %.
    assert best.win_rate.low == best.strength.low == pytest.approx(9 / 12)
    assert best.places == (1, 1)


def test_few_tasks_have_no_interval_and_no_places() -> None:
    board = leaderboard(votes(("a", "b", 1.0, 9)))
    best = board.standings[0]
    assert (best.win_rate.low, best.strength.high, best.places) == (None, None, (1, 2))


def test_strengths_average_over_the_others() -> None:
    """a beats b 3:1 and c 3:1, b and c are even: strengths log 3, 0, 0 but for the mean."""
    found = [("a", "b", 1.0, 3), ("a", "b", 0.0, 1), ("a", "c", 1.0, 3), ("a", "c", 0.0, 1)]
    board = named(leaderboard(votes(*found, ("b", "c", 1.0, 2), ("b", "c", 0.0, 2))))
    assert board["a"].strength.value == pytest.approx(0.75)
    assert board["b"].strength.value == pytest.approx((0.25 + 0.5) / 2)


def test_who_never_met_is_not_compared() -> None:
    met = [("a", "b", 1.0, 8), ("a", "b", 0.0, 4), ("b", "c", 1.0, 8), ("b", "c", 0.0, 4)]
    apart = [("x", "y", 1.0, 11), ("x", "y", 0.0, 1)]
    board = leaderboard(votes(*apart, *met))
    assert [(s.name, s.group) for s in board.standings] == [("a", 0), ("b", 0), ("c", 0), ("x", 1), ("y", 1)]
    assert ("a", "c") not in board.pairs and ("a", "x") not in board.pairs
    assert named(board)["x"].places == (1, 1)  # of its own two
    assert named(board)["a"].strength.value == pytest.approx((2 / 3 + 4 / 5) / 2)  # odds 2 and 2 * 2


def test_votes_on_one_task_are_not_independent() -> None:
    """Each of 20 tasks asked of ten people who agree is worth 20 votes, not 200."""
    rng = np.random.default_rng(0)
    wins = [float(rng.random() < 0.6) for _ in range(20)]
    once = leaderboard([vote(t, "a", "b", won) for t, won in enumerate(wins)])
    tenfold = leaderboard([vote(t, "a", "b", won) for t, won in enumerate(wins) for _ in range(10)])
    apart = leaderboard([vote(10 * t + i, "a", "b", won) for t, won in enumerate(wins) for i in range(10)])

    def width(board: Leaderboard) -> float:
        found = board.standings[0].win_rate
        assert found.low is not None and found.high is not None
        return found.high - found.low

    assert width(tenfold) == pytest.approx(width(once), rel=0.15)
    assert width(apart) < 0.5 * width(once)


def test_intervals_hold_what_they_should() -> None:
    """Of 200 campaigns of 40 votes each at a true 0.75, about 190 intervals hold it; for the strengths too."""
    rng = np.random.default_rng(5)
    held = {"win_rate": 0, "strength": 0}
    for _ in range(200):
        board = leaderboard([vote(t, "a", "b", float(rng.random() < 0.75)) for t in range(40)], resamples=300)
        for name in held:
            found = getattr(named(board)["a"], name)
            held[name] += found.low <= 0.75 <= found.high
    assert all(180 <= n <= 199 for n in held.values()), held


# --- length ------------------------------------------------------------------------------------------------------


def simulated(
    seed: int, number: int, strengths: dict[str, float], longer: dict[str, float], worth: float
) -> list[Judged]:
    """Votes by people who like what is long: of equals, 100 characters more are worth `worth` in log-odds."""
    rng = np.random.default_rng(seed)
    names = list(strengths)
    found = []
    for task in range(number):
        a, b = rng.choice(names, 2, replace=False)
        lengths = [max(1, round(300 + longer[n] + 100 * rng.standard_normal())) for n in (a, b)]
        gap = strengths[a] - strengths[b] + worth * (lengths[0] - lengths[1]) / 100
        found.append(vote(task, a, b, float(rng.random() < expit(gap)), lengths))
    return found


def test_length_wins_the_plain_ranking_and_not_the_controlled_one() -> None:
    strengths = {"good": 0.5, "plain": 0.0, "windy": -0.5}
    board = leaderboard(simulated(1, 3000, strengths, {"good": -80, "plain": 0, "windy": 80}, worth=0.8))
    assert [s.name for s in board.standings] == ["windy", "plain", "good"]
    found = named(board)
    places = {n: found[n].equal_length_places for n in strengths}
    assert places == {"good": (1, 1), "plain": (2, 2), "windy": (3, 3)}
    true = (expit(0.5) + expit(1.0)) / 2
    of = found["good"].equal_length
    assert of.value == pytest.approx(true, abs=0.03)
    assert of.low is not None and of.high is not None and of.low < true < of.high
    assert found["windy"].mean_length - found["good"].mean_length == pytest.approx(160, abs=10)
    assert board.length.low is not None and board.length.low > 0.6


def test_where_length_is_worth_nothing_nothing_changes() -> None:
    board = leaderboard(simulated(2, 2000, {"a": 0.6, "b": 0.0}, {"a": 40, "b": 0}, worth=0.0))
    assert board.length.low is not None and board.length.high is not None
    assert board.length.low < 0.5 < board.length.high
    for s in board.standings:
        assert s.equal_length.value == pytest.approx(s.strength.value, abs=0.04)
    assert board.length_unit == pytest.approx(math.sqrt(2 * 100**2 + 40**2), rel=0.05)


def test_the_worth_of_length_is_that_of_one_unit() -> None:
    """Equal contestants whose longer text won 3 of 4: the contrast is tanh(1) everywhere, so the odds are 3."""
    found = [vote(t, *("ab" if t % 2 else "ba"), float(t % 4 != 0), (30, 10)) for t in range(400)]
    found += [vote(400 + t, *("ab" if t % 2 else "ba"), float((t + 1) % 4 != 0), (30, 10)) for t in range(400)]
    board = leaderboard(found, resamples=50)
    assert board.length_unit == 20
    assert board.length.value == pytest.approx(0.75, abs=1e-3)


def test_what_cannot_be_told_apart_is_not_claimed() -> None:
    always = [vote(t, "long", "short", float(t % 3 > 0), (120 + t % 2, 20)) for t in range(60)]
    board = leaderboard(always)
    assert board.standings[0].equal_length.value is None
    assert board.standings[0].equal_length_places is None
    assert board.length.why == (
        "who wrote an answer says how long it is, so nothing tells the worth of the one from that of the other"
    )
    alike = leaderboard(votes(("a", "b", 1.0, 7), ("a", "b", 0.0, 5)))
    assert alike.standings[0].equal_length.value is None
    assert alike.length.why == "all completions that were compared are of one length"


def test_where_the_longer_always_wins_the_numbers_stay_finite() -> None:
    rng = np.random.default_rng(3)
    found = []
    for task in range(30):
        lengths = rng.choice(np.arange(10, 200), 2, replace=False)
        found.append(vote(task, "a", "b", float(lengths[0] > lengths[1]), [int(n) for n in lengths]))
    board = leaderboard(found)
    for s in board.standings:
        for estimate in (s.strength, s.equal_length, board.length):
            assert estimate.low is not None and estimate.high is not None and estimate.value is not None
            assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
    assert board.length.value is not None and board.length.value > 0.9


def test_the_same_votes_give_the_same_numbers() -> None:
    found = simulated(4, 60, {"a": 0.5, "b": 0.0}, {"a": 0, "b": 0}, worth=0.3)
    assert leaderboard(found) == leaderboard(found)


def test_rankings_count_alike_in_whichever_order_they_name_the_completions() -> None:
    found = simulated(4, 80, {"a": 0.5, "b": 0.0, "c": 0.2}, {"a": 50, "b": 0, "c": 0}, worth=0.5)
    turned = [
        Judged(j.task_id, j.batch, j.labeler, dict(reversed(j.ranks.items())), sources=j.sources, lengths=j.lengths)
        for j in found
    ]
    ours, theirs = leaderboard(found), leaderboard(turned)
    for s in ours.standings:
        other = named(theirs)[s.name]
        assert other.strength.value == pytest.approx(s.strength.value)
        assert other.equal_length.value == pytest.approx(s.equal_length.value)
        assert other.equal_length.low == pytest.approx(s.equal_length.low)
