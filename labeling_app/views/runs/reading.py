"""Runs as files: their numbers, read while others write them.

No Streamlit here. A file of a run may be cut off in the middle of a line, written anew, or hold anything at all; names
and texts in it are somebody else's. Nothing outside of the runs folder is ever opened, whatever a name or a link says.
"""

from __future__ import annotations

import json
import math
import os
from array import array
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from rlhf.report.record import clean

TAIL_BYTES = 65_536
READ_BYTES, LINE_BYTES = 2 << 20, 1 << 20  # at one time: the process serves labelers too
MOST_STAGES, MOST_NUMBERS = 20, 80  # of a run, of a stage
POINTS = 400  # of a curve that is drawn


# --- files -------------------------------------------------------------------------------------------------------


def inside(folder: Path, *parts: str) -> Path | None:
    """The regular file under the folder that these parts name; None for one that is not there, or lies elsewhere."""
    try:
        top = folder.resolve(strict=True)
        path = top.joinpath(*parts).resolve(strict=True)
        return path if path.is_relative_to(top) and path.is_file() else None
    except (OSError, ValueError, RuntimeError):  # not there, no name at all (NUL), links in a circle
        return None


def text_of(folder: Path, run: str, name: str, most: int = 1 << 20) -> str:
    """A file of a run as text, up to `most` bytes; empty where there is none."""
    path = inside(folder, run, name)
    try:
        with path.open("rb") if path else open(os.devnull, "rb") as stream:
            return str(clean(stream.read(most).decode("utf-8", "replace")))
    except OSError:
        return ""


def tail(path: Path) -> list[dict[str, Any]]:
    """The last whole rows of a file that only grows."""
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - TAIL_BYTES))
            lines = stream.read(TAIL_BYTES).split(b"\n")
    except OSError:
        return []
    whole = lines[:-1] if size <= TAIL_BYTES else lines[1:-1]
    return [row for line in whole[-4:] if (row := _parsed(line)) is not None]


# --- rows --------------------------------------------------------------------------------------------------------


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def finite(value: object) -> float | None:
    """A number that can be drawn; whole numbers may be longer than any float."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def step_of(row: dict[str, Any]) -> float | None:
    """The step of a row of numbers; None for a row that is none: it names no stage, or no step."""
    stage, step = row.get("stage"), finite(row.get("step"))
    named = isinstance(stage, str) and bool(stage.strip())
    return step if named and step is not None and abs(step) < 1e15 else None


def name_of(text: str) -> str:
    return str(clean(text))[:80]


def time_of(row: dict[str, Any]) -> float | None:
    try:
        when = datetime.fromisoformat(row["time"])
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


class Lines:
    """The rows of a JSON Lines file that grows: each `read` gives those that are new since the last one.

    A last line without its end waits for the rest; one in the middle that is no row is skipped and counted. A file
    that was cut, or replaced by another, is read from its start again.
    """

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self.broken = 0
        self.behind = False  # there is more in the file than was read
        self._offset = 0
        self._seen: tuple[int, int, int] | None = None
        self._before = b""  # what stands just before the offset: another text there means another file
        self._skipping = False

    def read(self, path: Path) -> tuple[bool, list[dict[str, Any]]]:
        """Whether the file began anew (what was read before is void), and the new rows."""
        try:
            with path.open("rb") as stream:
                now = os.fstat(stream.fileno())
                seen = (now.st_ino, now.st_size, now.st_mtime_ns)
                if seen == self._seen and not self.behind:
                    return False, []
                anew = self._is_another(stream, now)
                if anew:
                    self._begin()
                self._seen = seen
                stream.seek(self._offset)
                return anew, self._rows(stream.read(READ_BYTES), now.st_size)
        except OSError:  # gone
            anew = self._seen is not None
            self._begin()
            return anew, []

    def _is_another(self, stream: Any, now: os.stat_result) -> bool:
        if self._seen is None:
            return False
        if now.st_ino != self._seen[0] or now.st_size < self._offset:
            return True
        stream.seek(self._offset - len(self._before))
        return bool(stream.read(len(self._before)) != self._before)

    def _rows(self, data: bytes, size: int) -> list[dict[str, Any]]:
        end = data.rfind(b"\n") + 1
        if not end and len(data) > LINE_BYTES:  # no line of ours: its beginning is dropped, and later its end
            end, self._skipping, lines = len(data), True, []
        else:
            lines = data[:end].split(b"\n")[:-1]
            if self._skipping and lines:
                lines, self._skipping, self.broken = lines[1:], False, self.broken + 1
        if end:
            self._before = data[max(0, end - 64) : end]
        self._offset += end
        self.behind = end > 0 and self._offset < size
        rows = []
        for line in lines:
            row = _parsed(line) if len(line) <= LINE_BYTES else None
            if row is not None:
                rows.append(row)
            elif line.strip():
                self.broken += 1
        return rows


# --- curves ------------------------------------------------------------------------------------------------------


class Stage:
    """A stage's numbers by step, as columns; NaN where a step has none."""

    def __init__(self) -> None:
        self.steps = array("d")
        self.numbers: dict[str, array[float]] = {}
        self.total: float | None = None
        self.left_out = 0  # numbers beyond the most that are kept

    def take(self, step: float, row: dict[str, Any]) -> None:
        """Add a row. A resumed stage writes steps again: the later row counts, and what followed the earlier goes."""
        while self.steps and self.steps[-1] >= step:
            self.steps.pop()
            for column in self.numbers.values():
                column.pop()
        for key, value in row.items():
            number = None if key in ("stage", "step", "total", "time") else finite(value)
            if number is None:
                continue
            name = name_of(key)
            if name not in self.numbers:
                if len(self.numbers) >= MOST_NUMBERS:
                    self.left_out += 1
                    continue
                self.numbers[name] = array("d", [math.nan]) * len(self.steps)
            if len(self.numbers[name]) == len(self.steps):  # two keys may be cut to the same name
                self.numbers[name].append(number)
        self.steps.append(step)
        self.total = finite(row.get("total"))
        for column in self.numbers.values():
            if len(column) < len(self.steps):
                column.append(math.nan)

    def names(self) -> list[str]:
        """Those that have a value."""
        return [name for name, column in self.numbers.items() if not np.isnan(np.array(column)).all()]

    def points(self, name: str, most: int = POINTS) -> list[tuple[float, float, float, float]]:
        """(step, mean, least, greatest) of at most `most` equal stretches; every value where they are no more."""
        if name not in self.numbers:
            return []
        steps, values = np.array(self.steps), np.array(self.numbers[name])
        there = ~np.isnan(values)
        steps, values = steps[there], values[there]
        if not len(values):
            return []
        size = math.ceil(len(values) / most)
        starts = np.arange(0, len(values), size)
        counts = np.diff(np.append(starts, len(values)))
        # Divided before it is added up: a sum of the greatest floats is none.
        means = np.add.reduceat(values / np.repeat(counts, counts), starts)
        ends = starts + counts - 1
        found = (steps[ends], means, np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts))
        return list(zip(*(part.tolist() for part in found), strict=True))


class Curves:
    """The numbers of a run's `metrics.jsonl`, by stage; `read` takes in what is new."""

    def __init__(self) -> None:
        self.stages: dict[str, Stage] = {}
        self.last = ""  # the stage that logged numbers last
        self.version = 0  # changes whenever the numbers do
        self.strange = 0  # rows that name no stage or step
        self.lines = Lines()

    def read(self, path: Path) -> int:
        """Take in what the file has more than before; returns the version."""
        anew, rows = self.lines.read(path)
        if anew:
            self.stages, self.last, self.strange = {}, "", 0
        for row in rows:
            step = step_of(row)
            name = "" if step is None else name_of(row["stage"])
            if step is None or (name not in self.stages and len(self.stages) >= MOST_STAGES):
                self.strange += 1
                continue
            self.stages.setdefault(name, Stage()).take(step, row)
            if self.stages[name].numbers:  # evaluation and export log their steps alone
                self.last = name
        self.version += bool(anew or rows)
        return self.version
