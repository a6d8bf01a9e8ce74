"""The learning rate as a function of the step. In: the `trainer.schedule` section. Out: the rate of any step.

Nothing to save, nothing to restore: only plateau asks for a number that the run keeps, its reductions so far.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from scmf.core.config import Variant
from scmf.core.config_fault import Fault
from scmf.core.config_kind import dotted

Steps = Annotated[int, Field(ge=1, le=1_000_000_000)]
StepsOrNone = Annotated[int, Field(ge=0, le=1_000_000_000)]

DEFAULT_RATIO = 0.1
"""Floor over peak where neither min_lr nor min_ratio is given."""


class ScheduleConfig(Variant):
    """Learning rate by optimizer step: linear warm-up, then what the kind says."""

    warmup_steps: StepsOrNone = 0
    """Steps of linear rise from 0 to the peak."""

    def rate(self, step: int, *, peak: float, max_steps: int, reductions: int = 0) -> float:
        """Learning rate of one optimizer step, at most the peak.

        Args:
            step: from 0.
            peak: `trainer.optimizer.lr`.
            max_steps: of the whole run.
            reductions: times that plateau has lowered the rate so far.
        """
        if step < self.warmup_steps:
            return peak * (step + 1) / (self.warmup_steps + 1)
        return self.after_warmup(step - self.warmup_steps, peak=peak, max_steps=max_steps, reductions=reductions)

    def after_warmup(self, step: int, *, peak: float, max_steps: int, reductions: int) -> float:
        """Learning rate so many steps after the warm-up; a kind of your own has this one method.

        Raises:
            NotImplementedError: it has not.
        """
        raise NotImplementedError(f"{dotted(type(self))} has no after_warmup()")

    def run_faults(self, *, peak: float, max_steps: int | None) -> Iterator[Fault]:
        """Whether the schedule fits into a run.

        Args:
            peak: `trainer.optimizer.lr`.
            max_steps: of the run; None while it is given in epochs.
        """
        del peak
        yield from self._length_faults({"warmup_steps": self.warmup_steps}, max_steps, "trainer.max_steps")

    def _length_faults(self, parts: dict[str, int], steps: int | None, name: str) -> Iterator[Fault]:
        taken = sum(parts.values())
        if steps is None or taken < steps:
            return
        named = " and ".join(f"{key}={value}" for key, value in parts.items())
        zeros = ", ".join(f"trainer.schedule.{key}=0" for key, value in parts.items() if value)
        yield Fault(
            next(iter(parts)),
            f"trainer.schedule.{named} {'takes' if len(parts) == 1 else 'take'} {taken} steps, and the whole run has "
            f"{name}={steps}",
            f"shorten them, for example {zeros}; or lengthen the run",
        )


class ConstantConfig(ScheduleConfig, kind="constant"):
    """Stays at the peak."""

    def after_warmup(self, step: int, *, peak: float, max_steps: int, reductions: int) -> float:
        """The peak."""
        del step, max_steps, reductions
        return peak


class FloorConfig(ScheduleConfig):
    """Comes down to a floor, which is a tenth of the peak where nothing else is said."""

    min_lr: Annotated[float, Field(ge=0.0)] | None = None
    """The floor of the learning rate; null where min_ratio says it. Neither: a tenth of the peak."""
    min_ratio: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    """The floor as a share of the peak; null where min_lr says it."""

    def floor(self, peak: float) -> float:
        """The floor of a peak."""
        if self.min_lr is not None:
            return self.min_lr
        return peak * (DEFAULT_RATIO if self.min_ratio is None else self.min_ratio)

    def faults(self) -> Iterator[Fault]:
        """One floor."""
        yield from super().faults()
        if self.min_lr is not None and self.min_ratio is not None:
            yield Fault(
                "min_ratio",
                f"trainer.schedule.min_lr={self.min_lr} and trainer.schedule.min_ratio={self.min_ratio} both set the "
                "floor",
                "write null for one of them",
            )

    def run_faults(self, *, peak: float, max_steps: int | None) -> Iterator[Fault]:
        """The floor is no ceiling."""
        yield from super().run_faults(peak=peak, max_steps=max_steps)
        if self.floor(peak) > peak:
            yield Fault(
                "min_lr",
                f"trainer.schedule.min_lr={self.min_lr} is above the peak trainer.optimizer.lr={peak}",
                "use a floor below the peak; a hundredth of it is usual",
            )


class CurveConfig(FloorConfig):
    """Comes down from the peak to the floor along a curve that ends with the run, or at a horizon of its own."""

    hold_steps: StepsOrNone = 0
    """Steps at the end of the horizon that stay at the floor. Source: NeMo's CosineAnnealing `constant_steps`."""
    horizon: Steps | None = None
    """Step at which the schedule ends; null: with the run, at max_steps. Later steps stay at the floor."""

    def after_warmup(self, step: int, *, peak: float, max_steps: int, reductions: int) -> float:
        """Along the curve."""
        del reductions
        length = (self.horizon or max_steps) - self.hold_steps - self.warmup_steps
        rate = self.curve(min(1.0, step / max(1, length)), peak=peak, floor=self.floor(peak))
        return min(peak, max(self.floor(peak), rate))  # to rounding it is between them anyway

    def curve(self, done: float, *, peak: float, floor: float) -> float:
        """The rate at a share of the way down; a kind of your own has this one method.

        Args:
            done: from 0.0, where it is the peak, to 1.0, where it is the floor.
            peak: of the learning rate.
            floor: of the learning rate.

        Raises:
            NotImplementedError: it has not.
        """
        raise NotImplementedError(f"{dotted(type(self))} has no curve()")

    def run_faults(self, *, peak: float, max_steps: int | None) -> Iterator[Fault]:
        """Room for warm-up, curve and hold."""
        own = super().run_faults(peak=peak, max_steps=max_steps)
        yield from (fault for fault in own if fault.key != "warmup_steps")
        steps, name = (self.horizon, "trainer.schedule.horizon") if self.horizon else (max_steps, "trainer.max_steps")
        yield from self._length_faults(self._parts(), steps, name)

    def _parts(self) -> dict[str, int]:
        return {"warmup_steps": self.warmup_steps, "hold_steps": self.hold_steps}


class CosineConfig(CurveConfig, kind="cosine"):
    """Half a cosine wave from the peak to the floor. Source: NeMo's CosineAnnealing."""

    def curve(self, done: float, *, peak: float, floor: float) -> float:
        """Slow, fast, slow."""
        return floor + 0.5 * (peak - floor) * (1.0 + math.cos(math.pi * done))


class LinearConfig(CurveConfig, kind="linear"):
    """A straight line from the peak to the floor. Source: BioNeMo's WarmupAnnealDecayHold."""

    def curve(self, done: float, *, peak: float, floor: float) -> float:
        """The line."""
        return peak + (floor - peak) * done


class ExponentialConfig(CurveConfig, kind="exponential"):
    """The same share less at every step, from the peak to the floor, which has to be above zero."""

    def curve(self, done: float, *, peak: float, floor: float) -> float:
        """A straight line of logarithms."""
        return peak * math.exp(done * math.log(floor / peak))

    def run_faults(self, *, peak: float, max_steps: int | None) -> Iterator[Fault]:
        """An exponential never reaches zero."""
        yield from super().run_faults(peak=peak, max_steps=max_steps)
        if self.floor(peak) == 0.0:
            yield Fault(
                "min_lr",
                "trainer.schedule.kind=exponential never reaches a floor of 0.0",
                "write min_lr: null and min_ratio: 0.01, or kind: linear",
            )


class WsdConfig(CurveConfig, kind="wsd"):
    """Warm-up, stable, decay: stays at the peak, and comes down in the last steps. Source: Hu et al., MiniCPM, 2024."""

    decay_steps: Steps
    """Steps of the way down; a tenth of the run is usual."""
    decay: Literal["linear", "cosine", "sqrt"] = "linear"
    """Its curve; sqrt falls fast and then slower, 1 - sqrt(done). Source: Haegele et al. 2024."""

    def after_warmup(self, step: int, *, peak: float, max_steps: int, reductions: int) -> float:
        """The peak, then along the curve."""
        del reductions
        begin = (self.horizon or max_steps) - self.hold_steps - self.decay_steps - self.warmup_steps
        rate = self.curve(min(1.0, max(0.0, (step - begin) / self.decay_steps)), peak=peak, floor=self.floor(peak))
        return min(peak, max(self.floor(peak), rate))

    def curve(self, done: float, *, peak: float, floor: float) -> float:
        """As `decay` says."""
        down = {"linear": done, "cosine": 0.5 - 0.5 * math.cos(math.pi * done), "sqrt": math.sqrt(done)}[self.decay]
        return peak + (floor - peak) * down

    def _parts(self) -> dict[str, int]:
        return {"warmup_steps": self.warmup_steps, "decay_steps": self.decay_steps, "hold_steps": self.hold_steps}


class InverseSqrtConfig(FloorConfig, kind="inverse_sqrt"):
    """Falls as one over the root of the step, whatever the length of the run. Source: Vaswani et al. 2017."""

    timescale: Steps | None = None
    """Steps after the warm-up in which the rate falls by the root of two; null: as many as the warm-up."""

    def after_warmup(self, step: int, *, peak: float, max_steps: int, reductions: int) -> float:
        """With the warm-up as its timescale: the peak times the root of warm-up over steps."""
        del max_steps, reductions
        scale = self.timescale or self.warmup_steps
        return max(self.floor(peak), peak * math.sqrt(scale / (scale + step)))

    def faults(self) -> Iterator[Fault]:
        """It needs a scale."""
        yield from super().faults()
        if self.timescale is None and self.warmup_steps == 0:
            yield Fault(
                "timescale",
                "trainer.schedule.kind=inverse_sqrt falls on the scale of the warm-up, and warmup_steps=0",
                "write warmup_steps: 1000, or timescale: 1000",
            )


class PlateauConfig(FloorConfig, kind="plateau"):
    """Stays where it is, and is lowered whenever the validation loss has stopped falling."""

    factor: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    """The rate is multiplied by this."""
    patience: Annotated[int, Field(ge=1, le=1_000_000)] = 5
    """Validations in a row without a lower loss, after which the rate is lowered."""
    min_delta: Annotated[float, Field(ge=0.0)] = 0.0
    """A loss has to be lower than the lowest by more than this to count, nats."""
    cooldown: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Validations after a reduction that are not counted."""

    def after_warmup(self, step: int, *, peak: float, max_steps: int, reductions: int) -> float:
        """The peak, lowered as often as the run has had reason to."""
        del step, max_steps
        return max(self.floor(peak), peak * self.factor**reductions)


SCHEDULES: dict[str, type[ScheduleConfig]] = {
    "cosine": CosineConfig,
    "linear": LinearConfig,
    "exponential": ExponentialConfig,
    "inverse_sqrt": InverseSqrtConfig,
    "wsd": WsdConfig,
    "constant": ConstantConfig,
    "plateau": PlateauConfig,
}
"""Built-in kinds; the first is that of a section without one."""

ALIASES = {
    "cosine_warmup": "cosine",
    "cosine_with_warmup": "cosine",
    "cosine_annealing": "cosine",
    "linear_with_warmup": "linear",
    "warmup_anneal": "linear",
    # In the brief of the character model this is a warm-up and then no decay.
    "linear_warmup": "constant",
    "constant_with_warmup": "constant",
    "exponential_decay": "exponential",
    "inverse_square_root": "inverse_sqrt",
    "warmup_stable_decay": "wsd",
    "reduce_on_plateau": "plateau",
}
"""Names of other programs; read, and written back as ours."""
