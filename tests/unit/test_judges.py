"""Judges that are Python functions: foreign code, whose faults are one line before anything trains."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rlhf.errors import ConfigError
from rlhf.ppo.scoring import load_judge, probe_judge

JUDGE = "my_judges_file:score"


@pytest.fixture
def write_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_judges_file", raising=False)

    def write(code: str) -> None:
        (tmp_path / "my_judges_file.py").write_text(code)

    return write


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def score(:", "SyntaxError: invalid syntax (my_judges_file.py, line 1)"),
        ("raise RuntimeError('no key\\nsecond line')", "RuntimeError: no key"),
        ("raise SystemExit", "SystemExit"),
        ("import nothing_of_this_name", "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("import json\njson.no_such_thing", "AttributeError: module 'json' has no attribute 'no_such_thing'"),
    ],
)
def test_a_module_that_fails_while_it_is_imported(write_judge: Any, code: str, said: str) -> None:
    write_judge(code)
    with pytest.raises(ConfigError) as caught:
        load_judge(JUDGE, SimpleNamespace(device="cpu"), None)  # type: ignore[arg-type]
    assert str(caught.value) == f"judge '{JUDGE}': module 'my_judges_file' cannot be imported ({said})"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("import nothing_of_this_name", "raised ModuleNotFoundError: No module named 'nothing_of_this_name' "
         "(first completion: 'y')"),
        ("return []", "returned 0 scores for 1 completions (the first: 'y')"),
        ("return [1.0, 2.0]", "returned 2 scores for 1 completions (the first: 'y')"),
        ("return ['good']", "raised ValueError: could not convert string to float: 'good' (first completion: 'y')"),
        ("return [float('nan')]", "returned nan for the completion 'y'; expected a number"),
    ],
)  # fmt: skip
def test_a_function_is_tried_before_it_is_needed(write_judge: Any, body: str, said: str) -> None:
    write_judge(f"def score(prompts, completions):\n    assert (prompts, completions) == (['x'], ['y'])\n    {body}\n")
    with pytest.raises(ConfigError) as caught:
        probe_judge(JUDGE)
    assert str(caught.value) == f"judge '{JUDGE}' {said}"


def test_a_function_that_works_passes(write_judge: Any) -> None:
    write_judge(
        "CALLS = []\ndef score(prompts, completions):\n    CALLS.append((prompts, completions))\n    return [1.0]\n"
    )
    probe_judge(JUDGE)
    assert sys.modules[JUDGE.partition(":")[0]].CALLS == [(["x"], ["y"])], "tried once, on one short text"


def test_a_judge_whose_package_is_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from rlhf.data import film_reviews

    monkeypatch.setitem(sys.modules, "vaderSentiment.vaderSentiment", None)  # import gives ImportError
    film_reviews._analyzer.cache_clear()
    with pytest.raises(ConfigError, match=r"^judge 'rlhf\.data\.film_reviews:vader_compound': .*pip install"):
        probe_judge("rlhf.data.film_reviews:vader_compound")


def test_a_functions_scores_lie_where_the_base_is(write_judge: Any) -> None:
    """An adapter's scores are on the GPU; the sum of both must be too."""
    write_judge("def score(prompts, completions):\n    return [1.0] * len(completions)\n")
    encoder = SimpleNamespace(text=lambda response: "text")
    judge = load_judge(JUDGE, SimpleNamespace(device=torch.device("meta")), encoder)  # type: ignore[arg-type]
    assert judge(["p"], [[1]], [[2]]).device.type == "meta"
