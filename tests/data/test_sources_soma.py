"""TileDB-SOMA experiments, which the extra `soma` reads."""

from __future__ import annotations

import sys
import warnings

import anndata
import numpy as np
import pytest

from scmf.core.errors import InputError
from scmf.data.ingest.convert import convert
from scmf.data.ingest.genes import GeneWishes
from scmf.data.ingest.plan import ConvertOptions
from scmf.data.ingest.recognise import open_source
from scmf.data.store import CellStore


@pytest.fixture(scope="module")
def cells(demo_h5ad):
    whole = anndata.read_h5ad(demo_h5ad)[::4, ::10].copy()
    whole.obs = whole.obs[["cell_type", "n_counts"]]
    return whole


@pytest.fixture
def experiment(cells, tmp_path):
    import tiledbsoma.io

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tiledbsoma.io.from_anndata(str(tmp_path / "exp"), cells, measurement_name="RNA", X_layer_name="raw")
    return tmp_path / "exp"


def to_store(source, dest, **wishes):
    convert([source], dest, ConvertOptions(**wishes), log=lambda _: None)
    return CellStore.open(dest)


@pytest.mark.filterwarnings("ignore")
def test_a_soma_experiment_gives_the_store_of_the_h5ad_it_was_made_from(cells, experiment, tmp_path):
    cells.write_h5ad(tmp_path / "a.h5ad")
    expected, store = to_store(tmp_path / "a.h5ad", tmp_path / "a"), to_store(experiment, tmp_path / "s")
    assert store.gene_ids == expected.gene_ids
    for name in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(store.parts[0], name), getattr(expected.parts[0], name))
    assert list(store.obs([]).index) == list(cells.obs_names)
    assert list(store.obs(["cell_type"])["cell_type"]) == list(cells.obs["cell_type"])
    assert store.manifest.sources[0].counts == "RNA/raw"


@pytest.mark.filterwarnings("ignore")
def test_a_soma_experiment_whose_joinids_have_gaps_keeps_every_cell_with_its_counts(cells, tmp_path):
    import pyarrow as pa
    import tiledbsoma

    cells = cells[:9]
    coo, path = cells.X.tocoo(), tmp_path / "gaps"
    ids = {"obs": 5 + 3 * np.arange(9), "var": 100 + 2 * np.arange(cells.n_vars)}
    with tiledbsoma.Experiment.create(str(path)) as made:
        made.add_new_collection("ms").add_new_collection("RNA", tiledbsoma.Measurement)
        var = made.ms["RNA"]
        for parent, key, names in ((made, "obs", cells.obs_names), (var, "var", cells.var["ensembl_id"])):
            joined = pa.table(
                {"soma_joinid": ids[key], f"{key}_id": pa.array([str(n) for n in names], pa.large_string())}
            )
            frame = parent.add_new_dataframe(key, schema=joined.schema, domain=[(0, 100_000)])
            frame.write(joined)
        layer = var.add_new_collection("X").add_new_sparse_ndarray("counts", type=pa.float32(), shape=(40, 100_000))
        table = {"soma_dim_0": ids["obs"][coo.row], "soma_dim_1": ids["var"][coo.col], "soma_data": coo.data}
        layer.write(pa.table(table))
    store = to_store(path, tmp_path / "s")
    names = [str(n) for n in cells.var["ensembl_id"]]
    batch, found = store.fetch(np.arange(9)), np.zeros((9, store.n_genes))
    for k in range(9):
        found[k, batch.indices[batch.indptr[k] : batch.indptr[k + 1]]] = batch.counts[
            batch.indptr[k] : batch.indptr[k + 1]
        ]
    np.testing.assert_array_equal(found, cells.X.toarray()[:, [names.index(g) for g in store.gene_ids]])
    assert list(store.obs([]).index) == list(cells.obs_names)


@pytest.mark.filterwarnings("ignore")
def test_a_part_of_a_soma_experiment_is_refused_with_the_advice_to_name_the_whole(experiment):
    with pytest.raises(InputError, match=r"^SCMF-D002: .*a SOMA DataFrame, not an experiment") as caught:
        open_source(experiment / "obs")
    assert "the folder of the experiment" in caught.value.fix


def test_without_the_extra_a_soma_folder_is_refused_with_the_command_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tiledbsoma", None)
    (tmp_path / "exp" / "__group").mkdir(parents=True)
    with pytest.raises(InputError, match=r"^SCMF-D064: ") as caught:
        to_store(tmp_path / "exp", tmp_path / "s", genes=GeneWishes())
    assert caught.value.fix == "pip install 'scmf-data[soma]'"
