"""Every config key has a consumer: somewhere in `rlhf/`, outside config.py, an attribute of its name is read.

By name alone, so `evaluate.batch_size` would be covered by a reader of `sft.batch_size`; a key that nothing reads at
all, the usual fault, is found.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from rlhf.config import Config
from rlhf.config_base import Section

ROOT = Path(__file__).resolve().parents[2]
# These print or check configs as a whole; a key that only they read changes nothing.
NO_CONSUMERS = {
    "config.py",
    "config_base.py",
    "config_ppo.py",
    "config_help.py",
    "config_yaml.py",
    "doctor.py",
    "memory.py",
}


def _keys(model: type[Section], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        options: list[Any] = [field.annotation, *get_args(field.annotation)]
        section = next((o for o in options if isinstance(o, type) and issubclass(o, Section)), None)
        if section is None:
            yield prefix + name
        else:
            yield from _keys(section, f"{prefix}{name}.")


def _settings(node: ast.AST) -> set[str]:
    """The report reads the run's config.yaml as a plain mapping: `run.setting("evaluate", "shown_samples")`."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "setting"):
        return set()
    return {a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)}


def _read_attributes() -> set[str]:
    names = set()
    for path in sorted((ROOT / "rlhf").rglob("*.py")):
        if path.name not in NO_CONSUMERS:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            names |= {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Load)}
            names |= {name for n in ast.walk(tree) for name in _settings(n)}
    return names


READ = _read_attributes()
# `run_dir` and `store.url` are read through `Config.run_path` and `Config.store_url`.
THROUGH = {"run_dir": "run_path", "store.url": "store_url"}


@pytest.mark.parametrize("key", sorted(set(_keys(Config))))
def test_key_is_read(key: str) -> None:
    attribute = THROUGH.get(key, key.rpartition(".")[2])
    assert attribute in READ, f"{key}: nothing in rlhf/ reads `.{attribute}`; give the key a consumer or remove it"
