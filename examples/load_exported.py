"""Load an exported adapter in plain transformers + PEFT, and ask it one prompt. Nothing of `rlhf` is imported.

    python examples/load_exported.py runs/own-data/export/policy --prompt "Can I pick up my order in your shop?"

Ask as you trained: messages went through the chat template, plain text did not. The quickstart's prompts are plain text
that ends with a line break, so there it is

    python examples/load_exported.py runs/quickstart/export/policy --plain \\
        --prompt $'Write one sentence of a film review that begins with: The acting\\n'

The base is the one that the adapter names, from the hub or its local cache; `--base FOLDER` takes a folder instead. The
quickstart's base comes from a package, not from the hub, and lies in the toolkit's cache. Where it lies is said by

    python -c "from rlhf.data.sources import resolve_model; print(resolve_model('builtin:smollm2-135m'))"

Prints, for the adapter of examples/own_data (four updates on a small model: it makes little sense)
with `--base FOLDER --temperature 0` and the first prompt above:

    prompt:     Can I pick up my order in your shop?
    completion: No, please pick up your order from the order number.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

FIND_BUILTIN = (
    """python -c "from rlhf.data.sources import resolve_model; print(resolve_model('builtin:smollm2-135m'))\""""
)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Load an exported adapter in plain transformers + PEFT and ask it.")
    parser.add_argument("adapter", type=Path, help="exported folder, as runs/quickstart/export/policy")
    parser.add_argument("--base", help="the base's folder or hub name; default: the one that the adapter names")
    parser.add_argument("--prompt", required=True, help="what to ask, through the base's chat template")
    parser.add_argument("--plain", action="store_true", help="give the prompt as it is, without the chat template")
    parser.add_argument("--nf4", action="store_true", help="hold the base in NF4, as the stages did; default: bf16")
    parser.add_argument("--max-new-tokens", type=int, default=48)
    parser.add_argument("--temperature", type=float, default=1.0, help="0: always the most probable token")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args(argv)


def load(adapter: Path, base: str | None, nf4: bool) -> tuple[Any, Any]:
    """The model and its tokenizer; the tokenizer was exported too, for its padding token is not EOS."""
    config = adapter / "adapter_config.json"
    if not config.is_file():
        raise SystemExit(f"{adapter}: holds no adapter_config.json; give the exported folder, as RUN/export/policy")
    name = base or json.loads(config.read_text(encoding="utf-8"))["base_model_name_or_path"]
    quantized = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    try:
        model = AutoModelForCausalLM.from_pretrained(
            name, dtype=torch.bfloat16, quantization_config=quantized if nf4 else None, device_map={"": device}
        )
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise SystemExit(
            f"base {name!r} cannot be loaded: {reason}\n"
            f"Name a folder with --base. For the quickstart's base, this prints it:\n    {FIND_BUILTIN}"
        ) from None
    return PeftModel.from_pretrained(model, adapter).eval(), AutoTokenizer.from_pretrained(adapter)


def encode(tokenizer: Any, prompt: str, plain: bool) -> Any:
    """The prompt's tokens, as in training: messages went through the chat template, plain text did not."""
    if plain:
        return tokenizer(prompt, return_tensors="pt")
    chat = [{"role": "user", "content": prompt}]
    return tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)


def answer(model: Any, tokenizer: Any, inputs: Any, max_new_tokens: int, temperature: float) -> str:
    """One completion."""
    inputs = inputs.to(model.device)
    how: dict[str, Any] = {"do_sample": False}
    if temperature > 0:  # the whole distribution, as it was trained: no top-k, no top-p
        how = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    with torch.no_grad():
        output = model.generate(
            **inputs,
            **how,
            max_new_tokens=max_new_tokens,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    text: str = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return text


def main(argv: list[str] | None = None) -> int:
    args = arguments(argv)
    model, tokenizer = load(args.adapter, args.base, args.nf4)
    torch.manual_seed(args.seed)
    inputs = encode(tokenizer, args.prompt, args.plain)
    print(f"prompt:     {args.prompt.strip()}")
    print(f"completion: {answer(model, tokenizer, inputs, args.max_new_tokens, args.temperature)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
