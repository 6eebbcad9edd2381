"""What a newcomer copies: the examples run, the README's commands and links exist, and its numbers come from runs."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

from rlhf import cli
from rlhf.config import Config, load
from rlhf.data.sources import load_demonstrations, load_prompts, load_rankings
from rlhf.preferences import LabelStore
from rlhf.stages import pipeline

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
OWN_DATA = ROOT / "examples" / "own_data"
OWN_CONFIG = OWN_DATA / "config.yaml"
PAGES = sorted([README, ROOT / "docs" / "labeling.md", *ROOT.glob("examples/**/*.md")])
SCRIPTS = sorted(ROOT.glob("examples/**/*.py"))
FIGURE = ROOT / "docs" / "quickstart.png"  # drawn from a finished quickstart
NUMBERS = ("quickstart", "film-reviews", "ppo-speed", "ppo-quality")


def script(path: str) -> ModuleType:
    """A script of the repository as a module; nothing of it runs."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tiny(tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Config]:
    """The example's own config with the tiny model in place of the real one and the fewest steps."""
    monkeypatch.chdir(ROOT)  # its paths are relative to the repository's root

    def make(*overrides: str) -> Config:
        small = (
            f"model.name={tiny_model_dir}", "model.quantization=fp32", "model.compute_dtype=fp32", "model.device=cpu",
            "model.max_length=256", "model.lora.rank=4", f"run_dir={tmp_path / 'run'}", "sft.max_steps=1",
            "reward.max_rankings=8", "ppo.updates=1", "ppo.rollout_batch_size=4", "ppo.mini_batch_size=4",
            "ppo.micro_batch_size=4", "ppo.normalize_samples=4", "ppo.ppo_epochs=1", "ppo.value_warmup_epochs=1",
            "ppo.max_new_tokens=8", "evaluate.bootstrap=100", "export.verify=false",
            f"export.base_model_name={tiny_model_dir}",
        )  # fmt: skip
        return load(OWN_CONFIG, [*small, *overrides])

    return make


# --- examples ----------------------------------------------------------------------------------------------------


def test_own_data_parses_and_holds_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config = load(OWN_CONFIG)
    assert config.data.demonstrations and config.data.prompts and config.reward.rankings
    demonstrations = load_demonstrations(config.data.demonstrations)
    prompts = [p.prompt for p in load_prompts(config.data.prompts)]
    rankings = load_rankings(config.reward.rankings)
    assert (len(demonstrations), len(prompts), len(rankings)) == (24, 40, 36)
    assert len(set(map(str, prompts))) == len(prompts)
    assert all(row.prompt in prompts for row in (*demonstrations, *rankings))
    assert {r.labeler for r in rankings} == {"maya", "tom"}
    assert any(len(set(r.ranks)) < len(r.ranks) for r in rankings), "a tie is shown"
    assert any(None in r.ranks for r in rankings), "a completion left unranked is shown"
    held_out = load_prompts(config.data.prompts, "eval", eval_fraction=config.data.eval_fraction)
    assert len(held_out) >= config.evaluate.prompts


def test_own_data_runs_and_what_it_exports_loads_without_the_toolkit(
    tiny: Callable[..., Config], tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny()
    summary = pipeline.run(config)
    assert set(summary) >= {"sft", "reward", "ppo", "eval", "export", "sample"}
    assert (config.run_path / "report.html").is_file()
    with LabelStore.open(config.store_url) as store:
        assert set(store.batches()) == {"desk-rankings", "desk-samples"}
    capsys.readouterr()

    loader, export = script("examples/load_exported.py"), str(config.run_path / "export" / "policy")
    ask = ["--prompt", "Review the film.", "--max-new-tokens", "8"]
    assert loader.main([export, *ask]) == 0  # the base that the adapter names
    named = capsys.readouterr().out
    assert named.startswith("prompt:     Review the film.\ncompletion: ")
    assert loader.main([export, *ask, "--base", str(tiny_model_dir)]) == 0
    assert capsys.readouterr().out == named
    assert loader.main([export, *ask, "--plain", "--temperature", "0"]) == 0


def test_load_exported_imports_nothing_of_the_toolkit() -> None:
    text = (ROOT / "examples" / "load_exported.py").read_text(encoding="utf-8")
    assert not re.search(r"^\s*(from|import) (rlhf|labeling_app)\b", text, re.M)


def test_load_exported_says_what_is_missing(tmp_path: Path) -> None:
    loader = script("examples/load_exported.py")
    with pytest.raises(SystemExit, match=r"holds no adapter_config\.json"):
        loader.main([str(tmp_path), "--prompt", "Hello"])
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "nobody/has-this"}')
    with pytest.raises(SystemExit, match=r"'nobody/has-this' cannot be loaded.*\n.*--base.*\n.*resolve_model"):
        loader.main([str(tmp_path), "--prompt", "Hello"])


def test_rankings_by_hand_reach_the_reward_stage(
    tiny: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    example = script("examples/rank_by_hand.py")
    folder = tmp_path / "run"

    def rank_everything(store_url: str, **_: Any) -> int:
        """In the page's place: whoever is signed in ranks every task, the longest text first."""
        with LabelStore.open(store_url) as store:
            ann = store.labeler("ann")
            while task := store.claim(ann):
                ranked = sorted(task.completions, key=lambda c: -len(c.text))
                store.submit(task, {c.id: i for i, c in enumerate(ranked, start=1)}, submit_id=str(task.id))
        return 0

    monkeypatch.setattr(example, "launch", rank_everything)
    for _ in range(2):  # a second run adds no task
        example.main(["--folder", str(folder)])
        first, *rows = capsys.readouterr().out.splitlines()
        assert first.startswith("3 rankings in ") and " 12 untied pairs; written to " in first
        assert [json.loads(row)["labeler"] for row in rows] == ["ann"] * 3
    assert len(load_rankings(str(folder / "rankings.jsonl"))) == 3

    docstring = example.__doc__ or ""
    (command,) = [line for line in commands_of(docstring) if line.startswith("rlhf ")]
    overrides = [word for word in shlex.split(command)[4:] if not word.startswith("run_dir=")]
    summary = pipeline.run(tiny(*overrides), stages=("reward",))
    assert summary["reward"]["rankings"] + summary["reward"]["skipped_rankings"] >= 1
    assert summary["reward"]["labelers"] == 1


# --- commands and links ------------------------------------------------------------------------------------------


def commands_of(text: str) -> Iterator[str]:
    """Lines that a reader would type: `rlhf …`, `make …` and `python …`, their comments left out."""
    for line in text.replace("\\\n", " ").splitlines():
        if re.match(r"\s*(rlhf|make|python) \S", line):
            yield " ".join(shlex.quote(word) for word in shlex.split(line, comments=True))


def written_commands() -> Iterator[Any]:
    for page in PAGES:
        blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
        for command in dict.fromkeys(c for block in blocks for c in commands_of(block)):
            yield pytest.param(command, id=f"{page.relative_to(ROOT)}: {command}")
    for path in SCRIPTS:
        docstring = path.read_text(encoding="utf-8").split('"""')[1]
        for command in commands_of(docstring.replace("\\\\\n", " ")):
            yield pytest.param(command, id=f"{path.relative_to(ROOT)}: {command}")


def parsed(words: list[str]) -> dict[str, Any]:
    """The command line as typer reads it; nothing runs. An unknown command or option raises."""
    command: Any = typer.main.get_command(cli.app)
    while hasattr(command, "commands"):
        assert words and words[0] in command.commands, f"no such command: {words[:1]}"
        command = command.commands[words.pop(0)]
    params: dict[str, Any] = command.make_context(command.name, words).params
    return params


@pytest.mark.parametrize("command", written_commands())
def test_a_written_command_exists(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    tool, *words = shlex.split(command)
    for word in words:
        if word.startswith(("configs/", "examples/", "benchmarks/")):
            assert (ROOT / word).is_file(), word
    if tool == "make":
        targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
        assert set(words) <= set(targets)
    elif tool == "rlhf":
        params = parsed(words)
        if params.get("config") is not None:
            load(params["config"], params.get("overrides") or [])
    elif words[0] != "-c":
        known = script(words[0])
        if hasattr(known, "arguments"):
            known.arguments(words[1:])


def test_commands_within_sentences_exist() -> None:
    text = README.read_text(encoding="utf-8")
    inline = re.findall(r"`rlhf ([a-z]+)", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    known: Any = typer.main.get_command(cli.app)
    assert inline and set(inline) <= set(known.commands)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_within_the_repository_resolve(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    for link in links:
        target = page.parent / link
        if not re.match(r"[a-z]+:", link) and target != FIGURE:
            assert target.exists(), link
    if page == README and not FIGURE.exists():
        pytest.skip(f"{FIGURE.relative_to(ROOT)} is not drawn yet; every other link resolves")


def test_the_readme_is_short_and_has_its_sections_for_numbers() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 190
    for name in NUMBERS:
        assert text.count(f"<!-- numbers: {name} -->") == text.count(f"<!-- /numbers: {name} -->") == 1


# --- numbers -----------------------------------------------------------------------------------------------------

SUMMARY = {
    "seconds": {"sft": 60.0, "ppo": 240.0, "total": 330.0},
    "peak_rss_mib": 3072.0,
    "reward": {"accuracy": 0.8125, "pairs": 2100, "human_agreement": 0.875},
    "ppo": {"kl": 7.25},
    "eval": {
        "prompts": 300,
        "judges": {"reward": {}, "vader": {}, "gold": {}},
        "reward_sft": 0.0, "reward_policy": 2.0, "reward_win_rate": {"value": 0.9375, "ci95": [0.9, 0.96]},
        "gold_sft": 0.125, "gold_policy": 1.5, "gold_win_rate": {"value": 0.84, "ci95": [0.8, 0.88]},
        "vader_sft": 0.1, "vader_policy": 0.4, "vader_win_rate": {"value": 0.7, "ci95": [0.65, 0.75]},
        "length_sft": 20.0, "length_policy": 19.0, "distinct2_sft": 0.9, "distinct2_policy": 0.8,
        "truncation_sft": 0.02, "truncation_policy": 0.01,
    },
    "export": {"max_logit_difference": 0.00002},
}  # fmt: skip
MANIFEST = {
    "seed": 1,
    "machine": {"platform": "Linux-6.1.0-somewhere-x86_64-with-glibc2.36", "cpus": 2},
    "stages": {"sft": {"started": "2026-01-02T03:04:05+00:00"}, "ppo": {"started": "2026-01-03T00:00:00+00:00"}},
}
EXPECTED = """<!-- numbers: quickstart -->
| held-out prompts | SFT | policy | policy over SFT |
| --- | ---: | ---: | --- |
| more positive, by the gold reward model (held-out ratings) | 0.12 | 1.50 | wins 0.84 [0.80, 0.88] |
| more positive, by VADER (a rule-based lexicon) | 0.10 | 0.40 | wins 0.70 [0.65, 0.75] |
| the reward model that PPO was trained on (no evidence) | 0.00 | 2.00 | wins 0.94 [0.90, 0.96] |
| length, tokens | 20.0 | 19.0 | |
| distinct-2 | 0.90 | 0.80 | |
| cut off before EOS | 0.02 | 0.01 | |

300 held-out prompts; win-rate with ties as ½ and its 95 % interval over prompts. KL from SFT: 7.2 nats a response.
The reward model orders 0.812 of 2100 held-out pairs as people rated them; two ratings of the same pairs agree on 0.875.
It took 5.5 minutes and at most 3.0 GiB. In plain PEFT, the exported adapter's logits differ by at most 2.0e-05.
Measured on 2026-01-03, Linux x86_64, 2 CPU cores; seed 1.
<!-- /numbers: quickstart -->"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with nothing but a README."""
    text = "# Title\n\n" + "".join(
        f"Before.\n<!-- numbers: {n} -->\nold {n}\n<!-- /numbers: {n} -->\n" for n in NUMBERS
    )
    (tmp_path / "README.md").write_text(text + "After.\n", encoding="utf-8")
    (tmp_path / "runs" / "quickstart").mkdir(parents=True)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "ppo.md").write_text(text, encoding="utf-8")
    section = "<!-- numbers: active-learning -->\nold\n<!-- /numbers: active-learning -->\n"
    (tmp_path / "docs" / "labeling.md").write_text(section, encoding="utf-8")
    return tmp_path


def test_numbers_of_a_run_reach_their_section_and_nothing_else(checkout: Path) -> None:
    numbers, run = script("benchmarks/readme_numbers.py"), checkout / "runs" / "quickstart"
    (run / "summary.json").write_text(json.dumps(SUMMARY), encoding="utf-8")
    (run / "manifest.json").write_text(json.dumps(MANIFEST), encoding="utf-8")
    before = (checkout / "README.md").read_text(encoding="utf-8")
    assert numbers.main(["--root", str(checkout)]) == 0
    once = (checkout / "README.md").read_text(encoding="utf-8")
    old = "<!-- numbers: quickstart -->\nold quickstart\n<!-- /numbers: quickstart -->"
    assert once == before.replace(old, EXPECTED)
    assert numbers.main(["--root", str(checkout)]) == 0
    assert (checkout / "README.md").read_text(encoding="utf-8") == once


def test_numbers_without_a_manifest_say_so(checkout: Path) -> None:
    numbers = script("benchmarks/readme_numbers.py")
    (checkout / "docs" / "film-reviews.summary.json").write_text(json.dumps(SUMMARY), encoding="utf-8")
    assert numbers.main(["--root", str(checkout)]) == 0
    text = (checkout / "README.md").read_text(encoding="utf-8")
    assert "old quickstart" in text and "old film-reviews" not in text
    assert "Date and machine were not recorded." in text


@pytest.mark.parametrize("summary", [None, {"seconds": {"total": 1.0}, "reward": {}, "ppo": {}}])
def test_numbers_of_a_missing_or_unfinished_run_are_one_line(
    checkout: Path, capsys: pytest.CaptureFixture[str], summary: dict[str, Any] | None
) -> None:
    numbers, before = script("benchmarks/readme_numbers.py"), (checkout / "README.md").read_text(encoding="utf-8")
    if summary is not None:
        (checkout / "runs" / "quickstart" / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    assert numbers.main(["--root", str(checkout)]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    said = "does not exist" if summary is None else "lacks eval, export"
    assert first == f"quickstart: runs/quickstart/summary.json {said}; `make quickstart` makes it"
    assert (checkout / "README.md").read_text(encoding="utf-8") == before


SPEED = {
    "medians": {
        "trl": {"cpu": 15.0, "mib": 1900.0}, "trl, micro-batches of 8": {"cpu": 16.0, "mib": 800.0},
        "trl, variable lengths": {"cpu": 14.0}, "exact": {"cpu": 5.0, "mib": 475.0}, "adapter": {"cpu": 8.0},
        "cached": {"cpu": 3.0}, "exact, variable lengths": {"cpu": 4.0},
    },
    "peak_mib_fixed_lengths": {"4": 480.0, "32": 481.0}, "peak_mib_variable_lengths": {"4": 500.0, "64": 600.0},
    "memory_ratio": 0.25, "token_time_ratio_128_8": 0.75, "rounds": 3, "threads": 2,
    "micro": 16, "date": "2026-01-04", "machine": "A CPU, 2 cores",
}  # fmt: skip
QUALITY = {
    "edges": [0.0, 1.0, 2.0], "seeds": 5, "episodes": 640, "gold_of_sft": 2.5, "bins_below_trl": 0, "bins_compared": 1,
    "cpu_ratio": 0.4, "date": "2026-01-05", "machine": "A CPU, 2 cores",
    "sides": {
        "trl": {
            "cpu_s": 1000.0, "improved": 4, "gains": [0.5, -0.5],
            "bins": [{"low": 1.0, "mean": 3.0, "ci95": [2.5, 3.5], "seeds": 5}],
        },
        "rlhf": {
            "cpu_s": 400.0, "improved": 5, "gains": [1.0, 2.0],
            "bins": [
                {"low": 1.0, "mean": 3.5, "ci95": [3.0, 4.0], "seeds": 5},
                {"low": 2.0, "mean": 4.0, "ci95": [4.0, 4.0], "seeds": 1},
            ],
        },
    },
}  # fmt: skip


ACTIVE = {
    "seeds": 5, "evaluation_pairs": 3000, "date": "2026-01-06",
    "kinds": {
        "pairs": {"label_ratios": {"active": {"128": {"value": 0.5, "ci95": [0.25, 0.75]}}}},
        "fours": {"label_ratios": {"active": {"64": {"value": 0.875, "ci95": [0.625, None]}}}},
    },
}  # fmt: skip


def test_what_the_benchmarks_found_reaches_its_sections(checkout: Path) -> None:
    numbers = script("benchmarks/readme_numbers.py")
    for name, found in (("ppo-vs-trl", SPEED), ("ppo-quality", QUALITY), ("active-learning", ACTIVE)):
        (checkout / "docs" / f"{name}.json").write_text(json.dumps(found), encoding="utf-8")
    assert numbers.main(["--root", str(checkout)]) == 0
    short, text = ((checkout / page).read_text(encoding="utf-8") for page in ("README.md", "docs/ppo.md"))
    assert (
        "takes 3.0 times less CPU time than TRL's" in short
        and "(3.5 times on" in short
        and "(TRL: 32); 2026-01-04" in short
    )
    assert "rises in 5 of our seeds, lies below TRL's (95 % intervals) in 0 of the 1 bins" in short
    assert "| critic on the policy's trunk (`critic: head`) | 15.0 CPU s | 5.0 CPU s | 3.0× faster |" in text
    assert "| peak memory above the imports | 1900 MiB | 475 MiB | 0.25 of it |" in text
    assert "Medians of 3 rounds (one for ours alone and TRL in 8) on 2026-01-04, A CPU, 2 cores, 2 threads." in text
    assert "its peak after 4 updates is 480 MiB and 32 updates is 481 MiB" in text
    assert "| 1 to 2 | 3.00 [2.50, 3.50] (5 seeds) | 3.50 [3.00, 4.00] (5 seeds) |" in text
    assert "| 2 and more |  | 4.00 (1 seed) |" in text and "| 0 to 1 |" not in text
    assert "gold rose in 5 of our seeds, by 1.50 in the last two rounds, and in 4 of TRL's, by 0.00." in text
    assert "(TRL's means lie -0.50 to -0.50 from ours there)" in short
    labeling = (checkout / "docs" / "labeling.md").read_text(encoding="utf-8")
    assert "| 128 and 64 | 0.50 [0.25, 0.75] | 0.88 [0.62, not reached] |" in labeling and "over 5 seeds" in labeling
    assert "old quickstart" in short and "old ppo" not in short + text


def test_a_readme_that_lost_its_section_is_an_error_and_stays(checkout: Path) -> None:
    numbers = script("benchmarks/readme_numbers.py")
    (checkout / "runs" / "quickstart" / "summary.json").write_text(json.dumps(SUMMARY), encoding="utf-8")
    (checkout / "README.md").write_text("no sections", encoding="utf-8")
    assert numbers.main(["--root", str(checkout)]) == 1
    assert (checkout / "README.md").read_text(encoding="utf-8") == "no sections"
