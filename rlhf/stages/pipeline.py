"""All stages on one base: what is done already is skipped, what depends on a change runs again."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from filelock import FileLock, Timeout

from rlhf.config import Config, dump
from rlhf.data.encoding import Encoder
from rlhf.data.sources import resolve_model
from rlhf.errors import ArtifactError, ConfigError
from rlhf.model import plain_load
from rlhf.model.base import SharedBase
from rlhf.model.loading import identify, load_tokenizer, source_folder
from rlhf.report.html import write_report
from rlhf.stages import active, evaluate, export, labels, ppo, reward, sample, sft
from rlhf.stages.manifest import ORDER, Manifest, Plan
from rlhf.stages.preflight import check, check_lengths
from rlhf.stages.quiet import quiet_libraries
from rlhf.stages.summary import closing_lines, write_summary
from rlhf.stages.tracking import Tracker


@dataclass(frozen=True)
class _Stage:
    plan: Callable[[Config], Plan]
    run: Callable[[Config, SharedBase, Tracker], dict[str, Any]]


STAGES = {
    "sft": _Stage(sft.plan, sft.run),
    "reward": _Stage(reward.plan, reward.run),
    "gold": _Stage(lambda c: reward.plan(c, "gold"), lambda c, b, t: reward.run(c, b, t, "gold")),
    "ppo": _Stage(ppo.plan, ppo.run),
    "evaluate": _Stage(evaluate.plan, evaluate.run),
    "export": _Stage(export.plan, export.run),
    "sample": _Stage(sample.plan, sample.run),
    "active": _Stage(active.plan, active.run),
}
# After these the waiting tasks are ordered anew, where the store's project is in active order: the reward model knows
# more, or tasks have come.
REORDERS = ("reward", "sample")


def run(config: Config, stages: Sequence[str] | None = None, force: bool = False) -> dict[str, Any]:
    """Run the named stages (default: all that the config has), in order, on one base loaded once; returns the summary.

    A stage whose config, inputs and parents are as they were, and whose outputs are still there, is skipped unless
    `force` is set.

    Raises:
        RLHFError: anything that a person can mend; what was finished before it stays.
    """
    usual = [s for s in ORDER if s != "active" and (s != "gold" or config.gold)]  # `active` comes by itself
    wanted = [s for s in ORDER if s in stages] if stages else usual
    if "gold" in wanted and config.gold is None:
        raise ConfigError("gold: this config has no gold section; add one, or train reward")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("several processes were started; the commands run in one (start them without a launcher)")
    folder = source_folder(config.model.name, resolve_model(config.model.name))
    identity = identify(config.model.name, folder, config.model.quantization)
    recorded = Manifest(config.run_path, config.seed, identity.source_sha256).sound()
    check(config, wanted, recorded, identity.source_sha256)
    check_lengths(config, wanted, Encoder(load_tokenizer(folder)))
    with _run_directory(config), quiet_libraries(), Tracker(config.run_path) as tracker:
        (config.run_path / "config.yaml").write_text(dump(config), encoding="utf-8")
        manifest = Manifest(config.run_path, config.seed, identity.source_sha256)
        return _run_all(config, wanted, force, manifest, tracker)


@contextmanager
def _run_directory(config: Config) -> Iterator[None]:
    """Make the run directory, and keep others out of it while this run is at work."""
    try:
        config.run_path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(config.run_path / ".lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise ArtifactError(
            f"{config.run_path}: another run is at work here; wait for it, or choose another run_dir"
        ) from None
    except OSError as error:
        raise ArtifactError(f"run_dir: {config.run_path} cannot be written to ({error}); choose another") from None
    with lock:
        yield


def _run_all(config: Config, wanted: list[str], force: bool, manifest: Manifest, tracker: Tracker) -> dict[str, Any]:
    if rewards := tuple(s for s in wanted if s in ("reward", "gold")):
        for batch, counts in labels.run(config, rewards).items():
            tracker.say(f"labels: {counts['rankings']} rankings from {counts['source']} are in batch {batch!r}")
            if counts["others"]:
                tracker.say(
                    f"labels: batch {batch!r} holds {counts['others']} more, which {counts['source']} does not; they "
                    "count too. A batch of another name would leave them out"
                )
    base: SharedBase | None = None
    ahead = list(wanted)
    while ahead:
        name = ahead.pop(0)
        plan = STAGES[name].plan(config)
        if not force and manifest.is_done(plan):
            tracker.say(f"{name}: unchanged, skipped")
            continue
        if missing := manifest.missing(plan):
            raise ArtifactError(
                f"{name}: {missing[0]!r} is not on this run's record, or was made from what has changed since; "
                f"run `rlhf {missing[0]}` first, or `rlhf run`"
            )
        if base is None:
            clock = time.monotonic()
            base = _load_base(config, tracker)
            manifest.base_seconds = time.monotonic() - clock
        _run_one(name, plan, config, base, manifest, tracker)
        if name in REORDERS and "active" not in ahead and active.wanted(config) and "reward" in manifest.sound():
            ahead.insert(0, "active")
    summary = write_summary(config.run_path, manifest)
    report = write_report(config.run_path)
    for line in closing_lines(config.store_url, summary):
        tracker.say(line)
    tracker.say(f"report: {report}")
    return summary


def _run_one(name: str, plan: Plan, config: Config, base: SharedBase, manifest: Manifest, tracker: Tracker) -> None:
    """Run one stage; the base must come out of it as it went in."""
    manifest.forget(name)
    started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    before = base.sha256()
    result = STAGES[name].run(config, base, tracker)
    after = base.sha256()
    if after != before:
        raise ArtifactError(
            f"{name}: the frozen base changed while it ran ({before[:12]} to {after[:12]}); its results are void"
        )
    seconds = time.monotonic() - clock
    peak = max(plain_load.peak_rss_mib(), result.get("peak_rss_mib", 0.0))
    result |= {"base_sha256_before": before, "base_sha256_after": after, "peak_rss_mib": peak}
    manifest.record(plan, started=started, seconds=seconds, result=result)
    _give_back_memory()
    write_summary(config.run_path, manifest)
    tracker.say(f"{name}: done in {seconds:.0f} s")


def _give_back_memory() -> None:
    """Return what the stage freed to the system: the C library keeps it, and export's second process needs it."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:  # glibc alone has it
        trim(0)


def _load_base(config: Config, tracker: Tracker) -> SharedBase:
    clock = time.monotonic()
    base = SharedBase.load(config.model, config.seed)
    tracker.say(
        f"base: {config.model.name} in {config.model.quantization} on {base.device}, "
        f"loaded once in {time.monotonic() - clock:.0f} s for all stages"
    )
    return base
