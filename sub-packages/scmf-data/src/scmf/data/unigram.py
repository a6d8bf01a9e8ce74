"""The baseline that a model has to beat. In: a stream. Out: the loss of the best guess that ignores the cell.

A unigram model gives every masked position the same probabilities: how often each gene occurs among the tokens
of the training cells. What a trained model gains over it, it has learnt from the other genes of the cell.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scmf.core.errors import ConfigError
from scmf.core.random import derive_seed
from scmf.data.order import permute
from scmf.data.stream import CellStream

CELLS_A_BLOCK = 1_024
SMOOTHING = (1.0, 0.3, 0.1, 0.03, 0.01)
"""Occurrences added to every gene, so that one never seen is not impossible. The one that gives the lowest loss
on the validation targets is taken: a choice in the baseline's favour, which no trained model has."""


@dataclass(frozen=True, slots=True)
class UnigramLoss:
    """Cross-entropy of the unigram model on the validation targets."""

    total: float
    """Sum over the targets, nats."""
    targets: int
    """Masked tokens of the validation batches."""
    cells: int
    """Training cells whose tokens were counted."""
    smoothing: float
    """Occurrences added to every gene."""

    @property
    def mean(self) -> float:
        """Nats per masked token."""
        return self.total / self.targets

    @property
    def perplexity(self) -> float:
        """Exp of the mean."""
        return math.exp(self.mean)


def unigram_loss(stream: CellStream, *, batches: int, cells: int = 100_000) -> UnigramLoss:
    """Loss of the unigram model on the targets of the first validation batches: those a run validates on.

    Args:
        stream: of a single replica, which has all targets.
        batches: validation batches, as many as the run's `trainer.validate.batches`.
        cells: training cells to count, drawn at random if there are more.

    Raises:
        ConfigError: the stream has a part of the targets only, or there are no validation cells.
    """
    if stream.replica.of != 1 or stream.n_validation == 0:
        raise ConfigError(
            f"the baseline needs validation targets and all of them; this stream has {stream.n_validation:,} "
            f"validation cells and is one replica of {stream.replica.of}",
            where="data.split.validation",
            fix="hold out some cells, and build the stream with one replica",
        )
    counted = min(cells, stream.n_train)
    counts = _count_tokens(stream, counted)
    targets = _validation_targets(stream, batches)
    totals = {extra: _total(counts + extra, targets) for extra in SMOOTHING}
    best = min(totals, key=totals.__getitem__)
    return UnigramLoss(totals[best], len(targets), counted, best)


def _total(counts: npt.NDArray[np.float64], targets: npt.NDArray[np.int64]) -> float:
    """Sum of -log share over the targets, nats."""
    return float(-np.log(counts[targets] / counts.sum()).sum())


def _validation_targets(stream: CellStream, batches: int) -> npt.NDArray[np.int64]:
    """(targets,) int64 places of the targets' genes in the vocabulary's list of genes."""
    found = [stream.validation(i) for i in range(batches)]
    tokens = [m.targets for batch in found if batch is not None for m in batch.microbatches]
    return np.concatenate(tokens).astype(np.int64) - stream.vocabulary.first_gene


def _count_tokens(stream: CellStream, cells: int) -> npt.NDArray[np.float64]:
    """(n_genes,) float64 occurrences of each gene among the tokens of training cells."""
    vocabulary = stream.vocabulary
    places = permute(np.arange(cells), n=stream.n_train, key=derive_seed(stream.seed, "unigram"))
    cell_ids = stream.splits.train.take(places)
    counts = np.zeros(len(vocabulary), np.int64)
    for start in range(0, cells, CELLS_A_BLOCK):
        tokens = stream.tokenizer.encode(stream.store, cell_ids[start : start + CELLS_A_BLOCK])
        counts += np.bincount(tokens.ids, minlength=len(vocabulary))
    return counts[vocabulary.first_gene :].astype(np.float64)
