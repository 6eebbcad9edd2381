"""Runs as files that others write: found, told apart, and read while they grow, whatever is in them."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from labeling_app.views.runs import finding as runs_finding
from labeling_app.views.runs import reading as runs_reading
from labeling_app.views.runs.charts import chart, ordered
from labeling_app.views.runs.finding import Finder, find, look
from labeling_app.views.runs.reading import Curves, Lines, Stage, inside, text_of
from labeling_app.views.runs.samples import Updates, compared


def row(step: int, stage: str = "ppo", **numbers: Any) -> dict[str, Any]:
    return {"stage": stage, "step": step, "total": 9, "time": "2026-01-01T00:00:00+00:00", **numbers}


def lines(*rows: Any) -> str:
    return "".join(json.dumps(r) + "\n" for r in rows)


def append(path: Path, text: str | bytes) -> None:
    with path.open("ab") as stream:
        stream.write(text if isinstance(text, bytes) else text.encode())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "metrics.jsonl"
    path.write_text("")
    return path


# --- lines -------------------------------------------------------------------------------------------------------


def test_each_read_gives_what_is_new_and_a_torn_line_waits_for_its_rest(path: Path) -> None:
    reader = Lines()
    append(path, lines({"a": 1}, {"a": 2}) + '{"a": "h')
    assert reader.read(path) == (False, [{"a": 1}, {"a": 2}])
    assert reader.read(path) == (False, [])
    append(path, "é".encode()[:1])  # half a letter
    assert reader.read(path) == (False, [])
    append(path, "é".encode()[1:] + b'"}')
    assert reader.read(path) == (False, []) and reader.broken == 0
    append(path, "\n" + lines({"a": 4}))
    assert reader.read(path) == (False, [{"a": "hé"}, {"a": 4}])
    assert reader.broken == 0


def test_only_the_new_bytes_are_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, parsed = Lines(), list[bytes]()
    real = runs_reading._parsed
    monkeypatch.setattr(runs_reading, "_parsed", lambda line: (parsed.append(line), real(line))[1])
    for step in range(3):
        append(path, lines({"a": step}))
        reader.read(path)
    assert parsed == [b'{"a": 0}', b'{"a": 1}', b'{"a": 2}']


def test_a_broken_line_in_the_middle_is_skipped_and_counted(path: Path) -> None:
    reader, deep = Lines(), "[" * 100_000
    append(path, lines({"a": 1}) + '{"a": \n\n  \nnull\n[1]\n' + deep + "\n\xff\xfe\n" + lines({"a": 2}))
    assert reader.read(path) == (False, [{"a": 1}, {"a": 2}])
    assert reader.broken == 5  # blank lines are none


def test_the_line_that_a_killed_run_left_open_costs_itself_and_no_other(path: Path) -> None:
    """Its successor writes on behind the torn half."""
    reader = Lines()
    append(path, lines({"a": 1}) + '{"a": 2, "b"')
    reader.read(path)
    append(path, lines({"a": 3}) + lines({"a": 4}))
    assert reader.read(path) == (False, [{"a": 4}]) and reader.broken == 1


def test_a_file_that_was_cut_or_replaced_begins_anew(path: Path, tmp_path: Path) -> None:
    reader = Lines()
    append(path, lines({"a": 1}, {"a": 2}) + "oops\n")
    assert reader.read(path)[1] and reader.broken == 1
    path.write_text(lines({"a": 1}))  # cut
    assert reader.read(path) == (True, [{"a": 1}]) and reader.broken == 0
    (tmp_path / "staging").write_text(lines({"a": 1}, {"a": 5}))  # as a resumed stage does it
    (tmp_path / "staging").replace(path)
    assert reader.read(path) == (True, [{"a": 1}, {"a": 5}])
    path.write_text(lines({"b": 1}, {"b": 2}, {"b": 3}))  # the same file, longer than before, of another content
    assert reader.read(path) == (True, [{"b": 1}, {"b": 2}, {"b": 3}])
    path.unlink()
    assert reader.read(path) == (True, [])
    assert reader.read(path) == (False, [])
    path.write_text(lines({"c": 1}))
    assert reader.read(path) == (False, [{"c": 1}])


def test_a_long_file_is_read_in_parts(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs_reading, "READ_BYTES", 100)
    append(path, lines(*({"a": i} for i in range(100))))
    reader, found, reads = Lines(), [], 0
    while True:
        found += reader.read(path)[1]
        reads += 1
        if not reader.behind:
            break
    assert [r["a"] for r in found] == list(range(100)) and reads == 10  # 990 bytes


def test_a_line_without_end_holds_nothing_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs_reading, "READ_BYTES", 300)
    monkeypatch.setattr(runs_reading, "LINE_BYTES", 200)
    append(path, lines({"a": 1}) + "x" * 1000 + "\n" + lines({"a": 2}))
    reader, found = Lines(), []
    for _ in range(10):
        found += reader.read(path)[1]
    assert (found, reader.broken, reader.behind) == ([{"a": 1}, {"a": 2}], 1, False)


# --- curves ------------------------------------------------------------------------------------------------------


def test_numbers_are_kept_by_stage_and_step(path: Path) -> None:
    append(path, lines(row(1, "sft", loss=2.0), row(2, "sft", loss=1.0, eval_loss=3.0), row(1, score=0.5)))
    curves = Curves()
    assert curves.read(path) == 1
    assert list(curves.stages) == ["sft", "ppo"] and curves.last == "ppo"
    assert curves.stages["sft"].points("loss") == [(1.0, 2.0, 2.0, 2.0), (2.0, 1.0, 1.0, 1.0)]
    assert curves.stages["sft"].points("eval_loss") == [(2.0, 3.0, 3.0, 3.0)]
    assert curves.stages["sft"].points("score") == [] and curves.stages["ppo"].total == 9
    assert curves.read(path) == 1  # nothing new: nothing to draw
    append(path, lines(row(2, score=0.75), row(1, "evaluate")))
    assert curves.read(path) == 2 and curves.last == "ppo"  # the other one has nothing to draw
    assert [(x, y) for x, y, _, _ in curves.stages["ppo"].points("score")] == [(1.0, 0.5), (2.0, 0.75)]


@pytest.mark.parametrize("stage", ["", "  ", None, 3, ["ppo"]])
def test_a_row_whose_stage_is_no_name_is_left_out(path: Path, tmp_path: Path, stage: Any) -> None:
    append(path, lines(row(1, loss=1.0), {"stage": stage, "step": 2, "loss": 2.0}))
    curves = Curves()
    curves.read(path)
    assert (list(curves.stages), curves.last, curves.strange) == (["ppo"], "ppo", 1)
    make(tmp_path, "a", metrics=path.read_text())
    assert (look(tmp_path, "a").stage, look(tmp_path, "a").step) == ("ppo", 1)


def test_a_resumed_stage_counts_its_steps_once(path: Path) -> None:
    append(path, lines(row(1, score=1.0), row(2, score=2.0), row(3, score=3.0, kl=7.0), row(2, score=20.0)))
    curves = Curves()
    curves.read(path)
    assert [(x, y) for x, y, _, _ in curves.stages["ppo"].points("score")] == [(1.0, 1.0), (2.0, 20.0)]
    assert curves.stages["ppo"].names() == ["score"]


def test_a_file_written_anew_leaves_nothing_of_the_old_one(path: Path) -> None:
    append(path, lines(row(1, "sft", loss=1.0), row(2, "sft", loss=2.0)))
    curves = Curves()
    curves.read(path)
    path.write_text(lines(row(1, score=1.0)))
    assert curves.read(path) == 2 and list(curves.stages) == ["ppo"]


def test_odd_values_are_gaps(path: Path) -> None:
    append(path, lines(row(1, a=1.0, b=None), row(2, a=float("nan"), b="2"), row(3, a=True, b=float("inf"))))
    append(path, lines(row(4, a=10**400, b=[1]), row(5, a=5, b={"c": 1}), {"step": 1}, {"stage": "x"}))
    append(path, lines({"stage": ["x"], "step": 1}, {"stage": "x", "step": "1"}, {"stage": "x", "step": 10**400}))
    curves = Curves()
    curves.read(path)
    assert [(x, y) for x, y, _, _ in curves.stages["ppo"].points("a")] == [(1.0, 1.0), (5.0, 5.0)]
    assert curves.stages["ppo"].names() == ["a"] and curves.strange == 5


def test_endless_keys_and_stages_are_bounded(path: Path) -> None:
    append(path, lines(*(row(1, f"s{i}", **{f"k{i}-{j}": 1.0 for j in range(200)}) for i in range(50))))
    curves = Curves()
    curves.read(path)
    assert len(curves.stages) == runs_reading.MOST_STAGES and curves.strange == 30
    assert {len(stage.numbers) for stage in curves.stages.values()} == {runs_reading.MOST_NUMBERS}
    assert curves.stages["s0"].left_out == 120


def test_two_keys_that_are_cut_to_one_name_do_not_shift_a_column() -> None:
    stage = Stage()
    for step in (1, 2):
        stage.take(step, {"x" * 80 + "a": 1.0, "x" * 80 + "b": 2.0})
    assert stage.points("x" * 80) == [(1.0, 1.0, 1.0, 1.0), (2.0, 1.0, 1.0, 1.0)]


def test_long_curves_are_thinned_by_means_of_equal_stretches() -> None:
    stage = Stage()
    for step in range(1, 8):
        stage.take(step, {"a": 3.0 * step * step})
    # Stretches of 3: (3, 12, 27), (48, 75, 108), (147)
    assert stage.points("a", most=3) == [(3.0, 14.0, 3.0, 27.0), (6.0, 77.0, 48.0, 108.0), (7.0, 147.0, 147.0, 147.0)]
    stage = Stage()
    for step in (1, 2):
        stage.take(step, {"a": 1.7e308})
    assert stage.points("a", most=1) == [(2.0, 1.7e308, 1.7e308, 1.7e308)]  # and not infinite


def test_a_hundred_thousand_steps_are_read_and_drawn_within_seconds(path: Path) -> None:
    count = 100_000
    append(path, "".join(f'{{"stage": "ppo", "step": {i}, "score": {i / count}, "kl": 1.5}}\n' for i in range(count)))
    curves, start = Curves(), time.process_time()
    for _ in range(20):
        curves.read(path)
        if not curves.lines.behind:
            break
    spec, rows = drawn("score", {"run": curves.stages["ppo"]})
    assert time.process_time() - start < 10
    assert len(curves.stages["ppo"].steps) == count
    assert [len(values) for values in rows] == [400, 400]
    assert len(json.dumps(spec)) < 80_000
    assert "100,000 steps" in spec["title"]["subtitle"]


# --- charts ------------------------------------------------------------------------------------------------------


def filled(**columns: list[float | None]) -> Stage:
    stage = Stage()
    for i in range(max(map(len, columns.values()))):
        stage.take(i + 1, {name: values[i] for name, values in columns.items() if i < len(values)})
    return stage


def drawn(name: str, runs: dict[str, Stage]) -> tuple[dict[str, Any], list[list[dict[str, Any]]]]:
    """The chart as Vega-Lite has it, and each layer's rows."""
    made = chart(name, runs)
    assert made is not None
    spec = made.to_dict()
    where = [layer.get("data", spec.get("data")) for layer in spec["layer"]]
    return spec, [data["values"] if "values" in data else spec["datasets"][data["name"]] for data in where]


def test_what_is_of_most_interest_comes_first() -> None:
    stage = filled(zebra=[1.0], kl=[1.0], score=[1.0], loss=[1.0], eval_loss=[1.0], kl_coef=[1.0], apple=[1.0])
    assert ordered([stage]) == (["loss", "score", "kl"], ["kl_coef", "apple", "zebra"])


def test_a_chart_says_what_it_is_over() -> None:
    one = filled(loss=[3.0, 2.0, 1.5], eval_loss=[None, 2.5])
    spec, rows = drawn("loss", {"a": one})
    assert spec["title"]["text"] == "Loss"
    assert spec["title"]["subtitle"] == "3 steps, last 1.5; dashed: held-out"
    assert rows == [
        [{"x": 1.0, "y": 3.0, "who": "training"}, {"x": 2.0, "y": 2.0, "who": "training"},
         {"x": 3.0, "y": 1.5, "who": "training"}],
        [{"x": 2.0, "y": 2.5, "who": "held-out"}],
    ]  # fmt: skip
    spec, rows = drawn("loss", {"a": one, "b": filled(loss=[1.0]), "c": filled(score=[1.0])})
    assert spec["title"]["subtitle"] == "2 runs, up to 3 steps; dashed: held-out"
    assert {point["who"] for values in rows for point in values} == {"a", "b"}
    assert chart("kl", {"a": one}) is None


def test_numbers_of_held_out_data_alone_are_drawn_too() -> None:
    alone, both = filled(eval_loss=[3.0, 2.5]), filled(loss=[2.0], eval_loss=[4.0])
    assert ordered([alone]) == (["eval_loss"], [])
    spec, rows = drawn("eval_loss", {"a": alone})
    assert (spec["title"]["text"], spec["title"]["subtitle"]) == ("Loss, held-out", "2 steps, last 2.5")
    assert [point["y"] for point in rows[0]] == [3.0, 2.5]
    assert ordered([alone, both]) == (["loss"], [])  # in one chart with the others
    _, rows = drawn("loss", {"a": alone, "b": both})
    assert [(point["who"], point["y"]) for point in rows[1]] == [("a", 3.0), ("a", 2.5), ("b", 4.0)]


def test_names_in_charts_are_cut_told_apart_and_seen() -> None:
    long = "x" * 60
    stages = {name: filled(**{"k\u202e": [1.0]}) for name in (f"a{long}", f"b{long}", "dir/\u202egnp")}
    spec, rows = drawn("k\u202e", stages)
    names = [point["who"] for point in rows[0]]
    assert names == ["…" + "x" * 39, "2: …" + "x" * 39, "dir/⟨U+202E⟩gnp"]
    assert spec["title"]["text"] == "k⟨U+202E⟩"


# --- runs --------------------------------------------------------------------------------------------------------


def make(folder: Path, name: str, *, age: float = 0.0, metrics: str | None = None, report: float | None = None) -> Path:
    """A run whose numbers changed `age` seconds ago."""
    run = folder / name
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("seed: 1\n")
    if metrics is not None:
        (run / "metrics.jsonl").write_text(metrics)
    if report is not None:
        (run / "report.html").write_text("<h1>x</h1>")
        os.utime(run / "report.html", (time.time() - report,) * 2)
    for file in ("config.yaml", "metrics.jsonl"):
        if (run / file).exists():
            os.utime(run / file, (time.time() - age,) * 2)
    return run


def test_runs_are_found_newest_first_and_not_too_deep(tmp_path: Path) -> None:
    make(tmp_path, "old", age=100)
    make(tmp_path, "a/b/new", age=1)
    make(tmp_path, "a/b/c/too-deep")
    make(tmp_path, "old/inner")  # a run's own folders are no runs
    make(tmp_path, ".hidden")
    (tmp_path / "empty").mkdir()
    assert [run.name for run in find(tmp_path).runs] == ["a/b/new", "old"]
    assert find(tmp_path / "none").runs == []


def test_the_folder_itself_may_be_a_run(tmp_path: Path) -> None:
    make(tmp_path, "x/y", age=5)
    (tmp_path / "x" / "manifest.json").write_text("{}")
    assert [run.name for run in find(tmp_path / "x").runs] == [".", "y"]


def test_what_a_run_is_doing(tmp_path: Path) -> None:
    rows = lines(row(1, "sft"), row(2, "sft")) + '{"stage": "ppo", "st'
    make(tmp_path, "working", age=5, metrics=rows)
    make(tmp_path, "silent", age=500, metrics=rows)
    make(tmp_path, "ended", age=50, metrics=rows, report=40)
    make(tmp_path, "again", age=5, metrics=rows, report=600)
    make(tmp_path, "fresh", age=5)
    make(tmp_path, "torn", age=5, metrics='{"stage": "sft", "step": 1')
    slow = [row(1), row(2) | {"time": "2026-01-01T00:10:00+00:00"}]  # ten minutes a step
    make(tmp_path, "slow", age=2000, metrics=lines(*slow))
    states = {run.name: (run.state, run.stage, run.step, run.total) for run in find(tmp_path).runs}
    assert states == {
        "working": ("at work", "sft", 2, 9), "silent": ("no news", "sft", 2, 9), "ended": ("ended", "sft", 2, 9),
        "again": ("at work", "sft", 2, 9), "slow": ("at work", "ppo", 2, 9),
        "fresh": ("no steps yet", "", None, None), "torn": ("no steps yet", "", None, None),
    }  # fmt: skip


def test_only_the_end_of_a_long_file_is_read_for_the_list(tmp_path: Path) -> None:
    rows = lines(*(row(i, note="x" * 200) for i in range(2000)))
    make(tmp_path, "long", metrics=rows)
    assert len(rows) > 4 * runs_reading.TAIL_BYTES
    assert look(tmp_path, "long").step == 1999


def test_hostile_rows_do_not_break_the_list(tmp_path: Path) -> None:
    strange = [row(1) | {"total": 10**400, "time": "yesterday"}, row(2) | {"total": "many", "time": [1]}]
    make(tmp_path, "strange", metrics=lines(*strange, {"stage": 1, "step": 1}, [1]) + "[" * 5000 + "\n")
    assert look(tmp_path, "strange").step == 2
    make(tmp_path, "far", metrics=lines(row(1) | {"time": "9999-12-31T23:59:59-23:00"}, row(10**300)))
    assert look(tmp_path, "far").step == 1


def test_too_many_runs_and_names_that_are_no_text_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs_finding, "MOST_RUNS", 2)
    for name in ("a", "b", "c"):
        make(tmp_path, name)
    os.mkdir(os.fsencode(tmp_path) + b"/\xff\xfe")
    found = find(tmp_path)
    assert len(found.runs) == 2 and found.left_out == 2


@pytest.mark.parametrize("mode", [0o700, 0o600, 0o000])
def test_a_folder_that_is_not_for_us_to_read_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    """As root every folder can be read: the answers of the system are put in its place."""
    make(tmp_path, "mine", metrics=lines(row(1)))
    theirs, real_stat, real_list = make(tmp_path, "theirs"), os.stat, os.scandir

    def stat(path: Any, *args: Any, **keywords: Any) -> os.stat_result:
        if str(path).startswith(f"{theirs}/"):
            raise PermissionError(13, "Permission denied", str(path))
        return real_stat(path, *args, **keywords)

    def scandir(path: Any) -> Any:
        if str(path) == str(theirs) and mode != 0o600:
            raise PermissionError(13, "Permission denied", str(path))
        return real_list(path)

    monkeypatch.setattr(os, "stat", stat)
    monkeypatch.setattr(os, "scandir", scandir)
    found = find(tmp_path)
    assert [run.name for run in found.runs] == ["mine"]
    assert found.left_out == (0 if mode == 0o600 else 1)
    assert look(tmp_path, "theirs").state == "no steps yet" and inside(tmp_path, "theirs", "config.yaml") is None


def test_the_newest_are_shown_of_however_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All are counted and none but those that are shown is looked into."""
    monkeypatch.setattr(runs_finding, "MOST_RUNS", 3)
    looked, real = list[str](), runs_finding._look
    monkeypatch.setattr(runs_finding, "_look", lambda folder, name: (looked.append(name), real(folder, name))[1])
    for i in range(20):  # the newest has the last name
        make(tmp_path, f"run-{i:02d}", age=1000 - i, metrics=lines(row(i)))
    make(tmp_path, "a-fresh-config")  # without numbers, and newer
    finder = Finder(tmp_path)
    found = finder.find()
    assert [run.name for run in found.runs] == ["a-fresh-config", "run-19", "run-18"]
    assert (found.left_out, found.whole, sorted(looked)) == (18, True, ["a-fresh-config", "run-18", "run-19"])
    looked.clear()
    assert finder.find() == found and looked == []  # nothing changed
    append(tmp_path / "run-00" / "metrics.jsonl", lines(row(77)))
    again = finder.find()
    assert {run.name: run.step for run in again.runs} == {"run-00": 77, "a-fresh-config": None, "run-19": 19}
    assert looked == ["run-00"]
    monkeypatch.setattr(runs_finding, "MOST_FOLDERS", 5)
    assert find(tmp_path).whole is False


def test_a_folder_that_did_not_change_is_not_listed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "group/a", metrics=lines(row(1)))
    listed, real, clock = list[Path](), runs_finding._listing, time.time()
    monkeypatch.setattr(runs_finding, "_listing", lambda path: (listed.append(path), real(path))[1])
    monkeypatch.setattr(runs_finding.time, "time", lambda: clock + 60)
    finder = Finder(tmp_path)
    assert [run.name for run in finder.find().runs] == ["group/a"] and len(listed) == 3
    listed.clear()
    assert [run.name for run in finder.find().runs] == ["group/a"] and listed == []
    make(tmp_path, "group/b", metrics=lines(row(1)))
    assert {run.name for run in finder.find().runs} == {"group/a", "group/b"}
    assert sorted(path.name for path in listed) == ["b", "group"]


# --- nothing outside ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["..", "../other", "/etc", "a/../../other", "a\x00b", "a" * 5000, "link", "none", ""])
def test_nothing_outside_of_the_folder_is_read(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "runs"
    make(folder, "a", metrics=lines(row(1)))
    other = make(tmp_path, "other", metrics=lines(row(1)))
    (tmp_path / "metrics.jsonl").write_text("")
    (folder / "link").symlink_to(other)
    assert inside(folder, name, "metrics.jsonl") is None
    assert inside(folder, "a", "metrics.jsonl") == folder / "a" / "metrics.jsonl"


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret")
    run = make(tmp_path, "runs/a")
    for name in ("config.yaml", "metrics.jsonl", "report.html"):
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(secret)
    (tmp_path / "runs" / "b").symlink_to(tmp_path)
    (run / "loop").symlink_to(run / "loop")
    assert text_of(tmp_path / "runs", "a", "config.yaml") == ""
    assert inside(tmp_path / "runs", "a", "report.html") is None
    assert inside(tmp_path / "runs", "a", "loop") is None
    assert [run.name for run in find(tmp_path / "runs").runs] == ["a"]
    assert find(tmp_path / "runs").runs[0].state == "no steps yet"


def test_a_pipe_holds_nobody_up(tmp_path: Path) -> None:
    run = make(tmp_path, "a")
    os.mkfifo(run / "metrics.jsonl")
    assert inside(tmp_path, "a", "metrics.jsonl") is None
    assert look(tmp_path, "a").state == "no steps yet"


# --- samples -----------------------------------------------------------------------------------------------------


def test_samples_come_by_update_and_as_they_grow(tmp_path: Path) -> None:
    path = tmp_path / "ppo_samples.jsonl"
    first = {"step": 1, "prompt": "p", "completion": "c\x00", "score": 0.5, "kl": 1.25, "length": 7, "ended": False}
    path.write_text(lines(first, {"step": "x"}, {"step": 2, "prompt": [1], "score": math.nan, "ended": 1}))
    updates = Updates()
    updates.read(path)
    (one,), (two,) = updates.by_step[1], updates.by_step[2]
    assert (one.prompt, one.completion, one.words()) == ("p", "c␀", "score 0.50 · KL 1.2 nats · 7 tokens · cut off")
    assert (two.prompt, two.completion, two.words(), two.ended) == ("[1]", "", "no score", None)
    append(path, lines(first | {"step": 2}))
    updates.read(path)
    assert {step: len(rows) for step, rows in updates.by_step.items()} == {1: 1, 2: 2}


def test_a_long_file_of_samples_is_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs_reading, "READ_BYTES", 200)
    path = tmp_path / "ppo_samples.jsonl"
    path.write_text(lines(*({"step": i, "prompt": "p", "completion": "c"} for i in range(100))))
    updates = Updates()
    updates.read(path)
    assert sorted(updates.by_step) == list(range(100))


def test_the_evaluations_samples_keep_their_order_and_bounds(tmp_path: Path) -> None:
    good = {"prompt": "p", "sft": "s", "policy": "x" * 30_000, "scores": {"gold": [1, 2.5], "odd": [1], "n": "x"}}
    (tmp_path / "samples.jsonl").write_text(lines({"prompt": "only"}, *[good] * 30))
    rows = compared(tmp_path / "samples.jsonl")
    assert len(rows) == 20 and len(rows[0].policy) == 20_001
    assert rows[0].scores == {"gold": (1.0, 2.5), "odd": (None, None), "n": (None, None)}


def test_reading_and_drawing_need_no_torch() -> None:
    code = (
        "import sys, labeling_app.views.runs.reading, labeling_app.views.runs.charts, labeling_app.views.runs.details\n"
        "import labeling_app.views.runs.samples, labeling_app.reports\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
