"""A PostgreSQL server of the tests' own: made from the machine's programs, on loopback, gone when they end."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path


def programs() -> Path | None:
    """The folder with `initdb` and `postgres`, in PATH or where Debian puts them (the newest)."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[-3]))
    return debian[-1].parent if debian else None


@contextlib.contextmanager
def server(folder: Path) -> Iterator[str]:
    """Run a server for the block; yields its URL without a database's name.

    PostgreSQL does not run as root: then its programs run as the user `postgres`, which Debian's package makes.
    """
    as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    home = Path(tempfile.mkdtemp(prefix="rlhf-postgres-"))  # not pytest's own, which only its user may enter
    if as_user:
        shutil.chown(home, "postgres", "postgres")
    data, port = home / "data", _free_port()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "cwd": home, "text": True}
    make = [*as_user, str(folder / "initdb"), "-D", str(data), "-U", "rlhf", "-A", "trust", "-E", "UTF8", "--no-sync"]
    subprocess.run(make, check=True, timeout=120, **quiet)  # type: ignore[call-overload]
    # No fsync: what these tests kill is the store's clients, not the server.
    settings = ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={home}", "-c", "fsync=off"]
    run = [*as_user, str(folder / "postgres"), "-D", str(data), "-p", str(port), "-c", "max_connections=80", *settings]
    process = subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=home)
    try:
        _wait(folder, port)
        yield f"postgresql://rlhf@127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(home, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait(folder: Path, port: int) -> None:
    ready = [str(folder / "pg_isready"), "-h", "127.0.0.1", "-p", str(port), "-q"]
    deadline = time.monotonic() + 60
    while subprocess.run(ready, timeout=30).returncode != 0:
        if time.monotonic() > deadline:
            raise RuntimeError("PostgreSQL did not come up within a minute")
        time.sleep(0.1)
