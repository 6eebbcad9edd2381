"""What every exchange format is made of: a way to read rows as rankings, and a way to write rankings as rows."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlhf.data.readers import Rows
from rlhf.data.records import Ranking, parse_ranking
from rlhf.errors import DataError
from rlhf.preferences.intake import ANONYMOUS

Row = dict[str, Any]
FIELDS = ("prompt", "completions", "ranks", "labeler", "created_at", "group", "chosen", "rejected")
# Names that a prompt has in other tools' files, the likeliest first.
PROMPTS = ("prompt", "instruction", "input", "question", "query", "context", "messages", "conversation", "chat", "text")
IDS = uuid.UUID("5f0c9b9e-6d0a-4f3b-8a51-2f6c0e1d7b34")  # of ids that we make: equal texts give equal ids


@dataclass
class Tally:
    """What did not go through, by reason; nothing is dropped without a word here."""

    left_out: Counter[str] = field(default_factory=Counter)  # records, pairs or rankings
    lost: Counter[str] = field(default_factory=Counter)  # by field: rankings that had it, where the format has no place
    notes: list[str] = field(default_factory=list)

    def no_place_for(self, ranking: Ranking, *fields: str) -> None:
        """Count what this ranking has of these fields."""
        self.lost.update(name for name in fields if getattr(ranking, name) not in ("", ANONYMOUS, {}))


@dataclass(frozen=True)
class Format:
    """One way to keep rankings in rows.

    `read` gives (where, ranking) for rows of (where, row), raising DataError for a row that is broken; `rows` gives
    what to write. Both count in the tally what they leave.
    """

    name: str
    about: str
    known: Callable[[Mapping[str, Any]], bool]  # whether a file's first row is of this format
    read: Callable[[Rows, Tally], Iterator[tuple[str, Ranking]]]
    rows: Callable[[Sequence[Ranking], Tally], Iterator[Row]]
    array: bool = False  # its tools read one JSON array a file and nothing else
    tabular: bool = False  # Parquet and CSV too


def listed(counts: Mapping[str, int]) -> str:
    """`tied pairs (6), drafts (1)`."""
    return ", ".join(f"{reason} ({number})" for reason, number in counts.items())


def few(names: Iterable[str]) -> str:
    """The first of these names, for a message: foreign ones may be many and long."""
    listed = [*names]
    more = f" and {len(listed) - 8} more" if len(listed) > 8 else ""
    return ", ".join(repr(name[:40]) for name in listed[:8]) + more


def shown(value: object) -> str:
    """A foreign value for a message: a text or number as it is, of others what they are."""
    if isinstance(value, str):
        return repr(value[:40])
    return repr(value)[:40] if value is None or isinstance(value, bool | int | float) else type(value).__name__


def ranking(where: str, fields: Mapping[str, Any], meta: object) -> Ranking:
    """A checked ranking of these fields with this meta; DataError that begins with `where`."""
    if not isinstance(meta, Mapping):
        raise DataError(f"{where}, field 'meta': expected a JSON object, found {shown(meta)}")
    taken = [name for name in meta if name in FIELDS]
    if taken:
        raise DataError(f"{where}, field 'meta': {taken[0]!r} is the name of a ranking's own field; rename it")
    return parse_ranking({**meta, **fields}, where)


def text_meta(meta: Mapping[str, Any]) -> str:
    """Meta as JSON, for formats that keep text alone; "" for none."""
    return json.dumps(dict(meta), ensure_ascii=False) if meta else ""


def parsed_meta(text: object, where: str) -> dict[str, Any]:
    """What `text_meta` was given."""
    if not text:
        return {}
    try:
        found = json.loads(text) if isinstance(text, str) else text
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise DataError(f"{where}, field 'meta': expected a JSON object, found {shown(text)}")
    return found


def made_id(*parts: object) -> str:
    """A UUID that equal parts give again."""
    return str(uuid.uuid5(IDS, json.dumps(parts, ensure_ascii=False, sort_keys=True)))


def plain_prompt(value: Ranking) -> Any:
    """The prompt as JSON has it: text, or a list of messages."""
    return value.prompt if isinstance(value.prompt, str) else list(value.prompt)


def prompt_field(fields: Mapping[str, Any], others: Sequence[str], where: str) -> str:
    """Which of these fields is the prompt: the likeliest name that is none of the `others`, else the only one left."""
    free = [name for name, value in fields.items() if name not in others and isinstance(value, str | list)]
    found = next((name for name in PROMPTS if name in free), free[0] if len(free) == 1 else None)
    if found is None:
        raise DataError(f"{where}: cannot tell which field is the prompt ({few(free) or 'none'}); name it 'prompt'")
    return found
