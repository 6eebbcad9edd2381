"""What a run has done: `manifest.json` says, for each stage, from what and with what it was made.

A stage is skipped when its key is unchanged and its outputs still are what it wrote. The key covers the config's
sections that it reads, its inputs' contents, the outputs of its parents, the seed, and the toolkit's version.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from rlhf import __version__
from rlhf.errors import ArtifactError

ORDER = ("sft", "reward", "gold", "ppo", "evaluate", "export", "sample", "active")
PACKAGES = ("torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes", "datasets")


@dataclass(frozen=True)
class Plan:
    """What a stage depends on, known before it runs.

    Attributes:
        sections: the parts of the config that it reads.
        inputs: fingerprints of the data that it reads, by name.
        parents: stages whose outputs it uses; they must be on the record before it can run.
        quotes: stages whose outputs it mentions if they are on the record.
        outputs: folders and files that it writes.
        present: given its result, whether what it wrote elsewhere (the label store) is still there.
    """

    stage: str
    sections: Mapping[str, BaseModel | None]
    inputs: Mapping[str, str]
    parents: tuple[str, ...]
    outputs: tuple[Path, ...]
    quotes: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    present: Callable[[Mapping[str, Any]], bool] = lambda _result: True


class Manifest:
    """`manifest.json` of one run directory: an entry for each stage, in the stages' order."""

    def __init__(self, run_path: Path, seed: int, base_sha256: str) -> None:
        self.path = run_path / "manifest.json"
        self.seed = seed
        self.base_sha256 = base_sha256
        self.stages: dict[str, dict[str, Any]] = {}
        self.base_seconds = 0.0  # what loading the base took (its first conversion included) when it last was loaded
        if self.path.is_file():
            try:
                content = json.loads(self.path.read_text(encoding="utf-8"))
                self.stages, self.base_seconds = dict(content["stages"]), float(content["base_seconds"])
                for entry in self.stages.values():
                    _ = [entry[name] for name in ("key", "base_sha256", "outputs", "result", "sections")]
                    _ = dict(entry["parents"])
            except (ValueError, KeyError, TypeError) as error:
                raise ArtifactError(f"{self.path}: is damaged ({error}); move the run directory away") from error

    def key(self, plan: Plan) -> str:
        """The hash that decides whether a stage must run again."""
        parts = {
            "version": __version__,
            "seed": self.seed,
            "base": self.base_sha256,
            "sections": _dumped(plan),
            "inputs": dict(plan.inputs),
            "parents": self._parents(plan),
            "extra": dict(plan.extra),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def is_done(self, plan: Plan) -> bool:
        """Whether the stage ran with this very key and its outputs are still there, unchanged."""
        entry = self.stages.get(plan.stage)
        if entry is None or entry["key"] != self.key(plan) or entry["outputs"] != hash_outputs(plan):
            return False
        return plan.present(entry["result"])

    def sound(self) -> dict[str, dict[str, Any]]:
        """The entries that fit together: made from what their parents, sound themselves, wrote last."""
        kept: dict[str, dict[str, Any]] = {}
        for name, entry in self.stages.items():  # parents stand before what was made from them
            if all(p in kept and kept[p]["outputs"] == made_from for p, made_from in entry["parents"].items()):
                kept[name] = entry
        return kept

    def missing(self, plan: Plan) -> list[str]:
        """The parents that are not on the record, or not soundly."""
        sound = self.sound()
        return [p for p in plan.parents if p not in sound]

    def forget(self, stage: str) -> None:
        """Take a stage off the record before it runs again, so that an interrupted run is not taken for a whole one."""
        if self.stages.pop(stage, None) is not None:
            self._write()

    def record(self, plan: Plan, *, started: str, seconds: float, result: Mapping[str, Any]) -> None:
        """Write a finished stage down."""
        self.stages[plan.stage] = {
            "key": self.key(plan),
            "base_sha256": self.base_sha256,
            "sections": _dumped(plan),
            "inputs": dict(plan.inputs),
            "parents": self._parents(plan),
            "outputs": hash_outputs(plan),
            "started": started,
            "seconds": round(seconds, 2),
            "result": dict(result),
        }
        self.stages = {n: self.stages[n] for n in (*ORDER, *self.stages) if n in self.stages}
        self._write()

    def _parents(self, plan: Plan) -> dict[str, Any]:
        """What the parents, and the quoted stages that there are, wrote."""
        return {p: self.stages[p]["outputs"] for p in (*plan.parents, *plan.quotes) if p in self.stages}

    def _write(self) -> None:
        content = {
            "versions": {"rlhf-toolkit": __version__, "python": platform.python_version(), **_versions()},
            "machine": {"platform": platform.platform(), "cpus": os.cpu_count()},
            "git_commit": _git_commit(),
            "seed": self.seed,
            "base_sha256": self.base_sha256,
            "base_seconds": round(self.base_seconds, 2),
            "stages": self.stages,
        }
        write_json(self.path, content)


def _dumped(plan: Plan) -> dict[str, Any]:
    return {k: v.model_dump(mode="json") if v is not None else None for k, v in plan.sections.items()}


def hash_outputs(plan: Plan) -> dict[str, str | None]:
    """sha256 of each output (a folder: over its files' names and bytes), by its name; None where it is missing."""
    return {path.name: _hash(path) for path in plan.outputs}


def write_json(path: Path, content: object) -> None:
    """Write JSON so that a reader sees the old file or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.{os.getpid()}")
    staging.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    staging.replace(path)


def _hash(path: Path) -> str | None:
    if not path.exists():
        return None
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    for file in files:
        digest.update(str(file.relative_to(path.parent)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def _git_commit() -> str | None:
    """The commit of the checkout that this code runs from; None for an installed package."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
