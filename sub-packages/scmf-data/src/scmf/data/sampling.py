"""Cells that come unequally often. In: groups of cells and a weight for each. Out: cells by (epoch, place).

An epoch has as many places as there are training cells. Its places are divided among the groups in proportion to
weight x cells, up to one place a group in an epoch and without a bias over the epochs (`scmf.data.apportion`), and
shuffled over the epoch by the keyed permutation. A group goes through its own cells without repetition, in an order
that is new each time, and goes on in the next epoch where it stopped: after any number of epochs two cells of one
group have been drawn equally often, up to one.
So a draw is a binary search over the groups and two permutations; nothing is remembered.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from scmf.core.errors import ConfigError, StoreError
from scmf.core.random import derive_seed
from scmf.data.apportion import Apportionment
from scmf.data.config_order import BalancedConfig, SamplingConfig, WeightsConfig
from scmf.data.joined import JoinedStore
from scmf.data.order import derive_keys, permute, permute_each
from scmf.data.split import CellSet, refuse_continuous
from scmf.data.store import CellStore

IntArray = npt.NDArray[np.int32]
LongArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

MOST_WEIGHTS: Final = 65_536
"""Different weights at most: each is a group, and a draw searches the groups."""
_CHUNK: Final = 1 << 20


class WeightedDrawing:
    """Groups of cells in given proportions; a cell of each group as often as its neighbour."""

    def __init__(self, cells: CellSet, groups: IntArray, shares: FloatArray, *, seed: int) -> None:
        """Sort the cells by group: 4 bytes a training cell are kept (8 above two billion cells).

        Args:
            cells: the training cells.
            groups: (len(cells),) int32 group of the cell at each place of `cells`.
            shares: (n_groups,) float64 share of the draws that each group is to have; not negative, sum above 0.
            seed: the run's.
        """
        self._cells = cells
        self._seed = seed
        sizes = np.bincount(groups, minlength=len(shares)).astype(np.int64)
        kind = np.int32 if len(groups) < 2**31 else np.int64
        self._members = np.argsort(groups, kind="stable").astype(kind)
        self._first: LongArray = np.cumsum(sizes) - sizes
        self._sizes = sizes
        offset = derive_seed(seed, "order/places")
        self._places = Apportionment(np.where(sizes > 0, shares, 0.0), len(groups), offset=offset)

    def __len__(self) -> int:
        return len(self._members)

    def take(self, places: LongArray, *, epoch: int) -> LongArray:
        """Ids of the cells at these places of an epoch. (k,) int64."""
        slots = permute(places, n=len(self), key=derive_seed(self._seed, "order", epoch))
        here = self._places.epoch(epoch)
        group = np.searchsorted(here.ends, slots, side="right")
        drawn = (here.before - here.ends + here.slots)[group] + slots
        passes, place = np.divmod(drawn, self._sizes[group])
        # One key for each pass of each group; two passes share none before 2**62 / n_groups of them.
        keys = derive_keys(derive_seed(self._seed, "order/group"), passes * len(self._sizes) + group)
        inside = permute_each(place, sizes=self._sizes[group], keys=keys)
        places_of_cells: LongArray = self._members[self._first[group] + inside].astype(np.int64)
        return self._cells.take(places_of_cells)


def weighted_drawing(
    store: CellStore, cells: CellSet, sampling: SamplingConfig, *, seed: int
) -> WeightedDrawing | None:
    """The drawing that a sampling section and the weights of the stores ask for; None where all cells are alike.

    Args:
        store: has the columns that the section names.
        cells: the training cells.
        sampling: of the `data` section.
        seed: the run's.

    Raises:
        StoreError: obs has no such column.
        ConfigError: a column without usable weights, or nothing that can be drawn.
    """
    weighted = isinstance(store, JoinedStore) and len(set(store.weights)) > 1
    if isinstance(sampling, BalancedConfig):
        codes, names = store.obs_groups(sampling.by)
        refuse_continuous(names, column=sampling.by, where="data.sampling.by", fix="or use sampling: {kind: uniform}")
        codes = np.where(codes < 0, len(names), codes).astype(np.int32)
        groups = np.concatenate([codes[ids] for ids in _chunks(cells)])
        per_group = np.ones(len(names) + 1)  # a group without training cells gets no draws
    elif isinstance(sampling, WeightsConfig):
        codes, values = _weight_groups(store, sampling.column)
        groups = np.concatenate([codes[ids] for ids in _chunks(cells)])
        per_group = np.bincount(groups, minlength=len(values)) * values
    elif weighted:
        groups, per_group = np.zeros(len(cells), np.int32), np.array([float(len(cells))])
    else:
        return None
    if weighted and isinstance(store, JoinedStore):
        groups, per_group = _times_stores(store, cells, groups, per_group)
    if not per_group.sum() > 0:
        raise ConfigError(
            "no training cell has a weight above 0, so that none can be drawn",
            where="data.sampling",
            fix="name another column, or write data.sampling: {kind: uniform}",
        )
    return WeightedDrawing(cells, groups, per_group, seed=seed)


def _times_stores(
    store: JoinedStore, cells: CellSet, groups: IntArray, per_group: FloatArray
) -> tuple[IntArray, FloatArray]:
    """Each group divided by the stores that its cells are of; a cell's share is multiplied by its store's weight."""
    of_store = np.concatenate([store.member_of(ids) for ids in _chunks(cells)])
    n = len(store.weights)
    both = groups.astype(np.int64) * n + of_store
    counts = np.bincount(both, minlength=len(per_group) * n).reshape(len(per_group), n)
    a_cell = per_group / np.maximum(counts.sum(axis=1), 1)
    shares = counts * a_cell[:, None] * np.asarray(store.weights)
    return both.astype(np.int32), shares.ravel()


def _weight_groups(store: CellStore, column: str) -> tuple[IntArray, FloatArray]:
    """Cells by their weight: (n_cells,) int32 group of each, and (n_groups,) float64 weight of each group."""
    import pandas as pd
    from pandas.api.types import is_numeric_dtype

    values = store.obs([column])[column]
    if not is_numeric_dtype(values.dtype):
        values = pd.to_numeric(values.astype(object), errors="coerce")
    values = values.to_numpy(np.float64, na_value=np.nan)
    bad = ~(np.isfinite(values) & (values >= 0))
    if bad.any():
        first = int(bad.argmax())
        raise StoreError(
            f"obs column {column!r} is no column of weights: {int(bad.sum()):,} of {len(values):,} cells have none "
            f"that is finite and not negative; the first is cell {first:,}",
            where=f"{store.path}, data.sampling.column",
            fix="name a column of numbers of at least 0, without missing values",
        )
    codes, found = pd.factorize(values, sort=True)
    if len(found) > MOST_WEIGHTS:
        raise StoreError(
            f"obs column {column!r} has {len(found):,} different weights, and a draw searches at most {MOST_WEIGHTS:,}",
            where=f"{store.path}, data.sampling.column",
            fix="round the weights to three digits, and convert again",
        )
    return codes.astype(np.int32), np.asarray(found, np.float64)


def _chunks(cells: CellSet) -> Iterator[LongArray]:
    """Ids of all cells of a set, a million at a time."""
    for start in range(0, len(cells), _CHUNK):
        yield cells.take(np.arange(start, min(start + _CHUNK, len(cells)), dtype=np.int64))
