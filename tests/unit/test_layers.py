"""Who may import whom. DESIGN's layers, checked on the source of every module; nothing is imported for it.

    config, errors, data.records            words and checks; no torch
    preferences                             those; no torch
    ops                                     torch and nothing of ours
    model, data                             the above (`model` may use `data`, and `data` never `model`)
    ppo                                     the above
    stages                                  everything below, never each other; `pipeline` alone calls the stages
    labeling_app                            preferences, data.records, config, errors
    cli (and its parts), doctor, report     may use all of rlhf; nothing below the stages uses them

Nothing imports `labeling_app`, save one function: the command `rlhf label` imports its launcher when it runs.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WORDS = (
    "rlhf",
    "rlhf.config",
    "rlhf.config_base",
    "rlhf.config_ppo",
    "rlhf.errors",
    "rlhf.functions",
    "rlhf.data.records",
)
# For each layer: what of ours it may import, longest matching layer first.
ALLOWED: dict[str, tuple[str, ...]] = {
    "rlhf.errors": (),
    "rlhf.config": ("rlhf.errors", "rlhf.config_base", "rlhf.config_ppo", "rlhf.config_yaml"),
    "rlhf.config_base": (),
    "rlhf.config_ppo": ("rlhf.config_base",),
    "rlhf.config_yaml": ("rlhf.errors",),
    "rlhf.config_help": ("rlhf.config",),
    "rlhf.data.records": ("rlhf.errors",),
    "rlhf.preferences": (*WORDS, "rlhf.data.readers", "rlhf.preferences"),
    "rlhf.ops": ("rlhf.ops",),
    "rlhf.data": (*WORDS, "rlhf.ops", "rlhf.data"),
    "rlhf.model": (*WORDS, "rlhf.ops", "rlhf.data", "rlhf.model"),
    "rlhf.ppo": (*WORDS, "rlhf.ops", "rlhf.data", "rlhf.model", "rlhf.ppo"),
    "rlhf.report": (*WORDS, "rlhf.data", "rlhf.preferences", "rlhf.report"),
    "rlhf.stages": (
        *WORDS, "rlhf.ops", "rlhf.data", "rlhf.model", "rlhf.ppo", "rlhf.preferences", "rlhf.report", "rlhf.stages",
    ),
    "rlhf.doctor": (*WORDS, "rlhf.model", "rlhf.preferences"),
    "rlhf.cli": ("rlhf", "labeling_app.launch"),
    "rlhf.cli_store": (),
    "rlhf.cli_people": (),
    "rlhf.cli_arena": (),
    "rlhf.cli_data": (),
    "rlhf.cli_simulate": (),
    "rlhf.functions": ("rlhf.errors",),
    "labeling_app": (
        *WORDS, "rlhf.data.readers", "rlhf.data.sources", "rlhf.preferences", "rlhf.report", "labeling_app",
    ),
}  # fmt: skip
STAGES = ("sft", "sample", "reward", "active", "ppo", "evaluate", "export")
NO_TORCH = ("torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes")


@dataclass(frozen=True)
class Import:
    """`module` imports `target`, at import time or (`lazy`) inside a function."""

    module: str
    target: str
    lazy: bool
    line: int


def _modules() -> dict[str, Path]:
    found = {}
    for package in ("rlhf", "labeling_app"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = _modules()


def _walk(node: ast.AST, lazy: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            continue  # names for annotations: never imported
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, lazy
        yield from _walk(child, lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))


def imports_of(module: str, path: Path) -> list[Import]:
    found = []
    for node, lazy in _walk(ast.parse(path.read_text(encoding="utf-8")), lazy=False):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        else:
            package = module if path.name == "__init__.py" else module.rpartition(".")[0]
            base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            origin = ".".join(filter(None, (base, node.module)))
            # `from rlhf.data import records` imports a module, `from rlhf.data import X` a name of one.
            targets = [f"{origin}.{a.name}" if f"{origin}.{a.name}" in MODULES else origin for a in node.names]
        found += [Import(module, target, lazy, node.lineno) for target in targets]
    return found


IMPORTS = [found for module, path in MODULES.items() for found in imports_of(module, path)]


def _inside(module: str, layer: str) -> bool:
    return module == layer or module.startswith(layer + ".")


def _layer(module: str) -> str | None:
    return max((layer for layer in ALLOWED if _inside(module, layer)), key=len, default=None)


def _permitted(target: str, allowed: tuple[str, ...]) -> bool:
    return any(target == name if name == "rlhf" else _inside(target, name) for name in allowed)


def test_every_module_belongs_to_a_layer() -> None:
    assert [module for module in MODULES if module != "rlhf" and _layer(module) is None] == []


def test_layers_import_only_what_is_below_them() -> None:
    wrong = []
    for found in IMPORTS:
        layer = _layer(found.module)
        if layer is None or layer.startswith("rlhf.cli") or found.target.split(".")[0] not in ("rlhf", "labeling_app"):
            continue
        if not _permitted(found.target, ALLOWED[str(layer)]):
            wrong.append(f"{found.module}, line {found.line}: {layer} must not import {found.target}")
    assert wrong == []


def test_ops_imports_torch_alone() -> None:
    own = sys.stdlib_module_names | {"torch", "rlhf"}
    foreign = [f for f in IMPORTS if _inside(f.module, "rlhf.ops") and f.target.split(".")[0] not in own]
    assert foreign == []


def test_stages_never_import_each_other() -> None:
    wrong = [
        f"{found.module}, line {found.line}: imports {found.target}"
        for found in IMPORTS
        for stage in STAGES
        if _inside(found.target, f"rlhf.stages.{stage}")
        and not _inside(found.module, f"rlhf.stages.{stage}")
        and found.module != "rlhf.stages.pipeline"
    ]
    assert wrong == []


def test_nothing_imports_the_labeling_app_but_the_command_that_opens_it() -> None:
    outside = [f for f in IMPORTS if _inside(f.target, "labeling_app") and not _inside(f.module, "labeling_app")]
    assert {(f.module, f.target, f.lazy) for f in outside} == {("rlhf.cli", "labeling_app.launch", True)}


def test_the_command_line_imports_nothing_heavy_before_a_command_runs() -> None:
    eager = {f.target for f in IMPORTS if f.module.startswith("rlhf.cli") and not f.lazy and _inside(f.target, "rlhf")}
    modules = {"rlhf.cli_arena", "rlhf.cli_data", "rlhf.cli_people", "rlhf.cli_simulate", "rlhf.cli_store"}
    assert eager == {"rlhf", "rlhf.errors"} | modules


def _loaded_after(statements: str) -> set[str]:
    code = f"{statements}\nimport sys\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "modules",
    [
        ["rlhf.config", "rlhf.config_help", "rlhf.errors", "rlhf.data.records"],
        sorted(module for module in MODULES if _inside(module, "rlhf.preferences") and "migrations" not in module),
        ["rlhf.data.sources"],
        ["rlhf.cli"],
    ],
    ids=lambda modules: modules[0],
)
def test_torch_is_never_imported_not_even_by_others(modules: list[str]) -> None:
    loaded = _loaded_after("\n".join(f"import {module}" for module in modules))
    assert "rlhf" in loaded
    assert loaded.isdisjoint(NO_TORCH)


def test_no_file_and_no_function_is_long() -> None:
    """400 lines and 60: what passes them is asking to be split by meaning."""
    long = []
    for module, path in MODULES.items():
        text = path.read_text(encoding="utf-8")
        if len(text.splitlines()) > 400:
            long.append(module)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= 60:
                long.append(f"{module}, line {node.lineno}: {node.name}")
    assert long == []


def test_the_walk_sees_what_it_must(tmp_path: Path) -> None:
    """The check itself: relative and lazy imports, and those for type checkers alone."""
    path = tmp_path / "fake.py"
    path.write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import rlhf.stages\n"
        "from . import records\n"
        "from ..config import Config\n"
        "def run():\n    from labeling_app.launch import launch\n"
    )
    found = [(f.target, f.lazy) for f in imports_of("rlhf.data.fake", path)]
    assert found == [
        ("typing", False),
        ("rlhf.data.records", False),
        ("rlhf.config", False),
        ("labeling_app.launch", True),
    ]
