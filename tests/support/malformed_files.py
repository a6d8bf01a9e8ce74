"""Malformed inputs: files of no known kind, files cut short, parts that are missing or do not fit."""

from __future__ import annotations

import gzip
import shutil
import tarfile
import zipfile

import h5py
import numpy as np
from scipy.sparse import csr_matrix

from support import zoo
from support.malformed import h5ad, raw, registry

ANIMALS = []
animal = registry(ANIMALS)


# Nothing that can be read


@animal("D001")
def missing_file(folder):
    return folder / "none.h5ad"


@animal("D001")
def pdf_named_h5ad(folder):
    return raw(folder, b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n")


@animal("D001")
def saved_web_page(folder):
    return raw(folder, b"<!DOCTYPE html><html><body>403 Forbidden</body></html>")


@animal("D001")
def r_object(folder):
    return raw(folder, gzip.compress(b"X\n\x00\x00\x00\x03" + bytes(100)), "a.rds")


@animal("D001")
def pickle(folder):
    return raw(folder, b"\x80\x04\x95" + bytes(50), "a.pkl")


@animal("D001")
def zip_of_tables(folder):
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.writestr("counts/a.csv", "x,y\n1,2\n")
    return folder / "a.zip"


@animal("D001")
def tar_of_a_matrix(folder):
    zoo.write_mtx(folder / "m", zoo.counts())
    with tarfile.open(folder / "a.tar", "w") as archive:
        archive.add(folder / "m", "m")
    return folder / "a.tar"


@animal("D001")
def empty_folder(folder):
    (folder / "a").mkdir()
    return folder / "a"


@animal("D001")
def seurat_h5(folder):
    with h5py.File(folder / "a.h5seurat", "w") as file:
        file.create_group("assays")
        file["cell.names"] = np.array([b"a"])
    return folder / "a.h5seurat"


@animal("D002")
def h5_of_images(folder):
    with h5py.File(folder / "a.h5", "w") as file:
        file["images"] = np.zeros((2, 4, 4))
    return folder / "a.h5"


@animal("D016")
def empty_file(folder):
    return raw(folder, b"")


@animal("D016")
def cut_short(folder):
    path = h5ad(folder)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    return path


@animal("D016")
def tenx_cut_short(folder):
    path = zoo.write_tenx_h5(folder / "a.h5", zoo.counts())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


@animal("D016")
def loom_cut_short(folder):
    path = zoo.write_loom(folder / "a.loom", zoo.counts())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


@animal("D016")
def mtx_cut_short(folder):
    path = zoo.write_mtx(folder / "m", zoo.counts()) / "matrix.mtx.gz"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return folder / "m"


@animal("D016")
def zarr_chunk_cut_short(folder):
    path = zoo.write(folder / "a.zarr", zoo.cells())
    chunk = max((p for p in (path / "X" / "data").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    chunk.write_bytes(chunk.read_bytes()[:20])
    return path


# Parts missing, shapes that do not fit


@animal("D002")
def no_obs(folder):
    return zoo.change(h5ad(folder), obs=None)


@animal("D002")
def no_var(folder):
    return zoo.change(h5ad(folder), var=None)


@animal("D002")
def no_matrix(folder):
    return zoo.change(h5ad(folder), X=None, layers=None)


@animal("D002")
def column_in_an_unknown_encoding(folder):
    path = h5ad(folder)
    with h5py.File(path, "r+") as file:
        file["obs"].create_group("lineage").attrs["encoding-type"] = "newick-tree"
        file["obs"].attrs["column-order"] = np.array(["donor", "lineage"], dtype=h5py.string_dtype())
    return path


@animal("D002")
def zarr_without_var(folder):
    path = zoo.write(folder / "a.zarr", zoo.cells(), zarr_format=2)
    shutil.rmtree(path / "var")
    (path / ".zmetadata").unlink(missing_ok=True)
    return path


@animal("D003")
def unknown_sparse_format(folder):
    path = h5ad(folder)
    with h5py.File(path, "r+") as file:
        file["X"].attrs["encoding-type"] = "coo_matrix"
    return path


@animal("D003")
def matrix_of_texts(folder):
    path = h5ad(folder, zoo.counts())
    return zoo.change(path, X=np.full((40, 60), b"3", dtype="S1"))


@animal("D003")
def matrix_of_three_axes(folder):
    path = h5ad(folder, zoo.counts())
    return zoo.change(path, X=np.ones((40, 60, 2), np.float32))


@animal("D003")
def fewer_rows_of_obs_than_cells(folder):
    path = h5ad(folder)
    with h5py.File(path, "r+") as file:
        file["X"].attrs["shape"] = np.array([39, 60])
        indptr = file["X/indptr"][:40]
        del file["X/indptr"]
        file["X/indptr"] = indptr
    return path


@animal("D003")
def dense_of_another_width_than_var(folder):
    path = h5ad(folder, zoo.counts())
    return zoo.change(path, X=zoo.counts()[:, :50])


@animal("D004")
def no_cells(folder):
    return h5ad(folder, csr_matrix((0, 60), dtype=np.float32))


@animal("D004")
def no_genes(folder):
    return h5ad(folder, csr_matrix((40, 0), dtype=np.float32))


@animal("D004")
def nothing_but_zeros(folder):
    return h5ad(folder, np.zeros((40, 60), np.float32))


@animal("D005", counts="layers/spliced")
def element_that_is_not_there(folder):
    return h5ad(folder)
