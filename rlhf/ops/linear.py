"""Products of activations and weights by the fastest kernel that this processor has; on a GPU torch's own.

oneDNN, which multiplies 16-bit matrices for torch on every CPU, has code that uses an AMD processor's AVX-512 for fp32
too, where MKL, torch's own choice, does not: half the time. It generates that code for every new number of rows, which
takes as long as a product and keeps about half a MiB, so rows are brought to one of a few numbers first (`round_rows`).
"""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from torch import Tensor

FEW = 64  # rows
SMALL = 1 << 21  # multiplications: calling oneDNN costs more than MKL takes for fewer


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + bias, without gradients (for what makes its own, and for what needs none).

    Args:
        x: `(N, in)`; weight: `(out, in)`, a transposed view too; bias: `(out,)`. All of one type.
    Returns:
        `(N, out)`.
    """
    return product(round_rows(x), weight, bias)[: len(x)]


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`linear` of rows that are rounded already, or whose number never varies."""
    if not _beats_mkl(x, weight):
        return torch.nn.functional.linear(x, weight, bias)
    # The operator that torch.compile's code calls; nothing public leads to it.
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y


def add_product_(y: Tensor, x: Tensor, weight: Tensor, scale: float = 1.0) -> Tensor:
    """y + scale x W^T, in place; rows as in `product`."""
    if _beats_mkl(x, weight):
        return y.add_(product(x, weight), alpha=scale)
    return y.addmm_(x, weight.t(), alpha=scale)


def round_rows(x: Tensor) -> Tensor:
    """`(N, H)` with rows of zeros below, so that N is one of eight numbers between a power of two and the next.

    Fewer than 64 rows stay as they are: there are not many such numbers, and the zeros would cost more.
    """
    count = len(x)
    missing = -count % ((1 << count.bit_length()) >> 4) if count >= FEW else 0
    if missing == 0 or x.device.type != "cpu" or (x.dtype == torch.float32 and not _amd_avx512()):
        return x
    return torch.nn.functional.pad(x, (0, 0, 0, missing))


def _beats_mkl(x: Tensor, weight: Tensor) -> bool:
    """Whether to call oneDNN where torch would not."""
    return (
        x.dtype == torch.float32 and x.device.type == "cpu" and x.numel() * weight.shape[0] >= SMALL and _amd_avx512()
    )


@functools.cache
def _amd_avx512() -> bool:
    """An AMD processor with AVX-512, and a torch that has oneDNN's operator."""
    has = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")  # type: ignore[no-untyped-call]
    info = Path("/proc/cpuinfo")
    amd = info.exists() and "AuthenticAMD" in info.read_text(encoding="utf-8", errors="replace")
    return has and amd and torch.backends.cpu.get_cpu_capability() == "AVX512"
