"""The label store: prompts and completions to rank, who ranks them, and every judgment ever made. No torch here."""

from rlhf.preferences.agreement import Agreement, pairwise_agreement
from rlhf.preferences.exchange import pair_rows, write_demonstrations, write_pairs, write_rankings
from rlhf.preferences.settings import ProjectSettings
from rlhf.preferences.store import LabelStore
from rlhf.preferences.types import (
    Assignment,
    Counts,
    Event,
    GoldResult,
    Guidelines,
    ImportReport,
    Labeler,
    NewTask,
    Note,
    Outcome,
    Past,
    Person,
    Progress,
    Project,
    Said,
    ShownCompletion,
)

__all__ = [
    "Agreement",
    "Assignment",
    "Counts",
    "Event",
    "GoldResult",
    "Guidelines",
    "ImportReport",
    "LabelStore",
    "Labeler",
    "NewTask",
    "Note",
    "Outcome",
    "Past",
    "Person",
    "Progress",
    "Project",
    "ProjectSettings",
    "Said",
    "ShownCompletion",
    "pair_rows",
    "pairwise_agreement",
    "write_demonstrations",
    "write_pairs",
    "write_rankings",
]
