"""Floating-point operations of training, by formula. In: sizes, lengths of cells, targets. Out: FLOPs, utilisation.

Real tokens alone are counted: no padding, no position of the vocabulary head that has no target, and nothing that
is computed twice to save memory. So a run that pads or recomputes shows a lower utilisation, as it should.
"""

from __future__ import annotations

from collections.abc import Iterable

from scmf.model.config import ModelConfig

BACKWARD = 2
"""The backward pass computes the gradient of both factors of every product."""


def training_flops(model: ModelConfig, *, lengths: Iterable[int], targets: int, vocabulary_size: int) -> int:
    """FLOPs of the matrix products of one forward and backward pass; a multiplication and an addition are two.

    Forward, for hidden width D, feed-forward width F, padded vocabulary V, and a cell of L tokens:
    layers x (L (8 D^2 + 4 D F) + 4 L^2 D), and 2 D^2 + 2 D V for every target.

    Args:
        model: sizes.
        lengths: tokens of each cell.
        targets: tokens to be predicted, of all those cells.
        vocabulary_size: before padding.

    Source: Kaplan et al., 2020 (arXiv:2001.08361), appendix, with attention on real lengths.
    """
    hidden, layers = model.hidden, model.layers
    rows = model.padded_vocabulary_size(vocabulary_size)
    token = 8 * hidden**2 + 4 * hidden * model.ffn
    cells = sum(length * token + 4 * length**2 * hidden for length in lengths)
    return (1 + BACKWARD) * (layers * cells + targets * (2 * hidden**2 + 2 * hidden * rows))


def utilisation(flops: float, *, seconds: float, peak: float) -> float:
    """Model FLOPs utilisation (MFU): the share of the chip's peak that went into the model.

    Args:
        flops: of `training_flops`, on one device.
        seconds: that they took, > 0.
        peak: FLOP/s of the device, dense, in the precision of the products.
    """
    return flops / seconds / peak
