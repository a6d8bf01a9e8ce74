"""The same cells in every format that conversion reads. In: an AnnData. Out: a file or folder in a format."""

from __future__ import annotations

import gzip
import struct
import warnings
import zipfile

import anndata
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.io
from scipy.sparse import csc_matrix, csr_matrix

from scmf.data.ingest.convert import convert
from scmf.data.ingest.plan import ConvertOptions
from scmf.data.store import CellStore


def some_cells(path):
    """Fifty-three real cells, with every tenth gene, names that are barcodes, and a layout in obsm."""
    whole = anndata.read_h5ad(path)[::4, ::10].copy()
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
