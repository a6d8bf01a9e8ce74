"""Masked batches for peers that make none. In: CSR cells. Out: rank tokens, padded, with BERT's masks.

Run in a peer's environment; imports nothing of scmf.
"""

from __future__ import annotations

import itertools
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Rows = tuple[Array, Array, Array]
"""Cells laid end to end: indptr, gene numbers, counts."""
SEQ_LENGTH: Final = 2048
MASK: Final = 1
FIRST_GENE: Final = 2
SELECT: Final = 0.15


def inverse_of(medians: Array) -> Array:
    """(n_genes,) float32, one over each median; huge for a gene that was never met."""
    return (1 / np.maximum(medians, np.finfo(np.float32).tiny)).astype(np.float32)


def rank(counts: Array, genes: Array, inverse: Array) -> Array:
    """Tokens of a cell, the gene highest above its median first."""
    value = counts.astype(np.float32)
    # One sort a cell: NumPy sorts two thousand float32 with vector instructions, which no sort over all cells does.
    order = np.argsort(-(value / value.sum() * inverse[genes]))[:SEQ_LENGTH]
    return genes[order] + FIRST_GENE


def ranked_batch(rows: Rows, inverse: Array) -> Array:
    """Rank tokens of a batch, padded to its longest.

    Args:
        rows: CSR cells.
        inverse: (n_genes,) float32, one over the median of each gene's scaled counts; every gene met has one.

    Returns:
        (cells, W) int64, 0 for padding.
    """
    indptr, genes, counts = rows
    ids = np.zeros((len(indptr) - 1, SEQ_LENGTH), np.int64)
    width = 1
    for row, (a, b) in enumerate(itertools.pairwise(indptr.tolist())):
        tokens = rank(counts[a:b], genes[a:b], inverse)
        ids[row, : len(tokens)] = tokens
        width = max(width, len(tokens))
    return ids[:, :width]


def few_draws(ids: Array, n_genes: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """BERT's masks with one draw a position: what kind of target it is follows from the same number.

    Args:
        ids: (cells, W) int64, 0 for padding.
        n_genes: tokens that a random one is drawn from.
        rng: for the draws.

    Returns:
        input_ids and labels, (cells, W) int64.
    """
    chance = rng.random(ids.shape, np.float32)
    labels = np.full(ids.shape, -100, np.int64)
    chosen = np.flatnonzero((chance < SELECT) & (ids > 0))
    flat, labels_flat = ids.reshape(-1).copy(), labels.reshape(-1)
    labels_flat[chosen] = flat[chosen]
    share = chance.reshape(-1)[chosen] / SELECT
    flat[chosen[share < 0.8]] = MASK
    other = chosen[(share >= 0.8) & (share < 0.9)]
    flat[other] = rng.integers(FIRST_GENE, n_genes + FIRST_GENE, len(other))
    return flat.reshape(ids.shape), labels


def usual_draws(ids: Array, n_genes: int) -> tuple[Any, Any]:
    """BERT's masks as they are usually made: three Bernoulli draws and a random token for every position, in torch.

    The operations of transformers' `DataCollatorForLanguageModeling`, which most training scripts use.

    Args:
        ids: (cells, W) int64, 0 for padding.
        n_genes: tokens that a random one is drawn from.

    Returns:
        input_ids and labels, (cells, W) int64 tensors.
    """
    import torch

    seen = torch.from_numpy(ids.copy())
    labels = seen.clone()
    chance = torch.full(labels.shape, SELECT).masked_fill_(seen == 0, 0.0)
    targets = torch.bernoulli(chance).bool()
    labels[~targets] = -100
    masks = torch.bernoulli(torch.full(labels.shape, 0.8)).bool() & targets
    seen[masks] = MASK
    others = torch.bernoulli(torch.full(labels.shape, 0.5)).bool() & targets & ~masks
    seen[others] = torch.randint(FIRST_GENE, n_genes + FIRST_GENE, labels.shape)[others]
    return seen, labels
