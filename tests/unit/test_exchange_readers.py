"""Reading files row by row: packed, as CSV that spreadsheets may open, as one long JSON array."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.data import readers, sources
from rlhf.data.readers import Meter, escaped, read_csv, read_json_array, read_jsonl, unescaped
from rlhf.data.records import Ranking
from rlhf.errors import DataError
from rlhf.preferences.exchange import write

# --- what a spreadsheet would run

FORMULAS = [
    "=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", " =1", "\u3000=1", "\u00a0+1", '"=1', "'=1", "“-1",
    "\uff1d1", "\uff0b1", "\uff0d1", "\uff201", "\uff02=1", "=", "=cmd|' /C calc'!A0",
]  # fmt: skip


@pytest.mark.parametrize("text", FORMULAS, ids=ascii)
def test_what_a_spreadsheet_would_run_is_marked_in_the_file(tmp_path: Path, text: str) -> None:
    assert escaped(text) == f"'{text}" and unescaped(f"'{text}") == text
    write(tmp_path / "r.csv", [Ranking(f"{text}?", (text, "b"), (1, 2), group=text)])
    raw = (tmp_path / "r.csv").read_bytes().decode()
    assert raw.startswith('"prompt","completions","ranks","labeler","created_at","group","meta_json"\n"\'')
    write(tmp_path / "p.csv", [Ranking("p", (text, "b"), (1, 2))], "trl")
    assert sources.load_rankings(str(tmp_path / "p.csv")) == [Ranking("p", (text, "b"), (1, 2))]


@pytest.mark.parametrize("text", ["a=1", "'tis", "''", "'", "1", "a", "(=1)", "\u2212", ""])
def test_other_texts_are_left_alone(text: str) -> None:
    assert escaped(text) == text and unescaped(text) == text


@given(st.text(st.sampled_from("'\"=+-@ \t\r\n[{a\uff1d\u3000“"), max_size=8) | st.text(max_size=20))
def test_the_mark_comes_off_exactly(text: str) -> None:
    assert unescaped(escaped(text)) == text
    if escaped(text) == text:
        assert not text.lstrip(" \t\r\n\"'").startswith(("=", "+", "-", "@"))


# --- CSV


def test_a_long_cell_is_read(tmp_path: Path) -> None:
    """Python's own limit is 131,072 characters, less than a text on a labeler's screen may have."""
    path = tmp_path / "r.csv"
    path.write_text(f'prompt,chosen,rejected\np,"{"x" * 200_000}",b\n')
    assert len(sources.load_rankings(str(path))[0].completions[0]) == 200_000


def test_a_csv_file_is_read_row_by_row(tmp_path: Path) -> None:
    """40,000 rows of 200 characters are 8 MB; their first rows are there before the rest is read."""
    path = tmp_path / "r.csv"
    with path.open("w") as out:
        out.write("prompt,group\n")
        out.writelines(f'"prompt {i} {"x" * 190}\nsecond line",g\n' for i in range(40_000))
    meter = Meter()
    tracemalloc.start()
    try:
        rows = read_csv(path, meter)
        where, first = next(rows)
        assert first["prompt"].startswith("prompt 0") and where.endswith("line 2") and meter.done < 1000
        for where, _ in rows:  # noqa: B007  # the last one is looked at
            pass
        assert where.endswith("line 80000")
        assert tracemalloc.get_traced_memory()[1] < 2e6
    finally:
        tracemalloc.stop()
    assert meter.done == meter.size == path.stat().st_size


def test_faults_of_a_csv_file_are_named_where_they_are(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_bytes(b"prompt\n" + b"ok\n" * 1000 + b"\xff\n")
    with pytest.raises(DataError, match=r"r\.csv, line 1002: not UTF-8 \(byte 0xff at offset 3007 of the file\)"):
        list(read_csv(path))


# --- packed files


@pytest.mark.parametrize("name", ["r.jsonl.gz", "r.JSON.GZ", "r.csv.gz"])
def test_packed_files_are_unpacked_on_the_way(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    text = "prompt,group\np,g\n" if "csv" in name else '{"prompt": "p", "group": "g"}\n'
    path.write_bytes(gzip.compress(text.encode()))
    assert [p.prompt for p in sources.load_prompts(str(path))] == ["p"]
    assert len(sources.source_fingerprint(str(path))) == 64


def test_a_packed_file_that_is_cut_off_is_named(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"prompt": "p"}\n' * 10_000)[:-20])
    with pytest.raises(DataError, match=r"r\.jsonl\.gz: not a whole gzip file \(.*\); fetch or pack it again"):
        list(read_jsonl(path))


def test_the_meter_follows_the_packed_bytes(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps({"prompt": str(i**9)}) + "\n" for i in range(50_000)).encode()))
    meter, seen = Meter(), []
    for number, _ in enumerate(read_jsonl(path, meter)):
        if not number % 10_000:
            seen.append(meter.done)
    assert seen == sorted(set(seen)) and seen[-1] < meter.size
    assert meter.done == meter.size == path.stat().st_size


# --- one JSON array

ROWS: list[dict[str, Any]] = [{"text": "ü😀" * n, "n": [n, {"x": None}], "quote": '\\"]},{'} for n in range(7)]


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64, 2**18])
@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_is_read_whatever_the_chunks_cut(
    tmp_path: Path, chunk: int, indent: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers._Text, "CHUNK", chunk)
    path = tmp_path / "a.json"
    path.write_bytes(b"\xef\xbb\xbf \n" + json.dumps(ROWS, indent=indent, ensure_ascii=False).encode() + b"\n")
    meter = Meter()
    found = list(read_json_array(path, meter))
    assert [row for _, row in found] == ROWS
    assert found[2][0] == f"{path}, record 3"
    assert meter.done == meter.size


@settings(deadline=None, max_examples=30)
@given(st.lists(st.dictionaries(st.text(max_size=3), st.text(max_size=9) | st.integers() | st.none(), max_size=3)))
def test_any_array_is_read(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]) -> None:
    path = tmp_path_factory.mktemp("a") / "a.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    assert [row for _, row in read_json_array(path)] == rows


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"a": 1}', "expected a JSON array; begin with"),
        (b'[{"a": 1} {"b": 2}]', "record 1: expected , or ] after it, found {"),
        (b'[{"a": 1}', "record 1: expected , or ] after it, found the end"),
        (b'[{"a": 1},]', "record 2: expected a JSON object, found ]"),
        (b'[{"a": 1}, [2]]', "record 2: expected a JSON object, found list"),
        (b'[{"a": 1}, 2]', "record 2: expected a JSON object, found 2"),
        (b'[{"a": }]', "record 1: not valid JSON"),
        (b'[{"a": "\xff"}]', "not UTF-8 (byte 0xff at offset 8 of the file)"),
        (b'[{"a": ' + b"[" * 100_000, "record 1: not valid JSON"),
    ],
)
def test_a_broken_array_is_named(tmp_path: Path, text: bytes, message: str) -> None:
    (tmp_path / "a.json").write_bytes(text)
    with pytest.raises(DataError) as caught:
        list(read_json_array(tmp_path / "a.json"))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_an_array_is_read_record_by_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """20,000 records of 200 characters; and a text that never ends is not read to the end of a long file."""
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"text": "x" * 180, "n": i} for i in range(20_000)]))
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_json_array(path)) == 20_000
        assert tracemalloc.get_traced_memory()[1] < 4e6
    finally:
        tracemalloc.stop()
    monkeypatch.setattr(readers, "LONGEST", 2**16)
    path.write_text('[{"text": "' + "x" * 10**7)
    meter = Meter()
    with pytest.raises(DataError, match="record 1: not valid JSON"):
        list(read_json_array(path, meter))
    assert meter.done < 2**21
