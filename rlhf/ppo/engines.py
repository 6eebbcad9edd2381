"""What can sample a rollout. An engine is a function; a server-backed one would be another of the same shape."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from transformers import GenerationConfig

from rlhf.data.encoding import by_length, pad_left
from rlhf.model.base import SharedBase
from rlhf.ppo.rollout import Rollout, assemble, forwards, sample

# (base, adapter, prompts, *, max_new_tokens, temperature, generator, batch_size, top_k, top_p, value_head) -> Rollout
Engine = Callable[..., Rollout]


def generate(
    base: SharedBase,
    adapter: str | None,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float,
    generator: torch.Generator,
    batch_size: int = 64,
    **_native_only: Any,
) -> Rollout:
    """Sample by transformers' `generate`; logprobs and entropies come from one pass over what it wrote.

    It decodes a batch until its last row ends and keeps no logprobs: slower, but it runs all that `generate` can.
    """
    responses: list[list[int]] = [[] for _ in prompts]
    eos = base.tokenizer.eos_token_id
    seed = int(torch.randint(0, 2**31, (1,), generator=generator))
    devices = [base.device] if base.device.type == "cuda" else []
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=True,
        temperature=temperature,
        top_k=0,
        top_p=1.0,
        use_cache=True,
        eos_token_id=eos,
        pad_token_id=base.tokenizer.pad_token_id,
    )
    with base.active(adapter), base.dense_weights(), torch.random.fork_rng(devices=devices), _settings(base, settings):
        torch.manual_seed(seed)
        for rows in by_length([len(p) for p in prompts], batch_size):
            ids, mask = pad_left([prompts[i] for i in rows], base.tokenizer.pad_token_id, base.device)
            written = base.model.generate(input_ids=ids, attention_mask=mask)
            for row, tokens in zip(rows, written[:, ids.shape[1] :].tolist(), strict=True):
                responses[row] = tokens[: tokens.index(eos) + 1] if eos in tokens else tokens
    zeros = torch.zeros((len(prompts), max_new_tokens), device=base.device)
    rollout = assemble(base, prompts, responses, zeros, zeros.clone())
    for _, at, out in forwards(base, adapter, rollout):
        told = base.token_logprobs(out.hidden, out.tokens, temperature, with_entropy=True)
        rollout.logprobs[at], rollout.entropies[at] = told  # type: ignore[assignment]
    return rollout


@contextlib.contextmanager
def _settings(base: SharedBase, settings: GenerationConfig) -> Iterator[None]:
    """These settings and no other: a model's own (a repetition penalty, say) would hide what was sampled from."""
    before = base.model.generation_config
    base.model.generation_config = settings
    try:
        yield
    finally:
        base.model.generation_config = before


ENGINES: dict[str, Engine] = {"native": sample, "generate": generate}
