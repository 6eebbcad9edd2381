"""Adapters on disk: PEFT's own layout, the head inside it, and `rlhf.json` saying which base they belong to.

A folder holds `adapter_config.json`, `adapter_model.safetensors` and `rlhf.json`. An adapter with a head is written as
a sequence classifier (`score` in `modules_to_save`), so that `AutoModelForSequenceClassification` with
`PeftModel.from_pretrained` gives the same scores.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlhf.config import LoraSection
from rlhf.errors import ArtifactError
from rlhf.model.base import SharedBase
from rlhf.model.folders import recover, replace_folder, staging_of
from rlhf.model.loading import BaseIdentity

HEAD_KEY = "base_model.model.score.weight"
CONFIG, WEIGHTS, RECORD = "adapter_config.json", "adapter_model.safetensors", "rlhf.json"


def save_adapter(
    base: SharedBase,
    name: str,
    folder: Path,
    *,
    record: Mapping[str, Any] | None = None,
    with_head: bool = True,
    base_model_name: str | None = None,
) -> Path:
    """Write adapter `name` to `folder`, in place of what was there (see `folders`); returns the folder.

    `record` is kept in `rlhf.json` beside the base's identity. `with_head=False` leaves the head out (a policy's).
    """
    base.adapter_parameters(name)  # refuses a name that is not there
    head = base.heads.get(name) if with_head else None
    tensors = {k: v.detach().float().cpu().contiguous() for k, v in _lora_state(base, name).items()}
    if head is not None:
        tensors[HEAD_KEY] = head.weight.detach().float().cpu().contiguous()
    staging = staging_of(folder)
    try:
        save_file(tensors, staging / WEIGHTS, metadata={"format": "pt"})
        config = _peft_config(base, name, head=head is not None, base_model_name=base_model_name)
        _write_json(staging / CONFIG, config)
        note = {"adapter": name, "base": asdict(base.identity), **(record or {})}
        hashes = {"weights_sha256": _sha256(staging / WEIGHTS), "config_sha256": _sha256(staging / CONFIG)}
        _write_json(staging / RECORD, {**note, **hashes})
        replace_folder(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)  # gone already, unless something above failed
    return folder


def load_adapter(base: SharedBase, name: str, folder: Path) -> dict[str, Any]:
    """Load the adapter in `folder` onto the base under `name` (replacing one of that name); returns its record.

    Raises:
        ArtifactError: missing or damaged files, another base, or shapes that do not fit.
    """
    record = read_record(folder)
    found = BaseIdentity(**record["base"])
    if not found.same_weights(base.identity):
        here = base.identity
        raise ArtifactError(
            f"{folder}: was trained on {found.name} ({found.quantization}, sha256 {found.source_sha256[:12]}), "
            f"but the base here is {here.name} ({here.quantization}, sha256 {here.source_sha256[:12]}); "
            "set model.name and model.quantization to what it was trained on, or train it anew"
        )
    try:
        for file, key in ((WEIGHTS, "weights_sha256"), (CONFIG, "config_sha256")):
            if _sha256(folder / file) != record[key]:
                raise ArtifactError(
                    f"{folder / file}: does not match its recorded sha256; it is damaged or was changed"
                )
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        tensors = load_file(folder / WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise ArtifactError(f"{folder}: the adapter cannot be read: {error}") from error
    if name in base.adapters:
        base.remove_adapter(name)
    targets = config["target_modules"]
    first = min(config.get("layers_to_transform") or [0])
    lora = LoraSection(rank=config["r"], alpha=config["lora_alpha"], target_modules=targets, first_layer=first)
    base.add_adapter(name, head=HEAD_KEY in tensors, lora=lora)
    _fill(base, name, tensors, folder)
    return record


def read_record(folder: Path) -> dict[str, Any]:
    """The adapter's `rlhf.json`: its base, the sha256 of its weights, and what the stage noted."""
    recover(folder)
    if not folder.is_dir():
        raise ArtifactError(f"{folder}: no such adapter; run the stage that trains {folder.name!r} first")
    for file in (CONFIG, WEIGHTS, RECORD):
        if not (folder / file).is_file():
            raise ArtifactError(f"{folder}: {file} is missing; the adapter is incomplete, train it again")
    try:
        record: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        BaseIdentity(**record["base"])
        for key in ("weights_sha256", "config_sha256"):
            if not isinstance(record[key], str):
                raise TypeError(f"{key} is no text")
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{folder / RECORD}: is not a valid adapter record ({error})") from error
    return record


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _lora_state(base: SharedBase, name: str) -> dict[str, Tensor]:
    state: dict[str, Tensor] = get_peft_model_state_dict(
        base.peft_model, adapter_name=name, save_embedding_layers=False
    )
    return state


def _peft_config(base: SharedBase, name: str, *, head: bool, base_model_name: str | None) -> dict[str, Any]:
    assert base.peft_model is not None
    config = base.peft_model.peft_config[name].to_dict()
    for key, value in list(config.items()):
        if isinstance(value, set):
            config[key] = sorted(value)
        elif hasattr(value, "value"):
            config[key] = value.value
    config["base_model_name_or_path"] = base_model_name or base.identity.name
    config["inference_mode"] = True
    config["task_type"] = "SEQ_CLS" if head else "CAUSAL_LM"
    config["modules_to_save"] = ["score"] if head else None
    return config


def _fill(base: SharedBase, name: str, tensors: dict[str, Tensor], folder: Path) -> None:
    """Copy saved tensors into the adapter; every one must find its place, and every place its tensor."""
    own = _lora_state(base, name)
    saved = {k: v for k, v in tensors.items() if k != HEAD_KEY}
    if set(own) != set(saved):
        odd = sorted(set(own) ^ set(saved))[0]
        raise ArtifactError(f"{folder}: its tensors are not those of this base's adapters (for example {odd})")
    with torch.no_grad():
        for key, tensor in saved.items():
            if own[key].shape != tensor.shape:
                raise ArtifactError(
                    f"{folder}: {key} has shape {tuple(tensor.shape)}, expected {tuple(own[key].shape)}"
                )
            own[key].copy_(tensor)
        if HEAD_KEY in tensors:
            base.heads[name].weight.copy_(tensors[HEAD_KEY])
