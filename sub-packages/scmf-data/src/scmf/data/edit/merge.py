"""Several stores as one. In: stores. Out: a store of all their cells and the union of their genes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from scmf.core.errors import StoreError
from scmf.data.edit.repeated import repeated_cells
from scmf.data.edit.selection import Selection, write_selections
from scmf.data.manifest import Manifest
from scmf.data.store import CellStore

Log = Callable[[str], None]


def merge_stores(
    stores: Sequence[CellStore], dest: Path, *, duplicates: Literal["report", "keep"], links: bool, log: Log
) -> Manifest:
    """Make a store of all cells, store after store; genes in order of first appearance.

    Args:
        stores: of one id space and species.
        dest: folder to make.
        duplicates: `report` reads all values once more and says which cells repeat others; `keep` does not look.
        links: take parts over as hard links where their gene numbers stay the same.
        log: takes a line for people.

    Raises:
        StoreError: stores that do not go together, or a destination in use.
    """
    check_together(stores)
    genes = tuple(dict.fromkeys(gene for store in stores for gene in store.gene_ids))
    selections = [Selection(store, np.ones(len(store), bool)) for store in stores]
    note = "merged: " + ", ".join(f"{len(store):,} cells of {store.fingerprint}" for store in stores)
    manifest, how = write_selections(dest, selections, gene_ids=genes, note=note, links=links)
    log(how)
    if duplicates == "report":
        found = repeated_cells(CellStore.open(dest))
        if found:
            log(f"duplicates: {found}; scmf-store subset --drop-duplicates keeps the first of each")
    return manifest


def check_together(stores: Sequence[CellStore]) -> None:
    """Refuse stores whose genes are not of one kind."""
    first = stores[0]
    for store in stores[1:]:
        for name, what in (("id_space", "gene ids"), ("species", "species")):
            a, b = getattr(first.manifest, name), getattr(store.manifest, name)
            if a != b:
                raise StoreError(
                    f"the stores have different {what}: {a or 'unknown'} and {b or 'unknown'}",
                    where=f"{first.path}, {store.path}",
                    fix="merge stores of one kind; convert the sources of the other again with the same flags",
                )
