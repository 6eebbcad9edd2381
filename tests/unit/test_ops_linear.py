"""Products by whichever kernel: the same numbers, whatever the number of rows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rlhf.ops import linear as module
from rlhf.ops.linear import add_product_, linear, round_rows

SHAPES = [(1, 4, 3), (33, 256, 128), (640, 256, 48), (700, 64, 512)]  # rows, in, out: below and above `SMALL`


def three(rows: int, width: int, out: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows)
    return tuple(torch.randn(s, generator=generator).to(dtype) for s in ((rows, width), (out, width), (out,)))  # type: ignore[return-value]


@pytest.fixture(params=[True, False], ids=["onednn", "mkl"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if request.param and not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(module, "_amd_avx512", lambda: request.param)
    return bool(request.param)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_product_is_that_of_doubles(kernel: bool, shape: tuple[int, int, int]) -> None:
    x, weight, bias = three(*shape)
    exact = x.double() @ weight.double().t()
    assert torch.allclose(linear(x, weight, bias).double(), exact + bias, atol=1e-4)
    assert torch.allclose(linear(x, weight).double(), exact, atol=1e-4)
    back = linear(linear(x, weight), weight.t())  # a transposed view, as a backward passes it
    assert torch.allclose(back.double(), exact @ weight.double(), rtol=1e-4, atol=1e-2)
    assert torch.allclose(linear(x.t(), x.t()).double(), x.double().t() @ x.double(), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_adding_a_product_changes_what_it_is_added_to(kernel: bool, shape: tuple[int, int, int]) -> None:
    x, weight, _ = three(*shape)
    y = torch.ones(shape[0], shape[2])
    expected = 1 + 0.5 * (x.double() @ weight.double().t())
    assert add_product_(y, x, weight, 0.5) is y
    assert torch.allclose(y.double(), expected, atol=1e-4)


def test_onednn_is_called_for_large_products_of_fp32_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_amd_avx512", lambda: True)
    assert module._beats_mkl(torch.zeros(640, 256), torch.zeros(1024, 256))
    assert not module._beats_mkl(torch.zeros(32, 256), torch.zeros(16, 256)), "too small"
    assert not module._beats_mkl(torch.zeros(640, 256).bfloat16(), torch.zeros(1024, 256).bfloat16()), "torch does"
    monkeypatch.setattr(module, "_amd_avx512", lambda: False)
    assert not module._beats_mkl(torch.zeros(640, 256), torch.zeros(1024, 256)), "MKL is as fast"


def test_rows_are_brought_to_eight_numbers_an_octave(kernel: bool) -> None:
    dtypes = (torch.bfloat16, torch.float32) if kernel else (torch.bfloat16,)
    for dtype in dtypes:
        seen = {len(round_rows(torch.zeros(n, 1, dtype=dtype))) for n in range(512, 1025)}
        assert seen == {512, 576, 640, 704, 768, 832, 896, 960, 1024}
        assert [len(round_rows(torch.zeros(n, 1, dtype=dtype))) for n in (1, 9, 63, 64, 65)] == [1, 9, 63, 64, 72]
    x = torch.randn(65, 2).bfloat16()
    padded = round_rows(x)
    assert torch.equal(padded[:65], x)
    assert not padded[65:].any()
    whole = torch.randn(80, 2).bfloat16()
    assert round_rows(whole) is whole, "nothing to add: no copy"
    if not kernel:
        odd = torch.randn(65, 2)
        assert round_rows(odd) is odd, "MKL has no code to make"
