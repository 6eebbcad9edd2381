"""The parts of `ppo_quality.py` that run in processes of their own: what both sides share, a run of each, the scores.

python benchmarks/ppo_quality_runs.py share|rlhf|trl|score RUN_DIR OUT SEED
"""

from __future__ import annotations

import contextlib
import json
import resource
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import trl_venv

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "quickstart.yaml"
OVERRIDES = ["ppo.updates=10", "ppo.rollout_batch_size=32", "ppo.mini_batch_size=16"]
SHARED = "shared"


# ---- our side, inside its process ------------------------------------------------------------------------------------


def load(run_dir: Path, *names: str) -> tuple[Any, Any]:
    """The quickstart's config and base, with its run's adapters."""
    from rlhf.config import load as load_config
    from rlhf.model.base import SharedBase
    from rlhf.stages.common import need_adapter

    config = load_config(CONFIG, [f"run_dir={run_dir}", *OVERRIDES])
    base = SharedBase.load(config.model, seed=config.seed)
    for name in names:
        need_adapter(config, base, name)
    return config, base


def inside_share(run_dir: Path, out: Path, _seed: int) -> None:
    """What both sides need: models with adapters merged in, prompts, the scores' scale, SFT's gold score."""
    import torch

    from rlhf.data.encoding import Encoder
    from rlhf.model.lora import dense_weight
    from rlhf.ppo.rollout import sample
    from rlhf.ppo.scoring import load_judge
    from rlhf.stages.common import usable_prompts

    config, base = load(run_dir, "sft", "reward", "gold")
    encoder, folder = Encoder(base.tokenizer), out / SHARED
    prompts, _ = usable_prompts(config, encoder, "train", None, config.seed)
    ids = [encoder.prompt(p.prompt) for p in prompts]
    some = [ids[i % len(ids)] for i in range(256)]
    answers = sample(
        base, "sft", some, max_new_tokens=config.ppo.max_new_tokens, temperature=1.0,
        generator=torch.Generator().manual_seed(config.seed),
    )  # fmt: skip
    scores = {
        n: load_judge(f"adapter:{n}", base, encoder)([""] * 256, some, answers.responses) for n in ("reward", "gold")
    }
    for name in ("sft", "reward"):  # dequantized, with one adapter merged in fp32: what TRL's models are made of
        from transformers import AutoModelForCausalLM

        plain = AutoModelForCausalLM.from_pretrained(base.folder, dtype=torch.float32)
        weights = dict(plain.named_parameters())
        for path, module in base.peft_model.base_model.model.named_modules():
            if name in getattr(module, "lora_A", {}):
                delta = module.lora_B[name].weight @ module.lora_A[name].weight
                dense = dense_weight(module.get_base_layer(), torch.float32)
                weights[f"{path}.weight"].data.copy_(dense + module.scaling[name] * delta)
        plain.to(torch.bfloat16).save_pretrained(folder / name)
    base.tokenizer.save_pretrained(folder / "sft")
    section = config.ppo
    task = {
        "prompts": ids, "head": base.heads["reward"].weight.tolist()[0],
        "mean": float(scores["reward"].mean()), "std": float(scores["reward"].std()),
        "gold_mean": float(scores["gold"].mean()), "updates": section.updates, "batch": section.rollout_batch_size,
        "mini_batches": section.rollout_batch_size // section.mini_batch_size, "epochs": section.ppo_epochs,
        "micro": section.mini_batch_size, "new_tokens": section.max_new_tokens, "rank": config.model.lora.rank,
        "alpha": config.model.lora.alpha, "learning_rate": section.learning_rate, "kl_coef": section.kl.coef,
        "missing_eos_penalty": -section.missing_eos_value, "clip": section.clip_range,
        "clip_value": section.clip_range_value, "vf_coef": section.vf_coef, "gamma": section.gamma, "lam": section.lam,
        "adam_eps": section.adam_eps, "schedule": section.schedule, "max_grad_norm": section.max_grad_norm,
    }  # fmt: skip
    (folder / "task.json").write_text(json.dumps(task))


def inside_rlhf(run_dir: Path, out: Path, seed: int) -> None:
    """One run of ours: what every update sampled, its KL, and the CPU seconds of it all."""
    from accelerate import Accelerator

    from rlhf.data.encoding import Encoder
    from rlhf.ppo.scoring import load_judge
    from rlhf.ppo.trainer import PPOTrainer
    from rlhf.stages.common import usable_prompts

    config, base = load(run_dir, "sft", "reward")
    encoder = Encoder(base.tokenizer)
    base.copy_adapter("sft", "policy")
    prompts, _ = usable_prompts(config, encoder, "train", None, config.seed)
    judge, seen = load_judge("adapter:reward", base, encoder), []

    def watched(texts: Any, ids: Any, responses: Any) -> Any:
        seen.append((ids, responses))
        return judge(texts, ids, responses)

    trainer, rounds = PPOTrainer(config.ppo, base, encoder, prompts, watched, Accelerator(cpu=True), seed), []
    began = cpu_seconds()
    with base.dense_weights():
        trainer.prepare()
        for _ in range(config.ppo.updates):
            metrics = trainer.step()
            rounds.append({"prompts": seen[-1][0], "responses": seen[-1][1], "kl": metrics["kl"]})
    write(out / f"rlhf-{seed}.json", {"cpu": cpu_seconds() - began, "rounds": rounds})


def inside_score(run_dir: Path, out: Path, _seed: int) -> None:
    """The gold model's mean score of every round that has none yet."""
    from rlhf.data.encoding import Encoder
    from rlhf.ppo.scoring import load_judge

    _, base = load(run_dir, "gold")
    judge = load_judge("adapter:gold", base, Encoder(base.tokenizer))
    for file in sorted(out.glob("*-*.json")):
        run = json.loads(file.read_text())
        with base.dense_weights():
            for of in run["rounds"]:
                if "gold" not in of:
                    of["gold"] = float(judge([""] * len(of["prompts"]), of["prompts"], of["responses"]).mean())
                    of["length"] = statistics.fmean(len(r) for r in of["responses"])
        write(file, run)


def cpu_seconds() -> float:
    """What this process has used."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def write(file: Path, content: Any) -> None:
    """All of it or nothing."""
    staging = file.with_suffix(".tmp")
    staging.write_text(json.dumps(content))
    staging.replace(file)


# ---- TRL's side, inside its process ----------------------------------------------------------------------------------


def inside_trl(_run_dir: Path, out: Path, seed: int) -> None:
    """One run of TRL's: the same."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    shared = out / SHARED
    task = json.loads((shared / "task.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(shared / "sft", padding_side="left")
    rounds: list[dict[str, Any]] = []
    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = PPOTrainer(
            args=PPOConfig(output_dir=scratch, seed=seed, **settings(task), **trl_venv.QUIET),
            processing_class=tokenizer,
            model=AutoModelForCausalLM.from_pretrained(shared / "sft", dtype=torch.bfloat16),
            ref_model=None,
            reward_model=classifier(shared / "reward", task, tokenizer.pad_token_id),
            value_model=with_lora(classifier(shared / "reward", task, tokenizer.pad_token_id), task),
            train_dataset=Dataset.from_dict({"input_ids": task["prompts"]}),
            peft_config=LoraConfig(
                r=task["rank"], lora_alpha=task["alpha"], target_modules="all-linear", task_type="CAUSAL_LM"
            ),
        )
        with watch(trainer, tokenizer, rounds):
            began = cpu_seconds()
            trainer.train()
            used = cpu_seconds() - began
    write(out / f"trl-{seed}.json", {"cpu": used, "rounds": rounds})


def settings(task: dict[str, Any]) -> dict[str, Any]:
    """The task in PPOConfig's words."""
    return {
        "per_device_train_batch_size": task["batch"], "gradient_accumulation_steps": 1,
        "num_mini_batches": task["mini_batches"], "num_ppo_epochs": task["epochs"],
        "local_rollout_forward_batch_size": task["micro"], "total_episodes": task["updates"] * task["batch"],
        "response_length": task["new_tokens"], "stop_token": "eos", "temperature": 1.0,
        "missing_eos_penalty": task["missing_eos_penalty"], "learning_rate": task["learning_rate"],
        "lr_scheduler_type": task["schedule"], "adam_epsilon": task["adam_eps"], "weight_decay": 0.0,
        "kl_coef": task["kl_coef"], "kl_estimator": "k1", "cliprange": task["clip"],
        "cliprange_value": task["clip_value"], "vf_coef": task["vf_coef"], "gamma": task["gamma"], "lam": task["lam"],
        "whiten_rewards": False,
    }  # fmt: skip


def classifier(folder: Path, task: dict[str, Any], pad: int) -> Any:
    """The reward model as TRL takes one; its head says the score less the reference's mean, over its deviation."""
    import torch
    from transformers import LlamaForSequenceClassification

    class Score(torch.nn.Linear):
        """In fp32, on a trunk in 16 bits."""

        def forward(self, hidden: Any) -> Any:
            return super().forward(hidden.float())

    model = LlamaForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=torch.bfloat16)
    model.config.pad_token_id = pad
    model.score = Score(len(task["head"]), 1)
    model.score.weight.data = torch.tensor([task["head"]]) / task["std"]
    model.score.bias.data.fill_(-task["mean"] / task["std"])
    return model.requires_grad_(False)


def with_lora(model: Any, task: dict[str, Any]) -> Any:
    """A classifier whose trunk learns by LoRA in fp32, and whose head learns."""
    import torch
    from peft import LoraConfig, inject_adapter_in_model

    linear = sorted({n.rpartition(".")[2] for n, m in model.model.named_modules() if isinstance(m, torch.nn.Linear)})
    model = inject_adapter_in_model(LoraConfig(r=task["rank"], lora_alpha=task["alpha"], target_modules=linear), model)
    model.score.requires_grad_(True)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()
    return model


@contextlib.contextmanager
def watch(trainer: Any, tokenizer: Any, rounds: list[dict[str, Any]]) -> Iterator[None]:
    """Have the trainer's own backward write down each round's prompts, responses and mean KL, once a round."""
    backward, last = trainer.accelerator.backward, [None]

    def recorded(loss: Any, **more: Any) -> None:
        names = sys._getframe(1).f_locals
        if names["responses"] is not last[0]:
            last[0] = names["responses"]
            prompts = [[t for t in row if t != tokenizer.pad_token_id] for row in names["queries"].tolist()]
            responses = []
            for row in names["responses"].tolist():
                end = row.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in row else len(row)
                responses.append([t for t in row[:end] if t != tokenizer.pad_token_id])
            rounds.append({"prompts": prompts, "responses": responses, "kl": float(names["kl"].sum(1).mean())})
        backward(loss, **more)

    trainer.accelerator.backward = recorded
    yield
    trainer.accelerator.backward = backward


if __name__ == "__main__":
    part, run_dir, out, seed = sys.argv[1:]
    parts = {"share": inside_share, "rlhf": inside_rlhf, "score": inside_score, "trl": inside_trl}
    parts[part](Path(run_dir), Path(out), int(seed))
