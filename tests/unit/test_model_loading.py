"""Loading a base: which weights it is, on which device, frozen, and with a tokenizer that training can rely on."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rlhf.config import ModelSection
from rlhf.errors import ArtifactError, ConfigError
from rlhf.model.base import SharedBase
from rlhf.model.loading import (
    BaseIdentity,
    check_model_config,
    identify,
    load_model,
    load_tokenizer,
    resolve_device,
    source_folder,
)


def tokenizer_with(folder: Path, target: Path, **changes: Any) -> Path:
    """A copy of the tokenizer with some of its settings changed; None removes one."""
    target.mkdir()
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (folder / file).is_file():
            shutil.copy(folder / file, target / file)
    path = target / "tokenizer_config.json"
    config = json.loads(path.read_text())
    for key, value in changes.items():
        config.pop(key, None)
        if value is not None:
            config[key] = value
    path.write_text(json.dumps(config))
    return target


def make_special(folder: Path, *, keep: set[str], rename: dict[str, str] | None = None) -> None:
    """Only the tokens in `keep` stay special in tokenizer.json; some get another name."""
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    for token in content["added_tokens"]:
        old = token["content"]
        token["special"] = old in keep
        token["content"] = (rename or {}).get(old, old)
        if token["content"] != old:
            content["model"]["vocab"][token["content"]] = content["model"]["vocab"].pop(old)
    path.write_text(json.dumps(content))


# --- the tokenizer -------------------------------------------------------------------------------------------------


def test_where_padding_is_eos_an_unused_special_token_takes_its_place(tiny_model_dir: Path) -> None:
    tokenizer = load_tokenizer(tiny_model_dir)
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token == "<|endoftext|>"
    assert tokenizer.pad_token_id == 2 != tokenizer.eos_token_id  # <|im_start|> is 0, <|im_end|> 1


def test_where_there_is_no_padding_token_one_is_chosen_too(tiny_model_dir: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tokenizer_with(tiny_model_dir, tmp_path / "t", pad_token=None))
    assert tokenizer.pad_token == "<|endoftext|>"


def test_a_padding_token_of_its_own_stays(tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = tokenizer_with(tiny_model_dir, tmp_path / "t", pad_token="<|endoftext|>")
    assert load_tokenizer(folder).pad_token == "<|endoftext|>"
    folder = tokenizer_with(tiny_model_dir, tmp_path / "u", pad_token="<|im_start|>")
    assert load_tokenizer(folder).pad_token == "<|im_start|>"


def test_refused_where_no_special_token_is_free(tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = tokenizer_with(
        tiny_model_dir,
        tmp_path / "t",
        additional_special_tokens=None,
        extra_special_tokens=None,
        added_tokens_decoder=None,
    )
    make_special(folder, keep={"<|im_start|>", "<|im_end|>"})
    with pytest.raises(ArtifactError, match=r"padding equals EOS \('<\|im_end\|>'\) and no special token is free"):
        load_tokenizer(folder)


def test_a_token_of_the_chat_template_is_not_free(tiny_model_dir: Path, tmp_path: Path) -> None:
    template = "{{ '<|im_start|>' }}{{ '<|endoftext|>' }}"
    folder = tokenizer_with(tiny_model_dir, tmp_path / "t", chat_template=template)
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(ArtifactError, match="no special token is free"):
        load_tokenizer(folder)


def test_a_tokenizer_without_eos_is_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = tokenizer_with(tiny_model_dir, tmp_path / "t", eos_token=None)
    with pytest.raises(ArtifactError, match=r"has no EOS token; responses could never end"):
        load_tokenizer(folder)


def test_no_tokenizer_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="tokenizer cannot be loaded"):
        load_tokenizer(tmp_path)


# --- the model's config --------------------------------------------------------------------------------------------


def with_config(folder: Path, target: Path, **changes: Any) -> ModelSection:
    """A section for a copy of the model with some of its config.json changed."""
    shutil.copytree(folder, target)
    config = json.loads((folder / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, **changes}))
    return ModelSection(name=str(target), quantization="fp32", compute_dtype="fp32", device="cpu", max_length=128)


@pytest.mark.parametrize(
    ("key", "value"), [("final_logit_softcapping", 30.0), ("logit_scale", 0.0625), ("logits_scaling", 8.0)]
)
def test_a_model_that_changes_its_logits_is_refused(
    tiny_model_dir: Path, tmp_path: Path, key: str, value: float
) -> None:
    """Gemma-2, Cohere and Granite: the logprobs would be those of another distribution."""
    section = with_config(tiny_model_dir, tmp_path / "changed", **{key: value})
    with pytest.raises(
        ArtifactError, match=rf"changes its logits after the output layer \({key} is {value}\)"
    ) as error:
        SharedBase.load(section)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("key", "value"), [("final_logit_softcapping", None), ("logit_scale", 1.0)])
def test_a_model_that_could_change_its_logits_and_does_not_is_taken(
    tiny_model_dir: Path, tmp_path: Path, key: str, value: float | None
) -> None:
    section = with_config(tiny_model_dir, tmp_path / "changed", **{key: value})
    check_model_config(Path(section.name), section)


def test_more_tokens_than_positions_are_refused_before_weights_are_read(tiny_model_dir: Path, tmp_path: Path) -> None:
    section = with_config(tiny_model_dir, tmp_path / "short", max_position_embeddings=128)
    check_model_config(Path(section.name), section)
    section = with_config(tiny_model_dir, tmp_path / "shorter", max_position_embeddings=127)
    (tmp_path / "shorter" / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"^model\.max_length: found 128, but .*/shorter has 127 positions"):
        SharedBase.load(section)


@pytest.mark.parametrize(
    "content", ["", "{}", '{"model_type": "nobody"}', '{"model_type": "llama", "vocab_size": "x"}']
)
def test_an_unusable_config_is_one_clear_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ArtifactError, match=r"its config\.json cannot be used") as error:
        check_model_config(tmp_path, ModelSection())
    assert "\n" not in str(error.value)


# --- the weights ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quantization", "compute_dtype", "linear", "norm"),
    [
        ("fp32", "fp32", torch.float32, torch.float32),
        ("bf16", "bf16", torch.bfloat16, torch.bfloat16),
        ("nf4", "bf16", torch.uint8, torch.bfloat16),
        ("nf4", "fp32", torch.uint8, torch.float32),
        ("int8", "fp32", torch.int8, torch.float32),
    ],
)
def test_a_base_is_quantized_and_frozen(
    tiny_model_dir: Path, quantization: Any, compute_dtype: Any, linear: torch.dtype, norm: torch.dtype
) -> None:
    section = ModelSection(name=str(tiny_model_dir), quantization=quantization, compute_dtype=compute_dtype)
    model = load_model(tiny_model_dir, section, torch.device("cpu"))
    assert model.model.layers[0].mlp.up_proj.weight.dtype == linear
    assert model.model.norm.weight.dtype == norm
    assert not any(p.requires_grad for p in model.parameters())
    assert not model.training
    ids = torch.tensor([[3, 4, 5]])
    assert torch.isfinite(model(input_ids=ids).logits).all()


def test_dropout_is_off_for_good(tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "dropout"
    shutil.copytree(tiny_model_dir, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "attention_dropout": 0.5}))
    section = ModelSection(name=str(folder), quantization="fp32", compute_dtype="fp32")
    model = load_model(folder, section, torch.device("cpu")).train()
    assert not any(m.p for m in model.modules() if isinstance(m, nn.Dropout))
    ids = torch.tensor([[3, 4, 5, 6]])
    assert torch.equal(model(input_ids=ids).logits, model(input_ids=ids).logits)


def test_the_identity_is_the_hash_of_the_weights_files(tiny_model_dir: Path, tmp_path: Path) -> None:
    content = (tiny_model_dir / "model.safetensors").read_bytes()
    expected = hashlib.sha256(b"model.safetensors\0" + content).hexdigest()
    found = identify("a name", tiny_model_dir, "nf4")
    assert found == BaseIdentity("a name", expected, "nf4")
    assert found.same_weights(BaseIdentity("another name", expected, "nf4"))
    assert not found.same_weights(BaseIdentity("a name", expected, "int8"))
    assert not found.same_weights(BaseIdentity("a name", "0" * 64, "nf4"))
    (tmp_path / "model.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert not identify("a name", tmp_path, "nf4").same_weights(found)


def test_weights_that_cannot_be_used_are_one_clear_line(tiny_model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"holds no \.safetensors file"):
        identify("x", tmp_path, "nf4")
    with pytest.raises(ArtifactError, match="no such folder"):
        source_folder("./gone", str(tmp_path / "gone"))
    section = ModelSection(name="x", quantization="fp32", compute_dtype="fp32")
    with pytest.raises(ArtifactError, match="cannot be loaded as a causal language model"):
        load_model(tmp_path, section, torch.device("cpu"))
    folder = tmp_path / "cut"
    shutil.copytree(tiny_model_dir, folder)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArtifactError, match="cannot be loaded as a causal language model") as error:
        load_model(folder, section, torch.device("cpu"))
    assert "\n" not in str(error.value)


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == resolve_device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match=r"model\.device: found 'cuda:1', but torch sees no CUDA device"):
        resolve_device("cuda:1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == torch.device("cuda")
    assert resolve_device("cuda:1") == torch.device("cuda:1")
