"""Folders that are written whole: a kill at any moment leaves the old content or the new, and a reader finds it.

A folder that holds something cannot be replaced in one step: the old one is moved aside, then the new one takes its
name. A kill between the two leaves no folder of that name; `recover`, which every reader calls first, puts the old one
back.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path


def staging_of(folder: Path) -> Path:
    """An empty folder beside `folder`, to be filled and handed to `replace_folder`."""
    staging = _beside(folder, "staging")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    return staging


def replace_folder(staging: Path, folder: Path) -> None:
    """Give a finished `staging` folder the name `folder`, and remove what it replaces and what kills have left."""
    for file in staging.iterdir():
        _sync(file)
    _sync(staging)
    recover(folder)
    if folder.exists():
        _remove_leftovers(folder, "old")  # so that the one moved aside now is the only one to go back to
        folder.rename(_beside(folder, "old"))
    staging.rename(folder)
    _sync(folder.parent)
    _remove_leftovers(folder, "old", "staging")


def recover(folder: Path) -> None:
    """Where `folder` is missing and a kill left its old content moved aside, give that its name back."""
    if not folder.exists() and (old := _leftovers(folder, "old")):
        max(old, key=lambda path: path.stat().st_mtime_ns).rename(folder)


def _beside(folder: Path, kind: str) -> Path:
    return folder.with_name(f".{folder.name}.{os.getpid()}.{kind}")


def _leftovers(folder: Path, *kinds: str) -> list[Path]:
    if not folder.parent.is_dir():
        return []
    name = re.compile(rf"\.{re.escape(folder.name)}\.\d+\.({'|'.join(kinds)})")
    return [path for path in folder.parent.iterdir() if name.fullmatch(path.name)]


def _remove_leftovers(folder: Path, *kinds: str) -> None:
    for path in _leftovers(folder, *kinds):
        shutil.rmtree(path, ignore_errors=True)


def _sync(path: Path) -> None:
    """Have a file's bytes, or a folder's names, on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
