"""A run put together. In: a checked config and this rank's place. Out: a trainer, ready to fit or to be asked."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from scmf.core.config_write import to_yaml
from scmf.core.text import counted
from scmf.data.config import DataConfig
from scmf.data.step_stream import Replica, StepStream
from scmf.data.stream_report import report_stream
from scmf.model.device import can_compile, device_name
from scmf.model.spec import choose_kernels
from scmf.model.transformer import VocabularyShape
from scmf.model.transformer_config import Precision
from scmf.train.agreement import on_first, refuse_unlike, together
from scmf.train.alignment import align_of
from scmf.train.capability import refuse_precision, this_machine
from scmf.train.config import MainConfig, ParallelConfig, with_steps
from scmf.train.console import Console
from scmf.train.engine import Engine
from scmf.train.layout import Layout
from scmf.train.memory import describe_microbatch, fit_microbatch
from scmf.train.metrics import Metrics, MetricsFile, MetricSink, TensorBoardMirror
from scmf.train.objective import objective_of, predicted_share, with_labels
from scmf.train.observers import find_classes, make_observers
from scmf.train.optimizer import describe_optimizer
from scmf.train.out_of_memory import refuse_memory_history, told_when_memory_runs_out
from scmf.train.profiler import refuse_profile
from scmf.train.run_directory import RunDirectory, start_record
from scmf.train.signals import REQUEUE
from scmf.train.stalls import refuse_without_validation
from scmf.train.start import claim
from scmf.train.trainer import Trainer
from scmf.train.utilisation import find_meter
from scmf.train.validation import open_named
from scmf.train.wandb_mirror import WandbMirror, refuse_without_wandb, run_id

_SAME_DATA = "give all nodes the same store: on a file system that they share, or copied from the first rank's node"


@dataclass(frozen=True)
class Resolved:
    """What every `auto` of the config became on this machine."""

    precision: Precision
    kernels: str
    device: str
    ranks: int
    replicas: int
    max_steps: int
    microbatch: str = "as configured"
    """What the `data` section's microbatch became where the one asked for did not fit into memory."""


def open_cells(config: MainConfig, layout: Layout) -> StepStream:
    """This replica's cells (or windows), with what the task hides or shifts.

    Raises:
        StoreError: the store is missing or damaged.
        VocabularyError: no such vocabulary, or it does not fit the store.
    """
    stream: StepStream = config.data.open(
        objective=objective_of(config.model.task),
        seed=config.trainer.seed,
        replica=Replica(number=layout.replica, of=layout.replicas),
        align=align_of(config),
    )
    return stream


def resolve(config: MainConfig, layout: Layout, max_steps: int) -> Resolved:
    """Decide every `auto`.

    Raises:
        MachineError: this machine cannot compute so, or would unnoticed do it slowly.
    """
    device, precision = layout.world.device, config.trainer.precision
    if precision == "auto":
        precision = "bf16" if device.type == "cuda" else "fp32"
    refuse_precision(precision, config.trainer.fp8.recipe, this_machine(device))
    refuse_profile(config.trainer.profile, device)
    refuse_memory_history(config.trainer.log.memory_history, device)
    return Resolved(
        precision=precision,
        kernels=_kernels(precision, device),
        device=device_name(layout.world.device),
        ranks=layout.world.size,
        replicas=layout.replicas,
        max_steps=max_steps,
    )


def _kernels(precision: Precision, device: torch.device) -> str:
    """The layers' kernels, in a word or two."""
    apart = device.type == "cuda" and not can_compile()
    kernels: str = choose_kernels(precision)
    return f"{kernels} (dropout unfused: no C compiler with Python's headers)" if apart else kernels


def build_trainer(config: MainConfig, layout: Layout) -> tuple[Trainer, Resolved]:
    """Open the cells and build the model; nothing is written.

    Raises:
        ScmfError: any section that cannot be built here.
    """
    stream = together(lambda: open_cells(config, layout))
    refuse_unlike({f"data {name}": value for name, value in stream.fingerprint.items()}, fix=_SAME_DATA)
    together(lambda: refuse_without_validation(config.trainer, stream.n_validation))
    named = together(lambda: open_named(config.trainer, stream))
    config = together(lambda: with_labels(with_steps(config, stream.n_train), stream))
    resolved = together(lambda: resolve(config, layout, config.trainer.steps))
    seq_length = config.data.tokenizer.seq_length
    engine = Engine(
        config,
        layout=layout,
        vocabulary=VocabularyShape(size=len(stream.vocabulary), seq_length=seq_length),
        max_steps=resolved.max_steps,
        precision=resolved.precision,
    )
    smaller = fit_memory(config, engine)
    if smaller is not config.data:
        config = config.replace(data=smaller)
        resolved = replace(resolved, microbatch=describe_microbatch(smaller))
        stream = together(lambda: open_cells(config, layout))
        named = together(lambda: open_named(config.trainer, stream))
    directory = RunDirectory(Path(config.trainer.result_dir))
    files = {"config.yaml": to_yaml(config).encode()} if layout.world.is_first else {}
    if layout.world.is_first:
        files["vocabulary.parquet"] = _vocabulary_file(stream)
    trainer = Trainer(config, engine=engine, stream=stream, directory=directory, files=files, named=named)
    return trainer, resolved


def fit_memory(config: MainConfig, engine: Engine) -> DataConfig:
    """The `data` section with a microbatch that fits, where trainer.faults.probe_memory asks to try.

    Raises:
        MachineError: none fits.
    """
    wanted, layout = config.trainer.on_fault.probe_memory, engine.layout
    # Under FSDP a pass is a meeting of all ranks: one without memory would leave the others waiting.
    hopeless = layout.world.device.type == "cpu" or config.trainer.parallel.fsdp
    if wanted is False or (wanted == "auto" and hopeless):
        return config.data
    masked = predicted_share(objective_of(config.model.task))
    return fit_microbatch(config.data, engine, masked=masked, align=align_of(config))


def run(config: MainConfig, layout: Layout, *, resume: str | None) -> int:
    """Train a config to its end, from the start or from a checkpoint.

    Args:
        config: checked, and fitting the world.
        layout: this rank's place.
        resume: None, "auto" or a path.

    Returns:
        The exit code: 0, or REQUEUE where a signal has asked the run to end and it has saved.

    Raises:
        ScmfError: what the user can mend.
    """
    if resume is None:
        on_first(RunDirectory(Path(config.trainer.result_dir)).refuse_to_overwrite)  # before minutes of building
    on_first(lambda: refuse_without_wandb(config.trainer.log.wandb))
    classes = together(lambda: find_classes(config.trainer.observers))
    trainer, resolved = build_trainer(config, layout)
    by_epochs = config.trainer.max_epochs is not None
    with ExitStack() as stack:
        start = on_first(lambda: claim(trainer, stack, resume=resume, by_epochs=by_epochs))
        together(lambda: start.check_visible(trainer.directory))
        console = stack.enter_context(together(lambda: _open(trainer, resolved)))
        start.take(trainer, console)
        if trainer.over:
            console.say(f"nothing to do: {_why_over(trainer)}", level=0)
            return 0
        _observe(trainer, classes, console)
        metrics = stack.enter_context(_metrics(trainer, console))
        ended, folder = _fit(trainer, metrics, console), trainer.directory.path
        if not ended and trainer.observer_stop is None:
            console.say(
                f"asked to end: saved at step {trainer.step:,}, exit code {REQUEUE}; --resume auto goes on", level=0
            )
            return REQUEUE
        together(lambda: _note_end(trainer))
        if trainer.observer_stop is not None:
            console.say(f"an observer has ended the run at step {trainer.step:,}: {trainer.observer_stop}")
        seen = counted(trainer.cells_seen, trainer.stream.noun)
        console.say(f"done: {counted(trainer.step, 'step')}, {seen}; the run is in {folder}", level=0)
        return 0


def _why_over(trainer: Trainer) -> str:
    """Why a run that was resumed has no step left."""
    if trainer.step >= trainer.engine.max_steps:
        return (
            f"the run is at step {trainer.step:,} of {trainer.engine.max_steps:,}; a larger trainer.max_steps goes on"
        )
    return (
        f"trainer.early_stop has ended the run at step {trainer.step:,}; a larger trainer.early_stop.patience, or "
        "null, goes on"
    )


def _fit(trainer: Trainer, metrics: Metrics, console: Console) -> bool:
    """`Trainer.fit`, in which memory that runs out is told with what to change."""
    config, rank = trainer.config, trainer.engine.layout.world.rank
    history = config.trainer.log.memory_history
    with told_when_memory_runs_out(trainer.directory.path, history=history, rank=rank, data=config.data):
        return trainer.fit(metrics, console)


def _observe(trainer: Trainer, classes: Sequence[type], console: Console) -> None:
    """Make the user's observers, before anything of this start is measured."""
    entries, rank = trainer.config.trainer.observers, trainer.engine.layout.world.rank
    trainer.observers = together(lambda: make_observers(entries, classes, rank=rank, warn=console.warn))
    for entry in entries:
        console.say(f"watch  {entry.observer}")


def _note_end(trainer: Trainer) -> None:
    """Why the run has ended, in run.json."""
    if not trainer.engine.layout.world.is_first:
        return
    end: dict[str, Any] = {"reason": "early_stop" if trainer.stopped_early else "max_steps", "step": trainer.step}
    if trainer.observer_stop is not None:
        end |= {"reason": "observer", "why": trainer.observer_stop}
    trainer.directory.note_end({**end, "best": trainer.stalls.stop.best})


def _open(trainer: Trainer, resolved: Resolved) -> Console:
    """Write the run's records on the first rank, and say what is about to run."""
    layout = trainer.engine.layout
    trainer.meter, unmetered = find_meter(
        trainer.config,
        trainer.stream,
        device=resolved.device,
        precision=resolved.precision,
        ranks=layout.world.size,
    )
    if not layout.world.is_first:
        return Console(None, total=resolved.max_steps)
    directory = trainer.directory
    said, reading = report_stream(trainer.stream)
    facts = {"resolved": vars(resolved), "data": trainer.stream.fingerprint, "reading": reading, **_sizes(trainer)}
    if trainer.config.trainer.log.wandb is not None:
        facts["wandb"] = {"id": run_id(directory), "project": trainer.config.trainer.log.wandb.project}
    directory.begin(to_yaml(trainer.config), start_record(**facts))
    trainer.checkpoints.remove_unfinished()
    console = Console(directory.log, total=resolved.max_steps, verbosity=trainer.config.trainer.log.verbosity)
    for line in (*describe(trainer, resolved), *said):
        console.say(line)
    # A CPU's peak is nobody's question: the log says it, and the screen with -v.
    console.say(unmetered, level=2 if layout.world.device.type == "cpu" else 1)
    return console


def describe(trainer: Trainer, resolved: Resolved) -> list[str]:
    """What is about to run, for the console."""
    config, stream = trainer.config, trainer.stream
    sizes = _sizes(trainer)
    batch = config.data.global_batch_size
    a_step = counted(batch, stream.noun)
    layout, ema = trainer.engine.layout, config.trainer.ema
    units = "" if stream.noun == "cell" else f" {stream.noun}s"
    lines = [
        (
            f"data   {stream.store.contents}: {stream.n_train:,} train, {stream.n_validation:,} validation{units}; "
            f"vocabulary {stream.vocabulary.name} ({len(stream.vocabulary):,} tokens)"
        ),
        (
            f"model  {sizes['parameters']:,} parameters, {resolved.precision}, {resolved.kernels} kernels on "
            f"{resolved.device}"
        ),
        (
            f"ranks  {resolved.ranks} = tensor {layout.model.tensor} x pipeline {layout.model.pipeline} x data "
            f"{resolved.replicas}{_ways(config.trainer.parallel)}; {a_step} a step, "
            f"{counted(resolved.max_steps, 'step')}, {resolved.max_steps * batch / stream.n_train:.1f} epochs"
        ),
        describe_optimizer(config.trainer.optimizer, ema=None if ema is None else ema.decay),
    ]
    if resolved.microbatch != Resolved.microbatch:
        lines.append(f"memory the microbatch asked for did not fit; {resolved.microbatch} does, {a_step} a step")
    if batch > stream.n_train:
        lines.append(
            f"note   a step of {a_step} takes each of the {stream.n_train:,} training {stream.noun}s more "
            f"than once; data.global_batch_size={stream.n_train} would not"
        )
    return lines


def _ways(parallel: ParallelConfig) -> str:
    """What else is laid out otherwise than by default."""
    said = {
        f"{parallel.interleave} stages a pipeline rank": parallel.interleave > 1,
        "sequence parallel": parallel.sequence,
        "optimizer shared out": parallel.shard_optimizer,
        "weights shared out (FSDP)": parallel.fsdp,
        f"{parallel.recompute} recompute": parallel.recompute != "none",
    }
    words = ", ".join(word for word, holds in said.items() if holds)
    return f" ({words})" if words else ""


def _sizes(trainer: Trainer) -> dict[str, Any]:
    return {
        "parameters": trainer.engine.n_parameters,
        "train_cells": trainer.stream.n_train,
        "validation_cells": trainer.stream.n_validation,
    }


def _metrics(trainer: Trainer, console: Console) -> Metrics:
    """The sinks of the first rank; the others have none."""
    if not trainer.engine.layout.world.is_first:
        return together(Metrics)
    return together(lambda: Metrics(MetricsFile(trainer.directory.metrics), _mirrors(trainer), console.warn))


def _mirrors(trainer: Trainer) -> dict[str, MetricSink]:
    mirrors: dict[str, MetricSink] = {}
    if trainer.config.trainer.log.tensorboard:
        mirrors["TensorBoard"] = TensorBoardMirror(trainer.directory.tensorboard, first_step=trainer.step + 1)
    wandb = trainer.config.trainer.log.wandb
    if wandb is not None:
        settings = trainer.config.model_dump(mode="json")
        identity = run_id(trainer.directory)
        mirrors["Weights & Biases"] = WandbMirror(trainer.directory.path, wandb, identity=identity, settings=settings)
    return mirrors


def _vocabulary_file(stream: StepStream) -> bytes:
    """The vocabulary artefact as it is written to disk."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocabulary.parquet"
        stream.vocabulary.save(path)
        return path.read_bytes()
