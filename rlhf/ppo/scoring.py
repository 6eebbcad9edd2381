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
Function = Callable[[list[str], list[str]], Sequence[float]]


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


def import_function(name: str) -> Function:
    """The function behind `module:function`.

    Raises:
        ConfigError: its module fails while it is imported, or has no such function.
    """
    module_name, _, attribute = name.partition(":")
    if (here := os.getcwd()) not in sys.path:  # a judge of your own lies beside your config, installed or not
        sys.path.append(here)
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # a judge's module is foreign code: whatever it raises, it cannot be had
        raise ConfigError(f"judge {name!r}: module {module_name!r} cannot be imported ({_said(error)})") from error
    function: Function | None = getattr(module, attribute, None)
    if function is None:
        raise ConfigError(f"judge {name!r}: module {module_name!r} has no {attribute!r}")
    if not callable(function):
        raise ConfigError(f"judge {name!r}: is a {type(function).__name__}, not a function")
    return function


def probe_judge(name: str) -> None:
    """Let a function score one short text before anything trains, so that a package it lacks shows now.

    Raises:
        ConfigError: it cannot be imported, raises, or returns something else than one number.
    """
    function = import_function(name)
    try:
        _scores(name, function, ["x"], ["y"])
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


def _callable_judge(name: str, function: Function, base: SharedBase, encoder: Encoder) -> Judge:
    def judge(
        prompts: Sequence[PromptLike], _prompt_ids: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]
    ) -> Tensor:
        shown, texts = [prompt_text(p) for p in prompts], [encoder.text(r) for r in responses]
        return torch.tensor(_scores(name, function, shown, texts), dtype=torch.float32, device=base.device)

    return judge


def _scores(name: str, function: Function, prompts: list[str], completions: list[str]) -> list[float]:
    """What the function says, checked: a finite number for each completion."""
    try:
        scores = [float(s) for s in function(prompts, completions)]
    except RLHFError:
        raise
    except Exception as error:
        raise TrainingError(
            f"judge {name!r} raised {_said(error)} (first completion: {completions[0][:80]!r})"
        ) from error
    if len(scores) != len(completions):
        raise TrainingError(
            f"judge {name!r} returned {len(scores)} scores for {len(completions)} completions "
            f"(the first: {completions[0][:80]!r})"
        )
    for score, text in zip(scores, completions, strict=True):
        if not math.isfinite(score):
            raise TrainingError(f"judge {name!r} returned {score} for the completion {text[:80]!r}; expected a number")
    return scores


def _said(error: BaseException) -> str:
    """An exception in one line: its kind, and the first line of what it says."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}".removesuffix(": ")
