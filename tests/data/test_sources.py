"""Every format that conversion reads: the same cells give the same store, byte for byte, whatever they came in."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import struct
import warnings
import zipfile
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.io
import zarr
from scipy.sparse import csc_matrix, csr_matrix

from scmf.core.errors import InputError, StoreError
from scmf.data.cli import store_command
from scmf.data.ingest.blocks import iter_blocks
from scmf.data.ingest.convert import convert
from scmf.data.ingest.genes import GeneWishes
from scmf.data.ingest.making import Making
from scmf.data.ingest.plan import ConvertOptions
from scmf.data.ingest.source import ReadWishes, open_source
from scmf.data.joined import JoinedStore
from scmf.data.store import CellStore
from scmf.data.verify import verify_store

DATA = Path(__file__).parents[2].parent / "shared" / "data"
TENX = DATA / "tenx_formats"
needs_data = pytest.mark.skipif(not TENX.is_dir(), reason="the shared data are not here")


@pytest.fixture(scope="module")
def cells(demo_h5ad):
    """Sixty real cells, with every tenth gene, names that are barcodes, and a layout in obsm."""
    whole = anndata.read_h5ad(demo_h5ad)[::4, ::10].copy()
    whole.obs_names = [
        f"{'ACGT' * 3}{k:03d}-1".replace("0", "A").replace("1", "C") + f"-{k}" for k in range(len(whole))
    ]
    counts = csr_matrix(whole.X)
    counts.sort_indices()
    obsm = {"spatial": np.arange(2 * len(whole), dtype=np.float64).reshape(-1, 2) / 3}
    return anndata.AnnData(counts, obs=pd.DataFrame(index=whole.obs_names), var=whole.var[["ensembl_id"]], obsm=obsm)


def ids(cells):
    return [str(i) for i in cells.var["ensembl_id"]]


def write_h5ad_csr(cells, folder):
    cells.write_h5ad(folder / "a.h5ad")
    return folder / "a.h5ad"


def write_h5ad_csc(cells, folder):
    cells = cells.copy()
    cells.X = csc_matrix(cells.X)
    return write_h5ad_csr(cells, folder)


def write_h5ad_compressed(cells, folder):
    cells.write_h5ad(folder / "a.h5ad", compression="gzip")
    return folder / "a.h5ad"


def write_h5ad_old(cells, folder):
    """As anndata 0.6 did: obs and var as compound arrays, the matrix with h5sparse attributes."""
    with h5py.File(folder / "a.h5ad", "w") as file:
        x = file.create_group("X")
        x.attrs["h5sparse_format"], x.attrs["h5sparse_shape"] = "csr", cells.shape
        for name in ("data", "indices", "indptr"):
            x[name] = getattr(cells.X, name)
        for name, frame in (("obs", cells.obs), ("var", cells.var)):
            columns = {"index": frame.index.to_numpy(), **{c: frame[c].astype(str).to_numpy() for c in frame}}
            types = [(c, f"S{max(map(len, v))}") for c, v in columns.items()]
            file[name] = np.array(
                [tuple(t.encode() for t in row) for row in zip(*columns.values(), strict=True)], dtype=types
            )
    return folder / "a.h5ad"


def write_zarr(cells, folder, version):
    with warnings.catch_warnings(), anndata.settings.override(zarr_write_format=version):
        warnings.simplefilter("ignore")
        cells.write_zarr(folder / "a.zarr")
    return folder / "a.zarr"


def write_zarr2(cells, folder):
    return write_zarr(cells, folder, 2)


def write_zarr3(cells, folder):
    return write_zarr(cells, folder, 3)


def write_zarr3_dense(cells, folder):
    cells = cells.copy()
    cells.X = cells.X.toarray()
    return write_zarr(cells, folder, 3)


def write_zarr_zip(cells, folder):
    tree = write_zarr(cells, folder, 3)
    with zipfile.ZipFile(folder / "a.zarr.zip", "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(p for p in tree.rglob("*") if p.is_file()):
            archive.write(path, path.relative_to(tree))
    return folder / "a.zarr.zip"


def write_10x_v3(cells, folder):
    with h5py.File(folder / "a.h5", "w") as file:
        write_group(file.create_group("matrix"), cells)
        features = file["matrix"].create_group("features")
        features["id"], features["name"] = np.array(ids(cells), "S"), np.array(ids(cells), "S")
        features["feature_type"] = np.array(["Gene Expression"] * cells.n_vars, "S")
        features["genome"] = np.array(["GRCh38"] * cells.n_vars, "S")
    return folder / "a.h5"


def write_10x_v2(cells, folder):
    with h5py.File(folder / "a.h5", "w") as file:
        write_group(file.create_group("GRCh38"), cells)
        file["GRCh38/genes"], file["GRCh38/gene_names"] = np.array(ids(cells), "S"), np.array(ids(cells), "S")
    return folder / "a.h5"


def write_group(group, cells):
    group["barcodes"] = np.array(cells.obs_names, "S")
    group["shape"] = np.array([cells.n_vars, cells.n_obs], np.int32)
    group["data"], group["indices"] = cells.X.data.astype(np.int32), cells.X.indices.astype(np.int64)
    group["indptr"] = cells.X.indptr.astype(np.int64)


def write_mtx_v3(cells, folder):
    write_mtx(cells, folder, "sample1_matrix.mtx")
    with gzip.open(folder / "sample1_matrix.mtx.gz", "wb") as file:
        file.write((folder / "sample1_matrix.mtx").read_bytes())
    (folder / "sample1_matrix.mtx").unlink()
    with gzip.open(folder / "sample1_features.tsv.gz", "wt") as file:
        file.writelines(f"{i}\t{i}\tGene Expression\n" for i in ids(cells))
    with gzip.open(folder / "sample1_barcodes.tsv.gz", "wt") as file:
        file.writelines(f"{name}\n" for name in cells.obs_names)
    return folder


def write_mtx_v2(cells, folder):
    write_mtx(cells, folder, "matrix.mtx")
    (folder / "genes.tsv").write_text("".join(f"{i}\t{i}\n" for i in ids(cells)))
    (folder / "barcodes.tsv").write_text("".join(f"{name}\n" for name in cells.obs_names))
    return folder


def write_mtx_by_gene(cells, folder):
    """Cells in rows with headers, as Parse writes, its entries sorted by gene."""
    scipy.io.mmwrite(folder / "count_matrix.mtx", csc_matrix(cells.X).astype(np.int64))
    (folder / "all_genes.csv").write_text("gene_id,gene_name\n" + "".join(f"{i},{i}\n" for i in ids(cells)))
    (folder / "cell_metadata.csv").write_text("bc_wells\n" + "".join(f"{n}\n" for n in cells.obs_names))
    return folder / "count_matrix.mtx"


def write_mtx_shuffled(cells, folder):
    path = write_mtx_v2(cells, folder)
    head, body = (path / "matrix.mtx").read_text().split("\n", 2)[:2], (path / "matrix.mtx").read_text().split("\n")[2:]
    lines = [line for line in body if line]
    order = np.random.default_rng(5).permutation(len(lines) - 1)
    text = "\n".join([*head, lines[0], *(lines[1 + k] for k in order)])  # and no end of the last line
    (path / "matrix.mtx").write_text(text)
    return path


def write_mtx(cells, folder, name):
    scipy.io.mmwrite(folder / name, csc_matrix(cells.X.T).astype(np.int64))


def write_loom(cells, folder):
    with h5py.File(folder / "a.loom", "w") as file:
        file.create_dataset("matrix", data=cells.X.T.toarray(), chunks=(8, 4), compression="gzip")
        file["row_attrs/Accession"], file["row_attrs/Gene"] = np.array(ids(cells), "S"), np.array(ids(cells), "S")
        file["col_attrs/CellID"] = np.array(cells.obs_names, "S")
        file["col_attrs/spatial"] = cells.obsm["spatial"]
        file.create_group("layers")
    return folder / "a.loom"


def write_csv(cells, folder):
    frame = pd.DataFrame(cells.X.toarray().astype(int), index=cells.obs_names, columns=ids(cells))
    frame.to_csv(folder / "a.csv")
    return folder / "a.csv"


def write_tsv_of_genes(cells, folder):
    frame = pd.DataFrame(cells.X.T.toarray(), index=ids(cells), columns=cells.obs_names)
    frame.to_csv(folder / "a.tsv.gz", sep="\t", quoting=2, index_label=False)  # as R's write.table: no corner cell
    return folder / "a.tsv.gz"


def write_scdl(cells, folder, *, blocks=1):
    """A folder in SCDL's layout (schema 0.1.0), byte for byte as bionemo-scdl 0.1.3 lays it out."""
    path = folder / "scdl"
    (path / "var_features").mkdir(parents=True)
    arrays = {"DATA": cells.X.data.astype("<f4"), "ROWPTR": cells.X.indptr.astype("<u4")}
    arrays["COLPTR"] = cells.X.indices.astype("<u2")
    header = b"SCDL" + bytes([0, 1, 0, 1]) + struct.pack("!II", 1, 3)
    for (name, array), (file, kind) in zip(
        arrays.items(), [("data.npy", 6), ("row_ptr.npy", 3), ("col_ptr.npy", 2)], strict=True
    ):
        (path / file).write_bytes(array.tobytes())
        header += struct.pack("!I", len(name)) + name.encode() + struct.pack("!QIB", len(array), kind, 0)
    (path / "header.sch").write_bytes(header + struct.pack("!I", 0))
    ends = np.linspace(0, cells.n_obs, blocks + 1).astype(int)[1:]
    for k in range(blocks):
        name = f"dataframe_{k:0{len(str(blocks))}d}.parquet"
        pq.write_table(pa.table({"ensembl_id": ids(cells)}), path / "var_features" / name)
    np.save(path / "var_features" / "cumulative_sum_index.npy", np.array([-1, *ends]))
    return path


WRITERS = [
    write_h5ad_csc,
    write_h5ad_compressed,
    write_h5ad_old,
    write_zarr2,
    write_zarr3,
    write_zarr3_dense,
    write_zarr_zip,
    write_10x_v3,
    write_10x_v2,
    write_mtx_v3,
    write_mtx_v2,
    write_mtx_by_gene,
    write_mtx_shuffled,
    write_loom,
    write_csv,
    write_tsv_of_genes,
    write_scdl,
]
NAMELESS = {write_scdl}
"""Formats that do not keep the names of cells."""


def to_store(source, dest, **wishes):
    lines = []
    convert([source], dest, ConvertOptions(**wishes), log=lines.append)
    return CellStore.open(dest), lines


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


def options(obsm):
    return ConvertOptions(obsm=obsm, making=Making(duplicates="keep"))


def test_dropped_duplicates_take_their_rows_of_obsm_with_them(cells, tmp_path):
    twice = anndata.concat([cells[:4], cells[2:7]], merge="same", index_unique="-")
    twice.write_h5ad(tmp_path / "a.h5ad")
    making = Making(duplicates="drop")
    store, _ = to_store(tmp_path / "a.h5ad", tmp_path / "s", obsm=("spatial",), making=making)
    np.testing.assert_array_equal(np.asarray(store.obsm("spatial")), cells.obsm["spatial"][:7])


def test_a_store_without_the_array_of_obsm_names_those_it_has(expected):
    with pytest.raises(StoreError, match="has no obsm 'spatial'; it has none") as caught:
        expected.obsm("spatial")
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
