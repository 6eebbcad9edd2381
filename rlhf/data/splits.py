"""Train/eval splits that keep every prompt (or group of prompts) on one side. No torch here."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TypeVar

from rlhf.data.records import Demonstration, Prompt, Ranking, group_of, prompt_key
from rlhf.errors import DataError

Record = Prompt | Demonstration | Ranking
R = TypeVar("R", Prompt, Demonstration, Ranking)


def split_by_hash(records: Iterable[R], eval_fraction: float, salt: str = "") -> tuple[list[R], list[R]]:
    """`(train, eval)`: a record goes to eval if the sha256 of its group falls below `eval_fraction`.

    A group's side depends on nothing but its own text and the salt, so it stays where it is when rows are added,
    and demonstrations, prompts and rankings of one group fall on the same side. The share is therefore approximate.
    In small data a side could be empty: then the group with the nearest hash goes there.
    """
    if not 0 < eval_fraction < 1:
        raise DataError(f"eval_fraction: expected a number between 0 and 1, found {eval_fraction}")
    kept = list(records)
    place = {group: _place(salt, group) for group in {group_of(r) for r in kept}}
    if len(place) < 2:
        raise DataError(
            f"cannot split {len(kept)} rows into train and eval: it takes at least 2 distinct prompts (or groups), "
            f"found {len(place)}; add prompts, or give a separate file for evaluation"
        )
    held_out = {group for group, value in place.items() if value < eval_fraction}
    if not held_out:
        held_out = {min(place, key=lambda g: place[g])}
    elif len(held_out) == len(place):
        held_out.remove(max(place, key=lambda g: place[g]))
    return [r for r in kept if group_of(r) not in held_out], [r for r in kept if group_of(r) in held_out]


def check_no_leak(train: Iterable[Record], held_out: Iterable[Record]) -> None:
    """Raise a DataError if any group or any prompt is on both sides."""
    left, right = list(train), list(held_out)
    for what, key in (("group", group_of), ("prompt", _prompt)):
        shared = sorted({key(r) for r in left} & {key(r) for r in right})
        if shared:
            shown = shared[0] if len(shared[0]) <= 60 else shared[0][:57] + "..."
            raise DataError(
                f"{len(shared)} {what}(s) are in both training and evaluation data, the first is {shown!r}; "
                "remove them from one side, or let the toolkit split one file"
            )


def _prompt(record: Record) -> str:
    if isinstance(record, Demonstration) and not record.prompt:
        return record.completion
    return prompt_key(record.prompt)


def _place(salt: str, group: str) -> float:
    return int.from_bytes(hashlib.sha256(f"{salt}|{group}".encode()).digest()[:8], "big") / 2**64
