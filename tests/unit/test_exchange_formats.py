"""Other tools' files: as those tools write them, told by their content, and read to the letter."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from rlhf.data.records import Ranking
from rlhf.errors import DataError
from rlhf.preferences.exchange import RankingFile, write

# Other projects' real files, which are no part of this one: a test that needs one skips where it is not at hand.
DATA = Path(os.environ.get("RLHF_REAL_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
RANKED = Ranking("p", ("x", "y", "z"), (2, 1, None), "ann", "2024-05-01", "g", {"note": 1})


def array(path: Path, *found: Any) -> Path:
    path.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return path


def jsonl(path: Path, *found: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    return path


def real(name: str) -> Path:
    if not (DATA / name).is_file():
        pytest.skip(f"{name} is not on this machine")
    return DATA / name


# --- Argilla

FIELDS = {"instruction": "Say hi.", "response_1": "hi", "response_2": "hello", "response_3": "hey"}


def answer(*ranks: tuple[str, int | None], **beside: str) -> dict[str, Any]:
    return {"value": [{"value": name, "rank": rank} for name, rank in ranks], **beside}


def test_argillas_responses_with_ranks(tmp_path: Path) -> None:
    """Two people, ties and all; drafts, discarded ones, other questions and suggestions are no rankings."""
    responses = [
        answer(("response_2", 1), ("response_1", 2), ("response_3", 2), user_id="u1", status="submitted"),
        answer(("response_1", 1), ("response_2", 2), user_id="u2"),
        answer(("response_1", 1), ("response_2", 2), user_id="u3", status="discarded"),
        answer(("response_1", 1), ("response_2", 2), user_id="u4", status="draft"),
    ]
    record = {
        "id": "1",
        "fields": FIELDS | {"context": "a party"},
        "metadata": {"split": "train"},
        "suggestions": {"rank": {"value": ["response_3", "response_1"], "score": None, "agent": "m"}},
        "responses": {"rank": responses, "topics": [{"value": ["greeting", "food"], "user_id": "u1"}]},
        "vectors": {},
        "_server_id": None,
    }
    silent = record | {"responses": {}}
    file = RankingFile(array(tmp_path / "a.json", record, silent))
    texts = ("hi", "hello", "hey")
    assert file.format.name == "argilla"
    found = list(file)
    assert found == [
        Ranking("Say hi.", texts, (2, 1, 2), "u1"),
        Ranking("Say hi.", texts, (1, 2, None), "u2"),
    ]
    assert found[0].meta == {"fields": {"context": "a party"}}
    assert file.tally.left_out == {"discarded responses": 1, "drafts": 1, "records without a ranking": 1}


def test_argillas_flattened_records_and_bare_lists(tmp_path: Path) -> None:
    """`to_list(flatten=True)`: responses, users and status in lists of their own; a bare list is best first."""
    row = FIELDS | {
        "id": "1",
        "rank.responses": [["response_2", "response_1", "response_3"], ["response_1", "response_3", "response_2"]],
        "rank.responses.users": ["u1", "u2"],
        "rank.responses.status": ["submitted", "ResponseStatus.submitted"],
        "rank.suggestion": None,
        "other.responses": None,
    }
    assert [(r.ranks, r.labeler) for r in RankingFile(jsonl(tmp_path / "a.jsonl", row))] == [
        ((2, 1, 3), "u1"),
        ((1, 3, 2), "u2"),
    ]


def test_argillas_options_may_be_the_numbers_of_fields(tmp_path: Path) -> None:
    fields = {"prompt": "Q", "Golden Answer": "G", "Response 1": "a", "Response 2": "b"}
    record = {"id": "1", "fields": fields, "responses": {"x": [{"value": ["2", "1"], "user_id": "u"}]}}
    (found,) = RankingFile(array(tmp_path / "a.json", record))
    assert (found.completions, found.ranks, found.meta) == (("a", "b"), (2, 1), {"fields": {"Golden Answer": "G"}})


def test_lists_that_argillas_client_took_the_ranks_of_are_refused(tmp_path: Path) -> None:
    """Its export of ten rankings made on its page: the options as they stand, whatever people said (issue 5712)."""
    response = {"value": ["response_1", "response_2", "response_3"], "user_id": "u1"}
    records = [{"id": str(i), "fields": FIELDS, "responses": {"rank": [response]}} for i in range(10)]
    with pytest.raises(
        DataError, match=r"a\.json, record 10: all 10 rankings list their options in one order, 'respon"
    ):
        list(RankingFile(array(tmp_path / "a.json", *records)))
    records[4]["responses"] = {"rank": [response | {"value": ["response_2", "response_1", "response_3"]}]}
    assert len(list(RankingFile(array(tmp_path / "a.json", *records)))) == 10


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"responses": {"x": [answer(("a", 1), ("nope", 2))]}}, "ranks 'nope', which names no field"),
        ({"responses": {"x": [answer(("a", 1), ("a", 2))]}}, "ranks one option twice"),
        ({"responses": {"x": [answer(("a", 0), ("b", 2))]}}, "field 'ranks'.*expected a whole number from 1"),
        ({"responses": {n: [answer(("a", 1), ("b", 2))] for n in "xy"}}, r"several questions \('x', 'y'\); keep one"),
        ({"responses": []}, "field 'responses': expected an object"),
        ({"fields": {"q": "Q", "r": "R", "a": "A", "b": "B"}}, r"cannot tell which field is the prompt \('q', 'r'\)"),
    ],
)
def test_a_broken_record_of_argillas_is_named(tmp_path: Path, record: dict[str, Any], message: str) -> None:
    good = {"id": "1", "fields": {"prompt": "Q", "a": "A", "b": "B"}, "responses": {"x": [answer(("a", 1), ("b", 2))]}}
    if record.get("responses") == []:
        record = {"responses": [1]}
    with pytest.raises(DataError, match=message) as caught:
        list(RankingFile(array(tmp_path / "a.json", good, good | record)))
    assert str(caught.value).startswith(f"{tmp_path / 'a.json'}, record 2")


def test_what_argilla_is_given(tmp_path: Path) -> None:
    """Its server's form of a response; one record for everybody's rankings of the same completions."""
    bob = Ranking("p", ("x", "y", "z"), (1, 2, 3), "bob", group="g")
    assert write(tmp_path / "a.json", [RANKED, bob, RANKED], "argilla").rows == 2
    first, second = json.loads((tmp_path / "a.json").read_text())
    assert first["fields"] == {"prompt": "p", "completion-1": "x", "completion-2": "y", "completion-3": "z"}
    ann, other = first["responses"]["ranking"]
    assert ann["value"] == [
        {"value": "completion-1", "rank": 2},
        {"value": "completion-2", "rank": 1},
        {"value": "completion-3", "rank": None},
    ]
    assert ann["status"] == "submitted" and len({ann["user_id"], other["user_id"]}) == 2
    assert first["metadata"] == {
        "labelers": ["ann", "bob"],
        "created_at": ["2024-05-01", ""],
        "meta": ['{"note": 1}', ""],
        "group": "g",
    }
    assert second["responses"]["ranking"] == [ann] and second["id"] != first["id"]


# --- Label Studio

PAIR = {"prompt": "Q", "answer1": "left one", "answer2": "right one"}
ITEMS = {"prompt": "Q", "items": [{"id": n, "title": n.upper(), "body": f"text {n}"} for n in "abc"]}


def annotated(data: dict[str, Any], kind: str, value: Any, **beside: Any) -> dict[str, Any]:
    result = {
        "from_name": "x",
        "to_name": "y",
        "type": kind,
        "value": {"selected" if kind == "pairwise" else kind: value},
    }
    return {"id": 1, "data": data, "annotations": [{"id": 7, "result": [result], **beside}], "predictions": []}


def test_label_studios_pairs(tmp_path: Path) -> None:
    who = {
        "completed_by": {"id": 3, "email": "ann@example.org"},
        "created_at": "2021-03-03T14:00:00Z",
        "lead_time": 4.5,
    }
    cancelled = annotated(PAIR, "pairwise", "left", was_cancelled=True)
    file = RankingFile(
        array(
            tmp_path / "l.json",
            annotated(PAIR, "pairwise", "right", **who),
            annotated({"text1": "A", "text2": "B", "question": "Q"}, "pairwise", "left", completed_by=10),
            cancelled,
            {"id": 4, "data": PAIR, "annotations": []},
            {"id": 5, "data": PAIR, "annotations": [{"result": [{"type": "choices", "value": {}}]}]},
        )
    )
    assert file.format.name == "label-studio"
    first, second = file
    assert first == Ranking("Q", ("left one", "right one"), (2, 1), "ann@example.org", "2021-03-03T14:00:00Z")
    assert first.meta == {"active_seconds": 4.5}
    assert second == Ranking("Q", ("A", "B"), (1, 2), "user 10")
    assert file.tally.left_out == {
        "cancelled annotations": 1,
        "tasks that nobody annotated": 1,
        "annotations without a ranking": 1,
    }


@pytest.mark.parametrize(
    ("value", "ranks"),
    [
        (["b", "c", "a"], (3, 1, 2)),
        (["b"], (None, 1, None)),
        ({"1": ["b"], "2": ["a", "c"]}, (2, 1, 2)),
        ({"_": ["a"], "rank-1": ["b"], "rank-3": ["c"]}, (None, 1, 3)),
    ],
)
def test_label_studios_rankers(tmp_path: Path, value: Any, ranks: tuple[int | None, ...]) -> None:
    (found,) = RankingFile(array(tmp_path / "l.json", annotated(ITEMS, "ranker", value)))
    assert found == Ranking("Q", ("text a", "text b", "text c"), ranks, "anonymous")


def test_buckets_without_an_order_are_no_ranking(tmp_path: Path) -> None:
    """As the template's: relevant and biased results."""
    task = annotated(ITEMS, "ranker", {"relevant_results": ["a"], "biased_results": ["b", "c"]})
    file = RankingFile(array(tmp_path / "l.json", task, annotated(ITEMS, "ranker", ["a", "b", "c"])))
    assert len(list(file)) == 1
    assert file.tally.left_out == {"annotations whose buckets have no order (name them 1, 2, ...)": 1}


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (annotated(PAIR, "pairwise", "both"), "annotation 1: expected selected left or right, found 'both'"),
        (annotated({"prompt": "Q", "one": "1", "two": "2"}, "pairwise", "left"), "name them answer1, answer2"),
        (annotated(ITEMS, "ranker", ["a", "d"]), "annotation 1: ranks 'd', which no item has as its id"),
        (annotated(ITEMS, "ranker", 3), "expected a list of ids or buckets of them, found 3"),
        (annotated(PAIR, "ranker", ["a"]), "found no list of items with ids"),
        ({"annotations": []}, "field 'data' is missing"),
        ({"data": PAIR, "annotations": "x"}, "field 'annotations': expected a list"),
    ],
)
def test_a_broken_task_of_label_studios_is_named(tmp_path: Path, task: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        list(RankingFile(array(tmp_path / "l.json", annotated(PAIR, "pairwise", "left"), task)))
    assert str(caught.value).startswith(f"{tmp_path / 'l.json'}, record 2")


@pytest.mark.parametrize(
    ("rankings", "value", "interface"),
    [
        ([Ranking("p", ("x", "y"), (2, 1), "ann")], {"selected": "right"}, "<Pairwise"),
        ([Ranking("p", ("x", "y", "z"), (2, 3, 1), "ann")], {"ranker": ["3", "1", "2"]}, '<Ranker name="rank"'),
        ([RANKED], {"ranker": {"_": ["3"], "1": ["2"], "2": ["1"]}}, "for each rank up to 2"),
    ],
)
def test_what_label_studio_is_given(tmp_path: Path, rankings: list[Ranking], value: Any, interface: str) -> None:
    bob = Ranking(rankings[0].prompt, rankings[0].completions, rankings[0].ranks, "bob", group=rankings[0].group)
    done = write(tmp_path / "l.json", [*rankings, bob], "label-studio")
    assert done.rows == 1 and interface in done.notes[0]
    (task,) = json.loads((tmp_path / "l.json").read_text())
    assert [a["result"][0]["value"] for a in task["annotations"]] == [value, value]
    assert [a["result"][0]["meta"]["labeler"] for a in task["annotations"]] == ["ann", "bob"]


# --- hh-rlhf

HH = {
    "chosen": "\n\nHuman: Hi\n\n\nAssistant: Yes? \n\nHuman: Why?\n\nAssistant: So.",
    "rejected": "\n\nHuman: Hi\n\n\nAssistant: Yes? \n\nHuman: Why?\n\nAssistant:  No.\n",
}


def test_transcripts_are_split_to_the_byte_and_written_as_they_were(tmp_path: Path) -> None:
    file = RankingFile(jsonl(tmp_path / "h.jsonl", HH))
    assert file.format.name == "hh-rlhf"
    (found,) = file
    roles = ("user", "assistant", "user")
    prompt = tuple({"role": r, "content": t} for r, t in zip(roles, ("Hi\n", "Yes? ", "Why?"), strict=True))
    assert found == Ranking(prompt, ("So.", " No.\n"), (1, 2), "anonymous")
    assert write(tmp_path / "back.jsonl", file, "hh-rlhf").rows == 1
    assert json.loads((tmp_path / "back.jsonl").read_text()) == HH


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"rejected": HH["chosen"]}, "rows whose two transcripts are equal"),
        ({"rejected": "\n\nHuman: Hi\n\n\nAssistant: Other."}, "rows whose transcripts part before their last turn"),
        ({"rejected": HH["chosen"][:-3]}, "rows with a blank turn"),
        ({"rejected": "Human: Hi\n\nAssistant: No."}, "rows that do not begin with a turn"),
        ({"chosen": "\n\nHuman: Hi", "rejected": "\n\nHuman: Ho"}, "rows that do not end with an answer"),
        (
            {"chosen": "\n\nAssistant: Hi", "rejected": "\n\nAssistant: Ho"},
            "rows in which no human's turn comes before the answer",
        ),
    ],
)
def test_transcripts_that_compare_no_answers_are_counted(tmp_path: Path, change: dict[str, str], reason: str) -> None:
    file = RankingFile(jsonl(tmp_path / "h.jsonl", HH, HH | change))
    assert len(list(file)) == 1
    assert file.tally.left_out == {reason: 1}
    alone = RankingFile(jsonl(tmp_path / "h.jsonl", HH | change), "hh-rlhf")
    with pytest.raises(DataError, match=rf"holds no rankings but {reason} \(1\); give it at least one"):
        list(alone)


def test_what_transcripts_cannot_hold_is_counted(tmp_path: Path) -> None:
    system = Ranking(({"role": "system", "content": "s"}, {"role": "user", "content": "q"}), ("a", "b"), (1, 2))
    given = [RANKED, system, Ranking("q", ("a", "b\n\nHuman: c"), (1, 2)), Ranking("q", ("a", "a"), (1, 2))]
    done = write(tmp_path / "h.jsonl", given, "hh-rlhf")
    assert done.rows == 1
    assert json.loads((tmp_path / "h.jsonl").read_text())["chosen"] == "\n\nHuman: p\n\nAssistant: y"
    assert done.left_out == {
        "rankings with a system turn": 1,
        "pairs with an unranked completion": 2,
        "pairs with a text that holds the mark of a turn": 1,
        "pairs whose two transcripts are equal": 1,
    }
    plain = "plain prompt (a human's turn from now on)"
    assert done.lost == {"labeler": 1, "created_at": 1, "group": 1, "meta": 1, plain: 3}


def test_anthropics_own_file_round_trips_or_says_what_did_not(tmp_path: Path) -> None:
    """1,700 rows: six are no comparison of two answers, every other one is written as it was read."""
    source = real("hh-rlhf_harmless-base_test_first1700.jsonl.gz")
    file = RankingFile(source)
    assert write(tmp_path / "back.jsonl", file, "hh-rlhf").rows == file.count == 1694
    assert file.meter.done == file.meter.size
    assert file.tally.left_out == {
        "rows with a blank turn": 4,
        "rows whose transcripts part before their last turn": 2,
    }
    with gzip.open(source, "rt", encoding="utf-8") as lines:
        before = [json.loads(line) for line in lines]
    after = [json.loads(line) for line in (tmp_path / "back.jsonl").open(encoding="utf-8")]
    kept = iter(before)
    assert all(row in kept for row in after)  # each as it was, in the same order


# --- OpenAssistant


def message(role: str, text: str, *replies: dict[str, Any], rank: int | None = None) -> dict[str, Any]:
    return {"message_id": f"id {text}", "text": text, "role": role, "rank": rank, "replies": list(replies)}


def test_a_tree_gives_a_ranking_at_each_turn_that_has_one(tmp_path: Path) -> None:
    deeper = message(
        "prompter",
        "Why?",
        message("assistant", "d", rank=1),
        message("assistant", "e", rank=0),
        message("assistant", "f"),
    )
    root = message(
        "prompter",
        "Hi",
        message("assistant", "a", deeper, rank=2),
        message("assistant", "b", rank=0) | {"model_name": "m"},
        message("assistant", "c", message("prompter", "So?", *(message("assistant", t) for t in "gh")), rank=1),
    )
    file = RankingFile(jsonl(tmp_path / "o.jsonl", {"message_tree_id": "t1", "tree_state": "x", "prompt": root}))
    assert file.format.name == "oasst"
    first, second = file
    hi = {"role": "user", "content": "Hi"}
    assert first == Ranking((hi,), ("a", "b", "c"), (3, 1, 2), "anonymous", group="t1")
    assert first.meta == {"message_ids": ["id a", "id b", "id c"], "sources": ["", "m", ""]}
    path = (hi, {"role": "assistant", "content": "a"}, {"role": "user", "content": "Why?"})
    assert second == Ranking(path, ("d", "e", "f"), (2, 1, None), "anonymous", group="t1")
    assert file.tally.left_out == {"turns whose answers have no ranks": 1}


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"message_tree_id": 3, "prompt": {}}, "expected a message tree"),
        ({"message_tree_id": "t", "prompt": {"role": "robot", "text": "x"}}, "a 'role' of prompter or assistant"),
        (
            {"message_tree_id": "t", "prompt": {"role": "prompter", "text": "x", "message_id": "m", "replies": [1]}},
            "message 'm', field 'replies': expected a list of messages",
        ),
    ],
)
def test_a_broken_tree_is_named(tmp_path: Path, tree: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        list(RankingFile(jsonl(tmp_path / "o.jsonl", tree)))
    assert str(caught.value).startswith(f"{tmp_path / 'o.jsonl'}, line 1")


def test_rankings_of_one_chat_share_a_tree_again(tmp_path: Path) -> None:
    hi, a, why = (
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "?"},
    )
    given = [
        Ranking((hi, a, why), ("d", "e"), (1, 1), "ann", group="t"),
        Ranking((hi,), ("a", "b"), (2, 1), "ann", group="t"),
        Ranking((hi,), ("a", "b"), (1, 2), "bob", group="t"),  # a tree holds one ranking for a turn
        Ranking((hi,), ("b", "c"), (1, 2), "cid", group="u"),
        Ranking(({"role": "system", "content": "s"}, hi), ("a", "b"), (1, 2)),
    ]
    done = write(tmp_path / "o.jsonl", given, "oasst")
    assert done.rows == 3
    assert done.left_out == {"rankings whose prompt has a system turn or two turns of one speaker": 1}
    first = json.loads((tmp_path / "o.jsonl").read_text().splitlines()[0])
    assert first["message_tree_id"] == first["prompt"]["message_id"] == "t"
    answer = first["prompt"]["replies"][0]
    assert (answer["text"], answer["rank"], first["prompt"]["replies"][1]["rank"]) == ("a", 1, 0)
    assert [r["rank"] for r in answer["replies"][0]["replies"]] == [0, 0]
    assert sorted(map(repr, RankingFile(tmp_path / "o.jsonl"))) == sorted(map(repr, given[:4]))


@pytest.mark.parametrize("first", [0, 1])
def test_a_chat_through_an_answer_that_was_not_ranked_has_a_tree_of_its_own(tmp_path: Path, first: int) -> None:
    """Else that answer would come back as one more of the ranking, not ranked."""
    hi, z, why = (
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "z"},
        {"role": "user", "content": "?"},
    )
    given = [
        Ranking((hi,), ("a", "b"), (2, 1), "ann", group="t"),
        Ranking((hi, z, why), ("d", "e"), (1, 2), "ann", group="t"),
    ]
    assert write(tmp_path / "o.jsonl", [given[first], given[1 - first]], "oasst").rows == 2
    assert sorted(map(repr, RankingFile(tmp_path / "o.jsonl"))) == sorted(map(repr, given))


def test_openassistants_own_trees(tmp_path: Path) -> None:
    """212 ranked groups of 2 to 9 answers, 641 ranked answers, 754 pairs; written, they are the same rankings."""
    file = RankingFile(real("oasst_en_100_tree.jsonl"))
    found = list(file)
    ranked = [sum(rank is not None for rank in r.ranks) for r in found]
    assert (len(found), sum(ranked), sum(len(r.pairs()) for r in found)) == (212, 641, 754)
    assert (min(ranked), max(ranked)) == (2, 9)
    assert write(tmp_path / "o.jsonl", found, "oasst").rows == 100
    back = list(RankingFile(tmp_path / "o.jsonl"))
    assert sorted((repr(r), repr(r.meta)) for r in back) == sorted((repr(r), repr(r.meta)) for r in found)


# --- which format


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"question": "q", "answer": "a"},
            "line 1: no format is known that has 'question', 'answer'; known: rankings, trl",
        ),
        (None, "holds no rows; give it at least one"),
    ],
)
def test_a_file_of_no_known_format_is_named(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        RankingFile(jsonl(tmp_path / "x.jsonl", *([row] if row else [])))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "expected a file's name, found ''"),
        ("none.jsonl", "no such file"),
        ("./none", "no such file"),
        ("x" * 5000, "cannot be read .File name too long"),
        ("notes.txt", "unknown kind of file '.txt'"),
    ],
)
def test_what_is_no_file_is_named(tmp_path: Path, source: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text("hello")
    with pytest.raises(DataError, match=message) as caught:
        RankingFile(source)
    assert len(str(caught.value)) < 400
    with pytest.raises(DataError, match="unknown format 'yaml'; expected one of auto, rankings, trl"):
        RankingFile("notes.txt", "yaml")


def test_an_upload_is_called_by_its_name(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "tmp1234.jsonl", {"prompt": "p", "chosen": "a", "rejected": ""})
    with pytest.raises(DataError, match=r"^pairs\.jsonl, line 1, field 'rejected': the text is blank"):
        list(RankingFile(path, name="pairs.jsonl"))
    path.write_text("nothing")
    with pytest.raises(DataError, match=r"^pairs\.jsonl, line 1, column 1: not valid JSON"):
        RankingFile(path, name="pairs.jsonl")
