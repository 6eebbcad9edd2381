"""What a run shows while it goes, and what it keeps: a live display, and `metrics.jsonl`."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

SHOWN = {
    "sft": ("loss", "learning_rate"),
    "reward": ("loss", "accuracy"),
    "gold": ("loss", "accuracy"),
    "ppo": ("normalized_score", "kl", "kl_coef", "length", "entropy", "clip_fraction", "tokens_per_second"),
}


class Tracker:
    """Takes the stages' numbers: appends them to `metrics.jsonl` and shows stage, step, speed and time left.

    Use it as a context manager. Without a terminal it prints a line now and then instead of a live display.
    """

    def __init__(self, run_path: Path, console: Console | None = None) -> None:
        self.path = run_path / "metrics.jsonl"
        self.console = console or Console(stderr=True)
        self.progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
        )
        self._numbers: dict[str, float] = {}
        self._stage = ""
        self._task = self.progress.add_task("starting", total=None, speed="", visible=False)
        self._live = Live(get_renderable=self._render, console=self.console, refresh_per_second=4, transient=True)
        self._last_line = 0.0
        self._begun, self._done = 0.0, 0

    def __enter__(self) -> Tracker:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.console.is_terminal:
            self._live.stop()

    def start(self, stage: str, total: int, done: int = 0) -> None:
        """A stage begins (or goes on at step `done`); what `metrics.jsonl` holds of its later steps is dropped."""
        self._drop(stage, done)
        self._stage, self._numbers, self._begun, self._done = stage, {}, time.monotonic(), done
        self.progress.remove_task(self._task)
        self._task = self.progress.add_task(stage, total=total, completed=done, speed="")

    def log(self, stage: str, step: int, total: int, **numbers: float) -> None:
        """One step's numbers: `step` counts from 1."""
        row = {
            "stage": stage,
            "step": step,
            "total": total,
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({**row, **numbers}) + "\n")
        self._numbers = numbers
        elapsed = time.monotonic() - self._begun
        speed = f"{elapsed / max(step - self._done, 1):.1f} s/step"
        self.progress.update(self._task, completed=step, total=total, speed=speed)
        if not self.console.is_terminal and (time.monotonic() - self._last_line > 10 or step == total):
            self._last_line = time.monotonic()
            shown = "  ".join(f"{k} {v:.4g}" for k, v in self._shown())
            self.say(f"{stage} {step}/{total}  {speed}  {shown}".rstrip())

    def say(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _shown(self) -> list[tuple[str, float]]:
        return [(k, self._numbers[k]) for k in SHOWN.get(self._stage, tuple(self._numbers)) if k in self._numbers]

    def _render(self) -> Group:
        table = Table.grid(padding=(0, 3))
        if shown := self._shown():
            table.add_row(*(f"[dim]{k.replace('_', ' ')}[/dim] {v:.4g}" for k, v in shown))
        return Group(self.progress, table)

    def _drop(self, stage: str, done: int) -> None:
        if not self.path.is_file():
            return
        kept = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
                stays = row["stage"] != stage or row["step"] <= done
            except (ValueError, KeyError, TypeError):  # the line that a killed run was writing, or none of ours
                continue
            if stays:
                kept.append(line)
        staging = self.path.with_suffix(".staging")
        staging.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        staging.replace(self.path)
