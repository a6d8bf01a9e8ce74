"""Cells of a finished store that are there twice. In: a store. Out: the cells equal to an earlier one."""

from __future__ import annotations

import tempfile
from pathlib import Path

from scmf.data.cell_hash import gene_keys
from scmf.data.edit.selection import scan_part
from scmf.data.ingest.duplicate_policy import Duplicates
from scmf.data.ingest.duplicates import find_duplicates
from scmf.data.store import CellStore

_BUDGET = 256 << 20


def repeated_cells(store: CellStore) -> Duplicates:
    """Read every value of the store once and find the cells that repeat an earlier one."""
    keys = gene_keys(store.gene_ids)
    with tempfile.TemporaryDirectory(prefix="scmf-hashes-") as folder:
        path = Path(folder) / "hashes"
        with path.open("wb") as file:
            for part in store.parts:
                for _, _, hashes in scan_part(part, keys):
                    hashes.tofile(file)
        return Duplicates(store, *find_duplicates(store, [path], budget=_BUDGET))
