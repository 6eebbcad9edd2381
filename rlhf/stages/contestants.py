"""Who takes part in an arena: the run's own adapters, the raw base, other runs' adapters, files of completions."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlhf.config import Config, SampleSection
from rlhf.data.cache import sha256_of
from rlhf.data.readers import READERS
from rlhf.data.records import Prompt, prompt_key
from rlhf.data.sources import load_demonstrations, load_prompts, source_fingerprint
from rlhf.errors import ArtifactError, DataError
from rlhf.model.adapters import CONFIG, WEIGHTS, load_adapter, read_record
from rlhf.model.base import SharedBase
from rlhf.model.folders import recover
from rlhf.model.loading import BaseIdentity
from rlhf.ppo.roles import POLICY, REFERENCE
from rlhf.preferences import intake
from rlhf.stages.common import need_adapter

WRITERS = {REFERENCE: "sft", POLICY: "ppo"}  # the run's own, and the stages that write them
BASE = "base"


def own_adapters(section: SampleSection) -> tuple[str, ...]:
    """Those of the run's adapters that take part."""
    return tuple(what for what in section.contestants.values() if what in WRITERS)


def fingerprints(section: SampleSection) -> dict[str, str]:
    """Of what takes part from outside the run, by its path: adapters' weights, files of completions."""
    files = {f"contestant {file}": source_fingerprint(file) for file in _files(section).values()}
    for folder in _folders(section).values():
        _base_of(folder)  # says what is missing
        files[f"contestant {folder}"] = sha256_of(folder / WEIGHTS)
    return files


def check(config: Config, source_sha256: str) -> None:
    """Before anything runs: names that the store takes, adapters of this very base, prompts that the files answer.

    `source_sha256` is of the base's source weights.

    Raises:
        RLHFError: the first fault found, in one line.
    """
    for name in config.sample.contestants:
        intake.check_name(name, "sample.against", intake.LINE_LENGTH)
    here = BaseIdentity(config.model.name, source_sha256, config.model.quantization)
    for folder in _folders(config.sample).values():
        theirs = _base_of(folder)
        if not theirs.same_weights(here):
            raise ArtifactError(
                f"sample.against: {folder} was trained on {theirs.name} ({theirs.quantization}, sha256 "
                f"{theirs.source_sha256[:12]}), but the base here is {here.name} ({here.quantization}, sha256 "
                f"{here.source_sha256[:12]}); name adapters of this base, or a file of its completions"
            )
    if config.sample.against:
        held_out = load_prompts(config.data.prompts or "", "eval", eval_fraction=config.data.eval_fraction)
        for prompt in answered(config, held_out):
            intake.check_group(prompt.group, f"{config.data.prompts}, a held-out prompt")


def answered(config: Config, prompts: list[Prompt]) -> list[Prompt]:
    """The held-out prompts that every contestant that is a file has answered; DataError if they are too few."""
    known = [set(texts) for texts in files_of(config.sample).values()]
    kept = [p for p in prompts if all(prompt_key(p.prompt) in texts for texts in known)]
    if len(kept) < config.sample.prompts:
        too = f", of which {len(kept)} are answered by {' and '.join(_files(config.sample).values())}" if known else ""
        raise DataError(
            f"{config.data.prompts}: holds {len(prompts)} held-out prompts{too}; sample.prompts asks for "
            f"{config.sample.prompts}: ask for fewer, or raise data.eval_fraction"
        )
    return kept


def files_of(section: SampleSection) -> dict[str, dict[str, str]]:
    """What the contestants that are files wrote: by name, then by `prompt_key`; a prompt's first completion counts."""
    found: dict[str, dict[str, str]] = {}
    for name, file in _files(section).items():
        rows = load_demonstrations(file)
        found[name] = {prompt_key(row.prompt): row.completion for row in reversed(rows)}
    return found


@contextmanager
def on_base(config: Config, base: SharedBase, what: str) -> Iterator[str | None]:
    """Have this contestant on the base inside the block; gives the name to activate, None for the raw base."""
    if what in WRITERS:
        need_adapter(config, base, what)
        yield what
    elif what == BASE:
        yield None
    else:
        load_adapter(base, "contestant", _path(what))
        try:
            yield "contestant"
        finally:
            base.remove_adapter("contestant")


def _base_of(folder: Path) -> BaseIdentity:
    """Whose adapter lies there; ArtifactError for a folder without one, and for one that scores and does not write."""
    recover(folder)
    if not folder.is_dir():
        raise ArtifactError(
            f"sample.against: {str(folder)!r} is none of {', '.join((*WRITERS, BASE))}, and neither a folder nor a "
            f"file ({', '.join(READERS)}) that is there; check the path, which is relative to {Path.cwd()}"
        )
    record = read_record(folder)
    try:
        kind = json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("task_type")
    except (ValueError, AttributeError) as error:
        raise ArtifactError(f"{folder / CONFIG}: is not a PEFT adapter's config ({error}); save it again") from error
    if kind == "SEQ_CLS":
        raise ArtifactError(f"sample.against: {folder} is a reward model, which writes nothing; name a policy")
    return BaseIdentity(**record["base"])


def _files(section: SampleSection) -> dict[str, str]:
    return {name: what for name, what in section.contestants.items() if _is_file(what)}


def _folders(section: SampleSection) -> dict[str, Path]:
    words = (*WRITERS, BASE)
    return {n: _path(w) for n, w in section.contestants.items() if w not in words and not _is_file(w)}


def _is_file(what: str) -> bool:
    return os.path.splitext(what)[1].lower() in READERS and not _path(what).is_dir()


def _path(what: str) -> Path:
    return Path(what).expanduser()
