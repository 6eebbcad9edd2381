"""Judges: reward adapters and Python functions under one interface, and what happens when one misbehaves."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_ppo_setup import by_hand, make_base

from rlhf.data.encoding import Encoder
from rlhf.errors import ArtifactError, ConfigError, StoreError, TrainingError
from rlhf.model.base import SharedBase
from rlhf.ppo.scoring import combine, load_judge


@pytest.fixture(scope="module")
def base(tiny_model_dir: Path) -> SharedBase:
    return make_base(tiny_model_dir)


@pytest.fixture
def judge_of(base: SharedBase, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Any]:
    """A function as the judge `ourjudges:score`."""

    def make(function: Any) -> Any:
        module = types.ModuleType("ourjudges")
        module.score = function  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "ourjudges", module)
        return load_judge("ourjudges:score", base, Encoder(base.tokenizer))

    return make


def responses(base: SharedBase, *texts: str) -> list[list[int]]:
    encoder = Encoder(base.tokenizer)
    return [encoder.response(text) for text in texts]


def test_a_function_sees_texts_without_special_tokens(base: SharedBase, judge_of: Any) -> None:
    seen: list[Any] = []

    def score(prompts: list[str], completions: list[str]) -> list[float]:
        seen.append((prompts, completions))
        return [len(c) for c in completions]

    messages = ({"role": "user", "content": "Review the film."},)
    out = judge_of(score)([messages, "plain"], [[1], [2]], responses(base, "It is good.", "Bad."))
    assert seen == [(["user: Review the film.", "plain"], ["It is good.", "Bad."])]
    assert torch.equal(out, torch.tensor([11.0, 4.0])) and out.dtype == torch.float32


def test_a_function_that_raises_is_named_with_its_sample(base: SharedBase, judge_of: Any) -> None:
    def score(_prompts: list[str], completions: list[str]) -> list[float]:
        raise KeyError("mood")

    with pytest.raises(TrainingError, match=r"judge 'ourjudges:score' raised KeyError: 'mood' .*'It is good\.'") as e:
        judge_of(score)(["p"], [[1]], responses(base, "It is good."))
    assert isinstance(e.value.__cause__, KeyError)


def test_a_functions_own_clear_error_passes_through(base: SharedBase, judge_of: Any) -> None:
    def score(_prompts: list[str], completions: list[str]) -> list[float]:
        raise StoreError("the lexicon is missing")

    with pytest.raises(StoreError, match=r"^the lexicon is missing$"):
        judge_of(score)(["p"], [[1]], responses(base, "x"))


def test_a_wrong_number_of_scores_is_named(base: SharedBase, judge_of: Any) -> None:
    with pytest.raises(TrainingError, match=r"returned 1 scores for 2 completions \(the first: 'x'\)"):
        judge_of(lambda p, c: [1.0])(["p", "q"], [[1], [1]], responses(base, "x", "y"))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_score_that_is_no_number_is_named_with_its_sample(base: SharedBase, judge_of: Any, bad: float) -> None:
    with pytest.raises(TrainingError, match=rf"judge 'ourjudges:score' returned {bad} for the completion 'Bad\.'"):
        judge_of(lambda p, c: [1.0, bad])(["p", "q"], [[1], [1]], responses(base, "It is good.", "Bad."))


@pytest.mark.parametrize("bad", [None, ["x"], [None]])
def test_something_else_than_numbers_is_named(base: SharedBase, judge_of: Any, bad: Any) -> None:
    with pytest.raises(TrainingError, match=r"judge 'ourjudges:score' raised (Type|Value)Error"):
        judge_of(lambda p, c: bad)(["p"], [[1]], responses(base, "x"))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_such_module_here:score", "module 'no_such_module_here' cannot be imported"),
        ("json:no_such_function", "module 'json' has no 'no_such_function'"),
        ("json:__name__", "is a str, not a function"),
    ],
)
def test_a_judge_that_cannot_be_had(base: SharedBase, name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"judge '{name}': {said}"):
        load_judge(name, base, Encoder(base.tokenizer))


def test_a_reward_adapter_that_is_not_there(base: SharedBase) -> None:
    with pytest.raises(ArtifactError, match="no adapter 'gold' on this base; adapters: sft, policy, reward"):
        load_judge("adapter:gold", base, Encoder(base.tokenizer))


def test_a_reward_adapter_scores_prompt_and_response_at_the_last_token(base: SharedBase) -> None:
    """Each sequence alone, without padding, through the adapter and then its head."""
    made = by_hand(base, (5, 1, 9, 3))
    out = load_judge("adapter:reward", base, Encoder(base.tokenizer))(["?"] * 4, made.prompts, made.responses)
    for i in range(4):
        ids = torch.tensor([made.prompts[i] + made.responses[i]])
        with base.active("reward"):
            hidden = base.hidden(ids, torch.ones_like(ids))[0, -1]
        expected = (hidden * base.heads["reward"].weight[0]).sum().item()
        assert out[i].item() == pytest.approx(expected, abs=1e-5)
    assert out.unique().numel() == 4


def test_judges_are_summed_with_their_weights() -> None:
    judge = combine(
        {"a": lambda *_: torch.tensor([1.0, 2.0]), "b": lambda *_: torch.tensor([10.0, 4.0])}, {"a": 2.0, "b": -0.5}
    )
    assert judge([], [], []).tolist() == [-3.0, 2.0]
