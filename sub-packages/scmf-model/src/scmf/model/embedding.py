"""Token and position embeddings. In: ids and positions of a pack. Out: the first hidden states."""

from __future__ import annotations

import contextlib
import math
from typing import Any

from torch import Tensor, nn

from scmf.model.config import Positions
from scmf.model.megatron import (
    MegatronModule,
    VocabParallelEmbedding,
    get_cuda_rng_tracker,
    scatter_to_sequence_parallel_region,
)
from scmf.model.positions import sinusoids


class PackEmbedding(MegatronModule):
    """Vocabulary-parallel token embedding plus positions, then (post-norm models) a norm, then dropout.

    Rotary positions are added nowhere: attention turns its queries and keys.

    Args:
        config: Megatron's TransformerConfig.
        vocabulary_size: padded size, divisible by the tensor ranks.
        seq_length: number of positions.
        positions: learned, sinusoidal or rotary.
        norm: class of the norm after the sum (BERT's order), or None.
        tp_group: the tensor-parallel process group.
    """

    def __init__(
        self,
        config: Any,
        *,
        vocabulary_size: int,
        seq_length: int,
        positions: Positions,
        norm: Any | None,
        tp_group: Any,
    ) -> None:
        super().__init__(config)
        self.tp_group = tp_group
        self.word_embeddings = VocabParallelEmbedding(
            vocabulary_size,
            config.hidden_size,
            init_method=config.init_method,
            reduce_scatter_embeddings=False,
            config=config,
            tp_group=tp_group,
        )
        self.positions = positions
        if positions == "learned":
            self.position_embeddings = nn.Embedding(seq_length, config.hidden_size, dtype=config.params_dtype)
        if positions == "sinusoidal":
            table = sinusoids(seq_length, config.hidden_size).to(config.params_dtype)
            # Computed, so that no checkpoint holds it.
            self.register_buffer("sinusoids", table, persistent=False)
        self.norm = None
        if norm is not None:
            self.norm = norm(config=config, hidden_size=config.hidden_size, eps=config.layernorm_epsilon)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        """Embed a pack.

        Args:
            input_ids: (T,) int64.
            positions: (T,) int64, below seq_length.

        Returns:
            (T, 1, D), or (T / tensor ranks, 1, D) under sequence parallelism.
        """
        hidden = self._placed(self.word_embeddings(input_ids), positions).unsqueeze(1)
        own_state: Any = contextlib.nullcontext()
        if self.config.sequence_parallel:
            hidden = scatter_to_sequence_parallel_region(hidden, group=self.tp_group)
            own_state = get_cuda_rng_tracker().fork()
        if self.norm is not None:
            hidden = self.norm(hidden)
        with own_state:
            dropped: Tensor = self.dropout(hidden)
        return dropped

    def _placed(self, hidden_TD: Tensor, positions: Tensor) -> Tensor:
        """(T, D) tokens that know their places."""
        if self.positions == "learned":
            hidden_TD = hidden_TD + self.position_embeddings(positions)
        if self.positions == "sinusoidal":
            # Sines are near 1, tied embeddings near 0.02: scaled, neither drowns the other.
            # Source: Vaswani et al., 2017, section 3.4.
            hidden_TD = hidden_TD * math.sqrt(hidden_TD.size(-1)) + self.sinusoids[positions]
        return hidden_TD
