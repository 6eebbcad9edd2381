"""The quickstart itself, in full: real model, real people's ratings, and the bounds that it promises (slow)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.network, pytest.mark.timeout(7200)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run in a process of its own, with the threads that the machine has."""
    folder = tmp_path_factory.mktemp("quickstart") / "run"
    environment = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    command = [str(Path(sys.executable).with_name("rlhf")), "quickstart", f"run_dir={folder}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.fixture(scope="module")
def summary(run: Path) -> dict[str, Any]:
    return json.loads((run / "summary.json").read_text(encoding="utf-8"))


def test_the_reward_model_orders_held_out_pairs(summary: dict[str, Any]) -> None:
    assert summary["reward"]["pairs"] >= 2000
    assert summary["reward"]["accuracy"] >= 0.76
    assert summary["reward"]["human_agreement"] > 0.5


@pytest.mark.parametrize(("judge", "least"), [("gold", 0.75), ("vader", 0.65)])
def test_the_policy_beats_sft_by_judges_that_it_never_saw(summary: dict[str, Any], judge: str, least: float) -> None:
    rate = summary["eval"][f"{judge}_win_rate"]
    assert rate["value"] >= least
    assert rate["ci95"][0] > 0.5
    assert summary["eval"][f"{judge}_policy"] > summary["eval"][f"{judge}_sft"]


def test_the_policy_stays_near_sft(summary: dict[str, Any]) -> None:
    assert summary["eval"]["prompts"] >= 200
    assert 0 < summary["ppo"]["kl"] <= 10


def test_nothing_was_bought_with_length_or_repetition(summary: dict[str, Any]) -> None:
    result = summary["eval"]
    assert 0.7 <= result["length_policy"] / result["length_sft"] <= 1.3
    assert result["distinct2_policy"] / result["distinct2_sft"] >= 0.7


def test_the_export_is_what_was_trained(summary: dict[str, Any], run: Path) -> None:
    assert summary["export"]["max_logit_difference"] < 1e-3
    written = json.loads((run / "export" / "policy" / "adapter_config.json").read_text(encoding="utf-8"))
    assert written["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_the_base_did_not_change(summary: dict[str, Any], run: Path) -> None:
    assert summary["base_sha256_before"] == summary["base_sha256_after"]
    stages = json.loads((run / "manifest.json").read_text(encoding="utf-8"))["stages"]
    assert len({s["result"][f"base_sha256_{when}"] for s in stages.values() for when in ("before", "after")}) == 1


def test_it_fits_a_small_machine(summary: dict[str, Any]) -> None:
    assert summary["peak_rss_mib"] <= 6144


@pytest.mark.skipif(os.environ.get("RLHF_QUIET_MACHINE") != "1", reason="timed with RLHF_QUIET_MACHINE=1 only")
def test_it_takes_a_quarter_of_an_hour_at_most(summary: dict[str, Any]) -> None:
    assert summary["seconds"]["total"] <= 900


def test_it_leaves_a_report_and_samples_to_rank(summary: dict[str, Any], run: Path) -> None:
    assert summary["sample"]["tasks"] >= 20
    assert (run / "report.html").stat().st_size > 10_000
    assert len((run / "samples.jsonl").read_text(encoding="utf-8").splitlines()) == summary["eval"]["prompts"]
