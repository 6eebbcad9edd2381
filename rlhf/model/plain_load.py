"""Load an exported adapter with plain transformers and PEFT, and write the logits that it gives.

Run as a script in a fresh process (it imports nothing of this toolkit, on purpose):

    python plain_load.py REQUEST.json OUT.safetensors

The request names the base's folder, the adapter's, token ids, and the base's quantizations to try; the answer holds one
tensor of logits `(B, T, V)` for each.
"""

import json
import resource
import sys
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig


def load(base: str, adapter: str, quantization: str, device: str) -> torch.nn.Module:
    """The base, quantized as asked with fp32 compute (bf16 for `bf16`), and the adapter on it."""
    config = None
    if quantization == "nf4":
        config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)  # type: ignore[no-untyped-call]
    elif quantization == "int8":
        config = BitsAndBytesConfig(load_in_8bit=True)  # type: ignore[no-untyped-call]
    dtype = torch.bfloat16 if quantization == "bf16" else torch.float32
    model: Any = AutoModelForCausalLM.from_pretrained(
        base, dtype=dtype, quantization_config=config, device_map={"": device}, local_files_only=True
    )
    for module in model.modules():  # else bitsandbytes computes in bf16 on CPUs with AVX512-BF16, 0.02 off in a logit
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    adapted: torch.nn.Module = PeftModel.from_pretrained(model, adapter).eval()
    return adapted


def peak_rss_mib() -> float:
    """The most memory that this process held (MiB). Not `ru_maxrss`: it counts the parent's, as it was at the fork."""
    status = Path("/proc/self/status")
    if status.is_file():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        if "VmHWM" in lines:
            return int(lines["VmHWM"].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(request_path: str, out_path: str) -> None:
    """Answer one request."""
    request = json.loads(Path(request_path).read_text(encoding="utf-8"))
    torch.set_num_threads(request["threads"])
    ids = torch.tensor(request["input_ids"], device=request["device"])
    mask = torch.tensor(request["attention_mask"], device=request["device"])
    answers = {}
    for quantization in request["quantizations"]:
        model = load(request["base"], request["adapter"], quantization, request["device"])
        with torch.no_grad():
            answers[quantization] = model(input_ids=ids, attention_mask=mask).logits.float().cpu().contiguous()
        del model
    save_file(answers, out_path, metadata={"peak_rss_mib": str(peak_rss_mib())})


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
