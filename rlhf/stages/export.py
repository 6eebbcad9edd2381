"""Export: the aligned adapter as plain PEFT loads it, with tokenizer and model card, and the proof that it loads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors import safe_open
from torch import Tensor

from rlhf.config import Config
from rlhf.data.encoding import Encoder, pad_right
from rlhf.errors import ArtifactError
from rlhf.model import plain_load
from rlhf.model.adapters import load_adapter, save_adapter
from rlhf.model.base import SharedBase
from rlhf.model.loading import load_model, load_tokenizer
from rlhf.ppo.roles import POLICY
from rlhf.report.model_card import model_card
from rlhf.stages.common import need_adapter, usable_prompts
from rlhf.stages.manifest import Plan
from rlhf.stages.tracking import Tracker

STAGE = "export"


def export_folder(config: Config) -> Path:
    """Where the exported adapter lies."""
    return config.run_path / "export" / POLICY


def plan(config: Config) -> Plan:
    """What the stage depends on; the model card quotes the evaluation, if there is one."""
    return Plan(
        STAGE,
        sections={"model": config.model, "data": config.data, "export": config.export},
        inputs={},
        parents=("ppo",),
        quotes=("evaluate",),
        outputs=(export_folder(config),),
        extra={"max_new_tokens": config.ppo.max_new_tokens},
    )


def run(config: Config, base: SharedBase, tracker: Tracker) -> dict[str, Any]:
    """Write the adapter, and compare its logits in a fresh process with ours on the identical base."""
    section, folder = config.export, export_folder(config)
    need_adapter(config, base, POLICY)
    tracker.start(STAGE, 3)

    # 1. The adapter without the critic; a name that others can load in place of the cache's path.
    name = section.base_model_name or base.identity.name
    save_adapter(base, POLICY, folder, record={"stage": STAGE}, with_head=False, base_model_name=name)
    base.tokenizer.save_pretrained(folder)  # its padding token is not EOS
    tracker.log(STAGE, 1, 3)
    result: dict[str, Any] = {"path": str(folder), "base_model_name_or_path": name, "max_logit_difference": None}
    card = folder / "README.md"
    if not section.verify:
        card.write_text(model_card(config.run_path, name), encoding="utf-8")
        return result

    # 2. The same prompts through plain transformers + PEFT in a fresh process, and through our own base in fp32.
    encoder = Encoder(base.tokenizer)
    prompts, _ = usable_prompts(config, encoder, "eval", max(section.drift_prompts, 4), config.seed)
    ids, mask = pad_right([encoder.prompt(p.prompt) for p in prompts], encoder.pad, torch.device("cpu"))
    plain, child_mib = _plain_logits(config, base, folder, ids, mask)
    # Both processes hold a model at this moment; the pipeline takes the larger of this and the stage's own peak.
    result["peak_rss_mib"] = psutil.Process().memory_info().rss / 2**20 + child_mib
    tracker.log(STAGE, 2, 3)
    ours = _our_logits(config, base, ids, mask)
    real = mask.bool()
    quantization = config.model.quantization
    difference = float((plain[quantization] - ours)[real].abs().max())
    tracker.log(STAGE, 3, 3)
    result["max_logit_difference"] = difference
    if "bf16" in plain and quantization != "bf16":
        gaps = (plain["bf16"].log_softmax(-1) - plain[quantization].log_softmax(-1))[real].abs()
        result["bf16_drift"] = {"mean_logprob": float(gaps.mean()), "max_logprob": float(gaps.max())}
    if not difference <= section.tolerance:
        raise ArtifactError(
            f"{folder}: plain PEFT gives other logits than this toolkit (largest difference {difference:.2e}, "
            f"export.tolerance {section.tolerance:g}); do not use this export"
        )
    card.write_text(model_card(config.run_path, name, result.get("bf16_drift")), encoding="utf-8")
    return result


def _plain_logits(
    config: Config, base: SharedBase, folder: Path, ids: Tensor, mask: Tensor
) -> tuple[dict[str, Tensor], float]:
    """Logits by quantization from a fresh process, and the most memory that it held (MiB)."""
    quantizations = [config.model.quantization] + (["bf16"] if config.export.drift_prompts else [])
    request = {
        "base": str(base.folder),
        "adapter": str(folder.resolve()),
        "device": str(base.device),
        "threads": torch.get_num_threads(),
        "quantizations": list(dict.fromkeys(quantizations)),
        "input_ids": ids.tolist(),
        "attention_mask": mask.tolist(),
    }
    with tempfile.TemporaryDirectory() as scratch:
        asked, answered = Path(scratch) / "request.json", Path(scratch) / "logits.safetensors"
        asked.write_text(json.dumps(request), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, plain_load.__file__, str(asked), str(answered)],
            capture_output=True,
            text=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
        if done.returncode != 0:
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise ArtifactError(f"{folder}: plain transformers + PEFT could not load it: {reason}")
        with safe_open(answered, "pt") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, float(file.metadata()["peak_rss_mib"])


def _our_logits(config: Config, base: SharedBase, ids: Tensor, mask: Tensor) -> Tensor:
    """Logits `(B, T, V)` of the policy on the same quantized base with fp32 compute."""
    section = config.model.model_copy(update={"compute_dtype": "fp32", "gradient_checkpointing": False})
    exact = SharedBase(
        load_model(base.folder, section, base.device), load_tokenizer(base.folder), base.identity, section, base.folder
    )
    load_adapter(exact, POLICY, export_folder(config))
    with exact.active(POLICY):
        hidden = exact.hidden(ids.to(base.device), mask.to(base.device))
        return exact.lm_head(hidden).float().cpu()
