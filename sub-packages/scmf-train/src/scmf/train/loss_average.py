"""The loss without its noise. In: the loss of every step. Out: an exponential moving average, corrected for its start.

The two numbers are part of every checkpoint: a resumed run goes on with the average that the run never cut has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class LossAverage:
    """Average of the losses so far, the last ones weighing most."""

    total: float = 0.0
    """Sum of loss x weight, nats."""
    weight: float = 0.0
    """Sum of the weights; 1 after many steps."""

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Self:
        """The numbers of a checkpoint's record.

        Raises:
            TypeError: it has other fields.
        """
        return cls(**record)

    def after(self, loss: float, *, decay: float) -> LossAverage:
        """With one more step; a loss that is not finite is left out.

        Args:
            loss: of the step, nats.
            decay: share of the average that the step keeps, in [0, 1).
        """
        if not math.isfinite(loss):
            return self
        return LossAverage(decay * self.total + (1 - decay) * loss, decay * self.weight + (1 - decay))

    @property
    def mean(self) -> float:
        """The average, nats; NaN before the first finite loss."""
        return self.total / self.weight if self.weight else math.nan
