"""Rows out of files and `datasets` names, each with the place it came from, for error messages. No torch here."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rlhf.errors import DataError

Rows = Iterator[tuple[str, dict[str, Any]]]
LIST_COLUMNS = ("completions", "ranks", "messages")


def read_jsonl(path: Path) -> Rows:
    """One JSON object a line; empty lines are passed over."""
    offset = 0
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            where = f"{path}, line {number}"
            text = _decoded(raw, where, offset).removeprefix("\ufeff" if number == 1 else "")
            offset += len(raw)
            if text.strip():
                yield where, _object(text, where)


def read_csv(path: Path) -> Rows:
    """A header row, then one record a row; an empty cell is an absent field."""
    raw = path.read_bytes()
    if b"\x00" in raw:
        raise DataError(f"{path}, line {_line(raw, raw.index(0))}: holds a NUL byte; save the file as UTF-8 text")
    text = _decoded(raw, str(path), 0).removeprefix("\ufeff")
    reader = csv.reader(_physical_lines(text), strict=True)
    header: list[str] | None = None
    start = 1
    try:
        for cells in reader:
            where, start = f"{path}, line {start}", reader.line_num + 1
            if header is None:
                header = cells
                if len(set(header)) < len(header):
                    raise DataError(f"{where}: the header names a column twice; rename one")
            elif cells:
                yield where, _csv_row(header, cells, where)
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not valid CSV ({error}); quote the cell") from error


def read_parquet(path: Path) -> Rows:
    """One record a row; a null cell is an absent field."""
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield f"{path}, row {number}", _present(row)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({_one_line(error)}); write it again") from error


def read_hub(name: str) -> Rows:
    """Rows of a `datasets` name, as `name` (its `train` split) or `name:split`."""
    from datasets import load_dataset

    repository, _, split = name.partition(":")
    try:
        rows = load_dataset(repository, split=split or "train")
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise DataError(
            f"{name}: neither a file here nor a data set that `datasets` can load ({_one_line(error)}); "
            f"check the name, its split and the network"
        ) from error
    for number, row in enumerate(rows, start=1):
        yield f"{name}, row {number}", _present(row)


READERS: dict[str, Callable[[Path], Rows]] = {
    ".jsonl": read_jsonl,
    ".json": read_jsonl,
    ".parquet": read_parquet,
    ".csv": read_csv,
}


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        column = f", column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        hint = "; this is a JSON array: write one object a line" if text.lstrip().startswith("[") else ""
        raise DataError(f"{where}{column}: not valid JSON ({_one_line(error)}); one object a line{hint}") from error
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected a JSON object, found {type(row).__name__}; write one object a line")
    return row


def _csv_row(header: list[str], cells: list[str], where: str) -> dict[str, Any]:
    if len(cells) != len(header):
        raise DataError(f"{where}: expected {len(header)} cells as in the header, found {len(cells)}; quote commas")
    row: dict[str, Any] = {name: cell for name, cell in zip(header, cells, strict=True) if cell}
    for name in LIST_COLUMNS:
        if name in row:
            row[name] = _json_list(row[name], f"{where}, field '{name}'")
    if row.get("prompt", "").lstrip().startswith('[{"'):  # chat messages; any other text is a plain prompt
        for name in ("prompt", "chosen", "rejected"):
            if row.get(name, "").lstrip().startswith('[{"'):
                row[name] = _json_list(row[name], f"{where}, field '{name}'")
    return row


def _json_list(cell: str, where: str) -> list[Any]:
    try:
        value = json.loads(cell)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: expected a JSON list in the cell, found {cell[:40]!r}") from error
    if not isinstance(value, list):
        raise DataError(f"{where}: expected a JSON list in the cell, found {cell[:40]!r}")
    return value


def _decoded(raw: bytes, where: str, offset: int) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = "" if ", line " in where else f", line {_line(raw, error.start)}"
        raise DataError(
            f"{where}{line}: not UTF-8 (byte 0x{raw[error.start]:02x} at offset {offset + error.start} of the file); "
            "save the file as UTF-8"
        ) from error


def _physical_lines(text: str) -> Iterator[str]:
    """Lines as editors count them, with their ends; `str.splitlines` would also cut at U+2028 and the like."""
    for line in text.split("\n"):
        yield line + "\n"


def _line(raw: bytes, position: int) -> int:
    return raw.count(b"\n", 0, position) + 1


def _present(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value is not None}


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]
