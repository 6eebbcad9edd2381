"""Seconds and memory of one PPO update: TRL 1.12.0 (the last with a PPO trainer; LoRA policy) beside ours.

    python benchmarks/ppo_vs_trl.py                  # a table; three rounds, about 20 minutes on two cores
    python benchmarks/ppo_vs_trl.py --json out.json  # and the ratios as JSON

The same work on both sides, in turns, each in a process of its own: a Llama of hidden size 256, 6 layers, vocabulary
4096, fp32; 32 prompts of 32 tokens, 48 new tokens each, 4 epochs of one optimizer step. Variable lengths: prompts of 8
to 32 tokens, and an EOS whose chance is 1 in 28 a token (48 at most). Ours sums the step's gradient over micro-batches
of 16, our default; TRL runs in micro-batches of 32, and of 8 as well, for whoever wants to compare with those.
TRL's policy has LoRA and its value model learns in full, as its trainer does it; ours takes old logprobs as sampled
(`old_logprobs: rollout`, TRL runs a pass for them) and its critic is not warmed up, as TRL's is not.
Ratios are TRL's CPU seconds an update (in micro-batches of 32) over ours, from the medians of the rounds; memory is the
peak above what the imports took, ours over TRL's. Once, and ours alone: a token's time in a batch of 128 over that in
one of 8, and the peak after 4 and 32 updates, and with variable lengths after 4, 32 and 64.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import trl_venv

THREADS, UPDATES, WARM = 2, 4, 1
VOCABULARY, HIDDEN, LAYERS = 4096, 256, 6
PAD, EOS = 0, 2
PROMPTS, PROMPT, NEW, EPOCHS, MICRO = 32, 32, 48, 4, 16
CASES: dict[str, dict[str, Any]] = {
    "trl": {},
    "trl, micro-batches of 8": {"micro": 8},
    "trl, variable lengths": {"variable": True},
    "exact": {},
    "adapter": {"critic": "adapter"},
    "cached": {"first_layer": LAYERS // 2},
    "exact, variable lengths": {"variable": True},
    "batch of 8": {"batch": 8},
    "batch of 128": {"batch": 128},
    "32 updates": {"updates": 32},
    "64 updates, variable lengths": {"variable": True, "updates": 64},
}
ONCE = (  # in the first round alone
    "trl, micro-batches of 8",
    "batch of 8",
    "batch of 128",
    "32 updates",
    "64 updates, variable lengths",
)
PEAKS_AT = (4, 32, 64)  # updates after which the peak is written down
RATIOS = {  # by CPU seconds
    "speed_ratio_exact": ("trl", "exact"),
    "speed_ratio_adapter": ("trl", "adapter"),
    "speed_ratio_cached": ("trl", "cached"),
    "speed_ratio_variable_length": ("trl, variable lengths", "exact, variable lengths"),
}


def main() -> None:
    """Run every case in turns, print the table, write the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3, help="how often what is compared runs (default: 3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the ratios and medians here")
    arguments = parser.parse_args()
    if arguments.json and not arguments.json.parent.is_dir():
        parser.error(f"{arguments.json}: there is no folder {arguments.json.parent}")
    trl_venv.python()
    seen: dict[str, list[dict[str, float]]] = {case: [] for case in CASES}
    for number in range(1, arguments.rounds + 1):
        for case in CASES:
            if case in ONCE and number > 1:
                continue
            wait_for_quiet()
            seen[case].append(run(case))
            last = seen[case][-1]
            print(
                f"round {number}  {case:24}  {last['cpu']:7.2f} CPU s  {last['wall']:7.2f} s  {last['mib']:6.0f} MiB",
                flush=True,
            )
    medians = {c: {k: statistics.median(r[k] for r in runs) for k in runs[0]} for c, runs in seen.items()}
    found: dict[str, Any] = {n: medians[theirs]["cpu"] / medians[ours]["cpu"] for n, (theirs, ours) in RATIOS.items()}
    found |= {f"{n}_wall": medians[theirs]["wall"] / medians[ours]["wall"] for n, (theirs, ours) in RATIOS.items()}
    found["memory_ratio"] = medians["exact"]["mib"] / medians["trl"]["mib"]
    found["token_time_ratio_128_8"] = medians["batch of 128"]["cpu"] / 128 / (medians["batch of 8"]["cpu"] / 8)
    for name, case in (("fixed", "32 updates"), ("variable", "64 updates, variable lengths")):
        found[f"peak_mib_{name}_lengths"] = {
            n: medians[case][f"mib_{n}"] for n in PEAKS_AT if n <= CASES[case]["updates"]
        }
    print(f"\nmedians of {arguments.rounds} rounds, an update; {date.today()}, {machine()}, {THREADS} threads")
    for case, median in medians.items():
        print(f"  {case:24}  {median['cpu']:7.2f} CPU s  {median['wall']:7.2f} s  {median['mib']:6.0f} MiB")
    for name, value in found.items():
        print(f"  {name:34} {value if isinstance(value, dict) else f'{value:6.2f}'}")
    if arguments.json:
        found |= {
            "date": str(date.today()),
            "machine": machine(),
            "threads": THREADS,
            "rounds": arguments.rounds,
            "micro": MICRO,
        }
        found["medians"] = medians
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def machine() -> str:
    """The CPU's name and how many there are."""
    names = [
        line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"


def wait_for_quiet(limit_s: float = 600) -> None:
    """Wait until nothing else works: two threads beside another busy process are many times slower than alone."""
    import psutil

    began = time.monotonic()
    while psutil.cpu_percent(interval=2) > 8:
        if time.monotonic() - began > limit_s:
            raise SystemExit("the machine has not been quiet for ten minutes; stop what else runs on it")


def run(case: str) -> dict[str, float]:
    """One case in a process of its own: seconds an update (CPU and wall), and MiB above the imports."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "out.json"
        inside = ["--inside", case, str(out)]
        threads = {"OMP_NUM_THREADS": str(THREADS), "MKL_NUM_THREADS": str(THREADS)}
        if case.startswith("trl"):
            trl_venv.run(Path(__file__), inside, **threads)
        else:
            subprocess.run([sys.executable, __file__, *inside], check=True, env=os.environ | threads)
        found: dict[str, float] = json.loads(out.read_text())
        return found


# ---- inside a case's process -----------------------------------------------------------------------------------------


def prompts(variable: bool, count: int) -> list[list[int]]:
    """The same token ids on both sides; enough for every update."""
    chooser = random.Random(0)
    lengths = [chooser.randint(8, PROMPT) if variable else PROMPT for _ in range(count)]
    return [[chooser.randrange(3, VOCABULARY) for _ in range(n)] for n in lengths]


def shape() -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": 4 * HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 256,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
    }


def end_sometimes(model: Any, variable: bool) -> None:
    """A bias on the output layer: EOS never comes, or about once in 28 tokens."""
    import torch

    head = torch.nn.Linear(HIDDEN, VOCABULARY)
    head.weight.data = model.lm_head.weight.data
    head.bias.data.zero_()
    head.bias.data[PAD] = -1e4
    head.bias.data[EOS] = 5.0 if variable else -1e4
    model.lm_head = head.requires_grad_(False)


def memory_mib(key: str) -> float:
    """`VmRSS` (now) or `VmHWM` (the most so far) of this process."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024


class Meter:
    """Seconds between updates, the first left out, and memory above what the imports took."""

    def __init__(self) -> None:
        self.imports, self.marks, self.peaks = memory_mib("VmRSS"), [self.now()], [0.0]

    @staticmethod
    def now() -> tuple[float, float]:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return used.ru_utime + used.ru_stime, time.perf_counter()

    def mark(self) -> None:
        self.marks.append(self.now())
        self.peaks.append(memory_mib("VmHWM") - self.imports)

    def write(self, out: Path) -> None:
        spans = [(b[0] - a[0], b[1] - a[1]) for a, b in zip(self.marks[WARM:], self.marks[WARM + 1 :], strict=False)]
        cpu, wall = (statistics.median(span[i] for span in spans) for i in (0, 1))
        found = {"cpu": cpu, "wall": wall, "mib": self.peaks[-1]}
        found |= {f"mib_{n}": self.peaks[n] for n in PEAKS_AT if n < len(self.peaks)}
        out.write_text(json.dumps(found))


def inside_trl(out: Path, variable: bool = False, micro: int = PROMPTS) -> None:
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, TrainerCallback
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    torch.set_num_threads(THREADS)
    meter = Meter()
    torch.manual_seed(0)
    policy = LlamaForCausalLM(LlamaConfig(**shape()))
    end_sometimes(policy, variable)
    scorers = [LlamaForSequenceClassification(LlamaConfig(**shape(), num_labels=1)) for _ in range(2)]

    class Mark(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            meter.mark()

    with tempfile.TemporaryDirectory() as scratch:
        trainer = PPOTrainer(
            args=PPOConfig(
                output_dir=scratch,
                per_device_train_batch_size=micro,
                gradient_accumulation_steps=PROMPTS // micro,
                local_rollout_forward_batch_size=micro,
                num_mini_batches=1,
                num_ppo_epochs=EPOCHS,
                total_episodes=PROMPTS * UPDATES,
                response_length=NEW,
                temperature=1.0,
                stop_token="eos" if variable else None,
                learning_rate=1e-5,
                **trl_venv.QUIET,
            ),
            processing_class=trl_venv.word_tokenizer(VOCABULARY),
            model=policy,
            ref_model=None,
            reward_model=scorers[0],
            value_model=scorers[1],
            train_dataset=Dataset.from_dict({"input_ids": prompts(variable, PROMPTS * UPDATES)}),
            peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
            callbacks=[Mark()],
        )
        meter.marks = [Meter.now()]
        trainer.train()
    meter.write(out)


def inside_ours(
    out: Path,
    variable: bool = False,
    critic: str = "head",
    first_layer: int = 0,
    batch: int = PROMPTS,
    updates: int = UPDATES,
) -> None:
    import torch
    from accelerate import Accelerator

    from rlhf.config import LoraSection, ModelSection
    from rlhf.config_ppo import PPOSection
    from rlhf.data.encoding import Encoder
    from rlhf.data.records import Prompt
    from rlhf.model.base import SharedBase
    from rlhf.ppo.scoring import load_judge
    from rlhf.ppo.trainer import PPOTrainer

    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as folder:
        make = "from transformers import *; import torch, sys, json; torch.manual_seed(0); "
        make += "LlamaForCausalLM(LlamaConfig(**json.loads(sys.argv[2]))).save_pretrained(sys.argv[1])"
        subprocess.run([sys.executable, "-c", make, folder, json.dumps(shape())], check=True)
        trl_venv.word_tokenizer(VOCABULARY).save_pretrained(folder)
        meter = Meter()
        lora = LoraSection(rank=16, alpha=32, first_layer=first_layer)
        section = ModelSection(
            name=folder, quantization="fp32", compute_dtype="fp32", max_length=PROMPT + NEW, lora=lora
        )
        base = SharedBase.load(section)
    end_sometimes(base.model, variable)
    base.add_adapter("sft")
    base.copy_adapter("sft", "policy")
    base.add_adapter("reward", head=True)
    base.heads["reward"].weight.data.normal_()
    ppo = PPOSection(
        updates=updates,
        rollout_batch_size=batch,
        mini_batch_size=batch,
        micro_batch_size=min(MICRO, batch),
        ppo_epochs=EPOCHS,
        max_new_tokens=NEW,
        learning_rate=1e-5,
        critic=critic,  # type: ignore[arg-type]
        old_logprobs="rollout",
        value_warmup_epochs=0,
        normalize_samples=batch,
    )
    rows = prompts(variable, batch * updates)
    judge = load_judge("adapter:reward", base, Encoder(base.tokenizer))
    trainer = PPOTrainer(ppo, base, Encoder(base.tokenizer), [Prompt("t3")], judge, Accelerator(cpu=True), 1)
    trainer.prepare()
    trainer.prompts, trainer.prompt_cycle.count = [("t3", row) for row in rows], len(rows)
    meter.marks = [Meter.now()]
    for _ in range(updates):
        trainer.step()
        meter.mark()
    meter.write(out)


if __name__ == "__main__":
    if "--inside" in sys.argv:
        case, target = sys.argv[-2:]
        (inside_trl if case.startswith("trl") else inside_ours)(Path(target), **CASES[case])
    else:
        main()
