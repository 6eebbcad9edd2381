"""Every format by the same rankings: what is written is read back equal, or counted as what did not fit."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.data.records import Demonstration, Ranking, parse_ranking, ranking_row
from rlhf.data.sources import load_rankings
from rlhf.errors import DataError
from rlhf.preferences import LabelStore, pair_rows, write_demonstrations, write_pairs, write_rankings
from rlhf.preferences.exchange import FORMATS, WRITABLE, RankingFile, write

CHAT = ({"role": "user", "content": "Why?"},)
RANKING = Ranking("Say hi.", ("hi", "hello", "hey", "yo"), (2, 4, 2, 1), "ann", "2024-05-01", "g", {"note": "ü"})


def rows(records: Iterable[Ranking]) -> list[str]:
    """The records' JSON in an order of their own, meta included."""
    return sorted(json.dumps([isinstance(r.prompt, str), ranking_row(r)], sort_keys=True) for r in records)


def test_a_file_of_rankings_comes_back_equal(tmp_path: Path) -> None:
    path = tmp_path / "new" / "rankings.jsonl"
    rankings = [RANKING, Ranking(CHAT, ("because", "no"), (1, None))]
    assert write_rankings(path, rankings) == 2
    assert json.loads(path.read_text(encoding="utf-8").splitlines()[0]) == {
        "prompt": "Say hi.",
        "completions": ["hi", "hello", "hey", "yo"],
        "ranks": [2, 4, 2, 1],
        "labeler": "ann",
        "created_at": "2024-05-01",
        "group": "g",
        "note": "ü",
    }
    back = load_rankings(str(path))
    assert back == rankings
    assert back[0].meta == {"note": "ü"}
    assert [p.name for p in path.parent.iterdir()] == ["rankings.jsonl"]


def test_pairs_go_out_as_trl_has_them_and_come_in_again(tmp_path: Path) -> None:
    """Ranks 2, 4, 2, 1 hold five untied pairs; each comes back as a ranking of two."""
    path = tmp_path / "pairs.jsonl"
    assert write_pairs(path, [RANKING]) == 5
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert sorted((r["chosen"], r["rejected"]) for r in found) == [
        ("hey", "hello"),
        ("hi", "hello"),
        ("yo", "hello"),
        ("yo", "hey"),
        ("yo", "hi"),
    ]
    back = load_rankings(str(path))
    assert {r.ranks for r in back} == {(1, 2)}
    assert {(r.labeler, r.created_at, r.group) for r in back} == {("ann", "2024-05-01", "g")}


def test_what_pairs_cannot_hold_is_counted(tmp_path: Path) -> None:
    """Six pairs of four: one is tied, and of the second ranking's three pairs two have an unranked completion."""
    done = write(tmp_path / "pairs.jsonl", [RANKING, Ranking("p", ("a", "b", "c"), (1, 2, None))], "trl")
    assert (done.rankings, done.rows) == (2, 6)
    assert done.left_out == {"tied pairs": 1, "pairs with an unranked completion": 2}
    assert done.lost == {"meta": 1}


def test_chat_pairs_have_turns_on_both_sides(tmp_path: Path) -> None:
    assert pair_rows(Ranking(CHAT, ("a", "b"), (2, 1))) == [
        {
            "prompt": [{"role": "user", "content": "Why?"}],
            "chosen": [{"role": "assistant", "content": "b"}],
            "rejected": [{"role": "assistant", "content": "a"}],
        }
    ]
    path = tmp_path / "pairs.jsonl"
    write_pairs(path, [Ranking(CHAT, ("a", "b"), (2, 1))])
    assert load_rankings(str(path)) == [Ranking(CHAT, ("b", "a"), (1, 2))]


def turn(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def jsonl(path: Path, *found: Any) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    return str(path)


WHOLE = {
    "chosen": [turn("user", "Hi"), turn("assistant", "Yes?"), turn("user", "Why?"), turn("assistant", "So.")],
    "rejected": [turn("user", "Hi"), turn("assistant", "Yes?"), turn("user", "Why?"), turn("assistant", "No.")],
}


@pytest.mark.parametrize("prompt", [None, "Why?", WHOLE["chosen"][:3]], ids=["none", "its text", "its turns"])
def test_whole_conversations_are_split_where_they_part(tmp_path: Path, prompt: object) -> None:
    """TRL's implicit prompt, and UltraFeedback's rows, which have the last question beside it."""
    beside = {} if prompt is None else {"prompt": prompt}
    file = RankingFile(jsonl(tmp_path / "p.jsonl", WHOLE | beside | {"score": 3}))
    assert file.format.name == "trl"
    (found,) = file
    assert found == Ranking(tuple(WHOLE["chosen"][:3]), ("So.", "No."), (1, 2), "anonymous")
    assert found.meta == {"score": 3}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": "Other?"}, "field 'prompt': is not what the conversations begin with"),
        ({"rejected": WHOLE["rejected"][1:]}, "field 'chosen': the two conversations must be alike but for their last"),
        ({"rejected": WHOLE["rejected"][:2]}, "field 'chosen': the two conversations must be alike but for their last"),
        ({"chosen": "So."}, "field 'rejected': expected text or one assistant's turn; move earlier turns to 'prompt'"),
    ],
)
def test_conversations_that_do_not_fit_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        list(RankingFile(jsonl(tmp_path / "p.jsonl", WHOLE, WHOLE | change)))
    assert str(caught.value).startswith(f"{tmp_path / 'p.jsonl'}, line 2")


# --- any ranking, in every format that can hold it whole

texts = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x00"), min_size=1).filter(str.strip)
odd = st.sampled_from(["=1+1", "'=1", "''", "-", " @x", "＝1", "\t1", '[{"role": 1}]', '"+', "\r", "a\r\nb", "'tis"])
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=80).filter(
    lambda name: name.isprintable() and name == name.strip()
)
chats = st.lists(texts, min_size=1, max_size=5).map(
    lambda found: tuple(turn(("user", "assistant")[i % 2], text) for i, text in enumerate(found[: len(found) - 1 | 1]))
)
spoken = texts | odd.filter(str.strip)


def some(prompts: Any) -> Any:
    """Rankings of these prompts."""
    return st.lists(st.tuples(spoken, st.none() | st.integers(1, 9)), min_size=2, max_size=5).flatmap(
        lambda parts: st.builds(
            Ranking,
            prompt=prompts,
            completions=st.just(tuple(t for t, _ in parts)),
            ranks=st.just(tuple(r for _, r in parts)),
            labeler=names | odd.map(str.strip).filter(lambda name: name and name.isprintable()),
            created_at=st.sampled_from(["", "2024-01-01T00:00:00Z", "'=now"]),
            group=st.sampled_from(["", "g", "=g"]),
            meta=st.dictionaries(st.sampled_from(["note", "scores"]), st.lists(st.integers())),
        )
    )


WHOLE_FORMATS = {
    "rankings": "r.jsonl",
    "rankings, packed": "r.jsonl.gz",
    "rankings, array": "r.json",
    "rankings, packed array": "r.json.gz",
    "rankings, csv": "r.csv",
    "rankings, packed csv": "r.csv.gz",
    "rankings, parquet": "r.parquet",
    "argilla": "r.json",
    "argilla, packed": "r.json.gz",
    "label-studio": "r.json",
    "oasst": "r.jsonl",
    "oasst, array": "r.json",
}


@pytest.mark.parametrize("way", WHOLE_FORMATS)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_any_ranking_survives_a_file(tmp_path_factory: pytest.TempPathFactory, way: str, data: st.DataObject) -> None:
    kinds = [spoken, chats] if "parquet" in way else [spoken | chats]  # a column holds one kind
    given_rankings = data.draw(st.lists(some(data.draw(st.sampled_from(kinds))), min_size=1, max_size=5))
    path = tmp_path_factory.mktemp("f") / WHOLE_FORMATS[way]
    done = write(path, given_rankings, way.partition(",")[0])
    assert (done.left_out, done.lost) == ({}, {})
    file = RankingFile(path)
    assert file.format.name == way.partition(",")[0]
    assert rows(file) == rows(given_rankings) and not file.tally.left_out
    assert rows(file) == rows(given_rankings)  # and again
    assert file.whole and file.count == len(given_rankings)


def test_a_folder_for_datasets_comes_back_equal(tmp_path: Path) -> None:
    from datasets import load_from_disk

    folder = tmp_path / "folder"
    given_rankings = [RANKING, Ranking("p", ("a", "b"), (1, None), "bob")]
    assert write(folder, given_rankings, "datasets").rows == 2
    assert load_from_disk(str(folder))[0]["ranks"] == [2, 4, 2, 1]
    file = RankingFile(folder)
    assert rows(file) == rows(given_rankings)
    assert file.meter.done == file.meter.size == 2
    with pytest.raises(DataError, match="is there already; give the name of a new folder"):
        write(folder, given_rankings, "datasets")


def test_a_folder_of_several_splits_names_one(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    row = {"prompt": "p", "chosen": "a", "rejected": "b"}
    DatasetDict(train=Dataset.from_list([row]), test=Dataset.from_list([row])).save_to_disk(str(tmp_path / "both"))
    with pytest.raises(DataError, match=r"both: holds the splits train, test; name the folder of one, as .*both/train"):
        RankingFile(tmp_path / "both")
    assert list(RankingFile(tmp_path / "both" / "test")) == [Ranking("p", ("a", "b"), (1, 2), "anonymous")]
    with pytest.raises(DataError, match="is a folder, not one of `save_to_disk`"):
        RankingFile(tmp_path)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        some(spoken | chats), max_size=4, unique_by=lambda r: (r.labeler, r.prompt if isinstance(r.prompt, str) else "")
    )
)
def test_any_ranking_survives_the_store(
    tmp_path_factory: pytest.TempPathFactory, given_rankings: list[Ranking]
) -> None:
    with LabelStore.open(tmp_path_factory.mktemp("s") / "labels.db", create=True) as store:
        store.import_rankings(given_rankings, batch="one")
        store.import_rankings(given_rankings, batch="one")
        back = store.rankings()
    assert rows(back) == rows(given_rankings)
    assert [parse_ranking(ranking_row(r), "row") for r in back] == back


# --- files that must not be written


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        write_rankings(tmp_path / "file" / "r.jsonl", [RANKING])


@pytest.mark.parametrize("name", ["r.jsonl", "r.json", "r.csv", "r.parquet", "r.jsonl.gz"])
def test_a_writer_that_fails_leaves_the_old_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write_rankings(path, [RANKING])
    broken = Ranking("p", ("a", "b"), (1, 2), meta={"x": {1, 2}})
    with pytest.raises((DataError, TypeError)):
        write_rankings(path, [RANKING, broken])
    assert list(RankingFile(path)) == [RANKING]


def test_a_label_store_is_never_written_over(tmp_path: Path) -> None:
    """An export to the store's own file would leave its latest rankings, and nothing else."""
    path = tmp_path / "labels.jsonl"  # a store may have any name
    with LabelStore.open(path, create=True) as store:
        store.import_rankings([RANKING], batch="one")
        for each in (write_rankings, write_pairs):
            with pytest.raises(DataError, match="is a SQLite database"):
                each(path, store.rankings())
    with LabelStore.open(path) as store:
        assert store.rankings() == [RANKING]


@pytest.mark.parametrize(
    ("name", "format", "message"),
    [
        ("r.csv", "oasst", r"'\.csv'; end it with \.jsonl, \.json, \.jsonl\.gz or \.json\.gz$"),
        ("r.parquet", "argilla", r"r\.parquet: argilla cannot be kept in a file that ends with '\.parquet'; end it"),
        ("r.jsonl", "label-studio", r"that ends with '\.jsonl'; end it with \.json or \.json\.gz$"),
        ("r.jsonl.gz", "argilla", r"that ends with '\.jsonl'; end it with \.json or \.json\.gz$"),
        (
            "r.xlsx",
            "rankings",
            r"r\.xlsx: rankings cannot be kept in a file that ends with '\.xlsx'; "
            r"end it with \.jsonl, \.json, \.csv, \.parquet, \.jsonl\.gz, \.json\.gz or \.csv\.gz$",
        ),
        ("r.txt.gz", "trl", r"that ends with '\.txt'; end it with \.jsonl, "),
        ("r", "hh-rlhf", r"r: hh-rlhf cannot be kept in a file without an ending; end it with \.jsonl, "),
        ("r.gz", "rankings", "cannot be kept in a file without an ending"),
        ("r.jsonl", "datasets", r"is kept in a folder, not in a file that ends with '\.jsonl'; leave out the ending"),
        ("r.parquet.gz", "trl", "Parquet is packed already"),
        ("r.parquet", "rankings", r"text and chat prompts do not fit in one column; write \.jsonl or \.csv"),
        ("r.jsonl", "yaml", "unknown format 'yaml'; expected one of rankings, trl, hh-rlhf"),
    ],
)
def test_a_file_and_a_format_that_do_not_fit_are_refused(tmp_path: Path, name: str, format: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        write(tmp_path / name, [RANKING, Ranking(CHAT, ("a", "b"), (1, 2))], format)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", ["rankings", "trl", "hh-rlhf", "oasst"])
def test_json_is_one_array_of_the_lines_of_jsonl(tmp_path: Path, format: str) -> None:
    given_rankings = [RANKING, Ranking(CHAT, ("a", "b"), (1, 2))]
    for name in ("r.json", "R.JSON.gz", "r.jsonl"):
        write(tmp_path / name, given_rankings, format)
    array = json.loads((tmp_path / "r.json").read_text())
    assert array == [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert gzip.decompress((tmp_path / "R.JSON.gz").read_bytes()) == (tmp_path / "r.json").read_bytes()
    back = [rows(RankingFile(tmp_path / name)) for name in ("r.json", "R.JSON.gz", "r.jsonl")]
    assert back[0] == back[1] == back[2] and len(back[0]) >= 2


def test_better_answers_end_as_rows_do(tmp_path: Path) -> None:
    written = [Demonstration("p", "yes"), Demonstration("q", "no")]
    for name in ("d.json", "d.jsonl"):
        assert write_demonstrations(tmp_path / name, written) == 2
    array = json.loads((tmp_path / "d.json").read_text())
    assert array == [{"prompt": "p", "completion": "yes"}, {"prompt": "q", "completion": "no"}]
    assert [json.loads(line) for line in (tmp_path / "d.jsonl").read_text().splitlines()] == array
    with pytest.raises(DataError, match=r"demonstrations cannot be kept .* '\.csv'; end it with \.jsonl, \.json, "):
        write_demonstrations(tmp_path / "d.csv", written)
    assert not (tmp_path / "d.csv").exists()


def test_every_format_says_what_it_is() -> None:
    assert list(FORMATS) == ["rankings", "trl", "hh-rlhf", "argilla", "label-studio", "oasst"]
    assert (*FORMATS, "datasets") == WRITABLE
    assert all(found.about for found in FORMATS.values())


def test_a_turn_that_only_leads_to_rankings_is_nothing_left_out(tmp_path: Path) -> None:
    """Two chats part at an answer, and neither says anything of that answer."""
    chats = [
        Ranking(
            (
                {"role": "user", "content": "u"},
                {"role": "assistant", "content": text},
                {"role": "user", "content": "v"},
            ),
            ("a", "b"),
            (None, None),
            "ann",
        )
        for text in ("0", "00")
    ]
    write(tmp_path / "r.jsonl", chats, "oasst")
    file = RankingFile(tmp_path / "r.jsonl")
    assert rows(file) == rows(chats) and file.tally.left_out == {}
