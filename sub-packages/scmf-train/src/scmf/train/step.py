"""One optimizer step, and one validation. In: a StepBatch. Out: losses reduced over all ranks.

Forward, backward and the pipeline are Megatron's schedule; losses are (sum, count) until the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from scmf.core.batch import CellTargets, Microbatch, StepBatch
from scmf.model.megatron import get_forward_backward_func
from scmf.model.pack import Pack
from scmf.train.layout import Layout
from scmf.train.losses import TOKENS, LossSum, Objectives


@dataclass(frozen=True, slots=True)
class Passes:
    """Forward and backward passes over the microbatches of a step, on one rank."""

    models: tuple[Any, ...]
    """Wrapped stages of this rank: one, or the interleaved ones in the order of the layers."""
    layout: Layout
    objectives: Objectives = TOKENS
    """What the model gives the losses of."""
    in_step: bool = False
    """Replicas run the same number of microbatches: under FSDP each of them is a meeting of all."""

    def train(self, batch: StepBatch) -> Tensor:
        """Leave the gradient of the loss over all ranks' targets in the gradient buffers.

        Returns:
            (objectives.width + 1,) float64 on the device: the sums of every objective, and real tokens, over all ranks.
        """
        for model in self.models:
            model.train()
            model.zero_grad_buffer()
        return self._reduce(self._run(batch.microbatches, counts=self._counts(batch, everywhere=True)), batch)

    @torch.no_grad()
    def evaluate(self, batches: Iterable[StepBatch]) -> LossSum:
        """Losses without gradients and without dropout."""
        for model in self.models:
            model.eval()
        total = self.objectives.nothing()
        for batch in batches:
            run = batch.microbatches or self.in_step
            losses = self._run(batch.microbatches, forward_only=True) if run else []
            total += self.objectives.read(self._reduce(losses, batch).tolist())
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
                self._run(batch.microbatches, counts=self._counts(batch, everywhere=False))
        finally:
            config.finalize_model_grads_func, config.no_sync_func = before
            for model in self.models:
                model.zero_grad_buffer()

    def _run(
        self, microbatches: tuple[Microbatch, ...], *, counts: Tensor | None = None, forward_only: bool = False
    ) -> list[dict[str, Tensor]]:
        device, interleaved = self.layout.world.device, len(self.models) > 1
        if interleaved:
            # The schedule deals microbatches out in groups of one a pipeline rank.
            microbatches = self._filled_up(microbatches, to_multiple=self.layout.model.pipeline)
        if self.in_step:
            microbatches = self._filled_up(microbatches, to_multiple=self._most(len(microbatches)))
        packs: list[Iterator[Pack]] = [(Pack.of(m, device) for m in microbatches) for _ in self.models]
        losses: list[dict[str, Tensor]] = get_forward_backward_func()(
            forward_step_func=partial(_forward_step, objectives=self.objectives, counts=counts),
            data_iterator=packs if interleaved else packs[0],
            model=list(self.models) if interleaved else self.models[0],
            num_microbatches=len(microbatches),
            seq_length=len(microbatches[0].input_ids),
            micro_batch_size=1,
            forward_only=forward_only,
        )
        return losses

    def _counts(self, batch: StepBatch, *, everywhere: bool) -> Tensor | None:
        """Targets of each objective in the step, known before the backward pass; None where there is one objective.

        Args:
            batch: this replica's share.
            everywhere: of all replicas; otherwise of this one alone.

        Returns:
            (objectives,) float64 on the device, at least 1 each; nothing here waits for the device.
        """
        if not self.objectives.weighted or not self.layout.is_last_stage:
            return None
        targets = self.objectives.targets(batch.microbatches)
        counts = torch.zeros(len(targets), dtype=torch.float64, device=self.layout.world.device)
        for place, count in enumerate(targets):
            counts[place] = count  # filled, not copied: a copy from the host would make it wait
        if everywhere:
            dist.all_reduce(counts, group=self.layout.groups.dp)
        return counts.clamp(min=1)

    def _filled_up(self, microbatches: tuple[Microbatch, ...], *, to_multiple: int) -> tuple[Microbatch, ...]:
        return filled_up(microbatches, to_multiple=to_multiple, cell_objectives=self.objectives.of_cells)

    def _most(self, count: int) -> int:
        """The largest count of a replica."""
        most = torch.tensor(count, device=self.layout.world.device)
        dist.all_reduce(most, op=dist.ReduceOp.MAX, group=self.layout.groups.dp)
        return int(most)

    def _reduce(self, losses: list[dict[str, Tensor]], batch: StepBatch) -> Tensor:
        """Sum over microbatches, replicas and stages; only the last stage has losses."""
        groups, device = self.layout.groups, self.layout.world.device
        sums = torch.zeros(self.objectives.width + 1, dtype=torch.float64, device=device)
        if self.layout.is_last_stage:
            for microbatch in losses:
                sums[:-1] += microbatch["sums"]
            sums[-1] = sum(m.tokens for m in batch.microbatches)
            dist.all_reduce(sums, group=groups.dp)
        if groups.pp.size() > 1:
            dist.broadcast(sums, group=groups.pp, group_src=groups.pp.size() - 1)
        return sums


def filled_up(
    microbatches: tuple[Microbatch, ...], *, to_multiple: int, cell_objectives: tuple[str, ...] = ()
) -> tuple[Microbatch, ...]:
    """Microbatches and, up to the next multiple, empty ones: the first one's shape, no target, no cell, no gradient.

    Args:
        microbatches: any number.
        to_multiple: > 0; where there are no microbatches, so many empty ones.
        cell_objectives: names of the objectives about whole cells.
    """
    n = len(microbatches)
    more = -n % to_multiple if n else to_multiple
    nothing = np.zeros(0, np.int32)
    shape = microbatches[0] if microbatches else _padding(128)
    empty = replace(
        shape,
        target_positions=nothing,
        targets=nothing,
        cell_ids=np.zeros(0, np.int64),
        tokens=0,
        cell_targets=dict.fromkeys(cell_objectives, CellTargets(nothing, nothing)),
    )
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


def _forward_step(
    packs: Iterator[Pack], model: Any, *, objectives: Objectives, counts: Tensor | None
) -> tuple[Any, Any]:
    pack = next(packs)
    return model(pack), partial(_sum_losses, objectives=objectives, counts=counts)


def _sum_losses(
    output: Tensor | tuple[Tensor, ...], *, objectives: Objectives, counts: Tensor | None
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """What Megatron divides (sum, count) and what is reported, in float64 so that the order of adding is moot.

    Args:
        output: of each objective, one loss a target; or for whole cells (L, sums without the count), losses first.
        objectives: in the order of the output.
        counts: (objectives,) of the step, where losses are weighted; they are divided here then, and not by Megatron.
    """
    tables = [_columns(table) for table in (output if isinstance(output, tuple) else (output,))]
    report = torch.cat([_sums(columns) for columns in tables])
    if counts is None:
        losses = tables[0][0]
        # full, not tensor: a value copied from the host would make the host wait for the device.
        count = torch.full((), len(losses), dtype=torch.int, device=losses.device)
        return losses.sum(), count, {"sums": report}
    scales = [objective.weight / count for objective, count in zip(objectives.each, counts.unbind(), strict=True)]
    means = [columns[0].sum() * scale.float() for columns, scale in zip(tables, scales, strict=True)]
    # A count of 0: the gradient is divided already, and `finish` divides by the sum of the counts or by 1.
    return torch.stack(means).sum(), torch.zeros((), dtype=torch.int, device=report.device), {"sums": report}


def _columns(table: Tensor) -> tuple[Tensor, ...]:
    """Losses, one a target, and what else is summed beside them."""
    return table.unbind(1) if table.dim() == 2 else (table,)


def _sums(columns: tuple[Tensor, ...]) -> Tensor:
    """(columns + 1,) float64: the losses, how many there are, and the other columns, summed."""
    losses, *others = (column.detach().double().sum() for column in columns)
    count = torch.full((), len(columns[0]), dtype=torch.float64, device=losses.device)
    return torch.stack([losses, count, *others])
