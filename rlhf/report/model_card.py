"""The exported adapter's README.md, as a model hub reads it: what it is, whose labels, what it scored, its limits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from rlhf import __version__
from rlhf.data import smollm2
from rlhf.report import words
from rlhf.report.checks import checks
from rlhf.report.record import REWARD_STAGES, RunRecord, mapping, number, read_run
from rlhf.report.words import count, percent, plain

# A hub wants a hub's name; the builtin's weights come from a package that holds this model in 4 bits.
HUB_NAMES = {smollm2.NAME: "HuggingFaceTB/SmolLM2-135M-Instruct"}
MEASURES = (
    ("length in tokens", "length", plain),
    ("distinct unigrams", "distinct1", plain),
    ("distinct bigrams", "distinct2", plain),
    ("cut off before EOS", "truncation", percent),
)
VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


def model_card(run_dir: Path, base_model_name: str, bf16_drift: Mapping[str, float] | None = None) -> str:
    """The card as Markdown with YAML front matter; `bf16_drift` is what the export measured just now."""
    run = read_run(Path(run_dir))
    sentence, _ = words.headline(run)
    parts = [
        f"---\n{yaml.safe_dump(front_matter(base_model_name), sort_keys=False, allow_unicode=True)}---",
        "# Aligned LoRA adapter",
        _plain_markdown(sentence),
        _about(run, base_model_name),
        _data(run),
        _training(run),
        _evaluation(run),
        _loading(run, base_model_name, bf16_drift or {}),
        _limits(run),
        f"Written by rlhf-toolkit {__version__} from the run’s own records.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def front_matter(base_model_name: str) -> dict[str, Any]:
    """What the hub reads. A base that only this machine knows by its path is left out."""
    base = HUB_NAMES.get(base_model_name, base_model_name)
    meta: dict[str, Any] = {"library_name": "peft"}
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", base) and not Path(base).exists():
        meta |= {"base_model": base, "base_model_relation": "adapter"}
    return meta | {"pipeline_tag": "text-generation", "tags": ["lora", "rlhf", "ppo", "reward-model", "rlhf-toolkit"]}


def _about(run: RunRecord, base: str) -> str:
    lora = mapping(run.config, "model", "lora")
    shape = f", rank {lora['rank']}, alpha {lora.get('alpha')}" if "rank" in lora else ""
    held = run.setting("model", "quantization")
    lines = [
        f"A PEFT LoRA adapter{shape} for `{_code(base)}`{f', trained with its weights held in {held}' if held else ''}."
    ]
    if base in HUB_NAMES:
        package = f"{smollm2.PACKAGE.name}=={smollm2.PACKAGE.version}"
        lines.append(
            f"The weights that it was trained on are those of the package `{package}`, a 4-bit (Q4_1) copy of "
            f"`{HUB_NAMES[base]}`, which is under {smollm2.LICENCE}. On the original weights its outputs differ."
        )
    if digest := run.summary.get("base_sha256_after") or run.summary.get("base_sha256_before"):
        lines.append(f"Hash of the loaded base weights (sha256): `{_code(str(digest))}`.")
    if commit := run.manifest.get("git_commit"):
        lines.append(f"Commit `{_code(str(commit))}`, seed {run.manifest.get('seed', 'not recorded')}.")
    return "\n".join(lines)


def _data(run: RunRecord) -> str:
    sources = [f"- `{_code(source)}`" for source in run.sources()]
    wanted = words.quality(run)
    said = [f"The labels say which text is **{_plain_markdown(wanted)}**, and nothing else."] if wanted else []
    said += [_plain_markdown(text) for text in words.notes(run)]
    notices = [f"> {_plain_markdown(text)}" for text in words.notices(run)]
    parts = ["\n".join(sources), *said, *notices]
    return "\n\n".join(["## Data", *[p for p in parts if p]]) if sources or said or notices else ""


def _training(run: RunRecord) -> str:
    lines = []
    sft, ppo = run.section("sft"), run.section("ppo")
    if sft:
        n, loss = number(sft, "examples"), number(sft, "eval_loss")
        held_out = f"; held-out loss {plain(loss)} nats a token" if loss is not None else ""
        lines.append(f"1. Supervised fine-tuning on {count(n)} demonstrations{held_out}.")
    for stage in REWARD_STAGES:
        part = run.section(stage)
        if not part:
            continue
        name = "Reward model" if stage == "reward" else "A second (gold) reward model, for evaluation alone,"
        agreed = number(part, "human_agreement")
        line = f"1. {name} from {count(number(part, 'rankings'))} rankings"
        if number(part, "accuracy") is not None:
            share, pairs = percent(number(part, "accuracy")), count(number(part, "pairs"))
            line += f"; orders {share} of {pairs} held-out pairs as labelled"
        if agreed is not None:
            line += f" (two ratings agree on {percent(agreed)} of {count(number(part, 'agreement_pairs'))})"
        lines.append(line + ".")
    if ppo:
        line = f"1. PPO: {count(number(ppo, 'updates'))} updates, {count(number(ppo, 'episodes'))} episodes"
        if number(ppo, "kl") is not None:
            line += f"; at the end {plain(number(ppo, 'kl'))} nats a response from SFT"
        lines.append(line + ".")
    return "\n".join(["## How it was trained", "", *lines]) if lines else ""


def _evaluation(run: RunRecord) -> str:
    compared = words.judges(run)
    if not compared:
        return "## Evaluation\n\nThe evaluation has not run."
    found = run.section("eval")
    rows = [
        "| judge | whose judgement | SFT | policy | win-rate | 95% interval |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for j in compared:
        cells = (_plain_markdown(j.name), _plain_markdown(j.whose), plain(j.sft), plain(j.policy), percent(j.win_rate))
        rows.append(f"| {' | '.join(cells)} | {words.interval(j)} |")
    n = number(found, "prompts")
    text = (
        f"SFT and the policy each answered {count(n) if n else 'the'} held-out prompts once. Scores are means in each "
        "judge’s own units; a win is the higher score on a prompt, a tie one half; intervals are by bootstrap over "
        "prompts."
    )
    lines = []
    for name, key, form in MEASURES:
        before, after = number(found, f"{key}_sft"), number(found, f"{key}_policy")
        if before is not None and after is not None:
            lines.append(f"- {name}: SFT {form(before)}, policy {form(after)}")
    if (kl := number(found, "kl")) is not None:
        lines.append(f"- KL from SFT: {plain(kl)} nats a response")
    return "\n\n".join(p for p in ("## Evaluation", text, "\n".join(rows), "\n".join(lines)) if p)


def _loading(run: RunRecord, base: str, drift: Mapping[str, float]) -> str:
    quantized, dtype = _quantization(run)
    rank = mapping(run.config, "model", "lora").get("rank")
    served = next((r for r in VLLM_RANKS if isinstance(rank, int) and r >= rank), VLLM_RANKS[-1])
    where, first = f'"{_code(base)}"', ""
    shell = f'"{_code(base)}"'
    if run.setting("model", "name") == smollm2.NAME:
        where = '"base"'
        shell = "base"
        first = (
            "The base is a 4-bit copy of the hub's model, taken from a package; on the hub's own weights the adapter's "
            "outputs differ. The toolkit writes it once, as an ordinary folder; here a link named `base` points to it:"
            "\n\n"
            "```sh\nln -s \"$(python -c 'from rlhf.data.smollm2 import smollm2_path as p; print(p())')\" base\n```\n\n"
        )
    imports = "AutoModelForCausalLM, AutoTokenizer" + (", BitsAndBytesConfig" if quantized else "")
    config = f",\n    quantization_config={quantized}" if quantized else ""
    code = f"""import torch
from peft import PeftModel
from transformers import {imports}

base = AutoModelForCausalLM.from_pretrained(
    {where},
    dtype={dtype}{config},
)
model = PeftModel.from_pretrained(base, "path/to/this/folder").eval()
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")"""
    note = ""
    if (mean := number(drift, "mean_logprob")) is not None:
        note = (
            f" On a bf16 base a token's log-probability differs from that above by {plain(mean)} nats on average and "
            f"{plain(number(drift, 'max_logprob'))} at most."
        )
    if run.setting("model", "quantization") == "nf4":
        note += (
            " On CPUs with AVX512-BF16, plain bitsandbytes evaluates NF4 layers in bf16, whatever the compute dtype "
            "says: set `support_avx512bf16_for_cpu = False` on them for the logits that training saw."
        )
    serve = (
        f"vllm serve {shell} --enable-lora --max-lora-rank {served} \\\n  --lora-modules aligned=path/to/this/folder"
    )
    return (
        f"## How to load it\n\n{first}In plain transformers and PEFT, on the base as it was trained:\n\n"
        f"```python\n{code}\n```\n\n"
        f"In vLLM, on the unquantized base:\n\n```sh\n{serve}\n```\n\nDo not merge it into 4-bit weights.{note}"
    )


def _quantization(run: RunRecord) -> tuple[str, str]:
    """The `quantization_config` argument and the dtype that the run trained with."""
    held = run.setting("model", "quantization")
    dtype = "torch.float32" if "fp32" in (held, run.setting("model", "compute_dtype")) else "torch.bfloat16"
    if held == "nf4":
        arguments = f'load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype={dtype}'
        return f"BitsAndBytesConfig(\n        {arguments}\n    )", dtype
    if held == "int8":
        return "BitsAndBytesConfig(load_in_8bit=True)", dtype
    return "", "torch.bfloat16" if held == "bf16" else dtype


def _limits(run: RunRecord) -> str:
    failed = [
        f"- {_plain_markdown(c.name)}: {_plain_markdown(c.said)}" for c in checks(run, words.judges(run)) if not c.holds
    ]
    wanted = words.quality(run) or "preferred by the labelers"
    lines = [
        f"- It was trained to write text that is {_plain_markdown(wanted)}. That is not truth, safety or "
        "quality in general.",
        "- The judges above are models and rules; where they are the only evidence, people have not "
        "yet judged its texts.",
        "- The numbers hold for prompts like those of its data, sampled at temperature 1.",
        "- It inherits what its base model knows and gets wrong, and its labelers’ leanings.",
    ]
    return "\n".join(["## Limits", "", *lines, *failed])


def _code(text: str) -> str:
    """Text to stand between backticks or quotes: it cannot leave them."""
    return re.sub(r"[`\"\\\n$]", "", text)


def _plain_markdown(text: str) -> str:
    """Text that is no Markdown and no HTML, in one line."""
    flat = " ".join(text.split())
    escaped = flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]|!])", r"\\\1", escaped)
