"""How well batches are mixed. In: an order and the labels of its cells. Out: what a batch gives away about them.

Two numbers for each column. *Mutual information* between batch and label: how many bits knowing the batch tells
about a cell's dataset, donor or type. *Batch entropy*: how many bits the labels inside a batch hold, next to those
of all cells drawn. Both are biased where batches are small: 64 cells of 1,000 donors cannot look like 1,000 donors.
So the same labels are dealt to the same batches in random order several times, and what the real order has above
that is the excess, which is 0 for a perfect shuffle up to chance.

Source: plug-in estimates of Shannon entropy; the bias is removed by permutation, as in a permutation test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from scmf.core.random import stream as random_stream

if TYPE_CHECKING:
    from scmf.data.store import CellStore
    from scmf.data.stream import CellStream

IntArray = npt.NDArray[np.int32]
LongArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

BATCHES: Final = 256
"""Batches looked at: the first of an epoch, or so many evenly spaced over it."""
SHUFFLES: Final = 20
MOST_CELLS: Final = 5_000_000
"""A run with more cells than this reads no labels at its start; `scmf-store shuffle-quality` does whatever the size."""
LABELS: Final = ("dataset_id", "donor_id", "donor", "cell_type", "assay")
"""Columns that a run looks at where obs has them, besides those that it splits and samples by. Source: CELLxGENE."""


@dataclass(frozen=True, slots=True)
class ShuffleQuality:
    """How an order mixes one column, in bits."""

    column: str
    groups: int
    """Different labels among the cells drawn."""
    batches: int
    batch_size: int
    label_entropy: float
    """Of all cells drawn."""
    batch_entropy: float
    """Mean over batches."""
    random_batch_entropy: float
    """The same with the labels dealt at random."""
    mutual_information: float
    """Between batch and label, plug-in."""
    random_mutual_information: float
    """The same with the labels dealt at random: the bias of small batches."""
    deviation: float
    """Standard deviation of the random ones."""

    @property
    def excess(self) -> float:
        """Bits that a batch gives away beyond a random order's; about 0 where cells are mixed as well as can be."""
        return self.mutual_information - self.random_mutual_information

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "excess": self.excess}

    def __str__(self) -> str:
        return (
            f"{self.column}: {self.excess:+.4f} bits above a random order ({self.deviation:.4f} is chance), of "
            f"{self.label_entropy:.2f}; a batch of {self.batch_size:,} holds {self.batch_entropy:.2f} bits, "
            f"at random {self.random_batch_entropy:.2f}"
        )


def shuffle_quality(column: str, labels: IntArray, *, seed: int = 0) -> ShuffleQuality:
    """Measure batches by their labels.

    Args:
        column: name for the report.
        labels: (batches, batch_size) int32 group of each cell in the order drawn, 0 or more.
        seed: of the random dealing.
    """
    n_batches, size = labels.shape
    groups = int(labels.max(initial=-1)) + 1
    flat = labels.ravel()
    whole = entropy(np.bincount(flat, minlength=groups)[None, :])[0]
    mine = _mean_batch_entropy(labels, groups)
    draw = random_stream(seed, "shuffle quality")
    random = [_mean_batch_entropy(draw.permutation(flat).reshape(labels.shape), groups) for _ in range(SHUFFLES)]
    # With batches of one size, the information is what the whole has and a batch has not.
    return ShuffleQuality(
        column=column,
        groups=len(np.unique(flat)),
        batches=n_batches,
        batch_size=size,
        label_entropy=whole,
        batch_entropy=mine,
        random_batch_entropy=float(np.mean(random)),
        mutual_information=whole - mine,
        random_mutual_information=whole - float(np.mean(random)),
        deviation=float(np.std(random, ddof=1)),
    )


def entropy(counts: npt.NDArray[np.int64]) -> FloatArray:
    """Shannon entropy in bits of each row of counts, (rows, groups), none of them empty. (rows,) float64."""
    shares = counts / counts.sum(axis=1, keepdims=True)
    logs = np.log2(shares, out=np.zeros_like(shares), where=shares > 0)
    return np.asarray(-(shares * logs).sum(axis=1), np.float64)


def _mean_batch_entropy(labels: IntArray, groups: int) -> float:
    """Over batches, in bits; a thousand rows of counts at most are held."""
    total = 0.0
    rows = max(1, 4_000_000 // max(1, groups))
    for start in range(0, len(labels), rows):
        block = labels[start : start + rows]
        keys = np.arange(len(block))[:, None] * groups + block
        total += float(
            entropy(np.bincount(keys.ravel(), minlength=len(block) * groups).reshape(len(block), groups)).sum()
        )
    return total / len(labels)


def draw_batches(cells_at: Callable[[LongArray], LongArray], *, n_cells: int, batch_size: int) -> LongArray:
    """Cells of at most 256 batches, evenly spaced over an epoch.

    Args:
        cells_at: ids of the cells at these places of the epoch.
        n_cells: places of the epoch.
        batch_size: cells of a batch; an epoch of fewer cells is one batch.

    Returns:
        (batches, batch_size) int64.
    """
    size = min(batch_size, n_cells)
    whole = n_cells // size
    chosen = np.unique(np.linspace(0, whole - 1, min(BATCHES, whole)).astype(np.int64))
    places = chosen[:, None] * size + np.arange(size)
    return cells_at(places.ravel()).reshape(places.shape)


def measure_order(store: CellStore, cells: LongArray, columns: Sequence[str]) -> Iterator[ShuffleQuality]:
    """Quality of drawn batches by each column; a cell without a value is of a group of its own kind.

    Args:
        store: has the columns; `source`, where obs has none of that name, is the source that a cell was converted from.
        cells: (batches, batch_size) int64 ids, as `draw_batches` gives them.
        columns: of obs.

    Raises:
        StoreError: no such column.
    """
    for column in columns:
        if column == "source" and column not in store.manifest.obs_columns:
            firsts = np.array([source.first_cell for source in store.manifest.sources], np.int64)
            yield shuffle_quality(column, _ranks(np.searchsorted(firsts, cells, side="right") - 1))
            continue
        codes, _ = store.obs_groups(column)
        yield shuffle_quality(column, _ranks(codes[cells]))


def measure_stream(stream: CellStream) -> list[ShuffleQuality]:
    """What a run says at its start about the order of its first epoch; empty above five million cells."""
    store, config = stream.store, stream.config
    if len(store) > MOST_CELLS:
        return []
    known = store.manifest.obs_columns
    asked = [config.split.by, getattr(config.sampling, "by", None), *LABELS]
    columns = [c for c in dict.fromkeys(asked) if c is not None and c in known]
    if len(store.manifest.sources) > 1:
        columns.insert(0, "source")
    cells = draw_batches(
        lambda places: stream.drawing.take(places, epoch=0),
        n_cells=stream.n_train,
        batch_size=config.global_batch_size,
    )
    return [quality for quality in measure_order(store, cells, columns) if quality.groups > 1]


def _ranks(labels: npt.NDArray[Any]) -> IntArray:
    """The same labels numbered from 0 without gaps."""
    return np.unique(labels, return_inverse=True)[1].reshape(labels.shape).astype(np.int32)
