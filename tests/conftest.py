"""What all tests share: one thread, no hub, the markers' rules, and a tiny model with a tiny task, both made here.

The model is a real Llama with sizes that are multiples of 64 (bitsandbytes' CPU kernel needs that), trained for a
second on the tiny task's own sentences, so that its completions end with EOS now and then, as a real model's do.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: it reads this once
os.environ["MKL_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import itertools
import json
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import postgres_server
import pytest
import torch

from rlhf.preferences import LabelStore

torch.set_num_threads(1)

VOCABULARY = 512
SPECIAL_TOKENS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

SUBJECTS = (
    "acting", "camera", "cast", "comedy", "dialogue", "drama", "ending", "film", "hero", "humor", "jokes", "lead",
    "light", "love story", "middle", "music", "opening", "pace", "picture", "plot", "remake", "scenery", "script",
    "sequel", "song", "sound", "story", "thriller", "title", "villain",
)  # fmt: skip
# From best to worst: a completion's place in this list is the rank that the tiny task's labelers give it.
OPINIONS = (
    "is wonderful and full of warmth.",
    "is good and well made.",
    "is plain and a little slow.",
    "is dull and badly made.",
)

_left_out: pytest.StashKey[bool] = pytest.StashKey()


# --- the markers' rules ------------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow (or set RLHF_SLOW=1)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    slow = config.getoption("--slow") or os.environ.get("RLHF_SLOW") == "1"
    cuda = torch.cuda.is_available()
    for item in items:
        if item.get_closest_marker("slow") and not slow:
            item.stash[_left_out] = True
            item.add_marker(pytest.mark.skip(reason="slow: runs with --slow or RLHF_SLOW=1"))
        if item.get_closest_marker("gpu") and not cuda:
            item.stash[_left_out] = True
            item.add_marker(pytest.mark.skip(reason="gpu: no CUDA device here"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """In CI a browser, network or database test that skips itself is a failure: nobody reads the skips there.

    One that says by `skipif` what it is for lacks nothing.
    """
    report: Any = yield
    must_run = any(item.get_closest_marker(name) for name in ("browser", "network", "postgres"))
    must_run = must_run and not item.get_closest_marker("skipif")
    skipped = report.skipped and not hasattr(report, "wasxfail")
    if skipped and must_run and os.environ.get("CI") and not item.stash.get(_left_out, False):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: skipped, which counts as a failure where CI is set. {reason}"
    return report


# --- label stores on both databases ------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A PostgreSQL server's URL, with a label store in database `store` for others to be copied from."""
    folder = postgres_server.programs()
    if folder is None:
        pytest.skip("PostgreSQL is not installed here (Debian: apt-get install postgresql)")
    pytest.importorskip("psycopg", reason="psycopg is not installed here (pip install 'psycopg[binary]')")
    with postgres_server.server(folder) as url:
        _execute(f"{url}/postgres", "CREATE DATABASE store")
        LabelStore.open(f"{url}/store", create=True).close()
        yield url


_databases = itertools.count(1)


@pytest.fixture
def new_postgres_store(postgres: str) -> Callable[[], str]:
    """Makes an empty label store in a database of its own; its URL."""

    def make() -> str:
        name = f"store_{next(_databases)}"
        _execute(f"{postgres}/postgres", f"CREATE DATABASE {name} TEMPLATE store")
        return f"{postgres}/{name}"

    return make


@pytest.fixture(scope="session")
def sqlite_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of an empty label store, for others to be copied from: making one takes twenty times as long."""
    path = tmp_path_factory.mktemp("store") / "labels.db"
    LabelStore.open(path, create=True).close()
    return path


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where an empty label store is: a file, or a database of its own."""
    if request.param == "sqlite":
        path = request.getfixturevalue("sqlite_store")
        return str(shutil.copy(path, tmp_path / "labels.db"))
    url: str = request.getfixturevalue("new_postgres_store")()
    return url


@pytest.fixture
def store(store_url: str) -> Iterator[LabelStore]:
    """An empty label store, on either database."""
    with LabelStore.open(store_url) as opened:
        yield opened


def _execute(url: str, statement: str) -> None:
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement)


# --- the tiny task -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TinyTask:
    """Files of a task small enough for every test: 30 prompts, and sentences from warm to harsh about each."""

    demonstrations: Path
    prompts: Path
    rankings: Path
    gold_rankings: Path  # other completions of the same prompts, by another labeler


def _prompt(subject: str) -> str:
    return f"Review the {subject}."


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def _ranking_rows(labeler: str, opening: str, seed: int) -> list[dict[str, Any]]:
    """One ranking a prompt, K = 4, the completions shuffled; in every fifth one the two best are tied."""
    shuffler = random.Random(seed)
    rows = []
    for i, subject in enumerate(SUBJECTS):
        ranked = [(f"{opening} {subject} {opinion}", rank) for rank, opinion in enumerate(OPINIONS, start=1)]
        if i % 5 == 0:
            ranked[1] = (ranked[1][0], 1)
        shuffler.shuffle(ranked)
        rows.append(
            {
                "prompt": _prompt(subject),
                "completions": [text for text, _ in ranked],
                "ranks": [rank for _, rank in ranked],
                "labeler": labeler,
                "created_at": f"2026-01-01T00:{i:02d}:00Z",
            }
        )
    return rows


@pytest.fixture(scope="session")
def tiny_task(tmp_path_factory: pytest.TempPathFactory) -> TinyTask:
    """Demonstrations (60), prompts (30) and two disjoint sets of rankings (30 each) as JSON Lines."""
    folder = tmp_path_factory.mktemp("tiny-task")
    demonstrations = [
        {"prompt": _prompt(subject), "completion": f"The {subject} {opinion}"}
        for i, subject in enumerate(SUBJECTS)
        for opinion in (OPINIONS[i % 4], OPINIONS[(i + 1) % 4])
    ]
    return TinyTask(
        demonstrations=_write_rows(folder / "demonstrations.jsonl", demonstrations),
        prompts=_write_rows(folder / "prompts.jsonl", [{"prompt": _prompt(subject)} for subject in SUBJECTS]),
        rankings=_write_rows(folder / "rankings.jsonl", _ranking_rows("ann", "The", seed=1)),
        gold_rankings=_write_rows(folder / "gold-rankings.jsonl", _ranking_rows("bob", "This", seed=2)),
    )


# --- the tiny model ----------------------------------------------------------------------------------------------


def _sentences() -> list[str]:
    return [
        f"{opening} {subject} {opinion}"
        for opening, subject, opinion in itertools.product(("The", "This"), SUBJECTS, OPINIONS)
    ]


def _build_tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    text = [*_sentences(), *(_prompt(subject) for subject in SUBJECTS), "system user assistant\n" * 20]
    backend.train_from_iterator(text, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",  # pad = eos on purpose: loading must choose <|endoftext|> instead
        additional_special_tokens=["<|endoftext|>"],
        model_max_length=256,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    assert len(tokenizer) <= VOCABULARY
    return tokenizer


def _train(model: Any, tokenizer: Any, steps: int) -> None:
    """A second of language modelling on the task's own sentences, as chats; enough to end sentences with EOS."""
    chooser = random.Random(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    sentences = _sentences()
    for _ in range(steps):
        chats = []
        for sentence in chooser.sample(sentences, 16):
            subject = next(s for s in SUBJECTS if f" {s} is" in sentence)
            turns = [{"role": "user", "content": _prompt(subject)}, {"role": "assistant", "content": sentence}]
            chats.append(tokenizer.apply_chat_template(turns, tokenize=False))
        batch = tokenizer(chats, return_tensors="pt", padding=True, padding_side="right")
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        loss = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny Llama (fp32 safetensors, tied embeddings) and its tokenizer, as `model.name` takes it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny-model") / "tiny-llama"
    tokenizer = _build_tokenizer()
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=1024,  # the default of model.max_length
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
        _train(model, tokenizer, steps=80)
    model.eval().save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    return folder


# --- the tiny config ---------------------------------------------------------------------------------------------


def _merge(into: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Lay nested `changes` over a config; a dotted key reaches into sections, as the command line's overrides do."""
    for key, value in changes.items():
        head, _, rest = key.partition(".")
        if rest:
            _merge(into.setdefault(head, {}), {rest: value})
        elif isinstance(value, Mapping) and isinstance(into.get(head), dict):
            _merge(into[head], value)
        else:
            into[head] = dict(value) if isinstance(value, Mapping) else value
    return into


@pytest.fixture
def tiny_config(tiny_model_dir: Path, tiny_task: TinyTask, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """`tiny_config({"ppo.updates": 2}, seed=3)`: a dict for `rlhf.config.parse` that runs the whole loop in seconds."""

    def make(changes: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        raw: dict[str, Any] = {
            "run_dir": str(tmp_path / "run"),
            "seed": 1,
            "model": {
                "name": str(tiny_model_dir),
                "quantization": "fp32",
                "compute_dtype": "fp32",
                "device": "cpu",
                "lora": {"rank": 4, "alpha": 8},
                "max_length": 128,
            },
            "data": {
                "demonstrations": str(tiny_task.demonstrations),
                "prompts": str(tiny_task.prompts),
                "eval_fraction": 0.3,
            },
            "sft": {"batch_size": 8, "micro_batch_size": 4, "max_steps": 3, "eval_examples": 8, "learning_rate": 1e-3},
            "reward": {
                "rankings": str(tiny_task.rankings),
                "batch_size": 4,
                "micro_batch_size": 2,
                "learning_rate": 1e-3,
            },
            "ppo": {
                "updates": 2,
                "rollout_batch_size": 8,
                "mini_batch_size": 4,
                "micro_batch_size": 2,
                "ppo_epochs": 2,
                "value_warmup_epochs": 1,
                "normalize_samples": 8,
                "max_new_tokens": 16,
                "checkpoint_every": 1,
            },
            "evaluate": {"prompts": 6, "batch_size": 4, "bootstrap": 100, "shown_samples": 3},
            "export": {"verify": False, "drift_prompts": 0},
            "sample": {"prompts": 3, "completions": 3, "batch": "tiny-samples"},
        }
        return _merge(_merge(raw, changes or {}), more)

    return make


# --- PPO, watched ------------------------------------------------------------------------------------------------


@pytest.fixture
def ratios(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The ratio of every micro-batch of PPO's updates, in order."""
    from rlhf.ppo import update

    seen: list[torch.Tensor] = []
    real = update.policy_loss

    def recorded(*args: Any) -> Any:
        out = real(*args)
        seen.append(out[1])
        return out

    monkeypatch.setattr(update, "policy_loss", recorded)
    return seen
