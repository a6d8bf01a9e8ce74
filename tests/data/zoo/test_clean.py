"""No clean input is refused or warned of: every format and encoding, and real files as their authors gave them."""

from __future__ import annotations

import gzip
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csc_matrix, csr_matrix

from scmf.data.ingest.inspection import inspect_sources
from scmf.data.ingest.plan import ConvertOptions, Request
from support import zoo

pytestmark = [
    # What anndata says about the animals when it writes them.
    pytest.mark.filterwarnings("ignore:Variable names are not unique"),
    pytest.mark.filterwarnings("ignore:Writing zarr v2 data will no longer"),
    pytest.mark.filterwarnings("ignore:zarr v3 autosharding will be the default"),
    pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part"),
]

DATA = Path(__file__).parents[4] / "shared" / "data"
CLEAN = []


def animal(**wishes):
    """Register a maker: takes an empty folder, returns a source."""

    def add(make):
        CLEAN.append(pytest.param(make, wishes, id=make.__name__))
        return make

    return add


def h5ad(folder, x=None, **what):
    return zoo.write(folder / "a.h5ad", zoo.cells(x, **what))


@animal()
def csr(folder):
    return h5ad(folder)


@animal()
def csc(folder):
    return h5ad(folder, csc_matrix(zoo.counts()))


@animal()
def dense(folder):
    return h5ad(folder, zoo.counts())


@animal()
def float64(folder):
    return h5ad(folder, csr_matrix(zoo.counts().astype(np.float64)))


@animal()
def int64_in_csc(folder):
    return h5ad(folder, csc_matrix(zoo.counts().astype(np.int64)))


@animal()
def uint8(folder):
    return h5ad(folder, zoo.counts().astype(np.uint8))


@animal()
def big_endian(folder):
    return zoo.change(h5ad(folder, zoo.counts()), X=zoo.counts().astype(">f4"))


@animal()
def half_floats_with_low_counts(folder):
    return zoo.change(h5ad(folder, zoo.counts()), X=zoo.counts().astype(np.float16))


@animal()
def packed(folder):
    cells = zoo.cells()
    cells.write_h5ad(folder / "a.h5ad", compression="gzip")
    return folder / "a.h5ad"


@animal()
def one_cell(folder):
    return h5ad(folder, csr_matrix(zoo.counts(1)))


@animal()
def versioned_ids(folder):
    return h5ad(folder, ids=[f"{gene}.{k % 9 + 1}" for k, gene in enumerate(zoo.genes()[0])])


@animal()
def ids_in_a_column(folder):
    cells = zoo.cells(ids=zoo.genes()[1], symbols=False)
    cells.var["gene_ids"] = list(zoo.genes()[0])
    return zoo.write(folder / "a.h5ad", cells)


@animal()
def ids_in_a_column_and_symbols_that_repeat(folder):
    symbols = list(zoo.genes()[1])
    symbols[7] = symbols[8]
    cells = zoo.cells(ids=symbols, symbols=False)
    cells.var["gene_ids"] = list(zoo.genes()[0])
    return zoo.write(folder / "a.h5ad", cells)


@animal()
def counts_in_raw(folder):
    cells = zoo.cells()
    cells.raw = cells
    cells.X = csr_matrix(zoo.lognormal(zoo.counts()))
    return zoo.write(folder / "a.h5ad", cells)


@animal(counts="layers/counts of cells")
def counts_in_a_layer_that_is_named(folder):
    cells = zoo.cells(csr_matrix(zoo.lognormal(zoo.counts())))
    cells.layers["counts of cells"] = csr_matrix(zoo.counts())
    return zoo.write(folder / "a.h5ad", cells)


@animal(map_names=True)
def symbols_that_are_mapped(folder):
    return h5ad(folder, ids=zoo.genes()[1], symbols=False)


@animal(id_space="symbols")
def symbols_that_are_kept(folder):
    return h5ad(folder, ids=zoo.genes()[1], symbols=False)


@animal()
def mouse(folder):
    return h5ad(folder, ids=zoo.genes("mouse")[0], symbols=False)


@animal(species="human")
def one_species_of_two(folder):
    return h5ad(folder, ids=[*zoo.genes("human", 40)[0], *zoo.genes("mouse", 20)[0]], symbols=False)


@animal()
def spike_ins(folder):
    return h5ad(folder, ids=[*zoo.genes()[0][:55], *(f"ERCC-{k:05d}" for k in range(2, 7))])


@animal()
def genes_without_counts(folder):
    x = zoo.counts()
    x[:, 45:] = 0
    return h5ad(folder, csr_matrix(x))


@animal()
def old_compound_tables(folder):
    path = h5ad(folder)
    with h5py.File(path, "r+") as file:
        for name, index in (("obs", zoo.barcodes()), ("var", zoo.genes()[0])):
            del file[name]
            rows = [(text.encode(), k) for k, text in enumerate(index)]
            file[name] = np.array(rows, dtype=[("index", "S40"), ("number", "i4")])
    return path


@animal()
def columns_of_every_kind(folder):
    obs = pd.DataFrame(index=zoo.barcodes())
    obs["type"] = pd.Categorical(["T cell", "B cell"] * 20)
    obs["age"] = pd.array([None, 30] * 20, dtype="Int64")
    obs["smoker"] = pd.array([None, True] * 20, dtype="boolean")
    obs["score"] = 0.5
    return h5ad(folder, obs=obs)


@animal()
def blanks_and_accents_in_the_name(folder):
    return zoo.write(folder / "my cells (été) 'new'.h5ad", zoo.cells())


@animal()
def zarr_v2(folder):
    return zoo.write(folder / "a.zarr", zoo.cells(), zarr_format=2)


@animal()
def zarr_v3(folder):
    return zoo.write(folder / "a.zarr", zoo.cells(csc_matrix(zoo.counts())))


@animal()
def tenx_h5(folder):
    return zoo.write_tenx_h5(folder / "a.h5", zoo.counts())


@animal()
def tenx_h5_with_antibodies(folder):
    return zoo.write_tenx_h5(folder / "a.h5", zoo.counts(), antibodies=5)


@animal()
def tenx_mtx(folder):
    return zoo.write_mtx(folder / "m", zoo.counts())


@animal()
def tenx_mtx_plain(folder):
    return zoo.write_mtx(folder / "m", zoo.counts(), packed=False)


@animal()
def loom(folder):
    return zoo.write_loom(folder / "a.loom", zoo.counts())


@animal()
def csv(folder):
    return zoo.write_csv(folder / "a.csv", zoo.counts())


@animal()
def csv_of_genes_by_cells(folder):
    table = pd.DataFrame(zoo.counts().T, index=list(zoo.genes()[0]), columns=zoo.barcodes())
    table.to_csv(folder / "a.csv")
    return folder / "a.csv"


@animal()
def packed_tsv(folder):
    path = zoo.write_csv(folder / "a.tsv", zoo.counts(), sep="\t")
    packed = folder / "a.tsv.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    return packed


def told(path, **wishes):
    found = inspect_sources(Request((path,), ConvertOptions().changed(**wishes)))
    return found, [str(f) for f in found.findings if f.severity != "note"]


@pytest.mark.parametrize(("make", "wishes"), CLEAN)
def test_a_clean_input_is_neither_refused_nor_warned_of(tmp_path, make, wishes):
    found, bad = told(make(tmp_path), **wishes)
    assert bad == []
    assert found.sources[0].plan is not None


def test_the_zoo_has_at_least_twenty_clean_animals():
    assert len(CLEAN) >= 20


REAL = {
    "sc_mixology_3cl/mix3cl_celseq2_dropseq_counts.h5ad": set(),
    "sc_pbmc4k/pbmc4k_raw.h5ad": set(),
    "sc_kang_ifnb/kang_harmony_counts.h5ad": set(),
    "sc_kang_ifnb/kang_muscat_counts.h5ad": set(),
    "sc_perturb_papalexi/papalexi_eccite_counts.h5ad": set(),
    "golden_tokens/pbmc4k/input.h5ad": set(),
    "golden_tokens/mix3cl/input.h5ad": set(),
    "awkward/derived_csc_int64.h5ad": set(),
    "awkward/derived_dense_float64.h5ad": set(),
    "awkward/derived_versioned_ensembl.h5ad": set(),
    "awkward/derived_5_empty_cells.h5ad": {"D023"},
    "sc_perturb_mcfaline/mcfaline23_hvg500_recovered_counts.h5ad": {"D024"},
    "awkward/counts_in_layer_X_lognorm.h5ad": {"D010"},
    "awkward/derived_no_gene_ids.h5ad": {"D010"},
    "awkward/oligodendroglioma_float_nonint.h5ad": {"D008", "D010"},
    "awkward/pbmc3k100_nan_dense.h5ad": {"D006", "D007", "D008", "D010"},
    "awkward/pbmc68k_reduced_scaled_negative.h5ad": {"D009", "D010"},
    "awkward/mpfc_starmap.loom": {"D010", "D024"},
    "tenx_formats/v2_filtered.h5": {"D010", "D024"},
    "tenx_formats/v2_multiple_genomes.h5": {"D010", "D013", "D024"},
    "tenx_formats/v3_filtered.h5": {"D024"},
    "tenx_formats/v3_mtx": {"D024"},
}
"""Errors and warnings of real files."""


@pytest.mark.skipif(not DATA.exists(), reason="the shared data are not here")
@pytest.mark.parametrize("name", REAL)
@pytest.mark.filterwarnings("ignore:.*very old version", "ignore::FutureWarning")
def test_a_real_file_is_told_what_is_true_of_it(name):
    found, bad = told(DATA / name)
    assert {f.number for f in found.findings if f.severity != "note"} == REAL[name], bad


def test_what_was_done_to_real_counts_is_recognised(demo_h5ad, tmp_path):
    cells = anndata.read_h5ad(demo_h5ad)
    x = cells.X[:60].toarray()
    cases = {
        "D018": np.log1p(x),
        "D019": zoo.scaled(x, 1e6),
        "D020": zoo.lognormal(x)[:, ::3],
        "D021": zoo.ambient_removed(x),
    }
    for number, values in cases.items():
        var = pd.DataFrame(index=cells.var_names[:: 3 if number == "D020" else 1])
        path = zoo.write(tmp_path / f"{number}.h5ad", anndata.AnnData(csr_matrix(values), var=var))
        found, _ = told(path)
        assert {"D008", number} <= {f.number for f in found.findings}, number
