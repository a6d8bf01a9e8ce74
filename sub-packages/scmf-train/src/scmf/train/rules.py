"""Rules between the sections of a config: its three sections go in, the faults come out. The only place for them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Protocol

from scmf.core.config_fault import Fault, config_error
from scmf.core.errors import ConfigError
from scmf.core.text import counted
from scmf.data.config import CellsConfig, DataConfig, SequencesConfig
from scmf.model.config import ModelConfig, largest_divisor
from scmf.model.task import CellTask
from scmf.train.trainer_config import TrainerConfig


class Sections(Protocol):
    """What the rules look at: a MainConfig, which asks them when it is made."""

    @property
    def data(self) -> DataConfig:
        """Which cells, as which tokens, in which batches."""
        ...

    @property
    def model(self) -> ModelConfig:
        """Sizes of the network and its task."""
        ...

    @property
    def trainer(self) -> TrainerConfig:
        """Length, layout, precision, optimizer, and what is kept."""
        ...


def section_faults(config: Sections) -> Iterator[Fault]:
    """Every rule between sections that the config breaks."""
    for rule in RULES:
        yield from rule(config)
    world = config.trainer.world_size
    if world is not None:
        yield from world_faults(config, world)


def check_world(config: Sections, world_size: int) -> int:
    """Data-parallel size of a config on so many ranks, which the launcher knows best.

    Args:
        config: checked; its `devices` and `nodes` are not looked at, because torchrun and Slurm decide.
        world_size: ranks of the run, > 0.

    Returns:
        Copies of the model, each of which sees its share of a step's cells.

    Raises:
        ConfigError: the layout does not fit these ranks.
    """
    faults = list(world_faults(config, world_size))
    if faults:
        raise config_error(faults, source=f"a run on {counted(world_size, 'rank')}")
    return world_size // config.trainer.parallel.model_ranks


def check_launched(config: Sections, world_size: int) -> None:
    """An explicit number of ranks is met exactly, whoever starts them.

    Raises:
        ConfigError: the launcher has started another number of ranks.
    """
    asked = config.trainer.world_size
    if asked is not None and asked != world_size:
        raise ConfigError(
            f"trainer.devices={config.trainer.devices} x nodes={config.trainer.nodes} is {counted(asked, 'rank')}, and "
            f"the launcher has started {world_size}",
            where="trainer.devices",
            fix="write devices: auto and nodes: 1 where torchrun or Slurm decides, or start that many ranks",
        )


def world_faults(config: Sections, world_size: int) -> Iterator[Fault]:
    """Rules that need the number of ranks."""
    parallel, data = config.trainer.parallel, config.data
    copy = parallel.model_ranks
    profile = config.trainer.profile
    if profile is not None and max(profile.ranks) >= world_size:
        yield Fault(
            "trainer.profile.ranks",
            f"trainer.profile.ranks names rank {max(profile.ranks)}, and the run has {counted(world_size, 'rank')}, "
            "numbered from 0",
            f"use ranks up to {world_size - 1}",
        )
    if world_size % copy:
        yield Fault(
            "trainer.parallel",
            f"trainer.parallel.tensor={parallel.tensor} x pipeline={parallel.pipeline} takes {counted(copy, 'rank')} "
            f"a copy of the model, and the run has {world_size} (devices x nodes)",
            f"use a multiple of {copy} ranks, or a smaller layout",
        )
        return
    copies = world_size // copy
    if data.global_batch_size % copies:
        yield Fault(
            "data.global_batch_size",
            f"data.global_batch_size={data.global_batch_size} cannot be shared by {copies} data-parallel ranks evenly",
            f"use a multiple: {_next_multiple(data.global_batch_size, copies)}",
        )
    elif data.micro_batch_size is not None and data.global_batch_size % (data.micro_batch_size * copies):
        share = data.global_batch_size // copies
        yield Fault(
            "data.micro_batch_size",
            f"data.micro_batch_size={data.micro_batch_size} does not divide a rank's {counted(share, 'cell')} of "
            f"a step (data.global_batch_size={data.global_batch_size} over {counted(copies, 'data-parallel rank')})",
            f"use micro_batch_size: {largest_divisor(share, data.micro_batch_size)}",
        )
    if parallel.fsdp:
        yield from _fsdp_faults(config, copies)


def _fsdp_faults(config: Sections, copies: int) -> Iterator[Fault]:
    """Rows of every matrix are shared out, and a checkpoint describes equal shares."""
    model, tokenizer = config.model, config.data.tokenizer
    vocabulary, pad = tokenizer.vocabulary_size, model.pad_vocabulary_to
    padded = pad if vocabulary is None else model.padded_vocabulary_size(vocabulary)
    # A model of the user's own that does not say is taken to learn its positions; computed ones are no matrix.
    places = tokenizer.seq_length if getattr(model, "positions", "learned") == "learned" else 0
    sizes = (
        ("model.hidden", "hidden", model.hidden, model.hidden),
        ("model.ffn", "ffn", model.ffn, model.ffn),
        ("data.tokenizer.seq_length", "positions", places, tokenizer.seq_length),
        (
            "model.pad_vocabulary_to",
            "tokens",
            padded,
            pad,
        ),
    )
    for key, what, rows, value in sizes:
        if rows % copies:
            yield Fault(
                key,
                f"{key}={value} makes matrices of {rows} {what}, which trainer.parallel.fsdp=true cannot share out "
                f"evenly over {copies} ranks",
                f"use {key.rpartition('.')[2]}: {_next_multiple(value, copies)}, or another number of ranks",
            )


def _heads_divide_by_tensor(config: Sections) -> Iterator[Fault]:
    yield from _splits(config, "heads", config.model.heads, "tensor")


def _ffn_divides_by_tensor(config: Sections) -> Iterator[Fault]:
    yield from _splits(config, "ffn", config.model.ffn, "tensor")


def _layers_divide_by_pipeline(config: Sections) -> Iterator[Fault]:
    yield from _splits(config, "layers", config.model.layers, "pipeline")


def _layers_divide_by_interleaved_stages(config: Sections) -> Iterator[Fault]:
    parallel, layers = config.trainer.parallel, config.model.layers
    stages = parallel.pipeline * parallel.interleave
    if layers % parallel.pipeline == 0 and layers % stages:
        most = largest_divisor(layers // parallel.pipeline, parallel.interleave)
        yield Fault(
            "trainer.parallel.interleave",
            f"model.layers={layers} cannot be split over trainer.parallel.pipeline={parallel.pipeline} x "
            f"interleave={parallel.interleave} stages",
            f"use a number that divides the {layers // parallel.pipeline} layers of a rank, for example "
            f"interleave: {most}",
        )


def _splits(config: Sections, name: str, size: int, axis: str) -> Iterator[Fault]:
    """A size of the model that ranks along an axis share evenly."""
    ranks: int = getattr(config.trainer.parallel, axis)
    if size % ranks:
        yield Fault(
            f"trainer.parallel.{axis}",
            f"model.{name}={size} cannot be split over trainer.parallel.{axis}={ranks}",
            f"use a size that divides it, for example {axis}: {largest_divisor(_common_size(config, axis), ranks)}",
        )


def _common_size(config: Sections, axis: str) -> int:
    """A size whose divisors split everything that an axis splits, so that following one advice breaks no other rule."""
    model, vocabulary = config.model, config.data.tokenizer.vocabulary_size
    if axis == "pipeline":
        return model.layers
    rows = model.pad_vocabulary_to if vocabulary is None else model.padded_vocabulary_size(vocabulary)
    return math.gcd(model.heads, model.ffn, rows)


def _vocabulary_divides_by_tensor(config: Sections) -> Iterator[Fault]:
    pad, tensor = config.model.pad_vocabulary_to, config.trainer.parallel.tensor
    size = config.data.tokenizer.vocabulary_size
    rows = pad if size is None else config.model.padded_vocabulary_size(size)
    if rows % tensor:
        what = "any vocabulary" if size is None else f"{config.data.tokenizer.vocabulary_name}'s {size:,} tokens"
        yield Fault(
            "model.pad_vocabulary_to",
            f"model.pad_vocabulary_to={pad} pads {what} to {rows if size else 'a multiple of it'}, "
            f"which cannot be split over trainer.parallel.tensor={tensor}",
            f"use pad_vocabulary_to: {_next_multiple(pad, tensor)}",
        )


def _packs_divide_by_tensor_with_sequence_parallelism(config: Sections) -> Iterator[Fault]:
    parallel, tokens = config.trainer.parallel, config.data.microbatch_tokens
    if parallel.sequence and tokens is not None and tokens % parallel.tensor:
        yield Fault(
            "data.microbatch_tokens",
            f"data.microbatch_tokens={tokens} cannot be split over trainer.parallel.tensor={parallel.tensor}, "
            "and trainer.parallel.sequence=true splits positions",
            f"use microbatch_tokens: {_next_multiple(tokens, parallel.tensor)}",
        )


def _validation_has_cells(config: Sections) -> Iterator[Fault]:
    every = config.trainer.validation.every
    if every is not None and config.data.split.validation == 0.0:
        yield Fault(
            "data.split.validation",
            f"data.split.validation=0.0 holds out no cells, and trainer.validate.every={every} asks for their loss",
            "hold some out, for example 0.05, or write trainer.validate.every: null",
        )


def _names_of_validation_splits_are_free(config: Sections) -> Iterator[Fault]:
    for split in config.trainer.validation.splits:
        if split.name in config.model.task.objectives:
            yield Fault(
                "trainer.validate.splits",
                f"the split {split.name} has the name of an objective, whose numbers are val/{split.name}/... as well",
                f"call it {split.name}_cells, or rename the objective",
            )


def _what_moves_ends_within_the_run(config: Sections) -> Iterator[Fault]:
    data, run = config.data, config.trainer.max_steps
    if not isinstance(data, CellsConfig) or run is None:
        return
    curriculum = data.curriculum
    moving = {"sampling": data.sampling.steps, "curriculum": None if curriculum is None else curriculum.steps}
    for key, steps in moving.items():
        if steps is not None and steps > run:
            yield Fault(
                f"data.{key}.steps",
                f"data.{key}.steps={steps} is more than the run has (trainer.max_steps={run}): it never ends",
                f"use {run} or less",
            )


def _labels_are_of_cells(config: Sections) -> Iterator[Fault]:
    """Labels are columns of obs, which sequences do not have."""
    labelled = [name for name, task in config.model.task.objectives.items() if isinstance(task, CellTask)]
    if labelled and isinstance(config.data, SequencesConfig):
        yield Fault(
            "model.task",
            f"model.task asks for labels of cells ({', '.join(labelled)}), and data.kind={config.data.kind} has no obs",
            "write data.kind: cells, or task: {kind: mlm}",
        )


FP8_WIDTHS = {"current": 16, "delayed": 16, "mxfp8": 32, "block": 128}
"""Widths of matrices are multiples of this. Source: Transformer Engine's alignment, and the blocks of each recipe."""


def _fp8_takes_the_widths(config: Sections) -> Iterator[Fault]:
    trainer, model = config.trainer, config.model
    if trainer.precision != "fp8":
        return
    multiple, tensor = FP8_WIDTHS[trainer.fp8.recipe], trainer.parallel.tensor
    for name, size in (("hidden", model.hidden), ("ffn", model.ffn)):
        if size % (multiple * tensor):
            over = f" over {tensor} tensor ranks" if tensor > 1 else ""
            yield Fault(
                f"model.{name}",
                f"model.{name}={size}{over} is no multiple of {multiple}, as trainer.precision=fp8 with "
                f"trainer.fp8.recipe={trainer.fp8.recipe} needs it",
                f"use {name}: {_next_multiple(size, multiple * tensor)}, or precision: bf16",
            )


def _fp8_keeps_layers_of_one_stage(config: Sections) -> Iterator[Fault]:
    trainer = config.trainer
    stage = config.model.layers // trainer.parallel.pipeline
    for name in ("first_bf16", "last_bf16"):
        kept = getattr(trainer.fp8, name)
        if trainer.precision == "fp8" and kept > stage:
            yield Fault(
                f"trainer.fp8.{name}",
                f"trainer.fp8.{name}={kept} is more than the {stage} layers of a pipeline rank "
                f"(model.layers={config.model.layers} over trainer.parallel.pipeline={trainer.parallel.pipeline})",
                f"use {name}: {stage} or less",
            )


def _precision_fits_the_layout(config: Sections) -> Iterator[Fault]:
    """Combinations that nothing here makes right."""
    precision, parallel = config.trainer.precision, config.trainer.parallel
    if parallel.fsdp and precision in ("fp16", "fp8"):
        why = "scales the loss of no sharded optimizer" if precision == "fp16" else "has not been built for shards"
        yield Fault(
            "trainer.precision",
            f"trainer.precision={precision} {why}, and trainer.parallel.fsdp=true shards it",
            "write precision: bf16, or fsdp: false and shard_optimizer: true",
        )
    if precision == "fp8" and parallel.recompute == "selective":
        yield Fault(
            "trainer.parallel.recompute",
            "trainer.parallel.recompute=selective would scale a feed-forward's fp8 products twice a step",
            "write recompute: full, which Transformer Engine does itself, or none",
        )


def _memory_is_not_probed_under_fsdp(config: Sections) -> Iterator[Fault]:
    if config.trainer.parallel.fsdp and config.trainer.on_fault.probe_memory is True:
        yield Fault(
            "trainer.faults.probe_memory",
            "trainer.faults.probe_memory=true tries microbatches on each rank alone, and under "
            "trainer.parallel.fsdp=true no rank can compute alone",
            "write probe_memory: auto, and choose data.microbatch_tokens yourself",
        )


RULES: tuple[Callable[[Sections], Iterator[Fault]], ...] = (
    _what_moves_ends_within_the_run,
    _names_of_validation_splits_are_free,
    _heads_divide_by_tensor,
    _ffn_divides_by_tensor,
    _layers_divide_by_pipeline,
    _layers_divide_by_interleaved_stages,
    _vocabulary_divides_by_tensor,
    _packs_divide_by_tensor_with_sequence_parallelism,
    _validation_has_cells,
    _labels_are_of_cells,
    _memory_is_not_probed_under_fsdp,
    _fp8_takes_the_widths,
    _fp8_keeps_layers_of_one_stage,
    _precision_fits_the_layout,
)


def _next_multiple(number: int, of: int) -> int:
    return -(-number // of) * of
