"""The order of the label store's tasks: what the reward model does not know comes first, chance keeps its share.

The reward adapter's last hidden state at a completion's last token is what its head reads. A head is fitted to these
features of the rankings that there are, with what they leave open of it, and the tasks are handed out in the order in
which their labels would settle most (rlhf/ops/active.py).

Tasks of held-out prompts are never chosen that way: they come in the order of a hash, in the places that chance has, so
that the rankings that the model is measured on are a random sample of the held-out prompts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from rlhf.config import ActiveSection, Config
from rlhf.data.encoding import Encoder, by_length, pad_right
from rlhf.data.records import Prompt, Ranking, group_of, prompt_key
from rlhf.data.splits import split_by_hash
from rlhf.errors import StoreError
from rlhf.model.base import SharedBase
from rlhf.ops import active as ops
from rlhf.preferences import LabelStore, TaskView
from rlhf.stages.common import need_adapter
from rlhf.stages.manifest import Plan
from rlhf.stages.rankings import Encoded, encode, labels_fingerprint, lessons, split_rankings
from rlhf.stages.tracking import Tracker

STAGE = "active"
JUDGE = "reward"  # the adapter that asks
DIMS = 128  # principal components of the features: more add noise and time, not accuracy
FEWEST = 8  # rankings with an untied pair; a head of fewer knows nothing that chance does not

FIRST = 25  # tasks: a page of the queue, whose disagreement is told beside the mean of all

Tokens = tuple[int, ...]


def wanted(config: Config) -> bool:
    """Whether the store is there and its project hands out tasks in this order."""
    try:
        with LabelStore.open(config.store_url, project=config.store.project) as store:
            return store.settings().order == STAGE
    except StoreError:
        return False


def plan(config: Config) -> Plan:
    """What the stage depends on. It is never up to date: people work on the queue meanwhile."""
    with LabelStore.open(config.store_url, project=config.store.project) as store:
        queue = hashlib.sha256(",".join(str(t.id) for t in _waiting(config, store)).encode()).hexdigest()
    return Plan(
        STAGE,
        sections={"model": config.model, "data": config.data, "reward": config.reward, "active": config.active},
        inputs={"labels": labels_fingerprint(config, config.reward), "waiting": queue},
        parents=(JUDGE,),
        outputs=(),
        present=lambda _result: False,
    )


def run(config: Config, base: SharedBase, tracker: Tracker) -> dict[str, Any]:
    """Order the tasks that wait for people; returns what the summary says of it."""
    section, encoder = config.active, Encoder(base.tokenizer)

    # 1. The tasks that wait, in an order that chance alone decided; those of held-out prompts apart.
    with LabelStore.open(config.store_url, project=config.store.project) as store:
        tasks = by_chance(_waiting(config, store), f"{config.seed} tasks")
    train, measured = split_rankings(config, config.reward)
    free, held_out = sides(config, tasks, [*train, *measured])

    # 2. Their completions as token ids, and those that the reward model learned from.
    known, _ = encode(config, encoder, lessons(config, config.reward, train), f"{STAGE}: rankings")
    asked = [(t, row) for t in free[: section.max_tasks] if (row := _encoded(config, encoder, t))]
    result: dict[str, Any] = {"rankings": len(known), "over_long": min(len(free), section.max_tasks) - len(asked)}
    taught = sum(len({r for r in k.ranks if r}) > 1 for k in known)
    if not asked or taught < FEWEST:
        why = f"fewer than {FEWEST} rankings to learn from" if taught < FEWEST else "nothing for the model to choose"
        tracker.say(f"{STAGE}: {why}; {len(tasks)} tasks wait, in random order")
        ids, chosen = [t.id for t in tasks], []
    else:
        # 3. What the reward model makes of them; a head on that, and how sure the rankings make it.
        rows = [_sequences(k) for k in known] + [row for _, row in asked]
        features, present = _features(config, base, tracker, rows)
        ranks = _padded([k.ranks for k in known], features.shape[1])
        lesson = ops.pair_differences(features[: len(known)], ranks)
        head = ops.fit_head(*lesson[:2])

        # 4. The tasks in the order in which their labels would settle most.
        features, present = features[len(known) :], present[len(known) :]
        order = telling(section, head, lesson, features, present, config.seed)
        chosen = [asked[i][0].id for i in order]

        # 5. Chance has its share of the places: held-out prompts first, while there are any.
        others = [t.id for t in (*held_out, *by_chance(free, f"{config.seed} share"))]
        ids = interleave(chosen, others, section.random_share)
        apart = ops.disagreement(head, features, present)
        first = order[:FIRST]
        result |= {"disagreement": float(apart.mean()), "disagreement_first": float(apart[first].mean())}
        result |= {"first": len(first), "precision": head.precision}
    with LabelStore.open(config.store_url, project=config.store.project) as store:
        ordered = store.reorder(ids)
    share = section.random_share if chosen else 1.0
    return {"tasks": ordered, "chosen": len(chosen), "held_out": len(held_out), "random_share": share, **result}


def telling(
    section: ActiveSection,
    head: ops.Head,
    lesson: tuple[Tensor, Tensor, Tensor],
    features: Tensor,
    present: Tensor,
    seed: int,
) -> list[int]:
    """The tasks' places, first those that `section.acquisition` would ask first; `lesson` is what the head learned."""
    if section.acquisition == "information":
        return ops.most_telling(ops.information(head, features, present), head.covariance, len(features))
    if section.acquisition == "heads":
        heads = ops.bootstrapped(*lesson, head, section.heads, torch.Generator().manual_seed(seed))
        worth = ops.committee(heads, features, present)
    else:
        worth = ops.closeness(head.mean, features, present)
    return [int(i) for i in worth.argsort(descending=True, stable=True)]


def sides(
    config: Config, tasks: Sequence[TaskView], rankings: Sequence[Ranking]
) -> tuple[list[TaskView], list[TaskView]]:
    """`(free, held out)`: the tasks on either side of the reward model's split, which the rankings take part in."""
    if config.reward.eval_rankings is not None:
        return list(tasks), []  # it is measured on a source of its own
    prompts = [Prompt(t.prompt, t.group) for t in tasks] + [Prompt(r.prompt, r.group) for r in rankings]
    measured = {group_of(p) for p in split_by_hash(prompts, config.data.eval_fraction)[1]}
    apart = [group_of(Prompt(t.prompt, t.group)) in measured for t in tasks]
    return [t for t, a in zip(tasks, apart, strict=True) if not a], [t for t, a in zip(tasks, apart, strict=True) if a]


def by_chance(tasks: Iterable[TaskView], salt: str) -> list[TaskView]:
    """An order that depends on the tasks' texts and the salt alone: neither on who asked first nor on any model."""

    def place(task: TaskView) -> bytes:
        texts = [salt, prompt_key(task.prompt), *sorted(c.text for c in task.completions)]
        return hashlib.sha256("\0".join(texts).encode()).digest()

    return sorted(tasks, key=lambda t: (place(t), t.id))


def interleave(chosen: Sequence[int], random: Sequence[int], share: float) -> list[int]:
    """All of them, each once: of every first n, n * share (rounded down) are `random`'s next, while both last."""
    order: dict[int, None] = {}
    left = {True: iter(random), False: iter(chosen)}
    total = len({*chosen, *random})
    while len(order) < total:
        n = len(order)
        chance = int((n + 1) * share + 1e-9) > int(n * share + 1e-9)
        following = _unseen(left[chance], order)
        if following is None:
            following = _unseen(left[not chance], order)
        assert following is not None
        order[following] = None
    return list(order)


def _unseen(ids: Iterator[int], seen: Container[int]) -> int | None:
    return next((i for i in ids if i not in seen), None)


def _waiting(config: Config, store: LabelStore) -> list[TaskView]:
    """The tasks that would teach the reward model: of the batches that it learns from."""
    batches = config.reward.batches
    return [t for t in store.waiting() if batches is None or t.batch in batches]


def _encoded(config: Config, encoder: Encoder, task: TaskView) -> list[Tokens]:
    """Prompt and completion as tokens, for each completion; nothing where one is too long for the model."""
    prompt = encoder.prompt(task.prompt)
    rows = [(*prompt, *encoder.response(c.text)) for c in task.completions]
    return rows if max(map(len, rows)) <= config.model.max_length else []


def _sequences(known: Encoded) -> list[Tokens]:
    return [known.prompt + c for c in known.completions]


def _features(
    config: Config, base: SharedBase, tracker: Tracker, rows: Sequence[Sequence[Tokens]]
) -> tuple[Tensor, Tensor]:
    """What the reward's head reads of every completion, standardized, `(T, K, D)`, and which there are, `(T, K)`."""
    need_adapter(config, base, JUDGE)
    unique = list(dict.fromkeys(tokens for row in rows for tokens in row))
    forwards = by_length([len(tokens) for tokens in unique], base.forward_rows, base.forward_tokens)
    hidden = torch.zeros((len(unique), base.model.config.hidden_size))
    tracker.start(STAGE, len(forwards))
    with base.dense_weights(), base.active(JUDGE):
        for step, chosen in enumerate(forwards, start=1):
            ids, mask = pad_right([unique[i] for i in chosen], base.tokenizer.pad_token_id, base.device)
            last = mask.sum(dim=1) - 1
            hidden[chosen] = base.hidden(ids, mask)[torch.arange(len(last), device=base.device), last].float().cpu()
            tracker.log(STAGE, step, len(forwards))
    place = {tokens: i for i, tokens in enumerate(unique)}
    features = torch.cat([ops.standardized(hidden, DIMS), torch.zeros((1, min(DIMS, *hidden.shape)))])
    width = max(map(len, rows))
    index = torch.tensor([[*(place[t] for t in row), *[-1] * (width - len(row))] for row in rows])
    return features[index], index >= 0


def _padded(ranks: Sequence[Sequence[int]], width: int) -> Tensor:
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in ranks])
