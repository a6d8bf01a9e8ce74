"""Arrays beside obs: kept on request, read by cell ids, joined, refused."""

from __future__ import annotations

import shutil

import anndata
import numpy as np
import pytest

from scmf.core.errors import InputError, StoreError
from scmf.data.ingest.convert import convert
from scmf.data.ingest.making import Making
from scmf.data.ingest.plan import ConvertOptions
from scmf.data.joined import JoinedStore
from scmf.data.store import CellStore
from scmf.data.verify import verify_store
from support.formats import (
    some_cells,
    to_store,
    write_h5ad_csr,
    write_loom,
    write_zarr2,
    write_zarr3,
)


@pytest.fixture(scope="module")
def cells(demo_h5ad):
    return some_cells(demo_h5ad)


@pytest.mark.parametrize("write", [write_h5ad_csr, write_zarr2, write_zarr3, write_loom], ids=lambda w: w.__name__)
def test_obsm_is_kept_on_request_and_read_by_cell_ids_and_by_anndata(write, cells, tmp_path):
    (tmp_path / "in").mkdir()
    store, _ = to_store(write(cells, tmp_path / "in"), tmp_path / "s", obsm=("spatial",), cells_per_part=20)
    assert store.obsm_names == ("spatial",)
    spatial = store.obsm("spatial")
    assert (spatial.shape, spatial.dtype) == ((53, 2), np.float64)
    np.testing.assert_array_equal(np.asarray(spatial), cells.obsm["spatial"])
    np.testing.assert_array_equal(spatial[[41, 19, 3, 20]], cells.obsm["spatial"][[41, 19, 3, 20]])
    np.testing.assert_array_equal(spatial[7], cells.obsm["spatial"][7])
    part = anndata.read_zarr(store.path / "part-00001")
    first = store.parts[0].n_cells
    np.testing.assert_array_equal(part.obsm["spatial"], cells.obsm["spatial"][first : first + part.n_obs])
    with pytest.raises(IndexError, match="cell id 53"):
        spatial[[53]]
    assert list(verify_store(store.path)) == []


def test_obsm_of_several_sources_is_joined_or_refused(cells, tmp_path):
    single = cells.copy()
    single.obsm["spatial"] = single.obsm["spatial"].astype(np.float32)
    cells.write_h5ad(tmp_path / "a.h5ad")
    single.write_h5ad(tmp_path / "b.h5ad")
    convert([tmp_path / "a.h5ad", tmp_path / "b.h5ad"], tmp_path / "s", options(("spatial",)), log=lambda _: None)
    joined = np.asarray(CellStore.open(tmp_path / "s").obsm("spatial"))
    np.testing.assert_array_equal(joined, np.concatenate([cells.obsm["spatial"], single.obsm["spatial"]]))
    single.obsm["spatial"] = np.ones((53, 3))
    single.write_h5ad(tmp_path / "b.h5ad")
    with pytest.raises(InputError, match=r"^SCMF-D065: obsm spatial has different widths"):
        convert([tmp_path / "a.h5ad", tmp_path / "b.h5ad"], tmp_path / "t", options(("spatial",)), log=lambda _: None)
    with pytest.raises(InputError, match=r"^SCMF-D065: there is no array 'X_pca'; there are spatial"):
        to_store(tmp_path / "a.h5ad", tmp_path / "t", obsm=("spatial", "X_pca"))
    del single.obsm["spatial"]
    single.write_h5ad(tmp_path / "none.h5ad")
    with pytest.raises(InputError, match="there are none") as caught:
        to_store(tmp_path / "none.h5ad", tmp_path / "t", obsm=("spatial",))
    assert caught.value.fix == "leave out --obsm"


def options(obsm):
    return ConvertOptions(obsm=obsm, making=Making(duplicates="keep"))


def test_dropped_duplicates_take_their_rows_of_obsm_with_them(cells, tmp_path):
    twice = anndata.concat([cells[:4], cells[2:7]], merge="same", index_unique="-")
    twice.write_h5ad(tmp_path / "a.h5ad")
    making = Making(duplicates="drop")
    store, _ = to_store(tmp_path / "a.h5ad", tmp_path / "s", obsm=("spatial",), making=making)
    np.testing.assert_array_equal(np.asarray(store.obsm("spatial")), cells.obsm["spatial"][:7])


def test_a_store_without_the_array_of_obsm_names_those_it_has(demo_store):
    with pytest.raises(StoreError, match="has no obsm 'spatial'; it has none") as caught:
        demo_store.obsm("spatial")
    assert "--obsm" in caught.value.fix


def test_a_file_of_obsm_cut_short_is_an_error_that_names_it(cells, tmp_path):
    store, _ = to_store(write_h5ad_csr(cells, tmp_path), tmp_path / "s", obsm=("spatial",))
    file = store.path / "part-00000" / "obsm" / "spatial" / "c" / "0" / "0"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(StoreError, match="the array's file has") as caught:
        store.obsm("spatial")
    assert caught.value.where == str(file)


def test_obsm_of_stores_read_as_one_is_numbered_over_all_of_them(cells, tmp_path):
    store, _ = to_store(write_h5ad_csr(cells, tmp_path), tmp_path / "s", obsm=("spatial",))
    shutil.copytree(store.path, tmp_path / "t")
    joined = JoinedStore([store, CellStore.open(tmp_path / "t")], weights=[1, 1])
    np.testing.assert_array_equal(joined.obsm("spatial")[[2, 55]], cells.obsm["spatial"][[2, 2]])
