"""What has been done since the last line of the log. In: steps. Out: rates and the line that a person reads."""

from __future__ import annotations

import math
import resource
import sys
from collections.abc import Mapping

import torch

from scmf.model.device import peak_memory
from scmf.train.console import describe_seconds
from scmf.train.engine import StepReport
from scmf.train.phases import PHASES, Clock
from scmf.train.utilisation import Meter


class Interval:
    """What was done since the last line of the log, and where the time went.

    Args:
        clock: of this rank; the interval begins now.
        meter: counts the FLOPs; None leaves the utilisation out.
    """

    def __init__(self, clock: Clock, meter: Meter | None) -> None:
        self._clock = clock
        self._meter = meter
        self._cells = self._tokens = self._kiloflops = 0
        clock.begin()

    def add(self, report: StepReport, *, kiloflops: int) -> None:
        """One step, and the FLOPs of all replicas."""
        self._cells += report.cells
        self._tokens += report.loss.tokens
        self._kiloflops += kiloflops

    def numbers(self) -> dict[str, float]:
        """Rates and times for metrics.jsonl; the next interval begins.

        Rates are per second of wall time without validation and saving, all ranks together, real tokens only.
        """
        seconds = self._clock.take()
        working = max(sum(seconds.values()) - seconds["validation"] - seconds["save"], 1e-9)
        rates = {
            "speed/cells_per_s": self._cells / working,
            "speed/tokens_per_s": self._tokens / working,
            "speed/data_wait": seconds["data_wait"] / working,
        }
        if self._meter is not None:
            rates["speed/mfu"] = self._meter.share(self._kiloflops, working)
        self._cells = self._tokens = self._kiloflops = 0
        return rates | {f"time/{name}": spent for name, spent in seconds.items()}


def step_line(step: int, total: int, numbers: Mapping[str, float], *, batch: int, noun: str) -> list[str]:
    """The parts of one line of the log.

    Args:
        step: done.
        total: of the run.
        numbers: of metrics.jsonl at this step.
        batch: cells a step.
        noun: what they are: cell, window or sequence.
    """
    parts = [f"step {step:,}/{total:,}"]
    if "train/loss" in numbers:
        left = (total - step) * batch / numbers["speed/cells_per_s"]
        skipped = math.isnan(numbers["train/grad_norm"])
        parts += [
            f"loss {numbers['train/loss']:.3f}",
            "left out: not finite" if skipped else f"|g| {numbers['train/grad_norm']:.2f}",
            f"lr {numbers['train/lr']:.1e}",
            f"{numbers['speed/cells_per_s']:.1f} {noun}s/s",
            f"{numbers['speed/tokens_per_s'] / 1e3:.1f}k tok/s",
            *([f"MFU {numbers['speed/mfu']:.1%}"] if "speed/mfu" in numbers else []),
            f"data wait {numbers['speed/data_wait']:.1%}",
            f"eta {describe_seconds(left)}",
        ]
    if "val/loss" in numbers:
        parts.append(f"val loss {numbers['val/loss']:.3f}")
        rates = {key: value for key, value in numbers.items() if key.startswith("val/") and key.endswith("/accuracy")}
        parts += [f"{key.replace('/', ' ')} {value:.1%}" for key, value in rates.items()]
    return parts


def time_line(numbers: Mapping[str, float]) -> str | None:
    """Where the interval's time went, largest part first; None where the numbers have no times.

    Args:
        numbers: of metrics.jsonl.
    """
    seconds = {name: numbers[f"time/{name}"] for name in PHASES if f"time/{name}" in numbers}
    whole = sum(seconds.values())
    if not whole:
        return None
    parts = sorted(((spent, name) for name, spent in seconds.items() if spent), reverse=True)
    return f"  time  {whole:.2f} s: " + ", ".join(f"{name.replace('_', ' ')} {s / whole:.1%}" for s, name in parts)


def peak_bytes(device: torch.device) -> dict[str, float]:
    """Most memory so far for metrics.jsonl: of this process, and of its GPU where there is one."""
    of_device = peak_memory(device)
    on_gpu = {"memory/gpu_peak_bytes": of_device} if of_device else {}
    return {"memory/peak_bytes": peak_resident_bytes(), **on_gpu}


def peak_resident_bytes() -> int:
    """Largest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
