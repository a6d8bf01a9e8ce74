"""Files as people bring them: what is taken for counts and for genes, and where a store may be put."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from scmf.core.errors import InputError
from scmf.data.ingest.convert import convert
from scmf.data.ingest.inspection import inspect_sources
from scmf.data.ingest.plan import ConvertOptions, Request
from scmf.data.ingest.table import zarr_names
from scmf.data.store import CellStore
from support import zoo


@pytest.fixture(autouse=True)
def gene_tables_stay(monkeypatch):
    """Planning lets go of the gene tables, for the sake of memory; here they would be read for every test again."""
    monkeypatch.setattr("scmf.data.ingest.inspection.release_tables", lambda: None)


def to_store(sources, dest, **wishes):
    lines = []
    sources = sources if isinstance(sources, list) else [sources]
    convert(sources, dest, ConvertOptions().changed(**wishes), log=lines.append)
    return CellStore.open(dest), lines


def refusal(source, dest, **wishes):
    with pytest.raises(InputError) as caught:
        to_store(source, dest, **wishes)
    assert not dest.exists()
    return caught.value


def found_in(*sources, **wishes):
    return inspect_sources(Request(sources, ConvertOptions().changed(**wishes))).findings


def with_layers(path, *names):
    """Normalised X, and counts in layers of these names, the last with the most values."""
    cells = zoo.cells(csr_matrix(zoo.lognormal(zoo.counts())))
    for k, name in enumerate(names):
        counts = zoo.counts(seed=k)
        counts[: 20 - k] = 0
        cells.layers[name] = csr_matrix(counts)
    return zoo.write(path, cells)


def test_layers_that_are_each_a_part_of_the_counts_are_not_chosen_among(tmp_path):
    path = with_layers(tmp_path / "a.h5ad", "ambiguous", "unspliced", "spliced")
    error = refusal(path, tmp_path / "s")
    assert str(error).startswith("SCMF-D054: 3 layers hold counts")
    assert error.fix == f"scmf-store convert {path} --dest {tmp_path / 's'} --counts layers/spliced"
    assert {f.number for f in found_in(path) if f.severity == "error"} == {"D054"}
    (wrong,) = [f for f in found_in(path, counts="X") if f.number == "D008"]
    assert wrong.fix.endswith("--counts layers/spliced")


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (("spliced", "counts", "raw_counts"), "counts"),
        (("ambiguous", "raw_counts"), "raw_counts"),
        (("spliced", "my_counts"), "my_counts"),
        (("spliced",), "spliced"),
    ],
)
def test_a_layer_that_is_called_counts_is_taken_before_others(tmp_path, names, chosen):
    _, lines = to_store(with_layers(tmp_path / "a.h5ad", *names), tmp_path / "s")
    assert any(f"counts: layers/{chosen} (" in line for line in lines)


def cells_with_antibodies(path, kinds=("Gene Expression", "Antibody Capture")):
    """As scanpy reads a file of 10x: ten antibodies have the symbols of ten of the genes."""
    symbols = zoo.genes()[1]
    cells = zoo.cells(ids=[*symbols[:50], *symbols[:10]], symbols=False)
    cells.var["gene_ids"] = [*zoo.genes()[0][:50], *symbols[:10]]
    cells.var["feature_types"] = [kinds[0]] * 50 + [kinds[1]] * 10
    return zoo.write(path, cells)


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
@pytest.mark.filterwarnings("ignore:zarr v3 autosharding will be the default")
@pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part")
@pytest.mark.parametrize("name", ["a.h5ad", "a.zarr"])
@pytest.mark.parametrize("wishes", [{}, {"map_names": True}], ids=["own ids", "mapped"])
def test_antibodies_in_anndata_are_not_added_to_the_genes_whose_symbols_they_have(tmp_path, name, wishes):
    store, lines = to_store(cells_with_antibodies(tmp_path / name), tmp_path / "s", **wishes)
    assert any("50 Gene Expression features are kept; 10 Antibody Capture are no genes" in line for line in lines)
    batch = store.fetch(range(40))
    kept = csr_matrix((batch.counts, batch.indices, batch.indptr), shape=(40, store.n_genes)).toarray()
    np.testing.assert_array_equal(kept, zoo.counts()[:, :50])
    assert store.gene_ids == zoo.genes()[0][:50]


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_antibodies_alone_are_refused_and_other_meanings_of_the_column_are_none_of_ours(tmp_path):
    only = cells_with_antibodies(tmp_path / "a.h5ad", ("Antibody Capture", "Custom"))
    error = refusal(only, tmp_path / "s", map_names=True)
    assert str(error).startswith("SCMF-D012: no feature is Gene Expression")
    store, _ = to_store(cells_with_antibodies(tmp_path / "b.h5ad", ("protein_coding", "lncRNA")), tmp_path / "b")
    assert store.manifest.sources[0].other_features == 0


def test_samples_of_cell_ranger_are_told_apart_though_all_their_files_and_folders_have_one_name(tmp_path):
    paths = [tmp_path / sample / "outs" / "matrix.h5ad" for sample in ("a", "b")]
    for k, path in enumerate(paths):
        path.parent.mkdir(parents=True)
        zoo.write(path, zoo.cells(csr_matrix(zoo.counts(seed=k))))
    other = zoo.write(tmp_path / "c.h5ad", zoo.cells(csr_matrix(zoo.counts(seed=9))))
    store, _ = to_store([*paths, other], tmp_path / "s")
    assert [source.name for source in store.manifest.sources] == ["a/outs/matrix.h5ad", "b/outs/matrix.h5ad", "c.h5ad"]
    assert store.obs(["scmf_source"])["scmf_source"].value_counts().to_dict() == dict.fromkeys(
        ["a/outs/matrix.h5ad", "b/outs/matrix.h5ad", "c.h5ad"], 40
    )


def test_no_column_of_obs_is_lost_to_one_of_ours_or_to_another_with_a_slash(tmp_path):
    cells = zoo.cells()
    cells.obs["scmf_source"] = cells.obs["scmf_source_1"] = "of an earlier store"
    store, _ = to_store(zoo.write(tmp_path / "a.h5ad", cells), tmp_path / "s")
    assert set(store.obs(["scmf_source_2"])["scmf_source_2"]) == {"of an earlier store"}
    assert set(store.obs(["scmf_source"])["scmf_source"]) == {"a.h5ad"}
    assert zarr_names(["a/b", "x", "a_b", "a/b_2", "a_b_2"]) == {
        "a/b": "a_b_3",
        "x": "x",
        "a_b": "a_b",
        "a/b_2": "a_b_2_2",
        "a_b_2": "a_b_2",
    }
