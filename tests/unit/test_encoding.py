"""Text to tokens and back, padding, and grouping by length."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf.data.encoding import Encoder, by_length, fit, pad_left, pad_right
from rlhf.errors import DataError
from rlhf.model.loading import load_tokenizer

CPU = torch.device("cpu")
START, EOS, PAD = 0, 1, 2  # <|im_start|>, <|im_end|>, <|endoftext|>: the tiny tokenizer's first three


@pytest.fixture(scope="module")
def encoder(tiny_model_dir: Path) -> Encoder:
    return Encoder(load_tokenizer(tiny_model_dir))


# --- Encoder -------------------------------------------------------------------------------------------------------


def test_special_ids(encoder: Encoder) -> None:
    assert (encoder.eos, encoder.pad) == (EOS, PAD)


def test_a_text_prompt_is_encoded_as_it_is(encoder: Encoder) -> None:
    ids = encoder.prompt("Review the  film.\n")
    assert encoder.tokenizer.decode(ids) == "Review the  film.\n"
    assert not {START, EOS, PAD} & set(ids)


def test_an_empty_prompt_is_the_first_token(encoder: Encoder) -> None:
    assert encoder.prompt("") == [START]


def test_an_empty_prompt_without_bos_is_eos(tiny_model_dir: Path) -> None:
    tokenizer = load_tokenizer(tiny_model_dir)
    tokenizer.bos_token = None
    assert Encoder(tokenizer).prompt("") == [EOS]


def test_messages_go_through_the_template_up_to_the_assistants_turn(encoder: Encoder) -> None:
    ids = encoder.prompt(({"role": "user", "content": "Hi"},))
    assert encoder.tokenizer.decode(ids) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert ids.count(START) == 2
    assert all(isinstance(i, int) for i in ids)


def test_messages_without_a_template_are_refused(tiny_model_dir: Path) -> None:
    tokenizer = load_tokenizer(tiny_model_dir)
    tokenizer.chat_template = None
    with pytest.raises(DataError, match="has no chat template; use plain text"):
        Encoder(tokenizer).prompt(({"role": "user", "content": "Hi"},))


@pytest.mark.parametrize("text", ["The film is good.", " naïve — 映画 🎬\n", ""])
def test_a_response_ends_with_one_eos_and_comes_back(encoder: Encoder, text: str) -> None:
    ids = encoder.response(text)
    assert ids[-1] == EOS
    assert ids.count(EOS) == 1
    assert encoder.text(ids) == text
    assert encoder.text([*ids, PAD, PAD]) == text


# --- fit -----------------------------------------------------------------------------------------------------------


def test_fit_keeps_what_is_at_most_as_long_as_the_limit() -> None:
    assert fit(["a", "b", "c"], [5, 6, 7], 6, "skip", "prompts") == (["a", "b"], 1)
    assert fit(["a", "b", "c"], [5, 6, 7], 7, "refuse", "prompts") == (["a", "b", "c"], 0)


def test_fit_refuses_with_the_counts_and_the_remedy() -> None:
    with pytest.raises(
        DataError, match=r"^prompts: 2 of 3 are longer than 5 tokens \(the longest has 9\); raise model"
    ):
        fit(["a", "b", "c"], [9, 6, 5], 5, "refuse", "prompts")


def test_fit_refuses_to_leave_nothing() -> None:
    with pytest.raises(DataError, match=r"^rankings: 2 of 2 are longer than 4 tokens"):
        fit(["a", "b"], [5, 6], 4, "skip", "rankings")


# --- padding -------------------------------------------------------------------------------------------------------


def test_pads() -> None:
    ids, mask = pad_right([[5, 6, 7], [8]], PAD, CPU)
    assert ids.tolist() == [[5, 6, 7], [8, PAD, PAD]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    ids, mask = pad_left([[5, 6, 7], [8]], PAD, CPU)
    assert ids.tolist() == [[5, 6, 7], [PAD, PAD, 8]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert (ids.dtype, mask.dtype) == (torch.int64, torch.int64)


def test_a_real_token_that_equals_padding_stays_real() -> None:
    assert pad_right([[PAD, 5], [6]], PAD, CPU)[1].tolist() == [[1, 1], [1, 0]]


# --- by_length -----------------------------------------------------------------------------------------------------


def test_groups_by_rows() -> None:
    # Lengths 3, 9, 5, 9, 1, longest first, equal ones in order: 1, 3 | 2, 0 | 4.
    assert by_length([3, 9, 5, 9, 1], max_rows=2) == [[1, 3], [2, 0], [4]]


def test_no_rows_no_groups() -> None:
    assert by_length([], max_rows=4) == []


@given(st.lists(st.integers(1, 40), max_size=40), st.integers(1, 6))
def test_every_row_is_in_one_group_that_keeps_the_limit(lengths: list[int], max_rows: int) -> None:
    groups = by_length(lengths, max_rows)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    assert all(1 <= len(group) <= max_rows for group in groups)
    ordered = [lengths[i] for group in groups for i in group]
    assert ordered == sorted(lengths, reverse=True)


def test_groups_by_length_keep_to_rows_and_tokens() -> None:
    lengths = [3, 9, 1, 4, 2]
    assert by_length(lengths, 2) == [[1, 3], [0, 4], [2]]
    # 9 alone is over 8, and goes alone; 4 and 3 are 2 x 4; 2 and 1 are 2 x 2.
    assert by_length(lengths, 9, max_tokens=8) == [[1], [3, 0], [4, 2]]
    assert by_length(lengths, 1, max_tokens=100) == [[1], [3], [0], [4], [2]]
