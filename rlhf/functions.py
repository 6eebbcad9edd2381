"""Functions of the user's own, named `module:function`: how they are found, and how what they return is checked.

They are foreign code: whatever is wrong with one is said in one line that names it. No torch here.
"""

from __future__ import annotations

import importlib
import math
import os
import sys
from collections.abc import Callable, Sequence

from rlhf.errors import ConfigError, RLHFError

Scorer = Callable[[list[str], list[str]], Sequence[float]]  # prompts and completions in, one number for each out


def import_function(name: str, what: str = "judge") -> Scorer:
    """The function behind `module:function`; `what` it is for, for messages.

    Raises:
        ConfigError: its module fails while it is imported, or has no such function.
    """
    module_name, _, attribute = name.partition(":")
    if (here := os.getcwd()) not in sys.path:  # a function of your own lies beside your config, installed or not
        sys.path.append(here)
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # whatever a foreign module raises, its function cannot be had
        raise ConfigError(f"{what} {name!r}: module {module_name!r} cannot be imported ({said(error)})") from error
    function: Scorer | None = getattr(module, attribute, None)
    if function is None:
        raise ConfigError(f"{what} {name!r}: module {module_name!r} has no {attribute!r}")
    if not callable(function):
        raise ConfigError(f"{what} {name!r}: is a {type(function).__name__}, not a function")
    return function


def checked_scores(
    function: Scorer, prompts: list[str], completions: list[str], where: str, fault: type[RLHFError] = ConfigError
) -> list[float]:
    """What the function says of each completion, a finite number; else a `fault` that begins with `where`."""
    try:
        scores = [float(s) for s in function(prompts, completions)]
    except RLHFError:
        raise
    except Exception as error:
        raise fault(f"{where} raised {said(error)} (first completion: {completions[0][:80]!r})") from error
    if len(scores) != len(completions):
        raise fault(
            f"{where} returned {len(scores)} scores for {len(completions)} completions "
            f"(the first: {completions[0][:80]!r})"
        )
    for score, text in zip(scores, completions, strict=True):
        if not math.isfinite(score):
            raise fault(f"{where} returned {score} for the completion {text[:80]!r}; expected a number")
    return scores


def said(error: BaseException) -> str:
    """An exception in one line: its kind, and the first line of what it says."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}".removesuffix(": ")
