"""Cells that are in memory already, written as a store. In: a scipy matrix and its genes. Out: a store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xxhash

from scmf.core.errors import InputError
from scmf.data.manifest import IdSpace, Manifest, PartRecord, SourceRecord, Species
from scmf.data.store import CellStore
from scmf.data.store_writer import StoreWriter

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


def write_store(
    dest: str | Path,
    *,
    counts: csr_matrix,
    obs: pd.DataFrame,
    gene_ids: tuple[str, ...],
    cells_per_part: int = 1_000_000,
    species: Species | None = None,
) -> CellStore:
    """Write raw counts that fit in memory as a store, and open it.

    Args:
        dest: folder to make; must not exist.
        counts: (cells, genes) CSR of non-negative integers.
        obs: (cells,) table, indexed by cell name.
        gene_ids: (genes,) ids of the columns, no id twice.
        cells_per_part: cells of each part but the last.
        species: what the manifest says; not checked.
    """
    matrix = _canonical(counts, gene_ids)
    wide = matrix.data.max(initial=0) > np.iinfo(np.uint16).max
    var = pd.DataFrame(index=pd.Index(gene_ids, dtype=object))
    parts: list[PartRecord] = []
    with StoreWriter(Path(dest)) as writer:
        for start in range(0, matrix.shape[0], cells_per_part):
            rows = matrix[start : start + cells_per_part]
            part = writer.new_part(n_genes=len(gene_ids))
            if wide:
                part.widen(np.uint32)
            part.append(lengths=np.diff(rows.indptr), indices=rows.indices, counts=rows.data)
            parts.append(part.close(obs=obs.iloc[start : start + cells_per_part], var=var))
        source = _describe(matrix)
        writer.finish(
            Manifest(
                n_cells=matrix.shape[0],
                n_values=matrix.nnz,
                max_count=int(matrix.data.max(initial=0)),
                id_space=_id_space(gene_ids),
                species=species,
                gene_ids=gene_ids,
                obs_columns=tuple(str(c) for c in obs.columns),
                parts=tuple(parts),
                sources=(source,),
            )
        )
    return CellStore.open(dest)


def _canonical(counts: csr_matrix, gene_ids: tuple[str, ...]) -> csr_matrix:
    matrix = counts.tocsr(copy=True)
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    integers = np.array_equal(matrix.data, np.rint(matrix.data)) and matrix.data.min(initial=1) > 0
    if not integers or matrix.shape[1] != len(gene_ids) or len(set(gene_ids)) != len(gene_ids):
        raise InputError(
            f"a store takes non-negative integers and one distinct id a column; got {matrix.shape[1]:,} columns "
            f"and {len(set(gene_ids)):,} distinct ids",
            where="write_store(counts=..., gene_ids=...)",
            fix="give raw counts and sum the columns of repeated ids",
        )
    return matrix


def _id_space(gene_ids: tuple[str, ...]) -> IdSpace:
    return "ensembl" if all(g.startswith("ENS") for g in gene_ids) else "symbols"


def _describe(matrix: csr_matrix) -> SourceRecord:
    arrays = (matrix.indptr, matrix.indices, matrix.data)
    state = xxhash.xxh3_128()
    for array in arrays:
        state.update(np.ascontiguousarray(array).view(np.uint8).data)
    return SourceRecord(
        name="(memory)",
        bytes=sum(a.nbytes for a in arrays),
        checksum=state.hexdigest(),
        first_cell=0,
        n_cells=matrix.shape[0],
        counts="X",
        layout="memory",
        gene_column="index",
        n_genes=matrix.shape[1],
    )
