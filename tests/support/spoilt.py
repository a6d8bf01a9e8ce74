"""A store with cells that cannot be read, which opens nevertheless."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from scmf.data.store import CellStore

LOST = {60, 119, 120}
"""Cells of the spoilt copy that cannot be read, those held out among them."""


def spoil(store: CellStore, path: Path) -> Path:
    """A copy of the demo store in parts of 50 cells; the first value of each of `LOST` names no gene."""
    shutil.copytree(store.path, path)
    for cell in LOST:
        part = store.parts[cell // 50]
        with (path / part.path.name / "X" / "indices" / "c" / "0").open("r+b") as file:
            file.seek(int(part.indptr[cell % 50]) * 2)
            file.write(np.uint16(65_535).tobytes())
    return path


def spoil_open(store: CellStore, path: Path) -> CellStore:
    """The same cells lost in a store that is open already: cell 120 begins, and so cell 119 ends, outside its part."""
    shutil.copytree(store.path, path)
    opened = CellStore.open(path)
    genes, ends = opened.parts[1], opened.parts[2]
    with (path / "part-00001" / "X" / "indices" / "c" / "0").open("r+b") as file:
        file.seek(int(genes.indptr[10]) * 2)
        file.write(np.uint16(65_535).tobytes())
    with (path / "part-00002" / "X" / "indptr" / "c" / "0").open("r+b") as file:
        file.seek(20 * 8)
        file.write(np.int64(int(ends.indptr[-1]) + 5).tobytes())
    return opened
