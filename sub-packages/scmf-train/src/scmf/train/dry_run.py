"""`scmf-train --dry-run`: everything is built, two steps are run, nothing is written."""

from __future__ import annotations

import sys

from scmf.core.batch import StepBatch
from scmf.core.text import counted
from scmf.model.device import peak_memory
from scmf.train.agreement import on_first
from scmf.train.config import MainConfig
from scmf.train.console import describe_seconds
from scmf.train.interval import peak_resident_bytes
from scmf.train.layout import Layout
from scmf.train.run import build_trainer, describe
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
    batch = trainer.stream.step(0)
    trainer.engine.train_step(batch, step=0)
    report = trainer.engine.train_step(trainer.stream.step(batch.cells), step=1)
    if not layout.world.is_first:
        return
    whole = report.seconds * resolved.max_steps
    lines = [
        *describe(trainer, resolved),
        *_batch_lines(batch, trainer),
        f"memory {_memory(layout)} at its peak on the first rank",
        (
            f"speed  {report.seconds:.2f} s a step, {report.cells / report.seconds:.1f} {trainer.stream.noun}s/s, "
            f"{report.loss.tokens / report.seconds:,.0f} tokens/s; about {describe_seconds(whole)} for "
            f"{counted(resolved.max_steps, 'step')}, validation and saving not counted"
        ),
        f"loss   {report.loss.mean:.3f} nats a predicted token after one step",
    ]
    sys.stdout.write("\n".join(lines) + "\n")


def _batch_lines(batch: StepBatch, trainer: Trainer) -> list[str]:
    width = len(batch.microbatches[0].input_ids)
    tokens = sum(m.tokens for m in batch.microbatches)
    count = len(batch.microbatches)
    replicas = counted(trainer.engine.layout.replicas, "replica")
    return [
        (
            f"batch  {counted(batch.cells, trainer.stream.noun)} on {replicas}; "
            f"the first replica's share is {tokens:,} tokens in {counted(count, 'microbatch', 'microbatches')} of "
            f"{width:,} positions ({tokens / (count * width):.0%} filled)"
        )
    ]


def _memory(layout: Layout) -> str:
    gpu = peak_memory(layout.world.device)
    resident = f"{peak_resident_bytes() / 1e9:.2f} GB resident"
    return f"{gpu / 1e9:.2f} GB of GPU memory, {resident}" if gpu else resident
