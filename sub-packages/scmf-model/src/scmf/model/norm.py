"""LayerNorm of the local spec: torch's, with the attributes that Megatron's layers look for."""

from __future__ import annotations

from typing import Any

import torch


class LayerNorm(torch.nn.LayerNorm):
    """torch's LayerNorm, also under sequence parallelism (Megatron's own wrapper refuses it).

    Args:
        config: Megatron's TransformerConfig; parameter dtype and sequence parallelism are read from it.
        hidden_size: width.
        eps: added to the variance.
    """

    def __init__(self, config: Any, hidden_size: int, eps: float = 1e-12, **_: object) -> None:
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype)
        for parameter in self.parameters():
            # Under sequence parallelism every rank sees a part of the tokens: Megatron sums these gradients.
            parameter.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
