"""How often each cell is to come. In: the section `data.sampling` and the weights of stores. Out: a drawing.

A section divides the training cells into groups and says what share of the draws each is to have, at the beginning
and along the way; `scmf.data.weighted` and `scmf.data.gradual` draw so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from scmf.core.errors import ConfigError, StoreError
from scmf.data.config_order import BalancedConfig, SamplingConfig, WeightsConfig
from scmf.data.drawing import id_chunks
from scmf.data.gradual import GradualDrawing
from scmf.data.joined import JoinedStore
from scmf.data.split import CellSet, refuse_continuous
from scmf.data.stages import stage_edges, stage_middles
from scmf.data.store import CellStore
from scmf.data.weighted import WeightedDrawing

IntArray = npt.NDArray[np.int32]
FloatArray = npt.NDArray[np.float64]

MOST_WEIGHTS: Final = 65_536
"""Different weights at most: each is a group, and a draw searches the groups."""


def weighted_drawing(
    store: CellStore, cells: CellSet, sampling: SamplingConfig, *, batch: int, seed: int
) -> WeightedDrawing | GradualDrawing | None:
    """The drawing that a sampling section and the weights of the stores ask for; None where all cells are alike.

    Args:
        store: has the columns that the section names.
        cells: the training cells.
        sampling: of the `data` section.
        batch: cells a step.
        seed: the run's.

    Raises:
        StoreError: obs has no such column.
        ConfigError: a column without usable weights, or nothing that can be drawn.
    """
    found = _groups(store, cells, sampling)
    if isinstance(store, JoinedStore) and (store.weights_move or len(set(store.weights)) > 1):
        found = _times_stores(store, cells, found or _one_group(cells))
    if found is None:
        return None
    if sampling.steps is None:
        return WeightedDrawing(cells, found.groups, _usable(found, 0.0), seed=seed)
    edges = stage_edges(sampling.steps, batch=batch)
    shares = [_usable(found, moved) for moved in [*stage_middles(edges).tolist(), 1.0]]
    return GradualDrawing(cells, found.groups, shares, edges=edges, seed=seed)


@dataclass(frozen=True, slots=True)
class _Groups:
    """Training cells by group, and what each group is to have."""

    groups: IntArray
    """(len(cells),) int32 group of the cell at each place."""
    shares: Callable[[float], FloatArray]
    """(n_groups,) float64 share of the draws of each group, up to a factor, after a share of the way (0 to 1)."""


def _groups(store: CellStore, cells: CellSet, sampling: SamplingConfig) -> _Groups | None:
    """What a section asks for within a store; None where all cells are alike."""
    if isinstance(sampling, BalancedConfig):
        codes, names = store.obs_groups(sampling.by)
        refuse_continuous(names, column=sampling.by, where="data.sampling.by", fix="or use sampling: {kind: uniform}")
        codes = np.where(codes < 0, len(names), codes).astype(np.int32)
        groups = np.concatenate([codes[ids] for ids in id_chunks(cells)])
        sizes = np.bincount(groups, minlength=len(names) + 1).astype(np.float64)
        # A group without training cells gets no draws.
        return _Groups(groups, lambda moved: np.where(sizes > 0, sizes ** sampling.exponent_at(moved), 0.0))
    if isinstance(sampling, WeightsConfig):
        codes, values = _weight_groups(store, sampling.column)
        groups = np.concatenate([codes[ids] for ids in id_chunks(cells)])
        sizes = np.bincount(groups, minlength=len(values)).astype(np.float64)
        return _Groups(groups, lambda moved: sizes * np.where(values > 0, values ** sampling.exponent_at(moved), 0.0))
    return None


def _one_group(cells: CellSet) -> _Groups:
    return _Groups(np.zeros(len(cells), np.int32), lambda _: np.array([float(len(cells))]))


def _usable(found: _Groups, moved: float) -> FloatArray:
    """The shares after a share of the way, whose sum is a number above 0."""
    with np.errstate(over="ignore", invalid="ignore"):  # told below
        shares = found.shares(moved)
        total = shares.sum()
    if not np.isfinite(total):
        raise ConfigError(
            "the weights of the training cells are too large to be added up",
            where="data.sampling",
            fix="write smaller numbers into the column (only their ratios count), or a smaller data.sampling.exponent",
        )
    if not total > 0:
        raise ConfigError(
            "no training cell has a weight above 0, so that none can be drawn",
            where="data.sampling",
            fix="name another column, or write data.sampling: {kind: uniform}",
        )
    return shares


def _times_stores(store: JoinedStore, cells: CellSet, found: _Groups) -> _Groups:
    """Each group divided by the stores that its cells are of; a cell's share is multiplied by its store's weight."""
    of_store = np.concatenate([store.member_of(ids) for ids in id_chunks(cells)])
    n_groups, n = len(found.shares(0.0)), len(store.weights)
    both = found.groups.astype(np.int64) * n + of_store
    counts = np.bincount(both, minlength=n_groups * n).reshape(n_groups, n)

    def shares(moved: float) -> FloatArray:
        a_cell = found.shares(moved) / np.maximum(counts.sum(axis=1), 1)
        product: FloatArray = (counts * a_cell[:, None] * store.weights_at(moved)).ravel()
        return product

    return _Groups(both.astype(np.int32), shares)


def _weight_groups(store: CellStore, column: str) -> tuple[IntArray, FloatArray]:
    """Cells by their weight: (n_cells,) int32 group of each, and (n_groups,) float64 weight of each group."""
    import pandas as pd

    from scmf.data.obs import numbers_of

    values = numbers_of(store.obs([column])[column])
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
