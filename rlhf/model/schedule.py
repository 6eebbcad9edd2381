"""The learning rate over a stage's steps."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from rlhf.config_base import OptimizerSection


def rate_factor(step: int, steps: int, warmup: int, schedule: str) -> float:
    """The share of the full rate at `step` (from 0) of `steps`: it rises over `warmup` steps, then follows `schedule`.

    Every step learns: the first has 1 / warmup of the rate, and the last more than nothing.
    """
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(steps - warmup, 1)
    if schedule == "linear":
        return max(1.0 - done, 0.0)
    if schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0)))
    return 1.0


def build_scheduler(optimizer: Optimizer, section: OptimizerSection, steps: int) -> LambdaLR:
    """The schedule of `section` over `steps` optimizer steps, for every parameter group alike."""
    warmup = int(section.warmup_fraction * steps)
    return LambdaLR(optimizer, lambda step: rate_factor(step, steps, warmup, section.schedule))
