"""A CSC or COO matrix turned into CSR on the disk. In: the matrix. Out: a folder of three plain arrays, or its Matrix.

A column-wise matrix can only be read as a whole. Where its cells go into several parts, which several processes may
make, it is turned once: the external sort of scmf.data.ingest.blocks, written down. It takes 8 bytes a cell and 8 to
12 bytes a value of disk until the conversion ends, and as much again for the sort while it lasts.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from scmf.data.ingest.blocks import iter_blocks, value_type
from scmf.data.ingest.source import Matrix


def turn(matrix: Matrix, folder: Path, *, budget: int) -> None:
    """Write the matrix by cells; a folder that has `indptr` is whole, if the system did not stop on the way."""
    folder.mkdir(parents=True)
    indptr = np.zeros(matrix.n_cells + 1, np.int64)
    with (folder / "indices").open("wb") as indices, (folder / "data").open("wb") as data:
        for block in iter_blocks(matrix, budget=budget, scratch=folder / "sort"):
            rows = slice(block.first_cell + 1, block.first_cell + 1 + block.n_cells)
            indptr[rows] = block.indptr[1:] + indptr[block.first_cell]
            block.columns.astype("<i4", copy=False).tofile(indices)
            block.values.tofile(data)
    indptr.tofile(folder / "indptr")
    if (folder / "sort").exists():
        (folder / "sort").rmdir()


def is_turned(folder: Path) -> bool:
    """Whether there is a turned matrix."""
    return (folder / "indptr").exists()


def turned(folder: Path, *, like: Matrix) -> Matrix:
    """The turned matrix, mapped into memory; `like` is the original."""
    indptr = np.memmap(folder / "indptr", np.int64, "r")
    n_values = int(indptr[-1])

    def mapped(name: str, dtype: np.dtype) -> np.ndarray:
        return np.memmap(folder / name, dtype, "r") if n_values else np.empty(0, dtype)

    return replace(
        like,
        layout="csr",
        values=mapped("data", value_type(like.values.dtype)),
        indices=mapped("indices", np.dtype(np.int32)),
        indptr=indptr,
        rows=None,
    )
