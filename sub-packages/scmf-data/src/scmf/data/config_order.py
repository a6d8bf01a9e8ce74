"""The `order`, `sampling` and `store` keys of the `data` section: which cell comes when, and how often. Values only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from scmf.core.config import Config, Variant
from scmf.core.config_fault import Fault


class StoreEntry(Config):
    """One of several stores that are read as one."""

    path: Annotated[str, Field(min_length=1)]
    """Folder written by `scmf-store convert`, or s3://bucket/folder."""
    weight: Annotated[float, Field(gt=0.0, le=1e6)] = 1.0
    """Of a cell of this store: with 2, each is drawn twice as often as a cell of a store with 1."""


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


class UniformConfig(SamplingConfig, kind="uniform"):
    """Every training cell once an epoch."""


class BalancedConfig(SamplingConfig, kind="balanced"):
    """Every group of a column equally often: a rare cell type's cells come more often than a common one's."""

    by: Annotated[str, Field(min_length=1)]
    """Column of `obs` whose groups are drawn equally often. Cells without a value are one group more."""


class WeightsConfig(SamplingConfig, kind="weights"):
    """Every cell in proportion to its own weight."""

    column: Annotated[str, Field(min_length=1)]
    """Column of `obs` with weights: finite, not negative, at most 65,536 different ones. 0 is never drawn."""
