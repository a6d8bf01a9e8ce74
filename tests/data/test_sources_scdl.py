"""BioNeMo SCDL folders: cells with genes of their own are joined, and silent faults are named."""

from __future__ import annotations

import shutil
import struct

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.sparse import csr_matrix

from scmf.core.errors import InputError
from support.formats import (
    ids,
    some_cells,
    to_store,
    write_scdl,
)


@pytest.fixture(scope="module")
def cells(demo_h5ad):
    return some_cells(demo_h5ad)


def test_an_scdl_folder_whose_cells_have_genes_of_their_own_is_joined_by_id(cells, tmp_path):
    path = write_scdl(cells, tmp_path, blocks=2)
    swapped = [*ids(cells)[1:], ids(cells)[0]]
    pq.write_table(pa.table({"ensembl_id": swapped}), path / "var_features" / "dataframe_1.parquet")
    store, _ = to_store(path, tmp_path / "s")
    batch = store.fetch(np.arange(len(store)))
    found = csr_matrix((batch.counts, batch.indices, batch.indptr), shape=(len(store), store.n_genes)).toarray()
    half = cells.n_obs // 2
    place, moved = ({g: k for k, g in enumerate(names)} for names in (ids(cells), swapped))
    counts = cells.X.toarray()
    np.testing.assert_array_equal(found[:half], counts[:half][:, [place[g] for g in store.gene_ids]])
    np.testing.assert_array_equal(found[half:], counts[half:][:, [moved[g] for g in store.gene_ids]])


def stale_cast(path):
    data = np.fromfile(path / "data.npy", "<f4")
    (path / "data.npy").write_bytes(data.astype("<f8").tobytes())


def equal_cast(path):
    data = np.fromfile(path / "data.npy", "<f4")
    (path / "data.npy").write_bytes(data.astype("<u4").tobytes())


def left_over_table(path):
    shutil.copy(path / "var_features" / "dataframe_0.parquet", path / "var_features" / "dataframe_00.parquet")


def raw_counts_with_var(path):
    table = pq.read_table(path / "var_features" / "dataframe_0.parquet")
    pq.write_table(table.slice(0, table.num_rows - 900), path / "var_features" / "dataframe_0.parquet")


def joined_twice(path):
    with (path / "row_ptr.npy").open("r+b") as file:
        file.seek(-4, 2)
        file.write(struct.pack("<I", 5))


def no_header(path):
    (path / "header.sch").unlink()


def short_index(path):
    np.save(path / "var_features" / "cumulative_sum_index.npy", np.array([-1, 3]))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (stale_cast, "cast or joined after it was stored"),
        (equal_cast, "bits of another type"),
        (left_over_table, "left over or misplaced: dataframe_00.parquet"),
        (raw_counts_with_var, "counts of raw.X with the names of var"),
        (joined_twice, "the cells end at 5"),
        (no_header, "no header.sch"),
        (short_index, "the tables of genes cover 3 cells"),
    ],
    ids=lambda d: getattr(d, "__name__", ""),
)
def test_the_silent_faults_of_scdl_are_named(damage, words, cells, tmp_path):
    path = write_scdl(cells, tmp_path)
    damage(path)
    with pytest.raises(InputError, match=r"^SCMF-D063: ") as caught:
        to_store(path, tmp_path / "s")
    assert words in caught.value.what
    assert str(path) in caught.value.where
