"""Rows out of files and `datasets` names, each with the place it came from, for error messages. No torch here.

Every reader streams: however long a file is, memory holds a few rows of it, and no row of a text file may be longer
than `LONGEST`. `.gz` behind `.jsonl`, `.json` or `.csv` is unpacked on the way.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

from rlhf.errors import DataError

Rows = Iterator[tuple[str, dict[str, Any]]]
LIST_COLUMNS = ("completions", "ranks", "messages")
CHAT = '[{"'  # how chat messages begin in a cell of a CSV file
LONGEST = 2**26  # bytes, unpacked, of a line, of a row of CSV, of an object of a JSON array: more is a broken file
SPACES = re.compile(r"[ \t\r\n]*")
# What a spreadsheet would run: `=`, `+`, `-`, `@` (also their full-width forms), tab and return, with spaces and quotes
# before them or none; and what this reader would take for a chat. Apostrophes are among those quotes, so that a text
# that begins with one is marked as well, and `escaped` and `unescaped` undo each other exactly.
MARKED = re.compile(r"""[\s"'‘’“”＂＇]*(?:[=+@\t\r\n＝＋＠－-]|\[\{")""")


class Meter:
    """How much of a file was read, in bytes on the disk (of a folder: in rows); `size` is 0 where that is not known."""

    def __init__(self, size: int = 0) -> None:
        self.size = size
        self.done = 0


def suffix_of(path: Path) -> str:
    """`.jsonl` of `a.jsonl` and of `a.jsonl.gz`, in lower case."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def path_of(source: str) -> Path:
    """The path that a source names, `~` and all; DataError for the home of nobody."""
    try:
        return Path(source).expanduser()
    except RuntimeError as error:
        raise DataError(f"{source}: no such file ({_one_line(error)}); check the path") from None


def no_file(source: str) -> DataError:
    """What to say of a path that is no file."""
    if path_of(source).exists():
        return DataError(f"{source}: is no ordinary file (but a pipe or a device); copy its content into a file")
    return DataError(f"{source}: no such file; check the path, which is relative to {Path.cwd()}")


def too_long(where: str, about: str = "") -> DataError:
    """What to say of a row that is longer than `LONGEST`; `about`: what else may be wrong with it."""
    return DataError(
        f"{where}: {about}longer than {LONGEST / 2**20:g} MiB, the most for one row; put each record on a "
        "line of its own, or cut this one out"
    )


@contextmanager
def opened(path: Path, meter: Meter) -> Iterator[IO[bytes]]:
    """The file's bytes, unpacked if its name ends with `.gz`; the meter follows in the packed ones."""
    with path.open("rb") as raw:
        meter.size = path.stat().st_size
        if path.suffix.lower() != ".gz":
            yield raw
            return
        try:
            with gzip.GzipFile(fileobj=raw) as unpacked:
                yield unpacked  # type: ignore[misc]  # it reads like any binary file
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DataError(f"{path}: not a whole gzip file ({_one_line(error)}); fetch or pack it again") from error


def lines(path: Path, meter: Meter) -> Iterator[tuple[int, bytes, int]]:
    """Each line with its end: number from 1, bytes, and how many bytes came before it; none longer than `LONGEST`."""
    packed = path.suffix.lower() == ".gz"
    with opened(path, meter) as file:
        offset = 0
        for number, raw in enumerate(iter(partial(file.readline, LONGEST + 1), b""), start=1):
            if len(raw) > LONGEST:
                raise too_long(f"{path}, line {number}")
            offset += len(raw)
            if not packed:
                meter.done = offset
            yield number, raw, offset - len(raw)
            if packed and not number % 100:
                meter.done = file.fileobj.tell() if isinstance(file, gzip.GzipFile) and file.fileobj else meter.done
    meter.done = meter.size


def read_jsonl(path: Path, meter: Meter | None = None) -> Rows:
    """One JSON object a line; empty lines are passed over."""
    for number, raw, offset in lines(path, meter or Meter()):
        where = f"{path}, line {number}"
        text = _decoded(raw, where, offset).removeprefix("\ufeff" if number == 1 else "")
        if text.strip():
            yield where, _object(text, where)


def read_json_array(path: Path, meter: Meter | None = None) -> Rows:
    """The objects of one JSON array, however it is laid out, each read by itself."""
    meter = meter or Meter()
    with opened(path, meter) as file:
        text = _Text(path, file, meter)
        if text.taken() != "[":
            raise DataError(f"{path}: expected a JSON array; begin with [ and write one object after another")
        number, closed = 0, text.peek() == "]"
        while not closed:
            number += 1
            where = f"{path}, record {number}"
            value = text.value(where)
            if not isinstance(value, dict):
                raise DataError(f"{where}: expected a JSON object, found {type(value).__name__}")
            yield where, value
            sign = text.taken()
            if sign not in (",", "]"):
                raise DataError(
                    f"{where}: expected , or ] after it, found {sign or 'the end'}; the file is cut or broken"
                )
            closed = sign == "]"
    meter.done = meter.size


def read_json(path: Path, meter: Meter | None = None) -> Rows:
    """One JSON array, or an object a line, whichever the file begins with."""
    with opened(path, Meter()) as file:
        begin = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    yield from (read_json_array if begin == b"[" else read_jsonl)(path, meter)


class _Text:
    """A window on a JSON text: values are decoded as soon as they are whole."""

    CHUNK = 2**18

    def __init__(self, path: Path, file: IO[bytes], meter: Meter) -> None:
        self._path, self._file, self._meter = path, file, meter
        self._window, self._at, self._ended = "", 0, False
        self._rest, self._read = b"", 0  # bytes of a character that the last chunk cut; how many were read before

    def _more(self) -> bool:
        room = max(LONGEST - len(self._window) + self._at, 0) + self.CHUNK
        raw = self._rest + self._file.read(min(max(self.CHUNK, len(self._window)), room))
        self._ended = len(raw) == len(self._rest)
        try:
            whole, self._rest = raw.decode("utf-8"), b""
        except UnicodeDecodeError as error:
            if self._ended or error.start < len(raw) - 4:
                _decoded(raw, f"{self._path}", self._read)
            whole, self._rest = raw[: error.start].decode("utf-8"), raw[error.start :]
        if not self._read:
            whole = whole.removeprefix("\ufeff")
        self._read += len(raw) - len(self._rest)
        self._meter.done = self._file.fileobj.tell() if isinstance(self._file, gzip.GzipFile) else self._read  # type: ignore[union-attr]
        self._window, self._at = self._window[self._at :] + whole, 0
        return not self._ended

    def peek(self) -> str:
        """The next character that is no space; "" at the end."""
        while True:
            spaces = SPACES.match(self._window, self._at)
            self._at = spaces.end() if spaces else self._at
            if self._at < len(self._window):
                return self._window[self._at]
            if not self._more():
                return ""

    def taken(self) -> str:
        """That character, passed over."""
        found = self.peek()
        self._at += len(found)
        return found

    def value(self, where: str) -> Any:
        """The next value."""
        if self.peek() not in ("{", "["):  # a number cut by the window's edge would look whole
            raise DataError(
                f"{where}: expected a JSON object, found {self.peek() or 'the end'}; one object after another"
            )
        while True:
            try:
                found, self._at = json.JSONDecoder().raw_decode(self._window, self._at)
                return found
            except (ValueError, RecursionError) as error:
                ended = isinstance(error, RecursionError)
                if not ended and len(self._window) - self._at > LONGEST:
                    raise too_long(where, f"not valid JSON ({_one_line(error)}), or ") from error
                if ended or not self._more():
                    raise DataError(
                        f"{where}: not valid JSON ({_one_line(error)}); mend or cut out this record"
                    ) from error


def read_csv(path: Path, meter: Meter | None = None) -> Rows:
    """A header row, then one record a row; an empty cell is an absent field. Undoes what `escaped` does."""
    csv.field_size_limit(max(LONGEST, csv.field_size_limit()))  # of the whole process: never lowered
    row = _Row()
    reader = csv.reader(_csv_lines(path, meter or Meter(), row), strict=True)
    header: list[str] | None = None
    start = 1
    try:
        for cells in reader:
            where, start, row.length = f"{path}, line {start}", reader.line_num + 1, 0
            if header is None:
                header = cells
                if len(set(header)) < len(header):
                    raise DataError(f"{where}: the header names a column twice; rename one")
            elif cells:
                yield where, _csv_row(header, cells, where)
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not valid CSV ({error}); quote the cell") from error


def escaped(cell: str) -> str:
    """A text's cell: with an apostrophe before it, if a spreadsheet would take it for a formula."""
    return f"'{cell}" if MARKED.match(cell) else cell


def unescaped(cell: str) -> str:
    """What `escaped` was given."""
    return cell[1:] if cell.startswith("'") and MARKED.match(cell, 1) else cell


def read_parquet(path: Path, meter: Meter | None = None) -> Rows:
    """One record a row; a null cell is an absent field."""
    import pyarrow
    import pyarrow.parquet

    meter = meter or Meter()
    number = 0
    try:
        with path.open("rb") as file:
            found = pyarrow.parquet.ParquetFile(file)
            meter.size = path.stat().st_size
            for batch in found.iter_batches(batch_size=1_000):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", _present(row)
                meter.done = meter.size * number // max(found.metadata.num_rows, number)
    except (pyarrow.ArrowException, ValueError, OverflowError) as error:  # the latter: texts and times out of range
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


def read_folder(path: Path, meter: Meter | None = None) -> Rows:
    """The rows of a folder that `datasets`' `save_to_disk` wrote; a null is an absent field."""
    from datasets import Dataset, load_from_disk

    try:
        found = load_from_disk(str(path))
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise DataError(f"{path}: not a folder of `save_to_disk` ({_one_line(error)}); write it again") from error
    if not isinstance(found, Dataset):
        raise DataError(
            f"{path}: holds the splits {', '.join(found)}; name the folder of one, as {path / next(iter(found))}"
        )
    meter = meter or Meter()
    meter.size = len(found)
    for number, row in enumerate(found, start=1):
        meter.done = number
        yield f"{path}, row {number}", _present(row)


READERS: dict[str, Callable[..., Rows]] = {
    ".jsonl": read_jsonl,
    ".json": read_json,
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
    if row.get("prompt", "").lstrip().startswith(CHAT):  # chat messages; any other text is a plain prompt
        for name in ("prompt", "chosen", "rejected"):
            if row.get(name, "").lstrip().startswith(CHAT):
                row[name] = _json_list(row[name], f"{where}, field '{name}'")
    return {name: unescaped(value) if isinstance(value, str) else value for name, value in row.items()}


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
        raise DataError(
            f"{where}: not UTF-8 (byte 0x{raw[error.start]:02x} at offset {offset + error.start} of the file); "
            "save the file as UTF-8"
        ) from error


class _Row:
    """How many bytes of a row of CSV were read; it may go over many lines, of which the first is `line`."""

    length, line = 0, 1


def _csv_lines(path: Path, meter: Meter, row: _Row) -> Iterator[str]:
    for number, raw, offset in lines(path, meter):
        where = f"{path}, line {number}"
        row.line = row.line if row.length else number
        row.length += len(raw)
        if row.length > LONGEST:
            raise too_long(f"{path}, line {row.line}", "a quote that nothing closes, or a row ")
        if b"\x00" in raw:
            raise DataError(f"{where}: holds a NUL byte; save the file as UTF-8 text")
        yield _decoded(raw, where, offset).removeprefix("\ufeff" if number == 1 else "")


def _present(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value is not None}


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]
