"""Argilla 2's records: a JSON array as its `records.to_json` and `to_list` write it, flattened or not.

A record's fields are a prompt and its completions; a RankingQuestion's responses name those fields. As the server keeps
them, a response is `[{"value": FIELD, "rank": 1}, ...]` with ties and unranked ones; Argilla's Python client gives bare
lists `[FIELD, FIELD, ...]`, best first. That client drops the ranks of what people ranked on Argilla's own page and
lists the options as they stand (argilla issue 5712): a file in which every list has one order is refused for that.
Written are ranks, as the server's API takes and gives them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlhf.data.readers import Rows
from rlhf.data.records import Ranking, prompt_key
from rlhf.errors import DataError
from rlhf.preferences.exchange.base import (
    Format,
    Row,
    Tally,
    few,
    made_id,
    parsed_meta,
    plain_prompt,
    prompt_field,
    ranking,
    shown,
    text_meta,
)

QUESTION = "ranking"
NUMBER_LENGTH = 20  # characters at the end of a name that are searched for its number
SUSPICIOUS = 10  # so many bare lists, all in one order, were hardly ranked one by one
LEFT = {"draft": "drafts", "discarded": "discarded responses"}


def known(row: Mapping[str, Any]) -> bool:
    return isinstance(row.get("fields"), dict) or any(name.endswith(".responses") for name in row)


def read(found: Rows, tally: Tally) -> Iterator[tuple[str, Ranking]]:
    orders: set[tuple[str, ...]] = set()
    bare = 0
    where = ""
    for where, row in found:
        record = row if isinstance(row.get("fields"), dict) else _nested(row, where)
        said, options = _said(record, where)
        if not said:
            tally.left_out["records without a ranking"] += 1
        for number, (response, value) in enumerate(said):
            status = response.get("status") or "submitted"
            if not isinstance(status, str):
                raise DataError(f"{where}: expected a text as a response's status, found {shown(status)}")
            status = status.rpartition(".")[2]
            if status in LEFT:
                tally.left_out[LEFT[status]] += 1
                continue
            if isinstance(value[0], str):
                bare += 1
                orders.add(tuple(map(_option, value)))
            yield where, _ranking(record, response, number, value, options, where)
    if bare >= SUSPICIOUS and len(orders) == 1:
        raise DataError(
            f"{where}: all {bare} rankings list their options in one order, {few(orders.pop())}: Argilla's "
            "Python client drops the ranks (argilla issue 5712); fetch the responses with their ranks from its API"
        )


def _nested(row: Mapping[str, Any], where: str) -> Row:
    """A flattened record with fields, metadata and responses apart; what is neither counts as a field."""
    out: Row = {"id": row.get("id"), "fields": {}, "metadata": {}, "responses": {}}
    for name, value in row.items():
        question, dot, rest = name.rpartition(".responses")
        if dot and not rest and value is not None:
            columns = {name: value} | {f"{name}.{part}": row.get(f"{name}.{part}") for part in ("users", "status")}
            for column, said in columns.items():
                if (said or column == name) and (not isinstance(said, list) or len(said) != len(value)):
                    raise DataError(f"{where}, field {column[:40]!r}: expected a list, one entry a response")
            users, states = ([*columns.values()][i] or [None] * len(value) for i in (1, 2))
            answers = zip(value, users, states, strict=True)
            out["responses"][question] = [{"value": v, "user_id": u, "status": s} for v, u, s in answers]
        elif name in ("labelers", "created_at", "meta", "group"):
            out["metadata"][name] = value
        elif "." not in name and name not in ("id", "_server_id", "score"):
            out["fields"][name] = value
    return out


def _said(record: Mapping[str, Any], where: str) -> tuple[list[tuple[Row, list[Any]]], dict[str, str]]:
    """The record's responses that are rankings, and for each option the field that it names, in the fields' order."""
    fields, responses = record["fields"], record.get("responses") or {}
    if not isinstance(responses, dict):
        raise DataError(
            f"{where}, field 'responses': expected an object of questions, found {type(responses).__name__}"
        )
    if not isinstance(record.get("metadata") or {}, dict):
        raise DataError(f"{where}, field 'metadata': expected an object, found {shown(record['metadata'])}")
    questions: dict[str, list[tuple[Row, list[Any]]]] = {}
    for question, answers in responses.items():
        for answer in answers if isinstance(answers, list) else []:
            value = answer.get("value") if isinstance(answer, dict) else None
            if isinstance(value, list) and len(value) > 1 and all(_option(v) for v in value):
                ranked = isinstance(value[0], dict)
                if ranked or all(_field(fields, _option(v)) for v in value):  # else labels of another kind of question
                    questions.setdefault(question, []).append((answer, value))
    if len(questions) > 1:
        raise DataError(f"{where}: ranked under several questions ({few(questions)}); keep one of them")
    said = next(iter(questions.values()), [])
    named: dict[str, str] = {}
    for _, value in said:
        for option in map(_option, value):
            field = _field(fields, option)
            if field is None:
                raise DataError(f"{where}: a response ranks {option[:40]!r}, which names no field; name fields so")
            named[option] = field
    order = {field: place for place, field in enumerate(fields)}
    return said, dict(sorted(named.items(), key=lambda item: order[item[1]]))


def _option(value: Any) -> str:
    """What a list's entry ranks; "" if it is no entry of a ranking."""
    found = value.get("value") if isinstance(value, dict) and set(value) <= {"value", "rank"} else value
    return found if isinstance(found, str) else ""


def _field(fields: Mapping[str, Any], option: str) -> str | None:
    """The field of this name, else the only one that ends with the same number: `Response 2` for `2`."""
    if option in fields:
        return option
    number = re.search(r"(\d+)$", option[-NUMBER_LENGTH:])
    alike = [name for name in fields if number and re.search(rf"(?<!\d){number[1]}$", name[-NUMBER_LENGTH:])]
    return alike[0] if len(alike) == 1 else None


def _ranking(
    record: Mapping[str, Any], response: Row, number: int, value: list[Any], options: Mapping[str, str], where: str
) -> Ranking:
    fields, metadata = record["fields"], record.get("metadata") or {}
    ranks = {_option(v): v.get("rank") if isinstance(v, dict) else place for place, v in enumerate(value, start=1)}
    if len(ranks) != len(value):
        raise DataError(f"{where}: a response ranks one option twice")
    prompt = prompt_field(fields, list(options.values()), where)

    def kept(name: str) -> Any:
        """This response's part of the metadata that we write, one entry a response."""
        entries = metadata.get(name)
        return entries[number] if isinstance(entries, list) and number < len(entries) else ""

    rest = {n: v for n, v in fields.items() if n != prompt and n not in options.values() and v is not None}
    meta = parsed_meta(kept("meta"), where) | ({"fields": rest} if rest else {})
    return ranking(
        where,
        {
            "prompt": fields[prompt],
            "completions": [fields[name] for name in options.values()],
            "ranks": [ranks.get(option) for option in options],
            "labeler": kept("labelers") if "labelers" in metadata else _user(response.get("user_id"), where),
            "created_at": kept("created_at"),
            "group": metadata.get("group") or "",
        },
        meta,
    )


def _user(value: object, where: str) -> str:
    """A user's id as the labeler's name; the server's are UUIDs, older ones numbers."""
    if isinstance(value, bool) or not isinstance(value, str | int | None):
        raise DataError(f"{where}: expected a text as a response's user_id, found {shown(value)}")
    return str(value or "")


def rows(rankings: Sequence[Ranking], tally: Tally) -> Iterator[Row]:
    """One record for everybody's rankings of the same completions; a second one of one labeler has its own record."""
    records: dict[tuple[object, ...], list[Ranking]] = {}
    seen: dict[tuple[object, ...], int] = {}
    for one in rankings:
        task = (prompt_key(one.prompt), isinstance(one.prompt, str), one.completions, one.group)
        turn = seen[*task, one.labeler] = seen.get((*task, one.labeler), 0) + 1
        records.setdefault((*task, turn), []).append(one)
    for key, group in records.items():
        first = group[0]
        fields = {"prompt": plain_prompt(first)}
        fields |= {f"completion-{i}": text for i, text in enumerate(first.completions, start=1)}
        metadata: Row = {
            "labelers": [one.labeler for one in group],
            "created_at": [one.created_at for one in group],
            "meta": [text_meta(one.meta) for one in group],
        }
        metadata = {name: values for name, values in metadata.items() if name == "labelers" or any(values)}
        responses = [
            {
                "value": [{"value": f"completion-{i}", "rank": rank} for i, rank in enumerate(one.ranks, start=1)],
                "user_id": made_id("labeler", one.labeler),
                "status": "submitted",
            }
            for one in group
        ]
        yield {
            "id": made_id(*map(str, key)),
            "fields": fields,
            "metadata": metadata | ({"group": first.group} if first.group else {}),
            "suggestions": {},
            "responses": {QUESTION: responses},
            "vectors": {},
        }


FORMAT = Format("argilla", "Argilla's records with a RankingQuestion's responses", known, read, rows, array=True)
