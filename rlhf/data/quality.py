"""What a stage says about its data before it trains. Counting only: nothing is dropped or changed. No torch here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rlhf.data.records import Demonstration, Prompt, PromptLike, Ranking, prompt_key
from rlhf.data.splits import Record

Length = Callable[[PromptLike, str], int]
"""Tokens of a prompt followed by a completion ("" for a prompt alone), as the model will see them."""


@dataclass(frozen=True)
class QualityReport:
    """Counts over one list of records; `notes` says each finding in a line, with the first row it concerns (from 1)."""

    rows: int
    duplicates: int = 0  # rows that repeat an earlier one exactly
    blank: int = 0  # rows with a blank text where words belong
    over_long: int = 0  # rows longer than max_length
    longest: int | None = None  # None: no length function was given
    untied_pairs: int = 0  # rankings: pairs a reward model can learn from
    unusable: int = 0  # rankings without any untied pair
    repeated_completions: int = 0  # rankings that hold the same text twice
    conflicts: int = 0  # pairs that one labeler ranked both ways
    notes: tuple[str, ...] = ()

    @property
    def clean(self) -> bool:
        return not self.notes


def inspect_records(
    records: Sequence[Record], length: Length | None = None, max_length: int | None = None
) -> QualityReport:
    """Count what is worth knowing about demonstrations, prompts or rankings; lengths only if a function is given."""
    first_row: dict[tuple[object, ...], int] = {}
    copies = [i for i, r in enumerate(records, 1) if first_row.setdefault(_identity(r), i) != i]
    blank = [i for i, r in enumerate(records, 1) if any(not text.strip() for text in _texts(r))]
    lengths = [max(length(r.prompt, c) for c in _completions(r)) for r in records] if length else []
    over_long = [i for i, n in enumerate(lengths, 1) if max_length is not None and n > max_length]
    rankings = [(i, r) for i, r in enumerate(records, 1) if isinstance(r, Ranking)]
    unusable = [i for i, r in rankings if not r.pairs()]
    repeated = [i for i, r in rankings if len(set(r.completions)) < len(r.completions)]
    conflicts = find_conflicts([r for _, r in rankings])
    findings = [
        (len(copies), "rows repeat an earlier row", copies[:1]),
        (len(blank), "rows hold a blank text", blank[:1]),
        (len(over_long), f"rows are longer than {max_length} tokens", over_long[:1]),
        (len(unusable), "rankings have no untied pair to learn from", unusable[:1]),
        (len(repeated), "rankings hold the same completion twice", repeated[:1]),
        (len(conflicts), "pairs were ranked both ways by one labeler", []),
    ]
    return QualityReport(
        rows=len(records),
        duplicates=len(copies),
        blank=len(blank),
        over_long=len(over_long),
        longest=max(lengths, default=0) if length else None,
        untied_pairs=sum(len(r.pairs()) for _, r in rankings),
        unusable=len(unusable),
        repeated_completions=len(repeated),
        conflicts=len(conflicts),
        notes=tuple(f"{n} {what}" + (f" (first: row {at[0]})" if at else "") for n, what, at in findings if n),
    )


def find_conflicts(rankings: Sequence[Ranking]) -> list[tuple[str, str, str, str]]:
    """`(labeler, prompt, text, text)` of every pair that one labeler ranked one way here and the other way there."""
    better: dict[tuple[str, str], set[tuple[str, str]]] = defaultdict(set)
    for r in rankings:
        better[r.labeler, prompt_key(r.prompt)] |= {(r.completions[i], r.completions[j]) for i, j in r.pairs()}
    return sorted(
        (labeler, prompt, a, b)
        for (labeler, prompt), pairs in better.items()
        for a, b in pairs
        if a <= b and (b, a) in pairs
    )


def _completions(record: Record) -> tuple[str, ...]:
    if isinstance(record, Prompt):
        return ("",)
    return record.completions if isinstance(record, Ranking) else (record.completion,)


def _texts(record: Record) -> tuple[str, ...]:
    """The texts that must hold words: completions, and the prompt unless the row is plain text."""
    completions = () if isinstance(record, Prompt) else _completions(record)
    plain = isinstance(record, Demonstration) and not record.prompt
    return completions if plain else (prompt_key(record.prompt), *completions)


def _identity(record: Record) -> tuple[object, ...]:
    """What makes two rows the same: a ranking's order of completions does not matter, its labeler and ranks do."""
    if isinstance(record, Ranking):
        ranked = sorted(zip(record.completions, (r or 0 for r in record.ranks), strict=True))
        return (prompt_key(record.prompt), tuple(ranked), record.labeler)
    return (prompt_key(record.prompt), *_completions(record))
