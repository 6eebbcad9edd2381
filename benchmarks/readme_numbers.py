"""Put the numbers of finished runs into README.md.

    python benchmarks/readme_numbers.py

A section of the README that begins with `<!-- numbers: NAME -->` and ends with `<!-- /numbers: NAME -->` is written
anew from that run's summary; everything else stays as it is. `quickstart` comes from runs/quickstart/summary.json,
`film-reviews` from docs/film-reviews.summary.json. Date and machine come from the manifest beside the summary, so the
same run always gives the same text. Where a run is missing or unfinished, its section stays, and a line says so.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
NEEDED = ("reward", "ppo", "eval", "export")  # a summary without these is of an unfinished run
JUDGES = {
    "gold": "more positive, by the gold reward model (held-out ratings)",
    "vader": "more positive, by VADER (a rule-based lexicon)",
    "reward": "the reward model that PPO was trained on (no evidence)",
}
ORDER = ("gold", "vader", "reward")


@dataclass(frozen=True)
class Source:
    """Where one section's numbers come from."""

    name: str
    summary: Path
    manifest: Path
    how: str


def sources(root: Path) -> list[Source]:
    """The runs that the README quotes."""
    run, docs = root / "runs" / "quickstart", root / "docs"
    return [
        Source("quickstart", run / "summary.json", run / "manifest.json", "make quickstart"),
        Source(
            "film-reviews",
            docs / "film-reviews.summary.json",
            docs / "film-reviews.manifest.json",
            "rlhf run -c configs/film-reviews.yaml",
        ),
    ]


def fill(text: str, name: str, body: str) -> str:
    """`text` with the section's content replaced by `body`. ValueError where it is not there exactly once."""
    begin, end = f"<!-- numbers: {name} -->", f"<!-- /numbers: {name} -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(end) < text.index(begin):
        raise ValueError(f"expected {begin} and {end} once each, in this order")
    before, after = text[: text.index(begin) + len(begin)], text[text.index(end) :]
    return f"{before}\n{body.strip()}\n{after}"


def section(summary: Mapping[str, Any], manifest: Mapping[str, Any]) -> str:
    """The Markdown of one run: what was compared, and what it took."""
    evaluation, reward, ppo = summary["eval"], summary["reward"], summary["ppo"]
    judges = sorted(evaluation["judges"], key=lambda name: (ORDER.index(name) if name in ORDER else -1, name))
    rows = ["| held-out prompts | SFT | policy | policy over SFT |", "| --- | ---: | ---: | --- |"]
    for name in judges:
        low, high = evaluation[f"{name}_win_rate"]["ci95"]
        win = f"wins {evaluation[f'{name}_win_rate']['value']:.2f} [{low:.2f}, {high:.2f}]"
        sft, policy = (f"{evaluation[f'{name}_{who}']:.2f}" for who in ("sft", "policy"))
        rows.append(f"| {JUDGES.get(name, f'`{name}`')} | {sft} | {policy} | {win} |")
    for title, key, places in (
        ("length, tokens", "length", 1),
        ("distinct-2", "distinct2", 2),
        ("cut off before EOS", "truncation", 2),
    ):
        sft, policy = (f"{evaluation[f'{key}_{who}']:.{places}f}" for who in ("sft", "policy"))
        rows.append(f"| {title} | {sft} | {policy} | |")
    facts = [
        f"{evaluation['prompts']} held-out prompts; win-rate with ties as ½ and its 95 % interval over prompts. "
        f"KL from SFT: {ppo['kl']:.1f} nats a response.",
        _reward_sentence(reward),
        _cost_sentence(summary),
        _provenance(manifest),
    ]
    return "\n".join([*rows, "", *(fact for fact in facts if fact)])


def _reward_sentence(reward: Mapping[str, Any]) -> str:
    if reward.get("accuracy") is None:
        return ""
    text = f"The reward model orders {reward['accuracy']:.3f} of {reward['pairs']} held-out pairs as people rated them"
    if reward.get("human_agreement") is not None:
        text += f"; two ratings of the same pairs agree on {reward['human_agreement']:.3f}"
    return text + "."


def _cost_sentence(summary: Mapping[str, Any]) -> str:
    minutes, peak = summary["seconds"]["total"] / 60, summary["peak_rss_mib"] / 1024
    text = f"It took {minutes:.1f} minutes and at most {peak:.1f} GiB."
    difference = summary["export"].get("max_logit_difference")
    if difference is not None:
        text += f" In plain PEFT, the exported adapter's logits differ by at most {difference:.1e}."
    return text


def _provenance(manifest: Mapping[str, Any]) -> str:
    """When and on what. The kernel's name and the commit are nobody's business here; system and cores are."""
    days = sorted(str(stage.get("started", ""))[:10] for stage in manifest.get("stages", {}).values())
    machine = manifest.get("machine", {})
    platform = str(machine.get("platform", ""))
    known = re.search(r"x86_64|AMD64|aarch64|arm64", platform)
    where = " ".join(part for part in (platform.split("-")[0], known.group() if known else "") if part)
    if not days or not days[-1] or not where:
        return "Date and machine were not recorded."
    return f"Measured on {days[-1]}, {where}, {machine.get('cpus', '?')} CPU cores; seed {manifest.get('seed', '?')}."


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    return found if isinstance(found, dict) else {}


def main(argv: list[str] | None = None) -> int:
    """Fill what can be filled; 0 unless a file is damaged or the README has lost a section."""
    parser = argparse.ArgumentParser(description="Put the numbers of finished runs into README.md.")
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository")
    root = parser.parse_args(argv).root
    readme = root / "README.md"
    text = before = readme.read_text(encoding="utf-8")
    for source in sources(root):
        try:
            summary = _read(source.summary)
            if missing := [key for key in NEEDED if key not in summary]:
                lacks = f"lacks {', '.join(missing)}" if summary else "does not exist"
                print(f"{source.name}: {source.summary.relative_to(root)} {lacks}; `{source.how}` makes it")
                continue
            text = fill(text, source.name, section(summary, _read(source.manifest)))
        except (ValueError, KeyError, TypeError) as error:
            print(f"{source.name}: {type(error).__name__}: {error}", file=sys.stderr)
            return 1
        print(f"{source.name}: README.md has the numbers of {source.summary.relative_to(root)}")
    if text != before:
        readme.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
