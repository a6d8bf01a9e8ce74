"""`order`, `sampling`, `curriculum`, `store` of the `data` section: which cell comes when, how often. Values only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from scmf.core.config import Config, Variant
from scmf.core.config_fault import Fault

Exponent = Annotated[float, Field(ge=0.0, le=4.0)]
Steps = Annotated[int, Field(ge=1, le=1_000_000_000)]
Weight = Annotated[float, Field(gt=0.0, le=1e6)]


class StoreEntry(Config):
    """One of several stores that are read as one."""

    path: Annotated[str, Field(min_length=1)]
    """Folder written by `scmf-store convert`, or s3://bucket/folder."""
    weight: Weight = 1.0
    """Of a cell of this store: with 2, each is drawn twice as often as a cell of a store with 1."""
    end_weight: Weight | None = None
    """Weight after data.sampling.steps steps, reached in a straight line; null: it stays."""

    @property
    def last_weight(self) -> float:
        """Weight at the end of the run."""
        return self.weight if self.end_weight is None else self.end_weight


class OrderConfig(Variant):
    """Base of every order: which cell comes when, as a function of seed, epoch and position."""


class RandomOrderConfig(OrderConfig, kind="random"):
    """Every order of the training cells is equally likely: for disks that can seek, and for memory."""


class BlockOrderConfig(OrderConfig, kind="blocks"):
    """Blocks of neighbouring cells in random order, and cells shuffled inside windows of it: for disks that cannot."""

    block: Annotated[int, Field(ge=1, le=1_048_576)] = 64
    """Neighbouring training cells that are read together."""
    window: Annotated[int, Field(ge=2, le=1_073_741_824)] = 4096
    """Cells that are shuffled together: window / block random places of the store. More mixes better."""

    def faults(self) -> Iterator[Fault]:
        """A window holds several blocks: else batches are stretches of the file."""
        yield from super().faults()
        if self.window < 2 * self.block:
            yield Fault(
                "window",
                f"data.order.window={self.window} holds fewer than two blocks of data.order.block={self.block} cells, "
                "so that a batch would come from one stretch of the store",
                f"use a window of 64 blocks: {64 * self.block}",
            )


class SamplingConfig(Variant):
    """Base of every sampling: how often a cell is drawn."""

    steps: Steps | None = None
    """Optimizer steps in which exponent and weights of stores move from their first to their last values; null: none
    moves."""

    @property
    def moves(self) -> bool:
        """Whether this section itself asks for something else at the end than at the beginning."""
        return False

    def identity(self) -> dict[str, Any]:
        """What of it decides the order of cells, with defaults of later versions left out: for a run's identity."""
        return self.model_dump(mode="json", exclude_none=True)


class UniformConfig(SamplingConfig, kind="uniform"):
    """Every training cell once an epoch."""


class ExponentConfig(SamplingConfig):
    """Base of samplings that are softened by an exponent."""

    exponent: Exponent
    end_exponent: Exponent | None = None
    """Exponent after `steps` steps, reached in a straight line; null: it stays."""

    @property
    def moves(self) -> bool:
        """Whether the exponent at the end is another one."""
        return self.end_exponent is not None and self.end_exponent != self.exponent

    def exponent_at(self, moved: float) -> float:
        """The exponent after a share of the way, 0 to 1."""
        last = self.exponent if self.end_exponent is None else self.end_exponent
        return self.exponent + moved * (last - self.exponent)

    def identity(self) -> dict[str, Any]:
        """As the base says; an exponent that changes nothing is left out."""
        plain = super().identity()
        if not self.moves and self.exponent == type(self).model_fields["exponent"].default:
            plain = {key: value for key, value in plain.items() if key not in ("exponent", "end_exponent")}
        return plain


class BalancedConfig(ExponentConfig, kind="balanced"):
    """Every group of a column equally often: a rare cell type's cells come more often than a common one's."""

    by: Annotated[str, Field(min_length=1)]
    """Column of `obs` whose groups are drawn equally often. Cells without a value are one group more."""
    exponent: Exponent = 0.0
    """A group is drawn in proportion to (its cells) ^ exponent: 0 all groups alike, 1 all cells alike."""


class WeightsConfig(ExponentConfig, kind="weights"):
    """Every cell in proportion to its own weight."""

    column: Annotated[str, Field(min_length=1)]
    """Column of `obs` with weights: finite, not negative, at most 65,536 different ones. 0 is never drawn."""
    exponent: Exponent = 1.0
    """A cell is drawn in proportion to weight ^ exponent: 1 as the column says, 0 all cells of weight above 0 alike."""


class CurriculumConfig(Config):
    """Easy cells first: the easiest part of the training cells at the beginning, all of them after `steps`."""

    by: Annotated[str, Field(min_length=1)]
    """length: how many genes a cell expresses; else a column of `obs` with numbers. Low is easy."""
    hard_first: bool = False
    """Begin with the highest values in place of the lowest."""
    start: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """Share of the training cells that the run begins with."""
    steps: Steps
    """Optimizer steps after which all training cells are drawn."""
    pacing: Literal["linear", "sqrt"] = "linear"
    """How the share grows: linear adds as many cells in every step; sqrt adds more of them early."""

    def share_at(self, moved: float) -> float:
        """Share of the training cells after a share of the way, 0 to 1. Source: Platanios et al., NAACL 2019, eq. 8."""
        power = 1 if self.pacing == "linear" else 2
        return float(min(1.0, (moved * (1.0 - self.start**power) + self.start**power) ** (1.0 / power)))


def gradual_faults(sampling: SamplingConfig, entries: tuple[StoreEntry, ...]) -> Iterator[Fault]:
    """What moves has steps in which to move, and steps have something that moves.

    Args:
        sampling: of the `data` section.
        entries: of `data.store`; empty for one store.
    """
    moving = [f"{entry.path}'s end_weight" for entry in entries if entry.last_weight != entry.weight]
    moving += ["data.sampling.end_exponent"] if sampling.moves else []
    if moving and sampling.steps is None:
        yield Fault(
            "sampling.steps",
            f"{moving[0]} is another value than the first, and data.sampling.steps=null gives no steps to reach it in",
            "write the number of steps, for example sampling.steps: 10000",
        )
    if sampling.steps is not None and not moving:
        yield Fault(
            "sampling.steps",
            f"data.sampling.steps={sampling.steps} and nothing moves in them",
            "write steps: null; or give an end_exponent, or an end_weight in data.store",
        )


def order_faults(
    order: OrderConfig, sampling: SamplingConfig, curriculum: CurriculumConfig | None, entries: tuple[StoreEntry, ...]
) -> Iterator[Fault]:
    """One thing decides which cells a step draws.

    Args:
        order: of the `data` section.
        sampling: of the same.
        curriculum: of the same; None for none.
        entries: of `data.store`; empty for one store.
    """
    unequal = len({entry.weight for entry in entries}) > 1 or any(e.last_weight != e.weight for e in entries)
    asked = "the weights of data.store" if unequal else f"data.sampling.kind={sampling.kind}"
    weighted = unequal or sampling.kind != "uniform"
    if order.kind == "blocks" and weighted:
        yield Fault(
            "order",
            f"data.order.kind=blocks gives every cell once an epoch, and {asked} asks for some more often",
            "write order: {kind: random}, or draw all cells alike",
        )
    if curriculum is not None and order.kind == "blocks":
        yield Fault(
            "curriculum",
            "data.curriculum draws cells in the order of their difficulty, and data.order.kind=blocks in that of the "
            "disk",
            "write order: {kind: random}, or curriculum: null",
        )
    if curriculum is not None and weighted:
        yield Fault(
            "curriculum",
            f"data.curriculum draws all cells that it admits alike, and {asked} asks for some more often",
            "write sampling: {kind: uniform} and equal weights, or curriculum: null",
        )
