"""`rlhf doctor`: what this machine can do, and whether a config fits on it. Looks, and changes nothing."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import psutil
import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rlhf import __version__
from rlhf.config import Config
from rlhf.errors import RLHFError
from rlhf.model import memory

PACKAGES = ("torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate", "datasets", "streamlit")
TIGHT = 0.9  # above this share of the memory a run may still fail, from fragmentation or a neighbour
LOW_DISK_GIB = 5.0
NF4_TOLERANCE = 0.15  # of the largest weight: half of NF4's widest gap between two levels
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


class Verdict(StrEnum):
    """How a check came out; only `fault` makes the exit code 2."""

    FINE = "ok"
    NOTE = "note"
    FAULT = "fault"


STYLES = {Verdict.FINE: "green", Verdict.NOTE: "yellow", Verdict.FAULT: "bold red"}


@dataclass(frozen=True)
class Check:
    """One line of the table."""

    what: str
    verdict: Verdict
    found: str


def run(config: Config | None, console: Console | None = None) -> int:
    """Print every check; with a config also its predicted memory. Returns 2 if anything is at fault, else 0."""
    console = console or Console()
    checks = list(_machine())
    if config is not None:
        checks.append(check_store(config.store_url))
        checks.append(check_disk(config.run_path))
    table = Table("check", "", "found", title=f"rlhf-toolkit {__version__}", title_justify="left")
    for check in checks:
        table.add_row(check.what, Text(check.verdict.value, style=STYLES[check.verdict]), Text(check.found))
    console.print(table)
    if config is not None:
        fits = _memory_table(config, console)
        checks.append(fits)
        console.print(Text(f"{fits.what}: {fits.verdict.value}, {fits.found}", style=STYLES[fits.verdict]))
    return 2 if any(check.verdict is Verdict.FAULT for check in checks) else 0


def _machine() -> Iterator[Check]:
    yield Check("Python", Verdict.FINE, f"{platform.python_version()} on {platform.platform(terse=True)}")
    yield check_packages()
    yield check_device()
    yield check_bf16()
    yield check_nf4()
    yield check_cpu_kernel()
    yield check_ram()
    yield check_disk(Path.cwd())
    yield check_browser()


def check_packages() -> Check:
    """The versions that a bug report needs."""
    versions, missing = [], []
    for name in PACKAGES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        return Check("packages", Verdict.FAULT, f"missing: {', '.join(missing)}; install rlhf-toolkit again")
    return Check("packages", Verdict.FINE, ", ".join(versions))


def check_device() -> Check:
    """Which device `model.device: auto` takes."""
    if torch.cuda.is_available():
        gpus = [(i, torch.cuda.get_device_properties(i)) for i in range(torch.cuda.device_count())]
        names = [f"cuda:{i} {gpu.name} ({gpu.total_memory / memory.GIB:.1f} GiB)" for i, gpu in gpus]
        return Check("device", Verdict.FINE, ", ".join(names))
    cores = os.cpu_count() or 1
    return Check("device", Verdict.FINE, f"CPU, {cores} cores, {torch.get_num_threads()} torch threads; no CUDA device")


def check_bf16() -> Check:
    """Whether `compute_dtype: bf16` has hardware behind it."""
    if torch.cuda.is_available():
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
        where = "GPU"
    else:
        flags = _cpu_flags()
        fast = bool({"avx512_bf16", "amx_bf16", "bf16"} & flags)
        where = "CPU"
    if fast:
        return Check("bf16", Verdict.FINE, f"supported by the {where}")
    return Check("bf16", Verdict.NOTE, f"this {where} has no bf16 instructions; compute_dtype: fp32 may be faster")


def check_nf4() -> Check:
    """Quantize a small layer to NF4, and run it forward and backward: what every quantized stage relies on."""
    try:
        error = nf4_round_trip("cuda" if torch.cuda.is_available() else "cpu")
    except Exception as fault:  # bitsandbytes' failures are of every kind; here each is a finding, not a crash
        reason = (str(fault).strip().splitlines() or [type(fault).__name__])[0]
        return Check("NF4", Verdict.FAULT, f"bitsandbytes cannot quantize here ({reason}); use quantization: bf16")
    if error > NF4_TOLERANCE:
        return Check("NF4", Verdict.FAULT, f"a round trip is off by {error:.2f} of the largest weight; use bf16")
    return Check("NF4", Verdict.FINE, f"round trip within {error:.2f} of the largest weight, with gradients")


def nf4_round_trip(device: str) -> float:
    """Largest weight error after NF4 and back, as a share of the largest weight.

    Raises RuntimeError if no gradient passes through the quantized layer.
    """
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of an optional kernel that nobody asked for
    import bitsandbytes as bnb

    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(64, 64, generator=generator)
    packed, state = bnb.functional.quantize_4bit(weight.to(device), quant_type="nf4", blocksize=64)
    back = bnb.functional.dequantize_4bit(packed, state).float().cpu()
    inputs = torch.ones(1, 64, device=device, requires_grad=True)
    (gradient,) = torch.autograd.grad(bnb.matmul_4bit(inputs, packed.t(), quant_state=state).sum(), inputs)
    if not torch.isfinite(gradient).all() or not gradient.any():
        raise RuntimeError("no gradient passes through a 4-bit layer")
    return float((back - weight).abs().max() / weight.abs().max())


def check_cpu_kernel() -> Check:
    """The 4-bit evaluation kernel that has no gradients; SharedBase keeps every layer off it."""
    import bitsandbytes.functional as kernels

    present = getattr(kernels, "has_avx512bf16", lambda: False)()
    if not present or torch.cuda.is_available():
        return Check("4-bit CPU kernel", Verdict.FINE, "the one with gradients")
    return Check(
        "4-bit CPU kernel",
        Verdict.NOTE,
        "AVX512-BF16: bitsandbytes would repack weights and lose gradients; the toolkit switches that off itself, "
        "your own scripts must set support_avx512bf16_for_cpu = False on every Linear4bit",
    )


def check_ram() -> Check:
    """Main memory."""
    ram = psutil.virtual_memory()
    found = f"{ram.total / memory.GIB:.1f} GiB, {ram.available / memory.GIB:.1f} GiB available"
    return Check("RAM", Verdict.FINE if ram.available > 2 * memory.GIB else Verdict.NOTE, found)


def check_disk(folder: Path) -> Check:
    """Room where a run will be written."""
    place = folder.resolve()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / memory.GIB
    enough = free >= LOW_DISK_GIB
    found = f"{free:.1f} GiB free at {place}"
    return Check(
        "disk", Verdict.FINE if enough else Verdict.NOTE, found if enough else f"{found}: little for checkpoints"
    )


def check_browser() -> Check:
    """Chromium: only the browser tests need it."""
    found = next((path for name in CHROMIUM if (path := shutil.which(name))), None)
    if found:
        return Check("Chromium", Verdict.FINE, found)
    return Check("Chromium", Verdict.NOTE, "not found; only the labeling app's browser tests need it")


def check_store(url: str) -> Check:
    """Whether the config's label store opens; one that does not exist yet is no fault."""
    from rlhf.preferences import LabelStore

    if "://" not in url and not Path(url).exists():
        return Check("label store", Verdict.FINE, f"{url}: not made yet; importing or sampling makes it")
    try:
        with LabelStore.open(url) as store:
            counts = store.counts()
            return Check("label store", Verdict.FINE, f"{store.name}: {counts.rankings} rankings, {counts.tasks} tasks")
    except RLHFError as error:
        return Check("label store", Verdict.FAULT, str(error))


def _cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:  # no Linux
        return {"bf16"} if sys.platform == "darwin" and platform.machine() == "arm64" else set()
    return {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split(":", 1)[1].split()}


# --- the config's memory -----------------------------------------------------------------------------------------


def model_config(name: str) -> Any:
    """The transformers config of a base, without its weights: known, from a folder, or from the hub.

    Raises OSError or ValueError where it cannot be had.
    """
    from transformers import AutoConfig, LlamaConfig

    if name == "builtin:smollm2-135m":
        return LlamaConfig(**memory.SMOLLM2_135M)
    return AutoConfig.from_pretrained(name)


def _memory_table(config: Config, console: Console, load: Callable[[str], Any] = model_config) -> Check:
    what = "memory"
    try:
        shape = memory.shape_of(load(config.model.name), config.model.lora)
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return Check(what, Verdict.NOTE, f"unknown: {config.model.name}'s config could not be had ({reason})")
    cpu = config.model.device == "cpu" or not torch.cuda.is_available()
    stages = memory.predict(config, shape, cpu=cpu)
    title = f"{config.model.name}: {shape.parameters / 1e9:.2f} B parameters; predicted peak in GiB"
    table = Table("stage", "weights", "adapters", "working", "overhead", "total", title=title, title_justify="left")
    for stage in stages:
        numbers = (stage.weights, stage.adapters, stage.working, stage.overhead, stage.total)
        table.add_row(stage.stage, *(f"{number:.2f}" for number in numbers))
    console.print(table)
    if config.model.device.startswith("cuda") and cpu:
        return Check(
            what, Verdict.FAULT, f"model.device is {config.model.device!r}, but torch sees no CUDA device here"
        )
    return judge_memory(memory.peak(stages), available_gib(config.model.device, cpu), "RAM" if cpu else "GPU memory")


def available_gib(device: str, cpu: bool) -> float:
    """Memory that a run can have: what RAM is free now, or the GPU's whole."""
    if cpu:
        return float(psutil.virtual_memory().available) / memory.GIB
    index = int(device.partition(":")[2] or 0)
    return float(torch.cuda.get_device_properties(index).total_memory) / memory.GIB


def judge_memory(worst: memory.StageMemory, available: float, kind: str) -> Check:
    """Whether the stage that needs most fits, for sequences as long as `model.max_length`."""
    found = f"{worst.stage} needs up to {worst.total:.1f} GiB of {available:.1f} GiB {kind}"
    if worst.total <= TIGHT * available:
        return Check("memory", Verdict.FINE, f"{found}: it fits")
    ways = "lower max_length or micro_batch_size, or set gradient_checkpointing"
    if worst.total <= available:
        return Check("memory", Verdict.NOTE, f"{found}: tight; {ways}")
    return Check("memory", Verdict.FAULT, f"{found}: it does not fit with texts of max_length; {ways}")
