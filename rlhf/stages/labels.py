"""Labels: rankings from files and builtins go into the label store, where people's own lie too."""

from __future__ import annotations

from typing import Any

from rlhf.config import Config
from rlhf.data.sources import load_rankings
from rlhf.preferences import LabelStore
from rlhf.stages.common import imported_batch

STAGE = "labels"


def run(config: Config, sections: tuple[str, ...]) -> dict[str, Any]:
    """Import what `reward.rankings` and `gold.rankings` name into the store; what it holds already is not added again.

    Each source becomes a batch of the name that its section lists first, else of the source itself.
    """
    counts: dict[str, Any] = {}
    for name in sections:
        section = config.reward if name == "reward" else config.gold
        if section is None or section.rankings is None:
            continue
        batch = imported_batch(section)
        assert batch is not None
        # Held-out rankings of a generic file are split off by hash; the builtin's training side has none of them.
        rankings = load_rankings(section.rankings, None)
        config.run_path.mkdir(parents=True, exist_ok=True)
        with LabelStore.open(config.store_url, create=True, project=config.store.project) as store:
            report = store.import_rankings(rankings, batch=batch)
            held = store.counts(batch).rankings
        others = held - len(rankings)
        counts[batch] = {
            "source": section.rankings,
            "rankings": len(rankings),
            "added": report.added,
            "others": max(others, 0),
        }
    return counts
