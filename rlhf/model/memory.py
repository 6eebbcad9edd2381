"""Predicted peak memory of a config, stage by stage, before anything is loaded. All results are in GiB (2^30 bytes).

Peak = quantized linear weights + embeddings and head + adapters + what the stage works with + a fixed overhead.
Every sequence is taken to be `model.max_length` long, so this is an upper bound for shorter data.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from rlhf.config import Config, LoraSection
from rlhf.errors import ConfigError
from rlhf.model.trunk import has_fused_norm
from rlhf.ops.logprobs import CHUNK_NUMBERS

GIB = 2**30
# NF4: 4 bits and one fp32 scale per block of 64 weights. int8: one byte (its row scales are below 0.1 %).
LINEAR_BYTES = {"nf4": 0.5 + 4 / 64, "int8": 1.0, "bf16": 2.0, "fp32": 4.0}
COMPUTE_BYTES = {"bf16": 2, "fp32": 4}
TRAINED_BYTES = 16  # fp32 weight, its gradient, and AdamW's two moments
FROZEN_BYTES = 4  # adapters stay fp32 when they rest
OVERHEAD_GIB = 1.5  # CUDA context and fragmentation; on a CPU, the libraries themselves

# What `builtin:smollm2-135m` is, so that nothing is fetched to count its parameters.
SMOLLM2_135M: dict[str, Any] = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
}


@dataclass(frozen=True)
class ModelShape:
    """The numbers of a decoder that memory depends on; parameters are counted, not measured in bytes."""

    linear_params: int  # linear layers inside the blocks: what quantization shrinks
    embedding_params: int  # the input embedding, and the output layer where it is not tied to it
    other_params: int  # norms, biases
    lora_width: int  # in + out features summed over the adapted layers: an adapter of rank r has r times as many
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_width: int  # key (or value) features of one token in one layer
    vocab: int
    fused_norms: bool = True  # whether `trunk.fuse_norms` knows the norms

    @property
    def parameters(self) -> int:
        """All parameters of the base."""
        return self.linear_params + self.embedding_params + self.other_params


@dataclass(frozen=True)
class StageMemory:
    """One stage's predicted peak, and what it is made of."""

    stage: str
    weights: float
    adapters: float
    working: float  # activations and logits, or the KV cache and scores
    overhead: float = OVERHEAD_GIB

    @property
    def total(self) -> float:
        """The predicted peak."""
        return self.weights + self.adapters + self.working + self.overhead


def shape_of(model_config: Any, lora: LoraSection) -> ModelShape:
    """Count a transformers config's parameters on the meta device: exact, and nothing is allocated."""
    import torch
    from torch import nn
    from transformers import AutoModelForCausalLM

    last = model_config.get_text_config().num_hidden_layers - 1
    if lora.first_layer > last:
        raise ConfigError(f"model.lora.first_layer: found {lora.first_layer}, but the model has layers 0 to {last}")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(model_config)  # type: ignore[no-untyped-call]
    text = model_config.get_text_config()
    head = model.get_output_embeddings()
    linears = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and m is not head}
    linear = sum(m.weight.numel() for m in linears.values())
    embeddings = {id(m.weight): m.weight.numel() for m in (model.get_input_embeddings(), head) if m is not None}
    total = sum(p.numel() for p in model.parameters())  # parameters() gives a tied weight once
    embedding = sum(embeddings.values())
    head_width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    kv_heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    return ModelShape(
        linear_params=linear,
        embedding_params=embedding,
        other_params=total - linear - embedding,
        lora_width=sum(m.in_features + m.out_features for n, m in linears.items() if _adapted(n, lora)),
        hidden=text.hidden_size,
        intermediate=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        layers=text.num_hidden_layers,
        heads=text.num_attention_heads,
        kv_width=head_width * kv_heads,
        vocab=text.vocab_size,
        fused_norms=any(has_fused_norm(module) for module in model.modules()),
    )


def _adapted(name: str, lora: LoraSection) -> bool:
    """PEFT's rule: `all-linear`, a regular expression for the whole name, or a list of endings; and the first layer."""
    layer = re.search(r"\.(\d+)\.", name)
    if layer is not None and int(layer.group(1)) < lora.first_layer:
        return False
    if lora.target_modules == "all-linear":
        return True
    if isinstance(lora.target_modules, str):
        return re.fullmatch(lora.target_modules, name) is not None
    return any(name == ending or name.endswith("." + ending) for ending in lora.target_modules)


def weights_gib(shape: ModelShape, quantization: str, compute_dtype: str) -> float:
    """The frozen base: linears as quantized, everything else in 16 or 32 bits."""
    rest = 2 if quantization == "bf16" else 4 if quantization == "fp32" else COMPUTE_BYTES[compute_dtype]
    return (shape.linear_params * LINEAR_BYTES[quantization] + (shape.parameters - shape.linear_params) * rest) / GIB


def adapter_gib(shape: ModelShape, rank: int, *, trained: bool) -> float:
    """One LoRA adapter: rank x (in + out) parameters a layer, with gradient and optimizer state while it trains."""
    return rank * shape.lora_width * (TRAINED_BYTES if trained else FROZEN_BYTES) / GIB


def activations_gib(
    shape: ModelShape, sequences: int, length: int, compute_dtype: str, *, checkpointing: bool, eager: bool
) -> float:
    """What one forward keeps for its backward, of `sequences` x `length` tokens.

    With frozen linears and LoRA on each, a Llama-like layer keeps for every token, h = hidden, i = intermediate:

    * in bf16, in bytes: 4h (both norms' inputs; 8h, in fp32, where the norms are not fused), 12h (inputs of the six
      adapters on q, k, v, o, gate, up, cast anew for each), 8h (queries, keys, values, attention's output), 8i (gate,
      its activation, up, their product);
    * in fp32: 32h + 16i, where adapters share one input;
    * with eager attention also the probabilities: heads x length numbers (fp32, and a bf16 copy under bf16).

    Checkpointing keeps each layer's input (h numbers a token), and one layer whole while it is recomputed.
    """
    size = COMPUTE_BYTES[compute_dtype]
    sixteen = (24 if shape.fused_norms else 28) * shape.hidden + 8 * shape.intermediate
    layer = sixteen if size == 2 else 32 * shape.hidden + 16 * shape.intermediate
    if eager:
        layer += shape.heads * length * (6 if size == 2 else 4)
    tokens = sequences * length
    if checkpointing:
        return tokens * (shape.layers * size * shape.hidden + layer) / GIB
    return tokens * shape.layers * layer / GIB


def logits_gib(shape: ModelShape, positions: int, compute_dtype: str, *, cpu: bool) -> float:
    """The fused output layer at `positions`: one chunk's logits as computed and twice in fp32, and the gradients."""
    size, rows = COMPUTE_BYTES[compute_dtype], min(positions, CHUNK_NUMBERS["cpu" if cpu else "gpu"] // shape.vocab)
    return (rows * shape.vocab * (size + 8) + positions * shape.hidden * size) / GIB


def kv_cache_gib(shape: ModelShape, sequences: int, length: int, compute_dtype: str) -> float:
    """Keys and values of every layer for `sequences` of `length` tokens."""
    return sequences * length * shape.layers * 2 * shape.kv_width * COMPUTE_BYTES[compute_dtype] / GIB


def generation_gib(shape: ModelShape, sequences: int, length: int, compute_dtype: str) -> float:
    """Sampling: the KV cache, and one step's logits, probabilities and their running sum in fp32."""
    return kv_cache_gib(shape, sequences, length, compute_dtype) + sequences * shape.vocab * 3 * 4 / GIB


def predict(config: Config, shape: ModelShape, *, cpu: bool) -> list[StageMemory]:
    """Every stage's peak for `config` on a model of `shape`; on a CPU attention is eager, on a GPU fused.

    A ranking is taken to have as many completions as `sample.completions` asks people to rank, and completions are
    sampled as many at once as evaluation does.
    """
    section, length = config.model, config.model.max_length
    dtype, rank = section.compute_dtype, section.lora.rank
    weights = weights_gib(shape, section.quantization, dtype)
    trained, resting = adapter_gib(shape, rank, trained=True), adapter_gib(shape, rank, trained=False)
    scorers = 2 if config.gold else 1
    completions, ppo = config.sample.completions, config.ppo
    # NF4 on a CPU: the linear weights are kept dequantized while a stage works.
    dense = shape.linear_params * COMPUTE_BYTES[dtype] / GIB if cpu and section.quantization == "nf4" else 0.0

    def update(sequences: int, positions: int) -> float:
        kept = activations_gib(shape, sequences, length, dtype, checkpointing=section.gradient_checkpointing, eager=cpu)
        return kept + logits_gib(shape, positions, dtype, cpu=cpu) + dense

    def generation(sequences: int) -> float:
        return generation_gib(shape, sequences, length, dtype) + dense

    sft, reward = config.sft.micro_batch_size, config.reward.micro_batch_size * completions
    stages = [
        StageMemory("sft", weights, trained, update(sft, sft * length)),
        StageMemory("reward", weights, trained + resting, update(reward, 0)),
    ]
    if config.gold:
        gold = config.gold.micro_batch_size * completions
        stages.append(StageMemory("gold", weights, trained + 2 * resting, update(gold, 0)))
    optimisation = update(ppo.micro_batch_size, ppo.micro_batch_size * ppo.max_new_tokens)
    working = max(generation(ppo.rollout_batch_size), optimisation)
    learning = 2 if ppo.critic == "adapter" else 1
    stages.append(StageMemory("ppo", weights, learning * trained + (1 + scorers) * resting, working))
    answering = generation(config.evaluate.batch_size)
    stages.append(StageMemory("evaluate", weights, (2 + scorers) * resting, answering))
    stages.append(StageMemory("sample", weights, (2 + scorers) * resting, answering))
    return stages


def peak(stages: list[StageMemory]) -> StageMemory:
    """The stage that needs the most."""
    return max(stages, key=lambda stage: stage.total)
