"""Cells stored in rank order. In: a store and a vocabulary. Out: a store whose genes need no sorting.

Each cell's genes stand from the highest rank to the lowest, then those without a token, then genes whose counts were
added to another with the same token. What was a sort at every
reading is a table look-up, and counts need not be read at all. The order belongs to one vocabulary, whose
fingerprint (medians included) every part carries. A part is still a valid CSR group of anndata, with its columns
unsorted inside a cell; obs, var and the order of the cells are those of the store it was made from.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NoReturn

import numba
import numpy as np
import numpy.typing as npt

from scmf.core.errors import VocabularyError
from scmf.data.manifest import FileRecord, Manifest, PartRecord, RankOrder, describe_file
from scmf.data.part import Part
from scmf.data.rank import RankTokenizer
from scmf.data.rank_kernel import DIGITS, highest_column, sort_words, words_of, words_of_shared
from scmf.data.shard import ShardWriter
from scmf.data.store import CellStore
from scmf.data.store_writer import StoreWriter
from scmf.data.vocabulary import Vocabulary

LongArray = npt.NDArray[np.int64]
IntArray = npt.NDArray[np.int32]
Array = npt.NDArray[Any]

Tables = tuple[IntArray, npt.NDArray[np.float64], IntArray, npt.NDArray[np.float64]]

CELLS_A_BLOCK: Final = 4096


def write_rank_ordered(
    source: str | Path,
    dest: str | Path,
    vocabulary: Vocabulary,
    *,
    on_cells: Callable[[int], None] = lambda _: None,
) -> CellStore:
    """Write a store again with every cell in rank order.

    Args:
        source: folder of a store.
        dest: folder to make; must not exist.
        vocabulary: tokens and medians that rank the genes.
        on_cells: told how many more cells are written.

    Raises:
        StoreError: no intact store there, or `dest` is taken.
        VocabularyError: it knows no gene of the store, or a cell's ranks cannot be told from its other genes.
    """
    store = CellStore.open(source)
    tables = _tables(store, vocabulary)
    with StoreWriter(Path(dest)) as writer:
        parts = []
        for part in store.parts:
            folder = writer.folder / part.record.name
            shutil.copytree(part.path, folder, ignore=_but_values)
            arrays = _write_values(store, part.record, folder, tables, on_cells)
            order = RankOrder(vocabulary=vocabulary.name, fingerprint=vocabulary.fingerprint)
            parts.append(part.record.replace(files={**part.record.files, **arrays}, rank_order=order))
        writer.finish(_manifest(store, parts, vocabulary))
    return CellStore.open(dest)


def _manifest(store: CellStore, parts: list[PartRecord], vocabulary: Vocabulary) -> Manifest:
    said = (
        f"cells put into the rank order of {vocabulary.name} ({vocabulary.fingerprint}); made from {store.fingerprint}"
    )
    return store.manifest.replace(parts=tuple(parts), history=(*store.manifest.history, said))


def _tables(store: CellStore, vocabulary: Vocabulary) -> Tables:
    """Token and inverse median of each column, and scratch by token; VocabularyError where no gene is known."""
    RankTokenizer(vocabulary, gene_ids=store.gene_ids, seq_length=len(vocabulary) + 2)  # refuses what knows no gene
    token = vocabulary.tokens_of(store.gene_ids)
    known = np.flatnonzero(token >= 0)
    inverse = np.zeros(len(token))
    inverse[known] = 1.0 / vocabulary.medians[token[known] - vocabulary.first_gene]
    shared = len(vocabulary) if len(np.unique(token[known])) < len(known) else 0
    return token, inverse, np.full(len(vocabulary), -1, np.int32), np.zeros(shared, np.float64)


def _but_values(folder: str, names: list[str]) -> list[str]:  # noqa: ARG001  # shutil passes them
    """Of a part, the files that are written anew."""
    return ["c"] if Path(folder).name in ("data", "indices") and Path(folder).parent.name == "X" else []


def _write_values(
    store: CellStore,
    record: PartRecord,
    folder: Path,
    tables: Tables,
    on_cells: Callable[[int], None],
) -> dict[str, FileRecord]:
    """Write indices and counts of a part in rank order; returns the records of the files that changed."""
    part = next(p for p in store.parts if p.record is record)
    writers = {
        "indices": ShardWriter(folder / "X" / "indices", record.indices_dtype),
        "data": ShardWriter(folder / "X" / "data", record.counts_dtype),
    }
    try:
        for start in range(0, part.n_cells, CELLS_A_BLOCK):
            rows = np.arange(start, min(start + CELLS_A_BLOCK, part.n_cells))
            indices, counts = _ordered(store, part, rows, tables)
            writers["indices"].append(indices)
            writers["data"].append(counts)
            on_cells(len(rows))
    except BaseException:
        for writer in writers.values():
            writer.abandon()
        raise
    files = {}
    for name, writer in writers.items():
        written = writer.close()
        files[f"X/{name}/c/0"] = FileRecord(bytes=written.bytes, checksum=written.checksum)
        files[f"X/{name}/zarr.json"] = describe_file(folder / "X" / name / "zarr.json")
    return files


def _ordered(store: CellStore, part: Part, rows: LongArray, tables: Tables) -> tuple[Array, Array]:
    """Indices and counts of some cells of a part, in rank order, end to end."""
    starts, lengths = part.spans(rows)
    out = (np.empty(int(lengths.sum()), part.indices.dtype), np.empty(int(lengths.sum()), part.data.dtype))
    longest = int(lengths.max(initial=0))
    scratch = (
        np.empty(longest, np.uint64),
        np.empty(longest, np.uint64),
        np.empty(2 * DIGITS, np.uint32),
        np.zeros(len(tables[0]), part.data.dtype),
    )
    bad = order_cells((part.indices, part.data), (starts, lengths), tables, scratch, out)
    if bad < len(rows):
        _refuse(store, int(store.part_starts[store.parts.index(part)] + rows[bad]))
    return out


def _refuse(store: CellStore, cell_id: int) -> NoReturn:
    """Raise the error about a cell that cannot be put into rank order."""
    store.fetch([cell_id])  # names a damaged array
    raise VocabularyError(
        f"cell {cell_id:,} has counts in two genes that share a token, and none in a gene without a token: nothing in "
        "the store would tell the reader where its ranks end",
        where=str(store.path),
        fix=f"read this store as it is (data.store: {shlex.quote(str(store.path))}); only the sorting is not saved",
    )


@numba.njit(nogil=True, cache=True, error_model="numpy")
def order_cells(
    values: tuple[Array, Array],
    spans: tuple[LongArray, LongArray],
    tables: tuple[IntArray, Array, IntArray, Array],
    scratch: tuple[Array, Array, Array, Array],
    out: tuple[Array, Array],
) -> int:
    """Write cells one after the other: genes in rank order, then those without a token, then repeats of a token.

    Args:
        values: indices and counts of a part.
        spans: first value and number of values of each cell, (k,) int64.
        tables: token and inverse median of each column; -1 for each token; zeros for each token where columns share
            one, else empty. The last two are as they were when this returns.
        scratch: two arrays of words as long as the longest cell, (2 * DIGITS,) counters, counts by column.
        out: indices and counts of these cells, end to end, written.

    Returns:
        k, or the number of the first cell that names a column outside the table, or that has repeats of a token and
        no gene without one.
    """
    token, inverse, column_of, sums = tables
    words, spare, counters, count_of = scratch
    to = 0
    for i in range(len(spans[0])):
        begin, n = spans[0][i], spans[1][i]
        indices, data = values[0][begin : begin + n], values[1][begin : begin + n]
        if n > 0 and highest_column(indices) >= len(token):
            return i
        for j in range(n):
            count_of[indices[j]] = data[j]
            if token[indices[j]] >= 0 and column_of[token[indices[j]]] < 0:
                column_of[token[indices[j]]] = indices[j]
        if len(sums) > 0:
            ranked = words_of_shared(indices, data, (token, inverse), words, sums)
        else:
            ranked = words_of(indices, data, (token, inverse), words)
        sort_words(words[:ranked], spare, counters, ranked)
        for j in range(ranked):
            column = column_of[words[j] & np.uint64(0xFFFFFFFF)]
            out[0][to + j], out[1][to + j] = column, count_of[column]
        room = (out[0][to + ranked : to + n], out[1][to + ranked : to + n])
        without = place_rest((indices, data), token, column_of, room)
        if len(room[0]) > 0 and without == 0:
            return i
        for j in range(n):
            if token[indices[j]] >= 0:
                column_of[token[indices[j]]] = -1
        to += n
    return len(spans[0])


@numba.njit(nogil=True, cache=True, error_model="numpy")
def place_rest(values: tuple[Array, Array], token: IntArray, column_of: IntArray, room: tuple[Array, Array]) -> int:
    """Behind a cell's ranks: its genes without a token, then those whose token another column stands for.

    Args:
        values: indices and counts of the cell.
        token: of each column, -1 for none.
        column_of: column that stands for each token in this cell.
        room: where their indices and counts go, as many as there are.

    Returns:
        Genes without a token.
    """
    indices, data = values
    n = 0
    for j in range(len(indices)):
        if token[indices[j]] < 0:
            room[0][n], room[1][n] = indices[j], data[j]
            n += 1
    without = n
    for j in range(len(indices)):
        if token[indices[j]] >= 0 and column_of[token[indices[j]]] != indices[j]:
            room[0][n], room[1][n] = indices[j], data[j]
            n += 1
    return without
