"""What becomes of cells that are there twice. In: a store and the cells. Out: words for people, or fewer cells."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from scmf.core.errors import InputError
from scmf.data.ingest.copy_cells import copy_cells, obs_table
from scmf.data.ingest.jobs import FinishedPart, Site
from scmf.data.ingest.journal import ConversionFolder
from scmf.data.ingest.part_filler import PartFiller
from scmf.data.ingest.statistics import pairs, save_gene_histogram
from scmf.data.manifest import SourceRecord
from scmf.data.store import CellStore
from scmf.data.store_writer import sync_tree

LongArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

_NAMED: Final = 3
"""Pairs of cells, and of sources, that a message names."""


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Cells with an equal one before them."""

    store: CellStore
    cells: LongArray
    """(k,) ids, rising."""
    originals: LongArray
    """(k,) for each the first cell that is equal."""

    def __len__(self) -> int:
        return len(self.cells)

    def __str__(self) -> str:
        what = "1 cell has" if len(self) == 1 else f"{len(self):,} cells have"
        between = Counter(zip(self._sources(self.cells), self._sources(self.originals), strict=True))
        counted = [
            f"{a} repeats {b}: {n:,}" if a != b else f"within {a}: {n:,}" for (a, b), n in between.most_common(_NAMED)
        ]
        some = [f"{self._name(a)} = {self._name(b)}" for a, b in zip(self.cells[:_NAMED], self.originals, strict=False)]
        return f"{what} the same counts as an earlier cell ({'; '.join(counted)}), such as {', '.join(some)}"

    def error(self) -> InputError:
        """The refusal of `--duplicates refuse`."""
        sources = [source.name for source in self.store.manifest.sources]
        return InputError(
            str(self),
            where=", ".join(dict.fromkeys(sources)),
            fix="leave out the repeated source; or say --duplicates drop to keep the first of each, or report",
        )

    def _sources(self, cells: LongArray) -> list[str]:
        sources = self.store.manifest.sources
        starts = [source.first_cell for source in sources]
        return [sources[k].name for k in np.searchsorted(starts, cells, side="right") - 1]

    def _name(self, cell: np.int64) -> str:
        part, row = (int(k[0]) for k in self.store.locate([cell]))
        return str(obs_table(self.store.parts[part]).index(row, row + 1)[0])


def drop_cells(
    folder: ConversionFolder, site: Site, store: CellStore, results: Sequence[FinishedPart], cells: LongArray
) -> tuple[list[FinishedPart], BoolArray]:
    """Write the parts of an unfinished store that have some of these cells again, without them.

    A process killed meanwhile makes those parts again from their sources: their notes are removed first.

    Args:
        folder: of the store.
        site: what the parts were made for.
        store: the parts, opened.
        results: what is known of them.
        cells: (k,) ids, rising.

    Returns:
        What is known of the parts that are left, and (n_cells,) bool the cells that are.
    """
    kept = np.ones(len(store), bool)
    kept[cells] = False
    spans = [np.arange(a, b) for a, b in zip(store.part_starts[:-1], store.part_starts[1:], strict=True)]
    for result, ids in zip(results, spans, strict=True):
        if not kept[: ids[-1] + 1].all():
            folder.forget(result.record.name)
    left: list[FinishedPart] = []
    for result, ids in zip(results, spans, strict=True):
        name = f"part-{len(left):05d}"
        if kept[ids].all():
            left.append(_rename(folder, result, name))
        elif kept[ids].any():
            left.append(_thin(folder, site, store, result, ids[kept[ids]], name))
        else:
            shutil.rmtree(folder.place(result.record.name))
    return left, kept


def thinned(source: SourceRecord, kept: BoolArray) -> SourceRecord:
    """The record of a source of which only some cells are kept."""
    stop = source.first_cell + source.n_cells
    first = int(kept[: source.first_cell].sum())
    return source.replace(first_cell=first, n_cells=int(kept[source.first_cell : stop].sum()))


def _rename(folder: ConversionFolder, result: FinishedPart, name: str) -> FinishedPart:
    old = result.record.name
    if name != old:
        for suffix in ("", ".hashes", ".genes"):
            if folder.place(old + suffix).exists():
                folder.place(old + suffix).rename(folder.place(name + suffix))
    return result.replace(record=result.record.replace(name=name))


def _thin(
    folder: ConversionFolder, site: Site, store: CellStore, result: FinishedPart, cells: LongArray, name: str
) -> FinishedPart:
    """The part with these of its cells only."""
    aside = folder.scratch / "thinned" / name
    filler = PartFiller(
        aside, var=site.var, keys=site.keys, medians=site.options.making.medians, obsm=result.record.obsm
    )
    copy_cells(filler, store, cells, numbers=np.arange(store.n_genes, dtype=np.int32))
    record = filler.close()
    sync_tree(aside)
    shutil.rmtree(folder.place(result.record.name))
    aside.rename(folder.place(name))
    if filler.gene_histogram is not None:
        save_gene_histogram(folder.place(f"{name}.genes"), filler.gene_histogram)
    lengths, library = filler.histograms.lengths, filler.histograms.library
    return result.replace(record=record, lengths=pairs(lengths), library=pairs(library))
