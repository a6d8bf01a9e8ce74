"""Runs in which something goes wrong on purpose, on forked ranks: what went wrong, where, and how the run ended."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemWriter

from scmf.core.errors import ScmfError, StoreError
from scmf.data.stream import CellStream
from scmf.train import run_directory, step
from scmf.train.engine import Engine
from scmf.train.layout import lay_out
from scmf.train.run import run
from scmf.train.trainer import Trainer
from scmf.train.world import join_world
from support.ranks import run_ranks
from support.real import real_config

SMALL = (
    "model.layers=2",
    "model.hidden=32",
    "model.ffn=64",
    "model.heads=2",
    "data.tokenizer.seq_length=64",
    "data.global_batch_size=4",
    "data.workers=1",
    "trainer.max_steps=12",
    "trainer.schedule.warmup_steps=2",
    "trainer.validate.every=null",
    "trainer.checkpoint.every=4",
    "trainer.checkpoint.keep_last=9",
)
"""A run of 12 steps of 4 cells, saved at 4, 8 and 12."""

Places = dict[int, int]
"""Data position in cells -> rank on which it goes wrong; -1: on every one."""


@dataclass(frozen=True)
class Injection:
    """What goes wrong. Everything is tied to the data position, so that it comes again when the data does."""

    loss: Places = field(default_factory=dict)
    """The loss is NaN."""
    gradient: Places = field(default_factory=dict)
    """A gradient is infinite."""
    loader: Places = field(default_factory=dict)
    """The batch cannot be read."""
    held_out: Places = field(default_factory=dict)
    """Number of a validation batch -> rank that cannot read it."""
    signals: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Data position -> rank and signal that it gets during that step."""
    saves: Places = field(default_factory=dict)
    """Step of a checkpoint -> rank that cannot write its shards."""
    other_store: int | None = None
    """Rank that finds another store under the path."""
    apart: bool = False
    """Ranks after the first have a run directory of their own: nodes that do not share it."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended on one rank."""

    code: int
    what: str = ""
    where: str = ""
    fix: str = ""


def fit(store: Path, directory: Path, *words: str, ranks: int = 2, resume: str | None = None, **wrong: Any) -> Any:
    """Run on forked ranks; how it ended on each.

    Args:
        store: of cells.
        directory: of the run.
        words: overrides after SMALL's.
        ranks: processes.
        resume: as the command takes it.
        wrong: fields of an Injection.
    """
    return run_ranks(fit_rank, ranks, store, directory, (*SMALL, *words), resume, Injection(**wrong))


def fit_rank(store: Path, directory: Path, words: tuple[str, ...], resume: str | None, wrong: Injection) -> Outcome:
    """This rank's part."""
    _inject(wrong)
    if wrong.apart and os.environ["RANK"] != "0":
        directory = directory.with_name("another")
    config = real_config(store, directory, *words)
    try:
        with join_world() as world, lay_out(world, config.trainer.parallel) as layout:
            return Outcome(run(config, layout, resume=resume))
    except ScmfError as error:
        return Outcome(1, error.what, error.where, error.fix)
    except SystemExit as end:
        return Outcome(int(end.code or 0))


def _inject(wrong: Injection) -> None:
    """Put the faults into this process, which ends with the run."""
    rank, here = int(os.environ["RANK"]), _Here()

    def hits(places: Places, position: int) -> bool:
        return places.get(position, -2) in (-1, rank)

    _part_nodes(wrong, rank)
    _wrap(Trainer, "_next", lambda trainer, *_: here.at(trainer))
    _wrap(Engine, "train_step", lambda *_: here.signal(wrong, rank))
    sum_losses = step._sum_losses

    def spoilt_losses(losses: torch.Tensor, **given: Any) -> Any:
        spoilt = here.training and hits(wrong.loss, here.position)
        return sum_losses(losses * float("nan") if spoilt else losses, **given)

    step._sum_losses = spoilt_losses
    init, prepare, write = Engine.__init__, CellStream.step, FileSystemWriter.write_data
    validate = CellStream.validation

    def with_hooks(engine: Engine, *args: Any, **kwargs: Any) -> None:
        init(engine, *args, **kwargs)
        parameter = next(engine.encoder.parameters())
        parameter.register_hook(lambda g: g * float("inf") if hits(wrong.gradient, here.position) else g)

    def read(stream: CellStream, cells_seen: int) -> Any:
        if hits(wrong.loader, cells_seen):
            raise StoreError("the disk is gone", where="the store", fix="mend it")
        return prepare(stream, cells_seen)

    def read_held_out(stream: CellStream, number: int) -> Any:
        if hits(wrong.held_out, number):
            raise StoreError("the disk of held-out cells is gone", where="the store", fix="mend it")
        return validate(stream, number)

    def write_data(writer: FileSystemWriter, *args: Any) -> Any:
        if hits(wrong.saves, int(writer.path.name.rsplit("_", 1)[1])):
            raise OSError(28, "No space left on device", str(writer.path))
        return write(writer, *args)

    CellStream.validation = read_held_out
    Engine.__init__, CellStream.step, FileSystemWriter.write_data = with_hooks, read, write_data


def _part_nodes(wrong: Injection, rank: int) -> None:
    """What nodes that do not share their files see."""
    run_directory._VISIBLE_SECONDS = 0.0
    if wrong.other_store == rank:
        CellStream.fingerprint = property(lambda _: {"store": "another"})  # type: ignore[assignment]


class _Here:
    """Where the run stands: the data position of the step that is about to be taken."""

    def __init__(self) -> None:
        self.position = 0
        self.training = False

    def at(self, trainer: Trainer) -> None:
        self.position, self.training = trainer.cells_seen, True

    def signal(self, wrong: Injection, rank: int) -> None:
        who, number = wrong.signals.get(self.position, (-1, 0))
        if who == rank:
            os.kill(os.getpid(), signal.Signals(number))


def _wrap(owner: Any, name: str, before: Callable[..., None]) -> None:
    inner = getattr(owner, name)

    def outer(*args: Any, **kwargs: Any) -> Any:
        before(*args)
        return inner(*args, **kwargs)

    setattr(owner, name, outer)
