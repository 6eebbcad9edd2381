"""`report.html`: one file that asks nothing of the network, for a screen in light or dark and for paper.

Prompts and completions are other people's text, or a model's: the template escapes everything but the SVG made here,
and the page's own policy forbids scripts and every outside resource, should an escape ever be missed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from rlhf import __version__
from rlhf.report import figures, theme, words
from rlhf.report.checks import checks
from rlhf.report.record import REWARD_STAGES, RunRecord, Sample, finite, mapping, number, read_run
from rlhf.report.words import MISSING, Judge, count, duration, memory, percent, plain, signed

TEMPLATES = Path(__file__).parent / "templates"
SHOWN_SAMPLES = 20
STAGES = {
    "sft": ("Supervised fine-tuning", "rlhf sft"),
    "reward": ("The reward model", "rlhf reward"),
    "ppo": ("PPO", "rlhf ppo"),
    "eval": ("The evaluation", "rlhf evaluate"),
    "export": ("The export", "rlhf export"),
}


def write_report(run_dir: Path) -> Path:
    """Write `report.html` into the run directory, whole or not at all, and give its path."""
    run = read_run(Path(run_dir))
    target = run.path / "report.html"
    staged = run.path / f".report-{os.getpid()}.html"
    try:
        staged.write_text(render(run), encoding="utf-8")
        staged.replace(target)
    finally:
        staged.unlink(missing_ok=True)
    return target


def render(run: RunRecord) -> str:
    """The page as text."""
    env = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    sentence, verdict = words.headline(run)
    compared = words.judges(run)
    return env.get_template("report.html").render(
        css=Markup(_css()),
        title=run.path.resolve().name,
        toolkit=__version__,
        headline=sentence,
        verdict=verdict,
        whose=next((j.whose for j in compared if j.win_rate is not None), ""),
        subtitle=_subtitle(run),
        missing=[said for stage, said in STAGES.items() if not run.ran(stage)],
        faults=run.faults,
        cards=cards(run, compared),
        checks=checks(run, compared),
        facts=facts(run),
        notes=words.notes(run),
        notices=words.notices(run),
        judges=[_judge_row(j) for j in compared],
        charts=charts(run, compared),
        samples=samples(run),
        sample_note=_sample_note(run),
        times=times(run),
        time_note=_time_note(run),
        provenance=provenance(run),
        hashes=hashes(run),
        config_text=run.config_text,
    )


# --- the parts ---------------------------------------------------------------------------------------------------


def cards(run: RunRecord, compared: Sequence[Judge]) -> list[dict[str, str]]:
    """Key numbers; each says what it is over."""
    found = run.section("eval")
    n = number(found, "prompts")
    over = f"over {count(n)} held-out prompts" if n else "over held-out prompts"
    result = [
        _card(
            f"Win-rate over SFT: {j.name}",
            percent(j.win_rate),
            f"95% interval {words.interval(j)}",
            f"{j.short}; {over}",
        )
        for j in compared
        if j.win_rate is not None
    ]
    if (kl := number(found, "kl")) is not None:
        result.append(_card("KL from SFT", f"{plain(kl)} nats", "mean a response, temperature 1", over))
    for label, key, form in (
        ("Length", "length", plain),
        ("Distinct bigrams", "distinct2", plain),
        ("Cut off (no EOS)", "truncation", percent),
    ):
        before, after = number(found, f"{key}_sft"), number(found, f"{key}_policy")
        if before is not None and after is not None:
            unit = "SFT → policy, mean tokens" if key == "length" else "SFT → policy"
            result.append(_card(label, f"{form(before)} → {form(after)}", unit, over))
    for stage in REWARD_STAGES:
        part = run.section(stage)
        if (accuracy := number(part, "accuracy")) is not None:
            agreed = number(part, "human_agreement")
            beside = f"two ratings agree on {percent(agreed)} of {count(number(part, 'agreement_pairs'))}"
            name = "Reward model" if stage == "reward" else "Gold reward model"
            pairs = f"of {count(number(part, 'pairs'))} held-out pairs"
            result.append(_card(f"{name}: accuracy", percent(accuracy), pairs, beside if agreed is not None else ""))
    total, peak = number(run.section("seconds"), "total"), number(run.summary, "peak_rss_mib")
    if total is not None:
        result.append(_card("Time", duration(total), "all stages of this run", ""))
    if peak is not None:
        result.append(_card("Peak memory", memory(peak), "resident, export's second process included", ""))
    return result


def facts(run: RunRecord) -> list[tuple[str, str]]:
    """What was measured, on whom: counts of labels, labelers and texts."""
    result = []
    if (n := number(run.section("sft"), "examples")) is not None:
        result.append(("Demonstrations", f"{count(n)} for supervised fine-tuning"))
    for stage, name in (("reward", "Reward model"), ("gold", "Gold reward model")):
        part = run.section(stage)
        rankings, skipped = number(part, "rankings"), number(part, "skipped_rankings")
        if rankings is not None:
            left = f"; {count(skipped)} more left out, as all their ranks were tied or unknown" if skipped else ""
            result.append((f"{name}: rankings", f"trained on {count(rankings)}{left}"))
        if (accuracy := number(part, "accuracy")) is not None:
            pairs = count(number(part, "pairs"))
            result.append((f"{name}: accuracy", f"{percent(accuracy)} of {pairs} held-out pairs ordered as labelled"))
        if (agreed := number(part, "human_agreement")) is not None:
            both = count(number(part, "agreement_pairs"))
            result.append(
                (f"{name}: agreement", f"two held-out ratings agree on {percent(agreed)} of {both} untied pairs")
            )
    labelers = run.noted("labelers")
    if labelers:
        said = [
            f"{len(v)} ({', '.join(map(str, v[:3]))}{', …' if len(v) > 3 else ''})" if isinstance(v, list) else v
            for v in labelers
        ]
        result.append(("Labelers", "; ".join(map(str, said))))
    if wanted := words.quality(run):
        result.append(("What the labels say", f"which text is {wanted}"))
    if (n := number(run.section("eval"), "prompts")) is not None:
        result.append(("Held-out prompts", f"{count(n)}, each answered once by SFT and once by the policy"))
    return result


def charts(run: RunRecord, compared: Sequence[Judge]) -> dict[str, list[Markup]]:
    """The page's charts as SVG, by section."""
    groups = {
        "wins": [figures.win_rates(compared)],
        "curves": [c for stage in ("sft", *REWARD_STAGES) for c in figures.stage_charts(run, stage)],
        "ppo": figures.ppo_charts(run),
        "path": [figures.reward_against_kl(run.curve("ppo"))],
        "distributions": figures.distribution_charts(run),
    }
    return {
        name: [Markup(figures.inline_svg(c, f"{name}{i}")) for i, c in enumerate(group) if c is not None]
        for name, group in groups.items()
    }


def samples(run: RunRecord) -> list[dict[str, Any]]:
    """The first samples, in the order of the file: none is picked for looking good."""
    return [_shown(sample) for sample in run.samples[: _most(run)]]


def times(run: RunRecord) -> list[dict[str, str]]:
    """Seconds of each stage, its share of the whole, and the highest memory its metrics saw."""
    seconds = {name: value for name, v in run.section("seconds").items() if (value := finite(v)) is not None}
    total = seconds.pop("total", None) or sum(seconds.values())
    rows = []
    for name, value in seconds.items():
        seen = [m for row in run.curve(name) if (m := number(row, "rss_mib")) is not None]
        width = f"{100 * value / total:.1f}" if total else "0"
        rows.append(
            {"name": name, "time": duration(value), "share": f"{width}%", "memory": memory(max(seen, default=None))}
        )
    if rows:
        peak = memory(number(run.summary, "peak_rss_mib"))
        rows.append({"name": "total", "time": duration(total), "share": "", "memory": peak})
    return rows


def provenance(run: RunRecord) -> list[tuple[str, str]]:
    """Where the run came from: commit, seed, versions, and the base before and after."""
    result = [
        (label, str(run.manifest[key]))
        for label, key in (("Commit", "git_commit"), ("Seed", "seed"))
        if run.manifest.get(key) is not None
    ]
    base, lora = run.setting("model", "name"), mapping(run.config, "model", "lora")
    if base:
        result.append(("Base model", f"{base}, {run.setting('model', 'quantization') or 'precision unknown'}"))
    if lora:
        result.append(
            ("Adapters", f"LoRA rank {lora.get('rank')}, alpha {lora.get('alpha')}, {lora.get('target_modules')}")
        )
    for when in ("before", "after"):
        if digest := run.summary.get(f"base_sha256_{when}"):
            result.append((f"Base weights {when} (sha256)", str(digest)))
    export = run.section("export")
    if path := export.get("path"):
        result.append(("Exported adapter", str(path)))
    drift = mapping(export, "bf16_drift")
    if (mean := number(drift, "mean_logprob")) is not None:
        said = (
            f"log-probabilities differ by {plain(mean)} nats on average, {plain(number(drift, 'max_logprob'))} at most"
        )
        result.append(("On a bf16 base instead", said))
    versions = mapping(run.manifest, "versions")
    if versions:
        result.append(("Versions", ", ".join(f"{name} {version}" for name, version in versions.items())))
    return result


def hashes(run: RunRecord) -> list[tuple[str, str, str]]:
    """Each stage's key and inputs, as the manifest has them."""
    result = []
    for stage, entry in mapping(run.manifest, "stages").items():
        result.append((stage, "key", str(mapping(entry).get("key", MISSING))))
        for kind in ("inputs", "parents"):
            for name, value in mapping(entry, kind).items():
                digest = mapping(value).get("sha256", value)
                said = ", ".join(f"{k} {v}" for k, v in digest.items()) if isinstance(digest, dict) else digest
                result.append((stage, name, str(said)))
    return result


# --- small things ------------------------------------------------------------------------------------------------


def _css() -> str:
    text = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    dark = f":root{{{theme.css_variables(dark=True)}}}\n{theme.dark_chart_css()}"
    return (
        f":root{{{theme.css_variables(dark=False)}}}\n{text}\n@media screen and (prefers-color-scheme:dark){{{dark}}}"
    )


def _card(label: str, value: str, line: str, over: str) -> dict[str, str]:
    return {"label": label, "value": value, "line": line, "over": over}


def _subtitle(run: RunRecord) -> str:
    found = run.section("eval")
    parts: Iterable[tuple[str, float | None, float | None]] = (
        ("mean length {} → {} tokens", number(found, "length_sft"), number(found, "length_policy")),
        ("distinct bigrams {} → {}", number(found, "distinct2_sft"), number(found, "distinct2_policy")),
    )
    said = [text.format(plain(a), plain(b)) for text, a, b in parts if a is not None and b is not None]
    if (kl := number(found, "kl")) is not None:
        said.insert(0, f"it moved {plain(kl)} nats from SFT")
    return f"What it cost: {'; '.join(said)}." if said else ""


def _judge_row(judge: Judge) -> dict[str, str]:
    return {
        "name": judge.name, "source": judge.source, "whose": judge.whose, "sft": plain(judge.sft),
        "policy": plain(judge.policy), "win": percent(judge.win_rate), "interval": words.interval(judge),
        "n": count(judge.prompts),
    }  # fmt: skip


def _most(run: RunRecord) -> int:
    wanted = run.setting("evaluate", "shown_samples")
    return wanted if isinstance(wanted, int) and wanted > 0 else SHOWN_SAMPLES


def _sample_note(run: RunRecord) -> str:
    shown = min(_most(run), len(run.samples))
    what = "The only sample" if len(run.samples) == 1 else f"All {shown} samples"
    if shown < len(run.samples):
        what = f"The first {shown} of {len(run.samples):,} samples"
    return f"{what}, in the order in which they were written: none is picked. Scores are each judge’s own units."


def _shown(sample: Sample) -> dict[str, Any]:
    scores = []
    for judge, (sft, policy) in sample.scores.items():
        change = policy - sft if sft is not None and policy is not None else None
        direction = "" if not change else "up" if change > 0 else "down"
        scores.append(
            {
                "judge": judge,
                "sft": plain(sft),
                "policy": plain(policy),
                "change": signed(change),
                "direction": direction,
            }
        )
    lengths = [MISSING if n is None else f"{n:.0f}" for n in sample.lengths]
    return {"prompt": sample.prompt, "sft": sample.sft, "policy": sample.policy, "scores": scores, "lengths": lengths}


def _time_note(run: RunRecord) -> str:
    rows = run.curve("ppo")
    parts = [(name, sum(number(r, f"seconds_{name}") or 0.0 for r in rows)) for name in ("sample", "score", "update")]
    said = [
        f"{duration(value)} {verb}" for (_, value), verb in zip(parts, ("sampling", "scoring", "updating"), strict=True)
    ]
    speeds = [v for r in rows if (v := number(r, "tokens_per_second")) is not None]
    speed = (
        f" Sampling ran at {plain(sum(speeds) / len(speeds))} tokens a second (mean over updates)." if speeds else ""
    )
    return f"PPO spent {', '.join(said)}.{speed}" if any(value for _, value in parts) else speed.strip()
