"""How fast the labeling page is: submit to next task under many labelers, and the next task among a million.

    python benchmarks/labeling_load.py                           # both parts; about 20 minutes on two cores
    python benchmarks/labeling_load.py --quick                   # a small run of everything, a minute or two
    python benchmarks/labeling_load.py --part pages --settings 25x5,100x20 --database postgresql
    python benchmarks/labeling_load.py --json out.json           # and the numbers as JSON

Pages: the server as `rlhf label` starts it, over a fresh store of 25,000 tasks (K = 4, overlap 2) with a history, and
simulated labelers in a process of their own (labeling_clients.py): N sessions over real websockets, each thinking
about S seconds a task (uniform, half to one and a half), for each setting NxS. The time is from sending a submit until
the next task is there and the script has finished; the first S seconds are left out. Afterwards the store must hold
exactly the submits that were acknowledged. Goal: p95 under 200 ms at 100x20.

Queries: a store with a million open tasks in SQLite and in PostgreSQL (labeling_queue.py says in what state), people
claiming in turns; `next task` is the query inside its transaction, the rest are whole calls with their commits.
Goal: p95 of the query under 5 ms, in the worst case. The PostgreSQL server is the tests' own, which runs without fsync.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import labeling_queue
import sqlalchemy as sa
from ppo_vs_trl import machine
from sqlalchemy.engine import make_url

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import postgres_server  # noqa: E402

from labeling_app.launch import command, settle  # noqa: E402
from rlhf.preferences import LabelStore  # noqa: E402
from rlhf.preferences.schema import judgments  # noqa: E402

SETTINGS = "25x5,50x5,100x5,25x20,50x20,100x20"
DATABASES = ("sqlite", "postgresql")
PAGE_TASKS = 20_000  # open ones of the store that pages are measured with
ROUNDS = 300  # claims of a case
PREFIX = "page-"  # of the simulated labelers' submit ids


def main() -> None:
    """Run what was asked for, print the tables, write the numbers."""
    arguments = _arguments()
    found: dict[str, Any] = {"date": str(date.today()), "machine": machine()}
    with tempfile.TemporaryDirectory(prefix="rlhf-load-") as scratch, contextlib.ExitStack() as stack:
        databases = Databases(Path(scratch), stack)
        if arguments.part in ("both", "queries"):
            found |= queries(databases, arguments.tasks, arguments.rounds)
        if arguments.part in ("both", "pages"):
            found |= pages(databases, arguments.database, arguments.settings, arguments.seconds)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--settings", type=_settings, help=f"sessions x seconds a task (default: {SETTINGS})")
    parser.add_argument("--seconds", type=float, help="how long a setting is measured (default: 6 S, 60 at least)")
    parser.add_argument("--database", choices=DATABASES, default="sqlite", help="of the pages' store")
    parser.add_argument("--part", choices=("both", "queries", "pages"), default="both")
    parser.add_argument("--tasks", type=int, help="open tasks of the queries (default: 1000000)")
    parser.add_argument("--rounds", type=int, help=f"claims of a case (default: {ROUNDS})")
    parser.add_argument("--quick", action="store_true", help="25x5 for ten seconds, and 20000 tasks")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here")
    arguments = parser.parse_args()
    if arguments.json and not arguments.json.parent.is_dir():
        parser.error(f"{arguments.json}: there is no folder {arguments.json.parent}")
    quick = arguments.quick
    arguments.settings = arguments.settings or _settings("25x5" if quick else SETTINGS)
    arguments.seconds = arguments.seconds or (10.0 if quick else None)
    arguments.tasks = arguments.tasks or (20_000 if quick else 1_000_000)
    arguments.rounds = arguments.rounds or (60 if quick else ROUNDS)
    return arguments


def _settings(text: str) -> list[tuple[int, float]]:
    try:
        pairs = [part.split("x") for part in text.split(",")]
        return [(int(sessions), float(think)) for sessions, think in pairs]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected sessions x seconds, as {SETTINGS}, found {text!r}") from None


class Databases:
    """New, empty databases on request; the PostgreSQL server starts with the first one of it."""

    def __init__(self, scratch: Path, stack: contextlib.ExitStack) -> None:
        self._scratch, self._stack = scratch, stack
        self._server = ""
        self._count = 0

    def new(self, kind: str) -> str | None:
        """The place of a new store; None if this machine has no PostgreSQL."""
        self._count += 1
        if kind == "sqlite":
            return str(self._scratch / f"{self._count}.db")
        if not self._server:
            programs = postgres_server.programs()
            if programs is None:
                return None
            self._server = self._stack.enter_context(postgres_server.server(programs))
        admin = sa.create_engine(
            make_url(f"{self._server}/postgres").set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT"
        )
        with admin.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE load_{self._count}")
        admin.dispose()
        return f"{self._server}/load_{self._count}"


# ---- the next task among many ----------------------------------------------------------------------------------------


def queries(databases: Databases, count: int, rounds: int) -> dict[str, Any]:
    """Milliseconds of the queue's work by database, case and kind of work."""
    worst: dict[str, float] = {}
    details: dict[str, Any] = {}
    for kind in DATABASES:
        where = databases.new(kind)
        if where is None:
            print(f"\n{kind}: its programs are not installed here; left out")
            continue
        with LabelStore.open(where, create=True) as store:
            began = time.perf_counter()
            labeling_queue.fill(store, labeling_queue.Shape.of(count))
            print(f"\n{kind}: {count:,} open tasks, filled in {time.perf_counter() - began:.0f} s; ms, p50 / p95")
            found = labeling_queue.measure(store, rounds)
        print(f"  {'':24}" + "".join(f"{work:>20}" for work in labeling_queue.WORK))
        for case, times in found.items():
            print(f"  {case:24}" + "".join(f"{t.p50:11.2f} / {t.p95:6.2f}" for t in times.values()), flush=True)
        worst[kind] = max(times["next task"].p95 for times in found.values())
        details[kind] = {case: {work: t.row() for work, t in times.items()} for case, times in found.items()}
    print(f"\nnext task, p95 of the worst case, goal under 5 ms; {date.today()}, {machine()}")
    for kind, p95 in worst.items():
        print(f"  {kind:12} {p95:6.2f} ms")
    return {"next_task_p95_ms": worst, "queue_tasks": count, "queue": details}


# ---- the page under load ---------------------------------------------------------------------------------------------


def pages(
    databases: Databases, kind: str, settings: list[tuple[int, float]], seconds: float | None
) -> dict[str, dict[str, Any]]:
    """Each setting with a fresh store and a fresh server."""
    rows: dict[str, dict[str, Any]] = {}
    head = ("p50 ms", "p95 ms", "max ms", "submits", "CPU s", "CPU ms each", "peak MiB", "open p50 ms")
    print(f"\nsubmit to next task, {kind}\n  {'setting':10}" + "".join(f"{name:>13}" for name in head), flush=True)
    for sessions, think in settings:
        where = databases.new(kind)
        if where is None:
            raise SystemExit(f"{kind}: its programs are not installed here")
        with LabelStore.open(where, create=True) as store:
            labeling_queue.fill(store, labeling_queue.Shape.of(PAGE_TASKS))
            row = _setting(store, where, sessions, think, seconds or max(60.0, 6 * think))
        name = f"{sessions}x{think:g}"
        rows[name] = row
        print(f"  {name:10}" + "".join(f"{value:13,.0f}" for value in row.values()), flush=True)
    print(f"goal: p95 under 200 ms at 100x20; {date.today()}, {machine()}")
    return {"p95_ms": {name: row["p95_ms"] for name, row in rows.items()}, "pages": rows | {"database": kind}}


def _setting(store: LabelStore, where: str, sessions: int, think: float, seconds: float) -> dict[str, float]:
    with server(where) as (address, pid):
        names = [f"labeler {i}" for i in range(sessions)]
        what = {"address": address, "names": names, "think": think, "warm": think, "seconds": seconds}
        found = clients(what | {"seed": sessions, "prefix": PREFIX, "server": pid})
        peak = _peak_mib(pid)
    _check(store, found["acknowledged"])
    ms = found["ms"]
    return {
        "p50_ms": labeling_queue.percentile(ms, 0.5),
        "p95_ms": labeling_queue.percentile(ms, 0.95),
        "max_ms": max(ms),
        "submits": len(ms),
        "cpu_s": found["cpu"],
        "cpu_ms_each": 1000 * found["cpu"] / len(ms),
        "peak_mib": peak,
        "open_p50_ms": labeling_queue.percentile(found["open_ms"], 0.5),
    }


@contextlib.contextmanager
def server(store: str) -> Iterator[tuple[str, int]]:
    """The labeling page's server, as `rlhf label` starts it: its address and process id."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    serving = settle(store, port=port)
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command(), env=serving.environment(), stdout=log, stderr=log)
        try:
            _wait(process, serving.address)
            yield serving.address, process.pid
        except BaseException:
            log.seek(0)
            print(log.read()[-4000:], file=sys.stderr)
            raise
        finally:
            process.terminate()
            process.wait(60)


def _wait(process: subprocess.Popen[bytes], address: str, limit_s: float = 60) -> None:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/healthz", timeout=10) as answer:
            if answer.status == 200:
                return
        time.sleep(0.2)
    raise RuntimeError(f"the server did not come up within {limit_s:g} s")


def clients(what: dict[str, Any]) -> dict[str, Any]:
    """Run the simulated labelers in a process of their own: its Python must not slow the server's."""
    program = Path(__file__).with_name("labeling_clients.py")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(program)], input=json.dumps(what), env=environment, stdout=subprocess.PIPE, text=True
    )
    if done.returncode != 0:
        raise RuntimeError("the simulated labelers failed; what they said is above")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _check(store: LabelStore, acknowledged: list[str]) -> None:
    """No submit lost, none twice, none that nobody sent, and a store in order."""
    with store._reading() as connection:
        query = sa.select(judgments.c.submit_id).where(judgments.c.submit_id.startswith(PREFIX))
        kept = list(connection.scalars(query))
    if sorted(kept) != sorted(acknowledged):
        lost, unknown = set(acknowledged) - set(kept), set(kept) - set(acknowledged)
        raise RuntimeError(f"{len(acknowledged)} submits were acknowledged: {len(lost)} lost, {len(unknown)} unknown")
    if problems := store.check():
        raise RuntimeError(f"the store is not in order: {problems[0]}")


def _peak_mib(pid: int) -> float:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
