"""The controllers and the score's normaliser, against numbers worked by hand."""

from __future__ import annotations

import random

import pytest

from rlhf.config_ppo import KLSection, LengthSection
from rlhf.ppo.control import KLController, LengthController, ScoreNormalizer


@pytest.mark.parametrize(
    ("kl", "coef"),
    [
        (5.4, 0.049872),  # error -0.1: 0.05 (1 - 0.1 * 256 / 10000)
        (6.6, 0.050128),
        (6.0, 0.05),
        (7.2, 0.050256),  # error 0.2, the most that counts
        (600.0, 0.050256),
        (0.0, 0.049744),  # error -1, taken as -0.2
        (-3.0, 0.049744),
    ],
)
def test_the_adaptive_kl_controller(kl: float, coef: float) -> None:
    controller = KLController(KLSection(coef=0.05, target=6.0, horizon=10_000), 0.05)
    controller.update(kl, episodes=256)
    assert controller.coef == pytest.approx(coef, abs=1e-12)


def test_kl_updates_multiply() -> None:
    controller = KLController(KLSection(coef=0.05, target=6.0, horizon=1000), 0.05)
    for _ in range(3):
        controller.update(12.0, episodes=500)
    assert controller.coef == pytest.approx(0.05 * 1.1 * 1.1 * 1.1)


def test_one_round_never_moves_the_coefficient_by_more_than_a_fifth() -> None:
    controller = KLController(KLSection(coef=0.05, target=6.0, horizon=10), 0.05)
    controller.update(60.0, episodes=256)
    assert controller.coef == pytest.approx(0.06)


def test_a_fixed_kl_coefficient_stays() -> None:
    controller = KLController(KLSection(coef=0.05, controller="fixed"), 0.05)
    controller.update(600.0, episodes=256)
    assert controller.coef == 0.05


def test_the_kl_controller_holds_a_policy_at_its_target() -> None:
    """A policy whose KL is 0.4 / coef settles where coef = 0.4 / 6."""
    controller = KLController(KLSection(coef=0.01, target=6.0, horizon=1000), 0.01)
    for _ in range(400):
        controller.update(0.4 / controller.coef, episodes=100)
    assert controller.coef == pytest.approx(0.4 / 6, rel=1e-2)


def test_the_length_controller() -> None:
    controller = LengthController(LengthSection(controller="adaptive", gain=1.0, integral=0.5, limit=3.0), target=20.0)
    assert controller.bonus(35.0) == 0.0
    controller.update(15.0)  # a quarter too short: 1 * 0.25 + 0.5 * 0.25
    assert controller.coef == 0.375
    assert controller.bonus(30.0) == 0.1875
    assert controller.bonus(20.0) == 0.0
    assert controller.bonus(10.0) == -0.1875
    controller.update(40.0)  # twice as long: 1 * -1 + 0.5 * (0.25 - 1)
    assert controller.coef == -1.375


def test_the_length_controllers_sum_holds_where_the_limit_binds() -> None:
    controller = LengthController(LengthSection(controller="adaptive", gain=4.0, integral=1.0, limit=2.0), target=10.0)
    controller.update(5.0)  # wanted 4 * 0.5 + 1 * 0.5 = 2.5
    assert (controller.coef, controller.errors) == (2.0, 0.0)
    controller.update(8.0)  # 4 * 0.2 + 1 * 0.2
    assert (controller.coef, controller.errors) == pytest.approx((1.0, 0.2))


def test_a_mean_that_grows_under_a_constant_bonus_does_not_overshoot() -> None:
    """A plant without an equilibrium: every round the pull takes 10 % of the target off, a unit of the coefficient adds
    11 %. With the defaults the mean never passes the target by a tenth; with the integral alone it does."""
    highest = {}
    for gain in (4.0, 1e-9):
        controller = LengthController(LengthSection(controller="adaptive", gain=gain, integral=0.5), target=20.0)
        mean, seen = 20.0, []
        for _ in range(60):
            mean += 20.0 * (0.11 * controller.coef - 0.1)
            controller.update(mean)
            seen.append(mean)
        highest[gain] = max(seen)
    assert highest[4.0] < 22.0 < highest[1e-9]


@pytest.mark.parametrize(("mean", "limit"), [(0.0, 3.0), (1000.0, -3.0)])
def test_the_length_coefficient_stays_within_its_limit(mean: float, limit: float) -> None:
    controller = LengthController(LengthSection(controller="adaptive", gain=2.0, limit=3.0), target=10.0)
    for _ in range(10):
        controller.update(mean)
    assert controller.coef == limit


def test_a_length_controller_that_is_off_does_nothing() -> None:
    controller = LengthController(LengthSection(), target=10.0)
    controller.update(2.0)
    assert controller.coef == 0.0 and controller.bonus(2.0) == 0.0


@pytest.mark.parametrize("pull", [-0.5, 0.6])
def test_the_mean_length_converges_to_the_target(pull: float) -> None:
    """A plant: the score alone pulls the mean to (1 + pull) of the target, each unit of the coefficient adds 0.4,
    the policy follows slowly, and what is measured is noisy. In the end the mean is the target's."""
    controller = LengthController(LengthSection(controller="adaptive", gain=0.3, limit=3.0), target=24.0)
    noise, mean, history = random.Random(0), 24.0, []
    for _ in range(300):
        mean += 0.3 * (24.0 * (1.0 + pull + 0.4 * controller.coef) - mean)
        history.append(mean)
        controller.update(mean + noise.gauss(0.0, 0.5))
    assert max(abs(m - 24.0) for m in history[:10]) > 2.0, "the pull must show at first"
    assert sum(history[-50:]) / 50 == pytest.approx(24.0, rel=0.02)
    assert controller.coef == pytest.approx(-pull / 0.4, rel=0.1)


def test_leveling_is_the_slope_of_the_least_squares_line() -> None:
    controller = LengthController(LengthSection(level=True), target=10.0)
    assert controller.leveling([1.0, 3.0, 5.0], [1.0, 2.0, 3.0]) == 2.0
    # means 2 and 2; shared (-1)(-1) + 0 + (1)(0) = 1... over (1 + 0 + 1): one half
    assert controller.leveling([1.0, 3.0, 2.0], [1.0, 2.0, 3.0]) == 0.5
    assert controller.leveling([4.0, -4.0, 0.0], [7.0, 7.0, 7.0]) == 0.0
    assert controller.leveling([1.0, 3.0], [1.0, 2.0]) == 0.0
    assert LengthController(LengthSection(), 10.0).leveling([1.0, 3.0, 5.0], [1.0, 2.0, 3.0]) == 0.0


def test_scores_are_normalised_and_clipped() -> None:
    normalizer = ScoreNormalizer(mean=2.0, std=0.5, clip=5.0)
    assert [normalizer(s) for s in (2.0, 3.0, 1.25, 4.5, 100.0, -100.0)] == [0.0, 2.0, -1.5, 5.0, 5.0, -5.0]


def test_equal_scores_of_the_reference_do_not_divide_by_zero() -> None:
    normalizer = ScoreNormalizer(mean=2.0, std=0.0, clip=5.0)
    assert [normalizer(s) for s in (2.0, 2.5, 1.5)] == [0.0, 5.0, -5.0]
