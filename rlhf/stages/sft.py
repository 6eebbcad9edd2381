"""Supervised fine-tuning: adapter `sft` learns to write as the demonstrations do (TRL's SFTTrainer)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from rlhf.config import Config
from rlhf.data.encoding import Encoder
from rlhf.data.sources import Split, source_fingerprint
from rlhf.errors import ConfigError
from rlhf.model.adapters import save_adapter
from rlhf.model.base import SharedBase
from rlhf.stages.common import adapter_folder, usable_demonstrations
from rlhf.stages.manifest import Plan
from rlhf.stages.tracking import Tracker

STAGE = "sft"
ADAPTER = "sft"


def plan(config: Config) -> Plan:
    """What the stage depends on."""
    return Plan(
        STAGE,
        sections={"model": config.model, "data": config.data, "sft": config.sft},
        inputs={"demonstrations": source_fingerprint(_source(config))},
        parents=(),
        outputs=(adapter_folder(config, ADAPTER),),
    )


def run(config: Config, base: SharedBase, tracker: Tracker) -> dict[str, Any]:
    """Train and save adapter `sft`; returns what the summary says of it."""
    section, encoder = config.sft, Encoder(base.tokenizer)

    # 1. Demonstrations, encoded as every other stage encodes them: prompt, completion, EOS.
    train, longer = _encoded(config, encoder, "train", section.max_examples)
    held_out, _ = _encoded(config, encoder, "eval", section.eval_examples) if section.eval_examples else ([], 0)

    # 2. A fresh adapter.
    if ADAPTER in base.adapters:
        base.remove_adapter(ADAPTER)
    base.add_adapter(ADAPTER)

    # 3. TRL's trainer on it; the loss is on completions only.
    steps = math.ceil(len(train) * section.epochs / section.batch_size)
    steps = min(steps, section.max_steps or steps)
    tracker.start(STAGE, steps)
    loss, eval_loss = _train(base, _arguments(config, base, steps), train, held_out, tracker)

    # 4. Save it.
    result = {"loss": loss, "eval_loss": eval_loss, "examples": len(train), "steps": steps, "over_long": longer}
    save_adapter(base, ADAPTER, adapter_folder(config, ADAPTER), record={"stage": STAGE, "result": result})
    return result


def _source(config: Config) -> str:
    if config.data.demonstrations is None:
        raise ConfigError("data.demonstrations: is not set; SFT needs prompt + completion rows (a file, or a builtin)")
    return config.data.demonstrations


def _encoded(config: Config, encoder: Encoder, split: Split, count: int | None) -> tuple[list[dict[str, Any]], int]:
    """Rows `{"input_ids", "completion_mask"}`, and how many demonstrations were too long."""
    pairs, longer = usable_demonstrations(config, encoder, split, count)
    return [{"input_ids": [*p, *r], "completion_mask": [0] * len(p) + [1] * len(r)} for p, r in pairs], longer


def _arguments(config: Config, base: SharedBase, steps: int) -> Any:
    """The section in TRL's words; what the base does itself is switched off."""
    from trl import SFTConfig

    section = config.sft
    return SFTConfig(
        output_dir=str(config.run_path / "checkpoints" / "sft"),
        max_steps=steps,
        per_device_train_batch_size=section.micro_batch_size,
        per_device_eval_batch_size=section.micro_batch_size,
        gradient_accumulation_steps=section.batch_size // section.micro_batch_size,
        learning_rate=section.learning_rate,
        lr_scheduler_type="constant_with_warmup" if section.schedule == "constant" else section.schedule,
        warmup_steps=int(section.warmup_fraction * steps),
        weight_decay=section.weight_decay,
        adam_epsilon=section.adam_eps,
        max_grad_norm=section.max_grad_norm,
        completion_only_loss=True,
        max_length=None,
        gradient_checkpointing=False,  # the base does its own
        bf16=False,  # the base computes in its own precision, adapters stay fp32
        use_cpu=base.device.type == "cpu",
        seed=config.seed,
        data_seed=config.seed,
        eval_strategy="no",
        save_strategy="no",
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
        train_sampling_strategy="group_by_length",
    )


def _train(
    base: SharedBase, arguments: Any, train: list[dict[str, Any]], held_out: list[dict[str, Any]], tracker: Tracker
) -> tuple[float, float | None]:
    """Train the adapter; the mean training loss, and the loss on `held_out` afterwards where there is any."""
    from datasets import Dataset
    from transformers import PrinterCallback

    with _trainer_on(base) as model:
        trainer = _trainer_class()(
            base,
            model=model,
            args=arguments,
            train_dataset=Dataset.from_list(train),
            eval_dataset=Dataset.from_list(held_out) if held_out else None,
            processing_class=base.tokenizer,
            callbacks=[_log_to(tracker, arguments.max_steps)],
        )
        trainer.remove_callback(PrinterCallback)  # the tracker shows the numbers
        with base.active(ADAPTER, train=True), base.dense_weights():
            loss = trainer.train().training_loss
        if not held_out:
            return loss, None
        with base.active(ADAPTER):
            return loss, trainer.evaluate()["eval_loss"]


@contextmanager
def _trainer_on(base: SharedBase) -> Iterator[Any]:
    """The wrapped model for a trainer that patches `forward`, hooks and switches; all of it is undone afterwards."""
    patched: Sequence[Any] = [base.peft_model, base.model]
    before = [dict(vars(module)) for module in patched]
    cache = base.model.config.use_cache
    try:
        yield base.peft_model
    finally:
        for module, attributes in zip(patched, before, strict=True):
            if "forward" in attributes:
                module.forward = attributes["forward"]
            else:
                vars(module).pop("forward", None)
        base.model.config.use_cache = cache
        base.restore()


def _trainer_class() -> Any:
    """TRL's trainer with the loss taken at response positions alone, through the base.

    TRL's own makes (in tiles) the logits of every position, and entropy and accuracy beside the loss: on a CPU that
    is most of a small model's step.
    """
    from trl import SFTTrainer

    class ResponseLossTrainer(SFTTrainer):  # type: ignore[misc]
        def __init__(self, base: SharedBase, **kwargs: Any) -> None:
            self.base = base
            super().__init__(**kwargs)

        def compute_loss(
            self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            labels = inputs["labels"]
            rows, times = (labels[:, 1:] != -100).nonzero(as_tuple=True)
            hidden = self.base.hidden(inputs["input_ids"], inputs["attention_mask"])[rows, times]
            logprobs, _ = self.base.token_logprobs(hidden, labels[rows, times + 1])
            loss = -logprobs.sum() / (len(rows) if num_items_in_batch is None else num_items_in_batch)
            return (loss, {}) if return_outputs else loss

    return ResponseLossTrainer


def _log_to(tracker: Tracker, steps: int) -> Any:
    from transformers import TrainerCallback

    class LogToTracker(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
            if logs and "loss" in logs:
                kept = {k: float(logs[k]) for k in ("loss", "learning_rate", "grad_norm") if k in logs}
                tracker.log(STAGE, state.global_step, steps, **kept)

    return LogToTracker()
