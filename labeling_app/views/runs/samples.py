"""What a run wrote down of the policy's texts: some of each PPO update's, and the evaluation's, SFT beside policy."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labeling_app.views.runs.reading import Lines, finite
from rlhf.report.record import clean, mapping

MOST_ROWS = 20_000
MOST_SHOWN = 20
LONGEST = 20_000  # characters of a text


@dataclass(frozen=True)
class Written:
    """A response that the policy wrote in an update, and what it was worth."""

    prompt: str
    completion: str
    score: float | None
    kl: float | None  # nats of the whole response
    length: float | None  # tokens
    ended: bool | None  # by itself, with EOS

    def words(self) -> str:
        """Its numbers in words: nothing of its texts."""
        parts = [
            "no score" if self.score is None else f"score {self.score:.2f}",
            "" if self.kl is None else f"KL {self.kl:.1f} nats",
            "" if self.length is None else f"{self.length:.0f} tokens",
            "cut off" if self.ended is False else "",
        ]
        return " · ".join(part for part in parts if part)


@dataclass(frozen=True)
class Compared:
    """A held-out prompt answered by SFT and by the policy; scores by judge, (SFT's, the policy's)."""

    prompt: str
    sft: str
    policy: str
    scores: dict[str, tuple[float | None, float | None]]


class Updates:
    """`ppo_samples.jsonl` by update, read as it grows."""

    def __init__(self) -> None:
        self.by_step: dict[int, list[Written]] = {}
        self._rows = 0
        self._lines = Lines()

    def read(self, path: Path) -> None:
        """Take in what is new, up to MOST_ROWS in all."""
        while True:
            anew, rows = self._lines.read(path)
            if anew:
                self.by_step, self._rows = {}, 0
            for row in rows:
                step = finite(row.get("step"))
                if step is not None and self._rows < MOST_ROWS:
                    self._rows += 1
                    self.by_step.setdefault(int(step), []).append(_written(row))
            if not self._lines.behind or self._rows == MOST_ROWS:
                return


def compared(path: Path) -> list[Compared]:
    """The first rows of the evaluation's `samples.jsonl`, in its order: none is picked for looking good."""
    rows = Lines().read(path)[1]
    found = [row for row in rows if all(key in row for key in ("prompt", "sft", "policy"))]
    return [
        Compared(
            _text(row["prompt"]),
            _text(row["sft"]),
            _text(row["policy"]),
            {_text(judge)[:80]: _two(values) for judge, values in mapping(row, "scores").items()},
        )
        for row in found[:MOST_SHOWN]
    ]


def _written(row: dict[str, Any]) -> Written:
    score, kl, length = (finite(row.get(key)) for key in ("score", "kl", "length"))
    ended = row["ended"] if isinstance(row.get("ended"), bool) else None
    return Written(_text(row.get("prompt", "")), _text(row.get("completion", "")), score, kl, length, ended)


def _text(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return str(clean(text if len(text) <= LONGEST else text[:LONGEST] + "…"))


def _two(values: object) -> tuple[float | None, float | None]:
    if isinstance(values, list) and len(values) == 2:
        return finite(values[0]), finite(values[1])
    return None, None
