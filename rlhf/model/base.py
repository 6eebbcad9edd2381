"""The shared base: one frozen model, and every role an adapter on it.

base = SharedBase.load(config.model, seed=1)
base.add_adapter("policy")
with base.active("policy", train=True):      # wraps forward and backward
    loss(base.hidden(input_ids, attention_mask)).backward()
with base.active("sft"), torch.no_grad():    # the reference
    ...
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel, PreTrainedTokenizerBase

from rlhf.config import LoraSection, ModelSection
from rlhf.data.sources import resolve_model
from rlhf.errors import ArtifactError, ConfigError
from rlhf.model import lora as lora_layers
from rlhf.model.identity import base_sha256
from rlhf.model.loading import (
    DTYPES,
    BaseIdentity,
    check_model_config,
    identify,
    load_model,
    load_tokenizer,
    resolve_device,
    source_folder,
)
from rlhf.model.trunk import fuse_norms, is_plain, layers_of
from rlhf.ops.linear import linear
from rlhf.ops.logprobs import linear_logprobs


class SharedBase:
    """Owns one causal LM, the PEFT wrapper around it, the tokenizer and the scalar heads.

    Attributes:
        model: the frozen transformers model; `peft_model` wraps it once the first adapter exists.
        tokenizer: its padding token differs from its EOS.
        heads: scalar heads by adapter name, fp32, without bias; the critic's head on the policy's trunk is `value`.
        identity: which weights these are; every saved adapter records it.
        device, dtype: where and in which precision activations are computed.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        identity: BaseIdentity,
        section: ModelSection,
        folder: Path,
        seed: int = 1,
    ) -> None:
        self.model: Any = model
        self.tokenizer = tokenizer
        self.identity = identity
        self.section = section
        self.folder = folder
        self.seed = seed
        self.device = model.device
        self.dtype = DTYPES[section.compute_dtype]
        self.heads: dict[str, nn.Linear] = {}
        self.peft_model: PeftModel | None = None
        self._layers: list[Any] = []
        self._frozen = [module for module in self._trunk.modules() if lora_layers.readable(module)]
        for layer in self._frozen:
            lora_layers.freeze(layer)
        fuse_norms(model)
        self._active: str | None = None
        self._training = False
        self._trunk.register_forward_hook(self._guard_backward)
        if section.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[no-untyped-call]
        model.config.use_cache = False

    @classmethod
    def load(cls, section: ModelSection, seed: int = 1) -> SharedBase:
        """Load the base that `section` names, quantized, on its device.

        Raises:
            ArtifactError: the weights or the tokenizer are missing or unusable.
            ConfigError: the device is not there, or the model has fewer positions than `max_length`.
        """
        device = resolve_device(section.device)
        folder = source_folder(section.name, resolve_model(section.name))
        check_model_config(folder, section)
        identity = identify(section.name, folder, section.quantization)
        model = load_model(folder, section, device)
        model.name_or_path = section.name  # what PEFT writes into adapters: never the cache's path
        return cls(model, load_tokenizer(folder), identity, section, folder, seed)

    # ---- adapters -------------------------------------------------------------------------------------------------

    @property
    def adapters(self) -> list[str]:
        """Names of the adapters, in order of creation."""
        return list(self.peft_model.peft_config) if self.peft_model else []

    def add_adapter(self, name: str, *, head: bool = False, lora: LoraSection | None = None) -> None:
        """Add a LoRA adapter that changes nothing yet (B = 0), and, for a scorer, a head that starts at zero.

        The same base seed and name give the same initial weights, whatever was created before.

        Raises:
            ConfigError: the model has no layers as `target_modules` names them.
        """
        if name in self.adapters:
            raise ArtifactError(f"adapter {name!r} exists already; adapters: {', '.join(self.adapters)}")
        lora = lora or self.section.lora
        targets, layers = lora_layers.targets_from(self.model, lora)
        config = LoraConfig(
            r=lora.rank,
            lora_alpha=int(lora.alpha) if lora.alpha.is_integer() else lora.alpha,  # type: ignore[arg-type]
            target_modules=targets,
            layers_to_transform=layers,
            lora_dropout=0.0,
            bias="none",
            task_type="CAUSAL_LM",
            base_model_name_or_path=self.identity.name,
        )
        own_seed = int.from_bytes(hashlib.sha256(f"{self.seed}:{name}".encode()).digest()[:8], "little") >> 1
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(own_seed)
            self._inject(name, config)
        self._find_layers()
        if head:
            self.add_head(name)
        for parameter in self.adapter_parameters(name):
            parameter.data = parameter.data.float()
        self.model.eval()  # PEFT's new modules too
        self._switch(self._active, train=self._training)

    def _inject(self, name: str, config: LoraConfig) -> None:
        """Have PEFT put the adapter's matrices beside the layers that it targets."""
        try:
            lora_layers.check_targets(self.model, config.target_modules)
            if self.peft_model is None:
                self.peft_model = get_peft_model(self.model, config, adapter_name=name)
            else:
                self.peft_model.add_adapter(name, config)
        except (ValueError, re.error) as error:  # nothing matches, a layer of no kind that PEFT knows, a bad pattern
            reason = str(error).strip().splitlines()[0].rstrip(".")
            names = ", ".join(lora_layers.linear_names(self.model)[:12])
            raise ConfigError(
                f"model.lora.target_modules: {reason}; give `all-linear`, or a list out of {names}"
            ) from error

    def add_head(self, name: str) -> nn.Linear:
        """A scalar head on the trunk, `(B, T, H)` to `(B, T, 1)`; fp32, no bias, all zeros."""
        head = nn.Linear(self.model.config.hidden_size, 1, bias=False, device=self.device, dtype=torch.float32)
        nn.init.zeros_(head.weight)
        self.heads[name] = head.requires_grad_(False)
        return head

    def copy_adapter(self, source: str, target: str) -> None:
        """Make `target` an exact copy of `source` (weights and head); it is created where it does not exist."""
        self._require(source)
        assert self.peft_model is not None
        if target not in self.adapters:
            self.add_adapter(
                target,
                head=source in self.heads,
                lora=lora_layers.shape_of_adapter(self.peft_model.peft_config[source]),
            )
        shapes = [lora_layers.shape_of_adapter(self.peft_model.peft_config[name]) for name in (source, target)]
        if shapes[0] != shapes[1] or (source in self.heads) != (target in self.heads):
            raise ArtifactError(
                f"adapter {target!r} has another rank, alpha, target or head than {source!r}: remove it first"
            )
        with torch.no_grad():
            for to, from_ in zip(self.adapter_parameters(target), self.adapter_parameters(source), strict=True):
                to.copy_(from_)

    def remove_adapter(self, name: str) -> None:
        """Forget an adapter and its head."""
        self._require(name)
        assert self.peft_model is not None
        if name == self._active:
            raise ArtifactError(
                f"adapter {name!r} is active: leave its `with base.active(...)` block before removing it"
            )
        self.heads.pop(name, None)
        if len(self.adapters) == 1:  # PEFT's wrapper needs one adapter to exist
            self.model = self.peft_model.unload()
            self.peft_model, self._layers = None, []
        else:
            self.peft_model.delete_adapter(name)
        self._switch(self._active, train=self._training)

    def adapter_parameters(self, name: str) -> list[nn.Parameter]:
        """The adapter's LoRA matrices, in the order of the layers, then its head's weight."""
        self._require(name)
        layers = [layer for layer in self._layers if name in layer.lora_A]
        tensors = [getattr(layer, part)[name].weight for layer in layers for part in ("lora_A", "lora_B")]
        return tensors + ([self.heads[name].weight] if name in self.heads else [])

    def _find_layers(self) -> None:
        """Every LoRA layer, those included that only the newest adapter targets; each gets the one-step forward."""
        assert self.peft_model is not None
        known = {id(layer) for layer in self._layers}
        self._layers = [m for m in self.peft_model.modules() if isinstance(m, LoraLayer)]
        for layer in self._layers:
            if id(layer) not in known:
                lora_layers.fuse(layer)

    # ---- running --------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def active(self, name: str | None, *, train: bool = False) -> Iterator[None]:
        """Run the block with adapter `name` (None: the raw base); wrap the forward *and* its backward.

        With `train`, exactly this adapter's parameters require gradients inside the block, and none outside it.
        Without it the block has no gradients at all. Blocks nest; the outer state comes back, whatever happens.
        """
        if name is not None:
            self._require(name)
        before, was_training = self._active, self._training
        self._switch(name, train=train)
        try:
            with torch.set_grad_enabled(train):
                yield
        finally:
            self._switch(before, train=was_training)

    def _switch(self, name: str | None, *, train: bool) -> None:
        self._active, self._training = name, train
        for layer in self._layers:
            here = name in layer.lora_A  # an adapter may leave out layers that another one has
            layer._disable_adapters = not here
            layer._active_adapter = [name] if here else []
        for adapter in self.adapters:
            for parameter in self.adapter_parameters(adapter):
                parameter.requires_grad_(train and adapter == name)
        # Only checkpointing looks at training mode: dropout was set to zero when the model was loaded.
        if self.model.training != (train and self.section.gradient_checkpointing):
            self.model.train(not self.model.training)

    def restore(self) -> None:
        """Put every switch back to what `active` last set, after foreign code (a trainer) has worked on the model."""
        self._switch(self._active, train=self._training)
        self.model.eval()

    def _guard_backward(self, _module: nn.Module, _inputs: object, output: object) -> None:
        """A backward that runs after the adapters were switched would use the other adapter's weights: refuse it."""
        hidden = getattr(output, "last_hidden_state", None)
        if not isinstance(hidden, Tensor) or not hidden.requires_grad:
            return
        name = self._active

        def check(_grad: Tensor) -> None:
            if self._active != name or not self._training:
                now = f"{self._active!r} is active now{'' if self._training else ', without training'}"
                raise RuntimeError(
                    f"backward of a forward under adapter {name!r}, but {now}: "
                    "keep forward and backward inside one `with base.active(..., train=True)` block"
                )

        hidden.register_hook(check)  # type: ignore[no-untyped-call]

    @property
    def forward_rows(self) -> int:
        """How many sequences share a forward: on a CPU padding costs more than calls, on a GPU less."""
        return 8 if self.device.type == "cpu" else 32

    @property
    def forward_tokens(self) -> int:
        """How many tokens, padding too, share a forward of rows that differ much in length."""
        return 1024 if self.device.type == "cpu" else 16_384

    @property
    def shares_prompts(self) -> bool:
        """Whether the model takes a mask and positions of ours, and can be run in two parts."""
        return is_plain(self.model.config)

    @property
    def _trunk(self) -> nn.Module:
        trunk: nn.Module = self.model.base_model if self.model.base_model is not self.model else self.model.model
        return trunk

    @property
    def lm_head(self) -> nn.Module:
        """The frozen output layer: `(..., H)` to `(..., V)`."""
        head: nn.Module = self.model.get_output_embeddings()
        return head

    def logits(self, hidden: Tensor) -> Tensor:
        """The output layer's fp32 logits `(N, V)` of hidden states `(N, H)`, without gradients."""
        head: Any = self.lm_head
        return linear(hidden, head.weight, head.bias).float()

    def token_logprobs(
        self,
        hidden: Tensor,
        tokens: Tensor,
        temperature: float = 1.0,
        *,
        with_entropy: bool = False,
        allowed: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Logprobs `(N,)` of `tokens` `(N,)` at hidden states `(N, H)`, and entropies if asked for; see `ops`."""
        head: Any = self.lm_head
        return linear_logprobs(
            hidden, head.weight, tokens, temperature, bias=head.bias, with_entropy=with_entropy, allowed=allowed
        )

    def hidden(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor | None = None,
        lower: tuple[int, Tensor] | None = None,
    ) -> Tensor:
        """Last hidden states `(B, T, H)` of right-padded `(B, T)` token ids under the active adapter.

        `attention_mask` is `(B, T)`, or, where `shares_prompts`, what to add to attention's logits `(B, 1, T, T)`.
        `lower` is what `lower_hidden` gave for the same ids, and up to which layer: only the rest is run.
        """
        if lower is None:
            parts, inputs = contextlib.nullcontext(), {"input_ids": input_ids}
        else:
            parts, inputs = layers_of(self._trunk, slice(lower[0], None)), {"inputs_embeds": lower[1]}
        with parts:
            output = self._trunk(attention_mask=attention_mask, position_ids=position_ids, use_cache=False, **inputs)
        hidden: Tensor = output.last_hidden_state
        return hidden

    def frozen_layers(self, *adapters: str) -> int:
        """How many of the lowest layers none of these adapters touches, where the model can be run in two parts."""
        if not self.shares_prompts or self.peft_model is None:
            return 0
        return min(lora_layers.shape_of_adapter(self.peft_model.peft_config[name]).first_layer for name in adapters)

    def lower_hidden(self, input_ids: Tensor, attention_mask: Tensor, layers: int) -> Tensor:
        """What the lowest `layers` layers make of `(B, T)` token ids: `(B, T, H)`, under every adapter above."""
        with torch.no_grad(), layers_of(self._trunk, slice(layers), norm=False):
            output = self._trunk(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        hidden: Tensor = output.last_hidden_state
        return hidden

    def decode_step(self, input_ids: Tensor, attention_mask: Tensor, positions: Tensor, cache: Cache) -> Tensor:
        """Hidden states `(B, t, H)` of the next tokens `(B, t)`; `attention_mask` `(B, past + t)`; the cache grows."""
        hidden: Tensor = self._trunk(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        return hidden

    @contextlib.contextmanager
    def dense_weights(self) -> Iterator[None]:
        """Inside the block, NF4 layers on a CPU keep their dequantized weights instead of making them at every forward.

        The numbers are the same; a decode step of a small batch costs half. Frees them afterwards (2 bytes a weight).
        Blocks nest: the outermost one keeps and frees.
        A GPU dequantizes faster than it reads, and has no memory to spare: nothing changes there.
        """
        keeps = self.device.type == "cpu" and self.section.quantization == "nf4"
        with lora_layers.kept_dense(self._frozen if keeps else [], self.dtype):
            yield

    def score(self, name: str, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Scores `(B,)` of right-padded sequences `(B, T)`: head `name` at each one's last token, in fp32.

        The caller activates the adapter.
        """
        last = attention_mask.sum(dim=1) - 1
        hidden = self.hidden(input_ids, attention_mask)
        return self.apply_head(name, hidden[torch.arange(len(last), device=last.device), last])

    def apply_head(self, name: str, hidden: Tensor) -> Tensor:
        """Head `name` on hidden states `(..., H)` to `(...)`, in fp32."""
        scores: Tensor = self.heads[name](hidden.float()).squeeze(-1)
        return scores

    # ---- identity -------------------------------------------------------------------------------------------------

    def sha256(self) -> str:
        """Hash of the loaded base tensors (quantized bytes and their scales), adapters and heads left out."""
        return base_sha256(self.model)

    def _require(self, name: str) -> None:
        if name not in self.adapters:
            known = ", ".join(self.adapters) or "none"
            raise ArtifactError(f"no adapter {name!r} on this base; adapters: {known}")
