"""Rankings as files: JSON Lines as DESIGN's records have them, and pairs as TRL reads them.

Ranks belong to completions by their place in the row. Nothing is sorted, renumbered or left out on the way.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rlhf.data.records import Ranking, parse_ranking, ranking_row
from rlhf.errors import DataError


def read_rankings(path: str | Path) -> Iterator[Ranking]:
    """Rankings or TRL pairs of a JSON Lines file, one a line (blank lines are passed over).

    Raises DataError naming file, line, field and fix.
    """
    for where, row in _rows(Path(path)):
        yield parse_ranking(row, where)


def write_rankings(path: str | Path, rankings: Iterable[Ranking]) -> int:
    """Write rankings as JSON Lines, so that `read_rankings` gives equal ones back; returns how many."""
    return _write(Path(path), (ranking_row(r) for r in rankings))


def write_pairs(path: str | Path, rankings: Iterable[Ranking]) -> int:
    """Write every untied pair as TRL has it, `{"prompt", "chosen", "rejected"}`; returns how many pairs.

    A chat prompt is a list of messages, and so are its `chosen` and `rejected` (one assistant's turn each).
    """
    return _write(Path(path), (row for r in rankings for row in pair_rows(r)))


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


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    where = f"{path}, line {number}"
                    yield where, _untwisted(_parse(line, where), where)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from None


def _parse(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: is not UTF-8 (byte {error.start + 1}); re-encode the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise DataError(
            f"{where}: is not JSON ({error.msg} at column {error.colno}); write one JSON object a line"
        ) from None
    if not isinstance(row, dict):
        raise DataError(
            f'{where}: expected a JSON object like {{"prompt", "completions", "ranks"}}, found {str(row)[:60]}'
        )
    return row


def _untwisted(row: dict[str, Any], where: str) -> dict[str, Any]:
    """TRL's conversational pairs have `chosen` and `rejected` as a list of one assistant's turn: take its text."""
    out = dict(row)
    for name in ("chosen", "rejected"):
        turns = out.get(name)
        if isinstance(turns, list):
            alone = len(turns) == 1 and isinstance(turns[0], dict) and turns[0].get("role") == "assistant"
            if not alone:
                raise DataError(
                    f"{where}, field '{name}': expected text or one assistant's turn; move earlier turns to 'prompt'"
                )
            out[name] = turns[0].get("content")
    return out


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write beside the target first: a crash leaves the old file or the new one, never half of one."""
    count = 0
    draft = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("w", encoding="utf-8", newline="\n") as out:
            for row in rows:
                out.write(json.dumps(row, ensure_ascii=False) + "\n")
                count += 1
        os.replace(draft, path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror}); choose another place") from None
    return count
