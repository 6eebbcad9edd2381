"""Rank a few completions in your browser, and get them back as rows that the reward model trains on.

    python examples/rank_by_hand.py            # opens http://127.0.0.1:8501; rank, then press Ctrl-C here

Prints, after you ranked all of them (the ranks are yours):

    3 rankings in rank_by_hand.db, 11 untied pairs; written to rank_by_hand.jsonl
    {"prompt": "Explain a rainbow to a child.", "completions": [...], "ranks": [1, 2, 2, 4], "labeler": "you", ...}
"""

from __future__ import annotations

import json

from labeling_app.launch import launch
from rlhf.data.records import ranking_row
from rlhf.preferences import LabelStore, NewTask, write_rankings

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


def main() -> None:
    with LabelStore.open("rank_by_hand.db", create=True) as store:
        if store.add_tasks(TASKS, batch="by hand"):  # 0 on a second run: they are there already
            store.set_guidelines("Best is what you would want to be told. Tie what you would be equally glad of.")
    launch("rank_by_hand.db", open_browser=True)
    with LabelStore.open("rank_by_hand.db") as store:
        rankings = store.rankings(batch="by hand")
    pairs = sum(len(r.pairs()) for r in rankings)
    write_rankings("rank_by_hand.jsonl", rankings)
    print(f"{len(rankings)} rankings in rank_by_hand.db, {pairs} untied pairs; written to rank_by_hand.jsonl")
    for ranking in rankings:
        print(json.dumps(ranking_row(ranking), ensure_ascii=False))


if __name__ == "__main__":
    main()
