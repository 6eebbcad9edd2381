"""`rlhf doctor`: each check's verdict, and the exit code that follows from them."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rlhf import doctor
from rlhf.config import parse
from rlhf.doctor import Check, Verdict
from rlhf.model.memory import StageMemory
from rlhf.preferences import LabelStore


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=160)


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_this_machine_is_fit(console: Console) -> None:
    assert doctor.run(None, console) == 0
    text = shown(console)
    for what in ("Python", "packages", "device", "bf16", "NF4", "4-bit CPU kernel", "RAM", "disk", "Chromium"):
        assert f"│ {what} " in text
    assert "fault" not in text


def test_a_tiny_config_fits(console: Console, tiny_config: Callable[..., dict[str, Any]]) -> None:
    config = parse(tiny_config({"model.quantization": "nf4"}), "tiny")
    assert doctor.run(config, console) == 0
    text = shown(console)
    assert "not made yet" in text
    assert all(f"│ {stage} " in text for stage in ("sft", "reward", "ppo", "evaluate", "sample"))
    assert text.rstrip().endswith("it fits")
    assert not config.run_path.exists()


def test_a_config_that_cannot_fit_exits_with_2(console: Console, tiny_config: Callable[..., dict[str, Any]]) -> None:
    config = parse(tiny_config({"model.max_length": 1_000_000}), "tiny")
    assert doctor.run(config, console) == 2
    assert "it does not fit with texts of max_length; lower max_length" in shown(console).replace("\n", " ")


def test_a_model_that_cannot_be_had_is_unknown_not_a_fault(console: Console, tiny_config: Callable[..., Any]) -> None:
    config = parse(tiny_config({"model.name": "nobody/no-such-model"}), "tiny")
    assert doctor.run(config, console) == 0
    assert "memory: note, unknown: nobody/no-such-model's config could not be had" in shown(console)


def test_a_gpu_that_is_not_there(
    console: Console, tiny_config: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor.torch.cuda, "is_available", lambda: False)
    assert doctor.run(parse(tiny_config({"model.device": "cuda:0"}), "tiny"), console) == 2
    assert "model.device is 'cuda:0', but torch sees no CUDA device here" in shown(console)


@pytest.mark.parametrize(
    ("available", "verdict", "words"),
    [
        (10.0, Verdict.FINE, "ppo needs up to 9.0 GiB of 10.0 GiB RAM: it fits"),
        (9.5, Verdict.NOTE, "ppo needs up to 9.0 GiB of 9.5 GiB RAM: tight; "),
        (8.9, Verdict.FAULT, "ppo needs up to 9.0 GiB of 8.9 GiB RAM: it does not fit with texts of max_length; "),
    ],
)
def test_memory_verdicts(available: float, verdict: Verdict, words: str) -> None:
    check = doctor.judge_memory(StageMemory("ppo", 4, 1, 2.5), available, "RAM")
    assert check.verdict is verdict
    assert check.found.startswith(words)


def test_nf4_round_trip_stays_within_half_a_level() -> None:
    """NF4's widest gap is from -1 to -0.6962: nothing is further than 0.152 of its block's largest from a level."""
    assert 0.02 < doctor.nf4_round_trip("cpu") <= 0.152


def test_broken_quantization_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(device: str) -> float:
        raise RuntimeError("no library\nand a long story")

    monkeypatch.setattr(doctor, "nf4_round_trip", broken)
    assert doctor.check_nf4() == Check(
        "NF4", Verdict.FAULT, "bitsandbytes cannot quantize here (no library); use quantization: bf16"
    )
    monkeypatch.setattr(doctor, "nf4_round_trip", lambda device: 0.5)
    assert doctor.check_nf4().verdict is Verdict.FAULT


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PACKAGES", ("torch", "no-such-package"))
    assert doctor.check_packages() == Check(
        "packages", Verdict.FAULT, "missing: no-such-package; install rlhf-toolkit again"
    )


def test_store_checks(tmp_path: Path) -> None:
    path = tmp_path / "labels.db"
    assert doctor.check_store(str(path)).verdict is Verdict.FINE
    LabelStore.open(path, create=True).close()
    assert doctor.check_store(str(path)).found == f"{path}: 0 rankings, 0 tasks"
    broken = tmp_path / "broken.db"
    broken.write_bytes(b"this is no database" * 100)
    assert doctor.check_store(str(broken)).verdict is Verdict.FAULT


def test_disk_looks_at_the_nearest_folder_that_exists(tmp_path: Path) -> None:
    assert doctor.check_disk(tmp_path / "a" / "b").found.endswith(f"free at {tmp_path}")
    assert not (tmp_path / "a").exists()


def test_no_browser_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert doctor.check_browser().verdict is Verdict.NOTE
