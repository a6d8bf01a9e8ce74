"""The store, read: cells by id, tables, and the same bytes through zarr, anndata and np.memmap."""

from __future__ import annotations

import copy
import pickle

import anndata
import numpy as np
import pandas as pd
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from scmf.core.errors import InputError, StoreError
from scmf.data.manifest import dump_manifest, parse_manifest
from scmf.data.memory_source import write_store
from scmf.data.store import CellStore


@pytest.fixture(scope="module")
def source(demo_h5ad):
    cells = anndata.read_h5ad(demo_h5ad)
    return cells[:, [g.startswith("ENSG") for g in cells.var_names]].copy()


def as_matrix(store, batch):
    return csr_matrix((batch.counts, batch.indices, batch.indptr), shape=(len(batch.indptr) - 1, store.n_genes))


def test_fetched_cells_are_the_source_s_counts_in_the_order_asked(demo_store, source):
    ids = [209, 3, 3, 49, 50, 0, 120]
    batch = demo_store.fetch(ids)
    assert (as_matrix(demo_store, batch) != source.X[ids]).nnz == 0
    assert demo_store.gene_ids == tuple(source.var_names)
    assert (batch.indices.dtype, batch.counts.dtype, batch.indptr.dtype) == (np.int32, np.uint16, np.int64)


@settings(deadline=None, max_examples=40)
@given(ids=st.lists(st.integers(0, 209), max_size=80))
def test_any_selection_has_the_lengths_and_values_of_its_cells(demo_store, source, ids):
    batch = demo_store.fetch(ids)
    chosen = source.X[np.array(ids, dtype=np.int64)]
    np.testing.assert_array_equal(demo_store.lengths(ids), np.diff(chosen.indptr))
    np.testing.assert_array_equal(batch.indptr, np.concatenate([[0], np.cumsum(np.diff(chosen.indptr))]))
    assert (as_matrix(demo_store, batch) != chosen).nnz == 0


@pytest.mark.parametrize("ids", [[-1], [210], [0, 5, 10**12]])
def test_an_id_outside_the_store_is_an_index_error_that_names_it(demo_store, ids):
    with pytest.raises(IndexError, match=f"cell id {ids[-1]} is outside 0..209"):
        demo_store.fetch(ids)
    with pytest.raises(IndexError):
        demo_store.lengths(ids)


@pytest.mark.parametrize("ids", [np.arange(210) % 2 == 0, [1.0, 2.5], ["c1"]], ids=["mask", "fractions", "names"])
def test_what_is_no_id_is_refused_and_not_made_one(demo_store, ids):
    for read in (demo_store.fetch, demo_store.lengths, demo_store.locate):
        with pytest.raises(TypeError, match="cell ids are whole numbers"):
            read(ids)


def test_one_id_and_numbers_of_any_width_are_ids(demo_store):
    for ids in (7, np.int8(7), np.array([7], np.uint64), [7]):
        assert np.array_equal(demo_store.fetch(ids).counts, demo_store.fetch(np.array([7])).counts)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        pytest.param({"n_cells": 211}, "n_cells is 211, the parts have 210", id="cells"),
        pytest.param({"gene_ids": ("ENSG1",)}, "a part has 28,196 genes, the store 1", id="genes"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(demo_store, tmp_path, changes, sentence):
    raw = dump_manifest(demo_store.manifest.model_copy(update=changes))
    with pytest.raises(StoreError, match=f"the manifest contradicts itself: {sentence}"):
        parse_manifest(raw, where=tmp_path)


@pytest.mark.parametrize("name", ["../../../.profile", "/etc/passwd", "obs/../../x", ""])
def test_a_manifest_names_no_file_outside_its_parts(demo_store, tmp_path, name):
    """A store that comes from elsewhere would have it written there by the cache."""
    part = demo_store.manifest.parts[0]
    files = {**part.files, name: next(iter(part.files.values()))}
    parts = (part.model_copy(update={"files": files}), *demo_store.manifest.parts[1:])
    with pytest.raises(StoreError, match="is no path inside the part"):
        parse_manifest(dump_manifest(demo_store.manifest.model_copy(update={"parts": parts})), where=tmp_path)


def test_every_part_opens_in_anndata_with_obs_and_var(demo_store, source):
    for start, part in zip(demo_store.part_starts, demo_store.parts, strict=False):
        table = anndata.read_zarr(part.path)
        expected = source[start : start + part.n_cells]
        counts = csr_matrix((table.X.data, table.X.indices.astype(np.int32), table.X.indptr), shape=table.shape)
        assert (counts != expected.X).nnz == 0
        assert list(table.obs_names) == list(expected.obs_names)
        assert list(table.var_names) == list(expected.var_names)
        assert list(table.obs["cell_type"]) == list(expected.obs["cell_type"])


def test_the_same_file_is_a_zarr_array_and_a_memory_map(demo_store):
    part = demo_store.parts[1]
    for name in ("data", "indices", "indptr"):
        ours = getattr(part, name)
        plain = np.memmap(part.path / "X" / name / "c" / "0", dtype=ours.dtype, mode="r", shape=ours.shape)
        through_zarr = zarr.open_array(part.path / "X" / name, mode="r")[:]
        np.testing.assert_array_equal(plain, through_zarr)
        np.testing.assert_array_equal(ours, through_zarr)


def test_an_array_of_several_inner_chunks_reads_the_same_through_zarr(tmp_path):
    from scmf.data.shard import INNER, ShardWriter, map_shard

    values = np.arange(2 * INNER + 17, dtype=np.uint32)
    values[:INNER] = 0  # a chunk that zarr would leave out
    writer = ShardWriter(tmp_path / "a", np.uint32)
    writer.append(values[:1000])
    writer.append(values[1000:])
    writer.close()
    array = zarr.open_array(tmp_path / "a", mode="r")
    np.testing.assert_array_equal(array[:], values)
    np.testing.assert_array_equal(array[INNER - 3 : INNER + 3], values[INNER - 3 : INNER + 3])
    np.testing.assert_array_equal(map_shard(tmp_path / "a", np.uint32, len(values)), values)


def test_an_array_rewritten_by_zarr_is_refused_when_its_layout_changed(tmp_path):
    from scmf.data.shard import INNER, ShardWriter, map_shard

    folder = tmp_path / "store" / "part-00000" / "X" / "data"
    writer = ShardWriter(folder, np.uint32)
    writer.append(np.ones(3 * INNER, np.uint32))
    writer.close()
    zarr.open_array(folder, mode="r+")[INNER : 2 * INNER] = 0  # zarr drops the chunk and moves the others
    with pytest.raises(StoreError, match=r"bytes and should have|shard index"):
        map_shard(folder, np.uint32, 3 * INNER)


def test_an_array_whose_chunks_lie_in_another_order_is_refused(tmp_path):
    from scmf.data.shard import INNER, ShardWriter, map_shard

    folder = tmp_path / "store" / "part-00000" / "X" / "data"
    writer = ShardWriter(folder, np.uint32)
    writer.append(np.arange(2 * INNER, dtype=np.uint32))
    writer.close()
    path = folder / "c" / "0"
    raw = path.read_bytes()
    half = 4 * INNER
    index = np.frombuffer(raw[2 * half : -4], "<u8").reshape(2, 2)[::-1].tobytes()  # valid for zarr, not for a map
    import google_crc32c

    path.write_bytes(raw[half : 2 * half] + raw[:half] + index + google_crc32c.value(index).to_bytes(4, "little"))
    np.testing.assert_array_equal(zarr.open_array(folder, mode="r")[:5], np.arange(5))
    with pytest.raises(StoreError, match="shard index is not the one"):
        map_shard(folder, np.uint32, 2 * INNER)


def test_obs_is_the_source_s_table_over_all_parts(demo_store, source):
    table = demo_store.obs(["cell_type", "n_counts"])
    assert list(table.index) == list(source.obs_names)
    assert list(table["cell_type"]) == list(source.obs["cell_type"])
    np.testing.assert_array_equal(table["n_counts"], source.obs["n_counts"])
    assert set(demo_store.obs().columns) == {*source.obs.columns, "scmf_source"}


def test_groups_are_the_sorted_values_of_a_column(demo_store, source):
    codes, names = demo_store.obs_groups("cell_line")
    assert names == tuple(sorted(set(source.obs["cell_line"])))
    assert [names[c] for c in codes] == list(source.obs["cell_line"])
    assert codes.dtype == np.int32


def test_a_column_that_is_not_there_is_answered_with_those_that_are(demo_store):
    with pytest.raises(StoreError, match=r"no column 'donor'; it has .*cell_type.*batch"):
        demo_store.obs_groups("donor")


def test_a_missing_label_has_group_minus_one(tmp_path):
    obs = pd.DataFrame({"donor": ["b", None, "a", "b"]}, index=list("wxyz"))
    store = write_store(tmp_path / "s", counts=csr_matrix(np.eye(4)), obs=obs, gene_ids=tuple("ABCD"), cells_per_part=3)
    codes, names = store.obs_groups("donor")
    assert names == ("a", "b")
    assert codes.tolist() == [1, -1, 0, 1]


def test_a_store_travels_to_a_worker_as_its_path(demo_store):
    twin = pickle.loads(pickle.dumps(demo_store))
    np.testing.assert_array_equal(twin.fetch([7]).counts, demo_store.fetch([7]).counts)
    assert len(pickle.dumps(demo_store)) < 1000


def test_counts_above_65535_widen_their_part_only(tmp_path):
    counts = csr_matrix(np.array([[1, 2], [65_535, 0], [3, 70_000], [4, 5]]))
    store = write_store(
        tmp_path / "s", counts=counts, obs=pd.DataFrame(index=list("abcd")), gene_ids=("A", "B"), cells_per_part=2
    )
    assert store.counts_dtype == np.uint32
    np.testing.assert_array_equal(as_matrix(store, store.fetch(range(4))).toarray(), counts.toarray())


@pytest.mark.parametrize("bad", [[[0.5, 1]], [[-1, 1]]])
def test_a_store_is_not_written_from_values_that_are_no_counts(tmp_path, bad):
    with pytest.raises(InputError):
        write_store(
            tmp_path / "s", counts=csr_matrix(np.array(bad)), obs=pd.DataFrame(index=["c"]), gene_ids=("A", "B")
        )
    assert not (tmp_path / "s").exists()


def test_the_manifest_survives_writing_and_reading(demo_store, tmp_path):
    raw = dump_manifest(demo_store.manifest)
    assert parse_manifest(raw, where=tmp_path) == demo_store.manifest
    assert raw == (demo_store.path / "manifest.json").read_bytes()


def test_the_fingerprint_changes_with_a_cell_and_with_a_label(demo_store):
    manifest = demo_store.manifest
    for name in ("X/data/c/0", "obs/cell_type/codes/c/0"):
        part = manifest.parts[2]
        files = copy.copy(part.files)
        files[name] = files[name].replace(checksum="0" * 32)
        parts = (*manifest.parts[:2], part.replace(files=files), *manifest.parts[3:])
        assert manifest.replace(parts=parts).fingerprint != manifest.fingerprint


def test_a_store_of_another_version_is_refused_by_its_number(demo_store, tmp_path):
    raw = dump_manifest(demo_store.manifest)
    body = raw[46:].replace(b'"version": 1', b'"version": 2').replace(b'"version":1', b'"version":2')
    import xxhash

    digest = xxhash.xxh3_128(raw[:14] + b"0" * 32 + body).hexdigest().encode()
    (tmp_path / "manifest.json").write_bytes(raw[:14] + digest + body)
    with pytest.raises(StoreError, match="scmf-cells version 2; this scmf reads scmf-cells version 1"):
        CellStore.open(tmp_path)


def test_a_misspelt_column_of_obs_names_the_one_that_was_meant(demo_store):
    column = demo_store.manifest.obs_columns[0]
    with pytest.raises(StoreError) as error:
        demo_store.check_column(f"{column}s")
    assert error.value.fix == f"did you mean {column}?"
