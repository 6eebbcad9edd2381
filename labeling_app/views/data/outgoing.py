"""What counts of the store's rankings, as a file for the admin's machine: prepared when asked, then fetched."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from labeling_app.actions import act
from labeling_app.components.texts import show_text
from labeling_app.session import counted
from labeling_app.untrusted import visible
from rlhf.errors import StoreError
from rlhf.preferences import Labeler, LabelStore
from rlhf.preferences.exchange import FORMATS, Written, endings, listed, write, write_demonstrations

ALL = "All batches"
BETTER = "better answers that labelers wrote, for SFT"
READY = "data-ready"


@dataclass(frozen=True)
class Prepared:
    """A file that waits to be fetched, and the choices that it was made for."""

    choices: tuple[int, str, str]
    path: Path
    done: Written


def show(store: LabelStore, labeler: Labeler) -> None:
    """Choose a batch and a format, prepare the file, download it."""
    batches = store.batches(by=labeler)
    if not batches:
        st.write("There is nothing to take out yet.")
        return
    # By number: a batch may have any name, also that of the line for all.
    chosen = st.selectbox(
        "Batch",
        range(len(batches) + 1),
        format_func=lambda i: visible(batches[i - 1]) if i else ALL,
        key="data-out-batch",
    )
    names = [*FORMATS, "demonstrations"]
    format = st.selectbox("Format", names, format_func=_described, key="data-out-format")
    ending = st.selectbox("Kept as", endings(format), key="data-out-ending")
    choices = (chosen, format, ending)
    batch = batches[chosen - 1] if chosen else None
    if st.button("Prepare the file", key="data-out-prepare"):
        st.session_state.pop(READY, None)
        act(store, labeler, lambda: _prepare(store, labeler, batch, choices))
        if READY not in st.session_state:
            st.rerun()  # what went wrong stands at the top of the page
    ready: Prepared | None = st.session_state.get(READY)
    if ready is not None and ready.choices == choices:
        _show_ready(ready)


def _described(format: str) -> str:
    return f"{format}: {FORMATS[format].about if format in FORMATS else BETTER}"


def _prepare(store: LabelStore, labeler: Labeler, batch: str | None, choices: tuple[int, str, str]) -> None:
    _, format, ending = choices
    folder = st.session_state.setdefault("data-folder", tempfile.TemporaryDirectory(prefix="rlhf-data-"))
    path = Path(folder.name) / f"{format}{ending}"
    if format == "demonstrations":
        demonstrations = store.demonstrations(batch=batch, by=labeler)
        if not demonstrations:
            raise StoreError("nobody has written a better answer yet")
        count = write_demonstrations(path, demonstrations)
        done = Written(count, count, {}, {}, ())
    else:
        rankings = store.rankings(batch=batch, by=labeler)
        if not rankings:
            raise StoreError("nothing is ranked there yet")
        done = write(path, rankings, format)
    st.session_state[READY] = Prepared(choices, path, done)


def _show_ready(ready: Prepared) -> None:
    done = ready.done
    st.write(f"{counted(done.rows, 'row')} of {counted(done.rankings, 'ranking')}.")
    if done.left_out:
        st.warning("Left out, because this format cannot hold it:")
        show_text(listed(done.left_out))
    if done.lost:
        st.warning("Not in the file, because this format has no place for it (in so many rankings):")
        show_text(listed(done.lost))
    for note in done.notes:
        show_text(note)
    st.download_button(
        "Download",
        data=ready.path.read_bytes,  # read when it is fetched, not on every run of the page
        file_name=ready.path.name,
        mime="application/octet-stream",
        on_click="ignore",
        type="primary",
        key="data-out-download",
    )
