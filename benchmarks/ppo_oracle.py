"""One fixed batch through an unmodified TRL 1.12 PPO step; what it computed on the way goes into a JSON file.

    python benchmarks/ppo_oracle.py        # writes tests/data/trl_ppo_oracle.json, which a test holds our step against

The model is a Llama of some thousand weights, all in the file, so that the test needs neither TRL 1.12 nor a seed.
Policy: LoRA on it; reward and value model: classifiers with a LoRA merged into their trunks (ours keep adapters).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import trl_venv

OUT = Path(__file__).resolve().parents[1] / "tests" / "data" / "trl_ppo_oracle.json"
SHAPE = {
    "vocab_size": 24,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
RANK, ALPHA = 2, 4
PROMPTS = [[5, 6, 7, 8], [9, 10, 11, 12], [13, 14, 15, 16], [17, 18, 19, 20]]
SETTINGS = {
    "response_length": 6,
    "temperature": 0.7,
    "kl_coef": 0.1,
    "gamma": 0.97,
    "lam": 0.9,
    "cliprange": 0.1,
    "cliprange_value": 0.05,
    "vf_coef": 0.3,
    "learning_rate": 0.02,
}
# Names in the trainer's own loop.
ROUND = ("logprobs", "ref_logprobs", "values", "scores", "kl", "rewards", "advantages", "returns")
STEP = ("new_logprobs", "pg_loss", "vf_loss", "loss")
ORDER = "micro_batch_inds"


def main() -> None:
    """In our environment: have the other one do the work."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=OUT, help=f"where to write (default: {OUT})")
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    trl_venv.run(Path(__file__), ["--inside", str(arguments.out.resolve())], OMP_NUM_THREADS="1")
    print(f"wrote {arguments.out}")


def inside(out: Path) -> None:
    """In TRL's environment: build the models, run one PPO step, write down what was seen."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

    torch.manual_seed(0)
    base = LlamaForCausalLM(LlamaConfig(**SHAPE, initializer_range=0.3)).eval()
    weights = {k: v.clone() for k, v in base.state_dict().items()}
    loras = {name: lora(weights, seed) for seed, name in enumerate(("policy", "reward", "value"), start=1)}
    heads = {name: torch.randn(1, SHAPE["hidden_size"]) for name in ("reward", "value")}

    def classifier(name: str) -> Any:
        model = LlamaForSequenceClassification(LlamaConfig(**SHAPE, num_labels=1)).eval()
        merged = {k: v for k, v in weights.items() if k != "lm_head.weight"}
        for layer, (a, b) in loras[name].items():
            merged[f"{layer}.weight"] = merged[f"{layer}.weight"] + ALPHA / RANK * b @ a
        model.load_state_dict({**merged, "score.weight": heads[name]})
        return model

    with tempfile.TemporaryDirectory() as scratch:
        trainer = make_trainer(scratch, base, classifier("reward"), classifier("value"))
        for name, parameter in trainer.policy_model.named_parameters():
            layer = name.removeprefix("base_model.model.").split(".lora_")[0]
            if ".lora_A." in name or ".lora_B." in name:
                parameter.data.copy_(loras["policy"][layer][0 if ".lora_A." in name else 1])
        seen = watch(trainer)
        trainer.train()
    result = {
        "shape": SHAPE,
        "rank": RANK,
        "alpha": ALPHA,
        "settings": SETTINGS,
        "weights": listed(weights),
        "loras": {n: {layer: listed({"a": a, "b": b}) for layer, (a, b) in of.items()} for n, of in loras.items()},
        "heads": listed(heads),
        **seen,
    }
    out.write_text(json.dumps(rounded(result), indent=None, separators=(",", ":")) + "\n", encoding="utf-8")


def make_trainer(scratch: str, policy: Any, reward: Any, value: Any) -> Any:
    """TRL's trainer, as it comes, for one update of two epochs."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    return PPOTrainer(
        args=PPOConfig(
            output_dir=scratch,
            per_device_train_batch_size=len(PROMPTS),
            gradient_accumulation_steps=1,
            num_mini_batches=1,
            num_ppo_epochs=2,
            total_episodes=len(PROMPTS),
            whiten_rewards=False,
            kl_estimator="k1",
            adam_epsilon=1e-5,
            weight_decay=0.0,
            **SETTINGS,
            **trl_venv.QUIET,
        ),
        processing_class=trl_venv.word_tokenizer(SHAPE["vocab_size"]),
        model=policy,
        ref_model=None,
        reward_model=reward,
        value_model=value,
        train_dataset=Dataset.from_dict({"input_ids": PROMPTS}),
        peft_config=LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM"),
    )


def lora(weights: dict[str, Any], seed: int) -> dict[str, Any]:
    """A and B for every linear layer of the blocks."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, weight in weights.items():
        if "_proj." in name:
            rows, columns = weight.shape
            a = torch.randn(RANK, columns, generator=generator) * 0.2
            found[name.removesuffix(".weight")] = (a, torch.randn(rows, RANK, generator=generator) * 0.2)
    return found


def watch(trainer: Any) -> dict[str, Any]:
    """Have the trainer's own backward write down its caller's local variables, and the gradients that it made."""
    seen: dict[str, Any] = {"steps": []}
    backward = trainer.accelerator.backward

    def recorded(loss: Any, **more: Any) -> None:
        names = sys._getframe(1).f_locals
        if "responses" not in seen:
            seen["prompts"], seen["responses"] = names["queries"].tolist(), names["responses"].tolist()
            seen["round"] = listed({k: names[k] for k in ROUND})
        backward(loss, **more)
        step = listed({k: names[k] for k in STEP})
        step["order"] = [int(i) for i in names[ORDER]]
        step["gradients"] = {}
        for name, parameter in trainer.model.named_parameters():
            if "lora_" in name or name == "value_model.score.weight":
                step["gradients"][name] = parameter.grad.tolist()
        seen["steps"].append(step)

    trainer.accelerator.backward = recorded
    return seen


def listed(tensors: dict[str, Any]) -> dict[str, Any]:
    """Tensors as nested lists."""
    return {k: v.tolist() for k, v in tensors.items()}


def rounded(value: Any) -> Any:
    """Eight digits: more than fp32 has."""
    if isinstance(value, float):
        return float(f"{value:.8g}")
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    return [rounded(v) for v in value] if isinstance(value, list) else value


if __name__ == "__main__":
    if "--inside" in sys.argv:
        inside(Path(sys.argv[-1]))
    else:
        main()
