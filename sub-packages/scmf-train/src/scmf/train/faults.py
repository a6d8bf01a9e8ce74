"""What a run does when something goes wrong. In: the section `trainer.faults`, and what each step did.
Out: go on, roll back, or stop with a report. Arithmetic only: every rank counts the same and decides the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Self

from pydantic import Field

from scmf.core.config import Config
from scmf.core.errors import TrainingError


class FaultsConfig(Config):
    """When a run skips, rolls back, or stops. docs/faults.md tells what happens in each case."""

    bad_steps: Annotated[int, Field(ge=1, le=1_000_000)] = 3
    """Steps in a row left out, because loss or gradient was not finite, before the run rolls back."""
    rollbacks: Annotated[int, Field(ge=0, le=1_000_000)] = 2
    """Times that a run goes back to its last good checkpoint and past the data; the next occasion stops it."""
    bad_cells: Annotated[int, Field(ge=0)] = 100
    """Cells that could not be read and were replaced by others, over the whole run, before it stops."""
    failed_saves: Annotated[int, Field(ge=1, le=1_000_000)] = 3
    """Checkpoints in a row that could not be written before the run stops; the last save of a run has to succeed."""
    hang_seconds: Annotated[float, Field(ge=1.0, le=604_800.0)] | None = 1800.0
    """Time without a finished step after which a rank prints where it stands and the run stops; null waits for ever."""
    probe_memory: bool | Literal["auto"] = "auto"
    """Try the largest microbatch before the first step, and halve it until it fits. auto: on a GPU, not on a CPU."""


@dataclass(frozen=True, slots=True)
class Tally:
    """Faults of a run so far; part of every checkpoint, so that a resumed run goes on counting."""

    bad_in_a_row: int = 0
    """Steps left out since the last good one."""
    skipped_steps: int = 0
    """Steps left out, those of rolled-back stretches included."""
    skipped_cells: tuple[tuple[int, int], ...] = ()
    """One entry a rollback: data positions [from, to) in cells whose training was undone or left out."""
    bad_cells: int = 0
    """Cells replaced in the loader, over all replicas; those of rolled-back stretches included."""

    @classmethod
    def of(cls, record: dict[str, Any]) -> Self:
        """The tally of a checkpoint's record.

        Raises:
            TypeError: it has other fields.
        """
        ranges = tuple((int(start), int(stop)) for start, stop in record.get("skipped_cells", ()))
        return cls(**{**record, "skipped_cells": ranges})

    @property
    def rollbacks(self) -> int:
        """Rollbacks so far."""
        return len(self.skipped_cells)

    def after_step(self, *, good: bool) -> Tally:
        """With one more step, which was taken or left out."""
        if good:
            return replace(self, bad_in_a_row=0)
        return replace(self, bad_in_a_row=self.bad_in_a_row + 1, skipped_steps=self.skipped_steps + 1)

    def after_rollback(self, start: int, stop: int) -> Tally:
        """With one more rollback, past the data positions [start, stop)."""
        return replace(self, bad_in_a_row=0, skipped_cells=(*self.skipped_cells, (start, stop)))

    def with_bad_cells(self, count: int) -> Tally:
        """With so many more cells replaced."""
        return replace(self, bad_cells=self.bad_cells + count)

    def numbers(self) -> dict[str, float]:
        """For metrics.jsonl."""
        return {
            "faults/skipped_steps": self.skipped_steps,
            "faults/rollbacks": self.rollbacks,
            "faults/bad_cells": self.bad_cells,
        }


def must_roll_back(tally: Tally, config: FaultsConfig, *, step: int, loss: float) -> bool:
    """Whether the run has to go back to its last good checkpoint.

    Args:
        tally: after the step.
        config: the limits.
        step: done or left out, from 1; for the report.
        loss: of the last step, nats a target.

    Raises:
        TrainingError: it has to, and has done so as often as it may.
    """
    if tally.bad_in_a_row < config.bad_steps:
        return False
    if tally.rollbacks >= config.rollbacks:
        raise TrainingError(_report(tally, loss), where=f"step {step}", fix=_MEND)
    return True


def refuse_bad_cells(tally: Tally, config: FaultsConfig, *, step: int) -> None:
    """Stop where too many cells could not be read.

    Raises:
        TrainingError: more than `trainer.faults.bad_cells`.
    """
    if tally.bad_cells > config.bad_cells:
        raise TrainingError(
            f"{tally.bad_cells:,} cells could not be read and were replaced; trainer.faults.bad_cells allows "
            f"{config.bad_cells:,}",
            where=f"step {step}; log.txt names the cells",
            fix="scmf-store verify STORE, restore what it names and go on with --resume auto; or raise "
            "trainer.faults.bad_cells",
        )


_MEND = (
    "--resume auto with a lower trainer.optimizer.lr or a smaller trainer.optimizer.clip; where the data is at fault, "
    "a higher trainer.faults.rollbacks skips on"
)


def _report(tally: Tally, loss: float) -> str:
    past = "; ".join(f"cells {start:,} to {stop:,}" for start, stop in tally.skipped_cells)
    return (
        f"loss or gradient was not finite {tally.bad_in_a_row} steps in a row (the last loss was {loss}), after "
        f"{tally.rollbacks} rollbacks{f' past {past}' if past else ''} and {tally.skipped_steps} steps left out"
    )
