"""The `trainer` section: length, layout, precision, optimizer, and what is kept. Values only."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from scmf.core.config import Config
from scmf.core.config_fault import Fault
from scmf.core.config_kind import Kinds
from scmf.core.errors import ConfigError
from scmf.train.faults import FaultsConfig
from scmf.train.log_config import LogConfig, ProfileConfig
from scmf.train.metric_names import MetricAlias
from scmf.train.observer_config import Observers
from scmf.train.optimizer_config import OPTIMIZERS, OptimizerConfig
from scmf.train.schedule import ALIASES, SCHEDULES, CosineConfig, PlateauConfig, ScheduleConfig
from scmf.train.validation_config import EarlyStopConfig, ValidateConfig, metric_fault

PositiveFloat = Annotated[float, Field(gt=0.0)]
Ranks = Annotated[int, Field(ge=1, le=65_536)]
Steps = Annotated[int, Field(ge=1, le=1_000_000_000)]
StepsOrNone = Annotated[int, Field(ge=0, le=1_000_000_000)]


class ParallelConfig(Config):
    """How the model is laid over ranks; data parallelism takes what is left of the world."""

    tensor: Ranks = 1
    """Ranks that share every layer's matrices; best within one machine."""
    pipeline: Ranks = 1
    """Stages of consecutive layers, each on ranks of its own."""
    interleave: Ranks = 1
    """Stages of every pipeline rank, dealt out in turns: ranks wait less, and send more. Needs pipeline above 1."""
    context: Ranks = 1
    """Ranks that share one cell's positions. Not available: 1."""
    sequence: bool = False
    """Sequence parallelism: norms and dropout are split over the tensor ranks too. Needs tensor above 1."""
    shard_optimizer: bool = False
    """Distributed optimizer: each data-parallel rank keeps and updates a share of the optimizer's state. ZeRO-1."""
    fsdp: bool = False
    """Fully sharded data parallelism (torch's): weights and gradients are shared out as well. For 1B and above."""
    recompute: Literal["none", "selective", "full"] = "none"
    """Activations computed again in the backward pass: none, those of the feed-forwards, or every layer's."""

    @property
    def model_ranks(self) -> int:
        """Ranks that hold one copy of the model."""
        return self.tensor * self.pipeline * self.context

    def faults(self) -> Iterator[Fault]:
        """What can be laid out at all."""
        yield from super().faults()
        if self.context > 1:
            yield Fault(
                "context",
                f"trainer.parallel.context={self.context} is not available: only Transformer Engine's attention on "
                "GPUs can share one cell's positions, and scmf has not been run with it",
                "write context: 1; for long cells lower data.microbatch_tokens, or raise trainer.parallel.tensor with "
                "sequence: true",
            )
        if self.interleave > 1 and self.pipeline == 1:
            yield Fault(
                "interleave",
                f"trainer.parallel.interleave={self.interleave} deals stages out to pipeline ranks, and "
                "trainer.parallel.pipeline=1",
                "write interleave: 1, or a larger pipeline",
            )
        yield from self._sharding_faults()
        if self.sequence and self.tensor == 1:
            yield Fault(
                "sequence",
                "trainer.parallel.sequence=true splits over the tensor ranks, and trainer.parallel.tensor=1",
                "write sequence: false, or a larger tensor",
            )

    def _sharding_faults(self) -> Iterator[Fault]:
        """FSDP is data parallelism, and shards the optimizer already."""
        if not self.fsdp:
            return
        if self.model_ranks > 1:
            yield Fault(
                "fsdp",
                f"trainer.parallel.fsdp=true shares whole layers out over data-parallel ranks, and "
                f"tensor={self.tensor}, pipeline={self.pipeline} split them already",
                "write fsdp: false and shard_optimizer: true, or tensor: 1 and pipeline: 1",
            )
        if self.shard_optimizer:
            yield Fault(
                "shard_optimizer",
                "trainer.parallel.shard_optimizer=true and trainer.parallel.fsdp=true are two ways to share out the "
                "optimizer's state",
                "write shard_optimizer: false; fsdp shares it out as well",
            )


class Fp8Config(Config):
    """Matrix products of the layers in eight bits, through Transformer Engine; everything else is bf16 or fp32."""

    recipe: Literal["current", "delayed", "block", "mxfp8"] = "current"
    """Scales: one a tensor from its present values, or from earlier ones; one a block; or MXFP8's (Blackwell)."""
    first_bf16: Annotated[int, Field(ge=0, le=4096)] = 0
    """Layers at the beginning of the model whose products stay in bf16."""
    last_bf16: Annotated[int, Field(ge=0, le=4096)] = 0
    """Layers at the end of the model whose products stay in bf16."""

    def faults(self) -> Iterator[Fault]:
        """Delayed scaling keeps its history around all layers at once."""
        yield from super().faults()
        if self.recipe == "delayed" and (self.first_bf16 or self.last_bf16):
            yield Fault(
                "recipe",
                f"trainer.fp8.recipe=delayed scales all layers in one context, and first_bf16={self.first_bf16}, "
                f"last_bf16={self.last_bf16} take some out (megatron-core 0.16.1 cannot)",
                "write recipe: current, or first_bf16: 0 and last_bf16: 0",
            )


class EmaConfig(Config):
    """A running average of the weights, in fp32, beside the weights that train."""

    decay: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.999
    """Share of the average that every step keeps; 0.999 averages about the last 1,000 steps."""
    warmup: bool = True
    """Keep less in early steps, (1 + step) / (10 + step), so that the first weights are soon forgotten."""
    # Not `validate`, which is pydantic's.
    validation: bool = Field(default=True, alias="validate")
    """Take the validation loss with the averaged weights too: val/ema_loss."""


class CheckpointConfig(Config):
    """When to save and what to keep."""

    every: Steps = 100
    """Steps between saves; the last step always saves."""
    keep_best: Annotated[int, Field(ge=0, le=10_000)] = 3
    """Checkpoints of lowest validation loss to keep."""
    metric: Annotated[str, MetricAlias] = "val/loss"
    """Loss that says which are best: val/loss, val/ema_loss, or val/NAME/loss of a split in trainer.validate.splits."""
    keep_last: Annotated[int, Field(ge=1, le=10_000)] = 2
    """Newest checkpoints to keep."""
    background: bool = True
    """Write while the run goes on, from a copy in host memory; false waits until everything is on disk."""


class TrainerConfig(Config):
    """Length, layout, precision, optimizer, and what is kept."""

    max_steps: Steps | None = None
    """Optimizer steps of the whole run: the clock of schedule, validation and checkpoints."""
    max_epochs: Annotated[float, Field(gt=0.0, le=1e6)] | None = None
    """Instead of max_steps: passes over the training cells, made steps when the store is opened."""
    devices: Ranks | Literal["auto"] = "auto"
    """Ranks a node: GPUs, or processes where there is no GPU. auto: every GPU, or one process."""
    nodes: Ranks = 1
    """Machines of the run; torchrun or Slurm starts the ranks of more than one."""
    precision: Literal["fp32", "bf16", "fp16", "fp8", "auto"] = "auto"
    """Arithmetic of the layers; losses and weights' masters are fp32. auto: bf16 on a GPU, fp32 on a CPU."""
    fp8: Fp8Config = Fp8Config()
    """How products are computed in eight bits; only with precision: fp8."""
    parallel: ParallelConfig = ParallelConfig()
    """How the model is laid over the ranks."""
    optimizer: Annotated[OptimizerConfig, Kinds(OPTIMIZERS)]
    """What a step does with the gradient."""
    schedule: Annotated[ScheduleConfig, Kinds(SCHEDULES, ALIASES)] = CosineConfig()
    """Learning rate by step."""
    ema: EmaConfig | None = None
    """Running average of the weights; null keeps none."""
    early_stop: EarlyStopConfig | None = None
    """End before max_steps where the held-out loss no longer falls; null never does."""
    # pydantic has a method of the name `validate`, so the attribute is `validation`; the key has one spelling.
    validation: ValidateConfig = Field(default=ValidateConfig(), alias="validate")
    """Loss on held-out cells while training."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """When to save and what to keep."""
    observers: Observers = ()
    """Your own classes that watch the run: dotted paths, or {observer: ..., settings: {...}, on_error: stop|report}."""
    # Config has a method of the name `faults`.
    on_fault: FaultsConfig = Field(default=FaultsConfig(), alias="faults")
    """What is skipped, rolled back or stopped when something goes wrong."""
    log: LogConfig = LogConfig()
    """What is written while the run goes on."""
    profile: ProfileConfig | None = None
    """Time every operation of a few steps; null does not."""
    result_dir: Annotated[str, Field(min_length=1)]
    """Run directory: config, metrics, checkpoints, log."""
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 42
    """Of weights, order, masks and dropout; equal seeds give equal runs."""

    @property
    def steps(self) -> int:
        """`max_steps`, which is known once `with_steps` has converted epochs."""
        if self.max_steps is None:
            raise ConfigError(
                f"trainer.max_epochs={self.max_epochs} has not been converted to steps",
                where="trainer.max_steps",
                fix="scmf.train.config.with_steps(config, n_train_cells)",
            )
        return self.max_steps

    @property
    def world_size(self) -> int | None:
        """Ranks of the whole run; None while devices is auto."""
        return None if self.devices == "auto" else self.devices * self.nodes

    def faults(self) -> Iterator[Fault]:
        """One clock, and a schedule that fits into it."""
        yield from super().faults()
        yield from self._clock_faults()
        yield from self._schedule_faults()
        yield from self._optimizer_faults()

    def _clock_faults(self) -> Iterator[Fault]:
        if self.max_steps is None and self.max_epochs is None:
            yield Fault("max_steps", "the run has no length", "give trainer.max_steps, or trainer.max_epochs")
        if self.max_steps is not None and self.max_epochs is not None:
            yield Fault(
                "max_epochs",
                f"trainer.max_steps={self.max_steps} and trainer.max_epochs={self.max_epochs} both set the length",
                "write null for one of them",
            )
        if self.profile is not None and self.profile.start > (self.max_steps or math.inf):
            yield Fault(
                "profile.start",
                f"trainer.profile.start={self.profile.start} comes after the last step, "
                f"trainer.max_steps={self.max_steps}",
                f"use a step up to {self.max_steps}, or write profile: null",
            )

    def _schedule_faults(self) -> Iterator[Fault]:
        for fault in self.schedule.run_faults(peak=self.optimizer.lr, max_steps=self.max_steps):
            yield replace(fault, key=f"schedule.{fault.key}")
        for key, wanted in (
            ("schedule.kind", isinstance(self.schedule, PlateauConfig)),
            ("early_stop", self.early_stop is not None),
        ):
            if wanted and self.validation.every is None:
                yield Fault(
                    key,
                    f"trainer.{key} looks at the validation loss, and trainer.validate.every=null takes none",
                    "write validate.every: 100, or leave it out",
                )
        known = self.validation.metrics(average=self.ema is not None and self.ema.validation)
        if self.early_stop is not None:
            yield from metric_fault("early_stop.metric", self.early_stop.metric, known)
        yield from metric_fault("checkpoint.metric", self.checkpoint.metric, known)

    def _optimizer_faults(self) -> Iterator[Fault]:
        """What needs a matrix whole gets it whole."""
        optimizer, parallel = self.optimizer, self.parallel
        split = {
            "tensor": parallel.tensor > 1,
            "shard_optimizer": parallel.shard_optimizer,
            "fsdp": parallel.fsdp,
        }
        for key in (key for key, wanted in split.items() if wanted and not optimizer.elementwise):
            yield Fault(
                "optimizer.kind",
                f"trainer.optimizer.kind={optimizer.kind} needs every matrix whole, and trainer.parallel.{key}="
                f"{str(getattr(parallel, key)).lower()} splits it over ranks",
                f"write {key}: {1 if key == 'tensor' else 'false'} (pipeline and plain data parallelism are fine), or "
                "optimizer.kind: adamw",
            )
