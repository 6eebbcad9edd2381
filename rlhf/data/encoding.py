"""Text to token ids and back, the same way in every stage, and padding into tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlhf.data.records import PromptLike, prompt_key
from rlhf.errors import DataError

R = TypeVar("R")


class Encoder:
    """Encodes prompts and responses with one tokenizer.

    A text prompt is encoded as it is; messages go through the chat template, up to where the assistant's turn begins.
    A response is its text followed by EOS. Prompt and response are encoded apart, so that a response has the same
    tokens in SFT, in the reward model and in PPO.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.eos: int = tokenizer.eos_token_id
        self.pad: int = tokenizer.pad_token_id

    def prompt(self, prompt: PromptLike) -> list[int]:
        """Token ids of a prompt; an empty one (plain text) becomes the BOS token, or EOS where there is none."""
        if isinstance(prompt, str):
            ids = self.tokenizer(prompt)["input_ids"] if prompt else []
            return list(ids) or [self.tokenizer.bos_token_id if self.tokenizer.bos_token_id is not None else self.eos]
        if not self.tokenizer.chat_template:
            raise DataError(
                "prompts hold chat messages, but the model's tokenizer has no chat template; use plain text"
            )
        ids = self.tokenizer.apply_chat_template(list(prompt), add_generation_prompt=True, return_dict=False)
        return list(ids)

    def response(self, text: str) -> list[int]:
        """Token ids of a completion, EOS last."""
        return [*self.tokenizer(text, add_special_tokens=False)["input_ids"], self.eos]

    def lengths(self, prompts: Sequence[PromptLike], completions: Sequence[Sequence[str]]) -> list[int]:
        """Tokens of each prompt with the longest of its completions, if it has any; a text is encoded once."""
        own = {key: len(self.prompt(p)) for key, p in {prompt_key(p): p for p in prompts}.items()}
        texts = list(dict.fromkeys(c for cs in completions for c in cs))
        ids = self.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
        tokens = {text: len(i) + 1 for text, i in zip(texts, ids, strict=True)}
        return [
            own[prompt_key(p)] + max((tokens[c] for c in cs), default=0)
            for p, cs in zip(prompts, completions, strict=True)
        ]

    def text(self, response: Sequence[int]) -> str:
        """The text of response tokens, special tokens left out."""
        return str(self.tokenizer.decode(response, skip_special_tokens=True))


def fit(rows: Sequence[R], lengths: Sequence[int], limit: int, over_long: str, what: str) -> tuple[list[R], int]:
    """Keep the rows of at most `limit` tokens; returns them and how many were longer.

    Raises:
        DataError: with `over_long="refuse"`, when there is any; or when nothing is left.
    """
    kept = [row for row, length in zip(rows, lengths, strict=True) if length <= limit]
    longer = len(rows) - len(kept)
    if longer and (over_long == "refuse" or not kept):
        raise DataError(
            f"{what}: {longer} of {len(rows)} are longer than {limit} tokens (the longest has {max(lengths)}); "
            "raise model.max_length, shorten them, or set data.over_long=skip to leave them out and count them"
        )
    return kept, longer


def pad_right(sequences: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token lists to ids and mask, `(B, T)` each, padding after the tokens; mask is int64, 1 = a real token."""
    width = max(len(s) for s in sequences)
    ids = torch.tensor([[*s, *[pad] * (width - len(s))] for s in sequences])
    mask = torch.tensor([[1] * len(s) + [0] * (width - len(s)) for s in sequences])
    return ids.to(device), mask.to(device)


def pad_left(sequences: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """As `pad_right`, with the padding before the tokens, as decoding wants it."""
    width = max(len(s) for s in sequences)
    ids = torch.tensor([[*[pad] * (width - len(s)), *s] for s in sequences])
    mask = torch.tensor([[0] * (width - len(s)) + [1] * len(s) for s in sequences])
    return ids.to(device), mask.to(device)


def by_length(lengths: Sequence[int], max_rows: int, max_tokens: int | None = None) -> list[list[int]]:
    """Indices in groups of similar length, longest first, so that little is padding.

    A group has at most `max_rows`, and at most `max_tokens` with its padding (but one row always fits).
    """
    groups: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        full = not groups or len(groups[-1]) == max_rows
        if full or (max_tokens is not None and (len(groups[-1]) + 1) * lengths[groups[-1][0]] > max_tokens):
            groups.append([])
        groups[-1].append(i)
    return groups
