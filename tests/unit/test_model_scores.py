"""Completions that share a row with their prompt score what they score alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rlhf.config import LoraSection, ModelSection
from rlhf.model import scores
from rlhf.model.base import SharedBase
from rlhf.model.scores import score_completions, score_sequences

GROUPS = [
    ([7, 8, 9, 10, 11, 12], [[20, 21, 2], [30, 2], [40, 41, 42, 43, 2], [50, 2]]),
    ([5], [[60, 61, 2], [62, 2]]),
    ([13, 14, 15, 16], [[70, 71, 72, 2]]),
    ([17, 18, 19, 20, 21, 22, 23, 24], [[80 + i, 2] for i in range(11)]),
]
SEQUENCES = [[*prompt, *c] for prompt, completions in GROUPS for c in completions]


@pytest.fixture()
def base(tiny_model_dir: Path) -> SharedBase:
    section = ModelSection(
        name=str(tiny_model_dir), quantization="fp32", compute_dtype="fp32", lora=LoraSection(rank=4)
    )
    base = SharedBase.load(section, seed=1)
    base.add_adapter("reward", head=True)
    generator = torch.Generator().manual_seed(2)
    for parameter in base.adapter_parameters("reward"):
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    return base


def gradients(base: SharedBase, shared: bool) -> tuple[torch.Tensor, list[torch.Tensor]]:
    parameters = base.adapter_parameters("reward")
    with base.active("reward", train=True):
        found = score_completions(base, "reward", GROUPS) if shared else score_sequences(base, "reward", SEQUENCES)
        grads = torch.autograd.grad((found * torch.linspace(-1.0, 1.0, len(found))).sum(), parameters)
    return found.detach(), list(grads)


def test_scores_and_gradients_are_those_of_each_sequence_alone(
    base: SharedBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    forward = scores._forward

    def counting(base: SharedBase, name: str, some: list[scores._Row]) -> torch.Tensor:
        rows.extend(len(row.completions) for row in some)
        return forward(base, name, some)

    alone, alone_grads = gradients(base, shared=False)
    monkeypatch.setattr(scores, "_forward", counting)
    together, together_grads = gradients(base, shared=True)
    assert sorted(rows) == [1, 2, 2, 4, 9]  # eleven completions are nine in a row and two in another
    assert alone.std() > 0.03
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    for a, b in zip(together_grads, alone_grads, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_with_gradient_checkpointing_too(tiny_model_dir: Path, base: SharedBase) -> None:
    _, expected = gradients(base, shared=False)
    section = base.section.model_copy(update={"gradient_checkpointing": True})
    again = SharedBase.load(section, seed=1)
    again.add_adapter("reward", head=True)
    for to, from_ in zip(again.adapter_parameters("reward"), base.adapter_parameters("reward"), strict=True):
        to.data = from_.data.clone()
    for a, b in zip(gradients(again, shared=True)[1], expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("precision", [("fp32", "bf16"), ("bf16", "fp32"), ("nf4", "bf16"), ("nf4", "fp32")])
def test_the_mask_fits_the_activations_in_every_precision(
    tiny_model_dir: Path, precision: tuple[str, str], attention: str
) -> None:
    """A GPU's attention takes no mask of another type; on a CPU the default one would not mind."""
    quantization, compute = precision
    section = ModelSection(name=str(tiny_model_dir), quantization=quantization, compute_dtype=compute, device="cpu")
    base = SharedBase.load(section, seed=1)
    base.model.set_attn_implementation(attention)
    base.add_adapter("reward", head=True)
    base.heads["reward"].weight.data.fill_(0.1)
    with base.active("reward"):
        together = score_completions(base, "reward", GROUPS)
        torch.testing.assert_close(together, score_sequences(base, "reward", SEQUENCES), atol=0.1, rtol=0.1)


def test_a_completion_does_not_see_its_neighbours(base: SharedBase) -> None:
    prompt = [7, 8, 9, 10, 11, 12]
    with base.active("reward"):
        one = score_completions(base, "reward", [(prompt, [[20, 21, 2], [30, 31, 2]])])
        other = score_completions(base, "reward", [(prompt, [[20, 21, 2], [99, 98, 2]])])
    assert one[0] == other[0]
    assert one[1] != other[1]


def test_long_completions_of_a_short_prompt_go_alone(base: SharedBase) -> None:
    """Attention between completions is computed and thrown away: beyond some length that costs more than the prompt."""
    assert scores._worth_sharing(base, [1] * 20, [[2] * 20] * 4)
    assert not scores._worth_sharing(base, [1], [[2] * 200] * 4)
    assert not scores._worth_sharing(base, [1] * 20, [[2] * 20])


def test_a_model_with_windows_or_recurrence_runs_each_alone(base: SharedBase) -> None:
    assert base.shares_prompts
    base.model.config.layer_types = ["full_attention", "sliding_attention"]
    assert not base.shares_prompts
    base.model.config.layer_types = None
    base.model.config.model_type = "mamba2"
    assert not base.shares_prompts
    assert not scores._worth_sharing(base, [1] * 20, [[2] * 20] * 4)
