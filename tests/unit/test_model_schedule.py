"""The learning rate's share at each step, by hand."""

from __future__ import annotations

import pytest

from rlhf.model.schedule import rate_factor


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]),  # after 2 steps of warm-up: 1 - 0/4, 1/4, 2/4, 3/4
        ("cosine", [0.5, 1.0, 1.0, 0.853553, 0.5, 0.146447]),  # (1 + cos(0, pi/4, pi/2, 3 pi/4)) / 2
    ],
)
def test_six_steps_with_two_of_warmup(schedule: str, expected: list[float]) -> None:
    assert [rate_factor(step, 6, 2, schedule) for step in range(6)] == pytest.approx(expected, abs=1e-6)


def test_without_warmup_the_first_step_has_the_full_rate_and_the_last_is_not_lost() -> None:
    assert [rate_factor(step, 4, 0, "linear") for step in range(4)] == [1.0, 0.75, 0.5, 0.25]
