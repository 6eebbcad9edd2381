"""Anthropic's hh-rlhf: `{"chosen", "rejected"}`, two transcripts "\\n\\nHuman: … \\n\\nAssistant: …" that begin alike.

The turns that both share are the prompt, and the one answer after them is the completion. Texts are kept to the byte:
what was read is written as it was.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlhf.data.readers import Rows
from rlhf.data.records import Messages, Ranking, check_text, parse_ranking
from rlhf.errors import DataError
from rlhf.preferences.exchange import trl
from rlhf.preferences.exchange.base import Format, Row, Tally

MARK = re.compile(r"\n\n(Human|Assistant): ")
ROLES = {"Human": "user", "Assistant": "assistant"}
SPEAKERS = {role: speaker for speaker, role in ROLES.items()}


def known(row: Mapping[str, Any]) -> bool:
    sides = [row.get("chosen"), row.get("rejected")]
    return "prompt" not in row and all(isinstance(s, str) and MARK.match(s) for s in sides)


def turns(transcript: str) -> Messages:
    """The transcript's turns, spaces and all; `transcript_of` gives it back."""
    parts = MARK.split(transcript)  # what came before the first mark, then speaker, text, speaker, text …
    pairs = zip(parts[1::2], parts[2::2], strict=True)
    return tuple({"role": ROLES[speaker], "content": text} for speaker, text in pairs) if not parts[0] else ()


def transcript_of(messages: Messages) -> str:
    """The turns as a transcript; DataError for a role that it has no name for."""
    return "".join(f"\n\n{SPEAKERS[m['role']]}: {m['content']}" for m in messages)


def read(found: Rows, tally: Tally) -> Iterator[tuple[str, Ranking]]:
    for where, row in found:
        sides = []
        for name in ("chosen", "rejected"):
            if name not in row:
                raise DataError(f"{where}: field '{name}' is missing; a row has chosen and rejected transcripts")
            sides.append(turns(check_text(row[name], f"{where}, field '{name}'")))
        why = unusable(*sides)
        if why:
            tally.left_out[why] += 1
            continue
        pair = [side[-1]["content"] for side in sides]
        extra = {key: value for key, value in row.items() if key not in ("chosen", "rejected")}
        yield where, parse_ranking({**extra, "prompt": sides[0][:-1], "completions": pair, "ranks": [1, 2]}, where)


def unusable(chosen: Messages, rejected: Messages) -> str:
    """Why two transcripts are no comparison of two answers to one prompt; "" if they are one."""
    if not chosen or not rejected:
        return "rows that do not begin with a turn"
    if chosen == rejected:
        return "rows whose two transcripts are equal"
    if not all(turn["content"].strip() for turn in (*chosen, *rejected)):
        return "rows with a blank turn"
    shared = trl.common(chosen, rejected)
    if len(chosen) != len(shared) + 1 or len(rejected) != len(shared) + 1:
        return "rows whose transcripts part before their last turn"
    if chosen[-1]["role"] != "assistant" or rejected[-1]["role"] != "assistant":
        return "rows that do not end with an answer"
    if not shared or shared[-1]["role"] != "user":
        return "rows in which no human's turn comes before the answer"
    return ""


def rows(rankings: Sequence[Ranking], tally: Tally) -> Iterator[Row]:
    for ranking in rankings:
        tally.no_place_for(ranking, "labeler", "created_at", "group", "meta")
        prompt = ranking.prompt
        if isinstance(prompt, str):
            tally.lost["plain prompt (a human's turn from now on)"] += 1
            prompt = ({"role": "user", "content": prompt},)
        if any(message["role"] == "system" for message in prompt):
            tally.left_out["rankings with a system turn"] += 1
            continue
        trl.count_pairs(ranking, tally)
        for better, worse in ranking.pairs():
            pair = [(*prompt, {"role": "assistant", "content": ranking.completions[i]}) for i in (better, worse)]
            written = [transcript_of(side) for side in pair]
            if [turns(text) for text in written] != pair:
                tally.left_out["pairs with a text that holds the mark of a turn"] += 1
            elif why := unusable(*pair):
                tally.left_out[why.replace("rows", "pairs")] += 1
            else:
                yield {"chosen": written[0], "rejected": written[1]}


FORMAT = Format("hh-rlhf", "Anthropic's transcripts: chosen, rejected", known, read, rows)
