"""What a response is worth: reward adapters on the shared base, and Python callables, under one interface.

A judge is named `adapter:NAME` or `module:function`. A function takes two lists of text, prompts and completions, and
returns one number for each.
"""

from __future__ import annotations

import importlib
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from rlhf.data.encoding import Encoder
from rlhf.data.records import PromptLike, prompt_text
from rlhf.errors import ConfigError, RLHFError, TrainingError
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
    return _callable_judge(name, import_function(name), encoder)


def import_function(name: str) -> Callable[[list[str], list[str]], Sequence[float]]:
    """The function behind `module:function`."""
    module_name, _, attribute = name.partition(":")
    if (here := os.getcwd()) not in sys.path:  # a judge of your own lies beside your config, installed or not
        sys.path.append(here)
    try:
        function = getattr(importlib.import_module(module_name), attribute)
    except ImportError as error:
        raise ConfigError(f"judge {name!r}: module {module_name!r} cannot be imported ({error})") from error
    except AttributeError:
        raise ConfigError(f"judge {name!r}: module {module_name!r} has no {attribute!r}") from None
    if not callable(function):
        raise ConfigError(f"judge {name!r}: is a {type(function).__name__}, not a function")
    return function  # type: ignore[no-any-return]


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


def _callable_judge(name: str, function: Callable[[list[str], list[str]], Sequence[float]], encoder: Encoder) -> Judge:
    def judge(
        prompts: Sequence[PromptLike], _prompt_ids: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]
    ) -> Tensor:
        texts = [encoder.text(r) for r in responses]
        shown = [prompt_text(p) for p in prompts]
        try:
            scores = [float(s) for s in function(shown, texts)]
        except RLHFError:
            raise
        except Exception as error:
            raise TrainingError(
                f"judge {name!r} raised {type(error).__name__}: {error} (first completion: {texts[0][:80]!r})"
            ) from error
        if len(scores) != len(texts):
            raise TrainingError(f"judge {name!r} returned {len(scores)} scores for {len(texts)} completions")
        for score, text in zip(scores, texts, strict=True):
            if not math.isfinite(score):
                raise TrainingError(
                    f"judge {name!r} returned {score} for the completion {text[:80]!r}; expected a number"
                )
        return torch.tensor(scores, dtype=torch.float32)

    return judge
