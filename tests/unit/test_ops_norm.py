"""The one-step norm against the formula by hand, autograd in doubles, and the models' own modules."""

from __future__ import annotations

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm
from transformers.models.smollm3.modeling_smollm3 import SmolLM3RMSNorm

from rlhf.model.trunk import NORMS, fuse_norms
from rlhf.ops.norm import rms_norm


def test_by_hand() -> None:
    x = torch.tensor([[3.0, 4.0]])  # mean square 12.5
    y = rms_norm(x, torch.tensor([1.0, 2.0]), eps=3.5)  # sqrt(16) = 4
    assert torch.equal(y, torch.tensor([[0.75, 2.0]]))


def test_the_gradient_is_autograds() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight, dy = (torch.randn(s, generator=generator) for s in ((2, 5, 8), (8,), (2, 5, 8)))
    x.requires_grad_()
    rms_norm(x, weight, 1e-5).backward(dy)
    exact = x.detach().double().requires_grad_()
    (exact * (exact.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * weight.double()).backward(dy.double())
    assert x.grad is not None and exact.grad is not None
    assert (x.grad - exact.grad).abs().max() < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", [LlamaRMSNorm, Qwen2RMSNorm, Qwen3RMSNorm, SmolLM3RMSNorm])
def test_a_fused_module_says_what_it_said(kind: type[torch.nn.Module], dtype: torch.dtype) -> None:
    assert kind.__name__ in NORMS
    generator = torch.Generator().manual_seed(1)
    module = kind(16, eps=1e-3).requires_grad_(False)  # type: ignore[call-arg]
    module.weight.copy_(torch.randn(16, generator=generator))  # type: ignore[operator]
    module.to(dtype)
    results = []
    for fused in (False, True):
        if fused:
            fuse_norms(module)
            assert "forward" in vars(module)
        x = torch.randn((3, 4, 16), generator=torch.Generator().manual_seed(2)).to(dtype).requires_grad_()
        y = module(x)
        y.backward(torch.ones_like(y))
        assert y.dtype == dtype and x.grad is not None and x.grad.dtype == dtype
        results.append((y.detach().float(), x.grad.float()))
    tolerance = 1e-6 if dtype == torch.float32 else 0.02
    for plain, fused in zip(*results, strict=True):
        assert (plain - fused).abs().max() <= tolerance * plain.abs().max()
