"""`metrics.jsonl`: what a resumed stage keeps of it, and lines that are none of ours."""

from __future__ import annotations

import io
import json
from pathlib import Path

from rich.console import Console

from rlhf.stages.tracking import Tracker


def test_a_resumed_stage_drops_its_later_steps_and_lines_that_cannot_be_read(tmp_path: Path) -> None:
    kept = [{"stage": "sft", "step": 9}, {"stage": "ppo", "step": 1}, {"stage": "ppo", "step": 2}]
    dropped = ['{"stage": "ppo", "step": 3}', '{"step": 1}', '{"stage": "ppo"}', "[1]", '{"stage": "ppo", "step": "1"}']
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(line + "\n" for line in [*map(json.dumps, kept), *dropped]) + '{"stage": "ppo", "st')
    Tracker(tmp_path, Console(file=io.StringIO())).start("ppo", total=4, done=2)
    assert [json.loads(line) for line in path.read_text().splitlines()] == kept
