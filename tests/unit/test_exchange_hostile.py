"""Files that are broken on purpose: whatever stands where something else belongs is one line of DataError."""

from __future__ import annotations

import copy
import csv
import gzip
import json
import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlhf.data import readers, sources
from rlhf.data.readers import Meter, read_csv, read_json_array, read_jsonl
from rlhf.data.records import Ranking
from rlhf.errors import DataError
from rlhf.preferences import LabelStore
from rlhf.preferences.exchange import FORMATS, RankingFile, write

CHAT = ({"role": "user", "content": "Why?"},)
WRITTEN = [
    Ranking("p", ("x", "y", "z"), (2, 1, None), "ann", "2024-05-01", "g", {"note": 1}),
    Ranking(CHAT, ("a", "b"), (1, 2), "bob", "2024-05-02", "g"),
]
PAIRWISE = {"type": "pairwise", "value": {"selected": "left"}}
RANKER = {"type": "ranker", "value": {"ranker": ["b", "a"]}}
BUCKETS = {"type": "ranker", "value": {"ranker": {"1": ["b"], "_": ["a"]}}}
ITEMS = {"prompt": "Q", "items": [{"id": "a", "body": "A"}, {"id": "b", "body": "B"}], "group": "g"}
PERSON = {"id": 7, "email": "", "first_name": "Ann", "last_name": "Lee"}
FIELDS = {"instruction": "Q", "response_1": "A", "response_2": "B"}
RANKS = [{"value": "response_1", "rank": 2}, {"value": "response_2", "rank": 1}]
LEAF = {"message_id": "i", "role": "assistant", "text": "A", "rank": 0, "model_name": "m", "replies": []}

# Rows as other tools write them; what this toolkit writes is added to them.
FOREIGN: dict[str, list[dict[str, Any]]] = {
    "rankings": [],
    "trl": [
        {
            "chosen": [*CHAT, {"role": "assistant", "content": "a"}],
            "rejected": [*CHAT, {**CHAT[0], "role": "assistant"}],
        }
    ],
    "hh-rlhf": [],
    "argilla": [
        {
            "fields": FIELDS,
            "metadata": {"split": "x"},
            "responses": {"r": [{"value": RANKS, "user_id": "u", "status": "submitted"}]},
        },
        FIELDS
        | {
            "r.responses": [["response_2", "response_1"]],
            "r.responses.users": ["u"],
            "r.responses.status": ["submitted"],
        },
    ],
    "label-studio": [
        {
            "data": {"prompt": "Q", "answer1": "A", "answer2": "B"},
            "annotations": [{"result": [PAIRWISE], "completed_by": PERSON}],
        },
        {
            "data": ITEMS,
            "annotations": [{"result": [RANKER], "completed_by": 3, "lead_time": 1.5, "created_at": "2024"}],
        },
        {"data": ITEMS, "annotations": [{"result": [BUCKETS], "was_cancelled": False}]},
    ],
    "oasst": [
        {
            "message_tree_id": "t",
            "prompt": {"role": "prompter", "text": "Q", "replies": [LEAF, LEAF | {"text": "B", "rank": 1}]},
        }
    ],
}

DEEP = "@deep {}@"  # JSON that is nested so deeply cannot be made by `json.dumps`; it is put into the text
DEPTHS = (50, 900)
ABSENT = object()
HOSTILE: list[Any] = [
    ABSENT, None, True, -1, 3, 10**4299, 1.5, "x", "\ud800\n\x00", "7" * 400, [], ["left"], [3], [None, {}], {},
    {"id": {"id": [1]}}, {"value": "response_1"}, *(DEEP.format(depth) for depth in DEPTHS),
]  # fmt: skip


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to everything that stands in a row."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield (*above, key)
        yield from places(value[key], (*above, key))


def broken(row: dict[str, Any], way: tuple[Any, ...], value: Any) -> str:
    """The row as JSON, with another value in one place."""
    row = copy.deepcopy(row)
    at: Any = row
    for key in way[:-1]:
        at = at[key]
    if value is ABSENT:
        del at[way[-1]]
    else:
        at[way[-1]] = value
    text = json.dumps(row)
    for depth in DEPTHS:
        text = text.replace(f'"{DEEP.format(depth)}"', '{"id":' * depth + "1" + "}" * depth)
    return text


@pytest.mark.parametrize("format", FORMATS)
def test_any_value_in_any_place_is_read_or_refused_in_one_line(tmp_path: Path, format: str) -> None:
    """What is read can be kept as well: it goes into a store."""
    path = tmp_path / "f.json"
    write(path, WRITTEN, format)
    found = json.loads(path.read_text())
    taken = list(RankingFile(path, format))
    refused = 0
    for row in (*found, *json.loads(json.dumps(FOREIGN[format]))):
        for way in places(row):
            for value in HOSTILE:
                path.write_text(broken(row, way, value))
                try:
                    taken += RankingFile(path, format)
                except DataError as error:
                    refused += 1
                    said = str(error)
                    assert said.startswith(str(path)) and said.isprintable() and len(said) < 500, (way, value)
    assert refused > 50 and taken
    with LabelStore.open(tmp_path / "labels.db", create=True) as store:
        assert store.import_rankings(taken, batch="b").read == len(taken)


@pytest.mark.parametrize("format", ["argilla", "label-studio", "oasst"])
def test_a_file_of_anything_is_told_or_refused(tmp_path: Path, format: str) -> None:
    path = tmp_path / "f.jsonl"
    for row in FOREIGN[format]:
        for name in row:
            for value in HOSTILE:
                path.write_text(broken(row, (name,), value))
                try:
                    list(RankingFile(path))
                except DataError as error:
                    assert str(error).isprintable()


@pytest.mark.parametrize(
    ("format", "row", "message"),
    [
        (
            "label-studio",
            {"data": ITEMS, "annotations": [{"result": 3}]},
            "annotation 1, field 'result': expected a list of results, found 3",
        ),
        (
            "label-studio",
            {"data": ITEMS, "annotations": [{"result": [{"type": "pairwise", "value": {"selected": ["left"]}}]}]},
            "annotation 1: expected selected left or right, found list",
        ),
        (
            "label-studio",
            {"data": ITEMS, "annotations": [{"result": [{"type": "ranker", "value": {"ranker": ["a", "a"]}}]}]},
            "annotation 1: ranks 'a' twice",
        ),
        (
            "label-studio",
            {"data": ITEMS, "annotations": [{"result": [RANKER], "completed_by": [1]}]},
            "annotation 1, field 'completed_by': expected a user's id, found list",
        ),
        (
            "oasst",
            {"message_tree_id": "t", "prompt": {"role": {}, "text": "x"}},
            "message '': expected a 'text' and a 'role' of",
        ),
        (
            "argilla",
            {"fields": FIELDS, "metadata": [1], "responses": {}},
            "field 'metadata': expected an object, found list",
        ),
        (
            "argilla",
            FIELDS | {"r.responses": [["x"]], "r.responses.users": ["u", "v"]},
            "field 'r.responses.users': expected a list, one",
        ),
        ("argilla", FIELDS | {"r.responses": 3}, "field 'r.responses': expected a list, one"),
    ],
)
def test_what_is_of_another_type_is_named(tmp_path: Path, format: str, row: dict[str, Any], message: str) -> None:
    path = tmp_path / "f.jsonl"
    path.write_text(json.dumps(row))
    with pytest.raises(DataError) as caught:
        list(RankingFile(path, format))
    assert str(caught.value).startswith(f"{path}, line 1") and message in str(caught.value)


def test_meta_is_nested_a_hundred_deep_at_most(tmp_path: Path) -> None:
    """The meta itself is the first level. More could be written to a store and, where the stack is higher, not read."""
    path = tmp_path / "f.jsonl"
    row = '{"prompt": "p", "chosen": "a", "rejected": "b", "note": %s1%s}'
    path.write_text(row % ("[" * 99, "]" * 99))
    assert len(list(RankingFile(path))) == 1
    path.write_text(row % ("[" * 100, "]" * 100))
    with pytest.raises(DataError, match=r"f\.jsonl, line 1, field 'meta': is nested more than 100 deep; make it flat"):
        list(RankingFile(path))


# --- rows without an end


def bomb(path: Path, begin: bytes, middle: bytes, size: int) -> Path:
    """A file that packs to nothing; `middle` again and again makes it `size` bytes long."""
    with gzip.open(path, "wb", compresslevel=1) as out:
        out.write(begin)
        for _ in range(size >> 20):
            out.write(middle * (2**20 // len(middle)))
    return path


@pytest.mark.parametrize(
    ("name", "begin", "middle", "message"),
    [
        ("a.jsonl.gz", b'{"a": 1}\n{"a": "', b"x", "line 2: longer than 1 MiB, the most for one row"),
        ("a.csv.gz", b"prompt\nok\n", b"x", "line 3: longer than 1 MiB"),
        ("a.csv.gz", b'prompt\nok\n"', b"many\nlines", "line 3: a quote that nothing closes, or a row longer"),
        ("a.csv.gz", b"prompt\nok\n", b'"c\n",', "line 3: a quote that nothing closes, or a row longer than 1 MiB"),
        ("a.json.gz", b'[{"a": 1}, {"a": "', b"x", "record 2: not valid JSON (Unterminated string"),
        ("a.json.gz", b'[{"a": 1}, {"a": [', b"[],", "or longer than 1 MiB"),
    ],
)
def test_a_row_without_an_end_takes_no_memory(
    tmp_path: Path, name: str, begin: bytes, middle: bytes, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 MiB of it, where 1 MiB is the most, are read no further than that."""
    monkeypatch.setattr(readers, "LONGEST", 2**20)
    path = bomb(tmp_path / name, begin, middle, 2**26)
    read = {".jsonl": read_jsonl, ".csv": read_csv, ".json": read_json_array}[readers.suffix_of(path)]
    rows = read(path, Meter())
    next(rows)
    tracemalloc.start()
    try:
        with pytest.raises(DataError) as caught:
            list(rows)
        assert tracemalloc.get_traced_memory()[1] < 40 * 2**20
    finally:
        tracemalloc.stop()
    assert str(caught.value).startswith(f"{path}, ") and message in str(caught.value)


def test_rows_up_to_the_limit_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line counts with its end, a row of CSV with all its lines; many short ones are no long one."""
    monkeypatch.setattr(readers, "LONGEST", 100)
    monkeypatch.setattr(readers._Text, "CHUNK", 10)
    line = json.dumps({"prompt": "x" * 85}) + "\n"
    assert len(line) == 100
    (tmp_path / "a.jsonl").write_text(line * 5)
    assert sum(1 for _ in read_jsonl(tmp_path / "a.jsonl")) == 5
    (tmp_path / "a.jsonl").write_text(line + line.replace("x", "xx", 1))
    with pytest.raises(DataError, match=r"a\.jsonl, line 2: longer than"):
        list(read_jsonl(tmp_path / "a.jsonl"))
    (tmp_path / "a.json").write_text(f"[{' ' * 500}{','.join([line] * 5)}]")
    assert sum(1 for _ in read_json_array(tmp_path / "a.json")) == 5
    (tmp_path / "a.csv").write_text("prompt\n" + ('"' + "x\n" * 48 + '"\n') * 5)
    before = csv.field_size_limit()
    assert sum(1 for _ in read_csv(tmp_path / "a.csv")) == 5
    assert csv.field_size_limit() == before  # the process's: whatever else reads CSV here keeps its own


# --- what is there, and no file


@pytest.mark.parametrize("name", ["pipe.jsonl", "pipe.csv.gz", "pipe"])
def test_a_pipe_is_no_ordinary_file(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    message = rf"{name}: is no ordinary file \(but a pipe or a device\); copy its content into a file"
    with pytest.raises(DataError, match=message):
        sources.load_prompts(str(tmp_path / name))
    with pytest.raises(DataError, match=message):
        RankingFile(tmp_path / name)
    with pytest.raises(DataError, match=r"^/dev/null: is no ordinary file"):
        RankingFile("/dev/null")


def test_the_home_of_nobody_is_no_file() -> None:
    for load in (sources.load_prompts, RankingFile, sources.source_fingerprint):
        with pytest.raises(DataError, match=r"^~nobody-here/a\.jsonl: no such file \(Could not determine home"):
            load("~nobody-here/a.jsonl")


def test_a_parquet_file_of_bytes_that_are_no_text_is_named(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "a.parquet"
    texts = pyarrow.array([b"\xff\xfe"]).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"prompt": texts}), path)
    with pytest.raises(DataError, match=r"a\.parquet: not a readable Parquet file \('utf-8' codec"):
        sources.load_prompts(str(path))
