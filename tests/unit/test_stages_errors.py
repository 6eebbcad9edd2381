"""Faults that a person can mend, through the command line: one line on stderr, exit code 2, nothing written."""

from __future__ import annotations

import itertools
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock
from typer.testing import CliRunner

from rlhf import cli
from rlhf.data.sources import load_prompts
from rlhf.preferences import LabelStore

Write = Callable[..., Path]


@pytest.fixture
def written(tiny_config: Any, tmp_path: Path) -> Write:
    """`written({"ppo.updates": 3}, judges={"module:function": 1.0})`: a config file of the tiny task with changes."""

    def write(changes: Any = None, judges: Any = None) -> Path:
        path = tmp_path / "config.yaml"
        raw = tiny_config(changes)
        raw["ppo"] |= {"rewards": judges} if judges else {}
        path.write_text(yaml.safe_dump(raw), encoding="utf-8")
        return path

    return write


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """A judge that can be imported: `brief:score`."""
    module = types.ModuleType("brief")
    scores = itertools.count()  # tells any two texts apart, equal ones too
    module.score = lambda prompts, completions: [float(next(scores)) for _ in completions]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "brief", module)


def refused(path: Path, *arguments: str, command: str = "run") -> str:
    """Run the command; the one line that it leaves on stderr. A run directory that was not there is not made."""
    run = path.parent / "run"
    before = sorted(run.rglob("*")) if run.exists() else None
    done = CliRunner().invoke(cli.app, [command, "-c", str(path), *arguments])
    assert done.exit_code == 2, done.output
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("rlhf: error: ") and "Traceback" not in lines[0]
    assert done.stdout == ""
    assert (sorted(run.rglob("*")) if run.exists() else None) == before
    return lines[0].removeprefix("rlhf: error: ")


def rows(path: Path, *content: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
    return str(path)


def test_bad_yaml(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("run_dir: [1, 2\nseed: 1\n")
    said = refused(path)
    assert said.startswith(f"{path}, line 2: not valid YAML")


def test_an_unknown_key(written: Write) -> None:
    path = written({"ppo.updats": 3})
    assert refused(path) == f"{path}: unknown key 'ppo.updats'; did you mean 'updates'?"


def test_a_wrong_type(written: Write) -> None:
    path = written({"ppo.updates": "many"})
    assert refused(path).startswith(f"{path}: ppo.updates: found 'many'; input should be a valid integer")


def test_a_missing_config(tmp_path: Path) -> None:
    assert "no such config file" in refused(tmp_path / "none.yaml")


@pytest.mark.parametrize("key", ["data.demonstrations", "data.prompts", "reward.rankings"])
def test_a_missing_data_file(written: Write, tmp_path: Path, key: str) -> None:
    path = tmp_path / "none.jsonl"
    assert f"{path}: no such file" in refused(written({key: str(path)}))


@pytest.mark.parametrize("key", ["data.demonstrations", "data.prompts", "reward.rankings"])
def test_an_empty_data_file(written: Write, tmp_path: Path, key: str) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_text("\n\n")
    assert f"{path}: holds no rows" in refused(written({key: str(path)}))


def test_a_bad_row(written: Write, tmp_path: Path) -> None:
    path = tmp_path / "demonstrations.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "c"}\n')
    said = refused(written({"data.demonstrations": str(path)}))
    assert said.startswith(f"{path}, line 2: field 'completion' is missing")


def test_a_missing_model(written: Write, tmp_path: Path) -> None:
    said = refused(written({"model.name": str(tmp_path / "nowhere")}))
    assert said.startswith("model.name: ") and "no such folder" in said


def long_prompts(tmp_path: Path, tiny_task: Any) -> str:
    """The tiny prompts, and forty more of 150 words each."""
    long = [{"prompt": f"{'film ' * 150}{i}"} for i in range(40)]
    short = [json.loads(line) for line in Path(tiny_task.prompts).read_text().splitlines()]
    return rows(tmp_path / "prompts.jsonl", *short, *long)


def test_over_long_prompts_are_counted_and_refused(written: Write, tmp_path: Path, tiny_task: Any) -> None:
    path = written({"data.prompts": long_prompts(tmp_path, tiny_task)})
    said = refused(path)
    assert "prompts.jsonl (prompts, 16 to answer): 40 of 70 are longer than 112 tokens (the longest has 1" in said
    assert "set data.over_long=skip to leave them out and count them" in said


def test_over_long_demonstrations_are_counted_and_refused(written: Write, tmp_path: Path, tiny_task: Any) -> None:
    content = [json.loads(line) for line in Path(tiny_task.demonstrations).read_text().splitlines()]
    long = [{"prompt": f"Review {i}.", "completion": "good " * 200} for i in range(20)]
    path = written({"data.demonstrations": rows(tmp_path / "demonstrations.jsonl", *content, *long)})
    said = refused(path)
    assert "demonstrations.jsonl (demonstrations): 20 of 80 are longer than 128 tokens (the longest has 2" in said


@pytest.mark.usefixtures("brief")
def test_over_long_prompts_are_left_out_and_counted(written: Write, tmp_path: Path, tiny_task: Any) -> None:
    source = long_prompts(tmp_path, tiny_task)
    path = written({"data.prompts": source, "data.over_long": "skip"}, judges={"brief:score": 1.0})
    for command in ("sft", "ppo"):
        done = CliRunner().invoke(cli.app, [command, "-c", str(path)])
        assert done.exit_code == 0, done.output
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    train = load_prompts(source, "train", eval_fraction=0.3)
    long = sum("film film" in p.prompt for p in train)
    assert summary["ppo"]["over_long"] == long > 0
    assert summary["ppo"]["prompts"] == len(train) - long


def test_no_rankings_yet(written: Write, tmp_path: Path) -> None:
    path = written({"reward.rankings": None, "store.url": str(tmp_path / "labels.db")})
    with LabelStore.open(tmp_path / "labels.db", create=True):
        pass
    said = refused(path)
    assert "no rankings yet" in said and "rank some with `rlhf label`" in said


def test_no_label_store_yet(written: Write) -> None:
    said = refused(written({"reward.rankings": None}))
    assert "labels.db: no such file" in said


def test_rankings_without_a_preference(written: Write, tmp_path: Path) -> None:
    tied = [{"prompt": f"Review {i}.", "completions": ["a", "b"], "ranks": [1, 1]} for i in range(9)]
    said = refused(written({"reward.rankings": rows(tmp_path / "tied.jsonl", *tied)}), command="reward")
    assert said.endswith("tied.jsonl: no ranking prefers one completion to another; rank some apart")


def test_a_judge_that_cannot_be_imported(written: Write) -> None:
    expected = "judge 'no_such_module:score': module 'no_such_module' cannot be imported"
    assert expected in refused(written(judges={"no_such_module:score": 1.0}))
    assert expected in refused(written({"evaluate.judges": {"mine": "no_such_module:score"}}))


def test_a_stage_before_the_one_that_it_needs(written: Write) -> None:
    said = refused(written(), command="export")
    assert said.startswith("adapter 'policy' is not on this run's record") and "run `rlhf ppo` first" in said


def test_gold_without_a_gold_section(written: Write) -> None:
    assert refused(written(), "--adapter", "gold", command="reward").startswith("gold: this config has no gold section")


@pytest.mark.usefixtures("brief")
def test_an_adapter_of_another_base(written: Write, tmp_path: Path) -> None:
    """An SFT adapter of the same model in fp32, asked for on the model in NF4."""
    done = CliRunner().invoke(cli.app, ["sft", "-c", str(written(judges={"brief:score": 1.0}))])
    assert done.exit_code == 0, done.output
    before = (tmp_path / "run" / "config.yaml").read_text()
    path = written({"model.quantization": "nf4"}, judges={"brief:score": 1.0})
    done = CliRunner().invoke(cli.app, ["ppo", "-c", str(path)])
    assert done.exit_code == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("rlhf: error: ")]
    assert len(errors) == 1 and "Traceback" not in done.stderr
    assert "adapters/sft: was trained on" in errors[0] and "(fp32, " in errors[0] and "(nf4, " in errors[0]
    assert {p.name for p in (tmp_path / "run" / "adapters").iterdir()} == {"sft"}
    assert (tmp_path / "run" / "config.yaml").read_text() == before, "nothing is written"


@pytest.mark.usefixtures("brief")
def test_an_sft_adapter_of_another_rank(written: Write, tmp_path: Path) -> None:
    """The policy is a copy of it: PPO alone, asked for another rank, would train the old one without a word."""
    done = CliRunner().invoke(cli.app, ["sft", "-c", str(written(judges={"brief:score": 1.0}))])
    assert done.exit_code == 0, done.output
    said = refused(written({"model.lora.rank": 3}, judges={"brief:score": 1.0}), command="ppo")
    assert said.startswith("adapters/sft: was trained with rank=") and "run `rlhf sft` again" in said
    assert {p.name for p in (tmp_path / "run" / "adapters").iterdir()} == {"sft"}


def test_two_runs_in_one_directory(written: Write, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with FileLock(tmp_path / "run" / ".lock"):
        assert "another run is at work here" in refused(written())
    assert {p.name for p in (tmp_path / "run").iterdir()} <= {".lock"}
