"""Sampling fits the store's project: its overlap, its k; and what cannot fit is said before anything runs."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
import yaml
from typer.testing import CliRunner

from rlhf import cli
from rlhf.config import Config, parse
from rlhf.data.records import Prompt
from rlhf.errors import ConfigError, RLHFError
from rlhf.preferences import LabelStore
from rlhf.preferences.schema import tasks
from rlhf.stages import preflight, sample

# What the policy is made to say: three prompts, of which the second has two different answers and the third one.
SAID = {"p0": ("a", "b", "c"), "p1": ("a", "b", "a"), "p2": ("a", "a", " ")}


@pytest.fixture
def config(tmp_path: Path) -> Any:
    """`config(overlap=2)`: three completions a prompt into the project `news`, with these changes to `sample`."""

    def make(project: str = "news", **section: Any) -> Config:
        where = {"url": str(tmp_path / "labels.db"), "project": project}
        raw = {"store": where, "sample": {"prompts": 3, "completions": 3, "batch": "new", **section}}
        return parse(raw | {"run_dir": str(tmp_path / "run"), "data": {"prompts": "builtin:film-reviews"}}, "test")

    return make


@pytest.fixture
def news(tmp_path: Path) -> Any:
    """`news(k=3)`: a store whose project `news` has these settings."""

    def make(**settings: Any) -> LabelStore:
        with LabelStore.open(tmp_path / "labels.db", create=True) as labels:
            labels.create_project("news", settings)
        return LabelStore.open(tmp_path / "labels.db", project="news")

    return make


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The stage, without a model: SAID is what it samples."""
    encoder = SimpleNamespace(prompt=lambda text: text, text=lambda text: text)
    rollout = SimpleNamespace(responses=[text for texts in SAID.values() for text in texts])
    monkeypatch.setattr(sample, "Encoder", lambda _: encoder)
    monkeypatch.setattr(sample, "need_adapter", lambda *_: None)
    monkeypatch.setattr(sample, "usable_prompts", lambda *_: ([Prompt(p) for p in SAID], 0))
    monkeypatch.setattr(sample, "sample", lambda *_, **__: rollout)
    base, tracker = SimpleNamespace(tokenizer=None), SimpleNamespace(start=lambda *_: None, log=lambda *_: None)
    return lambda config: sample.run(config, base, tracker)  # type: ignore[arg-type]


def overlaps(store: LabelStore) -> list[int]:
    with store._reading() as connection:
        return list(connection.scalars(sa.select(tasks.c.overlap).order_by(tasks.c.id)))


@pytest.mark.parametrize(("asked", "expected"), [(None, 4), (1, 1), (7, 7)])
def test_the_overlap_is_the_projects_unless_the_config_says_otherwise(
    config: Any, news: Any, run: Any, asked: int | None, expected: int
) -> None:
    assert config().sample.overlap is None
    with news(overlap=4) as store:
        result = run(config(overlap=asked))
        assert overlaps(store) == [expected] * 2
        assert (result["tasks"], result["added"], result["completions"], result["too_alike"]) == (2, 2, 5, 1)


def test_prompts_with_fewer_answers_than_the_projects_k_are_left_out_and_counted(
    config: Any, news: Any, run: Any
) -> None:
    with news(k=3) as store:
        result = run(config())
        assert (result["tasks"], result["added"], result["completions"], result["too_alike"]) == (1, 1, 3, 2)
        assert store.counts("new").tasks == 1


def test_an_overlap_that_no_project_could_have_is_refused(config: Any) -> None:
    for bad in (0, 1001):
        with pytest.raises(ConfigError, match=r"sample\.overlap"):
            config(overlap=bad)


# --- before anything runs


def refused(config: Config, stage: str = "sample") -> str:
    """What preflight says, which writes nothing."""
    folder = Path(config.store_url).parent
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.suffix == ".db"}
    with pytest.raises(RLHFError) as caught:
        preflight.check(config, [stage], {}, "0" * 64)
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.suffix == ".db"} == before
    return str(caught.value)


def test_completions_that_the_projects_k_forbids_are_said_at_once(config: Any, news: Any) -> None:
    news(k=4).close()
    assert refused(config()).startswith(
        "sample.completions: is 3, but tasks of project 'news' have 4 (its k); set one to the other"
    )
    assert "adapter 'policy' is not on this run's record" in refused(config(completions=4))  # no word of k
    assert "adapter 'policy' is not on this run's record" in refused(config("default"))


def test_a_missing_project_is_said_at_once(config: Any, tmp_path: Path) -> None:
    new = config()
    said = refused(new)
    assert said.startswith(f"label store {tmp_path}/labels.db: is not there yet, so there is no project 'news' in it")
    assert "rlhf store project news --create" in said
    assert list(tmp_path.iterdir()) == []
    assert "adapter 'policy'" in refused(config("default"))  # which will be made with the store
    assert list(tmp_path.iterdir()) == []
    LabelStore.open(tmp_path / "labels.db", create=True).close()
    assert "holds no project 'news' but default" in refused(new)
    folder = new.store.model_copy(update={"url": str(tmp_path)})
    assert "this is a folder" in refused(new.model_copy(update={"store": folder}))


def test_a_file_without_a_store_in_it_becomes_one_later(config: Any, tmp_path: Path) -> None:
    (tmp_path / "labels.db").touch()
    assert "is not there yet" in refused(config())
    assert "adapter 'policy'" in refused(config("default"))
    assert (tmp_path / "labels.db").read_bytes() == b""


def test_a_name_that_the_store_would_refuse_is_said_at_once(config: Any, tmp_path: Path) -> None:
    assert refused(config("default", batch="a\nb")).startswith("batch: expected 1 to 200 visible characters")
    file = tmp_path / "prompts.jsonl"
    group = "g" * 10_001
    file.write_text("".join(f'{{"prompt": "{i}", "group": "{group}{i}"}}\n' for i in range(20)))
    data = config().data.model_copy(update={"prompts": str(file), "eval_fraction": 0.01})
    said = refused(config("default").model_copy(update={"data": data}))
    assert "prompts.jsonl, prompt 0 to train on, field 'group': 1000" in said and "characters are too many" in said


def test_a_labeler_that_the_store_would_refuse_is_said_at_once(tiny_config: Any, tmp_path: Path) -> None:
    rows = [{"prompt": f"p{i}", "completions": ["a", "b"], "ranks": [1, 2], "labeler": " ann"} for i in range(20)]
    (tmp_path / "rankings.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(tiny_config({"reward.rankings": str(tmp_path / "rankings.jsonl")})))
    done = CliRunner().invoke(cli.app, ["reward", "-c", str(path)])
    assert done.exit_code == 2
    assert done.stderr.startswith(f"rlhf: error: {tmp_path}/rankings.jsonl, row 1, field 'labeler': expected 1 to 80")
    assert not (tmp_path / "run").exists()
