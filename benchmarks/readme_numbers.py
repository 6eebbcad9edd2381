"""Put the numbers of finished runs into README.md, docs/ppo.md and docs/labeling.md.

    python benchmarks/readme_numbers.py

A section of a page that begins with `<!-- numbers: NAME -->` and ends with `<!-- /numbers: NAME -->` is written
anew from that run's summary; everything else stays as it is. `quickstart` comes from runs/quickstart/summary.json,
`film-reviews` from docs/film-reviews.summary.json. Date and machine come from the manifest beside the summary, so the
same run always gives the same text. The other sections come from the JSON files in docs/ that the benchmarks write.
Where a run is missing or unfinished, its section stays, and a line says so.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
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
DATABASES = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}
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


SPEED = {  # what is compared: TRL's case, ours
    "critic on the policy's trunk (`critic: head`)": ("trl", "exact"),
    "the same, prompts and responses of many lengths": ("trl, variable lengths", "exact, variable lengths"),
    "critic of its own (`critic: adapter`; TRL's learns in full)": ("trl", "adapter"),
    "adapters on the upper half of the layers (`model.lora.first_layer`)": ("trl", "cached"),
}


def speed_sentence(found: Mapping[str, Any]) -> str:
    """The README's line of docs/ppo-vs-trl.json."""
    medians = found["medians"]
    times = [medians[theirs]["cpu"] / medians[ours]["cpu"] for theirs, ours in SPEED.values()]
    return (
        f"An update takes {times[0]:.1f} times less CPU time than TRL's, which trains a second model as critic\n"
        f"({times[1]:.1f} times on prompts and responses of many lengths, {times[2]:.1f} with a critic of its own,\n"
        f"{times[3]:.1f} with adapters on the upper half), and {found['memory_ratio']:.2f} of its memory, in "
        f"micro-batches of {found['micro']}\n(TRL: 32); {found['date']}, {found['machine']}."
    )


def speed_section(found: Mapping[str, Any]) -> str:
    """The table of docs/ppo-vs-trl.json."""
    medians = found["medians"]
    rows = ["| one PPO update | TRL 1.12.0 | rlhf | |", "| --- | ---: | ---: | ---: |"]
    for title, (theirs, ours) in SPEED.items():
        took = [medians[case]["cpu"] for case in (theirs, ours)]
        rows.append(f"| {title} | {took[0]:.1f} CPU s | {took[1]:.1f} CPU s | {took[0] / took[1]:.1f}× faster |")
    peaks = [medians[case]["mib"] for case in ("trl", "exact")]
    less = f"{found['memory_ratio']:.2f} of it"
    rows.append(f"| peak memory above the imports | {peaks[0]:.0f} MiB | {peaks[1]:.0f} MiB | {less} |")
    small = medians["trl, micro-batches of 8"]
    facts = [
        "A Llama of 8 million weights in fp32, 32 prompts of 32 tokens, 48 new tokens, 4 epochs of one step. TRL runs",
        f"in micro-batches of 32 (of 8: {small['cpu']:.1f} CPU s, {small['mib']:.0f} MiB), ours of {found['micro']}.",
        f"Ours alone: a token in a batch of 128 takes {found['token_time_ratio_128_8']:.2f} of its time in one of 8,",
        f"and its peak after {_peaks(found['peak_mib_fixed_lengths'])}; with lengths that vary, after",
        f"{_peaks(found['peak_mib_variable_lengths'])}: oneDNN keeps its code for each number of rows that it meets.",
        f"Medians of {found['rounds']} rounds (one for ours alone and TRL in 8) on {found['date']}, "
        f"{found['machine']}, {found['threads']} threads.",
    ]
    return "\n".join([*rows, "", *facts])


def quality_sentence(found: Mapping[str, Any]) -> str:
    """The README's line of docs/ppo-quality.json."""
    ours = found["sides"]["rlhf"]
    theirs, mine = ({b["low"]: b for b in found["sides"][side]["bins"]} for side in ("trl", "rlhf"))
    both = [low for low in mine if low in theirs and min(mine[low]["seeds"], theirs[low]["seeds"]) > 1]
    gaps = [theirs[low]["mean"] - mine[low]["mean"] for low in both]
    return (
        f"Trained on the quickstart's task with {found['seeds']} seeds a side and {found['episodes']} episodes each,\n"
        f"the gold score rises in {ours['improved']} of our seeds, lies below TRL's (95 % intervals) in "
        f"{found['bins_below_trl']} of the {found['bins_compared']} bins\nof KL that both reach (TRL's means lie "
        f"{min(gaps):+.2f} to {max(gaps):+.2f} from ours there), and a run takes {found['cpu_ratio']:.2f} of TRL's "
        f"CPU time;\n{found['date']}, {found['machine']}."
    )


def quality_section(found: Mapping[str, Any]) -> str:
    """The table of docs/ppo-quality.json."""
    rows = ["| √KL from SFT | gold, TRL 1.12.0 | gold, rlhf |", "| --- | --- | --- |"]
    sides = [{b["low"]: b for b in found["sides"][side]["bins"]} for side in ("trl", "rlhf")]
    for low, high in zip(found["edges"], [*found["edges"][1:], None], strict=True):
        cells = [_bin(side.get(low)) for side in sides]
        if any(cells):
            rows.append(f"| {f'{low:g} to {high:g}' if high else f'{low:g} and more'} | {cells[0]} | {cells[1]} |")
    theirs, ours = (found["sides"][side] for side in ("trl", "rlhf"))
    facts = (
        f"{found['seeds']} seeds a side, {found['episodes']} episodes each; SFT's gold score is "
        f"{found['gold_of_sft']:.2f}. Means and 95 % intervals over seeds. Ours lies below TRL's in "
        f"{found['bins_below_trl']} of the {found['bins_compared']} bins that both reach with two seeds; gold rose in "
        f"{ours['improved']} of our seeds, by {_mean(ours['gains']):.2f} in the last two rounds, and in "
        f"{theirs['improved']} of TRL's, by {_mean(theirs['gains']):.2f}. A run takes {ours['cpu_s']:.0f} CPU s, "
        f"TRL's {theirs['cpu_s']:.0f}: {found['cpu_ratio']:.2f}. Measured on {found['date']}, {found['machine']}."
    )
    return "\n".join([*rows, "", facts])


def load_sentence(found: Mapping[str, Any]) -> str:
    """The README's line of docs/labeling-load.json."""
    queries = " and ".join(f"{ms:.1f} ms in {DATABASES[name]}" for name, ms in found["next_task_p95_ms"].items())
    return (
        f"With 100 people at one server, 20 s a task, the next task is there {found['p95_ms']['100x20']:.0f} ms after "
        f"a submit; finding it\namong {found['queue_tasks']:,} takes {queries} (95th percentiles; {found['date']}, "
        f"{found['machine']})."
    )


def active_section(found: Mapping[str, Any]) -> str:
    """The table of docs/active-learning.json."""
    named = {"pairs": "rankings of two", "fours": "rankings of four"}
    rows = ["| labels in random order | " + " | ".join(named.values()) + " |", "| --- | --- | --- |"]
    ratios = [list(found["kinds"][kind]["label_ratios"]["active"].items()) for kind in named]
    for pair in zip(*ratios, strict=True):
        at = " and ".join(dict.fromkeys(budget for budget, _ in pair))
        rows.append(f"| {at} | " + " | ".join(_ratio(of) for _, of in pair) + " |")
    fact = (
        f"Labels that active order needs for the accuracy that random order has with so many (of two, of four), as a "
        f"share of them, with 95 % intervals over {found['seeds']} seeds: real ratings of film reviews as labelers, "
        f"{found['evaluation_pairs']} held-out pairs, a linear head on frozen features, the random share included. "
        f"[docs/active-learning.json](active-learning.json) has the curves and the other orders; {found['date']}."
    )
    return "\n".join([*rows, "", textwrap.fill(fact, 118)])


def _ratio(of: Mapping[str, Any]) -> str:
    value, low, high = ("not reached" if v is None else f"{v:.2f}" for v in (of["value"], *of["ci95"]))
    return f"{value} [{low}, {high}]"


def _peaks(found: Mapping[str, float]) -> str:
    return " and ".join(f"{updates} updates is {mib:.0f} MiB" for updates, mib in found.items())


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)


def _bin(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    low, high = found["ci95"]
    width = f" [{low:.2f}, {high:.2f}]" if found["seeds"] > 1 else ""
    return f"{found['mean']:.2f}{width} ({found['seeds']} seed{'s' if found['seeds'] > 1 else ''})"


# The section's name and page, the benchmark whose JSON in docs/ it shows, and what writes it.
BENCHMARKS: list[tuple[str, str, str, Callable[[Mapping[str, Any]], str]]] = [
    ("ppo-speed", "README.md", "ppo-vs-trl", speed_sentence),
    ("ppo-quality", "README.md", "ppo-quality", quality_sentence),
    ("labeling-load", "README.md", "labeling-load", load_sentence),
    ("ppo-speed", "docs/ppo.md", "ppo-vs-trl", speed_section),
    ("ppo-quality", "docs/ppo.md", "ppo-quality", quality_section),
    ("active-learning", "docs/labeling.md", "active-learning", active_section),
]
PAGES = ("README.md", "docs/ppo.md", "docs/labeling.md")


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
    """Fill what can be filled; 0 unless a file is damaged or a page has lost a section."""
    parser = argparse.ArgumentParser(description="Put the numbers of finished runs into the pages that quote them.")
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository")
    root = parser.parse_args(argv).root
    pages = {name: (root / name).read_text(encoding="utf-8") for name in PAGES}
    before = dict(pages)
    name = page = ""
    try:
        for source in sources(root):
            name, page, summary = source.name, "README.md", _read(source.summary)
            if missing := [key for key in NEEDED if key not in summary]:
                lacks = f"lacks {', '.join(missing)}" if summary else "does not exist"
                print(f"{name}: {source.summary.relative_to(root)} {lacks}; `{source.how}` makes it")
                continue
            pages[page] = fill(pages[page], name, section(summary, _read(source.manifest)))
            print(f"{name}: {page} has the numbers of {source.summary.relative_to(root)}")
        for name, page, script, write in BENCHMARKS:
            if found := _read(root / "docs" / f"{script}.json"):
                pages[page] = fill(pages[page], name, write(found))
                print(f"{name}: {page} has the numbers of docs/{script}.json")
            else:
                how = f"python benchmarks/{script.replace('-', '_')}.py --json docs/{script}.json"
                print(f"{name}: docs/{script}.json does not exist; `{how}` makes it")
    except (ValueError, KeyError, TypeError) as error:
        print(f"{name}: {page}: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    for page, text in pages.items():
        if text != before[page]:
            (root / page).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
