"""Which runs there are under a folder, and what they are doing: found anew again and again while others write them.

No Streamlit here. Nothing of a run is opened but what `inside` lets through.
"""

from __future__ import annotations

import itertools
import os
import stat
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from labeling_app.views.runs.reading import finite, inside, name_of, step_of, tail, time_of

MARKS = ("metrics.jsonl", "manifest.json", "config.yaml")  # a folder with one of these is a run
DEEPEST = 3  # folders below the runs folder
MOST_FOLDERS, MOST_RUNS = 50_000, 500  # that are looked through, that are shown
ALIVE_SECONDS = 120.0  # without news, if its steps are not longer than a fifth of that


@dataclass(frozen=True)
class Run:
    """One run of the list. `name` is its path below the runs folder; `stage`, `step`, `total`: what it logged last."""

    name: str
    updated: float  # seconds since 1970
    state: str  # "at work", "no news", "ended" (wrote its report last), "no steps yet"
    stage: str = ""
    step: int | None = None
    total: int | None = None

    @property
    def alive(self) -> bool:
        """Something is writing to it."""
        return self.state == "at work"


@dataclass(frozen=True)
class Found:
    """The newest runs under a folder, newest first.

    `left_out` counts the older runs, and folders that cannot be read or whose names are no text. `whole`: there were
    no more folders than are looked through.
    """

    runs: list[Run]
    left_out: int = 0
    whole: bool = True


def find(folder: Path, now: float | None = None) -> Found:
    """The runs in this folder and up to DEEPEST below it. Links and hidden folders are not followed."""
    return Finder(folder).find(now)


class Finder:
    """The runs under a folder, for who asks again and again: what did not change since is not read again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._listed: dict[str, tuple[_Stamp, _Listed]] = {}  # by path below the folder
        self._looked: dict[str, tuple[tuple[_Stamp | None, ...], _Looked]] = {}
        self._lock = threading.Lock()

    def find(self, now: float | None = None) -> Found:
        """The MOST_RUNS newest ones, newest first. All are counted; only those are looked into."""
        now = time.time() if now is None else now
        with self._lock:
            found, left_out, whole = self._all()
            found.sort(key=lambda one: (-one[0], one[1]))
            kept = [name for _, name in found[:MOST_RUNS]]
            self._looked = {name: self._look(name) for name in kept}
            runs = [_run(name, self._looked[name][1], now) for name in kept]
        runs.sort(key=lambda run: (-run.updated, run.name))
        return Found(runs, left_out + len(found) - len(kept), whole)

    def _all(self) -> tuple[list[tuple[float, str]], int, bool]:
        """Every run as (changed, name), how many folders are not for us to read or show, and whether that is all.

        Level by level; a run's own folders hold no runs.
        """
        queue, listed, left_out = [("", 0)], dict[str, tuple[_Stamp, _Listed]](), 0
        found: list[tuple[float, str]] = []
        for name, depth in itertools.islice(queue, MOST_FOLDERS):
            if not _is_text(name):
                left_out += 1
                continue
            here = self._list(name, listed)
            stamps = {mark: _stamp(self._folder / name / mark, file=True) for mark in here.marks}
            changed = {mark: stamp[3] / 1e9 for mark, stamp in stamps.items() if stamp is not None}
            if changed:
                found.append(
                    (changed.get(MARKS[0], max(changed.values())), name or ".")
                )  # as MARKS has them: the numbers first
            elif not here.read and name:
                left_out += 1
            if depth < DEEPEST and not (depth and changed):
                queue += [(f"{name}/{below}" if name else below, depth + 1) for below in here.below]
        self._listed = listed
        return found, left_out, len(queue) <= MOST_FOLDERS

    def _list(self, name: str, listed: dict[str, tuple[_Stamp, _Listed]]) -> _Listed:
        path = self._folder / name
        stamp, before = _stamp(path), self._listed.get(name)
        here = before[1] if before is not None and before[0] == stamp else _listing(path)
        # What changed just now may change again within one tick of the file system's clock.
        if stamp is not None and here.read and time.time() - max(stamp[2:]) / 1e9 > 2:
            listed[name] = (stamp, here)
        return here

    def _look(self, name: str) -> tuple[tuple[_Stamp | None, ...], _Looked]:
        now = tuple(_stamp(self._folder / name / file) for file in (*MARKS, "report.html"))
        before = self._looked.get(name)
        return before if before is not None and before[0] == now else (now, _look(self._folder, name))


_Stamp = tuple[int, int, int, int]  # of a file: inode, size, and when it (its rights too) changed, in ns: see _stamp


@dataclass(frozen=True)
class _Listed:
    """What a folder holds: folders, and those of MARKS; `read`: whether it could be read."""

    below: tuple[str, ...]
    marks: tuple[str, ...]
    read: bool = True


@dataclass(frozen=True)
class _Looked:
    """What a run's files say: when they changed, its report too, and the last row of numbers, if there is one."""

    updated: float
    reported: float | None
    stage: str = ""
    step: int | None = None
    total: int | None = None
    pace: float = 0.0  # seconds between the last two rows


def _stamp(path: Path, file: bool = False) -> _Stamp | None:
    """None for one that is not there or not for us to see, and where a regular `file` is asked for, for others."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    if file and not stat.S_ISREG(found.st_mode):
        return None
    return found.st_ino, found.st_size, found.st_ctime_ns, found.st_mtime_ns


def _listing(path: Path) -> _Listed:
    try:
        with os.scandir(path) as entries:
            every = {entry.name: entry for entry in entries}
    except OSError:
        return _Listed((), MARKS, read=False)  # its files may be for us to read nevertheless
    below = sorted(name for name, entry in every.items() if name[0] != "." and _is_folder(entry))
    return _Listed(tuple(below), tuple(mark for mark in MARKS if mark in every))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # bytes that are no UTF-8
        return False
    return True


def look(folder: Path, name: str, now: float | None = None) -> Run:
    """What this run is doing, told from the last rows that it logged and from when its files changed."""
    return _run(name, _look(folder, name), time.time() if now is None else now)


def _look(folder: Path, name: str) -> _Looked:
    metrics, report = (inside(folder, name, file) for file in ("metrics.jsonl", "report.html"))
    rows = [row for row in tail(metrics) if step_of(row) is not None] if metrics else []
    marks = [path for mark in MARKS if (path := inside(folder, name, mark))]
    updated = _changed(metrics) if metrics else max(map(_changed, marks), default=0.0)
    reported = None if report is None else _changed(report)
    if not rows:
        return _Looked(updated, reported)
    last, total = rows[-1], finite(rows[-1].get("total"))
    pace = (time_of(last) or 0.0) - (time_of(rows[-2]) or 0.0) if len(rows) > 1 else 0.0
    total = None if total is None else int(total)
    return _Looked(updated, reported, name_of(last["stage"]), int(step_of(last) or 0), total, pace)


def _run(name: str, looked: _Looked, now: float) -> Run:
    if looked.step is None:
        return Run(name, looked.updated, "no steps yet")
    if looked.reported is not None and looked.reported >= looked.updated:
        state = "ended"
    else:
        patience = max(ALIVE_SECONDS, 5 * min(looked.pace, 3600.0))
        state = "at work" if now - looked.updated <= patience else "no news"
    return Run(name, looked.updated, state, looked.stage, looked.step, looked.total)


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
