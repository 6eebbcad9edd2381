"""A reward model's rankings: out of the label store, split into what it learns from and what it is measured on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rlhf.config import Config, RewardSection
from rlhf.data.encoding import Encoder, fit
from rlhf.data.records import Ranking, prompt_key
from rlhf.data.sources import BUILTIN, Split, load_rankings
from rlhf.data.splits import check_no_leak, split_by_hash
from rlhf.errors import StoreError
from rlhf.preferences import LabelStore
from rlhf.stages.common import imported_batch, seeded_sample


@dataclass(frozen=True)
class Encoded:
    """A ranking as token ids: `completions[i]` ends with EOS and has rank `ranks[i]` (0 = not ranked)."""

    prompt: tuple[int, ...]
    completions: tuple[tuple[int, ...], ...]
    ranks: tuple[int, ...]


def split_rankings(config: Config, section: RewardSection) -> tuple[list[Ranking], list[Ranking]]:
    """Training and held-out rankings; no prompt is in both."""
    train = _stored(config, section)
    if section.eval_rankings is None:
        train, held_out = split_by_hash(train, config.data.eval_fraction)
    else:
        split: Split | None = "eval" if section.eval_rankings.startswith(BUILTIN) else None
        held_out = load_rankings(section.eval_rankings, split)
    chosen = set(list(dict.fromkeys(compared(r) for r in held_out))[: section.max_eval_rankings])
    held_out = [r for r in held_out if compared(r) in chosen]
    check_no_leak(train, held_out)
    return train, held_out


def compared(ranking: Ranking) -> tuple[str, tuple[str, ...]]:
    """What was compared: two judgments of it measure agreement."""
    return prompt_key(ranking.prompt), ranking.completions


def _stored(config: Config, section: RewardSection) -> list[Ranking]:
    """The rankings of the section's batches; each says in `meta["batch"]` where it is from."""
    with LabelStore.open(config.store_url, project=config.store.project) as store:
        batches = section.batches or store.batches()
        rankings = [replace(r, meta={**r.meta, "batch": b}) for b in batches for r in store.rankings(batch=b)]
    if not rankings:
        where = f"batches {', '.join(section.batches)}" if section.batches else "any batch"
        raise StoreError(
            f"{config.store_url}: holds no rankings in {where}; rank some with `rlhf label`, "
            "or set reward.rankings to a file"
        )
    return rankings


def labels_fingerprint(config: Config, section: RewardSection) -> str:
    """Changes with any ranking of the section's batches."""
    with LabelStore.open(config.store_url, project=config.store.project) as store:
        batches = section.batches or store.batches()
        return ":".join(store.fingerprint(batch=batch) for batch in batches)


def teaches(ranking: Ranking, section: RewardSection) -> bool:
    """Whether there are two different ranks or, where ties are modelled, two ranked completions."""
    known = [r for r in ranking.ranks if r is not None]
    return len(known) > 1 if section.ties == "rao-kupper" else len(set(known)) > 1


def lessons(config: Config, section: RewardSection, train: Sequence[Ranking]) -> list[Ranking]:
    """What of the training rankings a reward model learns from.

    Of those that teach: `max_rankings` of the imported ones, and all that people made in this store besides: few, and
    worth more.
    """
    taught = [r for r in train if teaches(r, section)]
    imported = imported_batch(section)
    own = [r for r in taught if imported is not None and r.meta["batch"] != imported]
    others = [r for r in taught if imported is None or r.meta["batch"] == imported]
    return seeded_sample(others, section.max_rankings, config.seed) + own


def encode(config: Config, encoder: Encoder, rankings: Sequence[Ranking], what: str) -> tuple[list[Encoded], int]:
    """The rankings as token ids, those with an over-long completion refused or counted as data.over_long says."""
    cache: dict[str, list[int]] = {}
    encoded = []
    for ranking in rankings:
        key = prompt_key(ranking.prompt)
        prompt = cache.get(key) or encoder.prompt(ranking.prompt)
        cache[key] = prompt
        completions = tuple(tuple(encoder.response(c)) for c in ranking.completions)
        encoded.append(Encoded(tuple(prompt), completions, tuple(r or 0 for r in ranking.ranks)))
    lengths = [len(e.prompt) + max(map(len, e.completions)) for e in encoded]
    return fit(encoded, lengths, config.model.max_length, config.data.over_long, what)
