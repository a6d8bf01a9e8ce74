"""Heads over the vocabulary. In: hidden states of a pack and its targets. Out: the loss of every target.

Only the targets' positions reach the vocabulary: for masked tokens 15% of the work of a head over all positions.
Shapes: T positions, M targets, D width, V vocabulary of this tensor rank.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear

from scmf.model.config import ClmTask, TaskConfig
from scmf.model.megatron import (
    copy_to_tensor_model_parallel_region,
    gather_from_tensor_model_parallel_region,
    make_sharded_tensors_for_checkpoint,
    reduce_from_tensor_model_parallel_region,
    set_tensor_model_parallel_attributes,
    vocab_parallel_cross_entropy,
)


class VocabularyHead(nn.Module):
    """GPT's head: scores are products with the tied embedding matrix, split over tensor ranks.

    Args:
        config: Megatron's TransformerConfig.
        vocabulary_size: tokens, before padding.
        rows: of the embedding matrix: padded, divisible by the tensor ranks.
        own_weight: keep a copy of the embedding matrix here: on the last of several pipeline stages.
        tp_group: the tensor-parallel process group.
        label_smoothing: share of the target's probability that is spread over the vocabulary, in training alone.
    """

    def __init__(
        self,
        config: Any,
        *,
        vocabulary_size: int,
        rows: int,
        own_weight: bool,
        tp_group: Any,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.tp_group = tp_group
        self.vocabulary_size = vocabulary_size
        self.label_smoothing = label_smoothing
        self.rows = rows // tp_group.size()
        """Of this tensor rank."""
        self.bias: nn.Parameter | None = None
        self.weight: nn.Parameter | None = None
        if own_weight:
            self.weight = nn.Parameter(torch.empty(self.rows, config.hidden_size, dtype=config.params_dtype))
            set_tensor_model_parallel_attributes(self.weight, is_parallel=True, dim=0, stride=1)

    def forward(self, hidden_MD: Tensor, targets: Tensor, *, weight_VD: Tensor) -> Tensor:
        """Cross-entropy of each target.

        Args:
            hidden_MD: (M, D) hidden states at the targets' positions, the same on every tensor rank.
            targets: (M,) int64 token ids.
            weight_VD: (V, D) this rank's rows of the embedding matrix.

        Returns:
            (M,) float32, nats; against smoothed targets while training, where that is asked for.
        """
        logits_MV = self.logits(hidden_MD, weight_VD=weight_VD).float()
        # First: Megatron's cross-entropy writes over the logits.
        smoothing = self._smoothing(logits_MV, targets) if self.training and self.label_smoothing else None
        losses: Tensor = vocab_parallel_cross_entropy(logits_MV, targets)
        return losses if smoothing is None else losses + smoothing

    def logits(self, hidden_MD: Tensor, *, weight_VD: Tensor) -> Tensor:
        """(M, V) scores of this rank's part of the vocabulary."""
        # The identity forward, the sum over tensor ranks backward: each rank sees a part of the vocabulary.
        hidden_MD = copy_to_tensor_model_parallel_region(self.transformed(hidden_MD), group=self.tp_group)
        return linear(hidden_MD, weight_VD, self.bias)

    def whole_logits(self, hidden_MD: Tensor, *, weight_VD: Tensor) -> Tensor:
        """(M, vocabulary_size) scores of the whole vocabulary without its padding; collective over tensor ranks."""
        logits_MV = self.logits(hidden_MD, weight_VD=weight_VD)
        whole: Tensor = gather_from_tensor_model_parallel_region(logits_MV, group=self.tp_group)
        return whole[:, : self.vocabulary_size]

    def transformed(self, hidden_MD: Tensor) -> Tensor:
        """What is multiplied with the embedding matrix: the hidden states as they are."""
        return hidden_MD

    def _smoothing(self, logits_MV: Tensor, targets: Tensor) -> Tensor:
        """(M,) what smoothed targets add to the cross-entropy: share x (target's score - mean score).

        The mean is over the vocabulary without its padding, on all tensor ranks together; Megatron's own smoothing
        takes it over each rank's padded part, so that the loss would depend on the layout.
        Source: Szegedy et al., 2016 (arXiv:1512.00567), section 7.
        """
        first = self.tp_group.rank() * self.rows
        own = max(0, min(self.rows, self.vocabulary_size - first))
        here = (targets >= first) & (targets < first + self.rows)
        # Indexing, not gather, which would keep the logits for its backward pass.
        numbers = torch.arange(len(targets), device=targets.device)
        of_target = logits_MV[numbers, (targets - first).clamp(0, self.rows - 1)]
        difference = of_target * here - logits_MV[:, :own].sum(1) / self.vocabulary_size
        over_ranks: Tensor = reduce_from_tensor_model_parallel_region(difference, group=self.tp_group)
        return self.label_smoothing * over_ranks

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple[Any, ...] = (), metadata: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Checkpoint entries; Megatron's LanguageModule ties the copy of the embedding matrix to the original."""
        state = self.state_dict(keep_vars=True)
        groups = {"tp_group": self.tp_group, "dp_cp_group": (metadata or {}).get("dp_cp_group")}
        result: dict[str, Any] = make_sharded_tensors_for_checkpoint(
            state, prefix, {"weight": 0, "bias": 0}, sharded_offsets, **groups
        )
        return result


class MlmHead(VocabularyHead):
    """BERT's head: dense, GELU, norm, then the tied embedding matrix and a bias, split over tensor ranks.

    Args:
        config: Megatron's TransformerConfig.
        place: as VocabularyHead takes it.
    """

    def __init__(self, config: Any, **place: Any) -> None:
        super().__init__(config, **place)
        width, dtype = config.hidden_size, config.params_dtype
        self.dense = nn.Linear(width, width, dtype=dtype)
        self.norm = nn.LayerNorm(width, eps=config.layernorm_epsilon, dtype=dtype)
        self.bias = nn.Parameter(torch.zeros(self.rows, dtype=dtype))
        set_tensor_model_parallel_attributes(self.bias, is_parallel=True, dim=0, stride=1)

    def transformed(self, hidden_MD: Tensor) -> Tensor:
        """(M, D) dense, GELU, norm."""
        normed: Tensor = self.norm(gelu(self.dense(hidden_MD)))
        return normed


def vocabulary_head(task: TaskConfig, config: Any, **place: Any) -> VocabularyHead:
    """The head over the vocabulary that a task asks for.

    Args:
        task: what the model is trained to do.
        config: Megatron's TransformerConfig.
        place: `vocabulary_size`, `rows`, `own_weight` and `tp_group`, as VocabularyHead takes them.
    """
    if isinstance(task, ClmTask):
        return VocabularyHead(config, label_smoothing=task.label_smoothing, **place)
    return MlmHead(config, **place)
