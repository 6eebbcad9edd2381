"""The decode cache against transformers' own, which copies what it holds at every step."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import DynamicCache

from rlhf.model.cache import decode_cache


def states(tokens: int, seed: int, rows: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randn((rows, 2, tokens, 4), generator=generator)
    return keys, torch.randn((rows, 2, tokens, 6), generator=generator)  # some models' values are of another width


def test_it_holds_what_transformers_own_holds_and_copies_nothing() -> None:
    ours, theirs, places = decode_cache(7), DynamicCache(), set()
    for step, tokens in enumerate([4, 1, 1]):
        for layer in (0, 1):
            keys, values = states(tokens, seed=10 * step + layer)
            found, expected = ours.update(keys, values, layer), theirs.update(keys, values, layer)
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
            places.add((layer, found[0].data_ptr(), found[1].data_ptr()))
        assert ours.get_seq_length() == theirs.get_seq_length()
        assert ours.get_mask_sizes(1, 0) == theirs.get_mask_sizes(1, 0)
    assert len(places) == 2, "each layer stays where it is"


def test_rows_that_leave_take_theirs_along() -> None:
    ours, theirs, keep = decode_cache(6), DynamicCache(), torch.tensor([2, 0])
    for cache in (ours, theirs):
        cache.update(*states(3, seed=1), 0)
        cache.batch_select_indices(keep)
    found, expected = (cache.update(*states(1, seed=2, rows=2), 0) for cache in (ours, theirs))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert found[0].shape == (2, 2, 4, 4)


def test_a_layer_that_never_writes_does_no_harm() -> None:
    """Some models' layers share another's keys and values."""
    cache = decode_cache(6)
    cache.update(*states(3, seed=1), 1)
    cache.batch_select_indices(torch.tensor([2, 0]))
    assert cache.update(*states(1, seed=2, rows=2), 1)[0].shape == (2, 2, 4, 4)
