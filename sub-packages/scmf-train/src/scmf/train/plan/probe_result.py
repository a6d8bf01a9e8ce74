"""What a probe has found. Values alone, so that a report needs no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from scmf.train.plan.cost import Rates
from scmf.train.plan.workload import Shape


@dataclass(frozen=True, slots=True)
class Measured:
    """Rates and memory of this machine."""

    wall: Rates
    """By the clock."""
    processor: Rates
    """By the time of this process on all its cores, which a busy machine disturbs less. On a GPU: the host's alone."""
    peak: int
    """Bytes: of the GPU where there is one, else resident."""
    largest: Shape
    """The largest microbatch that this peak has seen."""
    rounds: int
    seconds: float
    """That were measured."""

    def values(self) -> dict[str, Any]:
        """For JSON: seconds a step, a microbatch, a FLOP of the products with weights, a pair of tokens."""
        return {
            "rounds": self.rounds,
            "seconds": self.seconds,
            "peak_bytes": self.peak,
            "positions": self.largest.positions,
            "wall_rates": asdict(self.wall),
            "processor_rates": asdict(self.processor),
        }
