"""Files and names turned into records, and what a person is told when that cannot be done."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from rlhf.data import sources
from rlhf.data.records import Demonstration, Prompt, Ranking
from rlhf.errors import DataError


def write(folder: Path, name: str, text: str | bytes) -> str:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


def test_jsonl_demonstrations_keep_texts_exactly(tmp_path: Path) -> None:
    source = write(
        tmp_path,
        "d.jsonl",
        '{"prompt": "Say hi. ", "completion": " Hi!\\n", "group": "g"}\n\n{"text": "Plain\u2028text"}\n'
        '{"messages": [{"role": "user", "content": "A?"}, {"role": "assistant", "content": "B."}]}\n',
    )
    assert sources.load_demonstrations(source) == [
        Demonstration("Say hi. ", " Hi!\n", "g"),
        Demonstration("", "Plain\u2028text"),
        Demonstration(({"role": "user", "content": "A?"},), "B."),
    ]


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    assert sources.load_prompts(write(tmp_path, "p.jsonl", b'\xef\xbb\xbf{"prompt": "a"}\n')) == [Prompt("a")]
    assert sources.load_prompts(write(tmp_path, "p.csv", b"\xef\xbb\xbfprompt\na\n")) == [Prompt("a")]


def test_csv_with_lists_newlines_and_empty_cells(tmp_path: Path) -> None:
    source = write(
        tmp_path,
        "r.csv",
        'prompt,completions,ranks,labeler\r\n"two\r\nlines","[""a"", ""b"", ""c""]","[2, 1, null]",\r\n'
        '"[{""role"": ""user"", ""content"": ""hi""}]","[""a"", ""b""]","[1, 1]",ada\r\n',
    )
    first, second = sources.load_rankings(source)
    assert first == Ranking("two\r\nlines", ("a", "b", "c"), (2, 1, None))
    assert second == Ranking(({"role": "user", "content": "hi"},), ("a", "b"), (1, 1), "ada")


def test_parquet_with_nulls(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "r.parquet"
    table = {"prompt": ["p"], "completions": [["a", "b"]], "ranks": [[None, 1]], "labeler": [None]}
    pyarrow.parquet.write_table(pyarrow.table(table), path)
    assert sources.load_rankings(str(path)) == [Ranking("p", ("a", "b"), (None, 1))]


def test_pairs_as_trl_writes_them(tmp_path: Path) -> None:
    source = write(tmp_path, "pairs.json", '{"prompt": "p", "chosen": "good", "rejected": "bad"}\n')
    assert sources.load_rankings(source) == [Ranking("p", ("good", "bad"), (1, 2))]


CHAT = ({"role": "user", "content": "Why?"},)


def turn(text: str, role: str = "assistant") -> dict[str, str]:
    return {"role": role, "content": text}


def test_conversational_pairs_as_trl_has_them(tmp_path: Path) -> None:
    row = {"prompt": list(CHAT), "chosen": [turn("good")], "rejected": [turn("bad")]}
    expected = [Ranking(CHAT, ("good", "bad"), (1, 2))]
    assert sources.load_rankings(write(tmp_path, "pairs.jsonl", json.dumps(row))) == expected
    cells = ",".join('"' + json.dumps(value).replace('"', '""') + '"' for value in row.values())
    assert sources.load_rankings(write(tmp_path, "pairs.csv", f"prompt,chosen,rejected\n{cells}\n")) == expected
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "pairs.parquet")
    assert sources.load_rankings(str(tmp_path / "pairs.parquet")) == expected


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ([], r"expected a non-empty list of messages, found \[\]"),
        ([turn("a", "user")], "expected text or one assistant's turn; move earlier turns to 'prompt'"),
        ([turn("a", "user"), turn("b")], "expected text or one assistant's turn; move earlier turns to 'prompt'"),
        ([{"role": "assistant", "content": None}], "expected text, found None"),
        (3, "expected text, found 3"),
    ],
)
def test_a_pair_that_holds_no_completion_is_named(tmp_path: Path, chosen: object, said: str) -> None:
    source = write(tmp_path, "pairs.jsonl", json.dumps({"prompt": "p", "chosen": chosen, "rejected": "b"}))
    with pytest.raises(DataError, match=rf"pairs\.jsonl, line 1, field 'chosen'.*: {said}"):
        sources.load_rankings(source)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.jsonl", '{"prompt": "p"}\n{"prompt": }\n', ["a.jsonl, line 2, column 12", "not valid JSON"]),
        ("a.jsonl", '[{"prompt": "p"}]\n', ["line 1", "JSON object", "list", "one object a line"]),
        ("a.json", '[\n  {"prompt": 3}\n]\n', ["a.json, record 1", "found 3"]),
        ("a.jsonl", '"p"\n', ["line 1", "expected a JSON object, found str"]),
        ("a.jsonl", '{"prompt": "p"}\n{"prompt": 3}\n', ["line 2, field 'prompt'", "found 3"]),
        ("a.jsonl", '{"prompt": "p"}\n{"prompt": "  "}\n', ["line 2, field 'prompt'", "blank", "remove the row"]),
        ("a.jsonl", '{"question": "p"}\n', ["line 1", "'prompt', 'messages'", "found question"]),
        ("a.jsonl", b'{"prompt": "p"}\n{"prompt": "\xff"}\n', ["line 2", "not UTF-8", "0xff at offset 28"]),
        ("a.jsonl", '{"prompt": "\\ud800"}\n', ["line 1", "lone surrogate"]),
        ("a.jsonl", '{"n": ' + "9" * 5000 + "}\n", ["line 1", "not valid JSON"]),
        ("a.jsonl", "[" * 100_000 + "\n", ["line 1", "not valid JSON"]),
        ("a.jsonl", "\n \n", ["a.jsonl", "holds no rows"]),
        ("a.csv", "", ["a.csv", "holds no rows"]),
        ("a.csv", "prompt\n", ["a.csv", "holds no rows"]),
        ("a.csv", "prompt,group\nx\n", ["line 2", "expected 2 cells as in the header, found 1"]),
        ("a.csv", "prompt,prompt\nx,y\n", ["line 1", "a column twice"]),
        ("a.csv", 'prompt\n"open\n', ["a.csv", "not valid CSV"]),
        ("a.csv", b"prompt\nok\n\xe9\n", ["a.csv, line 3", "not UTF-8", "0xe9 at offset 10"]),
        ("a.csv", b"prompt\na\x00b\n", ["a.csv, line 2", "NUL"]),
        ("a.csv", 'prompt,messages\n"",hello\n', ["line 2, field 'messages'", "JSON list"]),
        ("a.parquet", "not parquet at all", ["a.parquet", "not a readable Parquet file"]),
        ("a.txt", "hello", ["a.txt", "unknown kind of file '.txt'", ".jsonl"]),
    ],
)
def test_a_bad_file_is_one_clear_line(tmp_path: Path, name: str, content: str | bytes, expected: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        sources.load_prompts(write(tmp_path, name, content))
    message = str(caught.value)
    assert "\n" not in message
    for part in expected:
        assert part in message


def test_csv_line_numbers_count_lines_inside_quotes(tmp_path: Path) -> None:
    source = write(tmp_path, "a.csv", 'prompt,group\n"one\ntwo",g\nx\n')
    with pytest.raises(DataError, match="line 4: expected 2 cells"):
        sources.load_prompts(source)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.jsonl: no such file"):
        sources.load_prompts(str(tmp_path / "gone.jsonl"))
    with pytest.raises(DataError, match="is a folder"):
        sources.load_prompts(str(tmp_path))
    with pytest.raises(DataError, match=r"gone\.csv: no such file"):
        sources.source_fingerprint(str(tmp_path / "gone.csv"))


def test_unknown_builtin_names_the_nearest() -> None:
    with pytest.raises(DataError, match="did you mean builtin:film-reviews"):
        sources.load_rankings("builtin:film-review")
    with pytest.raises(DataError, match="did you mean builtin:smollm2-135m"):
        sources.resolve_model("builtin:smollm2")
    with pytest.raises(DataError, match="unknown builtin data source"):
        sources.load_prompts("builtin:xyz")


def test_a_hub_name_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def refuse(name: str, split: str) -> None:
        raise ConnectionError(f"no way to {name} {split}\nsecond line")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(DataError, match=r"org/set:test: neither a file .*no way to org/set test\)"):
        sources.load_prompts("org/set:test")


def test_a_hub_name_gives_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: [{"prompt": f"{name} {split}", "group": None}])
    assert sources.load_prompts("org/set") == [Prompt("org/set train")]
    assert sources.load_prompts("org/set:test") == [Prompt("org/set test")]


def test_a_generic_file_is_split_by_prompt(tmp_path: Path) -> None:
    source = write(tmp_path, "p.jsonl", "".join(f'{{"prompt": "question {i}"}}\n' for i in range(200)))
    train, held_out = (sources.load_prompts(source, s, eval_fraction=0.25) for s in ("train", "eval"))
    assert len(train) + len(held_out) == 200 and 30 <= len(held_out) <= 70
    assert not {p.prompt for p in train} & {p.prompt for p in held_out}
    with pytest.raises(DataError, match="unknown split 'test'"):
        sources.load_prompts(source, "test")  # type: ignore[arg-type]


def test_one_prompt_cannot_be_split(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"one.jsonl: cannot split 2 rows .* found 1"):
        sources.load_prompts(write(tmp_path, "one.jsonl", '{"prompt": "p"}\n' * 2), "train")


def test_other_model_names_pass_unchanged() -> None:
    assert sources.resolve_model("HuggingFaceTB/SmolLM2-135M") == "HuggingFaceTB/SmolLM2-135M"


def test_fingerprints(tmp_path: Path) -> None:
    source = write(tmp_path, "p.jsonl", "abc")
    assert sources.source_fingerprint(source) == hashlib.sha256(b"abc").hexdigest()
    assert sources.source_fingerprint("org/set:test") == "hub:org/set:test"
    film = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9:v1"
    assert sources.source_fingerprint("builtin:film-reviews:gold") == film
    assert sources.source_fingerprint("builtin:smollm2-135m").startswith("bcc81830d10ce7d9")
