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
from rlhf.data.records import Prompt, prompt_key
from rlhf.data.sources import load_prompts
from rlhf.errors import ConfigError, RLHFError
from rlhf.preferences import LabelStore
from rlhf.preferences.arena import paired
from rlhf.preferences.schema import tasks
from rlhf.stages import contestants, preflight, sample

SUBJECTS = (
    "acting", "camera", "cast", "comedy", "dialogue", "drama", "ending", "film", "hero", "humor", "jokes", "lead",
    "light", "love story", "middle", "music", "opening", "pace", "picture", "plot",
)  # fmt: skip
# What the policy is made to say: three prompts, of which the second has two different answers and the third one.
SAID = {"p0": ("a", "b", "c"), "p1": ("a", "b", "a"), "p2": ("a", "a", "\0")}


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


# --- arenas


@pytest.fixture
def arena(tiny_config: Any, tmp_path: Path) -> Any:
    """`arena([...])`: a config with these contestants beside the policy, on held-out prompts of 20 chats."""
    chats = [{"messages": [{"role": "user", "content": f"Review the {word}."}]} for word in SUBJECTS[:20]]
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in chats))

    def make(against: Any, **section: Any) -> Config:
        raw = tiny_config({"data.eval_fraction": 0.5, "store.url": str(tmp_path / "labels.db")})
        raw["data"]["prompts"] = str(file)
        raw["sample"] = {"against": against, "prompts": 6, "batch": "arena", **section}
        return parse(raw, "test")

    return make


@pytest.fixture(scope="module")
def base(tiny_model_dir: Path) -> Any:
    """The tiny model with two adapters that really differ: `sft`, and a policy further away."""
    import torch

    from rlhf.config import LoraSection, ModelSection
    from rlhf.model.base import SharedBase

    section = ModelSection(
        name=str(tiny_model_dir), quantization="fp32", compute_dtype="fp32", device="cpu", lora=LoraSection(rank=4)
    )
    loaded = SharedBase.load(section)
    for name, scale in (("sft", 0.05), ("policy", 0.1)):
        loaded.add_adapter(name)
        torch.manual_seed(len(name))
        for parameter in loaded.adapter_parameters(name):
            parameter.data = torch.randn_like(parameter) * scale
    return loaded


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def tracker(said: list[str]) -> Any:
    return SimpleNamespace(start=lambda *_: None, log=lambda *_: None, say=said.append)


def held(store_url: str, batch: str = "arena") -> dict[str, dict[str, str]]:
    """What the store's open tasks hold: by prompt, who wrote which text."""
    with LabelStore.open(store_url) as store:
        return {prompt_key(t.prompt): {c.source: c.text for c in t.completions} for t in store.waiting(batch)}


def held_out(config: Config) -> list[Prompt]:
    return load_prompts(config.data.prompts or "", "eval", eval_fraction=0.5)


def saved(base: Any, adapter: str, folder: Path) -> Path:
    from rlhf.model.adapters import save_adapter

    return save_adapter(base, adapter, folder)


def test_every_contestant_writes_one_completion_a_held_out_prompt(
    arena: Any, base: Any, tracker: Any, said: list[str], tmp_path: Path
) -> None:
    saved(base, "sft", tmp_path / "other")
    before, adapters = base.sha256(), list(base.adapters)
    config = arena({"raw": "base", "last week": str(tmp_path / "other")})
    result = sample.run(config, base, tracker)
    found = held(config.store_url)
    assert result["tasks"] == result["added"] == len(found)
    assert result["tasks"] + result["same"] == 6 and result["tasks"] > 2 and result["blank"] == {}
    assert result["contestants"] == {"policy": "policy", "raw": "base", "last week": str(tmp_path / "other")}
    assert all(list(texts) == ["policy", "raw", "last week"] for texts in found.values())
    assert set(found) <= {prompt_key(p.prompt) for p in held_out(config)}
    assert base.adapters == adapters and base.sha256() == before
    # The folder holds what `sft` is: with the same random numbers both write the same.
    again = sample.run(arena(["sft"], batch="arena 2"), base, tracker)
    second = held(config.store_url, "arena 2")
    assert again["tasks"] == len(second) > 2
    for prompt in found.keys() & second.keys():
        assert found[prompt]["last week"] == second[prompt]["sft"]
        assert found[prompt]["policy"] == second[prompt]["policy"]


def test_what_two_write_alike_is_a_tie_that_nobody_is_asked_about(
    arena: Any, base: Any, tracker: Any, said: list[str], tmp_path: Path
) -> None:
    twin = saved(base, "policy", tmp_path / "twin")
    config = arena({"twin": str(twin)})
    result = sample.run(config, base, tracker)
    assert (result["tasks"], result["same"], held(config.store_url)) == (0, 6, {})
    assert said == ["sample: of 6 prompts, on 6 two contestants wrote the same: left out"]
    assert sample.plan(config).present(result)


def test_a_file_of_completions_takes_part(arena: Any, base: Any, tracker: Any, said: list[str], tmp_path: Path) -> None:
    """It answers some of the prompts; two answers to one prompt, and the first counts."""
    config = arena({"gpt": str(tmp_path / "gpt.jsonl")}, prompts=3)
    chats = [p.prompt for p in held_out(config)][:4]
    rows = [{"prompt": chat, "completion": f"{n} of {prompt_key(chat)}"} for chat in chats for n in ("one", "two")]
    (tmp_path / "gpt.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = sample.run(config, base, tracker)
    found = held(config.store_url)
    assert len(found) == result["tasks"] == 3 and result["same"] == 0 and said == []
    assert all(texts["gpt"] == f"one of {prompt}" for prompt, texts in found.items())
    contestants.check(config, base.identity.source_sha256)
    with pytest.raises(RLHFError, match=r"of which 4 are answered by .*gpt\.jsonl; sample\.prompts asks for 5: ask"):
        contestants.check(arena({"gpt": str(tmp_path / "gpt.jsonl")}, prompts=5), base.identity.source_sha256)


def test_a_changed_contestant_changes_the_plan(arena: Any, base: Any, tmp_path: Path) -> None:
    folder, file = saved(base, "policy", tmp_path / "other"), tmp_path / "gpt.jsonl"
    file.write_text('{"prompt": "p", "completion": "c"}\n')
    config = arena({"other": str(folder), "gpt": str(file)})
    assert sample.plan(config).parents == ("ppo",)
    assert sample.plan(arena(["sft", "base"])).parents == ("ppo", "sft")
    before = sample.plan(config).inputs
    saved(base, "sft", folder)
    file.write_text('{"prompt": "p", "completion": "d"}\n')
    after = sample.plan(config).inputs
    assert before.keys() == after.keys() == {"prompts", f"contestant {folder}", f"contestant {file}"}
    assert before["prompts"] == after["prompts"]
    assert before[f"contestant {folder}"] != after[f"contestant {folder}"]
    assert before[f"contestant {file}"] != after[f"contestant {file}"]


def test_a_contestant_that_cannot_take_part_is_refused_in_one_line(arena: Any, base: Any, tmp_path: Path) -> None:
    here = base.identity.source_sha256

    def refusal(against: Any, sha256: str = here) -> str:
        with pytest.raises(RLHFError) as caught:
            contestants.check(arena(against), sha256)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    folder = saved(base, "policy", tmp_path / "other")
    contestants.check(arena([str(folder)]), here)
    said = refusal([str(folder)], "f" * 64)
    assert f"sample.against: {folder} was trained on" in said and "sha256 ffffffffffff" in said
    assert "'polcy' is none of sft, policy, base, and neither a folder nor a file" in refusal(["polcy"])
    assert "asks for 6" not in refusal({"gpt": str(tmp_path / "no.jsonl")})
    assert "no.jsonl: no such file" in refusal({"gpt": str(tmp_path / "no.jsonl")})
    assert refusal({"a\nb": "sft"}).startswith("sample.against: expected 1 to 200 visible characters")
    base.add_adapter("reward", head=True)
    reward = saved(base, "reward", tmp_path / "scores")
    base.remove_adapter("reward")
    assert refusal([str(reward)]) == f"sample.against: {reward} is a reward model, which writes nothing; name a policy"
    (folder / "adapter_config.json").write_text("{")
    assert "is not a PEFT adapter's config" in refusal([str(folder)])


def test_blank_answers_are_counted_by_contestant() -> None:
    prompts = [Prompt(f"p{i}", group=f"g{i}") for i in range(4)]
    made = paired(prompts, {"a": ["x", " ", "a\0b", "x"], "b": ["y", "y", "\n", " x\n"]})
    assert [(t.prompt, t.completions, t.sources, t.group) for t in made.tasks] == [("p0", ("x", "y"), ("a", "b"), "g0")]
    assert (made.same, made.blank) == (1, {"a": 2, "b": 1})
    nothing = "wrote nothing that could be shown"
    assert made.words() == f"on 1 two contestants wrote the same; on 2 'a' {nothing}; on 1 'b' {nothing}: left out"
    assert paired(prompts[:1], {"a": ["x"], "b": ["y"]}).words() == ""


@pytest.mark.parametrize(
    ("against", "said"),
    [
        (["policy"], "'policy' is in it twice, or is sample.adapter itself"),
        (["sft", "sft"], "'sft' is in it twice"),
        ({"a": "sft", "b": "sft"}, "'sft' is in it twice"),
        ({"policy": "sft"}, "'policy' is in it twice, or is sample.adapter itself"),
        ("sft", "found 'sft'; expected a list, as [sft], or a mapping of name: contestant"),
        ([" "], "expected a list"),
        ({"a": 1}, "expected a list"),
        ([f"runs/{i}" for i in range(9)], "10 contestants are too many to rank; leave 9 at most"),
    ],
)
def test_contestants_that_no_arena_could_have_are_refused(config: Any, against: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=r"sample(\.against)?: ") as caught:
        config(against=against)
    assert said in str(caught.value) and "\n" not in str(caught.value)
