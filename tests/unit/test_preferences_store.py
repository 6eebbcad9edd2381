"""What goes into the label store comes out of it unchanged, once, and named by its content."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from rlhf.data.records import Ranking
from rlhf.errors import DataError, StoreError
from rlhf.preferences import Counts, ImportReport, LabelStore, NewTask

CHAT = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"})
SAMPLE = [
    Ranking(
        "Say hi.", ("hi", "hello", "hey"), (2, 1, 2), "ann", "2024-05-01T10:00:00Z", "greetings", {"mood": ["x", 1]}
    ),
    Ranking("Say hi.", ("hi", "hello", "hey"), (3, 1, 2), "bob"),
    Ranking(CHAT, ("because", "why not"), (None, 1), "ann", "yesterday"),
    Ranking("Again?", ("same", "same"), (1, 2), "bob"),
]


def test_rankings_come_back_as_they_went_in(store: LabelStore) -> None:
    assert store.import_rankings(SAMPLE, batch="one") == ImportReport(read=4, added=4, repeated=0, revisions=0)
    back = store.rankings()
    # Order: by task, as they came; `compare=False` on meta, so that is looked at apart.
    assert back == SAMPLE
    assert [r.meta for r in back] == [{"mood": ["x", 1]}, {}, {}, {}]


def test_importing_the_same_rows_again_adds_nothing(store: LabelStore) -> None:
    store.import_rankings(SAMPLE, batch="one")
    assert store.import_rankings(SAMPLE, batch="one") == ImportReport(read=4, added=0, repeated=4, revisions=0)
    assert store.import_rankings([SAMPLE[0], SAMPLE[0]], batch="two") == ImportReport(2, 1, 1, 0)
    assert len(store.rankings(batch="one")) == 4


def test_a_batch_that_is_exported_and_imported_again_does_not_grow(store: LabelStore) -> None:
    """Judgments made in the app have other submit ids than an import gives: the content must be compared too."""
    store.add_tasks([NewTask("Say hi.", ("hi", "hello"), ("sft", "policy"))], batch="one")
    assignment = store.claim(store.labeler("ann"))
    assert assignment is not None
    store.submit(assignment, {assignment.completions[0].id: 1, assignment.completions[1].id: 2}, submit_id="s1")
    assert store.import_rankings(store.rankings(batch="one"), batch="one").added == 0


def test_nobody_becomes_anonymous_and_anonymous_rankings_do_not_replace_each_other(store: LabelStore) -> None:
    store.import_rankings([Ranking("p", ("a", "b"), (1, 2)), Ranking("p", ("a", "b"), (2, 1))], batch="one")
    assert [(r.labeler, r.ranks) for r in store.rankings()] == [("anonymous", (1, 2)), ("anonymous", (2, 1))]


def test_a_named_labelers_second_ranking_is_a_revision(store: LabelStore) -> None:
    first = Ranking("p", ("a", "b"), (1, 2), "ann", "2024-01-01")
    second = Ranking("p", ("a", "b"), (2, 1), "ann", "2024-01-02")
    assert store.import_rankings([first, second], batch="one") == ImportReport(2, 2, 0, revisions=1)
    assert store.rankings() == [second]
    assert store.counts() == Counts(tasks=1, waiting=0, rankings=1, skips=0, judgments=2, labelers=1)


def test_batches_are_apart_and_in_order_of_their_making(store: LabelStore) -> None:
    store.import_rankings(SAMPLE[:1], batch="zebra")
    store.import_rankings(SAMPLE[1:2], batch="ant")
    assert store.batches() == ["zebra", "ant"]
    assert store.rankings(batch="ant") == SAMPLE[1:2]
    assert store.rankings(batch="nothing") == []
    assert store.counts("ant") == Counts(tasks=1, waiting=0, rankings=1, skips=0, judgments=1, labelers=1)


def test_the_fingerprint_is_the_contents_and_not_the_stores(store: LabelStore, tmp_path: Path) -> None:
    with LabelStore.open(tmp_path / "other.db", create=True) as other:
        other.import_rankings(SAMPLE[2:3], batch="before")  # shifts every id
        other.import_rankings(SAMPLE, batch="one")
        store.import_rankings(SAMPLE, batch="one")
        assert store.fingerprint() == other.fingerprint(batch="one")
        assert store.fingerprint() != other.fingerprint()
    # sha256sum of {"completions": ["a", "b"], "labeler": "ann", "prompt": "p", "ranks": [1, 2]} and a newline
    store.import_rankings([Ranking("p", ("a", "b"), (1, 2), "ann")], batch="literal")
    assert store.fingerprint(batch="literal") == "1234ea96364f28c774257fe095f8cd9e94ad8e3a39db5c7cd6f60e1afd88b5f5"


def test_tasks_are_added_once_and_texts_kept_to_the_character(store: LabelStore) -> None:
    new = [NewTask("p", (" a\n", "b\u202e\u200b", "\u00fc", "u\u0308"))]
    assert store.add_tasks(new, batch="one") == 1
    assert store.add_tasks(new + new, batch="one") == 0
    assert store.add_tasks(new, batch="two") == 1
    assignment = store.claim(store.labeler("ann"))
    assert assignment is not None
    assert sorted(c.text for c in assignment.completions) == sorted([" a\n", "b\u202e\u200b", "\u00fc", "u\u0308"])


def test_a_text_prompt_that_looks_like_a_chat_is_another_prompt(store: LabelStore) -> None:
    looks = '[{"content": "Why?", "role": "user"}]'
    chat = ({"role": "user", "content": "Why?"},)
    assert store.add_tasks([NewTask(looks, ("a", "b")), NewTask(chat, ("a", "b"))], batch="one") == 2


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (NewTask("p", ("a", "b", "a")), r"task 0, field 'completions'\[2\]: repeats \[0\]"),
        (NewTask("p", ("a",)), r"task 0, field 'completions': expected 2 to 9 texts, found 1"),
        (NewTask("p", ("a", "")), r"task 0, field 'completions'\[1\]: the text is blank"),
        (NewTask("p", ("a", "b\x00")), r"task 0, field 'completions'\[1\]: holds a NUL"),
        (NewTask("p\ud800", ("a", "b")), r"task 0, field 'prompt': holds a lone surrogate"),
        (NewTask("p", ("a", "b"), ("sft",)), r"task 0, field 'sources': found 1 for 2 completions"),
    ],
)
def test_a_task_that_cannot_be_ranked_is_refused_whole(store: LabelStore, task: NewTask, message: str) -> None:
    with pytest.raises(DataError, match=message):
        store.add_tasks([task, NewTask("fine", ("a", "b"))], batch="one")
    assert store.counts().tasks == 0


def test_a_bad_ranking_is_named_and_nothing_of_its_import_is_kept(store: LabelStore) -> None:
    with pytest.raises(DataError, match=r"ranking 1, field 'ranks'\[0\]: expected a whole number from 1"):
        store.import_rankings([SAMPLE[0], Ranking("p", ("a", "b"), (0, 1))], batch="one")
    with pytest.raises(DataError, match="ranking 0, field 'meta': cannot be written as JSON"):
        store.import_rankings([Ranking("p", ("a", "b"), (1, 2), meta={"x": {1, 2}})], batch="one")
    assert store.rankings() == []


def test_five_thousand_rankings_are_imported_in_seconds(store: LabelStore) -> None:
    many = [
        Ranking(f"prompt {i % 700}", tuple(f"text {i % 700} {j}" for j in range(4)), (1, 2, 2, 4), f"rater {i // 700}")
        for i in range(5000)
    ]
    started = time.monotonic()
    assert store.import_rankings(many, batch="many").added == 5000
    assert time.monotonic() - started < 10  # about 1 s on a quiet core
    assert store.counts() == Counts(tasks=700, waiting=0, rankings=5000, skips=0, judgments=5000, labelers=8)


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * 81])
def test_a_name_nobody_could_read_is_refused(store: LabelStore, name: str) -> None:
    with pytest.raises(StoreError, match="name: expected 1 to 80 visible characters"):
        store.labeler(name)


def test_a_labeler_is_made_once(store: LabelStore) -> None:
    assert store.labeler(" ann ") == store.labeler("ann")
    assert store.labeler("ann") != store.labeler("Ann")
