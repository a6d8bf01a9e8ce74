"""Gradients of a step over all ranks. In: this rank's stages and their optimizer. Out: buffers that are reduced
while the backward pass still runs, the mean over all targets, and the norm; nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from scmf.model.megatron import (
    DistributedDataParallel,
    DistributedDataParallelConfig,
    MegatronOptimizer,
    finalize_model_grads,
)
from scmf.train.layout import Layout
from scmf.train.tensors import local


def wrap_stages(stages: Sequence[Any], layout: Layout, *, shard_optimizer: bool) -> tuple[Any, ...]:
    """Megatron's fp32 gradient buffers and reductions around this rank's stages.

    Args:
        stages: one, or the interleaved ones in the order of the layers.
        layout: of this run.
        shard_optimizer: scatter the reduced gradients over the replicas, and gather the parameters that each of
            them has updated, while the next forward pass begins.
    """
    overlap = layout.replicas > 1
    settings = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True,
        use_distributed_optimizer=shard_optimizer,
        overlap_grad_reduce=overlap,
        overlap_param_gather=overlap and shard_optimizer,
    )
    config = stages[0].config
    models = tuple(
        # A rank's later stages are in the backward pass before the others: their one bucket has time enough.
        DistributedDataParallel(config, settings, stage, disable_bucketing=turn > 0, pg_collection=layout.groups)
        for turn, stage in enumerate(stages)
    )
    config.finalize_model_grads_func = finish
    if overlap:
        contexts = [model.no_sync for model in models]
        config.no_sync_func = contexts if len(models) > 1 else contexts[0]
    return models


def finish(models: list[Any], targets: Tensor, *, pg_collection: Any, **_: object) -> None:
    """Wait for the reductions and divide by the targets of all ranks; called by Megatron's schedule.

    Megatron's own asks on the host whether there are targets, which would wait for the device.

    Args:
        models: from `wrap_stages`.
        targets: () int32 targets of this rank's microbatches; zero on stages without the head.
        pg_collection: the layout's groups.
    """
    finalize_model_grads(models, None, pg_collection)
    scaling = 1.0 / all_targets(targets, pg_collection)
    for model in models:
        model.scale_gradients(scaling)


def all_targets(targets: Tensor, groups: Any) -> Tensor:
    """() float32 targets of all ranks, at least 1."""
    dist.broadcast(targets, group=groups.pp, group_src=groups.pp.size() - 1)
    dist.all_reduce(targets, group=groups.dp_cp)
    return targets.clamp(min=1).float()


def gather_parameters(models: Sequence[Any]) -> None:
    """Bring every parameter up to date on every rank; collective. Sharded updates are gathered by the next forward
    pass otherwise.

    Args:
        models: from `wrap_stages`.
    """
    for model in models:
        if model.ddp_config.overlap_param_gather:
            model.start_param_sync(force_sync=True)


def squared_norm(optimizer: MegatronOptimizer) -> Tensor:
    """Square of the L2 norm of the whole gradient, () float64 on the device, the same on every rank.

    In float64: Megatron's float32 sum is off by 4e-5 on a tensor of 6.5 million values on a CPU, which makes
    clipping depend on the layout.
    """
    total = None
    for part in parts(optimizer):
        grads = part.get_main_grads_for_grad_norm()
        own = _square_sum(grads, part)
        dist.all_reduce(own, group=part.get_grad_stats_parallel_group())
        total = own if total is None else total + own
    if total is None:
        raise RuntimeError("an optimizer without parts has no gradient")
    return total


def _square_sum(grads: list[Tensor], optimizer: MegatronOptimizer) -> Tensor:
    if grads:
        return torch.stack(torch._foreach_norm(grads, 2, dtype=torch.float64)).square().sum()  # noqa: SLF001
    # A stage of which every parameter is counted elsewhere.
    return torch.zeros((), dtype=torch.float64, device=optimizer.get_loss_scale().device)


def clip(optimizer: MegatronOptimizer, *, norm: float, largest: float) -> None:
    """Scale the gradient so that its norm is at most `largest`.

    Args:
        optimizer: whose gradients are ready.
        norm: of the whole gradient, finite.
        largest: norm to keep to, > 0.
    """
    grads = [local(p.grad) for part in parts(optimizer) for p in part.get_parameters() if p.grad is not None]
    if grads and norm > largest:
        torch._foreach_mul_(grads, largest / norm)


def parts(optimizer: MegatronOptimizer) -> list[MegatronOptimizer]:
    """The optimizers of a chain, or the one that there is."""
    return list(getattr(optimizer, "chained_optimizers", [optimizer]))
