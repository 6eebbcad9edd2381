"""A file from the admin's machine into the store: looked at first, as a whole, and shown as what it was taken for."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import streamlit as st

from labeling_app.actions import act, told
from labeling_app.components.tables import show_table
from labeling_app.components.texts import show_text
from labeling_app.session import counted
from rlhf.data.readers import READERS, suffix_of
from rlhf.data.records import PromptLike, Ranking, prompt_text
from rlhf.data.sources import load_rows
from rlhf.errors import DataError, RLHFError
from rlhf.preferences import Labeler, LabelStore, NewTask, gold
from rlhf.preferences.exchange import RankingFile, RanksMissing, listed
from rlhf.preferences.intake import LINE_LENGTH, check_batch, parse_task

KINDS = ("Finished rankings", "Tasks to rank", "Gold tasks with known answers")
RANKINGS, TASKS, GOLD = KINDS
HELP = {
    RANKINGS: "Our own rows, TRL pairs, hh-rlhf transcripts, Argilla records, Label Studio or OpenAssistant exports. "
    "What the batch holds already adds nothing.",
    TASKS: 'Rows like {"prompt": "…", "completions": ["…", "…"]}, and perhaps sources, group and priority.',
    GOLD: "Rankings whose order is known to be right. They are mixed in unseen, as the setting gold_share says.",
}
FIRST = 5  # rows shown of a file
LONGEST = 160  # characters shown of a text
BREATH = 0.001  # seconds, every few hundred rows: labelers of the same process get their turns


@dataclass
class Look:
    """What a file was found to hold."""

    count: int = 0
    format: str = ""
    left_out: dict[str, int] = field(default_factory=dict)
    first: list[dict[str, Any]] = field(default_factory=list)
    problem: str = ""
    file: RankingFile | None = None
    tasks: list[NewTask] = field(default_factory=list)
    answers: gold.Answers | None = None


def show(store: LabelStore, labeler: Labeler) -> None:
    """Choose a file, look at it, name a batch, import."""
    _show_done()
    kind = st.selectbox("What it holds", KINDS, key="data-kind")
    st.caption(HELP[kind])
    endings = [ending.removeprefix(".") for ending in READERS]
    upload = st.file_uploader("File", type=[*endings, "gz"], key="data-file")
    if upload is None:
        st.session_state.pop("data-look", None)
        return
    known = st.session_state.get("data-look")
    if known is None or known[0] != (upload.file_id, kind):
        known = ((upload.file_id, kind), _looked_at(store, upload.name, upload.getbuffer(), kind))
        st.session_state["data-look"] = known
    look: Look = known[1]
    if look.problem:
        st.error("This file cannot be imported. Nothing was written.", icon=":material/error:")
        show_text(look.problem)
        return
    _show_look(look, kind)
    batch = st.text_input("Batch", key="data-batch", max_chars=LINE_LENGTH, help="The name under which they are kept.")
    if st.button("Import", type="primary", disabled=not batch.strip(), key="data-import"):
        bar = st.progress(0.0)
        act(store, labeler, lambda: _bring_in(store, labeler, look, batch.strip(), bar))
        st.rerun()
    if kind == RANKINGS:
        st.caption("Stay on this page until it is done. If it is cut off, import the file again: it goes on.")


def _show_done() -> None:
    done = st.session_state.pop("data-done", None)
    if done is not None:
        added, held, revisions = done
        st.success(f"Added {added:d}; {held:d} were there already. {revisions:d} of the new ones are revisions.")


def _show_look(look: Look, kind: str) -> None:
    if kind == TASKS:
        st.write(f"Found {counted(look.count, 'task')}. The first of them:")
    else:
        st.write(f"Found {counted(look.count, 'ranking')}, in this format:")
        show_text(look.format)
    show_table(look.first, key="data-first")
    if look.left_out:
        st.warning("Left out, because it is no ranking:")
        show_text(listed(look.left_out))


def _looked_at(store: LabelStore, name: str, content: Any, kind: str) -> Look:
    """Walk the whole file once; what is wrong with it becomes a problem in words."""
    folder = st.session_state.setdefault("data-folder", tempfile.TemporaryDirectory(prefix="rlhf-data-"))
    packed = ".gz" if name.lower().endswith(".gz") else ""
    ending = suffix_of(Path(name))
    path = Path(folder.name) / f"upload{ending if ending in READERS else '.unknown'}{packed}"
    path.write_bytes(content)
    bar = st.progress(0.0)
    try:
        return _tasks(path, name) if kind == TASKS else _rankings(store, path, name, kind, bar)
    except RanksMissing as error:
        return Look(problem=f'{error.found}; choose "{TASKS}" above to queue them')
    except RLHFError as error:
        return Look(problem=told(error))
    finally:
        bar.empty()


def _tasks(path: Path, name: str) -> Look:
    try:
        found = load_rows(str(path), parse_task)
    except DataError as error:
        raise DataError(str(error).replace(str(path), name)) from None
    first = [_row(t.prompt, t.completions, ", ".join(filter(None, t.sources))) for t in found[:FIRST]]
    return Look(len(found), tasks=found, first=first)


def _rankings(store: LabelStore, path: Path, name: str, kind: str, bar: Any) -> Look:
    file = RankingFile(path, name=name)
    first: list[dict[str, Any]] = []
    file.watch = _watching(bar)
    for ranking in file:
        if len(first) < FIRST:
            first.append(_ranking_row(ranking))
        elif kind == GOLD:
            break
    file.watch = None
    look = Look(file.count, file.format.name, dict(file.tally.left_out), first, file=file)
    if kind == GOLD:
        look.answers = gold.checked(file, store.settings().k, name)
        look.count, look.left_out = len(look.answers), dict(file.tally.left_out)
    return look


def _row(prompt: PromptLike, completions: Sequence[str], labels: str) -> dict[str, Any]:
    return {"Prompt": _short(prompt_text(prompt)), "Completions": len(completions), "Sources": labels}


def _ranking_row(ranking: Ranking) -> dict[str, Any]:
    ranks = ", ".join("–" if rank is None else str(rank) for rank in ranking.ranks)
    best = next((text for text, rank in zip(ranking.completions, ranking.ranks, strict=True) if rank == 1), "")
    return {
        "Prompt": _short(prompt_text(ranking.prompt)),
        "Ranked first": _short(best),
        "Ranks": ranks,
        "Labeler": ranking.labeler,
    }


def _short(text: str) -> str:
    text = " ".join(text[: 4 * LONGEST].split())
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _watching(bar: Any) -> Callable[[RankingFile], None]:
    def show_how_far(file: RankingFile) -> None:
        meter = file.meter
        share = min(meter.done / meter.size, 1.0) if meter.size else 0.0
        bar.progress(share, text=f"{file.count:d} rows")
        time.sleep(BREATH)

    return show_how_far


def _bring_in(store: LabelStore, labeler: Labeler, look: Look, batch: str, bar: Any) -> None:
    """Import what was looked at. An import that is cut off goes on when the button is pressed again."""
    check_batch(batch)
    if look.answers is not None:
        added = store.add_gold(look.answers, batch=batch, by=labeler)
        done = (added, look.count - added, 0)
    elif look.file is not None:
        look.file.watch = _watching(bar)
        try:
            report = store.import_rankings(look.file, batch=batch, by=labeler)
        finally:
            look.file.watch = None
        done = (report.added, report.repeated, report.revisions)
    else:
        added = store.add_tasks(look.tasks, batch=batch, by=labeler)
        done = (added, look.count - added, 0)
    st.session_state["data-done"] = done
