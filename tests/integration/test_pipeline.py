"""The whole loop on a tiny model: every stage, skipping, rerunning, resuming, and a base that must not change."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from rlhf.config import Config, load, parse
from rlhf.data.records import Ranking
from rlhf.errors import ArtifactError
from rlhf.model.base import SharedBase
from rlhf.ppo.trainer import PPOTrainer
from rlhf.preferences import LabelStore
from rlhf.stages import pipeline
from rlhf.stages.tracking import Tracker

ALL = ("sft", "reward", "gold", "ppo", "evaluate", "export", "sample")


@pytest.fixture(scope="module")
def said() -> list[str]:
    """Every line that the runs of this file have printed for good."""
    return []


@pytest.fixture(scope="module", autouse=True)
def _surroundings(said: list[str], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A judge that can be imported, and an ear for what is said."""
    folder = tmp_path_factory.mktemp("judges")
    (folder / "brief_judge.py").write_text(
        "def score(prompts, completions):\n    return [-len(c) for c in completions]\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setattr(Tracker, "say", lambda _self, text: said.append(text))
        yield


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the stages that really ran, and `base` for every time a base was loaded."""
    names: list[str] = []
    one, load_base = pipeline._run_one, pipeline._load_base

    def run_one(name: str, *rest: Any) -> None:
        names.append(name)
        one(name, *rest)

    monkeypatch.setattr(pipeline, "_run_one", run_one)
    monkeypatch.setattr(pipeline, "_load_base", lambda *a: (names.append("base"), load_base(*a))[1])
    return names


@pytest.fixture(scope="module")
def finished(tiny_model_dir: Path, tiny_task: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of all seven stages; tests copy it (see `again`)."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copy(tiny_task.demonstrations, folder / "demonstrations.jsonl")
    raw = {
        "run_dir": "run",  # paths are relative, so that a copy elsewhere is the same run
        "seed": 1,
        "model": {
            "name": str(tiny_model_dir),
            "quantization": "fp32",
            "compute_dtype": "fp32",
            "device": "cpu",
            "lora": {"rank": 4, "alpha": 8},
            "max_length": 128,
        },
        "data": {"demonstrations": "demonstrations.jsonl", "prompts": str(tiny_task.prompts), "eval_fraction": 0.3},
        "sft": {
            "batch_size": 8,
            "micro_batch_size": 4,
            "epochs": 3,
            "max_steps": 12,
            "eval_examples": 8,
            "learning_rate": 1e-2,
        },
        "reward": {"rankings": str(tiny_task.rankings), "batches": ["people", "tiny-samples"], "micro_batch_size": 4},
        "gold": {"rankings": str(tiny_task.gold_rankings), "batches": ["others"], "micro_batch_size": 4},
        "ppo": {
            "updates": 2,
            "rollout_batch_size": 8,
            "mini_batch_size": 4,
            "micro_batch_size": 4,
            "ppo_epochs": 1,
            "value_warmup_epochs": 1,
            "normalize_samples": 8,
            "max_new_tokens": 12,
            "checkpoint_every": 1,
            "rewards": {"adapter:reward": 1.0, "brief_judge:score": 0.01},
        },
        "evaluate": {
            "prompts": 6,
            "batch_size": 4,
            "bootstrap": 100,
            "shown_samples": 3,
            "judges": {"reward": "adapter:reward", "gold": "adapter:gold", "brief": "brief_judge:score"},
        },
        "export": {"verify": False},
        "sample": {"prompts": 3, "completions": 3, "batch": "tiny-samples"},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    with contextlib.chdir(folder):
        pipeline.run(parse(raw, "test"))
    return folder


@pytest.fixture
def again(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Config]:
    """`again("ppo.updates=3")`: the config of a copy of the finished run, with changes."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return lambda *overrides: load("config.yaml", overrides)


def adapters(run: Path) -> dict[str, str]:
    """sha256 of every adapter's weights."""
    files = sorted((run / "adapters").glob("*/adapter_model.safetensors"))
    return {f.parent.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def metrics(run: Path, stage: str) -> list[dict[str, Any]]:
    """A stage's logged rows without what a clock (or the memory) says."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    noise = ("time", "tokens_per_second", "rss_mib")
    return [
        {k: v for k, v in row.items() if k not in noise and not k.startswith("seconds_")}
        for row in rows
        if row["stage"] == stage
    ]


# --- the contract ------------------------------------------------------------------------------------------------


def test_the_whole_loop_leaves_what_the_contract_promises(finished: Path) -> None:
    run = finished / "run"
    names = {"config.yaml", "manifest.json", "metrics.jsonl", "summary.json", "report.html", "samples.jsonl"}
    assert names <= {p.name for p in run.iterdir()}
    for name in ("sft", "reward", "gold", "policy"):
        files = {p.name for p in (run / "adapters" / name).iterdir()}
        assert files == {"adapter_config.json", "adapter_model.safetensors", "rlhf.json"}
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md", "tokenizer.json"} <= {
        p.name for p in (run / "export" / "policy").iterdir()
    }
    assert not [p for p in run.rglob("*") if "staging" in p.name or p.suffix == ".old"]
    assert not (run / "checkpoints" / "ppo").exists(), "a finished run needs no checkpoint"


def test_summary_holds_the_promised_keys(finished: Path) -> None:
    summary = json.loads((finished / "run" / "summary.json").read_text())
    assert set(summary["seconds"]) == {"base", *ALL, "total"}
    for key in (
        "peak_rss_mib", "reward.accuracy", "reward.human_agreement", "gold.accuracy", "ppo.kl", "ppo.truncation_rate",
        "eval.gold_sft", "eval.gold_policy", "eval.gold_win_rate.ci95", "eval.brief_sft", "eval.brief_policy",
        "eval.brief_win_rate.ci95", "eval.length_sft", "eval.length_policy", "eval.distinct2_sft",
        "eval.distinct2_policy", "export.max_logit_difference", "base_sha256_before", "base_sha256_after",
    ):  # fmt: skip
        found: Any = summary
        for part in key.split("."):
            assert part in found, key
            found = found[part]
    assert summary["base_sha256_before"] == summary["base_sha256_after"]
    assert 0.0 <= summary["reward"]["accuracy"] <= 1.0
    low, high = summary["eval"]["gold_win_rate"]["ci95"]
    assert 0.0 <= low <= summary["eval"]["gold_win_rate"]["value"] <= high <= 1.0
    assert summary["sample"]["adapter"] == "policy"


def test_manifest_names_inputs_versions_seed_and_parents(finished: Path) -> None:
    manifest = json.loads((finished / "run" / "manifest.json").read_text())
    assert list(manifest["stages"]) == list(ALL)
    assert manifest["seed"] == 1
    assert {"torch", "transformers", "peft", "trl", "rlhf-toolkit"} <= set(manifest["versions"])
    parents = manifest["stages"]["ppo"]["parents"]
    assert parents == {name: manifest["stages"][name]["outputs"] for name in ("sft", "reward")}
    demonstrations = (finished / "demonstrations.jsonl").read_bytes()
    assert manifest["stages"]["sft"]["inputs"]["demonstrations"] == hashlib.sha256(demonstrations).hexdigest()
    for entry in manifest["stages"].values():
        assert entry["result"]["base_sha256_before"] == entry["result"]["base_sha256_after"]


def test_metrics_hold_every_step_once(finished: Path) -> None:
    for stage, steps in (("sft", 12), ("ppo", 2)):
        assert [row["step"] for row in metrics(finished / "run", stage)] == list(range(1, steps + 1))
    first = metrics(finished / "run", "ppo")[0]
    assert first["kl"] == 0.0
    assert {"score", "kl_coef", "entropy", "length", "eos_rate", "clip_fraction", "explained_variance"} <= set(first)


def test_samples_stand_side_by_side(finished: Path) -> None:
    rows = [json.loads(line) for line in (finished / "run" / "samples.jsonl").read_text().splitlines()]
    assert len(rows) == 6
    assert all(row["sft"] and row["policy"] for row in rows)
    for row in rows:
        assert set(row) == {"prompt", "sft", "policy", "scores", "lengths"}
        assert row["scores"]["brief"] == [-len(row["sft"]), -len(row["policy"])]


def test_the_store_holds_rankings_by_batch_and_the_policys_samples(finished: Path) -> None:
    with LabelStore.open(finished / "run" / "labels.db") as store:
        assert set(store.batches()) >= {"people", "others"}
        assert (store.counts("people").rankings, store.counts("others").rankings) == (30, 30)
        summary = json.loads((finished / "run" / "summary.json").read_text())["sample"]
        assert store.counts("tiny-samples").tasks == summary["tasks"] == summary["added"]


def test_the_resolved_config_makes_the_same_run(finished: Path) -> None:
    assert load(finished / "run" / "config.yaml") == load(finished / "config.yaml")


# --- skipping and rerunning --------------------------------------------------------------------------------------


def test_a_second_run_skips_everything_and_loads_no_base(
    again: Any, ran: list[str], said: list[str], tmp_path: Path
) -> None:
    files = [p for p in (tmp_path / "run").rglob("*") if p.parent.name in ALL or p.parent.name == "policy"]
    before = {p: p.stat().st_mtime_ns for p in files}
    said.clear()
    pipeline.run(again())
    assert ran == []
    assert [line for line in said if "skipped" in line] == [f"{name}: unchanged, skipped" for name in ALL]
    assert {p: p.stat().st_mtime_ns for p in files} == before


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("ppo.learning_rate=2.0e-4", ["ppo", "evaluate", "export", "sample"]),
        ("evaluate.prompts=5", ["evaluate", "export"]),  # the model card quotes the evaluation
        ("sample.overlap=2", ["sample"]),
        ("gold.epochs=2", ["gold", "evaluate", "export"]),
    ],
)
def test_a_changed_key_reruns_what_reads_it_and_what_follows(
    again: Any, ran: list[str], override: str, expected: list[str]
) -> None:
    pipeline.run(again(override))
    assert ran == ["base", *expected]


def test_another_seed_reruns_everything(again: Any, ran: list[str]) -> None:
    pipeline.run(again("seed=2"))
    assert ran == ["base", *ALL]


def test_changed_demonstrations_rerun_sft_and_what_follows(again: Any, ran: list[str], tmp_path: Path) -> None:
    before = adapters(tmp_path / "run")
    with (tmp_path / "demonstrations.jsonl").open("a") as file:
        file.write('{"prompt": "Review the play.", "completion": "The play is good and well made."}\n')
    pipeline.run(again())
    assert ran == ["base", "sft", "ppo", "evaluate", "export", "sample"]
    after = adapters(tmp_path / "run")
    assert {name for name in before if before[name] != after[name]} == {"sft", "policy"}


@pytest.mark.parametrize(
    ("name", "damage", "expected"),
    [
        ("gold", "delete", ["gold"]),  # made again bit for bit, so that nothing after it need run
        ("policy", "delete", ["ppo"]),
        ("reward", "change", ["reward"]),
    ],
)
def test_an_adapter_that_is_gone_or_changed_is_made_again(
    again: Any, ran: list[str], tmp_path: Path, name: str, damage: str, expected: list[str]
) -> None:
    before = adapters(tmp_path / "run")
    folder = tmp_path / "run" / "adapters" / name
    if damage == "delete":
        shutil.rmtree(folder)
    else:
        (folder / "adapter_model.safetensors").write_bytes(b"something else")
    pipeline.run(again())
    assert ran == ["base", *expected]
    assert adapters(tmp_path / "run") == before


def test_a_persons_ranking_in_a_trained_batch_reruns_reward(again: Any, ran: list[str]) -> None:
    config = again()
    with LabelStore.open(config.store_url) as store:
        prompt, texts = "Review the play.", ("The play is good.", "The play is bad.")
        store.import_rankings([Ranking(prompt, texts, (1, 2), labeler="eve")], batch="others-still")
        pipeline.run(config)
        assert ran == [], "a batch that nothing trains on changes nothing"
        store.import_rankings([Ranking(prompt, texts, (1, 2), labeler="eve")], batch="tiny-samples")
    summary = pipeline.run(config)
    assert ran == ["base", "reward", "ppo", "evaluate", "export", "sample"]
    assert summary["reward"]["labelers"] == 2


def test_force_runs_what_is_unchanged(again: Any, ran: list[str]) -> None:
    pipeline.run(again(), stages=("sft",), force=True)
    assert ran == ["base", "sft"]


def test_the_stages_can_be_run_one_by_one_with_the_same_result(
    again: Any, ran: list[str], tmp_path: Path, finished: Path
) -> None:
    shutil.rmtree(tmp_path / "run")
    config = again()
    pipeline.run(config, stages=("reward",))
    assert ran == ["base", "reward"]
    assert set(adapters(tmp_path / "run")) == {"reward"}
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert set(summary["seconds"]) == {"base", "reward", "total"} and "eval" not in summary
    for stage in ("gold", "sft", "ppo", "evaluate", "export", "sample"):
        pipeline.run(config, stages=(stage,))
    assert adapters(tmp_path / "run") == adapters(finished / "run")
    assert (tmp_path / "run" / "samples.jsonl").read_bytes() == (finished / "run" / "samples.jsonl").read_bytes()


# --- interruption ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_ppo_goes_on_and_ends_as_if_it_had_not_been(
    again: Any, ran: list[str], said: list[str], tmp_path: Path, finished: Path, kind: type[BaseException]
) -> None:
    shutil.rmtree(tmp_path / "run" / "adapters" / "policy")
    real, steps = PPOTrainer.step, []

    def interrupted(self: PPOTrainer) -> dict[str, float]:
        if steps:
            raise kind("in the middle")
        steps.append(1)
        return real(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PPOTrainer, "step", interrupted)
        with pytest.raises(kind):
            pipeline.run(again())
    assert "ppo" not in json.loads((tmp_path / "run" / "manifest.json").read_text())["stages"]
    assert not (tmp_path / "run" / "adapters" / "policy").exists()
    ran.clear()
    said.clear()
    pipeline.run(again())
    assert ran == ["base", "ppo"]
    assert "ppo: goes on after update 1 of 2" in said
    assert adapters(tmp_path / "run") == adapters(finished / "run")
    assert metrics(tmp_path / "run", "ppo") == metrics(finished / "run", "ppo")


def test_a_checkpoint_of_another_config_is_not_gone_on_from(again: Any, said: list[str], tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "run" / "adapters" / "policy")
    real = PPOTrainer.step

    def interrupted(self: PPOTrainer) -> dict[str, float]:
        if self.updates_done:
            raise KeyboardInterrupt
        return real(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PPOTrainer, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pipeline.run(again(), stages=("ppo",))
    assert (tmp_path / "run" / "checkpoints" / "ppo" / "state.json").is_file()
    said.clear()
    pipeline.run(again("ppo.learning_rate=5.0e-4"), stages=("ppo",))
    assert not [line for line in said if "goes on" in line]
    assert [row["step"] for row in metrics(tmp_path / "run", "ppo")] == [1, 2]


# --- the base ----------------------------------------------------------------------------------------------------


def test_a_stage_that_changes_the_base_is_caught(again: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = pipeline.STAGES["sft"]

    def meddling(config: Config, base: SharedBase, tracker: Tracker) -> dict[str, Any]:
        result = real.run(config, base, tracker)
        with torch.no_grad():
            base.model.get_input_embeddings().weight[7, 3] += 1e-4
        return result

    monkeypatch.setitem(pipeline.STAGES, "sft", pipeline._Stage(real.plan, meddling))
    with pytest.raises(ArtifactError, match=r"sft: the frozen base changed while it ran .* its results are void"):
        pipeline.run(again("sft.max_steps=1"))
    assert "sft" not in json.loads((tmp_path / "run" / "manifest.json").read_text())["stages"]


@pytest.mark.parametrize("quantization", ["fp32", "nf4"])
def test_the_export_gives_the_same_logits_in_plain_peft(again: Any, tmp_path: Path, quantization: str) -> None:
    """A fresh process, plain transformers and PEFT, on the identical base."""
    said_so = ("export.verify=true", "export.drift_prompts=2", "export.base_model_name=people/tiny-llama")
    if quantization == "fp32":
        summary = pipeline.run(again(*said_so), stages=("export",))
    else:
        nf4 = ("run_dir=nf4", "model.quantization=nf4", "ppo.rewards={brief_judge:score: 1.0}", "ppo.updates=1")
        summary = pipeline.run(again(*said_so, *nf4), stages=("sft", "ppo", "export"))
    assert summary["export"]["max_logit_difference"] < 1e-3
    assert summary["base_sha256_before"] == summary["base_sha256_after"]
    folder = tmp_path / ("run" if quantization == "fp32" else "nf4") / "export" / "policy"
    written = json.loads((folder / "adapter_config.json").read_text())
    assert written["base_model_name_or_path"] == "people/tiny-llama"
    tensors = load_file(folder / "adapter_model.safetensors")
    assert all("lora_" in name for name in tensors), "no critic, no head"
    assert any(t.abs().max() > 0 for name, t in tensors.items() if "lora_B" in name)
    drift = summary["export"]["bf16_drift"]
    assert 0 < drift["mean_logprob"] <= drift["max_logprob"]


def test_the_exported_base_is_the_configs_name_and_no_place_in_a_cache(finished: Path, tiny_model_dir: Path) -> None:
    written = json.loads((finished / "run" / "export" / "policy" / "adapter_config.json").read_text())
    assert written["base_model_name_or_path"] == str(tiny_model_dir)  # what model.name says, here a folder


def test_an_export_that_drifts_is_refused(again: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from rlhf.stages import export

    def off(config: Config, base: SharedBase, _folder: Path, ids: torch.Tensor, mask: torch.Tensor) -> Any:
        return {"fp32": export._our_logits(config, base, ids, mask) + 0.01}, 0.0

    monkeypatch.setattr(export, "_plain_logits", off)
    with pytest.raises(ArtifactError, match=r"plain PEFT gives other logits .*1\.\d+e-02.* do not use this export"):
        pipeline.run(again("export.verify=true"), stages=("export",))


@pytest.mark.gpu
def test_the_whole_loop_on_a_gpu_in_nf4_and_bf16(tiny_config: Any) -> None:
    config = parse(
        tiny_config(
            {
                "model.device": "cuda",
                "model.quantization": "nf4",
                "model.compute_dtype": "bf16",
                "model.gradient_checkpointing": True,
                "export": {"verify": True, "drift_prompts": 2},
                "ppo.rewards": {"adapter:reward": 1.0, "brief_judge:score": 0.01},
                "evaluate.judges": {"reward": "adapter:reward", "brief": "brief_judge:score"},
            }
        ),
        "test",
    )
    summary = pipeline.run(config)
    assert summary["base_sha256_before"] == summary["base_sha256_after"]
    assert summary["export"]["max_logit_difference"] < 1e-3
    assert metrics(config.run_path, "ppo")[0]["kl"] == 0.0
