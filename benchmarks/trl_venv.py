"""TRL 1.12.0, the last release with a PPO trainer, in a virtual environment of its own: the peer and the oracle."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PACKAGES = ["trl==1.12.0", "transformers==5.23.*", "peft==0.21.2", "torch>=2.10,<2.14", "accelerate"]


QUIET: dict[str, Any] = {  # PPOConfig's keys for a run on a CPU that writes and samples nothing of its own
    "report_to": [],
    "save_strategy": "no",
    "num_sample_generations": 0,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "disable_tqdm": True,
}


def python() -> Path:
    """The environment's interpreter; made on the first call (a few minutes), kept in the toolkit's cache."""
    cache = Path(os.environ.get("RLHF_CACHE") or Path.home() / ".cache" / "rlhf")
    folder = cache / "trl-1.12.0"
    interpreter = folder / "bin" / "python"
    if not (folder / ".made").exists():
        print(f"making {folder} with {', '.join(PACKAGES)} ...", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        install = [str(interpreter), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*install, *PACKAGES], check=True)
        (folder / ".made").touch()
    return interpreter


def run(script: Path, arguments: Sequence[str], **environment: str) -> None:
    """Run a script of this folder in that environment, with nothing of ours on its path."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"TRL_EXPERIMENTAL_SILENCE": "1"} | environment
    subprocess.run([str(python()), str(script), *arguments], check=True, env=env)


def word_tokenizer(size: int) -> Any:
    """`size` words t0, t1, ...: t0 pads, t1 begins, t2 ends. Both environments can make it."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({f"t{i}": i for i in range(size)}, unk_token="t3"))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="t0", bos_token="t1", eos_token="t2", padding_side="left"
    )
