"""Small files for the zoo of inputs: clean cells, and the ways in which people's files are not clean.

Every animal is 40 cells x 60 genes unless it says otherwise, with real human Ensembl ids and symbols.
"""

from __future__ import annotations

import gzip
from functools import cache
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.io import mmwrite
from scipy.sparse import csc_matrix, csr_matrix

from scmf.data.genes import load_gene_table
from scmf.data.vocabulary import load_vocabulary

N_CELLS, N_GENES = 40, 60


@cache
def genes(species: str = "human", n: int = N_GENES) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Ensembl ids and symbols of protein-coding genes; the human ones are in both shipped vocabularies."""
    table = load_gene_table(species)
    known = table.genes
    if species == "human":
        tokens = [load_vocabulary(name) for name in ("geneformer-v1", "geneformer-v2")]
        ids = [gene.id for gene in known]
        ok = np.logical_and(*(vocabulary.tokens_of(ids) >= 0 for vocabulary in tokens))
        known = tuple(gene for gene, k in zip(known, ok, strict=True) if k)
    chosen = [g for g in known if g.symbol and g.biotype == "protein_coding" and len(table.by_symbol[g.symbol]) == 1]
    return tuple(g.id for g in chosen[:n]), tuple(g.symbol for g in chosen[:n])


def counts(n_cells: int = N_CELLS, n_genes: int = N_GENES, seed: int = 1) -> np.ndarray:
    """(cells, genes) float32 counts that look like a cell's: depths differ, most genes are low, none is empty."""
    rng = np.random.default_rng(seed)
    depth, level = rng.lognormal(0.5, 0.4, (n_cells, 1)), rng.lognormal(0, 1, n_genes)
    found = rng.poisson(depth * level).astype(np.float32)
    found[:, :10] += 1
    return found


def barcodes(n: int = N_CELLS) -> list[str]:
    """Names as 10x gives them."""
    rng = np.random.default_rng(7)
    return ["".join(rng.choice(list("ACGT"), 16)) + "-1" for _ in range(n)]


def cells(x: Any = None, *, ids: Any = None, symbols: bool = True, obs: Any = None) -> AnnData:
    """Clean cells, or the same around another matrix, ids or obs."""
    x = csr_matrix(counts()) if x is None else x
    n_cells, n_genes = x.shape
    ids = list(genes(n=n_genes)[0] if ids is None else ids)
    var = pd.DataFrame({"gene_name": list(genes(n=n_genes)[1])} if symbols else {}, index=ids)
    table = pd.DataFrame({"donor": ["d1", "d2"] * (n_cells // 2) + ["d1"] * (n_cells % 2)}, index=barcodes(n_cells))
    return AnnData(x, obs=table if obs is None else obs, var=var)


def write(path: Path, animal: AnnData, *, zarr_format: int = 3) -> Path:
    """As h5ad, or as zarr where the suffix says so."""
    if path.suffix == ".zarr":
        with anndata.settings.override(zarr_write_format=zarr_format):
            animal.write_zarr(path)
    else:
        animal.write_h5ad(path)
    return path


def lognormal(x: np.ndarray, total: float = 1e4) -> np.ndarray:
    """log(1 + counts scaled to a total)."""
    return np.log1p(scaled(x, total))


def scaled(x: np.ndarray, total: float = 1e4) -> np.ndarray:
    """Counts scaled to a total a cell."""
    return (x / x.sum(axis=1, keepdims=True) * total).astype(np.float32)


def ambient_removed(x: np.ndarray) -> np.ndarray:
    """What SoupX leaves: every count less its share of the ambient profile."""
    profile = x.sum(axis=0) / x.sum()
    return np.clip(x - 0.02 * x.sum(axis=1, keepdims=True) * profile, 0, None).astype(np.float32)


def change(path: Path, **datasets: Any) -> Path:
    """Replace datasets of an h5ad by other arrays; `X__indices` is X/indices, None removes."""
    with h5py.File(path, "r+") as file:
        for name, values in datasets.items():
            place = name.replace("__", "/")
            attributes = dict(file[place].attrs)
            del file[place]
            if values is not None:
                file[place] = values
                file[place].attrs.update(attributes)
    return path


def sparse_parts(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Data, indices and indptr of an h5ad's X."""
    with h5py.File(path) as file:
        return file["X/data"][:], file["X/indices"][:], file["X/indptr"][:]


def write_mtx(folder: Path, x: np.ndarray, *, packed: bool = True, names: int | None = None) -> Path:
    """A folder as Cell Ranger 3 writes it: genes x cells, with features and barcodes."""
    folder.mkdir()
    ids, symbols = genes(n=x.shape[1])
    features = "".join(f"{i}\t{s}\tGene Expression\n" for i, s in zip(ids, symbols, strict=True))
    cell_names = "".join(f"{b}\n" for b in barcodes(x.shape[0])[:names])
    with (folder / "matrix.mtx").open("wb") as file:
        mmwrite(file, csc_matrix(x.T), field="integer" if np.all(x == np.rint(x)) else "real")
    (folder / "features.tsv").write_text(features)
    (folder / "barcodes.tsv").write_text(cell_names)
    if packed:
        for path in list(folder.iterdir()):
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    return folder


def write_tenx_h5(path: Path, x: np.ndarray, *, antibodies: int = 0) -> Path:
    """A file as Cell Ranger 3 writes it; the last columns may be antibodies."""
    ids, symbols = genes(n=x.shape[1])
    matrix = csr_matrix(x)
    kinds = [b"Gene Expression"] * (x.shape[1] - antibodies) + [b"Antibody Capture"] * antibodies
    names = [*ids[: x.shape[1] - antibodies], *(f"CD{k}" for k in range(antibodies))]
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group["barcodes"] = np.array(barcodes(x.shape[0]), dtype="S")
        group["data"] = matrix.data.astype(np.int32 if np.all(x == np.rint(x)) else x.dtype)
        group["indices"] = matrix.indices.astype(np.int64)
        group["indptr"] = matrix.indptr.astype(np.int64)
        group["shape"] = np.array(x.shape[::-1], dtype=np.int32)
        group["features/id"] = np.array(names, dtype="S")
        group["features/name"] = np.array(symbols, dtype="S")
        group["features/feature_type"] = np.array(kinds)
        group["features/genome"] = np.array([b"GRCh38"] * x.shape[1])
    return path


def write_loom(path: Path, x: np.ndarray, *, ids: Any = None) -> Path:
    """A loom file: genes x cells, with attributes of rows and columns."""
    names, symbols = genes(n=x.shape[1])
    with h5py.File(path, "w") as file:
        file["matrix"] = x.T
        file["row_attrs/Accession"] = np.array(names if ids is None else ids, dtype="S")
        file["row_attrs/Gene"] = np.array(symbols, dtype="S")
        file["col_attrs/CellID"] = np.array(barcodes(x.shape[0]), dtype="S")
        file.create_group("layers")
    return path


def write_csv(path: Path, x: np.ndarray, *, ids: Any = None, names: Any = None, sep: str = ",") -> Path:
    """A table of cells x genes with their names."""
    ids = genes(n=x.shape[1])[0] if ids is None else ids
    pd.DataFrame(x, index=barcodes(x.shape[0]) if names is None else names, columns=list(ids)).to_csv(path, sep=sep)
    return path
