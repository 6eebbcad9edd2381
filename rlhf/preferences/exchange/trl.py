"""Pairs as TRL's trainers read them: `{"prompt", "chosen", "rejected"}` as text, or as chat messages.

Read are also conversations that hold their prompt themselves (TRL's implicit prompt): `chosen` and `rejected` are then
whole chats that begin alike, with or without the prompt's text beside them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from rlhf.data.readers import Rows
from rlhf.data.records import Messages, Ranking, parse_messages, parse_ranking
from rlhf.errors import DataError
from rlhf.preferences.exchange.base import Format, Row, Tally, plain_prompt


def known(row: Mapping[str, Any]) -> bool:
    return "chosen" in row and "rejected" in row


def read(found: Rows, tally: Tally) -> Iterator[tuple[str, Ranking]]:
    for where, row in found:
        yield where, parse_ranking(_explicit(row, where) if _is_whole(row) else row, where)


def _is_whole(row: Mapping[str, Any]) -> bool:
    sides = [row.get(name) for name in ("chosen", "rejected")]
    return all(isinstance(s, list) and s for s in sides) and (
        "prompt" not in row or any(len(s) > 1 for s in sides if s)
    )


def _explicit(row: Mapping[str, Any], where: str) -> Row:
    """The row with the turns that both conversations begin with as its prompt."""
    chosen, rejected = (parse_messages(row[name], f"{where}, field '{name}'") for name in ("chosen", "rejected"))
    prefix = common(chosen, rejected)
    if len(chosen) != len(prefix) + 1 or len(rejected) != len(prefix) + 1 or not prefix:
        raise DataError(
            f"{where}, field 'chosen': the two conversations must be alike but for their last answer, or give the "
            "shared turns as 'prompt' and one assistant's turn each"
        )
    given = row.get("prompt")
    if given is not None and given != prefix[-1]["content"] and given != list(prefix):
        raise DataError(f"{where}, field 'prompt': is not what the conversations begin with; leave it out, or mend it")
    return {**row, "prompt": prefix, "chosen": chosen[-1:], "rejected": rejected[-1:]}


def common(first: Messages, second: Messages) -> Messages:
    """The turns with which both begin; a last answer is never among them."""
    count = 0
    while count < min(len(first), len(second)) - 1 and first[count] == second[count]:
        count += 1
    return first[:count]


def rows(rankings: Sequence[Ranking], tally: Tally) -> Iterator[Row]:
    for ranking in rankings:
        count_pairs(ranking, tally)
        tally.no_place_for(ranking, "meta")
        yield from pair_rows(ranking)


def count_pairs(ranking: Ranking, tally: Tally) -> None:
    """Count the pairs that order nothing."""
    for first, second in combinations(ranking.ranks, 2):
        if first is None or second is None:
            tally.left_out["pairs with an unranked completion"] += 1
        elif first == second:
            tally.left_out["tied pairs"] += 1


def pair_rows(ranking: Ranking) -> list[Row]:
    """A ranking's untied pairs as TRL rows, with labeler, created_at and group where there are any."""

    def turn(text: str) -> Any:
        return text if isinstance(ranking.prompt, str) else [{"role": "assistant", "content": text}]

    extra = {name: getattr(ranking, name) for name in ("labeler", "created_at", "group") if getattr(ranking, name)}
    return [
        {
            "prompt": plain_prompt(ranking),
            "chosen": turn(ranking.completions[better]),
            "rejected": turn(ranking.completions[worse]),
            **extra,
        }
        for better, worse in ranking.pairs()
    ]


FORMAT = Format("trl", "every untied pair as TRL's trainers read it: prompt, chosen, rejected", known, read, rows,
                tabular=True)  # fmt: skip
