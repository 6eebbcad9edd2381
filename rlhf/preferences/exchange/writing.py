"""Rankings into files: rows of a format in JSON Lines, one JSON array, CSV, Parquet, or a folder for `datasets`."""

from __future__ import annotations

import csv
import gzip
import io
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

from rlhf.data.readers import READERS, escaped, suffix_of
from rlhf.data.records import Demonstration, Ranking
from rlhf.errors import DataError
from rlhf.preferences.exchange.base import FIELDS, Row, Tally, text_meta
from rlhf.preferences.exchange.reading import FORMATS, META, as_json

SQLITE = b"SQLite format 3\0"  # how its files begin
FOLDER = "datasets"  # the toolkit's own rows in a folder, as `datasets`' `save_to_disk` writes it
WRITABLE = (*FORMATS, FOLDER)
DEMONSTRATIONS = "demonstrations"  # what `write_demonstrations` writes: no rankings, but with endings as well
TABLES = (".csv", ".parquet")
AT_ONCE = 1_000  # rows of a Parquet file's chunk
COLUMNS = {
    "rankings": ("prompt", "completions", "ranks", "labeler", "created_at", "group", META),
    "trl": ("prompt", "chosen", "rejected", "labeler", "created_at", "group"),
}


@dataclass(frozen=True)
class Written:
    """What was written: `rows` of `rankings`, and by reason what was not, or what the format has no place for."""

    rankings: int
    rows: int
    left_out: dict[str, int]
    lost: dict[str, int]
    notes: tuple[str, ...]


def write(path: str | Path, rankings: Iterable[Ranking], format: str = "rankings") -> Written:
    """Write rankings in a format; the file's ending says how its rows are kept, as `endings` has them.

    What the format cannot hold is counted in what is returned. A crash leaves the old file or the new one.
    """
    if format not in WRITABLE:
        raise DataError(f"format: unknown format {format!r}; expected one of {', '.join(WRITABLE)}")
    path = Path(path)
    check_ending(path, format)
    given, tally = list(rankings), Tally()
    chosen = FORMATS["rankings" if format == FOLDER else format]
    rows = chosen.rows(given, tally)
    if format == FOLDER:
        count = _folder(path, given, rows)
    elif suffix_of(path) in TABLES:
        count = _table(path, chosen.name, given, rows)
    else:
        count = _json(path, rows)
    return Written(len(given), count, dict(tally.left_out), dict(tally.lost), tuple(tally.notes))


def endings(format: str) -> tuple[str, ...]:
    """How a format's files may end, the usual way first, without .gz; () for a folder."""
    if format == FOLDER:
        return ()
    if format == DEMONSTRATIONS:
        return (".jsonl", ".json")
    if FORMATS[format].array:
        return (".json",)
    return (".jsonl", ".json", *TABLES) if FORMATS[format].tabular else (".jsonl", ".json")


def check_ending(path: Path, format: str) -> None:
    """DataError for a name whose ending says what the format cannot be kept in."""
    ending, packed = suffix_of(path), path.suffix.lower() == ".gz"
    found = f"in a file that ends with {ending[:40]!r}" if ending else "in a file without an ending"
    if format == FOLDER:
        if ending in READERS:
            raise DataError(f"{path}: {format} is kept in a folder, not {found}; leave out the ending")
    elif ending not in endings(format):
        *most, last = (*endings(format), *(f"{one}.gz" for one in endings(format) if one != ".parquet"))
        raise DataError(f"{path}: {format} cannot be kept {found}; end it with {', '.join(most)} or {last}")
    elif packed and ending == ".parquet":
        raise DataError(f"{path}: Parquet is packed already; leave out .gz")


def write_rankings(path: str | Path, rankings: Iterable[Ranking]) -> int:
    """Write rankings as our own rows, so that `data.sources.load_rankings` gives equal ones back; returns how many."""
    return write(path, rankings).rows


def write_pairs(path: str | Path, rankings: Iterable[Ranking]) -> int:
    """Write every untied pair as TRL has it, `{"prompt", "chosen", "rejected"}`; returns how many pairs.

    A chat prompt is a list of messages, and so are its `chosen` and `rejected` (one assistant's turn each).
    """
    return write(path, rankings, "trl").rows


def write_demonstrations(path: str | Path, demonstrations: Iterable[Demonstration]) -> int:
    """Write demonstrations as TRL has them, `{"prompt", "completion"}`; returns how many.

    A chat comes whole, its last turn the answer: `{"messages"}`.
    """
    check_ending(Path(path), DEMONSTRATIONS)
    return _json(Path(path), map(_demonstration_row, demonstrations))


def _demonstration_row(demonstration: Demonstration) -> Row:
    group = {"group": demonstration.group} if demonstration.group else {}
    if isinstance(demonstration.prompt, str):
        return {"prompt": demonstration.prompt, "completion": demonstration.completion, **group}
    answer = {"role": "assistant", "content": demonstration.completion}
    return {"messages": [*demonstration.prompt, answer], **group}


# Ways to keep rows


def _json(path: Path, rows: Iterable[Row]) -> int:
    keep = _array if suffix_of(path) == ".json" else _lines
    return _safely(path, lambda out: keep(out, rows))


def _lines(out: IO[bytes], rows: Iterable[Row]) -> int:
    count = 0
    for count, row in enumerate(rows, start=1):  # noqa: B007  # the last number is the count
        out.write(as_json(row).encode() + b"\n")
    return count


def _array(out: IO[bytes], rows: Iterable[Row]) -> int:
    count = 0
    for count, row in enumerate(rows, start=1):
        out.write((b"[\n" if count == 1 else b",\n") + as_json(row).encode())
    out.write(b"\n]\n" if count else b"[]\n")
    return count


def _table(path: Path, format: str, rankings: Sequence[Ranking], rows: Iterable[Row]) -> int:
    packed = map(_packed, rows)
    if suffix_of(path) == ".csv":
        return _safely(path, lambda out: _csv(out, COLUMNS[format], packed))
    chats = _chats(rankings, path)
    return _safely(path, lambda out: _parquet(out, format, chats, packed))


def _packed(row: Row) -> Row:
    """The row of a table: what is no field of a ranking goes into one column, as JSON."""
    meta = {name: value for name, value in row.items() if name not in FIELDS}
    return {name: row[name] for name in FIELDS if name in row} | ({META: text_meta(meta)} if meta else {})


def _csv(out: IO[bytes], columns: Sequence[str], rows: Iterable[Row]) -> int:
    text = io.TextIOWrapper(out, encoding="utf-8", newline="")
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerow(columns)
    count = 0
    for count, row in enumerate(rows, start=1):  # noqa: B007
        cells = (row.get(name, "") for name in columns)
        writer.writerow([escaped(cell) if isinstance(cell, str) else as_json(cell) for cell in cells])
    text.flush()
    text.detach()
    return count


def _chats(rankings: Sequence[Ranking], path: Path) -> bool:
    """Whether prompts are chats; DataError where some are and some are not, for a column holds one type."""
    kinds = {isinstance(one.prompt, str) for one in rankings}
    if len(kinds) > 1:
        raise DataError(f"{path}: text and chat prompts do not fit in one column; write .jsonl or .csv")
    return kinds == {False}


def _schema(format: str, chats: bool) -> Any:
    import pyarrow as pa

    text = pa.string()
    turns = pa.list_(pa.struct([("role", text), ("content", text)])) if chats else text
    types = {"prompt": turns, "chosen": turns, "rejected": turns}
    types |= {"completions": pa.list_(text), "ranks": pa.list_(pa.int64())}
    return pa.schema([(name, types.get(name, text)) for name in COLUMNS[format]])


def _parquet(out: IO[bytes], format: str, chats: bool, rows: Iterator[Row]) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema, count = _schema(format, chats), 0
    with pq.ParquetWriter(out, schema) as writer:
        while some := list(islice(rows, AT_ONCE)):
            writer.write_table(pa.Table.from_pylist(some, schema=schema))
            count += len(some)
    return count


def _folder(path: Path, rankings: Sequence[Ranking], rows: Iterable[Row]) -> int:
    import pyarrow as pa
    from datasets import Dataset
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if path.exists():
        raise DataError(f"{path}: is there already; give the name of a new folder")
    schema = _schema("rankings", _chats(rankings, path))
    table = pa.Table.from_pylist([_packed(row) for row in rows], schema=schema)
    draft = path.with_name(path.name + ".part")
    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        shutil.rmtree(draft, ignore_errors=True)
        Dataset(table).save_to_disk(str(draft))
        os.replace(draft, path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error}); choose another place") from None
    finally:
        if shown:
            enable_progress_bars()
    return int(table.num_rows)


def _safely(path: Path, fill: Callable[[IO[bytes]], int]) -> int:
    """Write beside the target first: a crash leaves the old file or the new one, never half of one."""
    draft = path.with_name(path.name + ".part")
    try:
        if path.is_file() and path.open("rb").read(len(SQLITE)) == SQLITE:
            raise DataError(f"{path}: is a SQLite database, a label store perhaps; give another name to write to")
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("wb") as out:
            if path.suffix.lower() == ".gz":
                with gzip.GzipFile(filename="", mode="wb", fileobj=out, mtime=0) as packed:
                    count = fill(packed)  # type: ignore[arg-type]  # it writes like any binary file
            else:
                count = fill(out)
        os.replace(draft, path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror}); choose another place") from None
    return count
