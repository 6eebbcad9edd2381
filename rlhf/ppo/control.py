"""Controllers that hold a run near its targets, and the score's normaliser. Plain numbers; each state is JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from rlhf.config_ppo import KLSection, LengthSection


@dataclass
class KLController:
    """The KL coefficient, steered so that the measured KL meets its target (Ziegler 2019, section 2.2).

    coef <- coef (1 + clip(kl / target - 1, -0.2, 0.2) n / horizon), n = episodes since the last call.
    """

    section: KLSection
    coef: float

    def update(self, kl: float, episodes: int) -> None:
        """Take one round's mean KL (nats a response) over `episodes` responses."""
        if self.section.controller == "adaptive":
            error = min(max(kl / self.section.target - 1.0, -0.2), 0.2)
            self.coef *= 1.0 + error * min(episodes / self.section.horizon, 1.0)


@dataclass
class LengthController:
    """A bonus a response for being longer (or shorter) than the reference's mean, steered until the means agree.

    score + coef (length - target) / target, with coef = clip(gain e + integral sum(e), ±limit) and
    e = (target - mean) / target of each round (a proportional-integral controller: the sum finds the bonus that cancels
    what the reward pays for length, the proportional part keeps it from overshooting, as a policy under a constant
    bonus grows longer and longer). With `controller: fixed`, coef stays what the section says. Single responses stay
    free to be short or long.
    """

    section: LengthSection
    target: float
    coef: float = 0.0
    errors: float = 0.0  # the sum of e over the rounds, held where the limit binds

    def bonus(self, length: float) -> float:
        """What is added to the normalised score of a response of `length` tokens."""
        return self.coef * (length - self.target) / self.target

    def leveling(self, totals: Sequence[float], lengths: Sequence[float]) -> float:
        """What a token of length was worth in this rollout: the slope of the least-squares line of totals on lengths.

        Taken off each response's score, it makes reward uncorrelated with length: responses compete at equal length.
        """
        if not self.section.level or len(totals) < 3:
            return 0.0
        mean_total, mean_length = sum(totals) / len(totals), sum(lengths) / len(lengths)
        spread = sum((n - mean_length) ** 2 for n in lengths)
        if spread == 0.0:
            return 0.0
        shared = sum((t - mean_total) * (n - mean_length) for t, n in zip(totals, lengths, strict=True))
        return shared / spread

    def update(self, mean_length: float) -> None:
        """Take one round's mean response length in tokens."""
        if self.section.controller == "adaptive":
            error, limit = (self.target - mean_length) / self.target, self.section.limit
            wanted = self.section.gain * error + self.section.integral * (self.errors + error)
            self.coef = min(max(wanted, -limit), limit)
            if self.coef == wanted:
                self.errors += error


@dataclass(frozen=True)
class ScoreNormalizer:
    """Scores with the reference's mean taken off and divided by its deviation, clipped (Huang 2024, detail 4)."""

    mean: float
    std: float
    clip: float

    def __call__(self, score: float) -> float:
        return min(max((score - self.mean) / max(self.std, 1e-6), -self.clip), self.clip)


@dataclass
class Cycle:
    """Indices of `count` things in random order; all come once before any comes again. `queue` is what is left."""

    count: int
    queue: list[int] = field(default_factory=list)

    def take(self, wanted: int, order: torch.Generator) -> list[int]:
        """The next `wanted` indices; `order` shuffles."""
        while len(self.queue) < wanted:
            self.queue += torch.randperm(self.count, generator=order).tolist()
        taken, self.queue = self.queue[:wanted], self.queue[wanted:]
        return taken
