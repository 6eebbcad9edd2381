"""How fast, and in how much memory, a long file of pairs goes into a label store; and whether a killed import goes on.

    python benchmarks/import_rows.py --rows 1000000 --json import.json

Writes a file of TRL pairs into a temporary folder, imports it into a SQLite store in a process of its own (rows/s of
both passes together, peak resident memory), imports it again (nothing is added), then into a second store, where the
process is killed at a random point and the same call goes on. At the end both stores hold every row once.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlhf.preferences import LabelStore
from rlhf.preferences.exchange import RankingFile

BATCH = "rows"
PEOPLE = 50
WORDS = (
    "river", "stone", "market", "evening", "letter", "garden", "winter", "bridge", "paper", "window", "road", "table",
)  # fmt: skip


def main(words: Sequence[str] | None = None) -> int:
    """Run all four imports and say what they took; exit code 1 if a row is missing or there twice."""
    chosen = arguments(words)
    if chosen.child:
        _import(*chosen.child)
        return 0
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        file = Path(folder) / "pairs.jsonl"
        _write(file, chosen.rows, random.Random(chosen.seed))
        found: dict[str, Any] = {"rows": chosen.rows, "file_mib": round(file.stat().st_size / 2**20, 1)}
        for name in ("first", "again"):
            found[name] = _child(file, Path(folder) / "whole.db")
            print(f"{name}: {found[name]}", flush=True)
        found["store_mib"] = round((Path(folder) / "whole.db").stat().st_size / 2**20, 1)
        wait = found["first"]["seconds"] * random.Random(chosen.seed).uniform(0.35, 0.8)
        found["killed_with"] = _killed(file, Path(folder) / "killed.db", wait)
        print(f"killed when {found['killed_with']} rows were in", flush=True)
        found["resumed"] = _child(file, Path(folder) / "killed.db")
        print(f"resumed: {found['resumed']}")
        held = [_held(Path(folder) / name) for name in ("whole.db", "killed.db")]
    found |= {"machine": f"{platform.machine()}, Python {platform.python_version()}", "date": time.strftime("%Y-%m-%d")}
    print(f"the two stores end with {held[0]} and {held[1]} rows")
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    whole = held == [chosen.rows] * 2 and found["again"]["added"] == 0
    return 0 if whole and found["resumed"]["added"] == chosen.rows - found["killed_with"] else 1


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0, help="of the texts, and of the moment of the kill")
    parser.add_argument("--folder", help="where the temporary folder is made; about 3 GB for a million rows")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    parser.add_argument("--child", nargs=2, metavar=("FILE", "STORE"), help=argparse.SUPPRESS)
    return parser.parse_args(words)


def _write(file: Path, rows: int, chance: random.Random) -> None:
    """Every row another prompt, with two answers of about 150 and 250 characters."""
    with file.open("w", encoding="utf-8") as out:
        for i in range(rows):
            sides = [" ".join(chance.choices(WORDS, k=count)) for count in (24, 40)]
            prompt = f"Tell me of the {chance.choice(WORDS)} and the {chance.choice(WORDS)}, in letter {i}."
            row = {"prompt": prompt, "chosen": sides[0], "rejected": sides[1], "labeler": f"person {i % PEOPLE}"}
            out.write(json.dumps(row) + "\n")


def _import(file: str, store: str) -> None:
    started, cpu = time.monotonic(), time.process_time()
    with LabelStore.open(store, create=True) as labels:
        report = labels.import_rankings(RankingFile(file), batch=BATCH)
    seconds = time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        json.dumps(
            {
                "seconds": round(seconds, 1),
                "cpu_seconds": round(time.process_time() - cpu, 1),
                "rows_per_second": round(report.read / seconds),
                "peak_rss_mib": round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1),
                "added": report.added,
                "repeated": report.repeated,
            }
        )
    )


def _command(file: Path, store: Path) -> list[str]:
    return [sys.executable, __file__, "--child", str(file), str(store)]


def _child(file: Path, store: Path) -> dict[str, Any]:
    done = subprocess.run(_command(file, store), check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


def _killed(file: Path, store: Path, wait: float) -> int:
    """Kill an import after so many seconds; how many rows it had written."""
    process = subprocess.Popen(_command(file, store), stdout=subprocess.DEVNULL)
    try:
        process.wait(wait)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    return _held(store) if store.exists() else 0


def _held(store: Path) -> int:
    with LabelStore.open(store, create=True) as labels:
        return labels.counts(BATCH).judgments


if __name__ == "__main__":
    sys.exit(main())
