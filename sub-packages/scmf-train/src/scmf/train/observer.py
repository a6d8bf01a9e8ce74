"""What a class that watches a run is told, and what it may answer. For the user's own code; the engine needs none.

A class named in `trainer.observers` has some of the methods of `Observer`; it may be derived from it, and need not be.
Every argument is frozen, and its numbers are already those of all ranks together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, Protocol

Ending = Literal["max_steps", "early_stop", "observer", "signal", "fault"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Where a run stands."""

    step: int
    """Optimizer steps done."""
    max_steps: int
    """Of the whole run."""
    cells_seen: int
    """Cells drawn so far, all ranks together."""
    epoch: float
    """Passes over the training cells so far."""
    directory: Path
    """The run directory."""
    rank: int
    """That this observer lives on: 0, unless its class says `every_rank = True`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepEvent(Event):
    """One optimizer step has been done, or left out."""

    loss: float
    """Of this step, as `train/loss`; may be NaN or infinite where the step was left out."""
    grad_norm: float | None
    """L2 norm before clipping; None where the step was left out."""
    lr: float
    """Learning rate of this step."""
    cells: int
    """Of this step, all ranks together."""
    tokens: int
    """The same in real tokens."""
    seconds: float
    """Wall time of the step on this rank, without waiting for data."""
    logged: bool
    """Whether metrics.jsonl gets a line for this step anyway: every `trainer.log.every` steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationEvent(Event):
    """Held-out losses have been taken."""

    numbers: Mapping[str, float]
    """As metrics.jsonl has them: `val/loss`, and what else the configuration asks for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointEvent(Event):
    """A checkpoint is whole and on disk. It may be of an earlier step than the run is at by now."""

    saved_step: int
    """Step of the checkpoint."""
    path: Path
    """Its folder."""
    seconds: float
    """From the begin of the save to its end."""
    bytes: int
    """Of all its files; 0 on ranks other than the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndEvent(Event):
    """The run has ended and has saved; nothing comes after."""

    reason: Ending
    """max_steps, early_stop, observer (one has asked for it), signal, or fault (a record could not be written)."""


@dataclass(frozen=True, slots=True)
class Stop:
    """An answer that ends the run after the present step: it saves, and exits with code 0."""

    why: str
    """Goes into the log and run.json."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Numbers to write as well."""


Answer = Mapping[str, float] | Stop | None
"""Numbers for metrics.jsonl, where NAME becomes `user/NAME`; a wish to end; or nothing."""


class Observer(Protocol):
    """A class that watches a run; it is made once, with the `settings` of its entry as keyword arguments.

    Of these methods it has those that it wants. They are called in the run's own thread, so the run waits for them.
    """

    every_rank: ClassVar[bool] = False
    """Live on every rank; false: on the first one only. Numbers for metrics.jsonl are taken from the first."""

    def on_step(self, report: StepEvent) -> Answer:
        """After every optimizer step, before a validation or a checkpoint that is due at it."""

    def on_validation(self, report: ValidationEvent) -> Answer:
        """After every validation."""

    def on_checkpoint(self, report: CheckpointEvent) -> Answer:
        """After a checkpoint is whole; with `trainer.checkpoint.background` some steps later."""

    def on_end(self, report: EndEvent) -> Answer:
        """Once, after the last checkpoint."""
