"""The whole loop on a tiny model: every stage, skipping, rerunning, resuming, and its errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlhf.config import parse
from rlhf.stages import pipeline


def test_the_whole_loop_leaves_what_the_contract_promises(tiny_config: Any, tmp_path: Path) -> None:
    config = parse(tiny_config({}), "test")
    summary = pipeline.run(config)
    run = config.run_path
    for name in ("sft", "reward", "policy"):
        assert (run / "adapters" / name / "adapter_model.safetensors").is_file()
    for name in ("config.yaml", "manifest.json", "metrics.jsonl", "summary.json", "report.html", "samples.jsonl"):
        assert (run / name).is_file(), name
    assert summary["base_sha256_before"] == summary["base_sha256_after"]
    assert json.loads((run / "summary.json").read_text()) == summary
