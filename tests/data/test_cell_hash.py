"""The hash of a cell: what it depends on, and what it does not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scmf.data.cell_hash import gene_keys, hash_cells

GENES = tuple(f"ENSG{i:011d}" for i in range(40))
KEYS = gene_keys(GENES)

cells = st.lists(
    st.dictionaries(st.integers(0, len(GENES) - 1), st.integers(1, 2**40), max_size=12), min_size=1, max_size=8
)


def as_csr(cells, *, order=None, dtype=np.int64):
    """Dictionaries gene -> count as CSR, values of a cell in the order that `order` gives."""
    items = [list(cell.items()) if order is None else order(list(cell.items())) for cell in cells]
    indptr = np.cumsum([0, *(len(cell) for cell in items)], dtype=np.int64)
    flat = [pair for cell in items for pair in cell]
    return indptr, np.array([g for g, _ in flat], np.int32), np.array([c for _, c in flat], dtype)


@settings(deadline=None)  # the first call compiles
@given(cells)
def test_the_order_of_values_does_not_matter(cells):
    assert (hash_cells(*as_csr(cells), KEYS) == hash_cells(*as_csr(cells, order=sorted), KEYS)).all()
    assert (hash_cells(*as_csr(cells), KEYS) == hash_cells(*as_csr(cells, order=lambda c: c[::-1]), KEYS)).all()


@settings(deadline=None)  # the first call compiles
@given(cells, st.permutations(range(len(GENES))))
def test_the_numbering_of_genes_does_not_matter(cells, numbering):
    renumbered = [{numbering.index(gene): count for gene, count in cell.items()} for cell in cells]
    keys = gene_keys(GENES[old] for old in numbering)
    assert (hash_cells(*as_csr(cells), KEYS) == hash_cells(*as_csr(renumbered), keys)).all()


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int64, np.float32, np.float64])
def test_the_type_of_counts_does_not_matter(dtype):
    cells = [{0: 1, 5: 65_535}, {3: 7}]
    assert (hash_cells(*as_csr(cells, dtype=dtype), KEYS) == hash_cells(*as_csr(cells), KEYS)).all()


@settings(deadline=None)  # the first call compiles
@given(cells)
def test_stored_zeros_do_not_matter(cells):
    indptr, indices, counts = as_csr(cells)
    more = indptr + np.arange(len(indptr))
    zeros = np.insert(indices, indptr[1:], 1), np.insert(counts, indptr[1:], 0)
    assert (hash_cells(more, *zeros, KEYS) == hash_cells(indptr, indices, counts, KEYS)).all()


@settings(deadline=None)  # the first call compiles
@given(cells)
def test_different_cells_differ_and_equal_cells_do_not(cells):
    hashes = hash_cells(*as_csr(cells), KEYS)
    known = {frozenset(cell.items()): hashes[i] for i, cell in enumerate(cells)}
    assert len(set(known.values())) == len(known)
    assert all(known[frozenset(cell.items())] == hashes[i] for i, cell in enumerate(cells))


def test_neighbouring_cells_never_collide():
    """Cells as alike as can be: one gene's count one higher, or two counts exchanged."""
    base = dict.fromkeys(range(20), 3)
    alike = [base]
    alike += [base | {gene: 3 + d} for gene in range(20) for d in range(1, 50)]
    alike += [base | {a: 3 + d, b: 3 - d} for a in range(20) for b in range(20) if a != b for d in (1, 2)]
    assert len(np.unique(hash_cells(*as_csr(alike), KEYS))) == len(alike)


def test_real_cells_have_as_many_hashes_as_there_are_different_cells(demo_store):
    batch = demo_store.fetch(np.arange(len(demo_store)))
    rows = [
        (batch.indices[a:b].tobytes(), batch.counts[a:b].tobytes())
        for a, b in zip(batch.indptr[:-1], batch.indptr[1:], strict=True)
    ]
    hashes = hash_cells(batch.indptr, batch.indices, batch.counts, gene_keys(demo_store.gene_ids))
    assert len(np.unique(hashes)) == len(set(rows)) == 210


def test_a_hash_never_changes_because_files_keep_it():
    assert hash_cells(*as_csr([{0: 1, 39: 2}, {}]), KEYS).tolist() == RECORDED


def test_values_outside_the_arrays_are_an_error_that_names_the_cell():
    indptr, indices, counts = as_csr([{0: 1}, {39: 2}])
    with pytest.raises(IndexError, match="cell 1 "):
        hash_cells(indptr, indices, counts, KEYS[:39])
    with pytest.raises(IndexError, match="cell 1 "):
        hash_cells(np.append(indptr[:-1], 3), indices, counts, KEYS)


RECORDED = [15548183249649472873, 0]
