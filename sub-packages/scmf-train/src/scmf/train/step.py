"""One optimizer step, and one validation. In: a StepBatch. Out: losses reduced over all ranks.

Forward, backward and the pipeline are Megatron's schedule; losses are (sum, count) until the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from scmf.core.batch import Microbatch, StepBatch
from scmf.model.megatron import get_forward_backward_func
from scmf.model.pack import Pack
from scmf.train.layout import Layout


@dataclass(frozen=True, slots=True)
class LossSum:
    """Losses of many targets, reduced over all ranks."""

    total: float
    """Sum, nats."""
    targets: int
    tokens: int
    """Real tokens, no padding."""

    @property
    def mean(self) -> float:
        """Nats a target; NaN where there was none."""
        return self.total / self.targets if self.targets else float("nan")

    @classmethod
    def of(cls, sums: Sequence[float]) -> LossSum:
        """From the three sums, on the host."""
        total, targets, tokens = sums
        return cls(total, int(targets), int(tokens))

    def __add__(self, other: LossSum) -> LossSum:
        return LossSum(self.total + other.total, self.targets + other.targets, self.tokens + other.tokens)


@dataclass(frozen=True, slots=True)
class Passes:
    """Forward and backward passes over the microbatches of a step, on one rank."""

    models: tuple[Any, ...]
    """Wrapped stages of this rank: one, or the interleaved ones in the order of the layers."""
    layout: Layout
    in_step: bool = False
    """Replicas run the same number of microbatches: under FSDP each of them is a meeting of all."""

    def train(self, batch: StepBatch) -> Tensor:
        """Leave the gradient of the mean loss over all ranks' targets in the gradient buffers.

        Returns:
            (3,) float64 on the device: sum of the losses, targets, real tokens, over all ranks.
        """
        for model in self.models:
            model.train()
            model.zero_grad_buffer()
        return self._reduce(self._run(batch.microbatches, forward_only=False), batch)

    @torch.no_grad()
    def evaluate(self, batches: Iterable[StepBatch]) -> LossSum:
        """Losses without gradients and without dropout."""
        for model in self.models:
            model.eval()
        total = LossSum(0.0, 0, 0)
        for batch in batches:
            run = batch.microbatches or self.in_step
            losses = self._run(batch.microbatches, forward_only=True) if run else []
            total += LossSum.of(self._reduce(losses, batch).tolist())
        return total

    def try_alone(self, batch: StepBatch) -> None:
        """Forward and backward for their memory alone: nothing goes to other replicas, the gradients are dropped."""
        config = self.models[0].config
        before = config.finalize_model_grads_func, config.no_sync_func
        config.finalize_model_grads_func, config.no_sync_func = None, None
        try:
            with ExitStack() as stack:
                for model in self.models:
                    model.train()
                    stack.enter_context(model.no_sync())
                self._run(batch.microbatches, forward_only=False)
        finally:
            config.finalize_model_grads_func, config.no_sync_func = before
            for model in self.models:
                model.zero_grad_buffer()

    def _run(self, microbatches: tuple[Microbatch, ...], *, forward_only: bool) -> list[dict[str, Tensor]]:
        device, interleaved = self.layout.world.device, len(self.models) > 1
        if interleaved:
            # The schedule deals microbatches out in groups of one a pipeline rank.
            microbatches = filled_up(microbatches, to_multiple=self.layout.model.pipeline)
        if self.in_step:
            microbatches = filled_up(microbatches, to_multiple=self._most(len(microbatches)))
        packs: list[Iterator[Pack]] = [(Pack.of(m, device) for m in microbatches) for _ in self.models]
        losses: list[dict[str, Tensor]] = get_forward_backward_func()(
            forward_step_func=_forward_step,
            data_iterator=packs if interleaved else packs[0],
            model=list(self.models) if interleaved else self.models[0],
            num_microbatches=len(microbatches),
            seq_length=len(microbatches[0].input_ids),
            micro_batch_size=1,
            forward_only=forward_only,
        )
        return losses

    def _most(self, count: int) -> int:
        """The largest count of a replica."""
        most = torch.tensor(count, device=self.layout.world.device)
        dist.all_reduce(most, op=dist.ReduceOp.MAX, group=self.layout.groups.dp)
        return int(most)

    def _reduce(self, losses: list[dict[str, Tensor]], batch: StepBatch) -> Tensor:
        """Sum over microbatches, replicas and stages; only the last stage has losses."""
        groups, device = self.layout.groups, self.layout.world.device
        sums = torch.zeros(3, dtype=torch.float64, device=device)
        if self.layout.is_last_stage:
            for microbatch in losses:
                sums[:2] += microbatch["loss"]
            sums[2] = sum(m.tokens for m in batch.microbatches)
            dist.all_reduce(sums, group=groups.dp)
        if groups.pp.size() > 1:
            dist.broadcast(sums, group=groups.pp, group_src=groups.pp.size() - 1)
        return sums


def filled_up(microbatches: tuple[Microbatch, ...], *, to_multiple: int) -> tuple[Microbatch, ...]:
    """Microbatches and, up to the next multiple, empty ones: the first one's shape, no target, no cell, no gradient.

    Args:
        microbatches: any number.
        to_multiple: > 0; where there are no microbatches, so many empty ones.
    """
    n = len(microbatches)
    more = -n % to_multiple if n else to_multiple
    nothing = np.zeros(0, np.int32)
    shape = microbatches[0] if microbatches else _padding(128)
    no_cell = np.zeros(0, np.int64)
    empty = replace(shape, target_positions=nothing, targets=nothing, cell_ids=no_cell, tokens=0)
    return (*microbatches, *[empty] * more)


def _padding(width: int) -> Microbatch:
    """A microbatch of segments of one position, none of a cell."""
    zeros = np.zeros(width, np.int32)
    return Microbatch(
        input_ids=zeros,
        positions=zeros,
        cu_seqlens=np.arange(width + 1, dtype=np.int32),
        target_positions=zeros,
        targets=zeros,
        cell_ids=np.zeros(0, np.int64),
        tokens=0,
        longest=1,
    )


def _forward_step(packs: Iterator[Pack], model: Any) -> tuple[Tensor, Any]:
    pack = next(packs)
    return model(pack), lambda output: _sum_losses(output, pack)


def _sum_losses(losses: Tensor, pack: Pack) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """What Megatron divides (sum, count) and what is reported, in float64 so that the order of adding is moot."""
    total = losses.sum()
    # full, not tensor: a value copied from the host would make the host wait for the device.
    count = torch.full((), len(pack.targets), dtype=torch.int, device=losses.device)
    report = torch.stack([losses.detach().double().sum(), count.double()])
    return total, count, {"loss": report}
