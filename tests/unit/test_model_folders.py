"""A folder written anew: whenever the writer is killed, a reader finds the old content or the new, whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from test_ppo_setup import make_base, make_trainer, short

from rlhf.model import folders
from rlhf.model.adapters import read_record, save_adapter
from rlhf.ppo import checkpoint


class Killed(BaseException):
    """In the place of SIGKILL: nothing catches it."""


def write(folder: Path, text: str) -> None:
    staging = folders.staging_of(folder)
    (staging / "content").write_text(text)
    folders.replace_folder(staging, folder)


def killed_at(rename: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, the `rename`-th rename (from 1) is never done."""
    real, calls = Path.rename, []

    def counted(self: Path, target: Path) -> Path:
        calls.append(self)
        if len(calls) == rename:
            raise Killed
        return real(self, target)

    monkeypatch.setattr(Path, "rename", counted)


@pytest.mark.parametrize("rename", [1, 2])
def test_killed_at_a_rename_the_old_content_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rename: int
) -> None:
    folder = tmp_path / "sft"
    write(folder, "old")
    with monkeypatch.context() as patch:
        killed_at(rename, patch)
        with pytest.raises(Killed):
            write(folder, "new")
    assert folder.exists() == (rename == 1)
    folders.recover(folder)
    assert (folder / "content").read_text() == "old"
    write(folder, "newer")
    assert (folder / "content").read_text() == "newer"
    assert [p.name for p in tmp_path.iterdir()] == ["sft"]


def test_a_kill_while_the_old_one_is_removed_does_not_bring_its_rest_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is half removed is the newest on the disk, and must not be taken for what the next kill moved aside."""
    folder, half_removed = tmp_path / "sft", tmp_path / ".sft.1.old"
    write(folder, "old")
    half_removed.mkdir()
    os.utime(half_removed, (4e9, 4e9))
    with monkeypatch.context() as patch:
        killed_at(2, patch)
        with pytest.raises(Killed):
            write(folder, "new")
    folders.recover(folder)
    assert (folder / "content").read_text() == "old"


def test_another_killed_process_leftovers_go_and_other_names_stay(tmp_path: Path) -> None:
    for name in (".sft.1.old", ".sft.2.staging", ".sft.b.3.old", ".policy.1.old", "sft.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "content").touch()
    write(tmp_path / "sft", "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".policy.1.old", ".sft.b.3.old", "sft", "sft.old"]
    assert (tmp_path / "sft" / "content").read_text() == "new"


def test_names_are_on_the_disk_before_the_old_content_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "sft", "old")
    real, events = os.fsync, []

    def noted(handle: int) -> None:
        events.append(os.path.basename(os.readlink(f"/proc/self/fd/{handle}")))
        real(handle)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(folders.shutil, "rmtree", lambda path, **_: events.append(f"remove {path.name}"))
    write(tmp_path / "sft", "new")
    staging = f".sft.{os.getpid()}.staging"
    assert events == [
        f"remove {staging}", "content", staging, tmp_path.name, f"remove .sft.{os.getpid()}.old"
    ]  # fmt: skip


def test_adapters_and_checkpoints_are_found_after_a_kill(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make_base(tiny_model_dir)
    adapter, state = tmp_path / "adapters" / "sft", tmp_path / "checkpoints" / "ppo"
    trainer = make_trainer(base, short())
    save_adapter(base, "sft", adapter, record={"steps": 1})
    checkpoint.save(trainer, state, "first")
    for save in (
        lambda: save_adapter(base, "sft", adapter, record={"steps": 2}),
        lambda: checkpoint.save(trainer, state, "second"),
    ):
        with monkeypatch.context() as patch:
            killed_at(2, patch)
            with pytest.raises(Killed):
                save()
    assert not adapter.exists() and not state.exists()
    assert read_record(adapter)["steps"] == 1
    assert checkpoint.restore(trainer, state, "first")
