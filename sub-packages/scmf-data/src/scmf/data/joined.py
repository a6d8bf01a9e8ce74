"""Several stores read as one. In: paths and weights. Out: one store whose cells are those of all, in that order.

Nothing is copied: parts keep their own numbers of genes, and a table renumbers them where the lists of genes differ.
A gene that a store has not measured is absent from its cells, like a gene without counts.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import xxhash

from scmf.core.errors import ConfigError
from scmf.data.config_order import StoreEntry
from scmf.data.manifest import Manifest
from scmf.data.obs import concat_column, concat_obs
from scmf.data.reading import allow_files
from scmf.data.store import CellGroups, CellStore
from scmf.data.twin_parts import refuse_twins

Read = Literal["auto", "mmap", "pread"]
LongArray = npt.NDArray[np.int64]


def open_stores(where: str | Sequence[StoreEntry], *, read: Read = "auto") -> CellStore:
    """Open what `data.store` names.

    Args:
        where: one folder or address, or several with weights.
        read: how values are read; `auto` decides for all together.

    Raises:
        StoreError: no intact store there.
        ConfigError: stores that do not go together.
    """
    if isinstance(where, str):
        return open_store(where, read=read)
    stores: list[CellStore] = []
    for entry in where:
        stores.append(open_store(entry.path, read=read))  # one open store raises the limit of files for itself
        allow_files(sum(len(store.parts) for store in stores) + 200)
    if len(stores) == 1:
        return stores[0]
    refuse_twins(stores)
    return JoinedStore(
        stores, weights=[entry.weight for entry in where], end_weights=[entry.last_weight for entry in where]
    )


def open_store(where: str, *, read: Read = "auto") -> CellStore:
    """Open a folder, or an address such as s3://bucket/store, which is read through a local cache."""
    if "://" in where:
        from scmf.data.remote import open_remote

        return open_remote(where)
    return CellStore.open(where, read=read)


class JoinedStore(CellStore):
    """Cells of several stores, numbered from 0 over all of them in the order given."""

    def __init__(
        self, stores: Sequence[CellStore], *, weights: Sequence[float], end_weights: Sequence[float] | None = None
    ) -> None:
        """Join stores.

        Args:
            stores: at least two.
            weights: of each store's cells, > 0.
            end_weights: those at the end, where they move along the run; default: they stay.

        Raises:
            ConfigError: they identify genes differently, are of different species, or share no gene.
        """
        _refuse_strangers(stores)
        manifest, maps, numbers = _join_manifests(stores)
        parts = tuple(part for store in stores for part in store.parts)
        # One way for all: requests as soon as one of them needs requests.
        pread = next((store.reading for store in stores if store.reading.mode == "pread"), None)
        path = Path(" + ".join(str(store.path) for store in stores))
        super().__init__(path, manifest, parts, reading=pread or stores[0].reading)
        self._stores = tuple(stores)
        self.weights = tuple(float(weight) for weight in weights)
        """Of each store's cells."""
        self.end_weights = self.weights if end_weights is None else tuple(float(weight) for weight in end_weights)
        """The same at the end of data.sampling.steps."""
        self.member_starts: LongArray = np.cumsum([0, *(len(store) for store in stores)], dtype=np.int64)
        """(stores + 1,) first cell of each store, and the end."""
        self.gene_maps = maps
        self.part_genes = np.repeat(np.array(numbers, np.int64), [len(store.parts) for store in stores])

    @classmethod
    def open(cls, path: str | Path, *, read: Read = "auto") -> Self:  # noqa: ARG003  # as the method it replaces
        """A joined store has no folder of its own: use `open_stores`."""
        raise ConfigError("several stores have no folder of their own", where=str(path), fix="use open_stores([...])")

    def __reduce__(self) -> tuple[Callable[..., CellStore], tuple[Any, ...]]:
        return JoinedStore.reopen, (self._stores, self.weights, self.end_weights)

    @staticmethod
    def reopen(stores: Sequence[CellStore], weights: Sequence[float], end_weights: Sequence[float]) -> JoinedStore:
        """The same stores in another process."""
        return JoinedStore(stores, weights=weights, end_weights=end_weights)

    @property
    def weights_move(self) -> bool:
        """Whether the weights at the end are others than at the beginning."""
        return self.end_weights != self.weights

    def weights_at(self, moved: float) -> npt.NDArray[np.float64]:
        """(stores,) float64 weights after a share of the way, 0 to 1, in a straight line."""
        first, last = np.asarray(self.weights), np.asarray(self.end_weights)
        between: npt.NDArray[np.float64] = first + moved * (last - first)
        return between

    @property
    def members(self) -> tuple[CellStore, ...]:
        """The stores, in order."""
        return self._stores

    @cached_property
    def fingerprint(self) -> str:
        """Changes when a cell, a gene or a label of any store changes, and with their order and weights."""
        state = xxhash.xxh3_128()
        for store, first, last in zip(self._stores, self.weights, self.end_weights, strict=True):
            weight = f"{first!r}" if first == last else f"{first!r} {last!r}"
            state.update(f"{store.fingerprint} {weight}\n".encode())
        return state.hexdigest()

    def member_of(self, cell_ids: LongArray) -> LongArray:
        """(k,) int64 number of the store of each cell."""
        return np.searchsorted(self.member_starts, cell_ids, side="right") - 1

    def obs(self, columns: list[str] | None = None) -> Any:
        """Table of the cells in the order of their ids; a column that a store lacks is missing there."""
        wanted = list(self.manifest.obs_columns) if columns is None else columns
        for column in wanted:
            self.check_column(column)
        frames = [store.obs([c for c in wanted if c in store.manifest.obs_columns]) for store in self._stores]
        return concat_obs(frames, columns=wanted)

    def obs_groups(self, column: str) -> CellGroups:
        """Cells grouped by the values of one column; a value that two stores share is one group."""
        import pandas as pd

        self.check_column(column)
        pieces = []
        for store in self._stores:
            if column not in store.manifest.obs_columns:
                pieces.append(pd.Series(pd.Categorical([None] * len(store), categories=pd.Index([], dtype=object))))
                continue
            codes, names = store.obs_groups(column)
            pieces.append(pd.Series(pd.Categorical.from_codes(codes, categories=pd.Index(names, dtype=object))))
        joined = concat_column(pieces).astype("category")
        found = [str(name) for name in joined.cat.categories]
        order = np.array(sorted(range(len(found)), key=found.__getitem__), dtype=np.int64)
        rank = np.full(len(found) + 1, -1, np.int32)  # the last entry serves code -1
        rank[order] = np.arange(len(found), dtype=np.int32)
        return CellGroups(rank[joined.cat.codes.to_numpy()], tuple(found[i] for i in order))


def _refuse_strangers(stores: Sequence[CellStore]) -> None:
    first = stores[0]
    for store in stores[1:]:
        for name, here, there in (
            ("identify genes by", first.manifest.id_space, store.manifest.id_space),
            ("are cells of", first.manifest.species, store.manifest.species),
        ):
            if here != there:
                raise _stranger(first, store, f"the stores {name} {here or 'unknown'} and {there or 'unknown'}")
        if not set(first.gene_ids) & set(store.gene_ids):
            raise _stranger(first, store, f"the stores share none of {first.n_genes:,} and {store.n_genes:,} genes")


def _stranger(first: CellStore, store: CellStore, what: str) -> ConfigError:
    paths = " ".join(shlex.quote(str(s.path)) for s in (first, store))
    return ConfigError(
        what,
        where=f"data.store: {first.path} and {store.path}",
        fix="join stores of one species and one kind of gene ids; look at each with: "
        f"for store in {paths}; do scmf-store info $store; done",
    )


def _join_manifests(stores: Sequence[CellStore]) -> tuple[Manifest, tuple[npt.NDArray[np.int32], ...], list[int]]:
    """One manifest for all; the different lists of genes as tables; and which of them each store uses."""
    lists = [store.gene_ids for store in stores]
    genes = tuple(dict.fromkeys(gene for one in lists for gene in one))
    number = {gene: i for i, gene in enumerate(genes)}
    maps: dict[tuple[str, ...], npt.NDArray[np.int32]] = {}
    keys: list[tuple[str, ...]] = [() if one == genes[: len(one)] else one for one in lists]
    for key in keys:
        maps.setdefault(key, np.array([number[gene] for gene in key], np.int32))
    manifests = [store.manifest for store in stores]
    named = set.intersection(*(set(m.splits) for m in manifests))
    starts = np.cumsum([0, *(m.n_cells for m in manifests)]).tolist()
    joined = Manifest(
        n_cells=starts[-1],
        n_values=sum(m.n_values for m in manifests),
        max_count=max(m.max_count for m in manifests),
        id_space=manifests[0].id_space,
        species=manifests[0].species,
        gene_ids=genes,
        obs_columns=tuple(dict.fromkeys(c for m in manifests for c in m.obs_columns)),
        parts=tuple(part for m in manifests for part in m.parts),
        sources=tuple(
            source.replace(first_cell=source.first_cell + start)
            for m, start in zip(manifests, starts, strict=False)
            for source in m.sources
        ),
        splits={name: split for name, split in manifests[0].splits.items() if name in named},
    )
    return joined, tuple(maps.values()), [list(maps).index(key) for key in keys]
