"""A trained model, ready to be asked. In: a checkpoint, written in any layout. Out: the model in this one process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from scmf.core.errors import MachineError
from scmf.data.any_vocabulary import AnyVocabulary, read_vocabulary
from scmf.eval.saved import VOCABULARY_FILE, Saved
from scmf.model.device import device_name
from scmf.model.transformer import VocabularyShape
from scmf.model.transformer_config import Precision
from scmf.train.capability import refuse_precision, this_machine
from scmf.train.config import MainConfig, ParallelConfig
from scmf.train.layout import Layout, lay_out, seed_step
from scmf.train.sharded import load_weights
from scmf.train.world import World, join_world, read_environment


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode: no dropout, no gradients."""

    saved: Saved
    vocabulary: AnyVocabulary
    """The one that it was trained with, out of the checkpoint."""
    model: Any
    """The whole model, on this process's device: scmf.model.transformer."""
    layout: Layout
    """Of one process."""
    precision: Precision
    """Of weights and activations."""

    @property
    def config(self) -> MainConfig:
        """Of the run."""
        return self.saved.config

    @property
    def seq_length(self) -> int:
        """Positions that the model has."""
        return self.config.data.tokenizer.seq_length

    def describe(self) -> str:
        """Which weights, computed how, for a person."""
        return f"{self.saved.describe()}; {self.precision} on {device_name(self.layout.world.device)}"


@contextmanager
def load_model(saved: Saved, *, precision: Precision | None = None) -> Iterator[LoadedModel]:
    """Build the model of a checkpoint in this one process, for the time of the block.

    Args:
        saved: a checkpoint, written in any layout.
        precision: of weights and activations; None takes fp32 on a CPU, and on a GPU what the run has computed in,
            with bf16 for fp8, which pays in training alone.

    Raises:
        CheckpointError: unreadable, or not of the model that its config describes.
        VocabularyError: its vocabulary cannot be read.
        MachineError: several processes were started, or this machine cannot compute in that precision.
    """
    vocabulary = read_vocabulary(saved.folder / VOCABULARY_FILE)
    _refuse_several()
    with join_world() as world, lay_out(world, ParallelConfig()) as layout:
        used = precision or _usual(saved, world)
        refuse_precision(used, saved.config.trainer.fp8.recipe, this_machine(world.device))
        model = _build(saved, layout, size=len(vocabulary), precision=used)
        load_weights(saved.folder, stages=(model,), layout=layout, average=saved.average)
        yield LoadedModel(saved, vocabulary, model.to(world.device).eval(), layout, used)


def _build(saved: Saved, layout: Layout, *, size: int, precision: Precision) -> Any:
    """The model with the weights of its first step, in evaluation mode once it is filled."""
    config = saved.config
    # Transformer Engine asks when it is built whether the ranks have random states of their own.
    seed_step(layout, seed=config.trainer.seed, step=0)
    return config.model.build(
        vocabulary=VocabularyShape(size=size, seq_length=config.data.tokenizer.seq_length),
        groups=layout.groups,
        layout=layout.model,
        precision=precision,
        seed=config.trainer.seed,
    )


def _usual(saved: Saved, world: World) -> Precision:
    if world.device.type == "cpu":
        return "fp32"
    trained: Precision = saved.progress.model.get("precision", "bf16")
    return "bf16" if trained == "fp8" else trained


def _refuse_several() -> None:
    """One process has the whole model here.

    Raises:
        MachineError: a launcher has started several.
    """
    size = read_environment().size
    if size > 1:
        raise MachineError(
            f"{size} processes were started, and this command computes in one",
            where=f"WORLD_SIZE={os.environ.get('WORLD_SIZE')} in the environment",
            fix="start it without torchrun or srun (in a job: srun --ntasks 1), or unset WORLD_SIZE, RANK, LOCAL_RANK",
        )
