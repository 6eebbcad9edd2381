"""What PPO buys: gold reward against the distance from SFT, TRL 1.12.0 (the last with a PPO trainer) beside ours.

    make quickstart                                   # the base, the reward model and the gold model of the comparison
    python benchmarks/ppo_quality.py --jobs 2         # five seeds a side; about an hour on two cores

Both sides start from the quickstart's SFT model, are paid by its reward model (with the same mean taken off and divided
by the same deviation), sample the same prompts and see as many episodes: 10 updates of 32 responses, 2 epochs of 2
mini-batches, the same learning rate, clip ranges, discount, lambda, KL coefficient and price of a missing EOS. Ours is
configs/quickstart.yaml but for rounds and mini-batches of half the size: NF4, roles on one base, an adaptive KL
coefficient, reward at equal length. TRL gets
the same weights in bf16 with SFT merged in, LoRA of the same rank on its policy and (by PEFT's injection) on its value
model, which starts, as its examples do, as a copy of the reward model.

Every update's responses are scored afterwards by the gold model, which neither side saw, and placed at the square
root of their mean KL from their own reference (Gao 2022). Means and 95 % intervals (Student's t over seeds) by bins of
it; CPU seconds are of training alone, loading left out. Finished runs are kept in --out and not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import trl_venv
from ppo_vs_trl import machine

ROOT = Path(__file__).resolve().parents[1]
RUNS = Path(__file__).with_name("ppo_quality_runs.py")
SIDES = {"trl": "TRL 1.12.0", "rlhf": "rlhf"}
EDGES = (0.0, 0.5, 1.0, 1.5, 2.0)  # of sqrt(KL); what lies beyond the last is a bin of its own


def main() -> None:
    """Prepare what both sides share, run what is missing, score it, write JSON and figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--run-dir", type=Path, default=ROOT / "runs" / "quickstart", help="a finished quickstart")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "ppo-quality", help="where runs are kept")
    parser.add_argument("--seeds", type=int, default=5, help="seeds a side (default: 5)")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; the cores are shared out (default: 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found here")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw it here (.svg or .png)")
    arguments = parser.parse_args()
    for file in (arguments.json, arguments.figure):
        if file and not file.parent.is_dir():
            parser.error(f"{file}: there is no folder {file.parent}")
    if arguments.seeds < 2 or arguments.jobs < 1:
        parser.error("--seeds wants 2 or more, --jobs 1 or more")
    missing = [n for n in ("sft", "reward", "gold") if not (arguments.run_dir / "adapters" / n).is_dir()]
    if missing:
        parser.error(f"{arguments.run_dir}: no run with adapters {', '.join(missing)}; `make quickstart` makes it")
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    trl_venv.python()
    if not (out / "shared" / "task.json").exists():
        ours("share", arguments.run_dir.resolve(), out, {})
    cases = [(side, seed) for seed in range(1, arguments.seeds + 1) for side in SIDES]
    threads = max(1, (os.cpu_count() or 1) // arguments.jobs)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(lambda case: train(*case, arguments.run_dir.resolve(), out, threads), cases))
    ours("score", arguments.run_dir.resolve(), out, {})
    found = summary(out, arguments.seeds)
    print_summary(found)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if arguments.figure:
        draw(found, arguments.figure)


def train(side: str, seed: int, run_dir: Path, out: Path, threads: int) -> None:
    """One run in a process of its own, unless it is there already."""
    if (out / f"{side}-{seed}.json").exists():
        return
    environment = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    print(f"{SIDES[side]}, seed {seed} ...", flush=True)
    if side == "trl":
        trl_venv.run(RUNS, ["trl", str(run_dir), str(out), str(seed)], **environment)
    else:
        ours(f"rlhf:{seed}", run_dir, out, environment)


def ours(part: str, run_dir: Path, out: Path, environment: dict[str, str]) -> None:
    """A part that needs the toolkit, in a process of its own: its memory goes back when it ends."""
    name, _, seed = part.partition(":")
    command = [sys.executable, str(RUNS), name, str(run_dir), str(out), seed or "0"]
    subprocess.run(command, check=True, env=os.environ | environment)


# ---- what was found --------------------------------------------------------------------------------------------------


def summary(out: Path, seeds: int) -> dict[str, Any]:
    """Gold by bins of sqrt(KL), each seed's gain, and CPU seconds, of both sides."""
    task = json.loads((out / "shared" / "task.json").read_text())
    found: dict[str, Any] = {
        "date": str(date.today()), "machine": machine(), "seeds": seeds, "updates": task["updates"],
        "episodes": task["updates"] * task["batch"], "gold_of_sft": task["gold_mean"], "edges": EDGES, "sides": {},
    }  # fmt: skip
    for side in SIDES:
        runs = [json.loads((out / f"{side}-{seed}.json").read_text()) for seed in range(1, seeds + 1)]
        points = [
            {"seed": seed, "update": n, "root_kl": max(u["kl"], 0.0) ** 0.5, "gold": u["gold"], "length": u["length"]}
            for seed, run in enumerate(runs, start=1)
            for n, u in enumerate(run["rounds"], start=1)
        ]
        bins = []
        for low, high in zip(EDGES, (*EDGES[1:], None), strict=True):
            inside = [p for p in points if low <= p["root_kl"] < (high or float("inf"))]
            by_seed = [[p["gold"] for p in inside if p["seed"] == s] for s in range(1, seeds + 1)]
            means = [statistics.fmean(golds) for golds in by_seed if golds]
            if means:
                bins.append({"low": low, "high": high, "points": len(inside), **interval(means)})
        gains = [statistics.fmean(u["gold"] for u in run["rounds"][-2:]) - task["gold_mean"] for run in runs]
        found["sides"][side] = {
            "cpu_s": statistics.median(run["cpu"] for run in runs), "bins": bins, "gains": gains,
            "improved": sum(gain > 0 for gain in gains), "points": points,
        }  # fmt: skip
    mine, theirs = ({b["low"]: b for b in found["sides"][side]["bins"]} for side in ("rlhf", "trl"))
    both = [low for low in mine if low in theirs and mine[low]["seeds"] > 1 and theirs[low]["seeds"] > 1]
    found["bins_compared"] = len(both)
    found["bins_below_trl"] = sum(mine[low]["ci95"][1] < theirs[low]["ci95"][0] for low in both)
    found["cpu_ratio"] = found["sides"]["rlhf"]["cpu_s"] / found["sides"]["trl"]["cpu_s"]
    return found


def interval(means: Sequence[float]) -> dict[str, Any]:
    """The mean of seeds' means with its 95 % t-interval; the point itself for a single seed."""
    from scipy import stats

    mean, n = statistics.fmean(means), len(means)
    half = float(stats.t.ppf(0.975, n - 1)) * statistics.stdev(means) / n**0.5 if n > 1 else 0.0
    return {"mean": mean, "ci95": [mean - half, mean + half], "seeds": n}


def print_summary(found: dict[str, Any]) -> None:
    """The table."""
    print(f"\ngold score (SFT's: {found['gold_of_sft']:.2f}) by bins of sqrt(KL); {found['seeds']} seeds a side,")
    print(f"{found['episodes']} episodes each; {found['date']}, {found['machine']}")
    for side, name in SIDES.items():
        of = found["sides"][side]
        print(f"  {name}: {of['cpu_s']:.0f} CPU s a run; gold rose in {of['improved']} of {found['seeds']} seeds")
        for b in of["bins"]:
            where = f"{b['low']:.2f} to {b['high']:.2f}" if b["high"] else f"{b['low']:.2f} and more"
            low, high = b["ci95"]
            print(f"    {where:14} {b['mean']:6.2f} [{low:.2f}, {high:.2f}]  {b['seeds']} seeds, {b['points']} rounds")
    print(f"  bins in which ours lies below TRL's: {found['bins_below_trl']} of {found['bins_compared']}")
    print(f"  CPU seconds, ours / TRL's: {found['cpu_ratio']:.2f}")


def draw(found: dict[str, Any], path: Path) -> None:
    """The figure: a dot a round, and the bins' means with their intervals."""
    import altair as alt

    from rlhf.report import theme
    from rlhf.report.figures import save_png, save_svg

    colors = {SIDES["trl"]: theme.SFT_GREY.light, SIDES["rlhf"]: theme.BLUE.light}
    dots, bars = [], []
    for shift, (side, name) in zip((-0.03, 0.03), SIDES.items(), strict=True):
        of = found["sides"][side]
        dots += [{"x": p["root_kl"], "y": p["gold"], "side": name} for p in of["points"]]
        for b in of["bins"]:
            inside = [p["root_kl"] for p in of["points"] if b["low"] <= p["root_kl"] < (b["high"] or float("inf"))]
            low, high = b["ci95"]
            x = statistics.fmean(inside) + shift
            bars.append({"x": x, "y": b["mean"], "low": low, "high": high, "side": name})
    side = alt.Color("side:N", scale=alt.Scale(domain=list(colors), range=list(colors.values())))
    x = alt.X("x:Q", title="√KL from SFT (√nats a response)", scale=alt.Scale(zero=True, nice=True))
    y = alt.Y("y:Q", title="gold score", scale=alt.Scale(zero=False))
    dotted, barred = (alt.Chart(alt.InlineData(values=rows)) for rows in (dots, bars))
    layers = [
        dotted.mark_point(filled=True, size=18, opacity=0.35).encode(x=x, y=y, color=side),
        barred.mark_rule(strokeWidth=2).encode(x=x, y="low:Q", y2="high:Q", color=side),
        barred.mark_line(strokeWidth=2).encode(x=x, y=y, color=side),
        barred.mark_point(filled=True, size=70, opacity=1).encode(x=x, y=y, color=side),
    ]
    said = f"dots: rounds of {found['episodes'] // found['updates']} responses; means and 95 % intervals over "
    said += f"{found['seeds']} seeds, by bins of √KL; {found['episodes']} episodes a run"
    title = alt.TitleParams("Gold reward against distance from SFT", subtitle=said)
    chart = alt.layer(*layers).properties(width=520, height=300, title=title)
    (save_png if path.suffix == ".png" else save_svg)(chart, path)


if __name__ == "__main__":
    main()
