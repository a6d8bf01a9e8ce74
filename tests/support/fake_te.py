"""Stand-ins with the shapes and parameter names of Megatron's Transformer Engine wrappers (0.16.1), on the CPU.

Transformer Engine refuses to be built without a GPU. These classes compute the same things with the same names, so
that the spec which uses them can be built, compared with the local one and saved. What they cannot show is that
the kernels themselves are right: that needs a GPU.
"""

from __future__ import annotations

from typing import Any

import torch

from scmf.model.attention import PackedAttention
from scmf.model.megatron import ColumnParallelLinear, RowParallelLinear, make_sharded_tensors_for_checkpoint
from scmf.model.norm import LayerNorm

TENorm = LayerNorm
TEDotProductAttention = PackedAttention
TERowParallelLinear = RowParallelLinear
TEColumnParallelLinear = ColumnParallelLinear


class TELayerNormColumnParallelLinear(ColumnParallelLinear):
    """A column-parallel linear that normalises its input, with the norm's parameters inside."""

    def __init__(self, input_size: int, output_size: int, *, config: Any, **kwargs: Any) -> None:
        super().__init__(input_size, output_size, config=config, **kwargs)
        self.layer_norm_weight = torch.nn.Parameter(torch.ones(input_size))
        self.layer_norm_bias = torch.nn.Parameter(torch.zeros(input_size))
        self.eps = config.layernorm_epsilon

    def forward(self, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Norm, then the linear."""
        shape = (hidden.size(-1),)
        normed = torch.nn.functional.layer_norm(hidden, shape, self.layer_norm_weight, self.layer_norm_bias, self.eps)
        return super().forward(normed, *args, **kwargs)

    def sharded_state_dict(self, prefix: str = "", sharded_offsets: Any = (), metadata: Any = None) -> dict[str, Any]:
        """Norm replicated, linear split: the axis map of Megatron's wrapper."""
        state = self.state_dict(prefix="", keep_vars=True)
        groups = {"tp_group": self.tp_group, "dp_cp_group": metadata["dp_cp_group"]}
        result: dict[str, Any] = make_sharded_tensors_for_checkpoint(
            state, prefix, {"weight": 0, "bias": 0}, sharded_offsets, **groups
        )
        return result
