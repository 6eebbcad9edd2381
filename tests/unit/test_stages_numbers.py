"""The numbers and records of the stages, by hand: win-rates, intervals, distinct-n, seeded samples, the manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlhf.config import ExportSection
from rlhf.config_base import Section
from rlhf.errors import ArtifactError
from rlhf.stages.common import seeded_sample
from rlhf.stages.evaluate import compare, distinct, mean_interval
from rlhf.stages.manifest import Manifest, Plan, write_json
from rlhf.stages.tracking import Tracker

# --- evaluation --------------------------------------------------------------------------------------------------


def test_a_tie_is_half_a_win() -> None:
    out = compare([1.0, 2.0, 3.0, 4.0], [2.0, 2.0, 1.0, 9.0], resamples=200, seed=1)
    assert (out["sft"], out["policy"], out["win_rate"]) == (2.5, 3.5, 0.625)
    low, high = out["ci95"]
    assert 0.0 <= low < 0.625 < high <= 1.0


def test_an_interval_of_equal_values_is_the_value() -> None:
    assert mean_interval([0.5, 0.5, 0.5], 100, 1) == [0.5, 0.5]


def test_the_interval_of_many_fair_coins() -> None:
    """400 wins and losses: 0.5 ± 1.96 sqrt(0.25 / 400) = 0.451 to 0.549, within what resampling leaves open."""
    low, high = mean_interval([0.0, 1.0] * 200, 2000, 1)
    assert low == pytest.approx(0.451, abs=0.006) and high == pytest.approx(0.549, abs=0.006)
    assert mean_interval([0.0, 1.0] * 200, 2000, 1) == [low, high]


def test_distinct_n() -> None:
    assert distinct(["a good film", "A good day"], 1) == 4 / 6
    assert distinct(["a good film", "A good day"], 2) == 3 / 4
    assert distinct(["one", ""], 2) == 0.0


def test_a_seeded_sample_keeps_the_order() -> None:
    rows = list(range(100))
    chosen = seeded_sample(rows, 10, seed=3)
    assert len(set(chosen)) == 10 and chosen == sorted(chosen)
    assert seeded_sample(rows, 10, seed=3) == chosen != seeded_sample(rows, 10, seed=4)
    assert seeded_sample(rows, None, 3) == seeded_sample(rows, 100, 3) == rows


# --- the manifest ------------------------------------------------------------------------------------------------


def a_plan(run: Path, section: Section | None = None, parents: tuple[str, ...] = (), **changes: Any) -> Plan:
    given = {"inputs": {"data": "1"}, "outputs": (run / "adapters" / "x",), **changes}
    return Plan("x", sections={"export": section or ExportSection()}, parents=parents, **given)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "adapters" / "x").mkdir(parents=True)
    (tmp_path / "adapters" / "x" / "weights").write_bytes(b"1")
    return tmp_path


def opened(run: Path, seed: int, base_sha256: str = "b" * 64) -> Manifest:
    return Manifest(run, seed, base_sha256)


def recorded(run: Path, plan: Plan) -> Manifest:
    manifest = opened(run, 1)
    manifest.record(plan, started="", seconds=1.0, result={})
    return opened(run, 1)  # as another process reads it


def test_what_is_unchanged_is_done(run: Path) -> None:
    assert not opened(run, 1).is_done(a_plan(run))
    assert recorded(run, a_plan(run)).is_done(a_plan(run))


@pytest.mark.parametrize(
    "changes",
    [{"section": ExportSection(tolerance=0.1)}, {"inputs": {"data": "2"}}, {"extra": {"k": 1}}],
    ids=["config", "input", "extra"],
)
def test_what_has_changed_is_not_done(run: Path, changes: dict[str, Any]) -> None:
    assert not recorded(run, a_plan(run)).is_done(a_plan(run, **changes))


def test_another_seed_or_version_is_not_done(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = recorded(run, a_plan(run))
    assert not opened(run, 2).is_done(a_plan(run))
    monkeypatch.setattr("rlhf.stages.manifest.__version__", "99")
    assert not manifest.is_done(a_plan(run))


def test_other_base_weights_are_not_done(run: Path) -> None:
    recorded(run, a_plan(run))
    assert not opened(run, 1, base_sha256="c" * 64).is_done(a_plan(run))


def test_a_parents_outputs_are_in_the_key(run: Path) -> None:
    manifest = recorded(run, a_plan(run, parents=("sft",)))
    before = manifest.key(a_plan(run, parents=("sft",)))
    manifest.stages["sft"] = {"outputs": {"sft": "abc"}}
    assert manifest.key(a_plan(run, parents=("sft",))) != before
    manifest.stages["sft"] = {"outputs": {"sft": "abc"}, "seconds": 5}
    same = manifest.key(a_plan(run, parents=("sft",)))
    manifest.stages["sft"] = {"outputs": {"sft": "abc"}, "seconds": 6}
    assert manifest.key(a_plan(run, parents=("sft",))) == same


@pytest.mark.parametrize("damage", ["changed", "gone", "more", "renamed"])
def test_outputs_that_are_not_what_was_written(run: Path, damage: str) -> None:
    manifest, file = recorded(run, a_plan(run)), run / "adapters" / "x" / "weights"
    if damage == "changed":
        file.write_bytes(b"2")
    elif damage == "gone":
        file.unlink()
    elif damage == "more":
        file.with_name("other").write_bytes(b"")
    else:
        file.rename(file.with_name("other"))
    assert not manifest.is_done(a_plan(run))


def test_a_stage_is_off_the_record_while_it_runs(run: Path) -> None:
    recorded(run, a_plan(run)).forget("x")
    assert opened(run, 1).stages == {}


def test_what_was_made_from_something_else_is_not_sound(run: Path) -> None:
    """sft runs anew and writes other weights: ppo was made from the old ones, export from ppo; reward stands."""
    manifest = opened(run, 1)
    plans = {}
    for name, parents in (("sft", ()), ("reward", ()), ("ppo", ("sft", "reward")), ("export", ("ppo",))):
        (run / "adapters" / name).mkdir()
        (run / "adapters" / name / "weights").write_bytes(b"1")
        plans[name] = Plan(name, sections={}, inputs={}, parents=parents, outputs=(run / "adapters" / name,))
        assert manifest.missing(plans[name]) == []
        manifest.record(plans[name], started="", seconds=1.0, result={})
    assert set(opened(run, 1).sound()) == {"sft", "reward", "ppo", "export"}
    manifest.forget("sft")
    manifest.record(plans["sft"], started="", seconds=1.0, result={})
    assert set(opened(run, 1).sound()) == {"sft", "reward", "ppo", "export"}, "made again bit for bit"
    manifest.forget("sft")
    (run / "adapters" / "sft" / "weights").write_bytes(b"2")
    assert opened(run, 1).missing(plans["ppo"]) == ["sft"]
    manifest.record(plans["sft"], started="", seconds=1.0, result={})
    assert set(opened(run, 1).sound()) == {"sft", "reward"}
    assert opened(run, 1).missing(plans["export"]) == ["ppo"]


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_damaged_manifest_is_named(run: Path, content: str) -> None:
    (run / "manifest.json").write_text(content)
    with pytest.raises(ArtifactError, match=r"manifest\.json: is damaged \(.*\); move the run directory away"):
        opened(run, 1)


def test_json_is_replaced_whole(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"é": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"é": object()})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"é": 1}


# --- metrics.jsonl -----------------------------------------------------------------------------------------------


def test_a_stage_that_starts_anew_drops_its_old_steps(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path)
    tracker.start("sft", 2)
    for step in (1, 2):
        tracker.log("sft", step, 2, loss=1.0 / step)
    tracker.start("ppo", 3)
    for step in (1, 2, 3):
        tracker.log("ppo", step, 3)
    tracker.start("ppo", 3, done=1)
    tracker.log("ppo", 2, 3, kl=0.5)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(r["stage"], r["step"]) for r in rows] == [("sft", 1), ("sft", 2), ("ppo", 1), ("ppo", 2)]
    assert rows[1]["loss"] == 0.5 and rows[3]["kl"] == 0.5
