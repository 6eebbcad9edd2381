"""What active order saves: labels needed for the same held-out accuracy, beside a random order.

    python benchmarks/active_learning.py --json docs/active-learning.json --figure docs/active-learning.png

Real ratings are the labelers: a task is two or four film reviews with the same first word, drawn at random from the
training side of `builtin:film-reviews`, and is ranked by the ratings at one list position, ties included, as the
builtin's training rankings are. The pool is many times what is labeled. Both orders begin with the same random tasks,
have equal budgets, and are refitted after every round. The learner is a linear ranking head (`rlhf/ops/active.py`) on
frozen features of the quickstart's base: hidden states at half its depth, averaged over a completion, made once.
Accuracy is over the builtin's evaluation pairs: reviews, openings and list positions that no pool has.

Orders: `active` is the stage's choice with its default share of random tasks, `choice` the same without any. For
comparison the stage's other acquisitions, `heads` (16 bootstrapped ones disagree) and `gap` (scores lie close), and
`design` (D-optimal: information weighed by what is open, one task at a time).

`label_ratio`: labels that an order needs for the accuracy that random order has at a budget, over that budget; from the
seeds' mean curves, made monotone. Its 95 % interval resamples the seeds. It counts labels, so a busy machine does not
change it. At the top of the JSON it is that of rankings of two, at random order's full budget. Features and the
acquisition were chosen on openings of the training side, and seeds 1 to 3 looked at once before the last choice (which
dropped a cap); the seeds reported begin at 101.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import random
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ppo_vs_trl import machine
from scipy.optimize import isotonic_regression
from torch import Tensor

from rlhf.cli import packaged_config
from rlhf.config import ActiveSection, load
from rlhf.data import film_reviews
from rlhf.data.encoding import Encoder, by_length, pad_right
from rlhf.model.base import SharedBase
from rlhf.ops import active as ops
from rlhf.stages.active import DIMS, interleave

SHARE, HEADS = ActiveSection().random_share, ActiveSection().heads
FIRST_SEED = 101
RANDOM_ORDERS = 3  # a seed: their mean curve is what the others are held against
RESAMPLES = 2000


@dataclass(frozen=True)
class Setup:
    """Tasks of `k` completions: drawn in `draws` passes over the reviews, `first` labeled at random, then by rounds."""

    k: int
    draws: int
    first: int
    round: int
    rounds: int

    @property
    def budgets(self) -> list[int]:
        return [self.first + i * self.round for i in range(self.rounds + 1)]


SETUPS = {"pairs": Setup(k=2, draws=5, first=32, round=32, rounds=12), "fours": Setup(4, 12, 16, 16, 12)}


@dataclass(frozen=True)
class Reviews:
    """Training reviews with standardized features `(N, D)`, and evaluation pairs as differences, better first."""

    snippets: list[film_reviews.Snippet]
    features: Tensor
    evaluation: Tensor


def main() -> None:
    """Make features, simulate every seed, write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=20, help="simulated campaigns a kind of task (default: 20)")
    parser.add_argument("--jobs", type=int, default=1, help="campaigns at a time (default: 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found here")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw it here (.svg or .png)")
    arguments = parser.parse_args()
    for file in (arguments.json, arguments.figure):
        if file and not file.parent.is_dir():
            parser.error(f"{file}: there is no folder {file.parent}")
    if arguments.seeds < 2 or arguments.jobs < 1:
        parser.error("--seeds wants 2 or more, --jobs 1 or more")
    torch.set_num_threads(1)
    began = time.process_time()
    reviews = read_reviews()
    features_s = time.process_time() - began
    cases = [(kind, seed, reviews) for kind in SETUPS for seed in range(FIRST_SEED, FIRST_SEED + arguments.seeds)]
    with ProcessPoolExecutor(arguments.jobs) as pool:
        campaigns = list(pool.map(campaign, *zip(*cases, strict=True)))
    found: dict[str, Any] = {
        "benchmark": "active_learning",
        "date": date.today().isoformat(),
        "machine": machine(),
        "how": " ".join((__doc__ or "").split("\n\n", 2)[2].split()),
        "seeds": arguments.seeds,
        "random_share": SHARE,
        "evaluation_pairs": len(reviews.evaluation),
        "cpu_seconds": {"features": round(features_s), "simulation": round(sum(c["cpu_seconds"] for c in campaigns))},
        "label_ratio": None,
        "kinds": {kind: summary(kind, [c for c in campaigns if c["kind"] == kind]) for kind in SETUPS},
    }
    found["label_ratio"] = found["kinds"]["pairs"]["label_ratio"]
    print_found(found)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if arguments.figure:
        draw(found, arguments.figure)


# --- what is learned from ----------------------------------------------------------------------------------------


def read_reviews() -> Reviews:
    """The snippets that the builtin's reward judge learns from, their features, and its evaluation pairs."""
    snippets = {s.id: s for s in film_reviews.snippets()}
    train = [s for s in snippets.values() if s.split == "train" and s.half == "A"]
    pairs = [r for r in film_reviews.rankings("eval") if r.meta["rating"] == 1]
    prompts = {i: r.prompt for r in pairs for i in r.meta["snippets"]}
    texts = [(film_reviews.prompt_for(s.opening(1)), s.text) for s in train]
    texts += [(str(prompt), snippets[i].text) for i, prompt in prompts.items()]
    hidden = frozen_features(texts)
    features = ops.standardized(hidden, DIMS)  # all together, as the stage does it: no label has a part in it
    place = {i: len(train) + n for n, i in enumerate(prompts)}
    ordered = [[i for _, i in sorted(zip(r.ranks, r.meta["snippets"], strict=True))] for r in pairs]
    better, worse = torch.tensor([[place[i] for i in pair] for pair in ordered]).unbind(1)
    return Reviews(train, features[: len(train)], features[better] - features[worse])


def frozen_features(texts: Sequence[tuple[str, str]]) -> Tensor:
    """Hidden states `(N, H)` of the raw base after half of its layers, averaged over each completion's tokens."""
    config = load(packaged_config("quickstart.yaml"))
    base = SharedBase.load(config.model, config.seed)
    encoder = Encoder(base.tokenizer)
    prompts = [encoder.prompt(prompt) for prompt, _ in texts]
    rows = [[*p, *encoder.response(text)[:-1]] for p, (_, text) in zip(prompts, texts, strict=True)]
    hidden = torch.zeros((len(rows), base.model.config.hidden_size))
    with base.dense_weights(), torch.no_grad():
        for chosen in by_length([len(row) for row in rows], base.forward_rows, base.forward_tokens):
            ids, mask = pad_right([rows[i] for i in chosen], base.tokenizer.pad_token_id, base.device)
            states = base.lower_hidden(ids, mask, base.model.config.num_hidden_layers // 2).float().cpu()
            for i, state in zip(chosen, states, strict=True):
                hidden[i] = state[len(prompts[i]) : len(rows[i])].mean(dim=0)
    return hidden


def pool_of(snippets: Sequence[film_reviews.Snippet], setup: Setup, seed: int) -> tuple[Tensor, Tensor]:
    """Tasks `(T, K)` as places of snippets, and what their labeler would say, ranks `(T, K)`."""
    draw = random.Random(seed)
    groups: dict[str, list[int]] = defaultdict(list)
    for i, snippet in enumerate(snippets):
        groups[snippet.group].append(i)
    tasks: dict[frozenset[int], tuple[tuple[int, ...], int]] = {}
    for _ in range(setup.draws):
        for group in sorted(groups):
            members = draw.sample(groups[group], len(groups[group]))
            for task in zip(*[iter(members)] * setup.k, strict=False):
                if len({snippets[i].block for i in task}) == setup.k:  # a list position is one person in a block only
                    position = draw.choice(range(0, film_reviews.POSITIONS, 2))
                    tasks.setdefault(frozenset(task), (task, position))
    drawn = draw.sample(list(tasks.values()), len(tasks))
    given = torch.tensor([[snippets[i].ratings[position] for i in task] for task, position in drawn])
    ranks = 1 + (given.unsqueeze(1) > given.unsqueeze(2)).sum(dim=2)
    return torch.tensor([task for task, _ in drawn]), ranks


# --- orders ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Known:
    """What an order may look at: what was labeled, the head fitted to it, and the features of what waits."""

    lesson: tuple[Tensor, Tensor, Tensor]  # of `ops.pair_differences`
    head: ops.Head
    waiting: Tensor  # (T, K, D)
    count: int
    generator: torch.Generator

    @property
    def present(self) -> Tensor:
        return torch.ones(self.waiting.shape[:2], dtype=torch.bool)

    @property
    def roots(self) -> Tensor:
        return ops.information(self.head, self.waiting, self.present)

    def by(self, worth: Tensor) -> list[int]:
        return worth.topk(self.count).indices.tolist()  # type: ignore[no-any-return]


def chance(known: Known) -> list[int]:
    return torch.randperm(len(known.waiting), generator=known.generator)[: known.count].tolist()


def choice(known: Known) -> list[int]:
    return ops.most_telling(known.roots, known.head.covariance, known.count)


def active(known: Known) -> list[int]:
    everything = torch.randperm(len(known.waiting), generator=known.generator).tolist()
    return interleave(choice(known), everything, SHARE)[: known.count]


def gap(known: Known) -> list[int]:
    return known.by(ops.closeness(known.head.mean, known.waiting, known.present))


def heads(known: Known) -> list[int]:
    committee = ops.bootstrapped(*known.lesson, known.head, HEADS, known.generator)
    return known.by(ops.committee(committee, known.waiting, known.present))


def design(known: Known) -> list[int]:
    roots = known.roots
    eye = torch.eye(roots.shape[1], dtype=roots.dtype)
    return known.by(torch.linalg.slogdet(eye + roots @ known.head.covariance @ roots.transpose(1, 2)).logabsdet)


ORDERS: dict[str, Callable[[Known], list[int]]] = {
    "random": chance,
    "active": active,
    "choice": choice,
    "gap": gap,
    "heads": heads,
    "design": design,
}


def campaign(kind: str, seed: int, reviews: Reviews) -> dict[str, Any]:
    """One pool, labeled in every order: accuracy at each budget."""
    torch.set_num_threads(1)
    began = time.process_time()
    setup = SETUPS[kind]
    tasks, ranks = pool_of(reviews.snippets, setup, seed)
    curves = {name: curve(name, setup, tasks, ranks, reviews, seed) for name in ORDERS}
    more = [curve("random", setup, tasks, ranks, reviews, seed, again) for again in range(1, RANDOM_ORDERS)]
    curves["random"] = np.mean([curves["random"], *more], axis=0).tolist()
    spent = time.process_time() - began
    return {"kind": kind, "seed": seed, "pool": len(tasks), "curves": curves, "cpu_seconds": spent}


def curve(
    name: str, setup: Setup, tasks: Tensor, ranks: Tensor, reviews: Reviews, seed: int, again: int = 0
) -> list[float]:
    """Accuracy after the first random tasks, and after every round."""
    labeled = list(range(setup.first))  # the pool is shuffled
    waiting = list(range(setup.first, len(tasks)))
    generator = torch.Generator().manual_seed(seed + 1000 * again)
    accuracies = []
    for i in range(setup.rounds + 1):
        known = reviews.features[tasks[labeled]]
        lesson = ops.pair_differences(known, ranks[labeled])
        head = ops.fit_head(*lesson[:2])
        gaps = reviews.evaluation @ head.mean
        accuracies.append(float((gaps > 0).double().mean() + (gaps == 0).double().mean() / 2))
        if i == setup.rounds:
            return accuracies
        unasked = reviews.features[tasks[waiting]]
        picked = ORDERS[name](Known(lesson, head, unasked, setup.round, generator))
        assert len(set(picked)) == setup.round
        labeled += [waiting[p] for p in picked]
        waiting = [task for place, task in enumerate(waiting) if place not in set(picked)]
    raise AssertionError


# --- what comes out ----------------------------------------------------------------------------------------------


def summary(kind: str, campaigns: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean curves and label ratios of one kind of task."""
    setup = SETUPS[kind]
    curves = {name: np.array([c["curves"][name] for c in campaigns]) for name in ORDERS}
    targets = [b for i, b in enumerate(setup.budgets) if i and i % (setup.rounds // 4) == 0]
    draw = np.random.default_rng(0)
    drawn = draw.integers(len(campaigns), size=(RESAMPLES, len(campaigns)))
    ratios = {
        name: {str(b): ratio(curves["random"], curves[name], setup.budgets, b, drawn) for b in targets}
        for name in ORDERS
        if name != "random"
    }
    return {
        "completions": setup.k,
        "pool": round(float(np.mean([c["pool"] for c in campaigns]))),
        "budgets": setup.budgets,
        "label_ratio": ratios["active"][str(setup.budgets[-1])],
        "label_ratios": ratios,
        "accuracy": {name: [round(float(v), 4) for v in c.mean(axis=0)] for name, c in curves.items()},
        "campaigns": [{n: [round(v, 4) for v in c["curves"][n]] for n in ORDERS} for c in campaigns],
    }


def ratio(chance: np.ndarray, other: np.ndarray, budgets: Sequence[int], at: int, drawn: np.ndarray) -> dict[str, Any]:
    """Labels that `other` needs for random order's accuracy at budget `at`, over `at`; None: more than the budget."""
    values = [labels_needed(chance[rows].mean(axis=0), other[rows].mean(axis=0), budgets, at) / at for rows in drawn]
    value = labels_needed(chance.mean(axis=0), other.mean(axis=0), budgets, at) / at
    low, high = (float(np.quantile(values, q, method="nearest")) for q in (0.025, 0.975))
    reached = float(isotonic_regression(chance.mean(axis=0)).x[list(budgets).index(at)])
    shown = [None if np.isinf(v) else round(v, 3) for v in (value, low, high)]
    return {"value": shown[0], "ci95": shown[1:], "accuracy": round(reached, 4)}


def labels_needed(chance: np.ndarray, other: np.ndarray, budgets: Sequence[int], at: int) -> float:
    """Where `other`, made monotone, first has what `chance` has at budget `at`, between budgets on a straight line."""
    level = isotonic_regression(chance).x[list(budgets).index(at)]
    curve = isotonic_regression(other).x
    if curve[-1] < level:
        return float("inf")
    first = int(np.argmax(curve >= level))
    if first == 0:
        return float(budgets[0])
    part = (level - curve[first - 1]) / (curve[first] - curve[first - 1])
    return float(budgets[first - 1] + part * (budgets[first] - budgets[first - 1]))


def print_found(found: dict[str, Any]) -> None:
    """A table for each kind of task."""
    for kind, of in found["kinds"].items():
        print(f"\n{kind}: {of['pool']} tasks of {of['completions']} in the pool, {found['seeds']} seeds")
        print("  accuracy at " + " ".join(f"{b:6d}" for b in of["budgets"]))
        for name, accuracies in of["accuracy"].items():
            print(f"  {name:11s} " + " ".join(f"{a:6.3f}" for a in accuracies))
        for name, ratios in of["label_ratios"].items():
            told = [f"{b}: {_told(r['value'])} [{', '.join(map(_told, r['ci95']))}]" for b, r in ratios.items()]
            print(f"  labels of {name} over random's at " + ", ".join(told))
    print(f"\nCPU seconds: {found['cpu_seconds']}")


def _told(value: float | None) -> str:
    return "not reached" if value is None else f"{value:.2f}"


def draw(found: dict[str, Any], path: Path) -> None:
    """The figure: the mean curves of random order and of active order, side by side for pairs and fours."""
    import altair as alt

    from rlhf.report import theme
    from rlhf.report.figures import save_png, save_svg

    names = {"random": "random order", "active": "active order", "heads": "bootstrapped heads"}
    colors = [theme.SFT_GREY.light, theme.BLUE.light, theme.ORANGE.light]
    charts = []
    for of in found["kinds"].values():
        rows = [
            {"labels": b, "accuracy": a, "order": told}
            for name, told in names.items()
            for b, a in zip(of["budgets"], of["accuracy"][name], strict=True)
        ]
        value, (low, high) = of["label_ratio"]["value"], of["label_ratio"]["ci95"]
        said = f"active order needs {_told(value)} of the labels [{_told(low)}, {_told(high)}]"
        title = alt.TitleParams(f"Rankings of {of['completions']}", subtitle=said)
        color = alt.Color("order:N", title=None, scale=alt.Scale(domain=list(names.values()), range=colors))
        charts.append(
            alt.Chart(alt.InlineData(values=rows))
            .mark_line(point=True)
            .encode(
                x=alt.X("labels:Q", title="rankings by simulated labelers"),
                y=alt.Y(
                    "accuracy:Q", title="held-out accuracy", axis=alt.Axis(format="%"), scale=alt.Scale(zero=False)
                ),
                color=color,
            )
            .properties(width=330, height=240, title=title)
        )
    (save_png if path.suffix == ".png" else save_svg)(alt.hconcat(*charts), path)


if __name__ == "__main__":
    main()
