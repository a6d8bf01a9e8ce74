"""The masked-LM head. In: hidden states of a pack and its targets. Out: the loss of every target.

Only the targets' positions reach the vocabulary: 15% of the work of a head over all positions.
Shapes: T positions, M targets, D width, V vocabulary of this tensor rank.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear

from scmf.model.megatron import (
    copy_to_tensor_model_parallel_region,
    make_sharded_tensors_for_checkpoint,
    set_tensor_model_parallel_attributes,
    vocab_parallel_cross_entropy,
)


class MlmHead(nn.Module):
    """BERT's head: dense, GELU, norm, then the tied embedding matrix and a bias, split over tensor ranks.

    Args:
        config: Megatron's TransformerConfig.
        vocabulary_size: padded size, divisible by the tensor ranks.
        own_weight: keep a copy of the embedding matrix here: on the last of several pipeline stages.
        tp_group: the tensor-parallel process group.
    """

    def __init__(self, config: Any, *, vocabulary_size: int, own_weight: bool, tp_group: Any) -> None:
        super().__init__()
        self.tp_group = tp_group
        width, dtype = config.hidden_size, config.params_dtype
        share = vocabulary_size // tp_group.size()
        self.dense = nn.Linear(width, width, dtype=dtype)
        self.norm = nn.LayerNorm(width, eps=config.layernorm_epsilon, dtype=dtype)
        self.bias = nn.Parameter(torch.zeros(share, dtype=dtype))
        set_tensor_model_parallel_attributes(self.bias, is_parallel=True, dim=0, stride=1)
        self.weight: nn.Parameter | None = None
        if own_weight:
            self.weight = nn.Parameter(torch.empty(share, width, dtype=dtype))
            set_tensor_model_parallel_attributes(self.weight, is_parallel=True, dim=0, stride=1)

    def forward(self, hidden_MD: Tensor, targets: Tensor, *, weight_VD: Tensor) -> Tensor:
        """Cross-entropy of each target.

        Args:
            hidden_MD: (M, D) hidden states at the targets' positions, the same on every tensor rank.
            targets: (M,) int64 token ids.
            weight_VD: (V, D) this rank's rows of the embedding matrix.

        Returns:
            (M,) float32, nats.
        """
        logits_MV = self.logits(hidden_MD, weight_VD=weight_VD)
        losses: Tensor = vocab_parallel_cross_entropy(logits_MV.float(), targets)
        return losses

    def logits(self, hidden_MD: Tensor, *, weight_VD: Tensor) -> Tensor:
        """(M, V) scores of this rank's part of the vocabulary."""
        hidden_MD = self.norm(gelu(self.dense(hidden_MD)))
        # The identity forward, the sum over tensor ranks backward: each rank sees a part of the vocabulary.
        hidden_MD = copy_to_tensor_model_parallel_region(hidden_MD, group=self.tp_group)
        return linear(hidden_MD, weight_VD, self.bias)

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
