"""What a response is worth: reward adapters on the shared base, and Python callables, under one interface.

A judge is named `adapter:NAME` or `module:function`. A function takes two lists of text, prompts and completions, and
returns one number for each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from rlhf.data.encoding import Encoder
from rlhf.data.records import PromptLike, prompt_text
from rlhf.errors import ConfigError, RLHFError, TrainingError
from rlhf.functions import Scorer, checked_scores, import_function
from rlhf.model.base import SharedBase
from rlhf.model.scores import score_sequences

Judge = Callable[[Sequence[PromptLike], Sequence[Sequence[int]], Sequence[Sequence[int]]], Tensor]


def load_judge(name: str, base: SharedBase, encoder: Encoder) -> Judge:
    """The judge called `name`: prompts (records), prompt ids and response ids in, scores `(B,)` fp32 out.

    Raises:
        ConfigError: the function cannot be imported.
        ArtifactError: the base has no such adapter.
    """
    kind, _, rest = name.partition(":")
    if kind == "adapter":
        return _adapter_judge(rest, base)
    return _callable_judge(name, import_function(name), base, encoder)


def probe_judge(name: str) -> None:
    """Let a function score one short text before anything trains, so that a package it lacks shows now.

    Raises:
        ConfigError: it cannot be imported, raises, or returns something else than one number.
    """
    function = import_function(name)
    try:
        checked_scores(function, ["x"], ["y"], f"judge {name!r}", TrainingError)
    except TrainingError as error:
        raise ConfigError(str(error)) from error
    except RLHFError as error:
        raise ConfigError(f"judge {name!r}: {error}") from error


def combine(judges: Mapping[str, Judge], weights: Mapping[str, float]) -> Judge:
    """The weighted sum of judges."""

    def judge(
        prompts: Sequence[PromptLike], prompt_ids: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]
    ) -> Tensor:
        scores = [weights[name] * each(prompts, prompt_ids, responses) for name, each in judges.items()]
        return torch.stack(scores).sum(dim=0)

    return judge


def _adapter_judge(adapter: str, base: SharedBase) -> Judge:
    with base.active(adapter):  # fails now, not in the middle of a run
        pass

    def judge(
        _prompts: Sequence[PromptLike], prompt_ids: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]
    ) -> Tensor:
        with base.active(adapter):
            return score_sequences(base, adapter, [[*p, *r] for p, r in zip(prompt_ids, responses, strict=True)])

    return judge


def _callable_judge(name: str, function: Scorer, base: SharedBase, encoder: Encoder) -> Judge:
    def judge(
        prompts: Sequence[PromptLike], _prompt_ids: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]
    ) -> Tensor:
        shown, texts = [prompt_text(p) for p in prompts], [encoder.text(r) for r in responses]
        scores = checked_scores(function, shown, texts, f"judge {name!r}", TrainingError)
        return torch.tensor(scores, dtype=torch.float32, device=base.device)

    return judge
