"""The download cache: pinned, atomic, quiet when full, clear when the network is not there."""

from __future__ import annotations

import hashlib
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from rlhf.data import cache
from rlhf.errors import DataError

CONTENT = b"package"
WHEEL = cache.PinnedPackage("thing", "1.0", "thing-1.0-py3-none-any.whl", hashlib.sha256(CONTENT).hexdigest())


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RLHF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class FakePip:
    """Stands in for `pip download`: writes the file, or fails with a message."""

    def __init__(self, stderr: str = "", content: bytes = CONTENT) -> None:
        self.stderr, self.content, self.commands = stderr, content, []

    def __call__(self, command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        self.commands.append(command)
        folder = Path(command[command.index("--dest") + 1])
        self.requirements = (folder / "requirements.txt").read_text()
        if not self.stderr:
            (folder / WHEEL.filename).write_bytes(self.content)
        return subprocess.CompletedProcess(command, 1 if self.stderr else 0, "", self.stderr)


def test_the_variable_moves_the_cache(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache.cache_dir() == own_cache
    monkeypatch.delenv("RLHF_CACHE")
    assert cache.cache_dir() == Path.home() / ".cache" / "rlhf"


def test_fetches_once_with_the_pinned_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    pip = FakePip()
    monkeypatch.setattr(subprocess, "run", pip)
    path = cache.fetch_package(WHEEL)
    assert path.read_bytes() == CONTENT and [p.name for p in path.parent.iterdir()] == [WHEEL.filename]
    assert cache.fetch_package(WHEEL) == path and len(pip.commands) == 1
    assert pip.requirements == f"thing==1.0 --hash=sha256:{WHEEL.sha256}\n"
    command = " ".join(pip.commands[0])
    assert "--no-deps" in command and "--require-hashes" in command and "--only-binary :all:" in command


def test_a_damaged_file_is_fetched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    pip = FakePip()
    monkeypatch.setattr(subprocess, "run", pip)
    path = cache.fetch_package(WHEEL)
    path.write_bytes(b"half")
    assert cache.fetch_package(WHEEL).read_bytes() == CONTENT and len(pip.commands) == 2


@pytest.mark.parametrize(
    ("stderr", "reason"),
    [
        ("WARNING: retrying\nERROR: No matching distribution found for thing==1.0\n", "No matching distribution found"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES\n  Expected\n", "its sha256 is not the pinned one"),
        ("/usr/bin/python: No module named pip\n", "-m ensurepip"),
    ],
)
def test_no_network_is_one_clear_line(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch, stderr: str, reason: str
) -> None:
    monkeypatch.setattr(subprocess, "run", FakePip(stderr))
    with pytest.raises(DataError) as caught:
        cache.fetch_package(WHEEL)
    message = str(caught.value)
    assert message.startswith(WHEEL.filename) and reason in message and "\n" not in message
    assert not [p for p in (own_cache / "packages").iterdir() if p.is_dir()]


def test_a_failed_build_leaves_nothing_and_the_next_one_works(tmp_path: Path) -> None:
    def fail(staging: Path) -> None:
        (staging / "half").write_text("x")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        cache.build_once(tmp_path / "made", fail)
    assert not [p for p in tmp_path.iterdir() if p.is_dir()]
    made = cache.build_once(tmp_path / "made", lambda staging: (staging / "whole").write_text("x") and None)
    assert [p.name for p in made.iterdir()] == ["whole"]


def test_left_overs_of_a_killed_build_go(tmp_path: Path) -> None:
    (tmp_path / ".made.staging-old").mkdir()
    cache.build_once(tmp_path / "made", lambda staging: None)
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ["made"]


def test_two_at_once_build_once(tmp_path: Path) -> None:
    built = []

    def build(staging: Path) -> None:
        built.append(staging)
        time.sleep(0.2)

    threads = [threading.Thread(target=cache.build_once, args=(tmp_path / "made", build)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="set RLHF_CACHE to a writable folder"):
        cache.build_once(tmp_path / "file" / "made", lambda staging: None)
