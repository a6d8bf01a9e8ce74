"""Attention with dropout inside the segments of a pack, where torch has no fused kernel with dropout.

In: queries, keys and values of a pack. Out: contexts. Nothing of size L x L is kept for the backward pass: the
weights are computed again, and what was dropped is drawn again from the same seed. (Keeping them takes about
10 GB for the 10M model at 16,384 tokens; torch's unfused path also takes several times the time.)
Shapes: T positions, A heads of this rank, E width of a head, L length of a segment.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

_LEVELS = 1 << 16


def drop_attention(query_TAE: Tensor, key_TAE: Tensor, value_TAE: Tensor, segments: Segments) -> Tensor:
    """Context of every token, (T, A, E), from its own segment, with weights dropped.

    Args:
        query_TAE: (T, A, E).
        key_TAE: (T, A, E).
        value_TAE: (T, A, E).
        segments: lengths and what is dropped.
    """
    context_TAE: Tensor = _DroppedAttention.apply(query_TAE, key_TAE, value_TAE, segments)  # type: ignore[no-untyped-call]
    return context_TAE


class _DroppedAttention(torch.autograd.Function):
    """softmax(q k^T / sqrt(E)), of which weights are dropped, times v; each segment over itself."""

    @staticmethod
    def forward(ctx: Any, query_TAE: Tensor, key_TAE: Tensor, value_TAE: Tensor, segments: Segments) -> Tensor:
        """(T, A, E) context; `segments` holds lengths, dropout and seed."""
        context_TAE = torch.empty_like(value_TAE)
        for rows, drop in segments.drawn(query_TAE.size(1)):
            q, k, v = (t[rows].transpose(0, 1) for t in (query_TAE, key_TAE, value_TAE))
            weights_ALL = _weights(q, k, causal=segments.causal).masked_fill_(drop, 0.0)
            context_TAE[rows] = (weights_ALL @ v).mul_(segments.scale).transpose(0, 1)
        ctx.save_for_backward(query_TAE, key_TAE, value_TAE, context_TAE)
        ctx.segments = segments
        return context_TAE

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of queries, keys and values, and none of the segments."""
        query_TAE, key_TAE, value_TAE, context_TAE = ctx.saved_tensors
        segments: Segments = ctx.segments
        grads = tuple(torch.empty_like(t) for t in (query_TAE, key_TAE, value_TAE))
        # The softmax's backward needs sum(weight * gradient) a row, which is context . gradient (FlashAttention).
        delta_TA = (gradients[0] * context_TAE).sum(-1)
        for rows, drop in segments.drawn(query_TAE.size(1)):
            parts = tuple(t[rows].transpose(0, 1) for t in (query_TAE, key_TAE, value_TAE, gradients[0]))
            delta_AL = delta_TA[rows].transpose(0, 1)
            for grad, part in zip(grads, _gradients(parts, delta_AL, drop, segments), strict=True):
                grad[rows] = part.transpose(0, 1)
        return (*grads, None)


class Segments:
    """Lengths of the segments and what is dropped in them, from a seed taken of the device's default generator.

    Args:
        lengths: of the segments, summing to T.
        dropout: probability of dropping a weight, to 1/65,536.
        device: of queries, keys and values; the host waits for a GPU here.
        causal: a token sees itself and the ones before it.
    """

    def __init__(self, lengths: Sequence[int], dropout: float, *, device: torch.device, causal: bool = False) -> None:
        self.lengths = lengths
        self.causal = causal
        self.scale = 1.0 / (1.0 - dropout)
        self._threshold = round(dropout * _LEVELS) - _LEVELS // 2
        self._device = device
        # Of the device: on a GPU the ranks' own random states are those of its generator.
        self._seed = int(torch.empty((), dtype=torch.int64, device=device).random_())

    def drawn(self, heads: int) -> Iterator[tuple[slice, Tensor]]:
        """Rows of each segment and (A, L, L) bool of the weights dropped; the same at every call."""
        generator = torch.Generator(self._device).manual_seed(self._seed)
        start = 0
        for length in self.lengths:
            yield slice(start, start + length), self._drop((heads, length, length), generator)
            start += length

    def _drop(self, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
        # Four decisions a draw of 64 bits: drawing is most of the cost of dropout on a CPU.
        count = shape[0] * shape[1] * shape[2]
        draws = torch.empty(-(-count // 4), dtype=torch.int64, device=self._device)
        draws.random_(-(1 << 63), None, generator=generator)
        return (draws.view(torch.int16)[:count] < self._threshold).view(shape)


def _weights(query_ALE: Tensor, key_ALE: Tensor, *, causal: bool) -> Tensor:
    scores_ALL = (query_ALE * query_ALE.size(-1) ** -0.5) @ key_ALE.transpose(1, 2)
    if causal:
        later_LL = torch.ones(scores_ALL.shape[1:], dtype=torch.bool, device=scores_ALL.device).triu_(1)
        scores_ALL.masked_fill_(later_LL, -math.inf)
    return torch.softmax(scores_ALL, -1, dtype=torch.float32).to(query_ALE.dtype)


def _gradients(
    parts: tuple[Tensor, ...], delta_AL: Tensor, drop_ALL: Tensor, segments: Segments
) -> tuple[Tensor, Tensor, Tensor]:
    """(A, L, E) gradients of one segment's queries, keys and values."""
    q, k, v, grad = parts
    scale = segments.scale
    weights_ALL = _weights(q, k, causal=segments.causal)
    grad_v = (weights_ALL.masked_fill(drop_ALL, 0.0).transpose(1, 2) @ grad).mul_(scale)
    grad_scores = (grad @ v.transpose(1, 2)).masked_fill_(drop_ALL, 0.0).mul_(scale)
    grad_scores.sub_(delta_AL.unsqueeze(-1)).mul_(weights_ALL).mul_(q.size(-1) ** -0.5)
    return grad_scores @ k, grad_scores.transpose(1, 2) @ q, grad_v
