"""Our own rows, as DESIGN's records have them: `{"prompt", "completions", "ranks", "labeler", "created_at", ...}`.

Ranks belong to completions by their place in the row. Nothing is sorted, renumbered or left out on the way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlhf.data.readers import Rows
from rlhf.data.records import Ranking, ranking_row
from rlhf.preferences.exchange import trl
from rlhf.preferences.exchange.base import Format, Row, Tally


def known(row: Mapping[str, Any]) -> bool:
    return "completions" in row and "ranks" in row


def rows(rankings: Sequence[Ranking], tally: Tally) -> Iterator[Row]:
    for ranking in rankings:
        yield ranking_row(ranking)


def read(found: Rows, tally: Tally) -> Iterator[tuple[str, Ranking]]:
    return trl.read(found, tally)  # a row of either kind is read as what it is


FORMAT = Format("rankings", "the toolkit's own rows, with ties, unranked completions and all else", known, read, rows,
                tabular=True)  # fmt: skip
