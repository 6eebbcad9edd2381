"""Load a causal LM and its tokenizer: quantized or not, on a CPU or a GPU by the same code."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from rlhf.config import ModelSection
from rlhf.errors import ArtifactError, ConfigError

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
# What Gemma, Cohere, Granite, Falcon-H1 and RecurrentGemma do to logits in their own forward, which is not ours: logits
# are made from the trunk's hidden states by the output layer alone, at the positions that need them.
CHANGES_LOGITS = (
    "final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap", "logit_scale", "logits_scaling",
    "lm_head_multiplier",
)  # fmt: skip


@dataclass(frozen=True)
class BaseIdentity:
    """Which base an adapter belongs to: the sha256 of its source weights, plus how they were quantized."""

    name: str
    source_sha256: str
    quantization: str

    def same_weights(self, other: BaseIdentity) -> bool:
        """Whether an adapter trained on `other` may run on this base; the name may differ (a moved folder)."""
        return (self.source_sha256, self.quantization) == (other.source_sha256, other.quantization)


def resolve_device(name: str) -> torch.device:
    """`auto` is a GPU where there is one; a GPU that is asked for and absent is an error."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"model.device: found {name!r}, but torch sees no CUDA device; use cpu or auto")
    return torch.device(name)


def source_folder(name: str, path: str) -> Path:
    """The folder with the weights: `path` itself, or the hub's snapshot of it (fetched when it is not cached)."""
    folder = Path(path)
    if folder.is_dir():
        return folder
    if path.startswith((".", "/", "~")):
        raise ArtifactError(f"model.name: {name}: no such folder")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(path, allow_patterns=["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja"]))
    except Exception as error:  # the hub client raises a dozen kinds; each means the same to the person who waits
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ArtifactError(
            f"model.name: {name!r} is no folder and could not be had from the hub ({reason})"
        ) from error


def check_model_config(folder: Path, section: ModelSection) -> None:
    """Refuse, before any weights are read, a model that the toolkit would get wrong.

    Raises:
        ArtifactError: `config.json` is unusable, or the model changes its logits after the output layer.
        ConfigError: `model.max_length` is beyond what the model has positions for.
    """
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False).get_text_config()
    except (OSError, ValueError, KeyError, StrictDataclassError) as error:
        raise ArtifactError(f"{folder}: its config.json cannot be used: {_first_line(error)}") from error
    for key in CHANGES_LOGITS:
        value = getattr(config, key, None)
        if value is not None and value != 1:
            raise ArtifactError(
                f"{folder}: this model ({config.model_type}) changes its logits after the output layer "
                f"({key} is {value}), which is not supported: every logprob would be wrong; choose another base model"
            )
    positions = getattr(config, "max_position_embeddings", None)
    if isinstance(positions, int) and section.max_length > positions:
        raise ConfigError(
            f"model.max_length: found {section.max_length}, but {section.name} has {positions} positions "
            "(max_position_embeddings); set it to that or less"
        )


def identify(name: str, folder: Path, quantization: str) -> BaseIdentity:
    """Hash the folder's safetensors (names and bytes, in order of name)."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ArtifactError(f"{folder}: holds no .safetensors file; a base model needs its weights in that format")
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0")
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return BaseIdentity(name, digest.hexdigest(), quantization)


def load_model(folder: Path, section: ModelSection, device: torch.device) -> PreTrainedModel:
    """Load, quantize, freeze. Dropout is off for good: PPO's ratios and KL need the same network in every pass."""
    dtype = DTYPES[section.compute_dtype]
    quantizers: dict[str, dict[str, Any]] = {
        "nf4": {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_compute_dtype": dtype,
            "bnb_4bit_use_double_quant": False,
        },
        "int8": {"load_in_8bit": True},
    }
    options = quantizers.get(section.quantization)
    quantization = BitsAndBytesConfig(**options) if options else None  # type: ignore[no-untyped-call]
    weights = torch.float32 if section.quantization == "fp32" else dtype
    if section.quantization == "bf16":
        weights = torch.bfloat16
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=weights,
            quantization_config=quantization,
            device_map={"": device},
            # Short contexts on a CPU are faster without the fused kernel; on a GPU it is the other way round.
            attn_implementation="eager" if device.type == "cpu" else "sdpa",
            local_files_only=True,
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ArtifactError(f"{folder}: cannot be loaded as a causal language model: {_first_line(error)}") from error
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    keep_training_kernel(model)
    model.eval()
    frozen: PreTrainedModel = model
    return frozen


def keep_training_kernel(model: nn.Module) -> int:
    """Keep every 4-bit layer on the kernel that has gradients; returns how many there are.

    On CPUs with AVX512-BF16, bitsandbytes repacks the weights in place at the first evaluation forward and from then on
    runs a kernel without a backward: gradients of the layers below go silently wrong. The flag switches that off.
    """
    count = 0
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
            count += 1
    return count


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The folder's tokenizer, with an EOS, and a padding token that is not the EOS."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactError(f"{folder}: its tokenizer cannot be loaded: {_first_line(error)}") from error
    if tokenizer.eos_token_id is None:
        raise ArtifactError(f"{folder}: the tokenizer has no EOS token; responses could never end. Set eos_token in it")
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.pad_token = _unused_special_token(tokenizer, folder)
    return tokenizer


def _unused_special_token(tokenizer: PreTrainedTokenizerBase, folder: Path) -> str:
    """A special token that neither begins nor ends a turn: with pad = eos, the model never learns where to stop."""
    special = [t.content for t in tokenizer.added_tokens_decoder.values() if t.special]
    taken = {tokenizer.eos_token, tokenizer.bos_token}
    template = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else ""
    free = [t for t in special if t not in taken and t not in template]
    if not free:
        raise ArtifactError(
            f"{folder}: padding equals EOS ({tokenizer.eos_token!r}) and no special token is free to stand in for it; "
            "add one to the tokenizer (a <pad> token within the embedding's rows)"
        )
    named = [t for t in free if "pad" in t.lower()] or [t for t in free if t == "<|endoftext|>"]
    return (named or [t for t in free if "reserved" in t.lower()] or free)[0]


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
