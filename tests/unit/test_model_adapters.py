"""Adapters on disk: exact round trips, refusals, and files that plain transformers and PEFT understand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForSequenceClassification, BitsAndBytesConfig

from rlhf.config import LoraSection, ModelSection
from rlhf.errors import ArtifactError
from rlhf.model import adapters as adapters_module
from rlhf.model import plain_load
from rlhf.model.adapters import load_adapter, read_record, save_adapter
from rlhf.model.base import SharedBase


def load(folder: Path, quantization: str = "fp32", compute_dtype: str = "fp32") -> SharedBase:
    lora = LoraSection(rank=4, alpha=8)
    section = ModelSection(
        name=str(folder), quantization=quantization, compute_dtype=compute_dtype, device="cpu", lora=lora
    )
    return SharedBase.load(section)


def stir(base: SharedBase, name: str, seed: int) -> None:
    """Random weights in all of an adapter, B and the head too, so that it does something."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in base.adapter_parameters(name):
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)


def base_with(
    folder: Path, name: str, *, head: bool = False, lora: LoraSection | None = None, **more: Any
) -> SharedBase:
    base = load(folder, **more)
    base.add_adapter(name, head=head, lora=lora)
    stir(base, name, seed=7)
    return base


def batch() -> tuple[Tensor, Tensor]:
    ids = torch.randint(3, 512, (3, 7), generator=torch.Generator().manual_seed(0))
    return ids, torch.ones_like(ids)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# --- round trips ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantization", ["fp32", "nf4", "int8"])
@pytest.mark.parametrize("head", [False, True])
def test_a_round_trip_is_bit_exact(tiny_model_dir: Path, tmp_path: Path, quantization: str, head: bool) -> None:
    base = base_with(tiny_model_dir, "reward", head=head, quantization=quantization)
    before = base.sha256()
    save_adapter(base, "reward", tmp_path / "reward", record={"stage": "reward", "steps": 3})
    assert base.sha256() == before

    fresh = load(tiny_model_dir, quantization)
    record = load_adapter(fresh, "judge", tmp_path / "reward")
    assert fresh.sha256() == before
    assert (record["stage"], record["steps"], record["adapter"]) == ("reward", 3, "reward")
    assert list(fresh.heads) == (["judge"] if head else [])
    pairs = list(zip(base.adapter_parameters("reward"), fresh.adapter_parameters("judge"), strict=True))
    assert len(pairs) == 28 + head  # A and B of 14 layers
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not any(p.requires_grad for p in fresh.adapter_parameters("judge"))
    ids, mask = batch()
    with base.active("reward"), fresh.active("judge"):
        assert torch.equal(base.hidden(ids, mask), fresh.hidden(ids, mask))


def test_its_own_rank_scale_and_targets_come_back(tiny_model_dir: Path, tmp_path: Path) -> None:
    lora = LoraSection(rank=2, alpha=3, target_modules=["q_proj", "down_proj"])
    base = base_with(tiny_model_dir, "sft", lora=lora)
    save_adapter(base, "sft", tmp_path / "sft")
    fresh = load(tiny_model_dir)
    fresh.add_adapter("reward")  # by the section: rank 4 on all linears
    load_adapter(fresh, "sft", tmp_path / "sft")
    with base.active("sft"), fresh.active("sft"):
        assert torch.equal(base.hidden(*batch()), fresh.hidden(*batch()))
    assert len(fresh.adapter_parameters("sft")) == 8


def test_loading_onto_a_name_that_exists_replaces_it(tiny_model_dir: Path, tmp_path: Path) -> None:
    base = base_with(tiny_model_dir, "reward", head=True)
    save_adapter(base, "reward", tmp_path / "reward")
    saved = [p.clone() for p in base.adapter_parameters("reward")]
    stir(base, "reward", seed=8)
    load_adapter(base, "reward", tmp_path / "reward")
    assert base.adapters == ["reward"]
    assert all(torch.equal(a, b) for a, b in zip(saved, base.adapter_parameters("reward"), strict=True))


def test_a_policy_is_saved_without_its_value_head(tiny_model_dir: Path, tmp_path: Path) -> None:
    base = base_with(tiny_model_dir, "policy", head=True)
    save_adapter(base, "policy", tmp_path / "policy", with_head=False)
    assert not any("score" in key for key in load_file(tmp_path / "policy" / "adapter_model.safetensors"))
    fresh = load(tiny_model_dir)
    load_adapter(fresh, "policy", tmp_path / "policy")
    assert fresh.heads == {}


def test_what_is_written(tiny_model_dir: Path, tmp_path: Path) -> None:
    base = base_with(tiny_model_dir, "reward", head=True)
    folder = save_adapter(base, "reward", tmp_path / "runs" / "reward", base_model_name="org/model")
    assert sorted(files_of(tmp_path)) == [
        "runs/reward/adapter_config.json", "runs/reward/adapter_model.safetensors", "runs/reward/rlhf.json"
    ]  # fmt: skip
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "org/model"
    assert (config["task_type"], config["modules_to_save"]) == ("SEQ_CLS", ["score"])
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (4, 8, "LORA")
    assert isinstance(config["lora_alpha"], int)  # as PEFT declares it: other readers check
    tensors = load_file(folder / "adapter_model.safetensors")
    assert {t.dtype for t in tensors.values()} == {torch.float32}
    assert read_record(folder)["base"]["source_sha256"] == base.identity.source_sha256


# --- refusals ------------------------------------------------------------------------------------------------------


def test_another_base_is_refused_by_weights_and_by_quantization(tiny_model_dir: Path, tmp_path: Path) -> None:
    base = base_with(tiny_model_dir, "sft")
    save_adapter(base, "sft", tmp_path / "sft")

    other_dir = tmp_path / "other"
    shutil.copytree(tiny_model_dir, other_dir)
    tensors = load_file(other_dir / "model.safetensors")
    tensors["model.norm.weight"][0] += 1e-3
    save_file(tensors, other_dir / "model.safetensors", metadata={"format": "pt"})
    for other in (load(other_dir), load(tiny_model_dir, "nf4")):
        other.add_adapter("sft")
        kept = [p.clone() for p in other.adapter_parameters("sft")]
        with pytest.raises(ArtifactError, match="was trained on") as refusal:
            load_adapter(other, "sft", tmp_path / "sft")
        assert "model.quantization" in str(refusal.value)
        assert all(torch.equal(a, b) for a, b in zip(kept, other.adapter_parameters("sft"), strict=True))


def test_the_same_base_in_another_folder_is_the_same_base(tiny_model_dir: Path, tmp_path: Path) -> None:
    base = base_with(tiny_model_dir, "sft")
    save_adapter(base, "sft", tmp_path / "sft")
    shutil.copytree(tiny_model_dir, tmp_path / "moved")
    moved = load(tmp_path / "moved")
    load_adapter(moved, "sft", tmp_path / "sft")
    assert moved.adapters == ["sft"]


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "adapter_config.json"])
def test_one_flipped_bit_is_refused(tiny_model_dir: Path, tmp_path: Path, file: str) -> None:
    base = base_with(tiny_model_dir, "sft")
    folder = save_adapter(base, "sft", tmp_path / "sft")
    kept = [p.clone() for p in base.adapter_parameters("sft")]
    whole = (folder / file).read_bytes()
    for place in (0, len(whole) // 2, len(whole) - 1):
        blob = bytearray(whole)
        blob[place] ^= 1
        (folder / file).write_bytes(bytes(blob))
        with pytest.raises(ArtifactError, match=r"does not match its recorded sha256"):
            load_adapter(base, "sft", folder)
    assert all(torch.equal(a, b) for a, b in zip(kept, base.adapter_parameters("sft"), strict=True))


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"base": {}}', '{"base": {"name": 1}, "weights_sha256": ""}']
)
def test_a_damaged_record_is_refused(tiny_model_dir: Path, tmp_path: Path, content: str) -> None:
    base = base_with(tiny_model_dir, "sft")
    folder = save_adapter(base, "sft", tmp_path / "sft")
    (folder / "rlhf.json").write_text(content)
    with pytest.raises(ArtifactError, match=r"rlhf\.json: is not a valid adapter record"):
        load_adapter(base, "sft", folder)


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "adapter_config.json", "rlhf.json"])
def test_a_missing_file_is_refused(tiny_model_dir: Path, tmp_path: Path, file: str) -> None:
    base = base_with(tiny_model_dir, "sft")
    folder = save_adapter(base, "sft", tmp_path / "sft")
    (folder / file).unlink()
    with pytest.raises(ArtifactError, match=f"{file} is missing"):
        load_adapter(base, "sft", folder)
    with pytest.raises(ArtifactError, match="no such adapter; run the stage that trains 'gone' first"):
        load_adapter(base, "gone", tmp_path / "gone")


def test_a_failed_write_leaves_the_old_adapter_whole(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = base_with(tiny_model_dir, "sft")
    save_adapter(base, "sft", tmp_path / "sft")
    before = files_of(tmp_path)

    def full_disk(tensors: dict[str, Tensor], path: Path, **_: Any) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    stir(base, "sft", seed=9)
    with monkeypatch.context() as patch:
        patch.setattr(adapters_module, "save_file", full_disk)
        for name in ("sft", "second"):
            with pytest.raises(OSError, match="no space"):
                save_adapter(base, "sft", tmp_path / name)
    assert files_of(tmp_path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["sft"]
    save_adapter(base, "sft", tmp_path / "sft")
    assert files_of(tmp_path).keys() == before.keys()
    assert files_of(tmp_path) != before


def test_an_unknown_adapter_cannot_be_saved(tiny_model_dir: Path, tmp_path: Path) -> None:
    base = base_with(tiny_model_dir, "sft")
    with pytest.raises(ArtifactError, match="no adapter 'policy'"):
        save_adapter(base, "policy", tmp_path / "policy")
    assert list(tmp_path.iterdir()) == []


# --- plain transformers and PEFT -----------------------------------------------------------------------------------


def with_our_kernel(model: Any) -> Any:
    """On CPUs with AVX512-BF16 a plain evaluation multiplies in bf16, 0.02 off in a logit: not the file's doing."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model.eval()


@pytest.mark.parametrize("quantization", ["fp32", "nf4"])
def test_a_reward_adapter_is_a_plain_sequence_classifier(
    tiny_model_dir: Path, tmp_path: Path, quantization: str
) -> None:
    base = base_with(tiny_model_dir, "reward", head=True, quantization=quantization)
    save_adapter(base, "reward", tmp_path / "reward")
    pad = base.tokenizer.pad_token_id
    ids, mask = batch()
    ids[ids == pad] = 5
    ids[1, 4:], mask[1, 4:] = pad, 0
    with base.active("reward"):
        ours = base.score("reward", ids, mask)

    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.float32,
        llm_int8_skip_modules=["score"],
    )
    plain = AutoModelForSequenceClassification.from_pretrained(
        tiny_model_dir,
        num_labels=1,
        pad_token_id=pad,
        dtype=torch.float32,
        quantization_config=nf4 if quantization == "nf4" else None,
    )
    model = with_our_kernel(PeftModel.from_pretrained(plain, tmp_path / "reward"))
    with torch.no_grad():
        theirs = model(input_ids=ids, attention_mask=mask).logits.squeeze(-1)
    assert ours.abs().max() > 0.1
    assert (ours - theirs).abs().max() < 1e-4


@pytest.mark.parametrize("quantization", ["fp32", "nf4"])
def test_a_policy_adapter_is_a_plain_peft_adapter(tiny_model_dir: Path, tmp_path: Path, quantization: str) -> None:
    base = base_with(tiny_model_dir, "policy", head=True, quantization=quantization)
    save_adapter(base, "policy", tmp_path / "policy", with_head=False)
    ids, mask = batch()
    with base.active("policy"):
        ours = base.lm_head(base.hidden(ids, mask))
    with base.active(None):
        raw = base.lm_head(base.hidden(ids, mask))

    model = plain_load.load(str(tiny_model_dir), str(tmp_path / "policy"), quantization, "cpu")
    with torch.no_grad():
        theirs = model(input_ids=ids, attention_mask=mask).logits
    assert (ours - raw).abs().max() > 0.1
    assert (ours - theirs).abs().max() < 1e-4
