"""Files of rankings: what is written is read back equal, and a bad line is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.data.records import Ranking, parse_ranking, ranking_row
from rlhf.data.sources import load_rankings
from rlhf.errors import DataError
from rlhf.preferences import LabelStore, pair_rows, write_pairs, write_rankings

CHAT = ({"role": "user", "content": "Why?"},)
RANKING = Ranking("Say hi.", ("hi", "hello", "hey", "yo"), (2, 4, 2, 1), "ann", "2024-05-01", "g", {"note": "ü"})


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
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert sorted((r["chosen"], r["rejected"]) for r in rows) == [
        ("hey", "hello"),
        ("hi", "hello"),
        ("yo", "hello"),
        ("yo", "hey"),
        ("yo", "hi"),
    ]
    back = load_rankings(str(path))
    assert {r.ranks for r in back} == {(1, 2)} and {r.labeler for r in back} == {"ann"}


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


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        write_rankings(tmp_path / "file" / "r.jsonl", [RANKING])


def test_a_writer_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    write_rankings(path, [RANKING])

    def broken() -> object:
        yield RANKING
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError):
        write_rankings(path, broken())  # type: ignore[arg-type]
    assert load_rankings(str(path)) == [RANKING]


texts = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x00"), min_size=1).filter(str.strip)
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=80).filter(
    lambda name: name.isprintable() and name == name.strip()
)
rankings = st.lists(st.tuples(texts, st.none() | st.integers(1, 9)), min_size=2, max_size=5).flatmap(
    lambda parts: st.builds(
        Ranking,
        prompt=texts | st.lists(texts, min_size=1, max_size=1).map(lambda t: ({"role": "user", "content": t[0]},)),
        completions=st.just(tuple(t for t, _ in parts)),
        ranks=st.just(tuple(r for _, r in parts)),
        labeler=names,
        created_at=st.sampled_from(["", "2024-01-01T00:00:00Z"]),
        group=st.sampled_from(["", "g"]),
        meta=st.dictionaries(st.sampled_from(["note", "scores"]), st.lists(st.integers())),
    )
)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(rankings, max_size=4, unique_by=lambda r: (r.labeler, r.prompt if isinstance(r.prompt, str) else "chat"))
)
def test_any_ranking_survives_the_store(
    tmp_path_factory: pytest.TempPathFactory, given_rankings: list[Ranking]
) -> None:
    with LabelStore.open(tmp_path_factory.mktemp("s") / "labels.db", create=True) as store:
        store.import_rankings(given_rankings, batch="one")
        store.import_rankings(given_rankings, batch="one")
        back = store.rankings()

    def rows(records: list[Ranking]) -> list[str]:
        return sorted(json.dumps(ranking_row(r), sort_keys=True) for r in records)

    assert rows(back) == rows(given_rankings)
    assert [parse_ranking(ranking_row(r), "row") for r in back] == back


def test_a_label_store_is_never_written_over(tmp_path: Path) -> None:
    """An export to the store's own file would leave its latest rankings, and nothing else."""
    path = tmp_path / "labels.db"
    with LabelStore.open(path, create=True) as store:
        store.import_rankings([RANKING], batch="one")
        for write in (write_rankings, write_pairs):
            with pytest.raises(DataError, match="is a SQLite database"):
                write(path, store.rankings())
    with LabelStore.open(path) as store:
        assert store.rankings() == [RANKING]
