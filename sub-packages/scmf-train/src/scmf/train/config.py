"""`MainConfig`: the one file that drives a run, in three sections."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt
from scmf.core.config import Config
from scmf.data.config import CellsConfig
from scmf.model.config import EncoderConfig

PositiveFloat = Annotated[float, Field(gt=0.0)]


class ParallelConfig(Config):
    """How the model is laid over ranks; data parallelism takes what is left of the world."""

    tensor: PositiveInt = 1
    """Ranks that share every layer's matrices."""
    pipeline: PositiveInt = 1
    """Stages of consecutive layers."""
    context: PositiveInt = 1
    """Ranks that share one sequence's positions. Not available yet: 1."""
    sequence: bool = False
    """Sequence parallelism: norms and dropout are split over the tensor ranks too."""


class OptimizerConfig(Config):
    """AdamW with decoupled decay on linear and embedding weights; none on biases and norms."""

    kind: Literal["adamw"] = "adamw"
    lr: PositiveFloat
    """Peak learning rate."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    beta1: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    beta2: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.999
    eps: PositiveFloat = 1e-8
    clip: PositiveFloat | None = 1.0
    """Largest L2 norm of the gradient over all parameters; null does not clip."""


class ScheduleConfig(Config):
    """Learning rate by optimizer step: linear warm-up, cosine to the floor, then held."""

    kind: Literal["cosine", "constant"] = "cosine"
    warmup_steps: NonNegativeInt = 0
    """Steps of linear rise from 0 to the peak."""
    hold_steps: NonNegativeInt = 0
    """Steps at the end of the run that stay at the floor. Source: NeMo's CosineAnnealing `constant_steps`."""
    min_lr: Annotated[float, Field(ge=0.0)] = 0.0
    """The floor."""


class ValidateConfig(Config):
    """Loss on held-out cells while training."""

    every: PositiveInt | None = 100
    """Steps between validations; null never validates."""
    batches: PositiveInt = 8
    """Global batches a validation; always the same cells with the same masks."""


class CheckpointConfig(Config):
    """When to save and what to keep."""

    every: PositiveInt = 100
    """Steps between saves; the last step always saves."""
    keep_best: NonNegativeInt = 3
    """Checkpoints of lowest validation loss to keep."""
    keep_last: PositiveInt = 2
    """Newest checkpoints to keep."""


class LogConfig(Config):
    """What is written while the run goes on."""

    every: PositiveInt = 10
    """Steps between lines of metrics.jsonl and of the console."""
    tensorboard: bool = False
    """Mirror the metrics to TensorBoard event files in the run directory."""
    cell_ids: bool = False
    """Write the ids of every step's cells to cells.jsonl: proof of what a resumed run has seen."""


class TrainerConfig(Config):
    """Length, layout, precision, optimizer, and what is kept."""

    max_steps: PositiveInt
    """Optimizer steps of the whole run."""
    devices: PositiveInt | Literal["auto"] = "auto"
    """Ranks a node: GPUs, or processes where there is no GPU. auto: every GPU, or one process."""
    nodes: PositiveInt = 1
    precision: Literal["fp32", "bf16", "auto"] = "auto"
    """auto: bf16 on a GPU, fp32 on a CPU."""
    parallel: ParallelConfig = ParallelConfig()
    optimizer: OptimizerConfig
    schedule: ScheduleConfig = ScheduleConfig()
    validate_: ValidateConfig = Field(default=ValidateConfig(), alias="validate")
    checkpoint: CheckpointConfig = CheckpointConfig()
    log: LogConfig = LogConfig()
    result_dir: str
    """Run directory: config, metrics, checkpoints, log."""
    seed: NonNegativeInt = 42


class MainConfig(Config):
    """One run: data in, model, trainer."""

    data: CellsConfig
    model: EncoderConfig
    trainer: TrainerConfig
