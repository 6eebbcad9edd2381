"""The label store: prompts and completions to rank, who ranks them, and every judgment ever made. No torch here."""

from rlhf.preferences.agreement import Agreement, pairwise_agreement
from rlhf.preferences.exchange import pair_rows, write_pairs, write_rankings
from rlhf.preferences.store import LabelStore
from rlhf.preferences.types import (
    Assignment,
    Counts,
    ImportReport,
    Labeler,
    NewTask,
    Outcome,
    Progress,
    ShownCompletion,
)

__all__ = [
    "Agreement",
    "Assignment",
    "Counts",
    "ImportReport",
    "LabelStore",
    "Labeler",
    "NewTask",
    "Outcome",
    "Progress",
    "ShownCompletion",
    "pair_rows",
    "pairwise_agreement",
    "write_pairs",
    "write_rankings",
]
