"""The loop of a run. In: an engine, cells, a folder. Out: a trained checkpoint and its measurements."""

from __future__ import annotations

import json
import math
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from scmf.data.lookahead import LookAhead
from scmf.data.stream import CellStream
from scmf.train import checkpoint
from scmf.train.checkpoint import CheckpointFolder, Progress
from scmf.train.config import MainConfig
from scmf.train.console import Console, describe_seconds
from scmf.train.engine import Engine, StepReport
from scmf.train.identity import model_identity
from scmf.train.metrics import Metrics, cut_after
from scmf.train.run_directory import RunDirectory, versions, writing


@dataclass
class Interval:
    """Sums since the last line of the log. Validation and saving are not part of it."""

    cells: int = 0
    tokens: int = 0
    data_wait: float = 0.0
    since: float = field(default_factory=time.perf_counter)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time of the block out."""
        begun = time.perf_counter()
        yield
        self.since += time.perf_counter() - begun

    def rates(self) -> dict[str, float]:
        """Per second of wall time, all ranks together; real tokens only."""
        seconds = max(time.perf_counter() - self.since, 1e-9)
        return {
            "speed/cells_per_s": self.cells / seconds,
            "speed/tokens_per_s": self.tokens / seconds,
            "speed/data_wait": self.data_wait / seconds,
        }


class Trainer:
    """One run on one rank.

    Args:
        config: resolved.
        engine: model and optimizer.
        stream: this replica's cells.
        directory: of the run.
        files: small files that travel with every checkpoint: config.yaml and the vocabulary.
    """

    def __init__(
        self,
        config: MainConfig,
        *,
        engine: Engine,
        stream: CellStream,
        directory: RunDirectory,
        files: dict[str, bytes],
    ) -> None:
        self.config = config
        self.engine = engine
        self.stream = stream
        self.directory = directory
        self.files = files
        self.checkpoints = CheckpointFolder(directory.checkpoints, config.trainer.checkpoint)
        self.step = 0
        self.cells_seen = 0
        self._first = engine.layout.world.is_first

    def fit(self, metrics: Metrics, console: Console) -> None:
        """Train from the present step to the last."""
        trainer, interval = self.config.trainer, Interval()
        with self._batches() as batches:
            while self.step < self.engine.max_steps:
                batch = next(batches)
                report = self.engine.train_step(batch, step=self.step)
                self.step += 1
                self.cells_seen += batch.cells
                interval.cells += report.cells
                interval.tokens += report.loss.tokens
                interval.data_wait += batches.last_wait
                self._record_cells(batch.cell_ids.tolist())
                console.at(self.step)
                numbers: dict[str, float] = {}
                if self._due(trainer.log.every) or report.grad_norm is None:
                    numbers |= self._numbers(report, interval)
                    interval = Interval()
                with interval.paused():
                    numbers |= self._validate()
                if numbers:
                    metrics.write(self.step, numbers)
                    self._tell(console, numbers)
                if self._due(trainer.checkpoint.every):
                    with interval.paused():
                        self.save(numbers.get("val/loss"))

    def _batches(self) -> LookAhead:
        data = self.config.data
        return LookAhead(
            self.stream,
            start=self.cells_seen,
            global_batch_size=data.global_batch_size,
            workers=data.workers,
            depth=data.prefetch_steps,
        )

    def _due(self, every: int | None) -> bool:
        last = self.step == self.engine.max_steps
        return every is not None and (last or self.step % every == 0)

    def _numbers(self, report: StepReport, interval: Interval) -> dict[str, float]:
        loss = report.loss.mean
        return {
            "epoch": self.stream.epoch(self.cells_seen),
            "cells_seen": self.cells_seen,
            "train/loss": loss,
            "train/perplexity": _perplexity(loss),
            "train/grad_norm": math.nan if report.grad_norm is None else report.grad_norm,
            "train/lr": report.lr,
            **interval.rates(),
            "memory/peak_bytes": peak_resident_bytes(),
        }

    def _validate(self) -> dict[str, float]:
        """Loss on the same held-out cells every time; nothing where it is not due or there are none."""
        settings = self.config.trainer.validation
        if not self._due(settings.every) or self.stream.n_validation == 0:
            return {}
        batches = (self.stream.validation(i) for i in range(settings.batches))
        loss = self.engine.evaluate(batch for batch in batches if batch is not None).mean
        return {"val/loss": loss, "val/perplexity": _perplexity(loss)}

    def _record_cells(self, cell_ids: list[int]) -> None:
        if self.config.trainer.log.cell_ids and self._first:
            with writing(self.directory.cells), self.directory.cells.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": self.step, "cell_ids": cell_ids}) + "\n")

    def _tell(self, console: Console, numbers: dict[str, float]) -> None:
        total = self.engine.max_steps
        parts = [f"step {self.step:,}/{total:,}"]
        if "train/loss" in numbers:
            left = (total - self.step) * self.config.data.global_batch_size / numbers["speed/cells_per_s"]
            parts += [
                f"loss {numbers['train/loss']:.3f}",
                f"|g| {numbers['train/grad_norm']:.2f}",
                f"lr {numbers['train/lr']:.1e}",
                f"{numbers['speed/cells_per_s']:.1f} cells/s",
                f"{numbers['speed/tokens_per_s'] / 1e3:.1f}k tok/s",
                f"data wait {numbers['speed/data_wait']:.1%}",
                f"eta {describe_seconds(left)}",
            ]
        if "val/loss" in numbers:
            parts.append(f"val loss {numbers['val/loss']:.3f}")
        console.say("  ".join(parts))
        console.at(self.step, parts[1])

    def progress(self, val_loss: float | None = None) -> Progress:
        """Where this run stands, and what it is."""
        layout = self.engine.layout
        return Progress(
            step=self.step,
            max_steps=self.engine.max_steps,
            cells_seen=self.cells_seen,
            seed=self.config.trainer.seed,
            val_loss=val_loss if val_loss is not None and math.isfinite(val_loss) else None,
            data=self.stream.fingerprint,
            model=model_identity(self.config, self.engine.precision),
            global_batch_size=self.config.data.global_batch_size,
            layout={"world": layout.world.size, "tensor": layout.model.tensor, "pipeline": layout.model.pipeline},
            versions=versions(),
        )

    def save(self, val_loss: float | None) -> Path:
        """Write a checkpoint of the present step; collective.

        Raises:
            CheckpointError: it could not be written; the ones before are whole.
        """
        return self.checkpoints.save(self.progress(val_loss), write=self.engine.save, files=self.files)

    def resume(self, folder: Path, console: Console) -> None:
        """Go back to a checkpoint that has been checked: weights, optimizer, data position; collective."""
        progress = checkpoint.read_progress(folder)
        self.engine.load(folder)
        self.step, self.cells_seen = progress.step, progress.cells_seen
        if self._first:
            self._drop_what_followed(console)
        console.say(f"resumed at step {self.step:,} after {self.cells_seen:,} cells, from {folder}")
        if progress.max_steps != self.engine.max_steps:
            console.say(f"max_steps was {progress.max_steps:,} and is {self.engine.max_steps:,}: the schedule follows")

    def begin_again(self) -> None:
        """Drop what a run that was cut before its first checkpoint has written."""
        if self._first:
            cut_after(self.directory.metrics, 0)
            cut_after(self.directory.cells, 0)

    def _drop_what_followed(self, console: Console) -> None:
        """Lines and checkpoints of this folder after the resumed step belong to a past that did not happen."""
        removed = cut_after(self.directory.metrics, self.step)
        cut_after(self.directory.cells, self.step)
        if removed:
            console.say(f"{removed} lines of metrics.jsonl after step {self.step:,} are dropped: they come again")
        for path in self.checkpoints.set_aside_after(self.step):
            console.say(f"a checkpoint of a later step was set aside as {path.name}")


def peak_resident_bytes() -> int:
    """Largest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _perplexity(loss: float) -> float:
    """The exponential of the mean loss; infinite where a float cannot hold it."""
    return math.exp(loss) if loss < 700 else math.inf
