"""Fully sharded data parallelism. In: a whole model, fp32, on the CPU. Out: its shards on this rank's device,
with the surface that Megatron's wrapper and optimizer have for the engine.

torch's `fully_shard`: every layer's weights are gathered in the compute precision when the layer runs and dropped
after it, gradients are scattered in fp32 after every microbatch, and weights, gradients and the optimizer's state are
kept in fp32, a share of them on each rank. Megatron's own FSDP needs CUDA at import, so that no test could run it here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from scmf.model.transformer_config import DTYPES, Precision
from scmf.train.gradients import all_targets
from scmf.train.layout import Layout
from scmf.train.optimizer import decays, mark_decay
from scmf.train.optimizer_config import OptimizerConfig
from scmf.train.tensors import local


class ShardedModel(nn.Module):
    """What Megatron's DistributedDataParallel is to the engine, around a fully sharded model.

    Args:
        model: whole, fp32, on the CPU; it is sharded in place and moved to the device.
        layout: of data-parallel ranks alone.
        precision: of the computation.
    """

    def __init__(self, model: Any, layout: Layout, *, precision: Precision) -> None:
        super().__init__()
        self.module = model
        self.config = model.config
        self.ddp_config = SimpleNamespace(overlap_param_gather=True)
        policy = MixedPrecisionPolicy(
            param_dtype=DTYPES[precision], reduce_dtype=torch.float32, cast_forward_inputs=False
        )
        mesh = DeviceMesh.from_group(layout.groups.dp, layout.world.device.type)
        for part in (*model.block.layers, model):
            fully_shard(part, mesh=mesh, mp_policy=policy)
            # The sum over all ranks is divided by all ranks' targets, in `finish`.
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)
        self.config.finalize_model_grads_func = self.finish

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's."""
        return self.module(*args, **kwargs)

    def zero_grad_buffer(self) -> None:
        """Drop the gradients."""
        for parameter in self.module.parameters():
            parameter.grad = None

    def start_param_sync(self, *, force_sync: bool) -> None:
        """Drop the weights that torch keeps gathered after a forward pass: the next one gathers the present shards.

        Layers drop theirs by themselves; embedding and head, which belong to the whole, wait for a backward pass.
        """
        del force_sync
        self.module.reshard()

    @contextlib.contextmanager
    def no_sync(self) -> Iterator[None]:
        """Keep gradients to this rank."""
        self.module.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            self.module.set_requires_gradient_sync(True)

    def finish(self, models: list[Any], targets: Tensor, *, pg_collection: Any, **_: object) -> None:
        """Divide the gradients, which are summed over ranks already, by all ranks' targets; called by Megatron."""
        del models
        gradients = [local(p.grad) for p in self.module.parameters() if p.grad is not None]
        torch._foreach_mul_(gradients, 1.0 / all_targets(targets, pg_collection))


class ShardedOptimizer:
    """What Megatron's optimizers are to the engine: an optimizer of torch's over this rank's shards.

    Args:
        model: sharded.
        config: which; one that updates each number by itself.
        layout: of data-parallel ranks.
        precision: in which checkpoints keep the weights beside their fp32 originals, as those of other layouts do.
    """

    def __init__(self, model: ShardedModel, config: OptimizerConfig, layout: Layout, *, precision: Precision) -> None:
        mark_decay(model)
        self.weight_dtype = DTYPES[precision]
        self._layout = layout
        groups = [
            {"params": [p for p in model.parameters() if decays(p) is flag], "wd_mult": float(flag)}
            for flag in (True, False)
        ]
        self.optimizer = config.build(groups)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Groups of torch's optimizer."""
        return self.optimizer.param_groups

    def get_parameters(self) -> list[nn.Parameter]:
        """Everything that is updated, sharded."""
        return [p for group in self.param_groups for p in group["params"]]

    def zero_grad(self) -> None:
        """Drop the gradients."""
        self.optimizer.zero_grad(set_to_none=True)

    def prepare_grads(self) -> bool:
        """Gradients are ready: fp32, summed, divided. False: no overflow is looked for."""
        return False

    def get_main_grads_for_grad_norm(self) -> list[Tensor]:
        """This rank's shards of the gradient."""
        return [local(p.grad) for p in self.get_parameters() if p.grad is not None]

    def get_grad_stats_parallel_group(self) -> dist.ProcessGroup:
        """The ranks whose shards make the whole gradient."""
        group: dist.ProcessGroup = self._layout.groups.dp
        return group

    def get_loss_scale(self) -> Tensor:
        """One: the compute precision has fp32's range."""
        return torch.ones(1, device=self._layout.world.device)

    def scale_loss(self, loss: Tensor) -> Tensor:
        """The loss itself."""
        return loss

    def step_with_ready_grads(self) -> bool:
        """Update this rank's shards."""
        self.optimizer.step()
        return True

    def reload_model_params(self) -> None:
        """Nothing: there are no copies of the weights."""
