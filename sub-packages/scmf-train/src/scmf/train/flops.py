"""Floating-point operations of training, by formula. In: sizes, lengths of cells, targets. Out: FLOPs, utilisation.

Real tokens alone are counted by `training_flops`: no padding, no position of the vocabulary head that has no target,
nothing that is computed twice to save memory. So a run that pads or recomputes shows a lower utilisation, as it
should. `computed_flops` counts what the chip has to do.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from scmf.model.config import ModelConfig

BACKWARD = 2
"""The backward pass computes the gradient of both factors of every product."""


def training_flops(model: ModelConfig, *, lengths: Iterable[int], targets: int, vocabulary_size: int) -> int:
    """FLOPs of the matrix products of one forward and backward pass; a multiplication and an addition are two.

    Forward, for hidden width D, feed-forward width F, padded vocabulary V, and a cell of L tokens:
    layers x (L (8 D^2 + 4 D F) + 4 L^2 D), and for every target 2 D V and, under mlm, 2 D^2. Where tokens see only
    the ones before them, L (L + 1) / 2 takes the place of L^2.

    Args:
        model: sizes.
        lengths: tokens of each cell.
        targets: tokens to be predicted, of all those cells.
        vocabulary_size: before padding.

    Source: Kaplan et al., 2020 (arXiv:2001.08361), appendix, with attention on real lengths.
    """
    tokens = pairs = 0
    for length in lengths:
        tokens += length
        pairs += seen_pairs(model, length)
    head = targets * head_flops(model, vocabulary_size)
    return (1 + BACKWARD) * (model.layers * (tokens * token_flops(model) + pairs * 4 * model.hidden) + head)


def seen_pairs(model: ModelConfig, length: int) -> int:
    """Pairs of a token and one that it sees, itself included, in a segment of so many tokens."""
    return length * (length + 1) // 2 if is_causal(model) else length**2


def is_causal(model: ModelConfig) -> bool:
    """Whether tokens see only the ones before them; a model of the user's own that does not say sees everything."""
    return bool(getattr(model, "causal", False))


def token_flops(model: ModelConfig) -> int:
    """Forward, one layer, one position, without attention's pairs: 8 D^2 + 4 D F."""
    return 8 * model.hidden**2 + feed_forward_flops(model)


def feed_forward_flops(model: ModelConfig) -> int:
    """Forward, one layer, one position: the two products of the feed-forward, 4 D F."""
    return 4 * model.hidden * model.ffn


def head_flops(model: ModelConfig, vocabulary_size: int) -> int:
    """Forward, one target: 2 D V for the scores, and 2 D^2 for BERT's dense layer under mlm.

    Args:
        model: sizes and task.
        vocabulary_size: before padding.
    """
    dense = 2 * model.hidden**2 if model.task.mlm_head else 0
    return dense + 2 * model.hidden * model.padded_vocabulary_size(vocabulary_size)


def computed_flops(
    model: ModelConfig,
    *,
    positions: int,
    segments: Iterable[int],
    targets: int,
    vocabulary_size: int,
    recompute: Literal["none", "selective", "full"] = "none",
) -> int:
    """FLOPs that a microbatch takes on the chip: padding and what is computed twice are work, too.

    Args:
        model: sizes.
        positions: of the microbatch, padding included.
        segments: lengths of all its segments, padding included.
        targets: tokens to be predicted.
        vocabulary_size: before padding.
        recompute: `trainer.parallel.recompute`: none; the feed-forwards' forward again; or every layer's.
    """
    pairs = sum(seen_pairs(model, length) for length in segments)
    layer = positions * token_flops(model) + pairs * 4 * model.hidden
    again = {"none": 0, "selective": positions * feed_forward_flops(model), "full": layer}[recompute]
    head = targets * head_flops(model, vocabulary_size)
    return (1 + BACKWARD) * (model.layers * layer + head) + model.layers * again


def utilisation(flops: float, *, seconds: float, peak: float) -> float:
    """Model FLOPs utilisation (MFU): the share of the chip's peak that went into the model.

    Args:
        flops: of `training_flops`, on one device.
        seconds: that they took, > 0.
        peak: FLOP/s of the device, dense, in the precision of the products.
    """
    return flops / seconds / peak
