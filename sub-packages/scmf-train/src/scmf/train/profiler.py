"""Steps of which every operation is timed. In: `trainer.profile`. Out: a Chrome trace a rank and a table, or marks for
NVIDIA's profiler.

Phases of the step (scmf.train.phases) are ranges in both, so that a kernel can be told by what it is for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from scmf.core.errors import MachineError
from scmf.model.device import capture_for_profiler, named_range
from scmf.train.console import Console
from scmf.train.log_config import ProfileConfig
from scmf.train.phases import Clock
from scmf.train.world import World

_ROWS = 10


def refuse_profile(config: ProfileConfig | None, device: torch.device) -> None:
    """What only a GPU has is not pretended on a CPU.

    Raises:
        MachineError: nsys is asked for without a GPU.
    """
    if config is not None and config.tool == "nsys" and device.type != "cuda":
        raise MachineError(
            "trainer.profile.tool=nsys marks steps for NVIDIA's profiler of GPUs, and this run computes on a CPU",
            where="trainer.profile.tool",
            fix="add trainer.profile.tool=torch, which writes a Chrome trace on any machine",
        )


class Profiler:
    """Begins and ends the recording on the ranks that were asked for; does nothing on others.

    Args:
        config: of the run; None records nothing.
        folder: that traces go to; made when there is one.
        world: this rank's number and device.
        clock: whose phases become ranges while it records.
    """

    def __init__(self, config: ProfileConfig | None, *, folder: Path, world: World, clock: Clock) -> None:
        self._config = config if config is not None and world.rank in config.ranks else None
        self._folder = folder
        self._rank = world.rank
        self._device = world.device
        self._clock = clock
        self._trace: profile | None = None
        self._marks = False
        self._before = clock.ranges
        self._last = 0
        self._recorded = False

    def before(self, step: int) -> None:
        """Begin, where this step is the first to record.

        Args:
            step: that is about to be taken, from 1.
        """
        # After a rollback the first step can come a second time.
        if self._config is None or step != self._config.start or self._recorded:
            return
        self._last, self._recorded = step + self._config.steps - 1, True
        if self._config.tool == "nsys":
            self._marks, self._clock.ranges = True, named_range
            capture_for_profiler(on=True)
            return
        self._clock.ranges = _recorded
        # The library underneath writes two lines of its own to stderr otherwise.
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")
        self._trace = profile(activities=_activities(self._device))
        self._trace.start()

    def after(self, step: int, console: Console) -> None:
        """End, where this step was the last to record: write the trace and say what took longest.

        Args:
            step: that has been taken, from 1.
            console: of this rank.
        """
        if step == self._last:
            self.end(console)

    def end(self, console: Console) -> None:
        """End now, where something is recorded: a run that stops early leaves what it has."""
        self._clock.ranges = self._before
        if self._marks:
            self._marks = False
            capture_for_profiler(on=False)
        if self._trace is not None:
            trace, self._trace = self._trace, None
            trace.stop()
            self._leave(trace, console)
        if self._config is not None and not self._recorded:
            console.warn(
                f"nothing was profiled: this start has not come by step {self._config.start:,} (trainer.profile.start)"
            )

    def _leave(self, trace: profile, console: Console) -> None:
        path = self._folder / f"rank_{self._rank}.json"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            trace.export_chrome_trace(str(path))
        except (OSError, RuntimeError) as error:  # a profile is worth less than the run
            console.warn(f"the profile of {self._rank_and_steps()} is not in {path}: {error}")
            return
        console.say(f"profile of {self._rank_and_steps()} in {path}; open it in https://ui.perfetto.dev", level=0)
        for line in table(trace, on_gpu=self._device.type == "cuda"):
            console.say(line, level=0)

    def _rank_and_steps(self) -> str:
        steps = 0 if self._config is None else self._config.steps
        return f"rank {self._rank}, steps {self._last - steps + 1:,} to {self._last:,},"


@contextmanager
def _recorded(name: str) -> Iterator[None]:
    with record_function(name):
        yield


def _activities(device: torch.device) -> list[ProfilerActivity]:
    host = [ProfilerActivity.CPU]
    return [*host, ProfilerActivity.CUDA] if device.type == "cuda" else host


def table(trace: profile, *, on_gpu: bool) -> list[str]:
    """The operations that took most time by themselves, one line each under a heading.

    Args:
        trace: stopped.
        on_gpu: rank by the device's time, not the host's.
    """
    key = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    found: list[Any] = sorted(trace.key_averages(), key=lambda event: getattr(event, key), reverse=True)
    whole = sum(getattr(event, key) for event in found) or 1.0
    lines = [f"{'operation':<48} {'calls':>8} {'ms':>10} {'share':>7}"]
    for event in found[:_ROWS]:
        spent = getattr(event, key)
        name = event.key if len(event.key) <= 48 else event.key[:45] + "..."
        lines.append(f"{name:<48} {event.count:>8,} {spent / 1e3:>10.2f} {spent / whole:>7.1%}")
    return lines
