"""`scmf-train --dry-run`: everything is built, two steps are run, nothing is written."""

from __future__ import annotations

import math
import sys

import numpy as np

from scmf.core.batch import StepBatch
from scmf.core.text import counted
from scmf.data.reading import memory_bytes
from scmf.model.device import peak_memory
from scmf.train.agreement import on_first
from scmf.train.config import MainConfig
from scmf.train.console import describe_seconds
from scmf.train.engine import StepReport
from scmf.train.flops import utilisation
from scmf.train.hardware import peak_flops
from scmf.train.interval import peak_resident_bytes
from scmf.train.layout import Layout
from scmf.train.plan.estimate import Plan, make_plan
from scmf.train.plan.report import parts_of, work_of
from scmf.train.plan.target import Target
from scmf.train.plan.workload import Workload, shapes_of
from scmf.train.run import Resolved, build_trainer, describe
from scmf.train.start import check_weights
from scmf.train.trainer import Trainer


def dry_run(config: MainConfig, layout: Layout) -> None:
    """Build, run two steps (the first also compiles and allocates), print what a run would cost.

    Args:
        config: checked, and fitting the world.
        layout: this rank's place.

    Raises:
        ScmfError: what the run would raise at its start.
    """
    trainer, resolved = build_trainer(config, layout)
    on_first(lambda: check_weights(trainer))
    batches = [trainer.stream.step(number * config.data.global_batch_size) for number in (0, 1)]
    reports = [trainer.engine.train_step(batch, step=number) for number, batch in enumerate(batches)]
    if layout.world.is_first:
        lines = [*describe(trainer, resolved), *_report(trainer, resolved, batches, reports[-1])]
        sys.stdout.write("\n".join(lines) + "\n")


def _report(trainer: Trainer, resolved: Resolved, batches: list[StepBatch], report: StepReport) -> list[str]:
    plan = _plan(trainer, resolved, batches)
    whole = report.seconds * resolved.max_steps
    return [
        _batch_line(batches[0], trainer),
        _work_line(plan, report.seconds),
        f"memory {_memory(trainer.engine.layout)} at its peak on the first rank",
        f"parts  {plan.memory.total / 1e9:.2f} GB by formula with the largest microbatch: {parts_of(plan.memory)}",
        (
            f"speed  {report.seconds:.2f} s a step, {report.cells / report.seconds:.1f} {trainer.stream.noun}s/s, "
            f"{report.loss.tokens / report.seconds:,.0f} tokens/s; about {describe_seconds(whole)} for "
            f"{counted(resolved.max_steps, 'step')}, validation and saving not counted"
        ),
        f"loss   {report.loss.mean:.3f} nats a predicted token after one step",
    ]


def _plan(trainer: Trainer, resolved: Resolved, batches: list[StepBatch]) -> Plan:
    """The plan of the run on the ranks that it has, for the steps that were run."""
    config, stream, device = trainer.config, trainer.stream, trainer.engine.layout.world.device
    packing, pad = config.data.packing, getattr(stream.vocabulary, "pad", None)
    given = config.trainer.log.peak_tflops
    steps = tuple(shapes_of(batch, packing=packing, pad=pad) for batch in batches)
    lengths = np.sort(np.concatenate([shape.cells for step in steps for shape in step]))
    units = sum(len(microbatch.cell_ids) for batch in batches for microbatch in batch.microbatches)
    workload = Workload(
        steps=steps,
        lengths=lengths,
        batch=config.data.global_batch_size,
        replicas=resolved.replicas,
        vocabulary_size=len(stream.vocabulary),
        noun=stream.noun,
        pieces=len(lengths) / units,
    )
    target = Target(
        title=resolved.device,
        gpu=device.type != "cpu",
        memory=memory_bytes(),
        peak=peak_flops(resolved.device, resolved.precision) if given is None else given * 1e12,
        precision=resolved.precision,
        devices=resolved.ranks,
        replicas=resolved.replicas,
        here=True,
    )
    return make_plan(config, target, workload)


def _batch_line(batch: StepBatch, trainer: Trainer) -> str:
    width = len(batch.microbatches[0].input_ids)
    tokens = sum(m.tokens for m in batch.microbatches)
    count = len(batch.microbatches)
    replicas = counted(trainer.engine.layout.replicas, "replica")
    return (
        f"batch  {counted(batch.cells, trainer.stream.noun)} on {replicas}; "
        f"the first replica's share is {tokens:,} tokens in {counted(count, 'microbatch', 'microbatches')} of "
        f"{width:,} positions ({tokens / (count * width):.0%} filled)"
    )


def _work_line(plan: Plan, seconds: float) -> str:
    """FLOPs a cell, and the share of the peak where one is known."""
    ranks = plan.config.trainer.parallel.model_ranks
    mfu = utilisation(plan.products.real / ranks, seconds=seconds, peak=plan.target.peak)
    known = "" if math.isnan(mfu) else f"; MFU {mfu:.1%}"
    return f"work   {work_of(plan)}{known}"


def _memory(layout: Layout) -> str:
    gpu = peak_memory(layout.world.device)
    resident = f"{peak_resident_bytes() / 1e9:.2f} GB resident"
    return f"{gpu / 1e9:.2f} GB of GPU memory, {resident}" if gpu else resident
