"""A reward model from people's rankings: adapter `reward` (or `gold`) with a scalar head, K-wise loss.

A ranking of K completions is one batch element; each completion is encoded once (Ouyang 2022, section 3.5).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from rlhf.config import Config, RewardSection
from rlhf.data.encoding import Encoder
from rlhf.data.records import Ranking
from rlhf.data.sources import source_fingerprint
from rlhf.errors import ConfigError, DataError, TrainingError
from rlhf.model.adapters import save_adapter
from rlhf.model.base import SharedBase
from rlhf.model.schedule import build_scheduler
from rlhf.model.scores import score_completions
from rlhf.ops.ranking import kwise_loss, pair_accuracy, rao_kupper_loss
from rlhf.preferences import pairwise_agreement
from rlhf.stages.common import adapter_folder
from rlhf.stages.manifest import Plan
from rlhf.stages.rankings import (
    Encoded,
    compared,
    encode,
    labels_fingerprint,
    lessons,
    split_rankings,
    teaches,
)
from rlhf.stages.tracking import Tracker


def plan(config: Config, name: str = "reward") -> Plan:
    """What the stage depends on; `name` is `reward` or `gold`."""
    section = _section(config, name)
    inputs = {"labels": labels_fingerprint(config, section)}
    if section.eval_rankings:
        inputs["eval_rankings"] = source_fingerprint(section.eval_rankings)
    return Plan(
        name,
        sections={"model": config.model, "data": config.data, name: section},
        inputs=inputs,
        parents=(),
        outputs=(adapter_folder(config, name),),
    )


def run(config: Config, base: SharedBase, tracker: Tracker, name: str = "reward") -> dict[str, Any]:
    """Train and save the adapter `name` with its head; returns what the summary says of it."""
    section, encoder = _section(config, name), Encoder(base.tokenizer)

    # 1. Rankings from the label store, and held-out ones to measure with; no prompt is in both.
    train, held_out = split_rankings(config, section)
    teaching = [r for r in train if teaches(r, section)]
    if not teaching:
        raise DataError(f"{name}: none of the {len(train)} rankings prefers one completion to another; rank some apart")
    encoded, longer = encode(config, encoder, lessons(config, section, train), f"{name}: rankings")
    measured = _comparisons(config, encoder, held_out, f"{name}: held-out rankings")

    # 2. A fresh adapter whose head starts at zero: every completion scores 0.
    if name in base.adapters:
        base.remove_adapter(name)
    base.add_adapter(name, head=True)

    with base.dense_weights():
        # 3. Minimise the K-wise loss.
        _train(config, section, base, name, encoded, tracker)

        # 4. Measure it on held-out comparisons, beside how far two people agree on the same ones.
        result = {**_accuracy(base, name, measured), **_agreement(held_out)}
    result |= {
        "rankings": len(encoded),
        "skipped_rankings": len(train) - len(teaching),
        "over_long": longer,
        "labelers": len({r.labeler for r in train}),
    }
    save_adapter(base, name, adapter_folder(config, name), record={"stage": name, "result": result})
    return result


def _comparisons(config: Config, encoder: Encoder, held_out: Sequence[Ranking], what: str) -> list[Encoded]:
    """The held-out completions that were compared, each labelled by the first judgment of it."""
    first: dict[tuple[str, tuple[str, ...]], Ranking] = {}
    for ranking in held_out:
        first.setdefault(compared(ranking), ranking)
    return encode(config, encoder, list(first.values()), what)[0]


def _accuracy(base: SharedBase, name: str, measured: Sequence[Encoded]) -> dict[str, Any]:
    """The share of untied pairs that the adapter orders rightly; each distinct sequence is scored once."""
    unique = sorted({(e.prompt, c) for e in measured for c in e.completions})
    groups = [(prompt, [c for _, c in same]) for prompt, same in groupby(unique, key=itemgetter(0))]
    with base.active(name):
        values = score_completions(base, name, groups).cpu()
    scores = dict(zip(unique, values.tolist(), strict=True))
    right = pairs = 0.0
    for e in measured:
        r, n = pair_accuracy(torch.tensor([[scores[e.prompt, c] for c in e.completions]]), torch.tensor([e.ranks]))
        right, pairs = right + float(r), pairs + float(n)
    return {
        "accuracy": right / pairs if pairs else None,
        "pairs": int(pairs),
        "score_mean": float(values.mean()),
        "score_std": float(values.std()),
    }


def _agreement(held_out: Sequence[Ranking]) -> dict[str, Any]:
    """How far two judgments of the same pair agree: what a model of them can reach."""
    agreement = pairwise_agreement(held_out)
    return {"human_agreement": agreement.value, "agreement_pairs": agreement.pairs}


def _train(
    config: Config, section: RewardSection, base: SharedBase, name: str, rankings: list[Encoded], tracker: Tracker
) -> None:
    per_epoch = math.ceil(len(rankings) / section.batch_size)
    steps = max(1, math.ceil(per_epoch * section.epochs))
    parameters = base.adapter_parameters(name)
    optimizer = torch.optim.AdamW(
        parameters, lr=section.learning_rate, eps=section.adam_eps, weight_decay=section.weight_decay
    )
    scheduler = build_scheduler(optimizer, section, steps)
    tracker.start(name, steps)
    for step, batch in zip(range(1, steps + 1), _batches(rankings, section.batch_size, config.seed), strict=False):
        optimizer.zero_grad(set_to_none=True)
        loss_sum = right = pairs = 0.0
        for start in range(0, len(batch), section.micro_batch_size):
            part = batch[start : start + section.micro_batch_size]
            with base.active(name, train=True):
                scores, ranks = _score_rankings(base, name, part)
                losses, _ = _losses(section, scores, ranks)
                (losses.sum() / len(batch)).backward()
            loss_sum += float(losses.detach().sum())
            good, count = pair_accuracy(scores.detach(), ranks)
            right, pairs = right + float(good.sum()), pairs + float(count.sum())
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, section.max_grad_norm))
        if not math.isfinite(norm):
            raise TrainingError(f"{name}: the gradient's norm is {norm} at step {step}; lower {name}.learning_rate")
        optimizer.step()
        rate = scheduler.get_last_lr()[0]
        scheduler.step()
        accuracy = right / pairs if pairs else 0.5
        tracker.log(
            name, step, steps, loss=loss_sum / len(batch), accuracy=accuracy, learning_rate=rate, grad_norm=norm
        )


def _batches(rankings: list[Encoded], size: int, seed: int) -> Iterator[list[Encoded]]:
    """Shuffled batches without end; every ranking comes once an epoch."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(rankings), generator=generator).tolist()
        for start in range(0, len(order), size):
            yield [rankings[i] for i in order[start : start + size]]


def _score_rankings(base: SharedBase, name: str, rankings: Sequence[Encoded]) -> tuple[Tensor, Tensor]:
    """Scores and ranks, `(B, K)` each, K the largest of the batch; padding has rank 0."""
    flat = score_completions(base, name, [(e.prompt, e.completions) for e in rankings])
    width = max(len(e.ranks) for e in rankings)
    rows = torch.tensor([b for b, e in enumerate(rankings) for _ in e.ranks], device=base.device)
    columns = torch.tensor([k for e in rankings for k in range(len(e.ranks))], device=base.device)
    scores = torch.zeros((len(rankings), width), device=base.device).index_put((rows, columns), flat)
    ranks = torch.zeros((len(rankings), width), dtype=torch.long, device=base.device)
    ranks[rows, columns] = torch.tensor([r for e in rankings for r in e.ranks], device=base.device)
    return scores, ranks


def _losses(section: RewardSection, scores: Tensor, ranks: Tensor) -> tuple[Tensor, Tensor]:
    if section.ties == "rao-kupper":
        return rao_kupper_loss(scores, ranks, section.tie_threshold)
    return kwise_loss(scores, ranks)


def _section(config: Config, name: str) -> RewardSection:
    section = config.reward if name == "reward" else config.gold
    if section is None:
        raise ConfigError("gold: this config has no gold section; add one, or train reward")
    return section
