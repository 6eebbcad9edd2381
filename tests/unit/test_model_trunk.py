"""Adapters on the upper layers alone: the lower ones are run once, and nothing else changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from test_ppo_setup import give_roles, make_trainer, same, short, weights
from transformers import AutoModelForCausalLM

from rlhf.config import LoraSection, ModelSection, parse
from rlhf.errors import ConfigError
from rlhf.model import memory
from rlhf.model.adapters import load_adapter, save_adapter
from rlhf.model.base import SharedBase


def load(folder: Path, first_layer: int = 1, **more: str) -> SharedBase:
    how = {"quantization": "fp32", "compute_dtype": "fp32", **more}
    lora = LoraSection(rank=4, alpha=8, first_layer=first_layer)
    return SharedBase.load(ModelSection(name=str(folder), device="cpu", max_length=128, lora=lora, **how), seed=1)


def with_roles(folder: Path, **more: str) -> SharedBase:
    return give_roles(load(folder, **more))


def test_the_two_parts_make_the_whole(tiny_model_dir: Path) -> None:
    base = with_roles(tiny_model_dir)
    ids = torch.randint(3, 512, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, 6:] = 0
    with base.active("policy"):
        whole = base.hidden(ids, mask)
        below = base.lower_hidden(ids, mask, 1)
        assert torch.equal(base.hidden(ids, mask, lower=(1, below))[mask.bool()], whole[mask.bool()])
        assert torch.equal(base.hidden(ids, mask), whole), "the trunk is itself again"
        assert (below - whole).abs().max() > 0.1
    with base.active(None):
        assert torch.equal(base.lower_hidden(ids, mask, 1), below), "no adapter reaches the lower part"


def counted(base: SharedBase) -> list[int]:
    """Grows by one at every run of the lower part."""
    ran: list[int] = []
    real = base.lower_hidden

    def run(*args: Any) -> torch.Tensor:
        ran.append(1)
        return real(*args)

    base.lower_hidden = run  # type: ignore[method-assign]
    return ran


@pytest.mark.parametrize("precision", [{}, {"quantization": "nf4", "compute_dtype": "bf16"}])
def test_a_round_of_ppo_is_the_same_with_the_lower_part_kept(tiny_model_dir: Path, precision: dict[str, str]) -> None:
    after = {}
    for kept in (True, False):
        base = with_roles(tiny_model_dir, **precision)
        if not kept:
            base.frozen_layers = lambda *_names: 0  # type: ignore[method-assign]
        ran = counted(base)
        metrics = make_trainer(base, short(ppo_epochs=3)).step()
        assert len(ran) == kept  # eight responses are one forward, for four passes and more
        after[kept] = metrics, weights(base, "policy")
    assert after[True][0]["policy_loss"] == pytest.approx(after[False][0]["policy_loss"], abs=1e-6)
    for a, b in zip(after[True][1], after[False][1], strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_an_adapter_on_all_layers_leaves_no_lower_part(tiny_model_dir: Path) -> None:
    base = with_roles(tiny_model_dir)
    assert base.frozen_layers("sft", "policy") == 1
    base.add_adapter("value", lora=LoraSection(rank=4))
    assert base.frozen_layers("sft", "policy", "value") == 0
    base.model.config.model_type = "mamba2"
    assert base.frozen_layers("sft") == 0


def test_saved_and_loaded_by_us_and_by_plain_peft(tiny_model_dir: Path, tmp_path: Path) -> None:
    base = with_roles(tiny_model_dir)
    save_adapter(base, "policy", tmp_path / "policy", record={})
    again = load(tiny_model_dir)
    load_adapter(again, "policy", tmp_path / "policy")
    assert same(weights(again, "policy"), weights(base, "policy"))
    assert again.frozen_layers("policy") == 1
    assert len(weights(again, "policy")) == 7 * 2, "one layer of two, seven linears, A and B"

    ids = torch.tensor([[5, 6, 7, 8]])
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model_dir), tmp_path / "policy").eval()
    with base.active("policy"), torch.no_grad():
        ours = base.lm_head(base.hidden(ids, torch.ones_like(ids)))
        torch.testing.assert_close(plain(input_ids=ids).logits, ours, atol=1e-5, rtol=0)


def test_more_layers_than_there_are_is_refused(tiny_model_dir: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.lora\.first_layer: found 2, but the model has layers 0 to 1"):
        load(tiny_model_dir, first_layer=2).add_adapter("sft")
    with pytest.raises(ConfigError, match="not with a pattern"):
        parse({"model": {"lora": {"first_layer": 1, "target_modules": ".*q_proj"}}}, "test")


@pytest.mark.parametrize("targets", [["q_proj", "model.layers.0.mlp.down_proj"], ["layers.0.mlp.down_proj"]])
def test_a_module_named_in_full_is_refused(tiny_model_dir: Path, targets: list[str]) -> None:
    """PEFT would put an adapter on it whatever its layer: what is kept of the lower layers would be another model."""
    base = load(tiny_model_dir)
    with pytest.raises(ConfigError, match=r"goes with the last parts of modules' names"):
        base.add_adapter("sft", lora=LoraSection(rank=4, first_layer=1, target_modules=targets))
    assert base.adapters == []


def test_memory_counts_the_layers_that_have_adapters(tiny_model_dir: Path) -> None:
    config = load(tiny_model_dir).model.config
    whole = memory.shape_of(config, LoraSection())
    upper = memory.shape_of(config, LoraSection(first_layer=1))
    assert upper.lora_width * 2 == whole.lora_width
