"""The part of a run that computes: model, optimizer, passes. In: config and layout. Out: steps and losses."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from scmf.core.batch import StepBatch
from scmf.model.device import marks_of
from scmf.model.megatron import MegatronOptimizer
from scmf.model.seam import cuda_type_names
from scmf.model.transformer import Transformer, VocabularyShape
from scmf.model.transformer_config import Arithmetic, Fp8, Precision
from scmf.train.config import MainConfig
from scmf.train.ema import Average
from scmf.train.fsdp import ShardedModel, ShardedOptimizer
from scmf.train.gradients import gather_parameters, squared_norm, wrap_stages
from scmf.train.layout import Layout, seed_step
from scmf.train.losses import LossSum
from scmf.train.objective import losses_of
from scmf.train.optimizer import apply_settings, build_optimizer, loss_scale_can_fall, update
from scmf.train.phases import Clock, listen_to_waits
from scmf.train.sharded import load_shards, load_weights, stage_shards
from scmf.train.staging import Staging, WriteShards
from scmf.train.step import Passes


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
    overflow: bool = False
    """The step was left out because fp16's loss scale was too high, and the scale was halved: no fault."""


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
        precision: Precision,
    ) -> None:
        trainer = config.trainer
        self.layout = layout
        self.max_steps = max_steps
        self.precision = precision
        self.settings = trainer
        # Before the model is built: Transformer Engine asks then whether the ranks have random states of their own.
        seed_step(layout, seed=trainer.seed, step=0)
        sharded = trainer.parallel.fsdp
        self.stages: tuple[Transformer, ...] = tuple(
            config.model.build(
                vocabulary=vocabulary,
                groups=layout.groups,
                layout=replace(layout.model, turn=turn),
                precision=self._arithmetic(),
                seed=trainer.seed,
            )
            for turn in range(layout.model.interleave)
        )
        """This rank's part of the model: one stage, or the interleaved ones in the order of the layers."""
        models, self.optimizer = self._share_out() if sharded else self._replicate()
        for stage in self.stages:
            stage.config.grad_scale_func = self.optimizer.scale_loss
        self.passes = Passes(models, layout, objectives=losses_of(config.model.task), in_step=sharded)
        self.n_parameters = sum(count_parameters(stage, layout) for stage in self.stages)
        """Trained numbers of the whole model, a tied matrix counted once."""
        self.average = None if trainer.ema is None else Average(self.optimizer, trainer.ema)
        """Running average of the weights, where the config asks for one."""
        self._staging = Staging()
        self.clock = Clock(mark=marks_of(layout.world.device))
        """Where this rank's time goes."""
        for stage in self.stages:
            listen_to_waits(stage.config, self.clock, ranks=layout.world.size)

    def _arithmetic(self) -> Arithmetic:
        fp8 = self.settings.fp8
        if self.precision == "fp8":
            return Fp8(fp8.recipe, first_bf16=fp8.first_bf16, last_bf16=fp8.last_bf16)
        return self.precision

    def _replicate(self) -> tuple[tuple[Any, ...], MegatronOptimizer]:
        """Every replica has the whole of its stages; the optimizer's state is whole or shared out."""
        shard = self.settings.parallel.shard_optimizer
        stages = [stage.to(self.layout.world.device) for stage in self.stages]
        models = wrap_stages(stages, self.layout, shard_optimizer=shard)
        groups, precision = self.layout.groups, self.precision
        return models, build_optimizer(models, self.settings.optimizer, groups=groups, precision=precision, shard=shard)

    def _share_out(self) -> tuple[tuple[Any, ...], Any]:
        """Everything is shared out over the replicas."""
        model = ShardedModel(self.encoder, self.layout, precision=self.precision)
        optimizer = ShardedOptimizer(model, self.settings.optimizer, self.layout, precision=self.precision)
        apply_settings(optimizer, self.settings.optimizer)
        return (model,), optimizer

    @property
    def encoder(self) -> Transformer:
        """The stage of a rank that has one."""
        (stage,) = self.stages
        return stage

    def train_step(self, batch: StepBatch, *, step: int, reductions: int = 0) -> StepReport:
        """Forward, backward, clip, update; a step whose loss or gradient is not finite changes nothing.

        Args:
            batch: this replica's microbatches.
            step: from 0.
            reductions: times that a plateau schedule has lowered the rate.
        """
        begun = time.perf_counter()
        peak, schedule = self.settings.optimizer.lr, self.settings.schedule
        lr = schedule.rate(step, peak=peak, max_steps=self.max_steps, reductions=reductions)
        seed_step(self.layout, seed=self.settings.seed, step=step)
        # Megatron hands the gradient buffer to the optimizer as `.grad`: left there, backward would add to it twice.
        self.optimizer.zero_grad()
        with self.clock.phase("forward_backward"):
            sums = self.passes.train(batch)
            with cuda_type_names():
                overflow = self.optimizer.prepare_grads()  # under fp16 the host waits for the device here too
            # The one place of a step in which the host waits for the device.
            *sums_here, square = torch.cat([sums, squared_norm(self.optimizer).view(1)]).tolist()
        loss = self.passes.objectives.read(sums_here)
        norm = math.sqrt(square) if math.isfinite(square) and math.isfinite(loss.total) else None
        if norm is not None:
            with self.clock.phase("optimizer"):
                update(self.optimizer, self.settings.optimizer, lr=lr, norm=norm)
                if self.average is not None:
                    self.average.follow(step=step)
        overflow = overflow and math.isfinite(loss.total) and loss_scale_can_fall(self.optimizer)
        return StepReport(loss, norm, lr, batch.cells, time.perf_counter() - begun, overflow=overflow)

    def evaluate(self, batches: Iterable[StepBatch]) -> LossSum:
        """Loss of held-out cells; draws no random numbers."""
        return self.passes.evaluate(batches)

    def evaluate_average(self, batches: Iterable[StepBatch]) -> LossSum:
        """The same with the averaged weights; collective.

        Raises:
            RuntimeError: the config keeps none.
        """
        if self.average is None:
            raise RuntimeError("trainer.ema is null: there are no averaged weights")
        with self.average.in_place(self.passes.models):
            return self.passes.evaluate(batches)

    def stage(self) -> WriteShards:
        """Copy this rank's state to the host, for a save that is written while the run goes on; collective."""
        gather_parameters(self.passes.models)
        return stage_shards(self._staging, stages=self.stages, optimizer=self.optimizer, layout=self.layout)

    def save(self, folder: Path) -> None:
        """Write this rank's shards, and wait until they are on disk; collective."""
        self.stage()(folder, None)

    def load(self, folder: Path) -> None:
        """Read weights and optimizer state; collective."""
        load_shards(folder, stages=self.stages, optimizer=self.optimizer, layout=self.layout)
        # The groups come back with the settings they were saved with; this run's config decides.
        apply_settings(self.optimizer, self.settings.optimizer)

    def load_weights(self, folder: Path, *, average: bool = False) -> None:
        """Read weights alone; collective. Heads about whole cells that the checkpoint does not have stay as drawn.

        Args:
            folder: of a checkpoint.
            average: read the running average that trainer.ema has kept, not the weights themselves.

        Raises:
            CheckpointError: unreadable, of another model, or without an average.
        """
        load_weights(folder, stages=self.stages, layout=self.layout, average=average, new_heads=True)
        # Under bf16 the optimizer holds the fp32 originals.
        self.optimizer.reload_model_params()
        if self.average is not None:
            self.average.begin()


def count_parameters(encoder: Transformer, layout: Layout) -> int:
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
