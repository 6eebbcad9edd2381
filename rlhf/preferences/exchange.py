"""Rankings into files: JSON Lines as DESIGN's records have them, and pairs as TRL reads them.

Ranks belong to completions by their place in the row. Nothing is sorted, renumbered or left out on the way, and
`data.sources.load_rankings` reads both back.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rlhf.data.records import Demonstration, Ranking, ranking_row
from rlhf.errors import DataError

SQLITE = b"SQLite format 3\0"  # how its files begin


def write_rankings(path: str | Path, rankings: Iterable[Ranking]) -> int:
    """Write rankings as JSON Lines, so that `data.sources.load_rankings` gives equal ones back; returns how many."""
    return _write(Path(path), (ranking_row(r) for r in rankings))


def write_pairs(path: str | Path, rankings: Iterable[Ranking]) -> int:
    """Write every untied pair as TRL has it, `{"prompt", "chosen", "rejected"}`; returns how many pairs.

    A chat prompt is a list of messages, and so are its `chosen` and `rejected` (one assistant's turn each).
    """
    return _write(Path(path), (row for r in rankings for row in pair_rows(r)))


def write_demonstrations(path: str | Path, demonstrations: Iterable[Demonstration]) -> int:
    """Write demonstrations as TRL has them, `{"prompt", "completion"}`; returns how many.

    A chat comes whole, its last turn the answer: `{"messages"}`.
    """
    return _write(Path(path), (_demonstration_row(d) for d in demonstrations))


def _demonstration_row(demonstration: Demonstration) -> dict[str, Any]:
    group = {"group": demonstration.group} if demonstration.group else {}
    if isinstance(demonstration.prompt, str):
        return {"prompt": demonstration.prompt, "completion": demonstration.completion, **group}
    answer = {"role": "assistant", "content": demonstration.completion}
    return {"messages": [*demonstration.prompt, answer], **group}


def pair_rows(ranking: Ranking) -> list[dict[str, Any]]:
    """A ranking's untied pairs as TRL rows, with labeler and group where there are any."""

    def turn(text: str) -> Any:
        return text if isinstance(ranking.prompt, str) else [{"role": "assistant", "content": text}]

    prompt = ranking.prompt if isinstance(ranking.prompt, str) else list(ranking.prompt)
    known = {"labeler": ranking.labeler, "group": ranking.group}
    extra = {name: value for name, value in known.items() if value}
    return [
        {
            "prompt": prompt,
            "chosen": turn(ranking.completions[better]),
            "rejected": turn(ranking.completions[worse]),
            **extra,
        }
        for better, worse in ranking.pairs()
    ]


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write beside the target first: a crash leaves the old file or the new one, never half of one."""
    count = 0
    draft = path.with_name(path.name + ".part")
    try:
        if path.is_file() and path.open("rb").read(len(SQLITE)) == SQLITE:
            raise DataError(f"{path}: is a SQLite database, a label store perhaps; give another name to write to")
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("w", encoding="utf-8", newline="\n") as out:
            for row in rows:
                out.write(json.dumps(row, ensure_ascii=False) + "\n")
                count += 1
        os.replace(draft, path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror}); choose another place") from None
    return count
