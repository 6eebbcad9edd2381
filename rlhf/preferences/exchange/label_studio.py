"""Label Studio's JSON: tasks with `data`, and annotations whose result is a Pairwise or a Ranker tag's.

    {"data": {"prompt", "answer1", "answer2"},
     "annotations": [{"result": [{"type": "pairwise", "value": {"selected": "left"}, ...}], ...}]}
    {"data": {"prompt", "items": [{"id", "body"}, ...]},
     "annotations": [{"result": [{"type": "ranker", "value": {"ranker": ["b", "a", "c"]}, ...}], ...}]}

A Ranker without buckets gives an order without ties. With buckets it gives a list each: buckets whose names are
numbers (`1`, `rank-2`) are ranks, with ties inside and the list left behind (`_`) not ranked; of other buckets nobody
knows the order, so those are left out. One file is written in one of the three ways, as one project has one interface.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rlhf.data.readers import Rows
from rlhf.data.records import Ranking, prompt_key
from rlhf.errors import DataError
from rlhf.preferences.exchange.base import Format, Row, Tally, few, made_id, plain_prompt, prompt_field, ranking, shown

SIDES = {"left": (1, 2), "right": (2, 1)}
UNSORTED = "_"  # Label Studio's name for the list that items are taken from
NUMBERED = re.compile(r"(?:rank[-_ ]?)?([1-9]\d{0,3})", re.IGNORECASE)
INTERFACES = {
    "pairwise": '<Pairwise name="comparison" toName="answer1,answer2"/>, with <Text> tags of those names',
    "ranker": '<List name="answers" value="$items"/><Ranker name="rank" toName="answers"/>',
    "buckets": '<Ranker name="rank" toName="answers"> with a <Bucket name="1"/> for each rank up to {most}',
}


def known(row: Mapping[str, Any]) -> bool:
    return isinstance(row.get("data"), dict)


def read(found: Rows, tally: Tally) -> Iterator[tuple[str, Ranking]]:
    for where, row in found:
        if not isinstance(row.get("data"), dict):
            raise DataError(f"{where}: field 'data' is missing; a task has data and annotations")
        annotations = row.get("annotations") or []
        if not isinstance(annotations, list) or not all(isinstance(a, dict) for a in annotations):
            raise DataError(f"{where}, field 'annotations': expected a list of annotations")
        if not annotations:
            tally.left_out["tasks that nobody annotated"] += 1
        for i, annotation in enumerate(annotations):
            at = f"{where}, annotation {i + 1}"
            said = annotation.get("result") or []
            if not isinstance(said, list):
                raise DataError(f"{at}, field 'result': expected a list of results, found {shown(said)}")
            results = [r for r in said if isinstance(r, dict) and r.get("type") in ("pairwise", "ranker")]
            if annotation.get("was_cancelled"):
                tally.left_out["cancelled annotations"] += 1
            elif not results:
                tally.left_out["annotations without a ranking"] += 1
            elif len(results) > 1:
                raise DataError(f"{at}: holds {len(results)} rankings; keep one")
            else:
                ranked = _ranking(row["data"], annotation, results[0], at)
                if ranked is None:
                    tally.left_out["annotations whose buckets have no order (name them 1, 2, ...)"] += 1
                else:
                    yield at, ranked


def _ranking(data: Mapping[str, Any], annotation: Row, result: Row, where: str) -> Ranking | None:
    value = result.get("value")
    said = value.get("selected" if result["type"] == "pairwise" else "ranker") if isinstance(value, dict) else None
    if result["type"] == "pairwise":
        if not isinstance(said, str) or said not in SIDES:
            raise DataError(f"{where}: expected selected left or right, found {shown(said)}")
        names = _sides(data, where)
        texts, ranks, others = [data[n] for n in names], list[int | None](SIDES[said]), names
    else:
        field, items = _items(data, where)
        places = _places(said, where)
        if places is None:
            return None
        unknown = set(places) - set(items)
        if unknown:
            raise DataError(f"{where}: ranks {min(unknown)[:40]!r}, which no item has as its id")
        texts, ranks, others = list(items.values()), [places.get(name) for name in items], [field]
    beside = result.get("meta")
    kept: Row = beside if isinstance(beside, dict) else {}  # of a file that we wrote
    prompt = prompt_field({n: v for n, v in data.items() if n != "group"}, others, where)
    fields = {
        "prompt": data[prompt],
        "completions": texts,
        "ranks": ranks,
        "labeler": kept["labeler"] if "labeler" in kept else _annotator(annotation.get("completed_by"), where),
        "created_at": kept.get("created_at", "") if kept else annotation.get("created_at"),
        "group": data.get("group") or "",
    }
    if kept:
        return ranking(where, fields, kept.get("meta") or {})
    seconds = annotation.get("lead_time")
    return ranking(where, fields, {"active_seconds": seconds} if seconds is not None else {})


def _sides(data: Mapping[str, Any], where: str) -> list[str]:
    """The two compared fields, left first: `answer1` and `answer2`, or any two that differ in that number alone."""
    stems: dict[str, list[str]] = {}
    for name, value in data.items():
        end = re.fullmatch(r"(.*?)[-_ ]?([12ab]|left|right)", name, re.IGNORECASE)
        if isinstance(value, str) and end:
            stems.setdefault(end[1], []).append(name)
    pairs = [sorted(names) for names in stems.values() if len(names) == 2]
    if len(pairs) != 1:
        raise DataError(f"{where}: cannot tell the two compared texts in {few(data)}; name them answer1, answer2")
    return pairs[0]


def _items(data: Mapping[str, Any], where: str) -> tuple[str, dict[str, str]]:
    """The field with the ranked items, and their texts by id."""
    for field, value in data.items():
        if isinstance(value, list) and value and all(isinstance(v, dict) and "id" in v for v in value):
            texts = {
                _id(v["id"], f"{where}, field {field!r}"): next(
                    (v[n] for n in ("body", "text", "title") if v.get(n)), ""
                )
                for v in value
            }
            if len(texts) != len(value):
                raise DataError(f"{where}, field {field!r}: two items have one id")
            return field, texts
    raise DataError(f"{where}: found no list of items with ids; the data of a Ranker needs one")


def _places(said: object, where: str) -> dict[str, int] | None:
    """Ranks by item id; None where buckets have no order."""
    if isinstance(said, list):
        return _once(((name, place) for place, name in enumerate(said, start=1)), where)
    if not isinstance(said, dict) or not all(isinstance(names, list) for names in said.values()):
        raise DataError(f"{where}: expected a list of ids or buckets of them, found {shown(said)}")
    buckets = {name: NUMBERED.fullmatch(name) for name in said if name != UNSORTED}
    if not said or not all(buckets.values()):
        return None
    return _once(((item, int(found[1])) for name, found in buckets.items() if found for item in said[name]), where)


def _once(placed: Iterable[tuple[object, int]], where: str) -> dict[str, int]:
    out: dict[str, int] = {}
    for name, place in placed:
        item = _id(name, where)
        if item in out:
            raise DataError(f"{where}: ranks {item[:40]!r} twice")
        out[item] = place
    return out


def _id(value: object, where: str) -> str:
    """An item's id as text; Label Studio takes numbers as well."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise DataError(f"{where}: expected a text or a number as an item's id, found {shown(value)}")
    return str(value)


def _annotator(value: object, where: str) -> str:
    """Who annotated: an id, or what Label Studio says of the person."""
    if isinstance(value, dict):
        parts = {name: value.get(name) or "" for name in ("email", "first_name", "last_name")}
        for name, part in parts.items():
            if not isinstance(part, str):
                raise DataError(f"{where}, field 'completed_by': expected a text as {name}, found {shown(part)}")
        name = " ".join(filter(None, (parts["first_name"], parts["last_name"])))
        if parts["email"] or name:
            return parts["email"] or name
        value = value.get("id")
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise DataError(f"{where}, field 'completed_by': expected a user's id, found {shown(value)}")
    return f"user {value}"


def rows(rankings: Sequence[Ranking], tally: Tally) -> Iterator[Row]:
    style = _style(rankings)
    most = max((rank or 1 for one in rankings for rank in one.ranks), default=1)
    tally.notes.append(f"its labeling interface: {INTERFACES[style].format(most=most)}")
    tasks: dict[tuple[object, ...], list[Ranking]] = {}
    for one in rankings:
        task = (prompt_key(one.prompt), isinstance(one.prompt, str), one.completions, one.group)
        tasks.setdefault(task, []).append(one)
    for number, (key, group) in enumerate(tasks.items(), start=1):
        texts = group[0].completions
        data: Row = {"prompt": plain_prompt(group[0])}
        if style == "pairwise":
            data |= {"answer1": texts[0], "answer2": texts[1]}
        else:
            data["items"] = [{"id": str(i), "title": str(i), "body": text} for i, text in enumerate(texts, start=1)]
        if group[0].group:
            data["group"] = group[0].group
        yield {"id": number, "data": data, "annotations": [_annotation(one, style, key) for one in group]}


def _style(rankings: Sequence[Ranking]) -> str:
    strict = all(None not in one.ranks and len(set(one.ranks)) == len(one.ranks) for one in rankings)
    orders = all(sorted(r or 0 for r in one.ranks) == list(range(1, len(one.ranks) + 1)) for one in rankings)
    if strict and orders:
        return "pairwise" if all(len(one.ranks) == 2 for one in rankings) else "ranker"
    return "buckets"


def _annotation(one: Ranking, style: str, key: tuple[object, ...]) -> Row:
    order = sorted(range(len(one.ranks)), key=lambda i: one.ranks[i] or 0)
    value: Row
    if style == "pairwise":
        value = {"selected": "left" if one.ranks == (1, 2) else "right"}
    elif style == "ranker":
        value = {"ranker": [str(i + 1) for i in order]}
    else:
        buckets: dict[str, list[str]] = {}
        for i in order:
            rank = one.ranks[i]
            buckets.setdefault(UNSORTED if rank is None else str(rank), []).append(str(i + 1))
        value = {"ranker": buckets}
    fields = {name: getattr(one, name) for name in ("created_at",) if getattr(one, name)}
    result = {
        "id": made_id(*map(str, key), one.labeler)[:10],
        "from_name": "comparison" if style == "pairwise" else "rank",
        "to_name": "comparison" if style == "pairwise" else "answers",
        "type": "pairwise" if style == "pairwise" else "ranker",
        "value": value,
        "meta": {"labeler": one.labeler, **fields, **({"meta": dict(one.meta)} if one.meta else {})},
    }
    return {"result": [result], "was_cancelled": False, "ground_truth": False, **fields}


FORMAT = Format("label-studio", "Label Studio's tasks with Pairwise or Ranker annotations", known, read, rows,
                array=True)  # fmt: skip
