"""What a run is planned for. In: `--hardware`, or nothing for this machine. Out: memory, peak, devices. No torch."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
from dataclasses import dataclass
from typing import Literal

from scmf.core.errors import MachineError
from scmf.data.reading import memory_bytes
from scmf.train.config import MainConfig
from scmf.train.hardware import Hardware, find_hardware, recognise
from scmf.train.rules import check_world

THIS = "this"
Resolved = Literal["fp32", "bf16", "fp16", "fp8"]


@dataclass(frozen=True, slots=True)
class Target:
    """Devices of one kind, and how many of them a run has."""

    title: str
    gpu: bool
    memory: int
    """Bytes of one device; on a CPU, of the machine, shared by its ranks."""
    peak: float
    """Dense FLOP/s of one device in the run's precision; NaN where nobody knows it."""
    precision: Resolved
    devices: int
    """Of the whole run: ranks."""
    replicas: int
    here: bool
    """This machine, which can be measured."""


def choose_target(config: MainConfig, name: str) -> Target:
    """Resolve `--hardware` and every `auto` of the config.

    Args:
        config: with the devices and nodes that the run is planned for.
        name: of the hardware, or `this`.

    Raises:
        ConfigError: no such hardware, no such precision on it, or a layout that does not fit the devices.
    """
    here = name == THIS
    gpus = visible_gpus() if here else ()
    known = recognise(gpus[0][0]) if gpus else None if here else find_hardware(name)
    gpu = bool(gpus) or not here
    precision: Resolved = config.trainer.precision if config.trainer.precision != "auto" else "bf16" if gpu else "fp32"
    devices = config.trainer.world_size or max(1, len(gpus)) * config.trainer.nodes
    replicas = check_world(config, devices)
    ranks_a_node = max(1, devices // config.trainer.nodes)
    return Target(
        title=_title(known, gpus),
        gpu=gpu,
        memory=known.memory if known and not gpus else gpus[0][1] if gpus else memory_bytes() // ranks_a_node,
        peak=_peak(config, known, precision, here=here),
        precision=precision,
        devices=devices,
        replicas=replicas,
        here=here,
    )


def _peak(config: MainConfig, known: Hardware | None, precision: Resolved, *, here: bool) -> float:
    """Of this machine what the config says, if it says; else by datasheet; NaN where neither is known."""
    given = config.trainer.log.peak_tflops
    if here and given is not None:
        return given * 1e12
    return known.peak_of(precision) if known else math.nan


def _title(known: Hardware | None, gpus: tuple[tuple[str, int], ...]) -> str:
    if gpus:
        return gpus[0][0]
    return known.title if known else "CPU of this machine"


def visible_gpus() -> tuple[tuple[str, int], ...]:
    """Name and bytes of memory of each GPU that a run here may use, as the driver says; none without a driver.

    Raises:
        MachineError: a driver that does not answer.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "" or shutil.which("nvidia-smi") is None:
        return ()
    words = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout
        rows = [line.rpartition(",") for line in said.splitlines() if line.strip()]
        return _left_visible(tuple((name.strip(), int(mebibytes) * 2**20) for name, _, mebibytes in rows))
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise MachineError(
            f"nvidia-smi does not say which GPUs there are: {error}",
            where="this machine",
            fix="mend the driver, or plan for the CPU: CUDA_VISIBLE_DEVICES= scmf-plan ...; or name the GPU with "
            "--hardware",
        ) from error


def _left_visible(gpus: tuple[tuple[str, int], ...]) -> tuple[tuple[str, int], ...]:
    """Those that CUDA_VISIBLE_DEVICES leaves, which the driver does not heed; as CUDA, up to the first that is none.

    A GPU that is named by its UUID is taken for one like the first.
    """
    asked = os.environ.get("CUDA_VISIBLE_DEVICES")
    if asked is None:
        return gpus
    found = []
    for word in map(str.strip, asked.split(",")):
        number = int(word) if word.isdecimal() else 0 if word.startswith(("GPU-", "MIG-")) else len(gpus)
        if number >= len(gpus):
            break
        found.append(gpus[number])
    return tuple(found)
