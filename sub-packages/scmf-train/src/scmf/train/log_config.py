"""What is written while a run goes on: `trainer.log` and `trainer.profile`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from scmf.core.config import Config
from scmf.core.config_fault import Fault

Steps = Annotated[int, Field(ge=1, le=1_000_000_000)]
Name = Annotated[str, Field(min_length=1, max_length=128)]


class WandbConfig(Config):
    """Where Weights & Biases gets the metrics."""

    project: Name = "scmf"
    """Project that the run is listed in."""
    name: Name | None = None
    """Of the run; null lets W&B name it."""
    mode: Literal["offline", "online"] = "offline"
    """offline writes wandb/ in the run directory and sends nothing, without a login; online sends as it goes."""
    entity: Name | None = None
    """User or team; null is the login's own."""
    group: Name | None = None
    """Runs that are shown together."""
    tags: tuple[Name, ...] = ()
    """Words to find the run by."""

    def faults(self) -> Iterator[Fault]:
        """What W&B refuses in the name of a project, in the middle of a start."""
        yield from super().faults()
        bad = [letter for letter in "/\\#?%:" if letter in self.project]
        if bad:
            yield Fault(
                "project",
                f"trainer.log.wandb.project={self.project} has {' '.join(bad)}, which W&B takes in no project's name",
                "use letters, digits, '-' and '_'",
            )


class LogConfig(Config):
    """What is written while the run goes on."""

    every: Steps = 10
    """Steps between lines of metrics.jsonl and of the console."""
    verbosity: Literal[0, 1, 2] = 1
    """On the screen: 0 warnings, errors and the end; 1 a line an interval too; 2 details. log.txt has everything."""
    tensorboard: bool = False
    """Mirror the metrics to TensorBoard event files in the run directory."""
    wandb: WandbConfig | None = None
    """Mirror the metrics to Weights & Biases, offline unless asked; null does not."""
    loss_decay: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.98
    """Share of train/loss_ema that every step keeps; 0.98 averages about the last 50 steps."""
    peak_tflops: Annotated[float, Field(gt=0.0, le=1e6)] | None = None
    """Dense peak of one device, TFLOP/s, to take speed/mfu from; null looks the chip up (docs/watching.md)."""
    memory_history: bool = False
    """Record what a GPU's memory is taken for, and write it to the run directory when memory runs out."""
    cell_ids: bool = False
    """Write the ids of every step's cells to cells.jsonl: proof of what a resumed run has seen."""


class ProfileConfig(Config):
    """Steps of which every operation is timed."""

    tool: Literal["torch", "nsys"] = "torch"
    """torch writes a Chrome trace and a table; nsys marks the steps for NVIDIA's profiler, which starts the run."""
    start: Annotated[int, Field(ge=2, le=1_000_000_000)] = 10
    """First step; later ones are less disturbed by what the first steps compile and allocate."""
    steps: Annotated[int, Field(ge=1, le=1_000)] = 3
    """How many, in a row; a trace of a step can take 100 MB."""
    ranks: Annotated[tuple[Annotated[int, Field(ge=0, le=65_535)], ...], Field(min_length=1)] = (0,)
    """Which ranks."""
