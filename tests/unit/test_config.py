"""Configs: every fault is one line that names file, key and fix; what is dumped loads back equal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlhf.config import Config, dump, load, parse
from rlhf.config_help import annotated
from rlhf.errors import ConfigError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def fault(raw: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(raw, "run.yaml")
    return str(caught.value)


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "run.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


# --- files -------------------------------------------------------------------------------------------------------


def test_missing_file_names_a_near_one(tmp_path: Path) -> None:
    (tmp_path / "film.yaml").touch()
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "fillm.yaml")
    assert str(caught.value) == (f"{tmp_path}/fillm.yaml: no such config file; did you mean {tmp_path}/film.yaml?")


def test_bad_yaml_names_the_line(written: Callable[[str], Path]) -> None:
    path = written("seed: 1\nppo: {updates: 3\nsft: {}\n")
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value) == f"{path}, line 3: not valid YAML: expected ',' or '}}', but got ':'"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 2020-13-45\n", ", line 1: not valid YAML: '2020-13-45' is no valid timestamp; "
         "write it another way, or in quotes"),
        ("sft:\n  epochs: !!bool 3\n", ", line 2: not valid YAML: '3' is no valid bool; "
         "write it another way, or in quotes"),
        ("seed: " + "1" * 5000, f", line 1: not valid YAML: '{'1' * 37}...{'1' * 38}' is no valid int; "
         "write it another way, or in quotes"),
        ("seed: 0x" + "1" * 5000, ": seed: found <int too long to print>; input should be less than 4294967296"),
        ("seed: " + "[" * 3000, ": not valid YAML: it is nested too deeply"),
        ("seed: 1\nppo:\n  updates: 3\nseed: 2\n",
         ", line 4: not valid YAML: key 'seed' is there twice (first in line 1); remove one"),
        ("ppo:\n  kl: {coef: 0.1, coef: 0.1}\n",
         ", line 2: not valid YAML: key 'coef' is there twice (first in line 2); remove one"),
        ('run_dir: "a\\0b"\n', ": run_dir: found 'a\\x00b', which holds a NUL character; remove it"),
    ],
    ids=["date", "truth value", "5000 digits", "hexadecimal", "nested", "key twice", "inner key twice", "NUL"],
)  # fmt: skip
def test_what_yaml_lets_through_is_one_line(text: str, message: str, written: Callable[[str], Path]) -> None:
    path = written(text)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value) == f"{path}{message}"


def test_a_merged_key_may_be_overridden(written: Callable[[str], Path]) -> None:
    config = load(written("sft: &a {epochs: 2, batch_size: 32}\nreward:\n  <<: *a\n  batch_size: 8\n"))
    assert (config.reward.epochs, config.reward.batch_size, config.sft.batch_size) == (2, 8, 32)


def test_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_bytes(b"run_dir: \xff\n")
    with pytest.raises(ConfigError, match=r"run\.yaml: cannot be read as UTF-8 text"):
        load(tmp_path / "run.yaml")


def test_a_list_at_the_top(written: Callable[[str], Path]) -> None:
    path = written("- seed: 1\n")
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value) == f"{path}: expected a mapping of sections at the top, found list"


def test_an_empty_file_is_the_defaults(written: Callable[[str], Path]) -> None:
    assert load(written("")) == Config()


# --- keys and values ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"modle": {}}, "run.yaml: unknown key 'modle'; did you mean 'model'?"),
        ({"ppo": {"kl": {"tarqet": 3}}}, "run.yaml: unknown key 'ppo.kl.tarqet'; did you mean 'target'?"),
        ({"model": {"lora": {"zzz": 1}}}, "run.yaml: unknown key 'model.lora.zzz'; known keys here: "
         "rank, alpha, target_modules, first_layer"),
        ({"gold": {"epoch": 1}}, "run.yaml: unknown key 'gold.epoch'; did you mean 'epochs'?"),
        ({"seed": "x"},
         "run.yaml: seed: found 'x'; input should be a valid integer, unable to parse string as an integer"),
        ({"seed": 1.5},
         "run.yaml: seed: found 1.5; input should be a valid integer, got a number with a fractional part"),
        ({"ppo": {"updates": True}},
         "run.yaml: ppo.updates: found True, a truth value; expected a number, a text or a section"),
        ({"ppo": 3}, "run.yaml: ppo: found 3; input should be a valid dictionary or instance of PPOSection"),
        ({"sft": {"learning_rate": -1}}, "run.yaml: sft.learning_rate: found -1; input should be greater than 0"),
        ({"ppo": {"clip_range": 1}}, "run.yaml: ppo.clip_range: found 1; input should be less than 1"),
        ({"ppo": {"lam": float("nan")}}, "run.yaml: ppo.lam: found nan; input should be a finite number"),
        ({"sample": {"completions": 1}},
         "run.yaml: sample.completions: found 1; input should be greater than or equal to 2"),
        ({"model": {"quantization": "int4"}},
         "run.yaml: model.quantization: found 'int4'; input should be 'nf4', 'int8', 'bf16' or 'fp32'"),
        ({"model": {"lora": {"target_modules": []}}}, "run.yaml: model.lora: target_modules: names no module, "
         "so nothing would train; name some, or write all-linear"),
        ({"model": {"lora": {"target_modules": ""}}}, "run.yaml: model.lora: target_modules: names no module, "
         "so nothing would train; name some, or write all-linear"),
        ({"sample": {"adapter": "reward"}},
         "run.yaml: sample.adapter: found 'reward'; input should be 'sft' or 'policy'"),
        ({"seed": -1, "run_dir": ""},
         "run.yaml: run_dir: found ''; string should have at least 1 character (and 1 more)"),
    ],
)  # fmt: skip
def test_one_fault_is_one_line(raw: dict[str, Any], message: str) -> None:
    assert fault(raw) == message


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"sft": {"batch_size": 6, "micro_batch_size": 4}},
         "run.yaml: sft: batch_size (6) must be a multiple of micro_batch_size (4)"),
        ({"reward": {"batch_size": 6, "micro_batch_size": 4}},
         "run.yaml: reward: batch_size (6) must be a multiple of micro_batch_size (4)"),
        ({"ppo": {"mini_batch_size": 48}},
         "run.yaml: ppo: rollout_batch_size (64) must be a multiple of mini_batch_size (48)"),
        ({"ppo": {"micro_batch_size": 5}},
         "run.yaml: ppo: mini_batch_size (32) must be a multiple of micro_batch_size (5)"),
        ({"ppo": {"rewards": {}}},
         "run.yaml: ppo: rewards: at least one `adapter:NAME` or `module:function` is needed"),
        ({"ppo": {"rewards": {"length": 1}}},
         "run.yaml: ppo: 'length' is no judge; expected `adapter:NAME` or `module:function`"),
        ({"evaluate": {"judges": {"g": "adapter:gold"}}},
         "run.yaml: evaluate.judges: 'adapter:gold' is not trained by this config; known reward adapters: reward"),
        ({"reward": {"batches": ["a"]}, "gold": {"batches": ["b"]}, "ppo": {"rewards": {"adapter:gold": 1}}},
         "run.yaml: ppo.rewards: 'adapter:gold' must stay unseen by training; it is the evaluation's judge"),
        ({"reward": {"batches": ["a", "b"]}, "gold": {"batches": ["b"]}},
         "run.yaml: gold.batches and reward.batches share b; gold must have labels of its own"),
        ({"gold": {}},
         "run.yaml: with a gold section, name both reward.batches and gold.batches, so that they stay apart"),
        ({"ppo": {"max_new_tokens": 64}, "model": {"max_length": 64}},
         "run.yaml: ppo.max_new_tokens (64) must be smaller than model.max_length (64): a prompt needs room too"),
    ],
)  # fmt: skip
def test_parts_must_fit_together(raw: dict[str, Any], message: str) -> None:
    assert fault(raw) == message


def test_yaml_numbers_without_a_point_are_numbers() -> None:
    """YAML 1.1 reads 1e-4 as text; people write it all the same."""
    assert parse(yaml.safe_load("sft: {learning_rate: 1e-4}"), "x").sft.learning_rate == 0.0001


def test_a_config_does_not_change_after_loading() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config().seed = 2  # type: ignore[misc]


# --- overrides ---------------------------------------------------------------------------------------------------


def test_overrides_reach_into_sections_that_the_file_leaves_out(written: Callable[[str], Path]) -> None:
    config = load(
        written("seed: 1\nmodel: {max_length: 256}\n"),
        [
            "seed=7",
            "model.lora.rank=4",
            "ppo.kl.coef=0.1",
            "ppo.target_kl=null",
            "reward.batches=[a, b]",
            "run_dir=x=y",
        ],
    )
    assert (config.seed, config.model.lora.rank, config.model.max_length) == (7, 4, 256)
    assert (config.ppo.kl.coef, config.ppo.target_kl, config.run_dir) == (0.1, None, "x=y")
    assert config.reward.batches == ["a", "b"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "override 'seed': expected key=value, for example ppo.updates=10"),
        ("=3", "override '=3': expected key=value, for example ppo.updates=10"),
        ("seed.x=3", "override 'seed.x=3': 'seed' is a value, not a section"),
        ("run_dir=[a", "override 'run_dir=[a': not valid YAML: expected ',' or ']', but got '<stream end>'"),
        ("seed=2020-13-45", "override 'seed=2020-13-45': not valid YAML: '2020-13-45' is no valid timestamp; "
         "write it another way, or in quotes"),
        ("sft={epochs: 1, epochs: 2}", "override 'sft={epochs: 1, epochs: 2}': not valid YAML: key 'epochs' is there "
         "twice (first in line 1); remove one"),
        ("seed=" + "[" * 3000, f"override 'seed={'[' * 32}...{'[' * 38}': not valid YAML: it is nested too deeply"),
    ],
)  # fmt: skip
def test_faulty_overrides(override: str, message: str, written: Callable[[str], Path]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(written("seed: 1\n"), [override])
    assert str(caught.value) == message


def test_an_override_is_checked_as_the_file_is(written: Callable[[str], Path]) -> None:
    path = written("seed: 1\n")
    with pytest.raises(ConfigError) as caught:
        load(path, ["ppo.update=3"])
    assert str(caught.value) == "override 'ppo.update=3': unknown key 'ppo.update'; did you mean 'updates'?"
    with pytest.raises(ConfigError) as caught:
        load(written("seed: x\n"), ["ppo.updates=3"])  # what the file says is the file's
    assert str(caught.value).startswith(f"{path}: seed: found 'x'")


# --- there and back ----------------------------------------------------------------------------------------------

EVERYTHING = {
    "run_dir": "läufe/1",
    "model": {"name": "yes", "lora": {"target_modules": ["q_proj"]}},
    "data": {"demonstrations": "#1: é.jsonl"},
    "reward": {"batches": ["on", "1"]},
    "gold": {"batches": ["b"], "epochs": 2},
    "ppo": {"rewards": {"adapter:reward": 0.5, "my.judges:short": -1e-7}, "target_kl": 0.02},
}


@pytest.mark.parametrize("raw", [{}, EVERYTHING])
@pytest.mark.parametrize("write", [dump, annotated])
def test_what_is_written_loads_back_equal(
    raw: dict[str, Any], write: Callable[[Config], str], written: Callable[[str], Path]
) -> None:
    config = parse(raw, "x")
    assert load(written(write(config))) == config


def test_annotated_keys_have_range_default_and_meaning() -> None:
    lines = annotated(parse({"ppo": {"lam": 0.9}}, "x")).splitlines()
    (lam,) = [line for line in lines if line.strip().startswith("lam:")]
    assert " ".join(lam.split()) == (
        "lam: 0.9 # number >= 0 and <= 1; default 0.95; GAE's lambda: 1 is unbiased, less is calmer"
    )


def test_every_key_says_what_it_is() -> None:
    schema = Config.model_json_schema()
    for section in [schema, *schema["$defs"].values()]:
        for key, part in section["properties"].items():
            assert part.get("description") or "$ref" in str(part), f"{section['title']}.{key} has no description"


def test_paths_follow_the_run_directory() -> None:
    assert Config(run_dir="runs/a").store_url == "runs/a/labels.db"
    assert parse({"store": {"url": "postgresql://db/labels"}}, "x").store_url == "postgresql://db/labels"


# --- what ships --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONFIGS)))
def test_every_shipped_config_loads(path: Path) -> None:
    config = load(path)
    assert config.run_dir != Config().run_dir, "a shipped config names a run directory of its own"


def test_the_tests_own_config_is_valid(tiny_config: Callable[..., dict[str, Any]]) -> None:
    config = parse(tiny_config({"ppo.kl.coef": 0.1, "model": {"quantization": "nf4"}}, seed=3), "tiny")
    assert (config.seed, config.ppo.kl.coef, config.model.quantization, config.model.lora.rank) == (3, 0.1, "nf4", 4)
