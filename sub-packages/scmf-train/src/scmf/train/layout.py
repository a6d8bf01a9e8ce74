"""Ranks divided into tensor, pipeline and data groups. In: the joined world and the layout asked for.
Out: Megatron's process groups, this rank's places in them, and the engine's random states.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from scmf.core.random import derive_seed
from scmf.model.device import seed_generators
from scmf.model.megatron import ProcessGroupCollection, get_cuda_rng_tracker, hush_megatron, mpu
from scmf.model.seam import open_seam
from scmf.model.transformer_config import ModelLayout
from scmf.train.config import ParallelConfig
from scmf.train.world import World


@dataclass(frozen=True)
class Layout:
    """Where this rank stands."""

    world: World
    model: ModelLayout
    groups: Any
    """Megatron's ProcessGroupCollection."""

    @property
    def replica(self) -> int:
        """Number of this rank's data-parallel replica."""
        return int(self.groups.dp.rank())

    @property
    def replicas(self) -> int:
        """Data-parallel replicas: copies of the model that see different cells."""
        return int(self.groups.dp.size())

    @property
    def is_last_stage(self) -> bool:
        """Whether this rank computes losses."""
        return bool(self.groups.pp.rank() == self.groups.pp.size() - 1)


@contextmanager
def lay_out(world: World, parallel: ParallelConfig) -> Iterator[Layout]:
    """Divide the ranks for the time of the block. The sizes have been checked against the world before.

    Args:
        world: joined ranks.
        parallel: sizes along every axis; data parallelism takes the rest.
    """
    hush_megatron()
    open_seam()
    mpu.initialize_model_parallel(
        tensor_model_parallel_size=parallel.tensor,
        pipeline_model_parallel_size=parallel.pipeline,
        virtual_pipeline_model_parallel_size=parallel.interleave if parallel.interleave > 1 else None,
        create_gloo_process_groups=False,
        # Its own default is half an hour, whatever the whole world's is.
        distributed_timeout_minutes=math.ceil(world.timeout / timedelta(minutes=1)),
    )
    model = ModelLayout(
        tensor=parallel.tensor,
        pipeline=parallel.pipeline,
        interleave=parallel.interleave,
        sequence=parallel.sequence,
        recompute=parallel.recompute,
        fsdp=parallel.fsdp,
    )
    try:
        yield Layout(world=world, model=model, groups=ProcessGroupCollection.use_mpu_process_groups())
    finally:
        mpu.destroy_model_parallel()


def seed_step(layout: Layout, *, seed: int, step: int) -> None:
    """Put the engine's random states (dropout) to the position of one step.

    A function of (seed, step, place in the layout): resume needs no saved generator. Tensor ranks share the
    default state, because they compute the same rows, and have a state of their own for what they split.

    Args:
        layout: this rank's place.
        seed: of the run.
        step: optimizer step that is about to begin.
    """
    stage, replica = layout.groups.pp.rank(), layout.replica
    seed_generators(derive_seed(seed, "dropout", step, stage, replica))
    tracker = get_cuda_rng_tracker()
    tracker.reset()
    own = derive_seed(seed, "dropout of a tensor rank", step, stage, replica, layout.groups.tp.rank())
    tracker.add("model-parallel-rng", own)
