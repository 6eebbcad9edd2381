"""One run: samples by update and after training, its settings and record, its report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import streamlit as st

from labeling_app.components.report_frame import show_report
from labeling_app.components.tables import show_table
from labeling_app.components.texts import show_text
from labeling_app.session import counted
from labeling_app.views.runs.reading import finite, inside, text_of
from labeling_app.views.runs.samples import Compared, Updates, Written, compared
from rlhf.report.record import clean, mapping, mask_credentials, masked
from rlhf.report.words import duration, plain

PARTS = ("Samples", "Settings", "Record", "Report")


def show(folder: Path, run: str, part: str) -> None:
    """One of PARTS."""
    if part == "Samples":
        _samples(folder, run)
    elif part == "Settings":
        _settings(folder, run)
    elif part == "Record":
        _record(folder, run)
    else:
        _report(folder, run)


# --- samples -----------------------------------------------------------------------------------------------------


def _samples(folder: Path, run: str) -> None:
    path = inside(folder, run, "ppo_samples.jsonl")
    updates = Updates()
    if path is not None:
        updates.read(path)
    steps = sorted(updates.by_step)
    if steps:
        st.subheader("As PPO went on", anchor=False)
        pair = (steps[0], steps[-1])
        if len(steps) > 1:
            first, second = st.select_slider("Updates to lay side by side", steps, value=pair, key=f"updates-{run}")
            pair = (int(first), int(second))
        for column, step in zip(st.columns(2), dict.fromkeys(pair), strict=False):
            with column:
                _update(step, updates.by_step[step])
    path = inside(folder, run, "samples.jsonl")
    rows = compared(path) if path is not None else []
    if rows:
        st.subheader("After training, on held-out prompts", anchor=False)
        st.caption(f"The first {counted(len(rows), 'sample')} of the evaluation, in their order: none is picked.")
        for i, row in enumerate(rows):
            _compared(i, row)
    if not steps and not rows:
        st.write(
            "No samples yet. PPO keeps a few of every update's, and the evaluation those of SFT beside the policy's."
        )


def _update(step: int, written: Sequence[Written]) -> None:
    st.markdown(f"**Update {step:d}**, {counted(len(written), 'sample')}")
    for sample in written:
        with st.container(border=True, gap="xsmall"):
            st.caption("Prompt")
            show_text(sample.prompt)
            st.caption("Policy")
            show_text(sample.completion)
            st.caption(sample.words())


def _compared(number: int, row: Compared) -> None:
    with st.container(border=True, gap="xsmall", key=f"compared-{number:d}"):
        st.caption("Prompt")
        show_text(row.prompt)
        left, right = st.columns(2)
        with left:
            st.caption("SFT")
            show_text(row.sft)
        with right:
            st.caption("Policy")
            show_text(row.policy)
        said = [f"{judge}: {plain(sft)} → {plain(policy)}" for judge, (sft, policy) in row.scores.items()]
        if said:
            st.caption("Scores, SFT → policy, each in its judge's own units")
            show_text("\n".join(said))


# --- settings and record -----------------------------------------------------------------------------------------


def _settings(folder: Path, run: str) -> None:
    text = mask_credentials(text_of(folder, run, "config.yaml"))
    if not text:
        st.write("This run has no config.yaml.")
        return
    st.caption("config.yaml, as this run resolved it; credentials are masked.")
    with st.container(border=True):
        show_text(text)


def _record(folder: Path, run: str) -> None:
    text = text_of(folder, run, "manifest.json")
    if not text:
        st.write("This run has no manifest.json: it is written when the first stage ends.")
        return
    try:
        manifest = mapping(masked(clean(json.loads(text))))
    except (ValueError, RecursionError):
        manifest = {}
    stages = mapping(manifest, "stages")
    if stages:
        st.subheader("Stages", anchor=False)
        show_table([_stage(name, mapping(entry)) for name, entry in stages.items()], key="record-stages")
    facts = _facts(manifest)
    if facts:
        st.subheader("Made with", anchor=False)
        show_table([{"What": name, "Value": _masked(value)} for name, value in facts], key="record-facts")
    st.subheader("Everything", anchor=False)
    st.caption("manifest.json; credentials are masked.")
    with st.container(border=True, height=420):
        show_text(mask_credentials(text))


def _stage(name: str, entry: dict[str, Any]) -> dict[str, object]:
    inputs = ", ".join(_masked(mapping(value).get("source", key)) for key, value in mapping(entry, "inputs").items())
    return {
        "Stage": name,
        "Started": _masked(entry.get("started", "")),
        "Took": duration(finite(entry.get("seconds"))),
        "Inputs": inputs,
        "After": ", ".join(mapping(entry, "parents")),
        "Key": str(entry.get("key", ""))[:12],
    }


def _masked(value: object) -> str:
    return mask_credentials(str(value))


def _facts(manifest: dict[str, Any]) -> list[tuple[str, object]]:
    plain_ones = [(key, value) for key, value in manifest.items() if isinstance(value, str | int | float)]
    below = [(f"{key}: {name}", v) for key in ("machine", "versions") for name, v in mapping(manifest, key).items()]
    return plain_ones + below


# --- the report --------------------------------------------------------------------------------------------------


def _report(folder: Path, run: str) -> None:
    path = inside(folder, run, "report.html")
    if path is None:
        st.write("This run has no report.html yet: it is written when a command ends.")
        return
    show_report(run, path.stat().st_mtime)
