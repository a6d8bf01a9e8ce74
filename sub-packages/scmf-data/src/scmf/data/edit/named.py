"""Named splits of a store. In: rules for three sets. Out: the manifest with the split, replaced in one step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scmf.core.errors import InputError, StoreError
from scmf.data.manifest import MANIFEST, NamedSplit, dump_manifest
from scmf.data.store import CellStore
from scmf.data.store_writer import replace_file
from scmf.data.where import select_any


def name_split(
    store: CellStore, name: str, *, train: Sequence[str], validation: Sequence[str], test: Sequence[str]
) -> dict[str, int]:
    """Write a named split into the store's manifest; one of the same name is replaced.

    Args:
        store: whose manifest is replaced; its cells stay as they are, and its fingerprint too.
        name: what `data.split.name` will say.
        train: rules of which one is enough; see scmf.data.where.
        validation: the same for the cells held out for validation.
        test: the same for the cells held out to the end.

    Returns:
        Cells of each set, and of none.

    Raises:
        InputError: two sets share cells, or one that has rules has none.
        StoreError: a rule that does not fit.
    """
    rules = {"train": tuple(train), "validation": tuple(validation), "test": tuple(test)}
    times = np.zeros(len(store), np.int8)
    sizes: dict[str, int] = {}
    for kind, of in rules.items():
        chosen = select_any(store, of)
        sizes[kind] = int(chosen.sum())
        times += chosen
        if of and not sizes[kind]:
            raise InputError(f"no cell is in {kind}", where=f"{store.path}: {', '.join(of)}", fix="mend the rule")
    if (times > 1).any():
        raise InputError(
            f"{int((times > 1).sum()):,} cells are in more than one set",
            where=f"{store.path}: split {name}",
            fix="make the rules exclude each other",
        )
    sizes["none"] = int((times == 0).sum())
    _write(store, store.manifest.splits | {name: NamedSplit(**rules)})
    return sizes


def remove_split(store: CellStore, name: str) -> None:
    """Take a named split out of the manifest; StoreError when there is none of that name."""
    if name not in store.manifest.splits:
        known = ", ".join(store.manifest.splits) or "none"
        raise StoreError(f"the store has no split {name!r}; it has {known}", where=str(store.path), fix="name another")
    _write(store, {k: split for k, split in store.manifest.splits.items() if k != name})


def _write(store: CellStore, splits: dict[str, NamedSplit]) -> None:
    replace_file(store.path / MANIFEST, dump_manifest(store.manifest.replace(splits=splits)))
