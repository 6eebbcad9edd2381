"""`rlhf data`: other tools' files into a store and out of it again, and what is said of what did not fit."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rlhf import cli
from rlhf.cli_data import ExportFormat, ImportFormat
from rlhf.data.records import Ranking
from rlhf.preferences import LabelStore
from rlhf.preferences.exchange import AUTO, FORMATS, WRITABLE, RankingFile, write

runner = CliRunner()
CHAT = ({"role": "user", "content": "Why?"},)
RANKINGS = [
    Ranking(CHAT, ("a", "b", "c"), (2, 1, 2), "ann", "2024-05-01", "g", {"note": 1}),
    Ranking(CHAT, ("a", "b", "c"), (1, 2, None), "bob", "2024-05-02", "g"),
    Ranking(CHAT, ("d", "e"), (1, 2), "ann"),
]


def call(*arguments: str | Path) -> str:
    """What a command that must go well wrote to stdout."""
    result = runner.invoke(cli.app, ["data", *map(str, arguments)])
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    return result.stdout


def refusal(*arguments: str | Path) -> str:
    result = runner.invoke(cli.app, ["data", *map(str, arguments)])
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    assert result.stderr.startswith("rlhf: error: ") and result.stderr.count("\n") == 1
    return result.stderr.removeprefix("rlhf: error: ").rstrip("\n")


def test_the_command_knows_every_format() -> None:
    """Its names are written out, so that `--help` imports nothing."""
    assert [f.value for f in ImportFormat] == [AUTO, *FORMATS]
    assert [f.value for f in ExportFormat] == [*WRITABLE, "demonstrations"]


@pytest.mark.parametrize("way", ["rankings", "argilla", "label-studio", "oasst", "datasets", "rankings.parquet"])
def test_a_store_through_a_file_into_a_store_is_the_same(tmp_path: Path, way: str) -> None:
    format, _, ending = way.partition(".")
    ending = ending or ("json" if format in FORMATS and FORMATS[format].array else "jsonl")
    file = tmp_path / ("folder" if format == "datasets" else f"out.{ending}")
    first, second = tmp_path / "first.db", tmp_path / "second.db"
    with LabelStore.open(first, create=True) as store:
        store.import_rankings(RANKINGS, batch="one")
    said = call("export", file, "--format", format, "--store", first).splitlines()
    assert said[0].startswith(f"{file}: ") and said[0].endswith(f"({format}) of 3 rankings from {first}")
    assert all(line.startswith("its labeling interface: ") for line in said[1:])
    name = "rankings" if format == "datasets" else format
    assert call("import", file, "--batch", "two", "--store", second).splitlines() == [
        f"{file}: {name}, told by its content; 3 to import",
        f"{second}: read 3 rankings, added 3 to batch 'two' (0 of them revisions), 0 were there already",
    ]
    with LabelStore.open(second) as store:
        back = sorted(store.rankings(), key=repr)
    assert back == sorted(RANKINGS, key=repr)
    assert [r.meta for r in back if r.meta] == [{"note": 1}]
    again = call("import", file, "--batch", "two", "--store", second)
    assert again.endswith("added 0 to batch 'two' (0 of them revisions), 3 were there already\n")


def test_what_does_not_fit_is_said_both_ways(tmp_path: Path) -> None:
    file, store = tmp_path / "hh.jsonl", tmp_path / "labels.db"
    write(tmp_path / "in.jsonl", RANKINGS)
    call("import", tmp_path / "in.jsonl", "--batch", "one", "--store", store)
    assert call("export", file, "--format", "hh-rlhf", "--store", store) == (
        f"{file}: 4 rows (hh-rlhf) of 3 rankings from {store}\n"
        "left out: tied pairs (1), pairs with an unranked completion (2)\n"
        "no place in this format: labeler (3), created_at (2), group (2), meta (1)\n"
    )
    with file.open("a") as out:
        out.write(json.dumps({"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: b"}))
    said = call("import", file, "--batch", "two", "--store", store).splitlines()
    assert said[:2] == [
        f"{file}: hh-rlhf, told by its content; 4 to import",
        "left out: rows whose two transcripts are equal (1)",
    ]


def test_a_format_that_is_named_is_not_told(tmp_path: Path) -> None:
    file, new = tmp_path / "in.jsonl", tmp_path / "new.db"
    write(file, RANKINGS)
    said = refusal("import", file, "--batch", "one", "--format", "oasst", "--store", new)
    assert said == f"{file}, line 1: expected a message tree with 'message_tree_id' and 'prompt'"
    assert not new.exists()
    said = call("import", file, "--batch", "one", "--format", "rankings", "--store", new)
    assert said.startswith(f"{file}: rankings; 3 to import\n")


BAD: dict[str, tuple[str, str]] = {
    "r.jsonl": (
        '{"prompt": "p", "chosen": "a", "rejected": "b"}\n{"prompt": "p", "completions": ["a"], "ranks": [1]}',
        "line 2, field 'completions': expected a list of at least 2 texts",
    ),
    "r.csv": ('prompt,chosen,rejected\np,a,b\np,"",b\n', "line 3: field 'completions' is missing"),
    "r.json": ('[{"data": {"prompt": "p"}}, 3]', "record 2: expected a JSON object, found 3"),
    "cut.json": ('[{"data": {"prompt": "p"}}', "record 1: expected , or ] after it, found the end"),
    "labeler.jsonl": (
        '{"prompt": "p", "chosen": "a", "rejected": "b", "labeler": "a\\u202eb"}',
        "line 1, field 'labeler': expected 1 to 80 visible characters",
    ),
    "side.jsonl": (
        '{"data": {}, "annotations": [{"result": [{"type": "pairwise", "value": {"selected": ["left"]}}]}]}',
        "line 1, annotation 1: expected selected left or right, found list",
    ),
    "role.jsonl": (
        '{"message_tree_id": "t", "prompt": {"message_id": "m", "role": {}, "text": "x"}}',
        "line 1, message 'm': expected a 'text' and a 'role' of prompter or assistant",
    ),
    "cut.jsonl.gz": ("not packed", "not a whole gzip file"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_line_and_leaves_no_store_behind(tmp_path: Path, name: str) -> None:
    text, message = BAD[name]
    (tmp_path / name).write_text(text)
    said = refusal("import", tmp_path / name, "--batch", "one", "--store", tmp_path / "new.db")
    assert said.startswith(str(tmp_path / name)) and message in said
    assert not (tmp_path / "new.db").exists()


@pytest.mark.parametrize(
    ("name", "format", "message"),
    [
        ("r.xlsx", "rankings", "end it with .jsonl, .json, .csv, .parquet, .jsonl.gz, .json.gz or .csv.gz"),
        ("r.txt", "oasst", "end it with .jsonl, .json, .jsonl.gz or .json.gz"),
        ("r.jsonl", "label-studio", "end it with .json or .json.gz"),
        ("r.csv", "demonstrations", "end it with .jsonl, .json, .jsonl.gz or .json.gz"),
    ],
)
def test_an_ending_that_does_not_fit_is_refused(tmp_path: Path, name: str, format: str, message: str) -> None:
    with LabelStore.open(tmp_path / "labels.db", create=True) as store:
        store.import_rankings(RANKINGS, batch="one")
    said = refusal("export", tmp_path / name, "--format", format, "--store", tmp_path / "labels.db")
    ending = Path(name).suffix
    assert said == f"{tmp_path / name}: {format} cannot be kept in a file that ends with {ending!r}; {message}"
    assert not list(tmp_path.glob("r.*"))


@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_tasks_are_told_from_rankings(tmp_path: Path, ending: str) -> None:
    file, row = tmp_path / f"tasks.{ending}", {"prompt": "p", "completions": ["a", "b"], "priority": 2}
    file.write_text(json.dumps([row] if ending == "json" else row))
    said = refusal("import", file, "--batch", "one", "--store", tmp_path / "new.db")
    where = "record 1" if ending == "json" else "line 1"
    assert said == (
        f"{file}, {where}: these are tasks without ranks, and no rankings; "
        "queue them for people to rank with `rlhf store tasks FILE`"
    )
    assert not (tmp_path / "new.db").exists()


def test_a_builtin_is_imported_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rlhf.data import sources

    def load(name: str) -> list[Any]:
        assert name == "builtin:film-reviews"
        return RANKINGS

    monkeypatch.setattr(sources, "load_rankings", load)
    said = call("import", "builtin:film-reviews", "--batch", "films", "--store", tmp_path / "labels.db")
    assert said.endswith("added 3 to batch 'films' (0 of them revisions), 0 were there already\n")


def test_a_folder_is_not_written_over(tmp_path: Path) -> None:
    write(tmp_path / "in.jsonl", RANKINGS)
    call("import", tmp_path / "in.jsonl", "--batch", "one", "--store", tmp_path / "labels.db")
    call("export", tmp_path / "out", "--format", "datasets", "--store", tmp_path / "labels.db")
    said = refusal("export", tmp_path / "out", "--format", "datasets", "--store", tmp_path / "labels.db")
    assert said == f"{tmp_path / 'out'}: is a folder; name a file to write"
    assert len(list(RankingFile(tmp_path / "out"))) == 3


def test_a_terminal_sees_how_far_an_import_is(tmp_path: Path) -> None:
    """A bar with rows, rows a second and the time left, on stderr alone."""
    write(tmp_path / "in.jsonl", [Ranking(f"p{i}", ("a", "b"), (1, 2)) for i in range(3000)])
    words = ["data", "import", "in.jsonl", "--batch", "one", "--store", "labels.db"]
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", "from rlhf.cli import main; main()", *words],
        stdout=subprocess.PIPE,
        stderr=theirs,
        check=True,
        cwd=tmp_path,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "100", "PYTHONPATH": str(Path(cli.__file__).parents[1])},
        text=True,
    )
    os.close(theirs)
    shown = b""
    try:
        while more := os.read(ours, 65536):
            shown += more
    except OSError:  # its other end is shut, and all was read
        pass
    os.close(ours)
    assert done.stdout.endswith("added 3000 to batch 'one' (0 of them revisions), 0 were there already\n")
    for word in (b"checking", b"importing", b" rows, ", b"/s", b"%"):
        assert word in shown
