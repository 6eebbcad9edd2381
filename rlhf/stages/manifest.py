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
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from rlhf import __version__
from rlhf.errors import ArtifactError

PACKAGES = ("torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes", "datasets")


@dataclass(frozen=True)
class Plan:
    """What a stage depends on, known before it runs.

    Attributes:
        sections: the parts of the config that it reads.
        inputs: fingerprints of the data that it reads, by name.
        parents: stages whose outputs it uses.
        outputs: folders and files that it writes.
        present: whether what it writes elsewhere (the label store) is still there; no part of the key.
    """

    stage: str
    sections: Mapping[str, BaseModel | None]
    inputs: Mapping[str, str]
    parents: tuple[str, ...]
    outputs: tuple[Path, ...]
    extra: Mapping[str, Any] = field(default_factory=dict)
    present: bool = True


class Manifest:
    """`manifest.json` of one run directory."""

    def __init__(self, run_path: Path, seed: int) -> None:
        self.path = run_path / "manifest.json"
        self.seed = seed
        self.stages: dict[str, dict[str, Any]] = {}
        self.base_seconds = 0.0  # what loading the base took (its first conversion included) when it last was loaded
        if self.path.is_file():
            try:
                content = json.loads(self.path.read_text(encoding="utf-8"))
                self.stages, self.base_seconds = content["stages"], float(content["base_seconds"])
            except (ValueError, KeyError, TypeError) as error:
                raise ArtifactError(f"{self.path}: is damaged ({error}); move the run directory away") from error

    def key(self, plan: Plan) -> str:
        """The hash that decides whether a stage must run again."""
        parts = {
            "version": __version__,
            "seed": self.seed,
            "sections": {k: v.model_dump(mode="json") if v is not None else None for k, v in plan.sections.items()},
            "inputs": dict(plan.inputs),
            "parents": {p: self.stages.get(p, {}).get("outputs") for p in plan.parents},
            "extra": dict(plan.extra),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def is_done(self, plan: Plan) -> bool:
        """Whether the stage ran with this very key and its outputs are still there, unchanged."""
        entry = self.stages.get(plan.stage)
        if entry is None or not plan.present:
            return False
        return bool(entry["key"] == self.key(plan) and entry["outputs"] == hash_outputs(plan))

    def forget(self, stage: str) -> None:
        """Take a stage off the record before it runs again, so that an interrupted run is not taken for a whole one."""
        if self.stages.pop(stage, None) is not None:
            self._write()

    def record(self, plan: Plan, *, started: str, seconds: float, result: Mapping[str, Any]) -> None:
        """Write a finished stage down."""
        self.stages[plan.stage] = {
            "key": self.key(plan),
            "inputs": dict(plan.inputs),
            "parents": list(plan.parents),
            "outputs": hash_outputs(plan),
            "started": started,
            "seconds": round(seconds, 2),
            "result": dict(result),
        }
        self._write()

    def result(self, stage: str) -> dict[str, Any] | None:
        """What a stage reported, if it is on the record."""
        entry = self.stages.get(stage)
        return entry["result"] if entry else None

    def _write(self) -> None:
        content = {
            "versions": {"rlhf-toolkit": __version__, "python": platform.python_version(), **_versions()},
            "machine": {"platform": platform.platform(), "cpus": os.cpu_count()},
            "git_commit": _git_commit(),
            "seed": self.seed,
            "base_seconds": round(self.base_seconds, 2),
            "stages": self.stages,
        }
        write_json(self.path, content)


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
