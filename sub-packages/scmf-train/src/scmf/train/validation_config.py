"""`validate` and `early_stop`: when, on which cells, and which number decides. Values only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

from pydantic import Field

from scmf.core.config import Config
from scmf.core.config_fault import Fault
from scmf.core.near_word import nearest
from scmf.core.text import counted
from scmf.train.metric_names import MetricAlias

Steps = Annotated[int, Field(ge=1, le=1_000_000_000)]
Text = Annotated[str, Field(min_length=1)]


class NamedSplitConfig(Config):
    """More cells to validate on, under a name: of the run's store, or of another one."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=60)]
    """Their loss is `val/NAME/loss`."""
    store: Text | None = None
    """Folder or address of a store; null: the run's own."""
    split: Text | None = None
    """A named split that travels with the store; null: the run's own division, or all cells of another store."""
    part: Literal["train", "validation", "test"] | None = None
    """Which cells of the split; null: its validation cells. None of them may be a training cell of the run."""

    def faults(self) -> Iterator[Fault]:
        """Cells that are neither the run's own validation cells nor a part of nothing."""
        yield from super().faults()
        if self.store is None and self.split is None and self.part != "test":
            yield Fault(
                "part",
                f"the split {self.name} names no other cells than those that train or give val/loss",
                "name a split of the store (scmf-store info lists them), another store, or write part: test",
            )
        if self.store is not None and self.split is None and self.part is not None:
            yield Fault(
                "part",
                f"part={self.part} of {self.store} can only be known from a split that travels with that store",
                "name it: split: NAME; or write part: null for all cells",
            )


class ValidateConfig(Config):
    """Loss on held-out cells while training."""

    every: Steps | None = 100
    """Steps between validations; null never validates."""
    batches: Annotated[int, Field(ge=1, le=1_000_000)] = 8
    """Global batches a validation, of each split; always the same cells with the same masks."""
    splits: Annotated[tuple[NamedSplitConfig, ...], Field(strict=False)] = ()
    """More held-out cells, each {name: ..., store: ..., split: ..., part: ...}: val/NAME/loss beside val/loss."""

    def faults(self) -> Iterator[Fault]:
        """A name is one set of cells."""
        yield from super().faults()
        counts = Counter(split.name for split in self.splits)
        for name, times in counts.items():
            if times > 1:
                yield Fault("splits", f"{times} splits have the name {name}", "give each a name of its own")
        if self.splits and self.every is None:
            yield Fault(
                "splits",
                f"{counted(len(self.splits), 'split')} of trainer.validate.splits, and trainer.validate.every=null "
                "takes no loss",
                "write every: 100, or splits: []",
            )

    def metrics(self, *, average: bool) -> tuple[str, ...]:
        """Losses that a validation takes.

        Args:
            average: whether that of the averaged weights is taken too.
        """
        named = (f"val/{split.name}/loss" for split in self.splits)
        return ("val/loss", *(("val/ema_loss",) if average else ()), *named)


class EarlyStopConfig(Config):
    """When a run ends before its last step: the held-out loss has stopped falling."""

    metric: Annotated[str, MetricAlias] = "val/loss"
    """Loss in metrics.jsonl, or an alias such as val_loss: val/loss, val/ema_loss (averaged weights), val/NAME/loss."""
    patience: Annotated[int, Field(ge=1, le=1_000_000)]
    """Validations in a row without a lower loss, after which the run saves and ends."""
    min_delta: Annotated[float, Field(ge=0.0)] = 0.0
    """A loss has to be lower than the lowest by more than this to count, nats."""


def metric_fault(key: str, metric: str, known: Sequence[str]) -> Iterator[Fault]:
    """A number that decides something is one that every validation takes.

    Args:
        key: that names the metric.
        metric: as written.
        known: losses that a validation takes.
    """
    if metric in known:
        return
    if metric == "val/ema_loss":
        yield Fault(
            key,
            f"trainer.{key}=val/ema_loss is the loss of averaged weights, and trainer.ema takes none",
            "write ema: {decay: 0.999}, or metric: val/loss",
        )
        return
    near = nearest(metric, known)
    yield Fault(
        key,
        f"trainer.{key}={metric} is no loss that a validation of this run takes; they are {', '.join(known)}",
        f"did you mean {near}?" if near else "name one of these, or add the cells to trainer.validate.splits",
    )
