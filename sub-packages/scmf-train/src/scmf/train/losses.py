"""Objectives and their losses. In: sums over the targets of all ranks. Out: the loss, and what it is made of.

An objective gives sums and a count; nothing is divided before all ranks and microbatches of the step are in. One
objective: the loss is sum / count. Several: the sum of weight x sum / count over those that have targets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from scmf.core.batch import Microbatch

Asks = Literal["tokens", "classes", "numbers"]
SUMS: Final[dict[Asks, int]] = {"tokens": 2, "classes": 3, "numbers": 4}
"""Sums that an objective reports: loss and targets; then the targets hit; or the targets and their squares."""


@dataclass(frozen=True, slots=True)
class Objective:
    """One thing that a model is trained to do."""

    name: str
    asks: Asks = "tokens"
    """What it predicts: tokens at positions, a class or a number of whole cells."""
    weight: float = 1.0
    """Of its mean loss in the loss of the step."""

    @property
    def width(self) -> int:
        """Sums that it reports."""
        return SUMS[self.asks]

    def zeros(self, n: int) -> npt.NDArray[np.int32] | npt.NDArray[np.float32]:
        """(n,) targets of whole cells, of class or number 0."""
        return np.zeros(n, np.float32) if self.asks == "numbers" else np.zeros(n, np.int32)

    def targets(self, microbatch: Microbatch) -> int:
        """Its targets in a microbatch."""
        if self.asks == "tokens":
            return len(microbatch.targets)
        return len(microbatch.cell_targets[self.name].values)


@dataclass(frozen=True, slots=True)
class ObjectiveSum:
    """Sums of one objective over many targets."""

    objective: Objective
    sums: tuple[float, ...]
    """(objective.width,): loss, targets, and what its other measures are made of."""

    @property
    def targets(self) -> int:
        """How many."""
        return int(self.sums[1])

    @property
    def mean(self) -> float:
        """Loss of a target; NaN where there was none."""
        return self.sums[0] / self.targets if self.targets else float("nan")

    def measures(self) -> dict[str, float]:
        """What is said of it beside its loss; NaN where it cannot be known."""
        if self.objective.asks == "classes":
            return {"accuracy": self.sums[2] / self.targets if self.targets else float("nan")}
        if self.objective.asks == "numbers":
            return {"r2": self._r2()}
        return {}

    def _r2(self) -> float:
        """Share of the targets' variance that is explained: 1 - squared errors / squared distances to their mean."""
        n, total, squares = self.targets, self.sums[2], self.sums[3]
        spread = squares - total * total / n if n else 0.0
        return 1.0 - self.sums[0] / spread if spread > 0 else float("nan")

    def __add__(self, other: ObjectiveSum) -> ObjectiveSum:
        return replace(self, sums=tuple(a + b for a, b in zip(self.sums, other.sums, strict=True)))


@dataclass(frozen=True, slots=True)
class LossSum:
    """Losses of many targets, reduced over all ranks."""

    parts: tuple[ObjectiveSum, ...]
    """Of each objective, in the order of the configuration."""
    tokens: int
    """Real tokens, no padding."""
    weighted: bool = False
    """Whether the loss is a weighted sum: `model.task.kind: several`."""

    @property
    def total(self) -> float:
        """Sum of all losses: finite exactly where each of them is."""
        return sum(part.sums[0] for part in self.parts)

    @property
    def targets(self) -> int:
        """Targets of the vocabulary head."""
        return sum(part.targets for part in self.parts if part.objective.asks == "tokens")

    @property
    def mean(self) -> float:
        """The loss that training lowers: of a target, or the weighted sum of such means; NaN without any target."""
        if not self.weighted:
            return self.parts[0].mean
        known = [part.objective.weight * part.mean for part in self.parts if part.targets]
        return math.fsum(known) if known else float("nan")

    @property
    def token_mean(self) -> float | None:
        """Nats a predicted token, of which the exponential is the perplexity; None where no objective predicts any."""
        return next((part.mean for part in self.parts if part.objective.asks == "tokens"), None)

    def numbers(self, prefix: str) -> dict[str, float]:
        """The loss, the perplexity of tokens, `train/cell_type/accuracy`; each loss where there are several.

        Args:
            prefix: `train` or `val`.
        """
        found = {"loss": self.mean}
        if self.token_mean is not None:
            found["perplexity"] = perplexity(self.token_mean)
        for part in self.parts:
            own = {"loss": part.mean} if self.weighted else {}
            found |= {f"{part.objective.name}/{key}": number for key, number in (own | part.measures()).items()}
        return {f"{prefix}/{key}": number for key, number in found.items()}

    def __add__(self, other: LossSum) -> LossSum:
        parts = tuple(a + b for a, b in zip(self.parts, other.parts, strict=True))
        return LossSum(parts, self.tokens + other.tokens, self.weighted)


@dataclass(frozen=True, slots=True)
class Objectives:
    """Everything that a model is trained to do at once."""

    each: tuple[Objective, ...] = (Objective("tokens"),)
    """In the order in which the model gives their losses."""
    weighted: bool = False
    """Each mean is taken by itself and weighted; otherwise there is one, and its sum is divided by its count."""

    @property
    def width(self) -> int:
        """Sums that they report together."""
        return sum(objective.width for objective in self.each)

    @property
    def of_cells(self) -> tuple[str, ...]:
        """Names of those that are about whole cells."""
        return tuple(objective.name for objective in self.each if objective.asks != "tokens")

    def read(self, sums: Sequence[float]) -> LossSum:
        """Losses from the sums of all objectives, one behind the other, and the real tokens."""
        parts, at = [], 0
        for objective in self.each:
            parts.append(ObjectiveSum(objective, tuple(sums[at : at + objective.width])))
            at += objective.width
        return LossSum(tuple(parts), int(sums[at]), self.weighted)

    def nothing(self) -> LossSum:
        """Of no targets."""
        return self.read([0.0] * (self.width + 1))

    def targets(self, microbatches: Sequence[Microbatch]) -> list[int]:
        """Targets of each objective in these microbatches."""
        return [sum(map(objective.targets, microbatches)) for objective in self.each]


TOKENS: Final = Objectives()
"""One objective: tokens at positions."""


def perplexity(loss: float) -> float:
    """The exponential of the mean loss; infinite where a float cannot hold it."""
    return math.inf if loss >= 700 else math.exp(loss)
