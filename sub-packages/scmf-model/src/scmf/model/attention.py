"""Attention inside the segments of a pack without Transformer Engine: on CPUs, and in fp32 on GPUs.

In: queries, keys and values of a whole pack and the places where its segments meet. Out: the context of every
token, from its own segment only, of which a causal model sees no later token.
Shapes: T positions, A heads of this rank, E width of a head, L length of a segment.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from scmf.model.dropped_attention import Segments, drop_attention
from scmf.model.megatron import AttnMaskType, MegatronModule, PackedSeqParams, get_cuda_rng_tracker


def segment_attention(
    query_TAE: Tensor,
    key_TAE: Tensor,
    value_TAE: Tensor,
    *,
    lengths: Sequence[int],
    dropout: float,
    causal: bool = False,
) -> Tensor:
    """Attention of each segment over itself.

    Each segment is computed from its own rows alone, so that no value of another one can reach it.

    Args:
        query_TAE: (T, A, E) in any float dtype.
        key_TAE: (T, A, E).
        value_TAE: (T, A, E).
        lengths: of the segments, summing to T.
        dropout: probability of dropping an attention weight.
        causal: a token sees itself and the ones before it; otherwise the whole segment.

    Returns:
        (T, A, E) context.
    """
    if dropout:
        segments = Segments(lengths, dropout, device=query_TAE.device, causal=causal)
        return drop_attention(query_TAE, key_TAE, value_TAE, segments)
    # split, not slicing: its backward is one concatenation instead of a T-long zero tensor a segment.
    queries, keys, values = (torch.split(t, list(lengths)) for t in (query_TAE, key_TAE, value_TAE))
    return torch.cat([_fused(q, k, v, causal=causal) for q, k, v in zip(queries, keys, values, strict=True)])


def _fused(query_LAE: Tensor, key_LAE: Tensor, value_LAE: Tensor, *, causal: bool) -> Tensor:
    q_ALE, k_ALE, v_ALE = (t.transpose(0, 1).unsqueeze(0) for t in (query_LAE, key_LAE, value_LAE))
    return scaled_dot_product_attention(q_ALE, k_ALE, v_ALE, is_causal=causal).squeeze(0).transpose(0, 1)


class PackedAttention(MegatronModule):
    """Core attention of the local spec: scaled dot product within the segments of `packed_seq_params`.

    The arguments are the ones by which Megatron's SelfAttention builds and calls its core attention.
    """

    def __init__(
        self,
        config: Any,
        layer_number: int,
        attn_mask_type: Any,
        attention_type: str,
        attention_dropout: float | None = None,
        **_: object,
    ) -> None:
        super().__init__(config)
        del layer_number, attention_type
        self.causal = attn_mask_type in (AttnMaskType.causal, AttnMaskType.padding_causal)
        self.dropout = config.attention_dropout if attention_dropout is None else attention_dropout

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: None = None,
        packed_seq_params: PackedSeqParams | None = None,
        **_: object,
    ) -> Tensor:
        """Context of every token of the pack.

        Args:
            query: (T, A, E) of this rank's heads.
            key: (T, A, E).
            value: (T, A, E).
            attention_mask: None; segments are kept apart by `packed_seq_params`.
            packed_seq_params: with `cu_seqlens_q` (S + 1,) int32 from 0 to T.

        Returns:
            (T, A * E).

        Raises:
            ValueError: a mask, or no packed_seq_params.
        """
        if attention_mask is not None or packed_seq_params is None:
            raise ValueError("PackedAttention takes packed_seq_params and no attention mask")
        dropout = self.dropout if self.training else 0.0
        lengths = packed_seq_params.cu_seqlens_q.diff().tolist()
        # Ranks hold different heads and must drop different weights. Under sequence parallelism Megatron's block
        # has already entered the ranks' own random state.
        own_state = dropout and not self.config.sequence_parallel
        with get_cuda_rng_tracker().fork() if own_state else contextlib.nullcontext():
            context_TAE = segment_attention(query, key, value, lengths=lengths, dropout=dropout, causal=self.causal)
        return context_TAE.reshape(context_TAE.size(0), -1)
