"""What the validations of a run have decided. In: validation losses. Out: a lower rate, or an early end.

The numbers are part of every checkpoint, so that a resumed run goes on counting where it was cut.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from scmf.core.errors import ConfigError
from scmf.train.schedule import PlateauConfig
from scmf.train.trainer_config import TrainerConfig
from scmf.train.validation_config import EarlyStopConfig


@dataclass(frozen=True, slots=True)
class Stall:
    """How long a loss has not fallen."""

    best: float | None = None
    """The lowest so far."""
    validations: int = 0
    """Since then."""

    def after(self, loss: float, *, min_delta: float) -> Stall:
        """With one more validation; a loss that is not finite is no progress."""
        if math.isfinite(loss) and (self.best is None or loss < self.best - min_delta):
            return Stall(loss, 0)
        return Stall(self.best, self.validations + 1)


@dataclass(frozen=True, slots=True)
class Stalls:
    """What has been counted for early stopping and for the plateau schedule."""

    stop: Stall = Stall()
    plateau: Stall = Stall()
    reductions: int = 0
    """Times that the plateau schedule has lowered the rate."""
    cooldown: int = 0
    """Validations that it still leaves out."""

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Self:
        """The numbers of a checkpoint's record.

        Raises:
            TypeError: it has other fields.
        """
        inner = {key: Stall(**record[key]) for key in ("stop", "plateau") if key in record}
        return cls(**{**record, **inner})

    def after_validation(self, numbers: Mapping[str, float], trainer: TrainerConfig) -> Stalls:
        """With one more validation.

        Args:
            numbers: of metrics.jsonl.
            trainer: of the run.
        """
        new, schedule = self, trainer.schedule
        if isinstance(schedule, PlateauConfig):
            new = new._on_plateau(numbers["val/loss"], schedule)
        if trainer.early_stop is not None:
            stop = self.stop.after(numbers[trainer.early_stop.metric], min_delta=trainer.early_stop.min_delta)
            new = replace(new, stop=stop)
        return new

    def _on_plateau(self, loss: float, schedule: PlateauConfig) -> Stalls:
        plateau = self.plateau.after(loss, min_delta=schedule.min_delta)
        if self.cooldown:
            return replace(self, plateau=replace(plateau, validations=0), cooldown=self.cooldown - 1)
        if plateau.validations < schedule.patience:
            return replace(self, plateau=plateau)
        lowered = replace(plateau, validations=0)
        return replace(self, plateau=lowered, reductions=self.reductions + 1, cooldown=schedule.cooldown)

    def ends(self, early_stop: EarlyStopConfig | None) -> bool:
        """Whether the run is over before its last step."""
        return early_stop is not None and self.stop.validations >= early_stop.patience

    def lines(self, before: Stalls, trainer: TrainerConfig, *, step: int) -> list[str]:
        """What a person should hear of the last validation.

        Args:
            before: of the validation before.
            trainer: of the run.
            step: optimizer steps done.
        """
        said = []
        if self.reductions > before.reductions:
            said.append(
                f"plateau: val/loss has not fallen below {self.plateau.best}; the peak rate is lowered for the "
                f"{self.reductions}. time"
            )
        if self.ends(trainer.early_stop) and trainer.early_stop is not None:
            said.append(
                f"stopping early at step {step:,}: {trainer.early_stop.metric} has not fallen below {self.stop.best} "
                f"in {self.stop.validations} validations (trainer.early_stop)"
            )
        return said

    def numbers(self, trainer: TrainerConfig) -> dict[str, float]:
        """For metrics.jsonl, at a validation."""
        found: dict[str, float] = {}
        if isinstance(trainer.schedule, PlateauConfig):
            found["train/lr_reductions"] = self.reductions
        if trainer.early_stop is not None:
            found["early_stop/validations"] = self.stop.validations
        return found


def watches_validation(trainer: TrainerConfig) -> bool:
    """Whether the run depends on its validation losses."""
    return trainer.early_stop is not None or isinstance(trainer.schedule, PlateauConfig)


def refuse_without_validation(trainer: TrainerConfig, n_validation: int) -> None:
    """Early stopping and plateau look at held-out cells.

    Raises:
        ConfigError: there are none.
    """
    keys = {"trainer.early_stop": trainer.early_stop is not None}
    keys["trainer.schedule.kind=plateau"] = isinstance(trainer.schedule, PlateauConfig)
    for key, wanted in keys.items():
        if wanted and n_validation == 0:
            raise ConfigError(
                f"{key} looks at the validation loss, and no cell is held out",
                where="data.split",
                fix="write data.split.validation: 0.05, or name a split that has validation cells",
            )
