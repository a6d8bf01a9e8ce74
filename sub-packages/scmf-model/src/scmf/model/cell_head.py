"""Heads about whole cells. In: hidden states of a pack and the labelled cells. Out: the loss of every label.

Shapes: T positions, S segments, L labelled cells, D width, N outputs of a head.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from scmf.model.pack import Pack, PackTargets
from scmf.model.task import CellTask, ClassifyTask, TaskConfig


class CellHead(nn.Module, ABC):
    """A cell's pooled hidden states, dense, tanh, dropout, then the outputs. Every tensor rank has all of it.

    The projection is kept with the width first and has no bias: so shards of FSDP are equal whatever the number of
    classes, and the dense layer's bias serves both. Source: BERT's pooler and classifier, but for that.

    Args:
        config: Megatron's TransformerConfig.
        task: with its classes known.
    """

    def __init__(self, config: Any, task: CellTask) -> None:
        super().__init__()
        width, dtype = config.hidden_size, config.params_dtype
        self.pool = task.pool
        self.dense = nn.Linear(width, width, dtype=dtype)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.weight = nn.Parameter(torch.empty(width, task.outputs, dtype=dtype))

    def forward(self, hidden_TD: Tensor, pack: Pack, targets: PackTargets) -> Tensor:
        """Losses of the labelled cells, and what else is measured.

        Args:
            hidden_TD: final hidden states, the same on every tensor rank.
            pack: whose they are.
            targets: L labelled cells.

        Returns:
            (L, columns) float32: the loss first; the other columns have no gradient.
        """
        return self.losses(self.scores(pooled(hidden_TD, pack, targets.segments, self.pool)), targets.values)

    def scores(self, pooled_LD: Tensor) -> Tensor:
        """(L, N) float32."""
        hidden_LD = torch.tanh(self.dense(pooled_LD.to(self.weight.dtype)))
        scores_LN: Tensor = self.dropout(hidden_LD) @ self.weight
        return scores_LN.float()

    @abstractmethod
    def losses(self, scores_LN: Tensor, values: Tensor) -> Tensor:
        """(L, columns) float32 of scores and targets."""


class ClassHead(CellHead):
    """A score for each class. Columns: cross-entropy in nats, and 1 where the highest score is the cell's class."""

    def losses(self, scores_LN: Tensor, values: Tensor) -> Tensor:
        """(L, 2) float32."""
        hits = scores_LN.detach().argmax(1) == values
        return torch.stack([cross_entropy(scores_LN, values, reduction="none"), hits.float()], 1)


class NumberHead(CellHead):
    """One number. Columns: squared error; the target and its square, of which the variance is made."""

    def losses(self, scores_LN: Tensor, values: Tensor) -> Tensor:
        """(L, 3) float32, in standard deviations of the training cells."""
        return torch.stack([(scores_LN[:, 0] - values).square(), values, values.square()], 1)


def pooled(hidden_TD: Tensor, pack: Pack, segments: Tensor, pool: str) -> Tensor:
    """One vector for each cell.

    Args:
        hidden_TD: hidden states of the pack.
        pack: whose they are.
        segments: (L,) int64 numbers of the cells' segments.
        pool: mean (of all the cell's tokens, summed in float32) or first.

    Returns:
        (L, D): float32 means, or first tokens in the precision of the hidden states.
    """
    bounds = pack.packed_seq_params.cu_seqlens_q.long()
    if pool == "first":
        return hidden_TD[bounds[segments]]
    # unsafe: without a look at the bounds, for which the host would wait for the device.
    means_SD = torch.segment_reduce(hidden_TD.float(), "mean", offsets=bounds, axis=0, unsafe=True)
    return means_SD[segments]


class CellHeads(nn.ModuleDict):
    """Heads by the users' own names, of which `type` and `values` are names of torch's methods too."""

    def add_module(self, name: str, module: nn.Module | None) -> None:
        """Keep a module; torch's own refuses names that are attributes, which these never become."""
        self._modules[name] = module  # type: ignore[assignment]  # None is allowed, and annotated otherwise


def cell_heads(task: TaskConfig, config: Any) -> CellHeads:
    """The heads of a task's objectives about whole cells, by name; none for a task about tokens alone.

    Args:
        task: with its classes known.
        config: Megatron's TransformerConfig.
    """
    asked = {name: one for name, one in task.objectives.items() if isinstance(one, CellTask)}
    kinds = {name: ClassHead if isinstance(one, ClassifyTask) else NumberHead for name, one in asked.items()}
    return CellHeads({name: kinds[name](config, one) for name, one in asked.items()})
