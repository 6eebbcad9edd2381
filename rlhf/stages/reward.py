"""A reward model from people's rankings: adapter `reward` (or `gold`) with a scalar head, K-wise loss.

A ranking of K completions is one batch element; each completion is encoded once (Ouyang 2022, section 3.5).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import get_scheduler

from rlhf.config import Config, RewardSection
from rlhf.data.encoding import Encoder, fit
from rlhf.data.records import Ranking, prompt_key
from rlhf.data.sources import BUILTIN, load_rankings, source_fingerprint
from rlhf.data.splits import check_no_leak, split_by_hash
from rlhf.errors import ConfigError, DataError, StoreError, TrainingError
from rlhf.model.adapters import save_adapter
from rlhf.model.base import SharedBase
from rlhf.model.scores import score_sequences
from rlhf.ops.ranking import kwise_loss, pair_accuracy, rao_kupper_loss
from rlhf.preferences import LabelStore, pairwise_agreement
from rlhf.stages.common import adapter_folder, seeded_sample
from rlhf.stages.manifest import Plan
from rlhf.stages.tracking import Tracker


@dataclass(frozen=True)
class Encoded:
    """A ranking as token ids: `sequences[i]` is prompt + completion i + EOS, of rank `ranks[i]` (0 = not ranked)."""

    sequences: tuple[tuple[int, ...], ...]
    ranks: tuple[int, ...]


def plan(config: Config, name: str = "reward") -> Plan:
    """What the stage depends on; `name` is `reward` or `gold`."""
    section = _section(config, name)
    inputs = {"labels": _labels_fingerprint(config, section)}
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
    train, held_out = _rankings(config, section)
    check_no_leak(train, held_out)
    encoded, longer = _encode(config, encoder, train, f"{name}: rankings")
    usable = [e for e in encoded if _has_untied(e, section)]
    if not usable:
        raise DataError(f"{name}: none of the {len(train)} rankings prefers one completion to another; rank some apart")
    usable = seeded_sample(usable, section.max_rankings, config.seed)

    # 2. A fresh adapter whose head starts at zero: every completion scores 0.
    if name in base.adapters:
        base.remove_adapter(name)
    base.add_adapter(name, head=True)

    # 3. Minimise the K-wise loss.
    _train(config, section, base, name, usable, tracker)

    # 4. Measure it on held-out comparisons, beside how far two people agree on the same ones.
    result = evaluate(config, base, encoder, name, held_out)
    result |= {
        "rankings": len(usable),
        "skipped_rankings": len(encoded) - sum(_has_untied(e, section) for e in encoded),
        "over_long": longer,
        "labelers": len({r.labeler for r in train}),
    }
    save_adapter(base, name, adapter_folder(config, name), record={"stage": name, "result": result})
    return result


def evaluate(
    config: Config, base: SharedBase, encoder: Encoder, name: str, held_out: Sequence[Ranking]
) -> dict[str, Any]:
    """Accuracy over the held-out untied pairs, each labelled by the first judgment of it, and people's own agreement.

    Each distinct sequence is scored once, however many pairs it is in.
    """
    first: dict[tuple[str, tuple[str, ...]], Ranking] = {}
    for ranking in held_out:
        first.setdefault((prompt_key(ranking.prompt), ranking.completions), ranking)
    encoded, longer = _encode(config, encoder, list(first.values()), f"{name}: held-out rankings")
    unique = sorted({s for e in encoded for s in e.sequences})
    with base.active(name):
        scores = dict(zip(unique, score_sequences(base, name, unique).tolist(), strict=True))
    right = pairs = 0.0
    for e in encoded:
        r, n = pair_accuracy(torch.tensor([[scores[s] for s in e.sequences]]), torch.tensor([e.ranks]))
        right, pairs = right + float(r), pairs + float(n)
    agreement = pairwise_agreement(held_out)
    values = torch.tensor(list(scores.values()))
    return {
        "accuracy": right / pairs if pairs else None,
        "pairs": int(pairs),
        "held_out_over_long": longer,
        "human_agreement": agreement.value,
        "agreement_pairs": agreement.pairs,
        "score_mean": float(values.mean()),
        "score_std": float(values.std()),
    }


def _train(
    config: Config, section: RewardSection, base: SharedBase, name: str, rankings: list[Encoded], tracker: Tracker
) -> None:
    per_epoch = math.ceil(len(rankings) / section.batch_size)
    steps = max(1, math.ceil(per_epoch * section.epochs))
    parameters = base.adapter_parameters(name)
    optimizer = torch.optim.AdamW(
        parameters, lr=section.learning_rate, eps=section.adam_eps, weight_decay=section.weight_decay
    )
    schedule = "constant_with_warmup" if section.schedule == "constant" else section.schedule
    scheduler = get_scheduler(schedule, optimizer, int(section.warmup_fraction * steps), steps)
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
    flat = score_sequences(base, name, [s for e in rankings for s in e.sequences])
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


def _has_untied(e: Encoded, section: RewardSection) -> bool:
    """Whether a ranking teaches anything: two different ranks, or (where ties are modelled) two ranked completions."""
    known = [r for r in e.ranks if r > 0]
    return len(known) > 1 if section.ties == "rao-kupper" else len(set(known)) > 1


def _rankings(config: Config, section: RewardSection) -> tuple[list[Ranking], list[Ranking]]:
    """Training and held-out rankings."""
    rankings = _stored(config, section)
    if section.eval_rankings is None:
        train, held_out = split_by_hash(rankings, config.data.eval_fraction)
        return train, held_out
    split = "eval" if section.eval_rankings.startswith(BUILTIN) else None
    held_out = load_rankings(section.eval_rankings, split)
    if section.max_eval_rankings is not None:
        kept: dict[tuple[str, tuple[str, ...]], None] = {}
        for ranking in held_out:
            kept.setdefault((prompt_key(ranking.prompt), ranking.completions))
        chosen = set(list(kept)[: section.max_eval_rankings])
        held_out = [r for r in held_out if (prompt_key(r.prompt), r.completions) in chosen]
    return rankings, held_out


def _stored(config: Config, section: RewardSection) -> list[Ranking]:
    with LabelStore.open(config.store_url) as store:
        batches: Sequence[str | None] = section.batches if section.batches else [None]
        rankings = [r for batch in batches for r in store.rankings(batch=batch)]
    if not rankings:
        where = f"batches {', '.join(section.batches)}" if section.batches else "any batch"
        raise StoreError(
            f"{config.store_url}: holds no rankings in {where}; rank some with `rlhf label`, "
            "or set reward.rankings to a file"
        )
    return rankings


def _labels_fingerprint(config: Config, section: RewardSection) -> str:
    with LabelStore.open(config.store_url) as store:
        batches: Sequence[str | None] = section.batches if section.batches else [None]
        return ":".join(store.fingerprint(batch=batch) for batch in batches)


def _encode(config: Config, encoder: Encoder, rankings: Sequence[Ranking], what: str) -> tuple[list[Encoded], int]:
    """The rankings as token ids, those with an over-long completion refused or counted as data.over_long says."""
    cache: dict[str, list[int]] = {}
    encoded = []
    for ranking in rankings:
        key = prompt_key(ranking.prompt)
        prompt = cache.get(key) or encoder.prompt(ranking.prompt)
        cache[key] = prompt
        sequences = tuple((*prompt, *encoder.response(c)) for c in ranking.completions)
        encoded.append(Encoded(sequences, tuple(r or 0 for r in ranking.ranks)))
    lengths = [max(len(s) for s in e.sequences) for e in encoded]
    return fit(encoded, lengths, config.model.max_length, config.data.over_long, what)


def _section(config: Config, name: str) -> RewardSection:
    section = config.reward if name == "reward" else config.gold
    if section is None:
        raise ConfigError("gold: this config has no gold section; add one, or train reward")
    return section
