"""Cells of stores as a new store. In: stores, which of their cells, and the genes wanted. Out: the new store.

A part of which everything is kept, under the same gene numbers, is not rewritten: its files are linked, or copied
where the disk has no links or the user wants none. All other parts are made anew, a block of cells at a time.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import zarr
from anndata.io import read_elem

from scmf.core.errors import InputError, StoreError
from scmf.data.cell_hash import KeyArray, gene_keys
from scmf.data.ingest.copy_cells import copy_cells
from scmf.data.ingest.part_filler import PartFiller
from scmf.data.ingest.statistics import CellHistograms, add_pairs, pairs, sum_rows
from scmf.data.manifest import Manifest, PartRecord, SourceRecord
from scmf.data.part import Part, damaged
from scmf.data.store import CellStore
from scmf.data.store_writer import StoreWriter

LongArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

_NO_LINKS: Final = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP}
_SCAN_CELLS: Final = 1 << 14


@dataclass(frozen=True, slots=True)
class Selection:
    """Cells of one store."""

    store: CellStore
    kept: BoolArray
    """(n_cells,) which of them."""


@dataclass(slots=True)
class _Writing:
    """A store being put together."""

    writer: StoreWriter
    var: pd.DataFrame
    links: bool
    keys: KeyArray
    records: list[PartRecord] = field(default_factory=list)
    histograms: CellHistograms = field(init=False)
    linked: int = 0
    copied: int = 0

    def __post_init__(self) -> None:
        self.histograms = CellHistograms(len(self.var))

    def add(self, selection: Selection, part: int, numbers: npt.NDArray[np.int32]) -> None:
        """Append the selected cells of one part."""
        store = selection.store
        ids = np.arange(store.part_starts[part], store.part_starts[part + 1])
        ids = ids[selection.kept[ids]]
        if not len(ids):
            return
        record, n_genes = store.manifest.parts[part], store.parts[part].n_genes
        name = f"part-{len(self.records):05d}"
        if len(ids) == record.n_cells and np.array_equal(numbers[:n_genes], np.arange(n_genes)):
            self._take_over(store.path / record.name, self.writer.folder / name)
            self._count(store.parts[part])
            self.records.append(record.replace(name=name))
            return
        filler = PartFiller(self.writer.folder / name, var=self.var, keys=self.keys, obsm=record.obsm)
        copy_cells(filler, store, ids, numbers=numbers)
        self.records.append(filler.close())
        self.histograms.lengths += filler.histograms.lengths
        self.histograms.library += filler.histograms.library

    def _take_over(self, source: Path, target: Path) -> None:
        if self.links:
            try:
                shutil.copytree(source, target, copy_function=os.link)
            except (OSError, shutil.Error) as error:
                if isinstance(error, OSError) and error.errno not in {None, *_NO_LINKS}:
                    raise
                shutil.rmtree(target, ignore_errors=True)
            else:
                self.linked += 1
                return
        shutil.copytree(source, target)
        self.copied += 1

    def _count(self, part: Part) -> None:
        """Histograms of a part that is not rewritten: one pass over its values."""
        for lengths, totals, _ in scan_part(part, self.keys):
            self.histograms.add(lengths, totals)


def write_selections(
    dest: Path, selections: Sequence[Selection], *, gene_ids: tuple[str, ...], note: str, links: bool = True
) -> tuple[Manifest, str]:
    """Make a store of the selected cells, store by store.

    Args:
        dest: folder to make.
        selections: stores with the same id space and species; cells are kept in their order.
        gene_ids: genes of the new store; counts of others are left out.
        note: what was done, for the manifest's history.
        links: take whole parts over as hard links where the disk allows it.

    Returns:
        The manifest, and a sentence on how many parts were linked, copied and rewritten.

    Raises:
        InputError: no cell is selected.
        StoreError: a destination in use, a rank-ordered store, or a damaged one.
    """
    for selection in selections:
        check_editable(selection.store)
    if not any(s.kept.any() for s in selections):
        raise InputError("no cell is chosen", where=str(dest), fix="choose with other rules; nothing was written")
    place = {gene: number for number, gene in enumerate(gene_ids)}
    with StoreWriter(dest) as writer:
        writing = _Writing(writer, _var(selections, gene_ids), links, gene_keys(gene_ids))
        for selection in selections:
            numbers = np.array([place.get(gene, -1) for gene in selection.store.gene_ids], np.int32)
            for part in range(len(selection.store.parts)):
                writing.add(selection, part, numbers)
        manifest = _manifest(writing, selections, gene_ids, note)
        writer.finish(manifest)
    rewritten = len(writing.records) - writing.linked - writing.copied
    return manifest, f"{writing.linked} parts linked, {writing.copied} copied, {rewritten} rewritten"


def check_editable(store: CellStore) -> None:
    """Refuse a rank-ordered store: its values would lose their order."""
    if any(part.record.rank_order is not None for part in store.parts):
        raise StoreError(
            "a rank-ordered store cannot be changed",
            where=str(store.path),
            fix="change the store from which it was made, and give that to scmf-store rank-order",
        )


def scan_part(part: Part, keys: KeyArray) -> Any:
    """Lengths, sums and hashes of a part's cells, (k,) each, some thousands of cells at a time."""
    for start in range(0, part.n_cells, _SCAN_CELLS):
        rows = np.arange(start, min(start + _SCAN_CELLS, part.n_cells))
        starts, lengths = part.spans(rows)
        span = slice(int(starts[0]), int(starts[-1] + lengths[-1]))
        values = np.asarray(part.indices[span]), np.asarray(part.data[span])
        if len(values[0]) and int(values[0].max()) >= len(keys):
            what = f"a cell names gene {values[0].max():,}, the store has {len(keys):,}"
            raise damaged(what, part.path, "indices")
        totals, hashes = np.empty(len(rows), np.int64), np.empty(len(rows), np.uint64)
        sum_rows(lengths, values, keys, (totals, hashes))
        yield lengths, totals, hashes
        for name in ("data", "indices"):
            part.let_go(name)


def _var(selections: Sequence[Selection], gene_ids: tuple[str, ...]) -> pd.DataFrame:
    symbols = dict.fromkeys(gene_ids, "")
    for selection in selections:
        for gene, symbol in symbols_of(selection.store).items():
            if gene in symbols and not symbols[gene]:
                symbols[gene] = symbol
    index = pd.Index(list(symbols), dtype=object)
    return pd.DataFrame({"gene_symbol": np.array(list(symbols.values()), dtype=object)}, index=index)


def symbols_of(store: CellStore) -> dict[str, str]:
    """Symbol by gene id, from the part with the most genes; empty for a store without symbols."""
    part = max(store.parts, key=lambda p: p.n_genes)
    group: Any = zarr.open_group(part.path, mode="r")
    var = read_elem(group["var"])
    return dict(zip(map(str, var.index), map(str, var["gene_symbol"]), strict=True)) if "gene_symbol" in var else {}


def _manifest(writing: _Writing, selections: Sequence[Selection], gene_ids: tuple[str, ...], note: str) -> Manifest:
    manifests = [s.store.manifest for s in selections]
    sources: list[SourceRecord] = []
    before = 0
    for selection in selections:
        sources += [_kept_of(source, selection.kept, before) for source in selection.store.manifest.sources]
        before += int(selection.kept.sum())
    records = writing.records
    unique = len(selections) == 1 and manifests[0].duplicate_cells == 0 and gene_ids == manifests[0].gene_ids
    return manifests[0].replace(
        n_cells=sum(r.n_cells for r in records),
        n_values=sum(r.n_values for r in records),
        max_count=max(r.max_count for r in records),
        gene_ids=gene_ids,
        obs_columns=tuple(dict.fromkeys(c for m in manifests for c in m.obs_columns)),
        parts=tuple(records),
        sources=tuple(sources),
        splits=manifests[0].splits if len(manifests) == 1 else {},
        gene_medians=None,
        gene_cells=None,
        length_histogram=add_pairs([pairs(writing.histograms.lengths)]),
        library_histogram=add_pairs([pairs(writing.histograms.library)]),
        duplicate_cells=0 if unique else None,
        history=(*(line for m in manifests for line in m.history), note),
    )


def _kept_of(source: SourceRecord, kept: BoolArray, before: int) -> SourceRecord:
    stop = source.first_cell + source.n_cells
    first = before + int(kept[: source.first_cell].sum())
    return source.replace(first_cell=first, n_cells=int(kept[source.first_cell : stop].sum()))
