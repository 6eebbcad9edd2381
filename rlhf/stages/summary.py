"""`summary.json`: the numbers that a person asks for first, taken from the manifest of the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlhf.stages.manifest import Manifest, write_json

REWARD_KEYS = ("accuracy", "pairs", "human_agreement", "agreement_pairs", "rankings", "skipped_rankings", "labelers")
EVAL_KEYS = tuple(
    f"{name}_{who}" for name in ("length", "truncation", "distinct1", "distinct2") for who in ("sft", "policy")
)


def write_summary(run_path: Path, manifest: Manifest) -> dict[str, Any]:
    """Collect and write it; a stage that has not run, or not since what it is made from changed, is absent."""
    recorded = manifest.sound()
    stages = {name: entry["result"] for name, entry in recorded.items()}
    seconds = {"base": round(manifest.base_seconds, 2)}
    seconds |= {name: entry["seconds"] for name, entry in recorded.items()}
    summary: dict[str, Any] = {"seconds": {**seconds, "total": round(sum(seconds.values()), 1)}}
    summary["peak_rss_mib"] = round(max((r["peak_rss_mib"] for r in stages.values()), default=0.0), 1)
    if "sft" in stages:
        summary["sft"] = {k: stages["sft"][k] for k in ("loss", "eval_loss", "examples", "steps", "over_long")}
    for name in ("reward", "gold"):
        if name in stages:
            summary[name] = {k: stages[name][k] for k in REWARD_KEYS}
    if "ppo" in stages:
        result = stages["ppo"]
        summary["ppo"] = {k: result[k] for k in ("updates", "episodes", "prompts", "over_long")}
        summary["ppo"]["last_rollout_kl"] = result["last"].get("kl")
        summary["ppo"]["reference"] = result["reference"]
        summary["ppo"]["rewards"] = recorded["ppo"]["sections"]["ppo"]["rewards"]
    if "evaluate" in stages:
        _add_evaluation(summary, stages["evaluate"])
    for name in ("export", "sample", "active"):
        if name in stages:
            summary[name] = {k: v for k, v in stages[name].items() if not k.startswith(("base_", "peak_"))}
    hashes = [(r["base_sha256_before"], r["base_sha256_after"]) for r in stages.values()]
    if hashes:
        summary["base_sha256_before"], summary["base_sha256_after"] = hashes[0][0], hashes[-1][1]
    write_json(run_path / "summary.json", summary)
    return summary


def closing_lines(store_url: str, summary: dict[str, Any]) -> list[str]:
    """What a run says at its end: the numbers that matter, what they are over, and what to do next."""
    lines = [""]
    for name in ("reward", "gold"):
        if name in summary and summary[name]["accuracy"] is not None:
            model, people = summary[name], summary[name]["human_agreement"]
            beside = "" if people is None else f"; two ratings agree on {people:.1%} of {model['agreement_pairs']}"
            lines.append(
                f"{name} model: orders {model['accuracy']:.1%} of {model['pairs']} held-out pairs rightly{beside}"
            )
    if "eval" in summary:
        result = summary["eval"]
        for name, judge in result["judges"].items():
            low, high = judge["ci95"]
            seen = " (what PPO was paid by)" if judge["source"] in summary["ppo"]["rewards"] else ""
            lines.append(
                f"policy against SFT, by {name}{seen}: scores higher on {judge['win_rate']:.1%} of "
                f"{result['prompts']} held-out prompts [{low:.1%}, {high:.1%}]"
            )
        lines.append(
            f"moved {result['kl']:.1f} nats from SFT; mean length {result['length_sft']:.1f} to "
            f"{result['length_policy']:.1f} tokens; distinct-2 {result['distinct2_sft']:.2f} to "
            f"{result['distinct2_policy']:.2f}"
        )
    if "export" in summary:
        lines.append(f"aligned adapter: {summary['export']['path']}")
    if "sample" in summary and summary["sample"]["tasks"]:
        sample = summary["sample"]
        lines.append(
            f"{sample['tasks']} prompts with {sample['completions']} completions are in the label store; rank them: "
            f"rlhf label --store {store_url} --open"
        )
        if "contestants" in sample:
            lines.append(f"who wins: rlhf arena show --store {store_url}")
    if "active" in summary and summary["active"]["chosen"]:
        active = summary["active"]
        lines.append(
            f"{active['tasks']} tasks wait in a new order: the model chose among {active['chosen']}, chance places "
            f"{active['random_share']:.0%}. Two heads that the labels allow differ on "
            f"{active['disagreement_first']:.1%} of the pairs of its first {active['first']}, on "
            f"{active['disagreement']:.1%} of all that it chose among"
        )
    return lines


def _add_evaluation(summary: dict[str, Any], result: dict[str, Any]) -> None:
    """Flat keys for every judge (`gold_sft`, `gold_win_rate`…) beside the table, and the KL under `ppo`."""
    evaluation: dict[str, Any] = {"prompts": result["prompts"], "kl": result["kl"], "judges": result["judges"]}
    for name, judge in result["judges"].items():
        evaluation[f"{name}_sft"], evaluation[f"{name}_policy"] = judge["sft"], judge["policy"]
        evaluation[f"{name}_win_rate"] = {"value": judge["win_rate"], "ci95": judge["ci95"]}
    evaluation |= {k: result[k] for k in EVAL_KEYS}
    summary["eval"] = evaluation
    # Measured on held-out prompts at temperature 1: the policy's distance, not the last rollout's.
    summary.setdefault("ppo", {})["kl"] = result["kl"]
    summary["ppo"]["kl_ci95"] = result["kl_ci95"]
    summary["ppo"]["truncation_rate"] = result["truncation_policy"]
