"""Rank a few completions in your browser; then the reward model trains on what you ranked.

    python examples/rank_by_hand.py            # opens http://127.0.0.1:8501; rank, then press Ctrl-C here
    rlhf reward -c examples/own_data/config.yaml run_dir=runs/rank-by-hand \\
        reward.rankings=null "reward.batches=[by hand]"

Prints, after you ranked all of them (the ranks are yours):

    3 rankings in runs/rank-by-hand/labels.db, 12 untied pairs; written to runs/rank-by-hand/rankings.jsonl
    {"prompt": "Explain a rainbow to a child.", "completions": [...], "ranks": [1, 3, 2, 4], "labeler": "you", ...}
    {"prompt": [{"role": "user", ...}], "completions": [...], "ranks": [1, 3, 2], "labeler": "you", ...}
    {"prompt": "Name a good title for a book about tides.", "completions": [...], "ranks": [1, 2, 3], ...}

The second command trains on them. Some are held out to measure with, by a hash of the prompt: here two of the three,
and one ranking teaches nothing, so the number means nothing yet. It shows the way; rank some hundreds.

    reward 1/1  2.1 s/step  loss 0.6931  accuracy 0.5
    reward: done in 4 s
    reward model: orders 77.8% of 9 held-out pairs rightly
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from labeling_app.launch import launch
from rlhf.data.records import ranking_row
from rlhf.preferences import LabelStore, NewTask, write_rankings

BATCH = "by hand"
TASKS = [
    NewTask(
        "Explain a rainbow to a child.",
        (
            "Sunlight is a mix of colours. Raindrops spread them out, and you see them side by side.",
            "It is refraction and dispersion in water droplets, with an exit angle near 42 degrees.",
            "Rain makes the sun show its colours.",
            "Ask your teacher.",
        ),
    ),
    NewTask(
        ({"role": "user", "content": "My bread did not rise. What now?"},),
        (
            "Put it somewhere warm for an hour. If nothing happens, the yeast was dead: bake it flat, with oil.",
            "Bread needs yeast.",
            "Throw it away and begin again with fresh yeast.",
        ),
    ),
    NewTask("Name a good title for a book about tides.", ("Twice a Day", "Tides", "The Big Book of Sea Water")),
]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Rank a few completions in your browser.")
    parser.add_argument("--folder", type=Path, default=Path("runs/rank-by-hand"), help="where the labels are kept")
    parser.add_argument("--port", type=int, default=8501)
    args = parser.parse_args(argv)
    store_path, rows_path = args.folder / "labels.db", args.folder / "rankings.jsonl"
    args.folder.mkdir(parents=True, exist_ok=True)

    # 1. Tasks into the store; a second run adds none, for they are there already.
    with LabelStore.open(store_path, create=True) as store:
        if store.add_tasks(TASKS, batch=BATCH):
            store.set_guidelines("Best is what you would want to be told. Tie what you would be equally glad of.")

    # 2. The labeling page, until Ctrl-C.
    launch(str(store_path), port=args.port, open_browser=True)

    # 3. What was ranked.
    with LabelStore.open(store_path) as store:
        rankings = store.rankings(batch=BATCH)
    pairs = sum(len(r.pairs()) for r in rankings)
    write_rankings(rows_path, rankings)
    print(f"{len(rankings)} rankings in {store_path}, {pairs} untied pairs; written to {rows_path}")
    for ranking in rankings:
        print(json.dumps(ranking_row(ranking), ensure_ascii=False))


if __name__ == "__main__":
    main()
