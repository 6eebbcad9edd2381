"""The report, the figures and the model card, from a run directory made by hand."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlhf.data.film_reviews import NOTICE
from rlhf.errors import ArtifactError
from rlhf.report import figures, words
from rlhf.report.html import render, write_report
from rlhf.report.model_card import model_card
from rlhf.report.record import mask_credentials, read_run
from rlhf.report.theme import TONES

FILM = "builtin:film-reviews"
HOSTILE = '<script>alert("x")</script><img src="https://evil.example/beacon.png" onerror=alert(1)> & {{ 7*7 }}'


def judge(sft: float, policy: float, rate: float, ci95: list[float] | None, source: str) -> dict[str, Any]:
    return {"sft": sft, "policy": policy, "win_rate": rate, "ci95": ci95, "source": source}


def summary() -> dict[str, Any]:
    part = {"accuracy": 0.7853, "pairs": 2345, "human_agreement": 0.8611, "agreement_pairs": 1998}
    return {
        "seconds": {"base": 3.2, "sft": 61.4, "reward": 131.0, "ppo": 478.0, "total": 673.6},
        "peak_rss_mib": 3891.2,
        "sft": {"loss": 3.12, "eval_loss": 3.207, "examples": 640},
        "reward": part | {"rankings": 480, "skipped_rankings": 11},
        "gold": part | {"accuracy": 0.7791, "rankings": 481, "skipped_rankings": 0},
        "ppo": {"kl": 8.21, "updates": 4, "episodes": 256, "truncation_rate": 0.04},
        "eval": {
            "prompts": 200,
            "judges": {
                "reward": judge(-0.41, 1.93, 0.955, [0.92, 0.98], "adapter:reward"),
                "gold": judge(-0.301, 1.21, 0.912, [0.87, 0.941], "adapter:gold"),
                "vader": judge(0.112, 0.487, 0.85, [0.80, 0.895], "rlhf.data.film_reviews:vader_compound"),
            },
            "kl": 8.05, "length_sft": 25.3, "length_policy": 23.4, "distinct2_sft": 0.842, "distinct2_policy": 0.731,
            "truncation_sft": 0.035, "truncation_policy": 0.02,
        },
        "export": {"max_logit_difference": 3.1e-5, "path": "export",
                   "bf16_drift": {"max_logprob": 1.21, "mean_logprob": 0.113}},
        "base_sha256_before": "ab" * 32,
        "base_sha256_after": "ab" * 32,
    }  # fmt: skip


def metrics() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for step in range(1, 5):
        common = {"step": step, "total": 4, "time": "2026-01-01T00:00:00Z"}
        rows.append({"stage": "sft", **common, "loss": 4.0 / step, "eval_loss": 3.5 if step % 2 == 0 else None})
        rows.append({"stage": "reward", **common, "loss": 0.7 / step, "accuracy": 0.5 + 0.05 * step})
        ppo = {
            "score": step / 2,
            "kl": step - 1.0,
            "length": 25.0,
            "entropy": 2.5,
            "clip_fraction": 0.1,
            "eos_rate": 0.9,
        }
        rest = {"explained_variance": None, "rss_mib": 3000 + step, "seconds_sample": 2.0, "tokens_per_second": 180.0}
        rows.append({"stage": "ppo", **common, **ppo, **rest})
    return rows


def sample(prompt: str = "Begin with: A", sft: str = "A dull film.", policy: str = "A warm film.") -> dict[str, Any]:
    scores = {"gold": [-0.25, 1.5], "vader": [0.1, 0.6]}
    return {"prompt": prompt, "sft": sft, "policy": policy, "scores": scores, "lengths": [5, 6]}


def config() -> dict[str, Any]:
    return {
        "model": {"name": "builtin:smollm2-135m", "quantization": "nf4", "lora": {"rank": 16, "alpha": 32.0}},
        "data": {"demonstrations": FILM, "prompts": FILM},
        "store": {"url": "postgresql://ana:hunter2@db/labels"},
        "reward": {"rankings": FILM, "batches": ["film-train"]},
        "gold": {"rankings": f"{FILM}:gold", "batches": ["film-gold"]},
        "ppo": {"rewards": {"adapter:reward": 1.0}, "kl": {"target": 6.0, "controller": "adaptive"}},
        "export": {"tolerance": 0.001},
    }


def write(folder: Path, **files: Any) -> Path:
    """A run directory of these parts; a part given as None is not written."""
    inputs = {"rankings": {"source": FILM, "sha256": "ef" * 32, "labelers": 8}}
    manifest = {"versions": {"torch": "2.13.0"}, "git_commit": "c0ffee1", "seed": 7}
    manifest["stages"] = {"reward": {"key": "5f" * 32, "inputs": inputs, "parents": {"sft": "6f" * 32}}}
    made = {"summary": summary(), "metrics": metrics(), "samples": [sample(), sample()], "config": config()}
    made |= {"manifest": manifest} | files
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("summary", "manifest"):
        if made[name] is not None:
            (folder / f"{name}.json").write_text(json.dumps(made[name]))
    for name in ("metrics", "samples"):
        if made[name] is not None:
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made[name]))
    if made["config"] is not None:
        (folder / "config.yaml").write_text(yaml.safe_dump(made["config"]))
    return folder


def page(folder: Path, **files: Any) -> str:
    return render(read_run(write(folder, **files)))


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of the run as it is made by default."""
    return page(tmp_path_factory.mktemp("usual"))


class Tags(HTMLParser):
    """Every tag with its attributes, and the text between."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


# --- the report --------------------------------------------------------------------------------------------------


def test_report_is_written_whole_and_shows_its_numbers(tmp_path: Path) -> None:
    target = write_report(write(tmp_path / "run"))
    assert target == tmp_path / "run" / "report.html"
    assert [p.name for p in target.parent.glob("*.html")] == ["report.html"]
    text = "".join(Tags(target.read_text(encoding="utf-8")).texts)
    for shown in (
        "91.2%", "95% interval 87.0–94.1%", "8.05 nats", "25.3 → 23.4", "0.842 → 0.731", "3.5% → 2.0%", "78.5%",
        "of 2,345 held-out pairs", "two ratings agree on 86.1% of 1,998", "trained on 480; 11 more left out",
        "11 min 14 s", "3.80 GiB", "c0ffee1", "torch 2.13.0", "ab" * 32, "5f" * 32, "ef" * 32, "+1.75", "target 6",
        "more positive", "pseudo-labeler", "3.10e-05",
    ):  # fmt: skip
        assert shown in text, shown
    assert "better" not in text


def test_hostile_texts_are_shown_as_text(tmp_path: Path) -> None:
    made = summary()
    made["eval"]["judges"]["<img src=x>"] = judge(0.1, 0.2, 0.6, [0.5, 0.7], "m:f")
    row = sample(HOSTILE, HOSTILE, HOSTILE) | {"scores": {HOSTILE: [0.1, 0.2]}}
    html = page(tmp_path, samples=[row, row], summary=made, config=config() | {"run_dir": "</pre><script>"})
    parsed = Tags(html)
    assert {tag for tag, _ in parsed.tags}.isdisjoint({"script", "img", "iframe", "object", "link", "a", "image"})
    assert not [name for _, attributes in parsed.tags for name in attributes if name.startswith("on")]
    assert parsed.texts.count(HOSTILE) >= 6  # prompt, two texts, twice; not interpreted as a template either
    said = [attributes for _, attributes in parsed.tags if attributes.get("class") in ("prompt", "said")]
    assert len(said) == 6 and all(attributes["dir"] == "auto" for attributes in said)


def test_nothing_is_fetched_from_outside(usual: str) -> None:
    html = usual
    for tag, attributes in Tags(html).tags:
        for name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster"):
            assert not attributes.get(name), (tag, name)
    assert all(target.startswith("#") for target in re.findall(r"url\(\s*['\"]?([^'\")]*)", html))
    assert "@import" not in html and 'http-equiv="refresh"' not in html
    assert "default-src 'none'" in html
    assert not re.findall(r"https?://", html)


def test_ids_inside_charts_do_not_collide(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = '<svg xmlns="u" version="1.1"><linearGradient id="g0"/><path fill="url(#g0)" clip-path="url(#c1)"/></svg>'
    monkeypatch.setattr(figures, "to_svg", lambda chart: drawn)
    kept = '<svg><linearGradient id="ppo2-g0"/><path fill="url(#ppo2-g0)" clip-path="url(#ppo2-c1)"/></svg>'
    assert figures.inline_svg(None, "ppo2") == kept


@pytest.mark.parametrize(
    ("rate", "ci95", "opening"),
    [
        (0.912, [0.87, 0.941], "The policy won: “gold”"),
        (0.31, [0.25, 0.37], "The policy lost: “gold”"),
        (0.52, [0.45, 0.59], "No clear change: “gold”"),
        (0.95, None, "No clear change: “gold”"),
    ],
)
def test_headline_says_no_more_than_the_interval(
    tmp_path: Path, rate: float, ci95: list[float] | None, opening: str
) -> None:
    made = summary()
    made["eval"]["judges"]["gold"] |= {"win_rate": rate, "ci95": ci95}
    sentence, _ = words.headline(read_run(write(tmp_path, summary=made)))
    assert sentence.startswith(opening)
    assert f"{100 * rate:.1f}% of 200 held-out prompts" in sentence
    assert ("only" in sentence) == (rate == 0.31)


def test_own_reward_alone_is_no_win(tmp_path: Path) -> None:
    made = summary()
    made["eval"]["judges"] = {"reward": made["eval"]["judges"]["reward"]}
    run = read_run(write(tmp_path, summary=made))
    sentence, verdict = words.headline(run)
    assert sentence.startswith("Gained under its own reward, by no other judgement") and verdict == "unclear"
    assert "Only the reward that PPO was trained on has judged this run." in render(run)


def test_a_gap_between_judges_is_pointed_at(tmp_path: Path) -> None:
    made = summary()
    made["eval"]["judges"]["vader"]["win_rate"] = 0.60
    made["eval"] |= {"length_policy": 12.0}
    made["base_sha256_after"] = "cd" * 32
    html = page(tmp_path, summary=made)
    assert html.count('class="warn"') == 3
    assert "Apart by 36 points" in html and "−53%" in html and "The frozen weights changed." in html


def test_missing_stages_leave_gaps_with_a_line(tmp_path: Path) -> None:
    only = {"sft": summary()["sft"], "seconds": {"sft": 61.4}}
    rows = [row for row in metrics() if row["stage"] == "sft"]
    html = page(tmp_path, summary=only, metrics=rows, samples=None, manifest=None)
    for command in ("rlhf reward", "rlhf ppo", "rlhf evaluate", "rlhf export"):
        assert f"(<code>{command}</code>) has not run" in html
    assert "rlhf sft</code>" not in html
    assert "held-out loss 3.21 nats a token" in html
    assert "Side by side" not in html and "Reward against KL" not in html


@pytest.mark.parametrize("kept", ["summary", "metrics", "samples", "manifest", "config"])
def test_any_one_file_makes_a_report(tmp_path: Path, kept: str) -> None:
    files = {name: None for name in ("summary", "metrics", "samples", "manifest", "config") if name != kept}
    assert page(tmp_path, **files).rstrip().endswith("</html>")


def test_odd_values_do_no_harm(tmp_path: Path) -> None:
    rows = [*metrics(), {"stage": "ppo", "step": 5, "score": float("nan"), "kl": None, "length": "long"}, {"step": 1}]
    texts = sample("\ud800 \x00 \u202e", "", "فيلم جميل")
    folder = write(tmp_path, metrics=rows, samples=[texts, {"prompt": "no answers"}], summary={"eval": None, "ppo": []})
    (folder / "metrics.jsonl").open("a").write('{"stage": "pp')
    html = write_report(folder).read_text(encoding="utf-8")
    assert "metrics.jsonl: 1 line could not be read" in html
    assert "\ufffd \u2400 \u202e" in html and "فيلم جميل" in html


def test_no_run_and_damaged_runs_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is no run directory"):
        write_report(tmp_path)
    (tmp_path / "summary.json").write_text('{"eval": ')
    with pytest.raises(ArtifactError, match=r"summary\.json: is damaged"):
        write_report(tmp_path)
    assert not list(tmp_path.glob("*.html"))


def test_passwords_stay_out(usual: str) -> None:
    assert "ana:***@db" in usual and "hunter2" not in usual
    assert (
        mask_credentials("postgresql://ana:p:w@db/x?password=abc&y=1") == "postgresql://ana:***@db/x?password=***&y=1"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"password": "x y",', '"password": "***",'),
        ('{"password": "x", "user": "ana"}', '{"password": "***", "user": "ana"}'),
        ('{"token": "a\\"b", "n": 1}', '{"token": "***", "n": 1}'),
        (
            '{"config": "{\\"password\\": \\"x\\", \\"n\\": 1}"}',
            '{"config": "{\\"password\\": \\"***\\", \\"n\\": 1}"}',
        ),
        ('"dsn": "host=db password=x user=ana",', '"dsn": "host=db password=*** user=ana",'),
        ('"secrets": {\n  "a": "x"\n},\n"n": 1', '"secrets": {\n  ***\n},\n"n": 1'),
        ('{"credentials": {"a": {"b": "x"}}, "n": 1}', '{"credentials": ***'),
        ("hf_token: hf_x", "hf_token: ***"),
        ("apiKey: 'it''s x'", "apiKey: '***'"),
        ("hub: {hf_token: 'x', n: 1}", "hub: {hf_token: '***', n: 1}"),
        ("password: |\n  x\n  y\nseed: 1", "password: |\n  ***\n  ***\nseed: 1"),
        ("secrets:\n- x\n- y\nseed: 1", "secrets:\n***\n***\nseed: 1"),
        ("- password: x\n  user: ana", "- password: ***\n  user: ana"),
        ("# api_key: x", "# api_key: ***"),
        ("DB_PASSWORD=x&y 'z", "DB_PASSWORD=***"),
        ("export HF_TOKEN=hf_x", "export HF_TOKEN=***"),
        ("run --hf-token=x --seed=1", "run --hf-token=*** --seed=1"),
        ("url: postgresql://ana:x@y/z@db:5432/labels", "url: postgresql://ana:***@db:5432/labels"),
        ("postgresql://ana@server:x@db/labels", "postgresql://ana@server:***@db/labels"),
        ('{"url": "pg://ana:x\\"y@db/z", "n": 1}', '{"url": "pg://ana:***@db/z", "n": 1}'),
    ],
)
def test_credentials_are_masked(text: str, expected: str) -> None:
    assert mask_credentials(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "pad_token: <pad>", 'eos_token: "</s>"', "padToken: x", "max_new_tokens: 64", "tokenizer: x", "tokens: 5",
        "tokens_per_second: 3.5", "per_token: 1.5", "token_accuracy: 0.5", "add_bos_token: true", '"eos_token_id": 2,',
        "password: null", '"token": "",', "bypass_words: 3", "http://127.0.0.1:8000/x", "https://github.com/a/b@main",
        "http://host:80/x and ana@db.org", '{"a": "http://host:80", "b": "x@y"}', "git@github.com:a/b", "secretary",
        "source: builtin:sst2\n  seed: 1",
    ],
)  # fmt: skip
def test_what_is_no_credential_stays(text: str) -> None:
    assert mask_credentials(text) == text


@pytest.mark.parametrize(
    "piece", ["a", "://a:", '"\\', "password=", '"token":', 'password: \\"', " ", "- ", "password: '"]
)
def test_masking_takes_no_long_whatever_the_text(piece: str) -> None:
    start = time.process_time()
    mask_credentials(piece * (300_000 // len(piece)))
    assert time.process_time() - start < 3


def test_values_under_keys_of_credentials_are_masked_in_a_config_that_stays_readable(tmp_path: Path) -> None:
    secret = "hub:\n  hf_token: hf_x\n  pad_token: <pad>\nseed: 1\n"
    (tmp_path / "config.yaml").write_text(secret)
    record = read_run(tmp_path)
    assert record.config == {"hub": {"hf_token": "***", "pad_token": "<pad>"}, "seed": 1}
    assert record.config_text == secret.replace("hf_x", "***")


def test_a_resumed_stage_counts_its_steps_once(tmp_path: Path) -> None:
    rows = [{"stage": "ppo", "step": s, "score": v} for s, v in ((1, 1.0), (2, 2.0), (3, 3.0), (2, 20.0))]
    kept = read_run(write(tmp_path, metrics=rows)).curve("ppo")
    assert [(row["step"], row["score"]) for row in kept] == [(1, 1.0), (2, 20.0)]


def test_no_torch() -> None:
    code = "import sys, rlhf.report.html, rlhf.report.figures, rlhf.report.model_card; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- numbers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.0, "0"), (0.1234, "0.123"), (-1.005, "−1.00"), (25.34, "25.3"), (128.6, "129"), (1234.5, "1,234"),
     (3.1e-5, "3.10e-05")],
)  # fmt: skip
def test_plain(value: float | None, text: str) -> None:
    assert words.plain(value) == text


def test_other_words() -> None:
    assert [words.signed(v) for v in (0.5, -0.5, 0.0, None)] == ["+0.500", "−0.500", "±0", "–"]
    assert [words.duration(s) for s in (59.94, 61.4, 3725.0, None)] == ["59.9 s", "1 min 01 s", "1 h 02 min", "–"]
    assert words.memory(3072.0) == "3.00 GiB"


# --- figures -----------------------------------------------------------------------------------------------------


def test_every_figure_is_written_as_svg_and_png(tmp_path: Path) -> None:
    written = figures.write_figures(write(tmp_path / "run"), tmp_path / "figures")
    names = {"learning-curves", "ppo", "reward-against-kl", "win-rates", "distributions"}
    assert {p.name for p in written} == {f"{name}.{kind}" for name in names for kind in ("svg", "png")}
    assert all(p.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" for p in written if p.suffix == ".png")


def test_charts_without_rows_are_left_out() -> None:
    assert figures.loss_curve([], "SFT") is None
    assert figures.ppo_panel([{"step": 1, "score": None}]) == []
    assert figures.reward_against_kl([{"step": 1, "kl": 1.0, "score": 2.0}]) is None
    assert figures.win_rates([]) is None
    assert figures.length_distribution([]) is None


def test_long_curves_are_thinned_by_means() -> None:
    rows = [{"step": step, "loss": float(step)} for step in range(1, 1201)]
    points = figures._points(rows, "loss")
    assert len(points) == 400
    assert points[0] == {"x": 3.0, "y": 2.0} and points[-1] == {"x": 1200.0, "y": 1199.0}


def test_reward_against_kl_is_drawn_against_the_square_root() -> None:
    rows = [
        {"step": 1, "kl": 0.0, "score": 0.5},
        {"step": 2, "kl": 4.0, "score": 1.0},
        {"step": 3, "kl": 9.0, "score": 2.0},
    ]
    drawn = json.dumps(figures.reward_against_kl(rows).to_dict())
    for x, y in ((0.0, 0.5), (2.0, 1.0), (3.0, 2.0)):
        assert f'"x": {x}, "y": {y}' in drawn


def test_charts_use_only_colours_that_have_a_dark_partner(usual: str) -> None:
    drawn = "".join(re.findall(r"<figure>.*?</figure>", usual, flags=re.DOTALL))
    used = set(re.findall(r'(?:fill|stroke)="(#[0-9a-f]+|[a-z]+)"', drawn)) - {"none", "transparent"}
    assert used <= {tone.light for tone in TONES}


# --- the model card ----------------------------------------------------------------------------------------------


def test_model_card_has_what_a_hub_and_a_reader_need(tmp_path: Path) -> None:
    card = model_card(write(tmp_path), "HuggingFaceTB/SmolLM2-135M-Instruct")  # as the quickstart names it on export
    assert "on the hub's own weights" in card and 'from_pretrained(\n    "base",' in card and "vllm serve base" in card
    meta = yaml.safe_load(card.split("---\n")[1])
    assert meta["library_name"] == "peft" and meta["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert {"rlhf", "lora", "ppo"} <= set(meta["tags"])
    assert NOTICE in card and "more positive" in card and "better" not in card
    assert "| −0.301 | 1.21 | 91.2% | 87.0–94.1% |" in card
    assert 'bnb_4bit_quant_type="nf4"' in card and "PeftModel.from_pretrained" in card
    assert "vllm serve" in card and "--max-lora-rank 16" in card
    code = card.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")


def test_model_card_of_another_base_and_an_early_run(tmp_path: Path) -> None:
    settings = {"model": {"name": "org/model", "quantization": "bf16"}, "data": {"demonstrations": "mine.jsonl"}}
    files = {"summary": {"sft": summary()["sft"]}, "config": settings, "samples": None, "manifest": None}
    card = model_card(write(tmp_path, **files, metrics=[]), "org/model")
    assert yaml.safe_load(card.split("---\n")[1])["base_model"] == "org/model"
    assert "The evaluation has not run." in card and "Film-review" not in card and "BitsAndBytes" not in card
    assert "base_model:" not in model_card(tmp_path, str(tmp_path))


def test_model_card_escapes_what_it_did_not_write(tmp_path: Path) -> None:
    made = summary()
    made["eval"]["judges"] = {"a|b <img src=x> ![t](u)": judge(0.1, 0.2, 0.6, [0.5, 0.7], "m:f")}
    card = model_card(write(tmp_path, summary=made), "builtin:smollm2-135m")
    assert r"a\|b &lt;img src=x&gt; \!\[t\](u)" in card and "<img" not in card
