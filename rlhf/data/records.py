"""The records that flow through the toolkit, and the checks that every row passes on its way in. No torch here.

A prompt is plain text or a list of chat messages. Texts are kept exactly as given: nothing is stripped or normalised.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlhf.errors import DataError

ROLES = ("system", "user", "assistant")

SURROGATES = re.compile("[\ud800-\udfff]")

Messages = tuple[dict[str, str], ...]
PromptLike = str | Messages


@dataclass(frozen=True)
class Prompt:
    """What the model is asked: `prompt` is text, or chat messages that end with a user's turn."""

    prompt: PromptLike
    group: str = ""  # rows with one group never fall on both sides of a split; empty: the prompt itself is the group


@dataclass(frozen=True)
class Demonstration:
    """A prompt with the completion that a person would like to see; an empty prompt means plain text."""

    prompt: PromptLike
    completion: str
    group: str = ""


@dataclass(frozen=True)
class Ranking:
    """One person's judgement of K completions of one prompt.

    `ranks[i]` belongs to `completions[i]`: 1 = best, equal numbers = tie, None = not ranked (unknown, not worse).
    """

    prompt: PromptLike
    completions: tuple[str, ...]
    ranks: tuple[int | None, ...]
    labeler: str = ""
    created_at: str = ""
    group: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict, hash=False, compare=False)

    def pairs(self) -> list[tuple[int, int]]:
        """Index pairs `(better, worse)` of all completions with different ranks; ties and unranked are left out."""
        ranked = [(i, r) for i, r in enumerate(self.ranks) if r is not None]
        return [(i, j) for i, a in ranked for j, b in ranked if a < b]


def prompt_key(prompt: PromptLike) -> str:
    """A stable text for hashing and comparing prompts: the text itself, or the messages as canonical JSON."""
    return prompt if isinstance(prompt, str) else json.dumps(list(prompt), ensure_ascii=False, sort_keys=True)


def prompt_text(prompt: PromptLike) -> str:
    """A prompt for showing to people: the text, or one line a turn as `role: content`."""
    return prompt if isinstance(prompt, str) else "\n".join(f"{m['role']}: {m['content']}" for m in prompt)


def check_text(value: object, where: str, *, blank: bool = False) -> str:
    """Return `value` if it is usable text; else a DataError that starts with `where` (file, line and field)."""
    if not isinstance(value, str):
        raise DataError(f"{where}: expected text, found {_shown(value)}")
    if "\x00" in value:
        raise DataError(f"{where}: holds a NUL character (U+0000); remove it")
    if not value.isascii() and SURROGATES.search(value):
        raise DataError(f"{where}: holds a lone surrogate, which is no valid Unicode text; re-encode the file as UTF-8")
    if not blank and not value.strip():
        raise DataError(f"{where}: the text is blank; give it words or remove the row")
    return value


def parse_messages(value: object, where: str) -> Messages:
    """Check chat messages: a non-empty list of `{"role": system|user|assistant, "content": text}`."""
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or not value:
        raise DataError(f"{where}: expected a non-empty list of messages, found {_shown(value)}")
    out = []
    for i, message in enumerate(value):
        if not isinstance(message, Mapping) or set(message) != {"role", "content"}:
            raise DataError(f'{where}[{i}]: expected {{"role", "content"}}, found {_shown(message)}')
        if message["role"] not in ROLES:
            raise DataError(f"{where}[{i}].role: expected one of {', '.join(ROLES)}, found {_shown(message['role'])}")
        out.append({"role": message["role"], "content": check_text(message["content"], f"{where}[{i}].content")})
    return tuple(out)


def parse_prompt_like(value: object, where: str) -> PromptLike:
    """A prompt field: text, or messages that end with a user's turn."""
    if isinstance(value, str):
        return check_text(value, where)
    messages = parse_messages(value, where)
    if messages[-1]["role"] != "user":
        raise DataError(f"{where}: the last message must be the user's, found role {messages[-1]['role']!r}")
    return messages


def parse_prompt(row: Mapping[str, Any], where: str) -> Prompt:
    """`{"prompt": text | messages}` or `{"messages": [...]}`; an optional `group` keeps rows on one side of a split."""
    key = _one_of(row, ("prompt", "messages"), where)
    return Prompt(parse_prompt_like(row[key], f"{where}, field '{key}'"), _group(row, where))


def parse_demonstration(row: Mapping[str, Any], where: str) -> Demonstration:
    """`{"prompt", "completion"}`, `{"messages": [...]}` that ends with the assistant's turn, or `{"text"}`."""
    key = _one_of(row, ("prompt", "messages", "text"), where)
    group = _group(row, where)
    if key == "text":
        return Demonstration("", check_text(row["text"], f"{where}, field 'text'"), group)
    if key == "messages":
        messages = parse_messages(row["messages"], f"{where}, field 'messages'")
        if len(messages) < 2 or messages[-1]["role"] != "assistant":
            raise DataError(f"{where}, field 'messages': must end with the assistant's turn after at least one other")
        return Demonstration(messages[:-1], messages[-1]["content"], group)
    if "completion" not in row:
        raise DataError(f"{where}: field 'completion' is missing beside 'prompt'")
    prompt = parse_prompt_like(row["prompt"], f"{where}, field 'prompt'")
    return Demonstration(prompt, check_text(row["completion"], f"{where}, field 'completion'"), group)


def parse_ranking(row: Mapping[str, Any], where: str) -> Ranking:
    """`{"prompt", "completions", "ranks"}` with K ≥ 2, or a pair as TRL has it: `{"prompt", "chosen", "rejected"}`.

    In TRL's conversational pairs `chosen` and `rejected` are lists of one assistant's turn: its text is taken.
    """
    if "chosen" in row and "rejected" in row:
        pair = [_completion(row[name], f"{where}, field '{name}'") for name in ("chosen", "rejected")]
        row = {**row, "completions": pair, "ranks": [1, 2]}
    for name in ("prompt", "completions", "ranks"):
        if name not in row:
            raise DataError(f"{where}: field '{name}' is missing; a ranking has prompt, completions and ranks")
    prompt = parse_prompt_like(row["prompt"], f"{where}, field 'prompt'")
    completions, ranks = row["completions"], row["ranks"]
    if not isinstance(completions, Sequence) or isinstance(completions, str) or len(completions) < 2:
        raise DataError(
            f"{where}, field 'completions': expected a list of at least 2 texts, found {_shown(completions)}"
        )
    if not isinstance(ranks, Sequence) or isinstance(ranks, str) or len(ranks) != len(completions):
        raise DataError(
            f"{where}, field 'ranks': expected {len(completions)} ranks, one a completion, found {_shown(ranks)}"
        )
    for i, rank in enumerate(ranks):
        if rank is not None and (isinstance(rank, bool) or not isinstance(rank, int) or rank < 1):
            raise DataError(
                f"{where}, field 'ranks'[{i}]: expected a whole number from 1 (best) or null, found {_shown(rank)}"
            )
    texts = tuple(check_text(c, f"{where}, field 'completions'[{i}]") for i, c in enumerate(completions))
    known = {"prompt", "completions", "ranks", "labeler", "created_at", "group", "chosen", "rejected"}
    return Ranking(
        prompt=prompt,
        completions=texts,
        ranks=tuple(ranks),
        labeler=check_text(row.get("labeler") or "", f"{where}, field 'labeler'", blank=True),
        created_at=check_text(row.get("created_at") or "", f"{where}, field 'created_at'", blank=True),
        group=_group(row, where),
        meta={k: v for k, v in row.items() if k not in known},
    )


def _completion(value: object, where: str) -> str:
    """A completion's text, also where it comes as a list of one assistant's turn."""
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        return check_text(value, where)
    turns = parse_messages(value, where)
    if len(turns) != 1 or turns[0]["role"] != "assistant":
        raise DataError(f"{where}: expected text or one assistant's turn; move earlier turns to 'prompt'")
    return turns[0]["content"]


def ranking_row(ranking: Ranking) -> dict[str, Any]:
    """The JSON row of a ranking; `parse_ranking` reads it back unchanged."""
    prompt = ranking.prompt if isinstance(ranking.prompt, str) else list(ranking.prompt)
    row: dict[str, Any] = {"prompt": prompt, "completions": list(ranking.completions), "ranks": list(ranking.ranks)}
    for name in ("labeler", "created_at", "group"):
        if getattr(ranking, name):
            row[name] = getattr(ranking, name)
    return {**row, **ranking.meta}


def group_of(record: Prompt | Demonstration | Ranking) -> str:
    """The key by which a record is split: its group, else its prompt, else (plain text) its completion."""
    if record.group:
        return record.group
    if isinstance(record, Demonstration) and not record.prompt:
        return record.completion
    return prompt_key(record.prompt)


def fingerprint(rows: Iterable[object]) -> str:
    """sha256 over the records' canonical JSON, in order: what a stage's manifest stores of its inputs."""
    digest = hashlib.sha256()
    for row in rows:
        payload = ranking_row(row) if isinstance(row, Ranking) else getattr(row, "__dict__", row)
        digest.update(json.dumps(payload, ensure_ascii=False, sort_keys=True, default=str).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def _one_of(row: Mapping[str, Any], names: Sequence[str], where: str) -> str:
    found = [n for n in names if n in row]
    if len(found) != 1:
        listed = ", ".join(f"'{n}'" for n in names)
        raise DataError(
            f"{where}: expected exactly one of {listed}, found {', '.join(found) or ', '.join(row) or 'an empty row'}"
        )
    return found[0]


def _group(row: Mapping[str, Any], where: str) -> str:
    return check_text(row.get("group") or "", f"{where}, field 'group'", blank=True)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
