"""The part of a run that computes: model, optimizer, passes. In: config and layout. Out: steps and losses."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist

from scmf.core.batch import StepBatch
from scmf.core.errors import TrainingError
from scmf.model.encoder import Encoder, VocabularyShape
from scmf.model.megatron import (
    DistributedDataParallel,
    DistributedDataParallelConfig,
    MegatronOptimizer,
    finalize_model_grads,
)
from scmf.train.config import MainConfig
from scmf.train.layout import Layout, seed_step
from scmf.train.optimizer import apply_settings, build_optimizer, update
from scmf.train.schedule import learning_rate
from scmf.train.sharded import load_shards, load_weights, save_shards
from scmf.train.step import LossSum, Passes

BAD_STEPS_ALLOWED = 2


@dataclass(frozen=True, slots=True)
class StepReport:
    """One optimizer step, already reduced over all ranks."""

    loss: LossSum
    grad_norm: float | None
    """L2 norm before clipping; None where the step was left out because loss or gradient was not finite."""
    lr: float
    cells: int
    seconds: float
    """Wall time of the step, without waiting for data."""


class Engine:
    """One rank's share of the model with its optimizer.

    Args:
        config: of the run.
        layout: this rank's place.
        vocabulary: sizes of the embeddings.
        max_steps: horizon of the schedule.
        precision: of parameters and activations.
    """

    def __init__(
        self,
        config: MainConfig,
        *,
        layout: Layout,
        vocabulary: VocabularyShape,
        max_steps: int,
        precision: Literal["fp32", "bf16"],
    ) -> None:
        trainer = config.trainer
        self.layout = layout
        self.max_steps = max_steps
        self.precision = precision
        self.settings = trainer
        # Before the model is built: Transformer Engine asks then whether the ranks have random states of their own.
        seed_step(layout, seed=trainer.seed, step=0)
        self.encoder: Encoder = config.model.build(
            vocabulary=vocabulary,
            groups=layout.groups,
            layout=layout.model,
            precision=precision,
            seed=trainer.seed,
        ).to(layout.world.device)
        self.model = _wrap(self.encoder, layout.groups)
        self.optimizer: MegatronOptimizer = build_optimizer(
            self.model, trainer.optimizer, groups=layout.groups, precision=precision
        )
        self.encoder.config.grad_scale_func = self.optimizer.scale_loss
        self.passes = Passes(self.model, layout)
        self.n_parameters = count_parameters(self.encoder, layout)
        """Trained numbers of the whole model, a tied matrix counted once."""
        self._bad_steps = 0

    def train_step(self, batch: StepBatch, *, step: int) -> StepReport:
        """Forward, backward, clip, update.

        Args:
            batch: this replica's microbatches.
            step: from 0.

        Raises:
            TrainingError: loss or gradient has not been finite three steps in a row.
        """
        begun = time.perf_counter()
        lr = learning_rate(self.settings.schedule, peak=self.settings.optimizer.lr, step=step, max_steps=self.max_steps)
        seed_step(self.layout, seed=self.settings.seed, step=step)
        # Megatron hands the gradient buffer to the optimizer as `.grad`: left there, backward would add to it twice.
        self.optimizer.zero_grad()
        loss = self.passes.train(batch)
        norm = update(self.optimizer, self.settings.optimizer, lr=lr) if math.isfinite(loss.total) else None
        self._count_bad(norm, loss, step)
        return StepReport(loss, norm, lr, batch.cells, time.perf_counter() - begun)

    def _count_bad(self, norm: float | None, loss: LossSum, step: int) -> None:
        self._bad_steps = 0 if norm is not None else self._bad_steps + 1
        if self._bad_steps > BAD_STEPS_ALLOWED:
            raise TrainingError(
                f"loss or gradient was not finite {self._bad_steps} steps in a row; the last loss was {loss.mean}",
                where=f"step {step + 1}",
                fix="resume from an earlier checkpoint with a lower trainer.optimizer.lr or a longer warm-up",
            )

    def evaluate(self, batches: Iterable[StepBatch]) -> LossSum:
        """Loss of held-out cells; draws no random numbers."""
        return self.passes.evaluate(batches)

    def save(self, folder: Path) -> None:
        """Write this rank's shards; collective."""
        save_shards(folder, encoder=self.encoder, optimizer=self.optimizer, layout=self.layout)

    def load(self, folder: Path) -> None:
        """Read weights and optimizer state; collective."""
        load_shards(folder, encoder=self.encoder, optimizer=self.optimizer, layout=self.layout)
        # The groups come back with the settings they were saved with; this run's config decides.
        apply_settings(self.optimizer, self.settings.optimizer)

    def load_weights(self, folder: Path) -> None:
        """Read weights alone; collective."""
        load_weights(folder, encoder=self.encoder, layout=self.layout)
        # Under bf16 the optimizer holds the fp32 originals.
        self.optimizer.reload_model_params()


def _wrap(encoder: Encoder, groups: Any) -> Any:
    """Megatron's gradient buffers and reductions around a stage."""
    settings = DistributedDataParallelConfig(grad_reduce_in_fp32=True, use_distributed_optimizer=False)
    encoder.config.finalize_model_grads_func = finalize_model_grads
    return DistributedDataParallel(encoder.config, settings, encoder, pg_collection=groups)


def count_parameters(encoder: Encoder, layout: Layout) -> int:
    """Sum over the ranks of one copy of the model: split tensors wholly, replicated and shared ones once."""
    own = 0
    for name, parameter in encoder.named_parameters():
        split = getattr(parameter, "tensor_model_parallel", False)
        copy_of_embedding = name == "output_layer.weight"
        if not copy_of_embedding and (split or layout.groups.tp.rank() == 0):
            own += parameter.numel()
    total = torch.tensor(own, device=layout.world.device)
    dist.all_reduce(total, group=layout.groups.mp)
    return int(total)
