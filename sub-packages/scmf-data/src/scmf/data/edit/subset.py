"""Some cells or genes of a store as a store of their own, or one store a group. In: rules. Out: stores."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from scmf.core.errors import InputError, StoreError, legible
from scmf.data.edit.repeated import repeated_cells
from scmf.data.edit.selection import Selection, write_selections
from scmf.data.ingest.copy_cells import obs_table
from scmf.data.manifest import Manifest
from scmf.data.part import Part
from scmf.data.split import refuse_continuous
from scmf.data.store import CellStore
from scmf.data.store_writer import check_destination
from scmf.data.where import select_cells

Log = Callable[[str], None]
BoolArray = npt.NDArray[np.bool_]

_NAMES: Final = 1 << 16
_MOST_GROUPS: Final = 10_000
_LONGEST: Final = 100
"""Letters of a group's folder: file systems take 255 bytes."""
_FEW_GROUPS: Final = 20
"""So many stores are made whatever the number of cells."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What is to be kept; everything that is not said is."""

    where: tuple[str, ...] = ()
    """Rules that all hold; see scmf.data.where."""
    cells: Path | None = None
    """Text file of cell names, one a line."""
    genes: Path | None = None
    """Text file of gene ids, one a line."""
    drop_duplicates: bool = False
    """Keep the first of the cells with the same counts in the same genes."""


def subset_store(store: CellStore, dest: Path, wishes: Wishes, *, links: bool, log: Log) -> Manifest:
    """Make a store of some of the cells and genes.

    Raises:
        InputError: nothing is chosen, or none of the names of a list is in the store.
        StoreError: a rule that does not fit, or a destination in use.
    """
    kept = select_cells(store, wishes.where)
    said = [f"where {rule}" for rule in wishes.where]
    if wishes.cells is not None:
        kept &= _named_cells(store, wishes.cells, log)
        said.append(f"cells of {wishes.cells.name}")
    genes = store.gene_ids if wishes.genes is None else _named_genes(store, wishes.genes, log)
    if wishes.genes is not None:
        said.append(f"genes of {wishes.genes.name}")
    if wishes.drop_duplicates:
        repeated = repeated_cells(store)
        kept[repeated.cells] = False
        said.append(f"without {len(repeated.cells):,} cells that repeat an earlier one")
    note = f"{int(kept.sum()):,} of the {len(store):,} cells of {store.fingerprint}: {', '.join(said) or 'all'}"
    manifest, how = write_selections(dest, [Selection(store, kept)], gene_ids=genes, note=note, links=links)
    log(f"{int(kept.sum()):,} of {len(store):,} cells, {len(genes):,} of {store.n_genes:,} genes; {how}")
    return manifest


def split_store(store: CellStore, by: str, dest: Path, *, links: bool, log: Log) -> list[Path]:
    """Make a store of each group of a column, named after it, in a folder.

    Cells whose value is missing go into a store called `missing`.

    Raises:
        StoreError: no such column, more than 10,000 groups, nearly one for each cell, or a folder in use.
        ConfigError: a column of measurements.
    """
    groups = store.obs_groups(by)
    where = f"{store.path}: obs column {by}"
    refuse_continuous(groups.names, column=by, where=where, fix="or choose with scmf-store subset --where")
    if len(groups.names) > min(_MOST_GROUPS, max(_FEW_GROUPS, len(store) // 2)):
        what = f"{by} has {len(groups.names):,} values for {len(store):,} cells, and each would be a store"
        raise StoreError(what, where=where, fix="name a column of groups, such as the donor")
    check_destination(dest, overwrite=False)
    dest.mkdir(parents=True, exist_ok=True)
    made = []
    for code, name, folder in _folders(groups.names, missing=bool((groups.codes < 0).any())):
        kept = groups.codes == code
        note = f"{int(kept.sum()):,} of the {len(store):,} cells of {store.fingerprint}: where {by}={name}"
        chosen = [Selection(store, kept)]
        _, how = write_selections(dest / folder, chosen, gene_ids=store.gene_ids, note=note, links=links)
        log(f"{dest / folder}: {int(kept.sum()):,} cells of {by} {legible(name)}; {how}")
        made.append(dest / folder)
    return made


def _folders(names: Sequence[str], *, missing: bool) -> Iterator[tuple[int, str, str]]:
    """Code, name and folder of each group: the name with everything unusual as `_`, numbered where two meet."""
    taken: set[str] = set()
    for code, name in [*enumerate(names), *([(-1, "missing")] if missing else [])]:
        plain = re.sub(r"[^A-Za-z0-9._+-]", "_", name)[:_LONGEST].strip(".") or "_"
        folder = next(f for k in range(len(names) + 1) if (f := plain if not k else f"{plain}-{k + 1}") not in taken)
        taken.add(folder)
        yield code, name, folder


def _named_cells(store: CellStore, path: Path, log: Log) -> BoolArray:
    wanted = _lines(path)
    kept, found = np.zeros(len(store), bool), set()
    for first, names in _names(store.parts):
        here = np.array([name in wanted for name in names], bool)
        kept[first : first + len(names)] = here
        found.update(names[here])
    _tell_missing(wanted - found, len(wanted), "cell", path, log)
    if int(kept.sum()) > len(found):
        log(f"note: {int(kept.sum()) - len(found):,} cells share their name with another one and are chosen with it")
    return kept


def _names(parts: Sequence[Part]) -> Iterator[tuple[int, npt.NDArray[np.object_]]]:
    first = 0
    for part in parts:
        table = obs_table(part)
        for start in range(0, part.n_cells, _NAMES):
            names = table.index(start, min(start + _NAMES, part.n_cells))
            yield first, names
            first += len(names)


def _named_genes(store: CellStore, path: Path, log: Log) -> tuple[str, ...]:
    """The genes of the list, in the order of the store."""
    wanted = _lines(path)
    genes = tuple(gene for gene in store.gene_ids if gene in wanted)
    _tell_missing(wanted - set(genes), len(wanted), "gene", path, log)
    return genes


def _lines(path: Path) -> set[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeError as error:
        out = shlex.quote(str(path.with_name(f"{path.stem}.utf8{path.suffix}")))
        fix = f"where it is UTF-16, as spreadsheets write: iconv -f UTF-16 -t UTF-8 {shlex.quote(str(path))} > {out}"
        raise InputError(f"the names are no text in UTF-8: {error}", where=str(path), fix=fix) from error
    return {line.strip() for line in text.splitlines() if line.strip()}


def _tell_missing(missing: set[str], n: int, kind: str, path: Path, log: Log) -> None:
    if len(missing) == n:
        some = f", such as {min(missing)!r}" if missing else ""
        raise InputError(
            f"none of its {n:,} {kind}s is in the store{some}",
            where=str(path),
            fix=f"give one {kind} name a line, as obs or var of the store's parts have them",
        )
    if missing:
        log(f"note: {len(missing):,} of {n:,} {kind}s are not in the store, such as {', '.join(sorted(missing)[:3])}")
