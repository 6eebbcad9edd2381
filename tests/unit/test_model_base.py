"""The shared base: one active adapter at a time, its gradients and nobody else's, and a base that never changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, DynamicCache

from rlhf.config import LoraSection, ModelSection
from rlhf.errors import ArtifactError, ConfigError
from rlhf.model.base import SharedBase


def load(
    folder: Path, quantization: str = "fp32", compute_dtype: str = "fp32", seed: int = 1, **more: Any
) -> SharedBase:
    lora = LoraSection(rank=4, alpha=8)
    section = ModelSection(
        name=str(folder), quantization=quantization, compute_dtype=compute_dtype, device="cpu", lora=lora, **more
    )
    return SharedBase.load(section, seed=seed)


def stir(base: SharedBase, name: str, seed: int) -> None:
    """Random weights in all of an adapter, B and the head too, so that it does something."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in base.adapter_parameters(name):
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)


def two_adapters(folder: Path, **more: Any) -> SharedBase:
    base = load(folder, **more)
    for seed, name in enumerate(("sft", "policy")):
        base.add_adapter(name)
        stir(base, name, seed)
    return base


def batch(seed: int = 0, rows: int = 3, width: int = 7) -> tuple[Tensor, Tensor]:
    ids = torch.randint(3, 512, (rows, width), generator=torch.Generator().manual_seed(seed))
    return ids, torch.ones_like(ids)


def backward(base: SharedBase) -> None:
    base.hidden(*batch()).pow(2).sum().backward()


def take_gradients(base: SharedBase, name: str) -> list[Tensor | None]:
    found = [p.grad for p in base.adapter_parameters(name)]
    for parameter in base.adapter_parameters(name):
        parameter.grad = None
    return found


def alone(folder: Path, base: SharedBase, name: str, quantization: str) -> Any:
    """Plain transformers and PEFT, with nothing of ours: a model of its own with that one adapter's weights."""
    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=base.dtype)
    plain = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=base.dtype,
        quantization_config=nf4 if quantization == "nf4" else None,
        attn_implementation="eager",
    )
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(plain, config).eval()
    places = [p for n, p in model.named_parameters() if "lora_" in n]
    weights = base.adapter_parameters(name)
    with torch.no_grad():
        for place, weight in zip(places, weights, strict=True):
            place.copy_(weight)
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


# --- what a new adapter is -----------------------------------------------------------------------------------------


def test_a_new_adapter_changes_nothing_and_its_head_scores_zero(tiny_model_dir: Path) -> None:
    base = load(tiny_model_dir)
    ids, mask = batch()
    with base.active(None):
        raw = base.hidden(ids, mask)
    base.add_adapter("reward", head=True)
    with base.active("reward"):
        assert torch.equal(base.hidden(ids, mask), raw)
        assert base.score("reward", ids, mask).tolist() == [0.0, 0.0, 0.0]
    assert base.heads["reward"].bias is None
    assert {p.dtype for p in base.adapter_parameters("reward")} == {torch.float32}


@pytest.mark.parametrize("compute_dtype", ["fp32", "bf16"])
def test_adapters_are_fp32_whatever_the_base_computes_in(tiny_model_dir: Path, compute_dtype: str) -> None:
    base = load(tiny_model_dir, "nf4", compute_dtype)
    base.add_adapter("sft")
    base.add_adapter("policy", head=True)
    assert {p.dtype for name in base.adapters for p in base.adapter_parameters(name)} == {torch.float32}


def test_seed_and_name_decide_the_first_weights_not_the_order(tiny_model_dir: Path) -> None:
    one, other, third = load(tiny_model_dir), load(tiny_model_dir), load(tiny_model_dir, seed=2)
    for base, names in ((one, ["sft", "reward"]), (other, ["reward", "sft"]), (third, ["sft"])):
        torch.manual_seed(len(base.folder.name) + len(names))  # and not the global generator either
        for name in names:
            base.add_adapter(name)
    for name in ("sft", "reward"):
        pairs = zip(one.adapter_parameters(name), other.adapter_parameters(name), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    first = [base.adapter_parameters("sft")[0] for base in (one, third)]
    assert not torch.equal(*first)
    assert not torch.equal(first[0], one.adapter_parameters("reward")[0])


def test_adding_an_adapter_leaves_the_global_generator_alone(tiny_model_dir: Path) -> None:
    base = load(tiny_model_dir)
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    base.add_adapter("sft")
    assert torch.equal(torch.rand(1), expected)


def test_names_are_checked(tiny_model_dir: Path) -> None:
    base = two_adapters(tiny_model_dir)
    with pytest.raises(ArtifactError, match="'sft' exists already"):
        base.add_adapter("sft")
    with pytest.raises(ArtifactError, match=r"no adapter 'value' on this base; adapters: sft, policy"):
        base.remove_adapter("value")
    with pytest.raises(ArtifactError, match="no adapter 'value'"), base.active("value"):
        pass


# --- active --------------------------------------------------------------------------------------------------------


def test_only_the_active_adapter_requires_gradients(tiny_model_dir: Path) -> None:
    base = two_adapters(tiny_model_dir)
    base.add_adapter("reward", head=True)

    def trainable() -> set[str]:
        flags = {name: {p.requires_grad for p in base.adapter_parameters(name)} for name in base.adapters}
        assert all(len(values) == 1 for values in flags.values())
        lora = {id(p) for name in base.adapters for p in base.adapter_parameters(name)}
        assert not any(p.requires_grad for p in base.model.parameters() if id(p) not in lora)
        return {name for name, values in flags.items() if values == {True}}

    assert trainable() == set()
    for name in base.adapters:
        with base.active(name, train=True):
            assert trainable() == {name}
            assert torch.is_grad_enabled()
        assert trainable() == set()
    with base.active("sft"):
        assert trainable() == set()
        assert not torch.is_grad_enabled()
        assert not base.hidden(*batch()).requires_grad


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("quantization", ["fp32", "nf4"])
def test_each_adapter_gets_its_own_gradient(tiny_model_dir: Path, quantization: str, checkpointing: bool) -> None:
    base = two_adapters(tiny_model_dir, quantization=quantization, gradient_checkpointing=checkpointing)
    found: dict[str, list[Tensor | None]] = {}
    for name, other in (("sft", "policy"), ("policy", "sft")):
        with base.active(name, train=True):
            backward(base)
        assert take_gradients(base, other) == [None] * 28
        found[name] = take_gradients(base, name)
    for name, gradients in found.items():
        model = alone(tiny_model_dir, base, name, quantization)
        ids, mask = batch()
        trunk = model.base_model.model.model
        trunk(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state.pow(2).sum().backward()
        expected = [p.grad for n, p in model.named_parameters() if "lora_" in n]
        for ours, theirs in zip(gradients, expected, strict=True):
            assert ours is not None
            assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()


def test_checkpointing_gives_the_same_gradients(tiny_model_dir: Path) -> None:
    results = []
    for checkpointing in (False, True):
        base = two_adapters(tiny_model_dir, gradient_checkpointing=checkpointing)
        calls: list[int] = []
        watched = base.model.model.layers[0].self_attn.q_proj
        watched.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        with base.active("policy", train=True):
            backward(base)
        assert len(calls) == (2 if checkpointing else 1), "the layer is run again in the backward, or not"
        results.append(take_gradients(base, "policy"))
    for plain, recomputed in zip(*results, strict=True):
        assert plain is not None and recomputed is not None
        assert (plain - recomputed).abs().max() <= 1e-6 * plain.abs().max()


def test_checkpointing_does_not_stand_in_the_way_of_decoding(tiny_model_dir: Path) -> None:
    ids, mask = batch()
    outputs = []
    for checkpointing in (False, True):
        base = two_adapters(tiny_model_dir, gradient_checkpointing=checkpointing)
        cache = DynamicCache()
        with base.active("policy"):
            whole = base.hidden(ids, mask)
            positions = mask.cumsum(dim=1) - 1
            base.decode_step(ids[:, :-1], mask[:, :-1], positions[:, :-1], cache)
            outputs.append(base.decode_step(ids[:, -1:], mask, positions[:, -1:], cache))
        assert (outputs[-1][:, 0] - whole[:, -1]).abs().max() < 1e-4
    assert torch.equal(*outputs)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_backward_under_another_adapter_raises(tiny_model_dir: Path, checkpointing: bool) -> None:
    base = two_adapters(tiny_model_dir, gradient_checkpointing=checkpointing)
    with base.active("policy", train=True):
        inside, outside, eval_ = (base.hidden(*batch()).sum() for _ in range(3))
        with base.active("sft", train=True), pytest.raises(RuntimeError, match=r"under adapter 'policy', but 'sft'"):
            inside.backward()
        with base.active("policy"), pytest.raises(RuntimeError, match="without training"):
            eval_.backward()
    with pytest.raises(RuntimeError, match=r"keep forward and backward inside one"):
        outside.backward()
    for name in base.adapters:
        assert take_gradients(base, name) == [None] * 28


def test_a_backward_through_the_language_models_own_forward_is_guarded_too(tiny_model_dir: Path) -> None:
    base = two_adapters(tiny_model_dir)
    ids, mask = batch()
    with base.active("policy", train=True):
        loss = base.model(input_ids=ids, attention_mask=mask, labels=ids).loss
    with pytest.raises(RuntimeError, match="'policy'"):
        loss.backward()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_reference_pass_between_forward_and_backward_does_no_harm(tiny_model_dir: Path, checkpointing: bool) -> None:
    base = two_adapters(tiny_model_dir, gradient_checkpointing=checkpointing)
    with base.active("policy", train=True):
        backward(base)
    expected = take_gradients(base, "policy")
    with base.active("policy", train=True):
        loss = base.hidden(*batch()).pow(2).sum()
        with base.active("sft"):
            base.hidden(*batch(seed=4))
        loss.backward()
    for plain, found in zip(expected, take_gradients(base, "policy"), strict=True):
        assert plain is not None and found is not None
        assert torch.equal(plain, found)
    assert take_gradients(base, "sft") == [None] * 28


def test_a_discarded_graph_blocks_nothing(tiny_model_dir: Path) -> None:
    base = two_adapters(tiny_model_dir)
    with base.active("policy", train=True):
        kept = base.hidden(*batch())
        assert kept.requires_grad
    with base.active("sft", train=True):
        backward(base)
    assert all(g is not None for g in take_gradients(base, "sft"))


def test_blocks_nest_and_restore_whatever_happens(tiny_model_dir: Path) -> None:
    base = two_adapters(tiny_model_dir)
    ids, mask = batch()
    outputs = {}
    for name in (None, "sft", "policy"):
        with base.active(name):
            outputs[name] = base.hidden(ids, mask)
    assert not torch.equal(outputs["sft"], outputs["policy"])

    with base.active("policy", train=True):
        with pytest.raises(ZeroDivisionError), base.active("sft"):
            with base.active(None):
                assert torch.equal(base.hidden(ids, mask), outputs[None])
            assert torch.equal(base.hidden(ids, mask), outputs["sft"])
            raise ZeroDivisionError
        assert torch.is_grad_enabled()
        hidden = base.hidden(ids, mask)
        assert torch.equal(hidden, outputs["policy"])
        hidden.sum().backward()
    assert all(g is not None for g in take_gradients(base, "policy"))
    assert torch.equal(base.hidden(ids, mask), outputs[None])
    with torch.no_grad(), base.active("policy", train=True):
        assert base.hidden(ids, mask).requires_grad
    assert torch.is_grad_enabled()


def test_adapters_come_and_go_inside_a_block_without_changing_it(tiny_model_dir: Path) -> None:
    base = two_adapters(tiny_model_dir)
    with base.active("policy", train=True):
        before = base.hidden(*batch()).detach()
        base.add_adapter("value", head=True)
        base.remove_adapter("sft")
        assert torch.equal(base.hidden(*batch()), before)
        backward(base)
        with pytest.raises(ArtifactError, match="'policy' is active"):
            base.remove_adapter("policy")
    assert all(g is not None for g in take_gradients(base, "policy"))


# --- sharing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quantization", "compute_dtype", "tolerance"),
    [("fp32", "fp32", 1e-5), ("nf4", "fp32", 1e-5), ("bf16", "bf16", 0.05), ("nf4", "bf16", 0.05)],
)
def test_sharing_a_base_gives_what_separate_models_give(
    tiny_model_dir: Path, quantization: str, compute_dtype: str, tolerance: float
) -> None:
    base = two_adapters(tiny_model_dir, quantization=quantization, compute_dtype=compute_dtype)
    base.add_adapter("reward", head=True)
    ids, mask = batch()
    mask[0, 5:] = 0
    real = mask.bool()
    for name in ("policy", "sft"):
        model = alone(tiny_model_dir, base, name, quantization)
        with base.active(name), torch.no_grad():
            ours = base.lm_head(base.hidden(ids, mask))[real].float()
            theirs = model(input_ids=ids, attention_mask=mask).logits[real].float()
            raw = model.disable_adapter
            with raw(), base.active(None):
                base_theirs = model(input_ids=ids, attention_mask=mask).logits[real].float()
                base_ours = base.lm_head(base.hidden(ids, mask))[real].float()
        assert (ours - theirs).abs().mean() <= tolerance
        assert (base_ours - base_theirs).abs().mean() <= tolerance
        assert (ours - base_ours).abs().mean() > 0.1  # the adapter does something


def test_a_score_is_read_at_the_last_real_token(tiny_model_dir: Path) -> None:
    base = load(tiny_model_dir)
    base.add_adapter("reward", head=True)
    stir(base, "reward", seed=3)
    ids, mask = batch()
    mask[0, 4:] = 0
    with base.active("reward"):
        scores = base.score("reward", ids, mask)
        alone_ = base.score("reward", ids[:1, :4], mask[:1, :4])
        hidden = base.hidden(ids, mask)
    by_hand = [float(hidden[row, last] @ base.heads["reward"].weight[0]) for row, last in ((0, 3), (1, 6), (2, 6))]
    assert scores.tolist() == pytest.approx(by_hand, abs=1e-5)
    assert alone_.item() == pytest.approx(scores[0].item(), abs=1e-5)
    assert scores.dtype == torch.float32


def test_an_adapter_on_fewer_layers_beside_one_on_all(tiny_model_dir: Path) -> None:
    ids, mask = batch()
    outputs = []
    for names in (["small"], ["small", "sft"], ["sft", "small"]):
        base = load(tiny_model_dir)
        for name in names:
            only = LoraSection(rank=2, alpha=4, target_modules=["q_proj"]) if name == "small" else None
            base.add_adapter(name, lora=only)
            stir(base, name, seed=5)
        with base.active("small", train=True):
            hidden = base.hidden(ids, mask)
            hidden.sum().backward()
        gradients = take_gradients(base, "small")
        assert len(gradients) == 4  # A and B of two layers
        assert all(g is not None for g in gradients)
        outputs.append(hidden.detach())
    assert all(torch.equal(outputs[0], other) for other in outputs[1:])


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        ("nope", "'nope' matches no module of this model"),
        (["q_proj", "nope"], "'nope' matches no module of this model"),
        (["q_proj", "lm_head"], "'lm_head' matches 'lm_head', the embedding or the output layer, which stay frozen"),
        (["embed_tokens"], "'embed_tokens' matches 'model.embed_tokens', the embedding or the output layer"),
        ("(", "missing ), unterminated subpattern at position 0"),
        (["layers"], "Target module ModuleList("),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_targets_that_are_not_there(tiny_model_dir: Path, targets: str | list[str], said: str, first: bool) -> None:
    base = load(tiny_model_dir)
    if not first:
        base.add_adapter("sft")
    with pytest.raises(ConfigError) as caught:
        base.add_adapter("policy", lora=LoraSection(target_modules=targets))
    message = str(caught.value)
    assert message.startswith(f"model.lora.target_modules: {said}") and "\n" not in message
    names = "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj"
    assert message.endswith(f"; give `all-linear`, or a list out of {names}")


# --- copies --------------------------------------------------------------------------------------------------------


def test_a_copy_is_exact_and_then_its_own(tiny_model_dir: Path) -> None:
    base = load(tiny_model_dir)
    base.add_adapter("reward", head=True)
    stir(base, "reward", seed=3)
    original = [p.clone() for p in base.adapter_parameters("reward")]
    ids, mask = batch()
    base.copy_adapter("reward", "value")
    assert "value" in base.heads
    with base.active("reward"):
        scores = base.score("reward", ids, mask)
    with base.active("value"):
        assert torch.equal(base.score("value", ids, mask), scores)
    stir(base, "value", seed=4)
    for parameter, before in zip(base.adapter_parameters("reward"), original, strict=True):
        assert torch.equal(parameter, before)
    base.copy_adapter("reward", "value")  # onto one that exists
    for parameter, before in zip(base.adapter_parameters("value"), original, strict=True):
        assert torch.equal(parameter, before)


def test_a_copy_has_its_sources_shape(tiny_model_dir: Path) -> None:
    base = load(tiny_model_dir)
    base.add_adapter("sft", lora=LoraSection(rank=1, alpha=3))
    base.add_adapter("reward")
    stir(base, "sft", seed=3)
    base.copy_adapter("sft", "policy")
    with base.active("sft"):
        expected = base.hidden(*batch())
    with base.active("policy"):
        assert torch.equal(base.hidden(*batch()), expected)
    with pytest.raises(ArtifactError, match="'reward' has another rank"):
        base.copy_adapter("sft", "reward")


def test_removing_adapters_down_to_the_last(tiny_model_dir: Path) -> None:
    base = two_adapters(tiny_model_dir)
    base.add_adapter("reward", head=True)
    ids, mask = batch()
    with base.active("policy"):
        expected = base.hidden(ids, mask)
    with base.active(None):
        raw = base.hidden(ids, mask)
    base.remove_adapter("reward")
    base.remove_adapter("sft")
    assert base.adapters == ["policy"]
    assert base.heads == {}
    with base.active("policy"):
        assert torch.equal(base.hidden(ids, mask), expected)
    base.remove_adapter("policy")
    assert base.adapters == []
    assert (base.hidden(ids, mask) - raw).abs().max() < 1e-5
    base.add_adapter("policy")
    with base.active("policy", train=True):
        backward(base)
    assert all(g is not None for g in take_gradients(base, "policy"))


# --- the base's hash -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quantization", "compute_dtype"), [("fp32", "fp32"), ("nf4", "fp32"), ("nf4", "bf16"), ("int8", "fp32")]
)
def test_nothing_we_do_changes_the_base(tiny_model_dir: Path, quantization: str, compute_dtype: str) -> None:
    base = load(tiny_model_dir, quantization, compute_dtype)
    before = base.sha256()
    base.add_adapter("sft")
    stir(base, "sft", seed=1)
    base.copy_adapter("sft", "policy")
    base.add_head("value")
    assert base.sha256() == before
    with base.active("policy", train=True):
        optimizer = torch.optim.AdamW(base.adapter_parameters("policy"), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            backward(base)
            optimizer.step()
    with base.active("sft"), base.dense_weights():
        base.hidden(*batch())
        assert base.sha256() == before
    assert base.sha256() == before
    base.remove_adapter("sft")
    base.remove_adapter("policy")
    assert base.sha256() == before
    assert load(tiny_model_dir, quantization, compute_dtype).sha256() == before


@pytest.mark.parametrize("quantization", ["fp32", "nf4", "int8"])
def test_any_weight_changed_by_hand_changes_the_hash(tiny_model_dir: Path, quantization: str) -> None:
    base = load(tiny_model_dir, quantization)
    base.add_adapter("sft")
    seen = {base.sha256()}
    layer = base.model.model.layers[1].mlp.down_proj.get_base_layer()
    changed = [
        layer.weight.data.view(-1),
        base.model.model.norm.weight.data,
        base.model.model.embed_tokens.weight.data[7],
    ]
    if quantization == "nf4":
        changed.append(layer.weight.quant_state.absmax)
    if quantization == "int8":
        base.hidden(*batch())  # moves the scales from the weight to the layer's state
        assert {base.sha256()} == seen
        changed.append(layer.state.SCB)
    for tensor in changed:
        tensor[0] += 1
        seen.add(base.sha256())
    assert len(seen) == 1 + len(changed)
