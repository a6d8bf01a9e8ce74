"""The loop of a run. In: an engine, cells, a folder. Out: a trained checkpoint and its measurements."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from scmf.core.batch import ReplacedCell, StepBatch
from scmf.core.text import counted
from scmf.data.lookahead import LookAhead
from scmf.data.step_stream import Moving, StepStream
from scmf.train import checkpoint
from scmf.train.agreement import Council, RankFault, Standing, attempt, first_fault, on_first, stop_on
from scmf.train.checkpoint import CheckpointFolder, Progress
from scmf.train.config import MainConfig
from scmf.train.console import Console
from scmf.train.engine import Engine, StepReport
from scmf.train.faults import Tally, must_roll_back, refuse_bad_cells
from scmf.train.identity import model_identity, optimizer_identity, other_versions
from scmf.train.interval import Interval, peak_bytes, step_line, time_line
from scmf.train.loss_average import LossAverage
from scmf.train.metrics import Metrics
from scmf.train.observer import EndEvent, Ending, ValidationEvent
from scmf.train.observers import Observers, checkpoint_event, step_event
from scmf.train.past import cut_records, drop_what_followed
from scmf.train.profiler import Profiler
from scmf.train.records import Records
from scmf.train.rollback import Failure, give_way
from scmf.train.run_directory import RunDirectory, versions
from scmf.train.saver import Saver, SaveReport
from scmf.train.seen_cells import SeenRecord
from scmf.train.signals import StopSignals
from scmf.train.stalls import Stalls, watches_validation
from scmf.train.utilisation import Meter
from scmf.train.validation import Validation
from scmf.train.watchdog import Watchdog


class Trainer:
    """One run on one rank.

    Args:
        config: resolved.
        engine: model and optimizer.
        stream: this replica's cells.
        directory: of the run.
        files: small files that travel with every checkpoint: config.yaml and the vocabulary.
        named: more held-out cells, by name; each a stream whose validation cells they are.
    """

    def __init__(
        self,
        config: MainConfig,
        *,
        engine: Engine,
        stream: StepStream,
        directory: RunDirectory,
        files: dict[str, bytes],
        named: Mapping[str, StepStream] = MappingProxyType({}),
    ) -> None:
        self.config = config
        self.engine = engine
        self.stream = stream
        self.directory = directory
        self.files = files
        self.checkpoints = CheckpointFolder(directory.checkpoints, config.trainer.checkpoint)
        world = engine.layout.world
        self.saver = Saver(self.checkpoints, background=config.trainer.checkpoint.background, timeout=world.timeout)
        self.validation = Validation(config.trainer, engine=engine, stream=stream, named=named)
        self.observers = Observers()
        """The user's own, once the run has begun."""
        self.observer_stop: str | None = None
        """Why an observer has ended the run; the same on every rank."""
        self.council = Council(world.timeout)
        self.watchdog = Watchdog(config.trainer.on_fault.hang_seconds, rank=world.rank, size=world.size)
        self.signals = StopSignals()
        self.step = 0
        self.cells_seen = 0
        self.tally = Tally()
        self.stalls = Stalls()
        self.loss_average = LossAverage()
        self.meter: Meter | None = None
        """Counts FLOPs, where the devices' peak is known."""
        self._first = world.is_first
        self.records = Records(directory, cell_ids=config.trainer.log.cell_ids, first=self._first)
        self.profiler = Profiler(config.trainer.profile, folder=directory.profile, world=world, clock=engine.clock)
        self._seen = SeenRecord(stream, first=self._first)
        groups = engine.layout.groups
        self._leads_replica = groups.tp.rank() == 0 and groups.pp.rank() == 0
        """Whether this rank speaks for its copy of the model, whose ranks all see the same cells."""

    def fit(self, metrics: Metrics, console: Console) -> bool:
        """Train from the present step to the last; a rollback begins again from its checkpoint.

        Returns:
            Whether the last step has been reached; False where the run was asked to end before it, and has saved.
        """
        with self.signals, self.watchdog:
            going = True
            while going and not self.over:
                with self._batches() as batches:
                    going = self._train(batches, metrics, console)
                if going and not self.over:
                    self._roll_back(metrics, console)
            self.profiler.end(console)
            self._leave_saved(console)
            self._end(metrics, going=going)
            stop_on(first_fault(self.records.fault or self.observers.fault))
        return going

    @property
    def stopped_early(self) -> bool:
        """Whether trainer.early_stop has ended the run; the same on every rank."""
        return self.stalls.ends(self.config.trainer.early_stop)

    @property
    def over(self) -> bool:
        """Whether no step is left to do."""
        return self.step >= self.engine.max_steps or self.stopped_early

    def _train(self, batches: LookAhead[StepBatch], metrics: Metrics, console: Console) -> bool:
        """Steps up to the last one, or to one that asks for a rollback; False where a signal asks to end."""
        faults, interval = self.config.trainer.on_fault, Interval(self.engine.clock, self.meter)
        while not self.over:
            batch, kiloflops = self._next(batches, console)
            if batch is None:
                return False
            self.profiler.before(self.step + 1)
            report = self.engine.train_step(batch, step=self.step, reductions=self.stalls.reductions)
            self.step += 1
            self.profiler.after(self.step, console)
            self.cells_seen += batch.cells
            self.tally = self.tally.after_step(good=report.grad_norm is not None or report.overflow)
            self.loss_average = self.loss_average.after(report.loss.mean, decay=self.config.trainer.log.loss_decay)
            interval.add(report, kiloflops=kiloflops)
            self._seen.note(batch.cell_ids)
            self.records.cells(self.step, batch.cell_ids.tolist())
            console.at(self.step)
            self._tell(report, interval, metrics, console)
            if must_roll_back(self.tally, faults, step=self.step, loss=report.loss.mean):
                return True
            self._hear_of_save(self.saver.finished(), console)
        return True

    def _end(self, metrics: Metrics, *, going: bool) -> None:
        """Tell the observers how it has ended, and write the last that they have to say."""
        reason: Ending = "early_stop" if self.stopped_early else "max_steps"
        if not going:
            reason = "signal" if self.signals.received is not None else "fault"
            reason = "observer" if self.observer_stop is not None else reason
        self.observers.tell("on_end", lambda: EndEvent(**self._here(), reason=reason))
        numbers = self.observers.take_numbers()
        if numbers:
            self.records.write(lambda: metrics.write(self.step, numbers))

    def _here(self) -> dict[str, Any]:
        """Where the run stands, for an event."""
        return {
            "step": self.step,
            "max_steps": self.engine.max_steps,
            "cells_seen": self.cells_seen,
            "epoch": self.stream.epoch(self.cells_seen),
            "directory": self.directory.path,
            "rank": self.engine.layout.world.rank,
        }

    def _next(self, batches: LookAhead[StepBatch], console: Console) -> tuple[StepBatch | None, int]:
        """The next batch, when all ranks have one, and its kiloflops over all replicas; None where the run has to end.

        Raises:
            ScmfError: some rank has no data, or cannot save any more; on one rank.
        """
        self.watchdog.beat(f"step {self.step + 1:,}")
        with self.engine.clock.phase("data_wait"):
            batch, error = attempt(lambda: next(batches))
        error = error or self.saver.failed_often(self.config.trainer.on_fault.failed_saves)
        bad = batch.replaced if batch is not None and self._leads_replica else ()
        heard = self._hear(batch, failed=error is not None, bad_cells=len(bad))
        if heard.failed:
            stop_on(first_fault(error))
        if heard.wishes:
            self.observer_stop = next((why for why in self.council.gather(self.observers.stop) if why), None)
        if heard.stop or heard.wishes:
            return None, 0
        if heard.bad_cells and batch is not None:
            batch = self._with_stand_ins(batch, bad, console)
        return batch, heard.kiloflops

    def _hear(self, batch: StepBatch | None, *, failed: bool, bad_cells: int) -> Standing:
        """How all ranks stand before a step; collective."""
        counts = self.meter is not None and batch is not None and self._leads_replica
        broken = self.records.fault is not None or self.observers.fault is not None
        mine = Standing(
            stop=int(self.signals.received is not None or broken),
            wishes=int(self.observers.stop is not None),
            failed=int(failed),
            bad_cells=bad_cells,
            kiloflops=self.meter.kiloflops(batch) if counts else 0,  # type: ignore[union-attr, arg-type]
        )
        with self.engine.clock.phase("communication") if self.engine.layout.world.size > 1 else nullcontext():
            return self.council.hear(mine)

    def _with_stand_ins(self, batch: StepBatch, mine: tuple[ReplacedCell, ...], console: Console) -> StepBatch:
        """The batch with the ids of the cells that all replicas really have, after counting those they lack."""
        replaced = [cell for cells in self.council.gather(mine) for cell in cells]
        self.tally = self.tally.with_bad_cells(len(replaced))
        for cell in replaced:
            console.warn(f"step {self.step + 1:,}: {cell}")
        _, error = attempt(lambda: refuse_bad_cells(self.tally, self.config.trainer.on_fault, step=self.step + 1))
        stop_on(None if error is None else RankFault(0, error))
        instead = {cell.cell_id: cell.instead for cell in replaced}
        cell_ids = [instead.get(cell, cell) for cell in batch.cell_ids.tolist()]
        return dataclasses.replace(batch, cell_ids=np.array(cell_ids, np.int64))

    def _batches(self) -> LookAhead[StepBatch]:
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

    def _tell(self, report: StepReport, interval: Interval, metrics: Metrics, console: Console) -> None:
        """Everything that is due after a step: numbers, validation, lines, a checkpoint."""
        due = self._due(self.config.trainer.log.every) or report.grad_norm is None
        self.observers.tell("on_step", lambda: step_event(report, logged=due, **self._here()))
        found = self._heard(self._validate(), console)
        numbers = (self._numbers(report, interval) if due else {}) | found
        user = self.observers.take_numbers()
        if numbers or user:
            self.records.write(lambda: metrics.write(self.step, numbers | user))
        if numbers:
            batch = self.config.data.global_batch_size
            parts = step_line(self.step, self.engine.max_steps, numbers, batch=batch, noun=self.stream.noun)
            console.say("  ".join(parts))
            console.say(time_line(numbers), level=2)
            console.at(self.step, parts[1])
        if self._due(self.config.trainer.checkpoint.every) or self.stopped_early:
            with self.engine.clock.phase("save"):
                self._save(console, numbers.get(self.config.trainer.checkpoint.metric))

    def _numbers(self, report: StepReport, interval: Interval) -> dict[str, float]:
        return {
            "epoch": self.stream.epoch(self.cells_seen),
            "cells_seen": self.cells_seen,
            **report.loss.numbers("train"),
            "train/loss_ema": self.loss_average.mean,
            "train/grad_norm": math.nan if report.grad_norm is None else report.grad_norm,
            "train/lr": report.lr,
            **(self.stream.numbers_at(self.cells_seen) if isinstance(self.stream, Moving) else {}),
            **self.tally.numbers(),
            **interval.numbers(),
            **peak_bytes(self.engine.layout.world.device),
        }

    def _validate(self) -> dict[str, float]:
        """Losses of held-out cells; nothing where they are not due or there are none."""
        if not self._due(self.config.trainer.validation.every):
            return {}
        self.watchdog.beat(f"validation at step {self.step:,}")
        with self.engine.clock.phase("validation"):
            return self.validation.losses()

    def _heard(self, numbers: dict[str, float], console: Console) -> dict[str, float]:
        """What a validation means for the rate and for the end of the run, in the first rank's words; collective."""
        trainer, before = self.config.trainer, self.stalls
        if not numbers:
            return numbers
        if watches_validation(trainer):
            self.stalls = on_first(lambda: before.after_validation(numbers, trainer))
            for line in self.stalls.lines(before, trainer, step=self.step):
                console.say(line)
        found = numbers | self.stalls.numbers(trainer)
        self.observers.tell("on_validation", lambda: ValidationEvent(**self._here(), numbers=MappingProxyType(found)))
        return found

    def progress(self, val_loss: float | None = None) -> Progress:
        """Where this run stands, and what it is."""
        layout = self.engine.layout
        return Progress(
            step=self.step,
            max_steps=self.engine.max_steps,
            cells_seen=self.cells_seen,
            seed=self.config.trainer.seed,
            val_loss=val_loss if val_loss is not None and math.isfinite(val_loss) else None,
            val_metric=self.config.trainer.checkpoint.metric,
            data=self.stream.fingerprint,
            model=model_identity(self.config, self.engine.precision),
            global_batch_size=self.config.data.global_batch_size,
            layout={"world": layout.world.size, "tensor": layout.model.tensor, "pipeline": layout.model.pipeline},
            versions=versions(),
            faults=self.tally,
            stalls=self.stalls,
            loss_average=self.loss_average,
            optimizer=optimizer_identity(self.config.trainer),
        )

    def _save(self, console: Console, val_loss: float | None = None) -> None:
        """Begin a checkpoint of the present step, after the one before has ended; collective."""
        self.watchdog.beat(f"the checkpoint of step {self.step:,}")
        self._hear_of_save(self.saver.wait(), console)
        files = self.files | self._seen.file()
        self.saver.save(self.progress(val_loss), stage=self.engine.stage, files=files)

    def _hear_of_save(self, report: SaveReport | None, console: Console) -> None:
        if report is None:
            return
        console.say(str(report)) if report.fault is None else console.warn(str(report))
        self.records.save(report)
        if report.fault is None:
            self.observers.tell("on_checkpoint", lambda: checkpoint_event(report, **self._here()))

    def _leave_saved(self, console: Console) -> None:
        """Have a checkpoint of the present step on disk.

        Raises:
            CheckpointError: it could not be written; the ones before are whole.
        """
        self.watchdog.beat("the last checkpoint")
        self._hear_of_save(self.saver.wait(), console)
        if self.saver.saved_step != self.step and self.saver.fault is None:
            self._save(console)
            self._hear_of_save(self.saver.wait(), console)
        stop_on(self.saver.fault)

    def resume(self, folder: Path, console: Console) -> None:
        """Go back to a checkpoint that has been checked: weights, optimizer, data position; collective."""
        progress = checkpoint.read_progress(folder)
        self._take(folder, progress)
        if self._first:
            for line in drop_what_followed(self.directory, self.checkpoints, step=self.step):
                console.say(line)
        console.say(
            f"resumed at step {self.step:,} after {counted(self.cells_seen, self.stream.noun)}, from {folder}", level=0
        )
        console.say(other_versions(self.progress(), progress))
        if progress.max_steps != self.engine.max_steps:
            console.say(f"max_steps was {progress.max_steps:,} and is {self.engine.max_steps:,}: the schedule follows")

    def _take(self, folder: Path, progress: Progress) -> None:
        self.engine.load(folder)
        self.step, self.cells_seen, self.tally = progress.step, progress.cells_seen, progress.faults
        self.stalls, self.loss_average = progress.stalls, progress.loss_average
        self._seen.take(folder, cells_seen=self.cells_seen)
        if folder.resolve().parent == self.checkpoints.path.resolve():
            self.saver.saved_step = progress.step

    def _roll_back(self, metrics: Metrics, console: Console) -> None:
        """Take the last good checkpoint, and go on behind the data that went wrong; collective.

        Raises:
            TrainingError: there is no checkpoint to go back to.
        """
        self.watchdog.beat("a rollback")
        self._hear_of_save(self.saver.wait(), console)
        failed_at = Failure(self.step, self.cells_seen, self.tally)
        folder, progress = on_first(lambda: give_way(self.checkpoints, self.directory, metrics, failed_at))
        self._take(folder, progress)
        start, stop = progress.faults.skipped_cells[-1]
        console.warn(
            f"rolled back from step {failed_at.step:,} to step {self.step:,}: loss or gradient was not finite "
            f"{self.config.trainer.on_fault.bad_steps} steps in a row; going on past cells {start:,} to {stop:,}"
        )

    def begin_again(self) -> None:
        """Set aside what a run without a checkpoint has written: its checkpoints may have been moved away."""
        if self._first:
            cut_records(self.directory, step=0, keep=True)
