"""What is no source is refused by what it is, in three lines, with advice that leads on."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import shlex
import shutil
import tarfile
import zipfile
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from scipy.sparse import csr_matrix

from scmf.core.errors import InputError
from scmf.data.ingest.convert import convert
from scmf.data.ingest.plan import ConvertOptions
from scmf.data.ingest.recognise import open_source

DATA = Path(__file__).parents[2].parent / "shared" / "data"

MTX = "%%MatrixMarket matrix coordinate integer general\n%\n2 3 4\n1 1 5\n2 1 1\n1 2 2\n2 3 7\n"
GENES = "ENSG00000000003\tTSPAN6\tGene Expression\nENSG00000000005\tTNMD\tGene Expression\n"
CELLS = "c1\nc2\nc3\n"


def refusal(path):
    """The error of a conversion, which leaves nothing behind."""
    dest = path.parent / "store"
    with pytest.raises(InputError) as caught:
        convert([path], dest, ConvertOptions(), log=lambda _: None)
    assert not dest.exists()
    assert not (path.parent / ".store.partial").exists()
    assert len(str(caught.value).splitlines()) == 3
    assert str(path) in caught.value.where
    return caught.value


def h5(path, *names, **attributes):
    with h5py.File(path, "w") as file:
        file.attrs.update(attributes)
        for name in names:
            file[name] = np.arange(3)


def tar(path, mode):
    with tarfile.open(path, mode) as archive:
        archive.addfile(tarfile.TarInfo("matrix.mtx"), io.BytesIO(b""))


def zipped(path, *names):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, "x")


def pdf(path):
    path.write_bytes(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n")


def pandas_table(path):
    with h5py.File(path, "w") as file:
        file.create_group("counts").attrs["pandas_type"] = "frame"


STRANGERS = [
    (
        "counts.rds",
        lambda p: p.write_bytes(gzip.compress(b"X\n\x00\x00\x00\x03\x00\x04")),
        "R object",
        "write10xCounts",
    ),
    ("counts.RData", lambda p: p.write_bytes(gzip.compress(b"RDX3\nX\n")), "R object", "write10xCounts"),
    ("plain.rds", lambda p: p.write_bytes(b"X\n\x00\x00\x00\x03"), "R object", "write10xCounts"),
    ("paper.h5ad", pdf, "a PDF document", "get the counts"),
    ("plot.h5ad", lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n"), "a PNG image", "get the counts"),
    ("slide.tif", lambda p: p.write_bytes(b"II*\x00abc"), "a TIFF image", "get the counts"),
    ("cells.pkl", lambda p: p.write_bytes(pickle.dumps([1], 4)), "never opened", "write_h5ad"),
    ("x.npy", lambda p: np.save(p, np.eye(2)), "NumPy array without names", "write_h5ad"),
    ("x.npz", lambda p: np.savez(p, a=np.eye(2)), "NumPy archive", "write_h5ad"),
    ("a.tar", lambda p: tar(p, "w"), "a tar archive", "tar -xf"),
    ("a.tar.gz", lambda p: tar(p, "w:gz"), "a tar archive", "tar -xf"),
    ("a.tar.bz2", lambda p: p.write_bytes(bz2.compress(b"x")), "a bzip2 archive", "bunzip2"),
    ("a.xz", lambda p: p.write_bytes(lzma.compress(b"x")), "an xz archive", "unxz"),
    ("a.zip", lambda p: zipped(p, "filtered/matrix.mtx"), "a zip archive of 1 file", "unzip"),
    ("book.xlsx", lambda p: zipped(p, "xl/workbook.xml"), "an Excel file", "CSV"),
    ("seurat.h5seurat", lambda p: h5(p, "cell.names", "assays"), "an h5Seurat file", "write10xCounts"),
    ("molecule_info.h5", lambda p: h5(p, "barcode_idx", "umi"), "a molecule_info.h5", "filtered_feature_bc_matrix.h5"),
    ("two.h5mu", lambda p: h5(p, "mod", "obs"), "a MuData file", "mudata.read"),
    ("frame.h5", pandas_table, "pandas wrote to HDF5", "read_hdf"),
    (
        "images.h5",
        lambda p: h5(p, "image_001", "labels"),
        "neither h5ad nor 10x nor loom (it holds image_001",
        "origin",
    ),
    ("cells.h5ad.gz", lambda p: p.write_bytes(gzip.compress(b"\x89HDF\r\n\x1a\nabc")), "packed with gzip", "gunzip"),
    ("a.h5ad", lambda p: p.write_text("<!DOCTYPE html><title>404</title>"), "a web page", "download"),
    ("b.h5ad", lambda p: p.write_text('{"error": "denied"}'), "JSON", "download"),
    ("c.h5ad", lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\n"), "Git LFS", "git lfs pull"),
    ("d.h5ad", lambda p: p.write_text("cell,gene\na,1\n"), "not the HDF5 that .h5ad says", "mv "),
    ("d.yaml", lambda p: p.write_text("sizes: [1, 2]\n"), "text, not the name of a table of counts", "mv "),
    ("e.txt", lambda p: p.write_text("just words\n"), "no format of counts that convert reads", "Check the path"),
    ("f.parquet", lambda p: pq.write_table(pa.table({"g": [1]}), p), "a parquet table", "write_h5ad"),
]


@pytest.mark.parametrize(("name", "make", "what", "fix"), STRANGERS, ids=[s[0] for s in STRANGERS])
def test_a_file_that_is_no_source_is_named_for_what_it_is(name, make, what, fix, tmp_path):
    path = tmp_path / name
    make(path)
    error = refusal(path)
    assert error.what.startswith(("SCMF-D001: ", "SCMF-D002: "))
    assert what in error.what
    assert fix in error.fix


def test_an_empty_file_is_a_download_that_failed(tmp_path):
    (tmp_path / "a.h5ad").touch()
    assert refusal(tmp_path / "a.h5ad").what == "SCMF-D016: the file is empty"


def test_a_table_of_tokens_is_refused_by_its_columns(tmp_path):
    pq.write_table(pa.table({"input_ids": [[1, 2]], "length": [2]}), tmp_path / "t.parquet")
    assert refusal(tmp_path / "t.parquet").what.startswith(
        "SCMF-D060: a table of ready tokens (columns input_ids, length)"
    )


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data are not here")
def test_the_real_corpus_of_tokens_is_refused_by_its_number():
    with pytest.raises(InputError, match=r"^SCMF-D060: "):
        open_source(DATA / "geneformer_corpus_v1" / "genecorpus_500_samples.parquet")


def toy():
    ids = [f"ENSG{k:011d}" for k in range(3)]
    return anndata.AnnData(csr_matrix(np.eye(2, 3, dtype=np.float32)), var=pd.DataFrame(index=ids))


def test_a_folder_of_files_is_answered_with_the_command_that_names_them(tmp_path):
    folder = tmp_path / "my data"
    folder.mkdir()
    for name in "ab":
        toy().write_h5ad(folder / f"{name}.h5ad")
    error = refusal(folder)
    assert "a folder with 2 sources in it (a.h5ad, b.h5ad)" in error.what
    words = shlex.split(error.fix.removeprefix("name the sources: "))
    assert words[:4] == ["scmf-store", "convert", str(folder / "a.h5ad"), str(folder / "b.h5ad")]


def test_the_folder_of_a_cell_ranger_run_is_answered_with_the_matrix_in_it(tmp_path):
    (tmp_path / "run" / "outs" / "filtered_feature_bc_matrix").mkdir(parents=True)
    error = refusal(tmp_path / "run")
    assert f"scmf-store convert {tmp_path}/run/outs/filtered_feature_bc_matrix --dest" in error.fix


def test_a_store_is_no_source_and_is_used_as_it_is(demo_store):
    with pytest.raises(InputError, match="SCMF-D001: the folder is a store already") as caught:
        open_source(demo_store.path)
    assert caught.value.fix.startswith(f"use it as it is: scmf-store info {demo_store.path}; with other stores: ")
    assert caught.value.fix.endswith(f"scmf-store merge {demo_store.path} OTHER --dest DIR")


def test_an_empty_folder_is_said_to_be_empty(tmp_path):
    (tmp_path / "none").mkdir()
    assert "it is empty" in refusal(tmp_path / "none").what


@pytest.mark.parametrize(("inner", "kind"), [("mod", "MuData"), ("tables", "SpatialData")])
def test_a_zarr_group_of_several_tables_is_answered_with_one_of_them(inner, kind, tmp_path):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    group.create_group(f"{inner}/rna")
    error = refusal(tmp_path / "a.zarr")
    assert f"a {kind} group; its tables are rna" in error.what
    assert f"{tmp_path}/a.zarr/{inner}/rna" in error.fix


def test_a_zarr_group_that_is_no_anndata_says_what_it_holds(tmp_path):
    zarr.open_group(tmp_path / "a.zarr", mode="w").create_group("images")
    assert "no AnnData: it has images" in refusal(tmp_path / "a.zarr").what


@pytest.fixture
def folder(tmp_path):
    """A 10x folder of version 2 with three cells and two genes."""
    path = tmp_path / "run"
    path.mkdir()
    for name, text in (("matrix.mtx", MTX), ("features.tsv", GENES), ("barcodes.tsv", CELLS)):
        (path / name).write_text(text)
    return path


def rewrite(folder, text):
    (folder / "matrix.mtx").write_text(text)


def cut_gzip(folder):
    with gzip.open(folder / "matrix.mtx.gz", "wb") as file:
        file.write(MTX.encode() * 1000)
    (folder / "matrix.mtx").unlink()
    whole = (folder / "matrix.mtx.gz").read_bytes()
    (folder / "matrix.mtx.gz").write_bytes(whole[: len(whole) * 3 // 4])


DAMAGES = [
    ("D002", "no file with the names of its genes", lambda f: (f / "features.tsv").unlink()),
    ("D002", "no file with the names of its cells", lambda f: (f / "barcodes.tsv").unlink()),
    ("D002", "without its matrix.mtx", lambda f: (f / "matrix.mtx").unlink()),
    (
        "D003",
        "2 rows and 3 columns, but features.tsv names 5",
        lambda f: (f / "features.tsv").write_text(GENES * 2 + "x"),
    ),
    ("D003", "coordinate complex general", lambda f: rewrite(f, MTX.replace("integer", "complex"))),
    ("D003", "array integer general", lambda f: rewrite(f, MTX.replace("coordinate", "array"))),
    ("D003", "coordinate integer symmetric", lambda f: rewrite(f, MTX.replace("general", "symmetric"))),
    ("D015", "entry 3 is no entry of a 2 x 3 matrix: 1 4 2", lambda f: rewrite(f, MTX.replace("1 2 2", "1 4 2"))),
    ("D015", "matrix: 0 2 2", lambda f: rewrite(f, MTX.replace("1 2 2", "0 2 2"))),
    ("D015", "matrix: 1 2 two", lambda f: rewrite(f, MTX.replace("1 2 2", "1 2 two"))),
    ("D015", "matrix: 1 2 2 9", lambda f: rewrite(f, MTX.replace("1 2 2", "1 2 2 9"))),
    ("D015", "matrix: 1.5 2 2", lambda f: rewrite(f, MTX.replace("1 2 2", "1.5 2 2"))),
    ("D016", "announces 4 entries and has 3", lambda f: rewrite(f, MTX.removesuffix("2 3 7\n"))),
    ("D016", "the size of the matrix is missing", lambda f: rewrite(f, MTX.partition("2 3 4")[0])),
    ("D016", "cut short or damaged", cut_gzip),
    ("D062", "2 matrices: a.mtx, matrix.mtx", lambda f: shutil.copy(f / "matrix.mtx", f / "a.mtx")),
]


@pytest.mark.parametrize(("number", "words", "damage"), DAMAGES, ids=[f"{d[0]} {d[1]}" for d in DAMAGES])
def test_what_is_wrong_with_a_10x_folder_is_said(number, words, damage, folder):
    damage(folder)
    error = refusal(folder)
    assert error.what.startswith(f"SCMF-{number}: ")
    assert words in error.what


def test_a_sound_10x_folder_of_the_same_kind_is_read(folder):
    rewrite(folder, MTX.replace("1 2 2\n", "  1\t2   2.0  \n\n% said in between\n").replace("\n", "\r\n"))
    with open_source(folder) as source:
        matrix = source.matrices()["X"]
        assert (matrix.n_cells, matrix.n_genes) == (3, 2)
        assert matrix.values[:].tolist() == [5, 1, 2, 7]
        assert source.var("X").column("gene_symbol").tolist() == ["TSPAN6", "TNMD"]


def test_a_square_matrix_of_other_programs_is_refused_until_the_user_says_where_the_cells_are(folder):
    (folder / "matrix.mtx").unlink()
    (folder / "counts.mtx").write_text(MTX.replace("2 3 4", "3 3 4"))
    (folder / "features.tsv").rename(folder / "genes.tsv")
    (folder / "genes.tsv").write_text(GENES + "ENSG00000000419\tDPM1\tGene Expression\n")
    (folder / "barcodes.tsv").rename(folder / "cells.tsv")
    error = refusal(folder / "counts.mtx")
    assert error.what.startswith("SCMF-D061: the matrix is square (3 x 3)")


def test_features_of_one_kind_that_is_no_gene_are_refused(folder):
    (folder / "features.tsv").write_text(GENES.replace("Gene Expression", "Peaks"))
    error = refusal(folder)
    assert error.what.startswith("SCMF-D012: no feature is Gene Expression: the file has 2 Peaks")


TABLES = [
    ("D003", "'T cell' in column b is no number", "n,ENSG00000000003,b\nc1,1,T cell\n"),
    ("D003", "the line has 1 values, the header 2 names", "n,ENSG00000000003,b\nc1,1,2\nc2,1\n"),
    ("D003", "the header has 5 fields and the first row 3", "n,a,b,c,d\nc1,1,2\n"),
    ("D003", "the line has 3 values, the header 2 names", "n,ENSG00000000003,b\nc1,1,2\nc2,1,2,3\n"),
    ("D004", "no row below its header", "n,ENSG00000000003,b\n"),
    ("D008", "1.5 (cell c2, gene ENSG00000000005)", "n,ENSG00000000003,ENSG00000000005\nc1,1,2\nc2,0,1.5\n"),
    ("D006", "-3 (cell c1, gene ENSG00000000005)", "n;ENSG00000000003;ENSG00000000005\nc1;1;-3\n"),
]


@pytest.mark.parametrize(("number", "words", "text"), TABLES, ids=[t[1] for t in TABLES])
def test_what_is_wrong_with_a_table_is_said_with_its_place(number, words, text, tmp_path):
    (tmp_path / "a.csv").write_text(text)
    error = refusal(tmp_path / "a.csv")
    assert error.what.startswith(f"SCMF-{number}: ")
    assert words in f"{error.what} {error.where}"
