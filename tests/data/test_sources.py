"""Every format that conversion reads: the same cells give the same store, byte for byte, whatever they came in."""

from __future__ import annotations

import json
import os
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
import zarr
from scipy.sparse import csr_matrix

from scmf.core.errors import InputError
from scmf.data.cli import store_command
from scmf.data.ingest.blocks import iter_blocks
from scmf.data.ingest.genes import GeneWishes
from scmf.data.ingest.recognise import open_source
from scmf.data.ingest.source import ReadWishes
from scmf.data.store import CellStore
from support.formats import (
    NAMELESS,
    WRITERS,
    ids,
    some_cells,
    to_store,
    write_10x_v3,
    write_csv,
    write_h5ad_csr,
    write_mtx_v2,
    write_zarr3,
)

DATA = Path(__file__).parents[2].parent / "shared" / "data"
TENX = DATA / "tenx_formats"
needs_data = pytest.mark.skipif(not TENX.is_dir(), reason="the shared data are not here")


@pytest.fixture(scope="module")
def cells(demo_h5ad):
    return some_cells(demo_h5ad)


def files_of(store):
    """Bytes of the counts of every part, by name."""
    return {p: (store.path / p).read_bytes() for n in ("data", "indices", "indptr") for p in [f"part-00000/X/{n}/c/0"]}


@pytest.fixture(scope="module")
def expected(cells, tmp_path_factory):
    folder = tmp_path_factory.mktemp("expected")
    return to_store(write_h5ad_csr(cells, folder), folder / "store")[0]


@pytest.mark.parametrize("write", WRITERS, ids=lambda w: w.__name__.removeprefix("write_"))
def test_the_same_cells_give_the_same_store_from_every_format(write, cells, expected, tmp_path):
    (tmp_path / "in").mkdir()
    store, lines = to_store(write(cells, tmp_path / "in"), tmp_path / "store")
    assert store.gene_ids == expected.gene_ids
    assert files_of(store) == files_of(expected)
    names = [str(k) for k in range(cells.n_obs)] if write in NAMELESS else list(cells.obs_names)
    assert list(store.obs([]).index) == names
    assert any(f"{cells.n_obs} cells x" in line for line in lines)
    assert not [p for p in tmp_path.iterdir() if p.name not in {"in", "store"}]  # nothing unpacked is left


def test_the_expected_store_is_what_anndata_reads(cells, expected):
    batch = expected.fetch(np.arange(len(expected)))
    found = csr_matrix((batch.counts, batch.indices, batch.indptr), shape=(len(expected), expected.n_genes))
    place = {gene: k for k, gene in enumerate(ids(cells))}
    assert (found != cells.X[:, [place[gene] for gene in expected.gene_ids]]).nnz == 0


@needs_data
@pytest.mark.parametrize("name", ["v3_filtered.h5", "v3_mtx"])
def test_real_10x_files_give_the_counts_that_are_in_them(name, tmp_path):
    store, _ = to_store(TENX / name, tmp_path / "s")
    counts = scipy.io.mmread(TENX / "v3_mtx" / "matrix.mtx.gz").tocsc().T.tocsr()
    rows = pd.read_csv(TENX / "v3_mtx" / "features.tsv.gz", sep="\t", header=None)
    batch = store.fetch(np.arange(len(store)))
    found = csr_matrix((batch.counts, batch.indices, batch.indptr), shape=(len(store), store.n_genes))
    order = [list(rows[0]).index(gene) for gene in store.gene_ids]
    assert len(store) == 1107
    assert (found != counts[:, order]).nnz == 0
    assert store.obs([]).index[0] == "AAACCCAAGGAGAGTA-1"


@needs_data
def test_cells_of_two_genomes_of_10x_version_2_are_told_apart_by_counts(tmp_path):
    path = TENX / "v2_multiple_genomes.h5"
    wishes = {"genes": GeneWishes(id_space="symbols")}
    with pytest.raises(InputError, match=r"^SCMF-D013: .*2 genomes.*another_genome, hg19_chr21") as caught:
        to_store(path, tmp_path / "s", **wishes)
    assert "--counts another_genome" in caught.value.fix
    store, _ = to_store(path, tmp_path / "s", counts="hg19_chr21", **wishes)
    assert "DSCAM" in store.gene_ids
    assert len(store) == 12


def test_antibodies_of_a_10x_file_are_dropped_and_told(cells, tmp_path):
    path = write_10x_v3(cells, tmp_path)
    with h5py.File(path, "r+") as file:
        types = file["matrix/features/feature_type"][:]
        types[:5] = b"Antibody Captur"
        del file["matrix/features/feature_type"]
        file["matrix/features/feature_type"] = types
    store, lines = to_store(path, tmp_path / "s")
    assert any("5 Antibody Captur are no genes and dropped" in line for line in lines)
    assert not set(store.gene_ids) & set(ids(cells)[:5])
    assert store.manifest.sources[0].other_features == 5
    assert "of all molecules (with those of features that are no genes)" in lines[-1]


def test_the_genome_before_the_ids_of_a_10x_file_is_taken_off(cells, tmp_path):
    path = write_10x_v3(cells, tmp_path)
    with h5py.File(path, "r+") as file:
        named = [f"GRCh38_____{i}" if i else "x" for i in ids(cells)]
        del file["matrix/features/id"]
        file["matrix/features/id"] = np.array(named, "S")
    with open_source(path) as source:
        found = list(source.var("X").index())
    assert [i for i in found if "ENSG" in i] == [i for i in ids(cells) if "ENSG" in i]


@needs_data
def test_a_real_loom_file_is_read_with_its_attributes(tmp_path):
    path = DATA / "awkward" / "mpfc_starmap.loom"
    store, lines = to_store(path, tmp_path / "s", genes=GeneWishes(id_space="symbols"))
    with h5py.File(path) as file:
        counts = file["matrix"][:].T
        names = [n.decode() for n in file["row_attrs/Gene"][:]]
        clusters = [c.decode() for c in file["col_attrs/Clusters"][:]]
    batch = store.fetch(np.arange(len(store)))
    found = csr_matrix((batch.counts, batch.indices, batch.indptr), shape=(len(store), store.n_genes)).toarray()
    np.testing.assert_array_equal(found, counts[:, [names.index(g) for g in store.gene_ids]])
    assert list(store.obs(["Clusters"])["Clusters"]) == clusters
    assert any("no column attribute names the cells" in line for line in lines)


@needs_data
def test_a_real_table_says_why_its_rows_are_cells(tmp_path):
    wishes = {"genes": GeneWishes(id_space="symbols")}
    store, lines = to_store(DATA / "awkward" / "duplicate_gene_names.csv", tmp_path / "s", **wishes)
    assert any("cells are the rows: 100% of the first column are barcodes" in line for line in lines)
    table = pd.read_csv(DATA / "awkward" / "duplicate_gene_names.csv", index_col=0, header=None, skiprows=1)
    assert len(store) == 100
    assert int(store.fetch(np.arange(100)).counts.sum()) == int(table.to_numpy().sum())


@pytest.mark.parametrize("cells_in", ["rows", "columns"])
def test_a_table_of_unknown_names_is_refused_until_the_user_says_where_the_cells_are(cells_in, tmp_path):
    (tmp_path / "a.csv").write_text("name,p,q\nu,1,0\nv,2,3\nw,0,4\n")
    wishes = {"genes": GeneWishes(id_space="symbols")}
    with pytest.raises(InputError, match=r"^SCMF-D061: .*header: p, q; first column: u, v, w") as caught:
        to_store(tmp_path / "a.csv", tmp_path / "s", **wishes)
    assert "--cells-in rows" in caught.value.fix
    store, _ = to_store(tmp_path / "a.csv", tmp_path / "s", cells_in=cells_in, **wishes)
    batch = store.fetch(np.arange(len(store)))
    found = csr_matrix((batch.counts, batch.indices, batch.indptr), shape=(len(store), store.n_genes)).toarray()
    counts = np.array([[1, 0], [2, 3], [0, 4]])
    np.testing.assert_array_equal(found, counts if cells_in == "rows" else counts.T)


def test_numbers_in_tables_are_those_that_pandas_reads(tmp_path):
    texts = ["1e3", "2.0", " 7 ", "3E+02", "0012", "12.50e1", '"9"', "-0", "+5", "0.0", "1e-400", "4294967295"]
    (tmp_path / "a.csv").write_text(
        f"name,{','.join(f'g{k}' for k in range(len(texts)))}\nACGTACGTAC,{','.join(texts)}\n"
    )
    with open_source(tmp_path / "a.csv") as source:
        matrix = source.matrices()["X"]
        found = np.zeros(len(texts))
        found[matrix.minor()[:]] = matrix.values[:]
    expected = pd.read_csv(tmp_path / "a.csv", index_col=0, skipinitialspace=True).to_numpy(float)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-15)


@pytest.mark.parametrize("text", ["NA", "", "nan", "NaN", "inf", "-Inf", "null"])
def test_a_missing_value_in_a_table_is_refused_with_its_cell_and_gene(text, tmp_path):
    (tmp_path / "a.csv").write_text(f"name,ENSG00000000003,ENSG00000000005\nc1,1,2\nc2,{text},4\n")
    with pytest.raises(InputError, match=r"^SCMF-D007: .*c2.*ENSG00000000003"):
        to_store(tmp_path / "a.csv", tmp_path / "s")


def test_unpacked_text_in_scratch_is_used_again_and_made_anew_when_the_file_changes(cells, tmp_path):
    path = write_csv(cells, tmp_path)
    wishes = ReadWishes(scratch=tmp_path / "scratch")
    with open_source(path, wishes) as source:
        n, values = source.matrices()["X"].n_stored, source.matrices()["X"].values[:]
    (kept,) = (tmp_path / "scratch").iterdir()
    before = {p.name: p.stat().st_mtime_ns for p in kept.iterdir()}
    with open_source(path, wishes) as source:
        assert source.matrices()["X"].n_stored == n
    assert {p.name: p.stat().st_mtime_ns for p in kept.iterdir()} == before
    later = path.stat().st_mtime_ns + 10**9
    path.write_text(path.read_text().replace(",1,", ",7,", 1))  # of the same size
    os.utime(path, ns=(later, later))
    with open_source(path, wishes) as source:
        assert (source.matrices()["X"].values[:] != values).sum() == 1
    path.write_text(path.read_text() + "one_more," + ",".join(["1"] * cells.n_vars) + "\n")
    with open_source(path, wishes) as source:
        assert source.matrices()["X"].n_stored == n + cells.n_vars


def test_a_chunk_that_is_missing_from_a_zarr_matrix_is_an_error_and_not_zeros(cells, tmp_path):
    path = write_zarr3(cells, tmp_path)
    group = zarr.open_group(path, mode="r+")
    n = group["X/indices"].shape[0]
    array = group.create_array("X/indices", shape=(n,), dtype=np.int32, chunks=(1000,), overwrite=True)
    array[:] = cells.X.indices
    (path / "X" / "indices" / "c" / "3").unlink()
    with pytest.raises(InputError, match=r"^SCMF-D016: 1 of \d+ chunks are missing") as caught:
        to_store(path, tmp_path / "s")
    assert caught.value.where == f"{path}: X/indices"


def test_a_flipped_byte_in_a_zarr_chunk_is_refused_by_the_array_it_is_in(cells, tmp_path):
    path = write_zarr3(cells, tmp_path)
    chunk = next(p for p in (path / "X" / "data").rglob("*") if p.is_file() and p.name != "zarr.json")
    raw = bytearray(chunk.read_bytes())
    raw[4] ^= 0xFF
    chunk.write_bytes(raw)
    with pytest.raises(InputError, match=r"^SCMF-D016: ") as caught:
        to_store(path, tmp_path / "s")
    assert "X/data" in caught.value.where


def test_manifest_of_a_folder_source_has_the_checksum_of_all_its_files(cells, tmp_path):
    (tmp_path / "in").mkdir()
    path = write_mtx_v2(cells, tmp_path / "in")
    sums = []
    for change in ("", "x"):
        with (path / "barcodes.tsv").open("a") as file:
            file.write(change and "\n")
        if change:
            names = (path / "barcodes.tsv").read_text().replace("-1-0\n", "-1-9x\n", 1)
            (path / "barcodes.tsv").write_text(names)
        store, _ = to_store(path, tmp_path / f"s{len(sums)}")
        source = store.manifest.sources[0]
        sums.append(source.checksum)
        assert source.bytes == sum(p.stat().st_size for p in path.iterdir())
    assert sums[0] != sums[1]
    assert json.loads((tmp_path / "s0" / "manifest.json").read_text())["manifest"]["sources"][0]["checksum"] == sums[0]


def test_the_command_reads_a_table_with_two_workers_and_shows_obsm(cells, tmp_path, capsys):
    frame = pd.DataFrame(cells.X.toarray().astype(int), index=[f"c{k}" for k in range(53)], columns=cells.var_names)
    frame.to_csv(tmp_path / "a.csv")
    cells.write_h5ad(tmp_path / "b.h5ad")
    wishes = ["--gene-ids", "symbols", "--cells-in", "rows", "--workers", "2", "--cells-per-part", "20"]
    store_command(["convert", str(tmp_path / "a.csv"), "--dest", str(tmp_path / "a"), *wishes])
    assert "cells are the rows: as --cells-in says" in capsys.readouterr().out
    assert int(CellStore.open(tmp_path / "a").fetch(np.arange(53)).counts.sum()) == int(cells.X.sum())
    store_command(["convert", str(tmp_path / "b.h5ad"), "--dest", str(tmp_path / "b"), "--obsm", "spatial"])
    store_command(["info", str(tmp_path / "b")])
    assert "obsm         spatial (2)" in capsys.readouterr().out


def damage(path, rng):
    """Cut a file, remove it, overwrite or insert some bytes, or flip bits."""
    raw, kind = bytearray(path.read_bytes()), rng.integers(5)
    place = int(rng.integers(max(1, len(raw) - 4)))
    if kind == 0:
        raw = raw[:place]
    elif kind == 1:
        return path.unlink()
    elif kind == 2:
        raw[place : place + 4] = rng.integers(0, 256, 4, dtype=np.uint8).tobytes()
    elif kind == 3:
        raw[place:place] = rng.integers(32, 127, 5, dtype=np.uint8).tobytes()
    else:
        for bit in rng.integers(0, 8 * max(1, len(raw)), 4):
            raw[bit // 8] ^= 1 << int(bit % 8)
    return path.write_bytes(raw)


@pytest.mark.parametrize("write", WRITERS, ids=lambda w: w.__name__.removeprefix("write_"))
def test_a_damaged_source_is_read_or_refused_and_never_a_traceback(write, cells, tmp_path):
    (tmp_path / "in").mkdir()
    path = write(cells[:8, :200].copy(), tmp_path / "in")
    files = sorted(p for p in (path.rglob("*") if path.is_dir() else [path]) if p.is_file())
    whole = {file: file.read_bytes() for file in files}
    for seed in range(6):
        damage(files[seed % len(files)], np.random.default_rng([seed, len(files)]))
        try:
            with open_source(path) as source:
                matrices = source.matrices()
                element = next(iter(matrices))
                for block in iter_blocks(matrices[element], budget=1 << 20, scratch=tmp_path / "scratch"):
                    assert len(block.values) == block.indptr[-1]
                source.obs_rows(0, 1, element=element)
                source.var(element).texts("index")
            said = "a\nsound\nsource"
        except InputError as error:
            said = str(error)
        assert len(said.splitlines()) == 3
        for file, raw in whole.items():
            file.write_bytes(raw)
