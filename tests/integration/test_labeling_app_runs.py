"""The engineers' page of runs as Streamlit runs it, without a browser: what admins see there, and nobody else."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from app_harness import Page, opener, served_store, texts, well
from streamlit.testing.v1 import AppTest

from labeling_app.launch import settle
from labeling_app.views import sign_in
from labeling_app.views.runs import details as runs_details
from labeling_app.views.runs import finding as runs_finding
from labeling_app.views.runs import page as runs
from labeling_app.views.runs import reading as runs_reading
from rlhf.preferences import LabelStore

BEACON = "![x](http://127.0.0.1:9/beacon.png) :rainbow[hi] $x$ <img src=x>"


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def row(step: int, stage: str = "ppo", **numbers: Any) -> dict[str, Any]:
    return {"stage": stage, "step": step, "total": 9, "time": "2026-01-01T00:00:00+00:00", **numbers}


def sample(step: int, completion: str = "A warm film.") -> dict[str, Any]:
    rest = {"score": 1.25, "kl": 3.0, "length": 5, "ended": True}
    return {"step": step, "prompt": f"Prompt of {step}", "completion": completion, **rest}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    folder.mkdir()
    return folder


def make(folder: Path, name: str, **files: str) -> Path:
    run = folder / name
    run.mkdir(parents=True)
    for file, text in ({"metrics__jsonl": lines(row(1, score=1.0), row(2, score=2.0))} | files).items():
        (run / file.replace("__", ".")).write_text(text)
    return run


@pytest.fixture
def store(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LabelStore]:
    with served_store(tmp_path, monkeypatch, folder) as store:
        yield store


@pytest.fixture
def page(store: LabelStore, monkeypatch: pytest.MonkeyPatch) -> Page:
    return opener(store, monkeypatch, "runs")


def listed(test: AppTest) -> list[dict[str, Any]]:
    return list(test.dataframe[0].value.to_dict("records"))


def charts(test: AppTest) -> dict[str, dict[str, Any]]:
    """The charts on the page by title."""
    found = [json.loads(chart.proto.spec) for chart in test.get("vega_lite_chart")]
    return {spec["title"]["text"]: spec for spec in found}


def show(test: AppTest, part: str) -> AppTest:
    (choice,) = [c for c in test.get("button_group") if c.label == "More of a run"]
    return well(choice.set_value(part).run())


def said(test: AppTest) -> str:
    """All that Streamlit reads as Markdown."""
    kinds: list[Any] = [test.markdown, test.caption, test.title, test.subheader, test.info, test.error]
    widgets = [w.label for kind in (test.selectbox, test.multiselect, test.button, test.toggle) for w in kind]
    return "\n".join([*(str(e.value) for kind in kinds for e in kind), *widgets])


# --- who sees it -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["labeler", "reviewer"])
def test_others_see_nothing_of_it(page: Page, folder: Path, role: str) -> None:
    make(folder, "first")
    test = page(role)
    assert "There is nothing here." in said(test) and "first" not in said(test) + "".join(texts(test))
    assert not test.dataframe and not test.multiselect and not charts(test)


class Rerun(Exception):
    """Instead of Streamlit's own."""


@pytest.mark.parametrize("change", ["nothing", "suspended", "demoted", "somebody else", "signed out", "no store"])
def test_a_part_that_draws_itself_anew_asks_anew_who_is_there(
    store: LabelStore, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    store.invite("Second", "admin")
    key = store.sign_in_by_token(store.invite("Lena", "admin"))
    monkeypatch.setattr(sign_in, "session_key", lambda: key)
    person = store.signed_in(key)
    assert person is not None
    if change == "suspended":
        store.suspend("Lena")
    elif change == "demoted":  # where people come by an identity provider, no session of ours ends with it
        monkeypatch.setattr(sign_in, "signed_in", lambda _store: dataclasses.replace(person, role="reviewer"))
    elif change == "somebody else":
        key = store.sign_in_by_token(store.invite("Third", "admin"))
    elif change == "signed out":
        store.sign_out(key)
    elif change == "no store":
        monkeypatch.setattr(sign_in, "signed_in", lambda _store: store.sign_in_by_token("none"))

    def rerun() -> None:
        raise Rerun

    drawn: list[str] = []
    monkeypatch.setattr(runs.st, "fragment", lambda draw, **_: draw)
    monkeypatch.setattr(runs.st, "rerun", rerun)
    part = runs._fragment(drawn.append, None)
    if change == "nothing":
        part(store, person, "drawn")
        assert drawn == ["drawn"]
        return
    with pytest.raises(Rerun):
        part(store, person, "drawn")
    assert drawn == []


# --- the list ----------------------------------------------------------------------------------------------------


def test_without_a_folder_the_page_says_how_to_give_one(
    page: Page, store: LabelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in settle(str(tmp_path / "labels.db")).environment().items():
        monkeypatch.setenv(name, value)
    test = page()
    assert "No folder of runs was named" in said(test)
    assert "rlhf label -c CONFIG.yaml --runs DIR" in texts(test)


def test_an_empty_folder_is_said(page: Page, folder: Path) -> None:
    test = page()
    assert "There is no run in this folder yet." in said(test) and str(folder) in texts(test)
    assert not test.multiselect


def test_runs_are_listed_newest_first(page: Page, folder: Path) -> None:
    old = make(folder, "group/old")
    os.utime(old / "metrics.jsonl", (time.time() - 3 * 3600 - 9,) * 2)
    make(folder, "new", metrics__jsonl=lines(row(7, "sft", loss=1.0)))
    assert listed(page()) == [
        {"Run": "new", "State": "at work", "Stage": "Supervised fine-tuning", "Step": "7 of 9",
         "Last news": "just now"},
        {"Run": "group/old", "State": "no news", "Stage": "PPO", "Step": "2 of 9", "Last news": "3 hours ago"},
    ]  # fmt: skip


# --- curves ------------------------------------------------------------------------------------------------------


def test_the_newest_runs_curves_are_drawn_and_grow(page: Page, folder: Path) -> None:
    run = make(folder, "first")
    test = page()
    assert list(charts(test)) == ["Reward score"]
    assert charts(test)["Reward score"]["title"]["subtitle"] == "2 steps, last 2"
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write(lines(row(3, score=2.5)) + '{"stage": "ppo", "step": 4, "sc')
    test.run()
    assert charts(test)["Reward score"]["title"]["subtitle"] == "3 steps, last 2.5"
    assert "could not be read" not in said(test)


def test_a_stage_can_be_chosen_and_every_number_shown(page: Page, folder: Path) -> None:
    make(folder, "first", metrics__jsonl=lines(row(1, "sft", loss=3.0, eval_loss=2.0, grad_norm=1.0), row(1, kl=0.5)))
    test = page()
    assert list(charts(test)) == ["Distance from SFT (KL)"]
    (stage,) = [box for box in test.selectbox if box.label == "Stage"]
    assert stage.options == ["The one that logged last", "Supervised fine-tuning", "PPO"]
    well(stage.set_value("sft").run())
    assert list(charts(test)) == ["Loss"]
    (toggle,) = test.toggle
    well(toggle.set_value(True).run())
    assert list(charts(test)) == ["Loss", "Gradient norm"]


def test_several_runs_are_compared_in_one_chart(page: Page, folder: Path) -> None:
    make(folder, "a")
    make(folder, "b", metrics__jsonl=lines(row(1, score=9.0)))
    test = page()
    well(test.multiselect[0].set_value(["a", "b"]).run())
    assert charts(test)["Reward score"]["title"]["subtitle"] == "2 runs, up to 2 steps"
    well(test.multiselect[0].set_value([]).run())
    assert not charts(test) and "Choose a run" in said(test)


def test_broken_lines_are_counted(page: Page, folder: Path) -> None:
    make(folder, "a", metrics__jsonl="{\n" + lines({"step": 1}, row(1, score=1.0)) + "null\n")
    assert "3 lines could not be read, and left out." in said(page())


def test_a_file_that_is_too_long_for_one_look_is_read_on(
    page: Page, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(folder, "a", metrics__jsonl=lines(*(row(i, score=float(i)) for i in range(1, 101))))
    monkeypatch.setattr(runs_reading, "READ_BYTES", 1000)
    monkeypatch.setattr(runs, "LONGEST_READ", 0.0)
    test = page()
    steps = int(charts(test)["Reward score"]["title"]["subtitle"].split()[0])
    assert 0 < steps < 100 and "only its beginning was read" in said(test)
    monkeypatch.setattr(runs, "LONGEST_READ", 20.0)
    (on,) = [button for button in test.button if button.label == "Read on"]
    well(on.click().run())
    assert charts(test)["Reward score"]["title"]["subtitle"] == "100 steps, last 100"
    assert "only its beginning" not in said(test)


def test_a_run_without_numbers_says_so(page: Page, folder: Path) -> None:
    make(folder, "a", metrics__jsonl="", config__yaml="seed: 1\n")
    assert "No numbers yet" in said(page())
    (folder / "a" / "metrics.jsonl").write_text(lines(row(1, "evaluate")))
    assert "No numbers yet" in said(page())


def test_a_run_with_numbers_of_held_out_data_alone_shows_them(page: Page, folder: Path) -> None:
    make(folder, "a", metrics__jsonl=lines(row(1, "sft", eval_loss=3.0), row(2, "sft", eval_loss=2.5)))
    test = page()
    assert list(charts(test)) == ["Loss, held-out"] and "No numbers yet" not in said(test)


def test_rows_of_a_stage_without_a_name_are_counted_as_broken(page: Page, folder: Path) -> None:
    make(folder, "a", metrics__jsonl=lines(row(1, "", score=1.0), row(1, "sft", loss=1.0), row(2, "", score=2.0)))
    test = page()
    assert list(charts(test)) == ["Loss"] and "2 lines could not be read, and left out." in said(test)
    (folder / "a" / "metrics.jsonl").write_text(lines(row(1, "", score=1.0)))
    assert "No numbers yet" in said(well(test.run()))


def test_what_is_left_out_of_the_list_is_said(page: Page, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs_finding, "MOST_RUNS", 1)
    for name in ("a", "b", "c"):
        make(folder, name)
    test = page()
    assert len(listed(test)) == 1 and "2 folders left out: older than those above (1 run)" in said(test)
    monkeypatch.setattr(runs_finding, "MOST_FOLDERS", 2)
    assert "folders are looked through, and there are more." in said(well(test.run()))


# --- one run -----------------------------------------------------------------------------------------------------


def test_samples_stand_side_by_side_with_their_numbers(page: Page, folder: Path) -> None:
    after = {"prompt": "Held out", "sft": "dull", "policy": "warm", "scores": {"gold": [0.5, 2], BEACON: [None, 1]}}
    make(folder, "a", ppo_samples__jsonl=lines(*(sample(i) for i in (1, 1, 2, 3))), samples__jsonl=lines(after))
    test = page()
    assert "**Update 1**, 2 samples" in said(test) and "**Update 3**, 1 sample" in said(test)
    assert "score 1.25 · KL 3.0 nats · 5 tokens" in said(test)
    assert {"Prompt of 1", "Prompt of 3", "A warm film."} <= set(texts(test)) and "Prompt of 2" not in texts(test)
    assert {"Held out", "dull", "warm", f"gold: 0.500 → 2.00\n{BEACON}: – → 1.00"} <= set(texts(test))
    well(test.select_slider[0].set_value((2, 3)).run())
    assert "**Update 2**, 1 sample" in said(test) and "**Update 1**" not in said(test)


def test_without_samples_it_says_who_writes_them(page: Page, folder: Path) -> None:
    make(folder, "a")
    assert "No samples yet. PPO keeps a few of every update's" in said(page())


def test_settings_and_record_are_readable_and_keep_passwords(page: Page, folder: Path) -> None:
    source = "postgresql://ana:hunter2@db/rankings"
    inputs = {"rankings": {"source": source, "sha256": "ab"}}
    entry = {"key": "5f" * 32, "started": "2026-01-01", "seconds": 61.4, "inputs": inputs, "parents": {"sft": "6f"}}
    manifest = {"git_commit": "c0ffee1", "versions": {"torch": "2.13.0"}, "stages": {"reward": entry}}
    config = "store:\n  url: postgresql://ana:hunter2@db/labels"
    make(folder, "a", config__yaml=config, manifest__json=json.dumps(manifest | {"url": "pg://ana:hunter2@db/x"}))
    test = show(page(), "Settings")
    assert "store:\n  url: postgresql://ana:***@db/labels" in texts(test)
    show(test, "Record")
    tables = [frame.value.to_dict("records") for frame in test.dataframe]
    assert tables[1] == [
        {"Stage": "reward", "Started": "2026-01-01", "Took": "1 min 01 s",
         "Inputs": "postgresql://ana:***@db/rankings", "After": "sft", "Key": "5f5f5f5f5f5f"}
    ]  # fmt: skip
    assert {"What": "versions: torch", "Value": "2.13.0"} in tables[2]
    assert any('"git_commit": "c0ffee1"' in text for text in texts(test))
    assert "hunter2" not in "".join(texts(test)) + json.dumps(tables)


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"stages": [1]}', '{"stages": {"x": 1}}', "[" * 100_000])
def test_a_damaged_manifest_is_shown_as_it_is(page: Page, folder: Path, text: str) -> None:
    make(folder, "a", manifest__json=text)
    test = show(page(), "Record")
    assert text in texts(test) if text else "no manifest.json" in said(test)


def test_the_report_is_asked_for_by_name(page: Page, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(runs_details, "show_report", lambda run, at: shown.append((run, at)))
    run = make(folder, "dir/a")
    test = show(page(), "Report")
    assert "no report.html yet" in said(test) and shown == []
    (run / "report.html").write_text("<h1>Report</h1>")
    os.utime(run / "report.html", (1000.5, 1000.5))
    test.run()
    assert shown[-1] == ("dir/a", 1000.5)


# --- foreign texts -----------------------------------------------------------------------------------------------


def test_hostile_names_keys_and_texts_are_shown_as_text(page: Page, folder: Path) -> None:
    name = "![x](beacon) :rainbow[hi] $x$ \u202e <img src=x>"
    rows = [row(i, BEACON, **{BEACON: 1.0, "score": float(i), "image": 2.0, "url": 3.0}) for i in (1, 2)]
    make(folder, name, metrics__jsonl=lines(*rows), config__yaml=BEACON, ppo_samples__jsonl=lines(sample(1, BEACON)),
         manifest__json=json.dumps({"stages": {BEACON: {"inputs": {BEACON: 1}}}, "note": BEACON}))  # fmt: skip
    make(folder, "other", metrics__jsonl=lines(*rows))
    test = page()
    well(test.multiselect[0].set_value([name, "other"]).run())
    well(test.toggle[0].set_value(True).run())
    for spec in charts(test).values():
        fields = {channel.get("field") for layer in spec["layer"] for channel in layer["encoding"].values()
                  if isinstance(channel, dict)}  # fmt: skip
        assert fields <= {"x", "y", "who", None}
    for part in runs_details.PARTS[:-1]:
        show(test, part)
        assert "beacon" not in said(test)
    assert listed(test)[1]["Run"] == name.replace("\u202e", "⟨U+202E⟩")
