"""Predicted memory against numbers worked by hand, published parameter counts, and what autograd really keeps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, PretrainedConfig, Qwen2Config

from rlhf.config import LoraSection, ModelSection, load, parse
from rlhf.model import memory
from rlhf.model.base import SharedBase
from rlhf.model.memory import GIB, ModelShape, StageMemory

CONFIGS = Path(__file__).resolve().parents[2] / "configs"

# One layer worked by hand: q, o 64x64; k, v 64x32; gate, up, down 64x128.
#   linear: 2 * 4096 + 2 * 2048 + 3 * 8192 = 36,864
#   embedding 512 * 64 = 32,768 (tied); norms 3 * 64 = 192
#   in + out: q, o 128 each; k, v 96 each; gate, up, down 192 each: 256 + 192 + 576 = 1,024
SMALL = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "tie_word_embeddings": True,
}
SMALL_SHAPE = ModelShape(
    linear_params=36_864,
    embedding_params=32_768,
    other_params=192,
    lora_width=1_024,
    hidden=64,
    intermediate=128,
    layers=1,
    heads=2,
    kv_width=32,
    vocab=512,
)
QWEN_HALF_B = Qwen2Config(
    vocab_size=151936,
    hidden_size=896,
    intermediate_size=4864,
    num_hidden_layers=24,
    num_attention_heads=14,
    num_key_value_heads=2,
    tie_word_embeddings=True,
)
QWEN_1_5_B = Qwen2Config(
    vocab_size=151936,
    hidden_size=1536,
    intermediate_size=8960,
    num_hidden_layers=28,
    num_attention_heads=12,
    num_key_value_heads=2,
    tie_word_embeddings=True,
)
LLAMA_8B = LlamaConfig(
    vocab_size=128256,
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    tie_word_embeddings=False,
)


def test_small_model_is_counted_as_by_hand() -> None:
    assert memory.shape_of(LlamaConfig(**SMALL), LoraSection()) == SMALL_SHAPE
    assert SMALL_SHAPE.parameters == 69_824


def test_untied_head_counts_as_embedding() -> None:
    shape = memory.shape_of(LlamaConfig(**{**SMALL, "tie_word_embeddings": False}), LoraSection())
    assert (shape.embedding_params, shape.linear_params) == (65_536, 36_864)


@pytest.mark.parametrize(
    ("targets", "width"),
    [("all-linear", 1024), (["q_proj", "v_proj"], 128 + 96), (r".*\.(gate|up|down)_proj", 576), (["proj"], 0)],
)
def test_adapter_width_follows_target_modules(targets: str | list[str], width: int) -> None:
    lora = LoraSection(target_modules=targets)
    assert memory.shape_of(LlamaConfig(**SMALL), lora).lora_width == width


@pytest.mark.parametrize(
    ("config", "parameters", "rank_16"),
    [
        (LlamaConfig(**memory.SMOLLM2_135M), 134_515_008, 4_884_480),
        (QWEN_HALF_B, 494_032_768, 8_798_208),
        (QWEN_1_5_B, 1_543_714_304, 18_464_768),
        (LLAMA_8B, 8_030_261_248, 41_943_040),
    ],
)
def test_published_models_have_their_published_size(config: PretrainedConfig, parameters: int, rank_16: int) -> None:
    shape = memory.shape_of(config, LoraSection())
    assert shape.parameters == parameters
    assert 16 * shape.lora_width == rank_16


@pytest.mark.parametrize(
    ("quantization", "compute", "size"),
    [
        # 36,864 linear weights and 32,960 others, in bytes
        ("nf4", "bf16", 36_864 * 0.5625 + 32_960 * 2),
        ("nf4", "fp32", 36_864 * 0.5625 + 32_960 * 4),
        ("int8", "bf16", 36_864 + 32_960 * 2),
        ("bf16", "bf16", 139_648),
        ("bf16", "fp32", 139_648),
        ("fp32", "fp32", 279_296),
        ("fp32", "bf16", 279_296),
    ],
)
def test_weights(quantization: str, compute: str, size: float) -> None:
    assert memory.weights_gib(SMALL_SHAPE, quantization, compute) * GIB == pytest.approx(size)


def test_adapters_train_at_16_bytes_and_rest_at_4() -> None:
    # rank 8: 8,192 parameters
    assert memory.adapter_gib(SMALL_SHAPE, 8, trained=True) * GIB == 131_072
    assert memory.adapter_gib(SMALL_SHAPE, 8, trained=False) * GIB == 32_768


def test_activations_by_hand() -> None:
    def size(compute: str, *, checkpointing: bool = False, eager: bool = False) -> float:
        kept = memory.activations_gib(SMALL_SHAPE, 2, 10, compute, checkpointing=checkpointing, eager=eager)
        return kept * GIB

    # 20 tokens, one layer. bf16: 24 * 64 + 8 * 128 = 2,560 bytes a token; fp32: 32 * 64 + 16 * 128 = 4,096
    assert size("bf16") == 51_200
    assert size("fp32") == 81_920
    # eager: 2 heads * 10 positions * 6 (or 4) bytes more a token
    assert size("bf16", eager=True) == 20 * 2_680
    assert size("fp32", eager=True) == 20 * 4_176
    # checkpointing: the layer's input (128 bytes) and one layer whole
    assert size("bf16", checkpointing=True) == 20 * (128 + 2_560)


def test_logits_cache_and_generation_by_hand() -> None:
    # a chunk's logits at 5 positions, and the gradients of 64 hidden numbers each
    assert memory.logits_gib(SMALL_SHAPE, 5, "bf16", cpu=True) * GIB == 5 * 512 * 10 + 5 * 64 * 2
    assert memory.logits_gib(SMALL_SHAPE, 5, "fp32", cpu=True) * GIB == 5 * 512 * 12 + 5 * 64 * 4
    # no more than 2^22 logits at once on a CPU, 2^26 on a GPU
    assert memory.logits_gib(SMALL_SHAPE, 10**6, "bf16", cpu=True) * GIB == 2**22 * 10 + 10**6 * 128
    assert memory.logits_gib(SMALL_SHAPE, 10**6, "bf16", cpu=False) * GIB == 2**26 * 10 + 10**6 * 128
    assert memory.kv_cache_gib(SMALL_SHAPE, 3, 10, "bf16") * GIB == 3 * 10 * 2 * 32 * 2
    assert memory.generation_gib(SMALL_SHAPE, 3, 10, "bf16") * GIB == 3_840 + 3 * 512 * 12


def test_stages_by_hand() -> None:
    config = parse(
        {
            "model": {"lora": {"rank": 8}, "max_length": 32, "quantization": "bf16"},
            "sft": {"micro_batch_size": 2, "batch_size": 2},
            "reward": {"micro_batch_size": 1, "batch_size": 1},
            "ppo": {"rollout_batch_size": 4, "mini_batch_size": 2, "micro_batch_size": 1, "max_new_tokens": 8},
            "evaluate": {"batch_size": 4},
            "sample": {"completions": 3},
        },
        "test",
    )
    stages = {stage.stage: stage for stage in memory.predict(config, SMALL_SHAPE, cpu=False)}
    assert list(stages) == ["sft", "reward", "ppo", "evaluate", "sample"]
    assert stages["sft"].working * GIB == 64 * 2_560 + 64 * 512 * 10 + 64 * 128
    assert stages["reward"].working * GIB == 96 * 2_560
    assert stages["reward"].adapters * GIB == 131_072 + 32_768
    # update: 32 tokens and 8 positions of logits; rollout: 4 * 32 tokens of cache and 4 rows of scores
    assert stages["ppo"].working * GIB == max(32 * 2_560 + 8 * 512 * 10 + 8 * 128, 4 * 32 * 128 + 4 * 512 * 12)
    assert stages["ppo"].adapters * GIB == 131_072 + 2 * 32_768
    assert stages["evaluate"].adapters * GIB == 3 * 32_768
    assert stages["sft"].total == pytest.approx((139_648 + 131_072) / GIB + stages["sft"].working + 1.5)


def test_nf4_on_a_cpu_keeps_its_linear_weights_dense_while_it_works() -> None:
    def working(quantization: str, cpu: bool) -> dict[str, float]:
        config = parse({"model": {"quantization": quantization}}, "test")
        return {s.stage: s.working * GIB for s in memory.predict(config, SMALL_SHAPE, cpu=cpu)}

    for stage, plain in working("bf16", cpu=True).items():
        assert working("nf4", cpu=True)[stage] == pytest.approx(plain + 73_728)
    assert working("nf4", cpu=False) == working("bf16", cpu=False)


def test_gold_is_a_stage_and_a_resting_adapter_more() -> None:
    raw = {"reward": {"batches": ["a"]}, "gold": {"batches": ["b"]}}
    stages = {s.stage: s for s in memory.predict(parse(raw, "test"), SMALL_SHAPE, cpu=True)}
    resting, trained = 16 * 1_024 * 4, 16 * 1_024 * 16
    assert stages["gold"].adapters * GIB == trained + 2 * resting
    assert stages["ppo"].adapters * GIB == trained + 3 * resting


def test_a_critic_of_its_own_is_a_second_adapter_that_trains() -> None:
    head, adapter = (
        {s.stage: s for s in memory.predict(parse({"ppo": {"critic": c}}, "test"), SMALL_SHAPE, cpu=True)}["ppo"]
        for c in ("head", "adapter")
    )
    assert (adapter.adapters - head.adapters) * GIB == 16 * 1_024 * 16


def test_peak_is_the_stage_with_the_largest_total() -> None:
    small, large = StageMemory("a", 1, 1, 1), StageMemory("b", 1, 1, 2)
    assert memory.peak([small, large]) is large
    assert large.total == 5.5


@pytest.mark.parametrize("compute", ["bf16", "fp32"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_are_what_autograd_keeps(compute: str, checkpointing: bool, tiny_model_dir: Path) -> None:
    """The formula against the bytes that a training forward through the shared base saves."""
    section = ModelSection(
        name=str(tiny_model_dir),
        quantization="nf4",
        compute_dtype=compute,
        device="cpu",
        lora=LoraSection(rank=4),
        gradient_checkpointing=checkpointing,
    )
    base = SharedBase.load(section)
    base.add_adapter("policy")
    owned = {p.untyped_storage().data_ptr() for p in [*base.model.parameters(), *base.model.buffers()]}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in owned:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    ids = torch.randint(0, 512, (4, 64), generator=torch.Generator().manual_seed(0))
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with base.active("policy", train=True), hooks:
        base.hidden(ids, torch.ones_like(ids))
    measured = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    shape = memory.shape_of(base.model.config, section.lora)
    eager = base.model.config._attn_implementation == "eager"
    predicted = GIB * memory.activations_gib(shape, 4, 64, compute, checkpointing=checkpointing, eager=eager)
    if checkpointing:  # the forward saves the layers' inputs, and the last norm's and one number for it
        predicted = 4 * 64 * ((shape.layers + 1) * shape.hidden * memory.COMPUTE_BYTES[compute] + 4)
    assert 0.8 * predicted <= measured <= 1.1 * predicted, f"predicted {predicted}, measured {measured}"


@pytest.mark.parametrize(
    ("file", "model", "memory_gib"),
    [
        ("qwen2.5/0.5b-8gb.yaml", QWEN_HALF_B, 8),
        ("qwen2.5/1.5b-12gb.yaml", QWEN_1_5_B, 12),
        ("llama-3/8b-24gb.yaml", LLAMA_8B, 24),
    ],
)
def test_gpu_configs_fit_the_memory_in_their_name(file: str, model: PretrainedConfig, memory_gib: int) -> None:
    config = load(CONFIGS / file)
    stages = memory.predict(config, memory.shape_of(model, config.model.lora), cpu=False)
    assert memory.peak(stages).total <= 0.9 * memory_gib
