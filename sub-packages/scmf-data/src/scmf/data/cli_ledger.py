"""`scmf-store ledger` and `scmf-store seen`. Arguments in; a ledger's file, or how many cells it has, out."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scmf.core.errors import ScmfError, StoreError

if TYPE_CHECKING:
    from scmf.data.ledger import Ledger
    from scmf.data.manifest import IdSpace
    from scmf.data.seen import SeenSplit
    from scmf.data.store import CellStore


def add_ledger(ledger: argparse.ArgumentParser) -> None:
    """Arguments of `ledger`, besides the store."""
    ledger.add_argument("--out", type=Path, metavar="FILE", help="file to make (default: DIR.ledger, beside the store)")


def add_seen(seen: argparse.ArgumentParser) -> None:
    """Arguments of `seen`."""
    seen.add_argument("cells", type=Path, metavar="CELLS", help="folder of a store, or a file that convert takes")
    seen.add_argument(
        "--ledger", required=True, type=Path, metavar="FILE", help="file of `scmf-store ledger`, or a checkpoint"
    )
    seen.add_argument(
        "--out", type=Path, metavar="FILE", help="parquet file to make: cell_id, name and seen of each cell"
    )
    seen.add_argument("--json", action="store_true", help="the answer as one JSON object")


def ledger(options: argparse.Namespace) -> int:
    """Write the ledger of a store."""
    from scmf.data.progress import Progress
    from scmf.data.seen import ledger_of
    from scmf.data.store import CellStore

    store = CellStore.open(options.store)
    path = options.out or _beside(options.store)
    _check_outside(path, options.store)
    path.parent.mkdir(parents=True, exist_ok=True)
    with Progress("ledger", len(store)) as progress:
        made = ledger_of(store, scratch=path.parent, on_cells=progress.advance)
    made.save(path)
    sys.stdout.write(f"{path}: {len(store):,} cells, {describe(made)}\n")
    return 0


def _beside(store: Path) -> Path:
    """DIR.ledger, spelt as the user has spelt DIR; by its own name for a store that is called `.` or `..`."""
    named = store if store.name not in {"", ".."} else store.resolve()
    return named.with_name(f"{named.name}.ledger")


def seen(options: argparse.Namespace) -> int:
    """Say which cells of a store or a file a ledger has."""
    from scmf.data.ledger import Ledger
    from scmf.data.seen import split_seen

    known = Ledger.load(options.ledger)
    with _cells(options.cells, known, options.ledger) as store:
        split = split_seen(store, known)
        if options.out is not None:
            _write_table(options.out, store, split)
    if options.json:
        sys.stdout.write(json.dumps(_facts(split, known)) + "\n")
    else:
        sys.stdout.write("\n".join(_answer(split, known)) + "\n")
    return 0


def describe(ledger: Ledger) -> str:
    """What a ledger has and what it takes."""
    rate = f"1 in {1 / ledger.false_positive_rate:,.0f}" if len(ledger) else "0"
    return f"{len(ledger):,} of them different; {ledger.nbytes:,} bytes, rate of false positives {rate}"


def _check_outside(path: Path, store: Path) -> None:
    if path.absolute().is_relative_to(store.absolute()):
        raise StoreError(
            "a ledger inside the store's folder would not be part of the store",
            where=str(path),
            fix=f"name a file outside {store} with --out",
        )


@contextmanager
def _cells(path: Path, ledger: Ledger, name: Path) -> Iterator[CellStore]:
    """The store at a path; of a file, the store that convert makes of it, for as long as it is needed."""
    from scmf.data.store import CellStore

    if path.is_dir() and (path / "manifest.json").exists():
        yield CellStore.open(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        dest = Path(folder) / "store"
        _convert(path, dest, id_space=ledger.facts.id_space, name=name)
        yield CellStore.open(dest)


def _convert(path: Path, dest: Path, *, id_space: IdSpace, name: Path) -> None:
    from scmf.data.ingest.convert import convert
    from scmf.data.ingest.genes import GeneWishes
    from scmf.data.ingest.plan import ConvertOptions

    wishes = ConvertOptions(genes=GeneWishes(id_space=id_space))
    try:
        convert([path], dest, wishes, log=lambda _: None)
    except ScmfError as error:
        # The command that mends it names the temporary folder, which is gone by then.
        if not path.exists():
            raise
        fix = error.fix.rstrip(".").replace(shlex.quote(str(dest)), "DIR")
        if "--dest DIR" not in fix:
            fix += f", or another way to read it: scmf-store convert {shlex.quote(str(path))} --dest DIR"
        fix += f"; then scmf-store seen DIR --ledger {shlex.quote(str(name))}"
        raise type(error)(error.what, where=error.where, fix=fix) from error


def _answer(split: SeenSplit, ledger: Ledger) -> Iterator[str]:
    n = len(split.seen) + len(split.unseen)
    yield (
        f"{len(split.seen):,} of {n:,} cells ({split.share:.1%}) were seen; of these about {split.by_chance:.2g} "
        "are expected by chance"
    )
    yield f"ledger of a {ledger.facts.kind}: {len(ledger):,} cells of the store {ledger.facts.store}"
    if not split.same_genes:
        yield (
            "warning: the ledger's cells were counted over other genes; the same cell has the same counts there only "
            "if the genes that differ have none, so more may have been seen than are found"
        )


def _facts(split: SeenSplit, ledger: Ledger) -> dict[str, Any]:
    return {
        "cells": len(split.seen) + len(split.unseen),
        "seen": len(split.seen),
        "share": split.share,
        "expected_by_chance": split.by_chance,
        "same_genes": split.same_genes,
        "ledger": {**ledger.facts.model_dump(mode="json"), "false_positive_rate": ledger.false_positive_rate},
    }


def _write_table(path: Path, store: CellStore, split: SeenSplit) -> None:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    seen = np.zeros(len(store), np.bool_)
    seen[split.seen] = True
    names = store.obs([]).index.astype(str).to_list()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        pq.write_table(pa.table({"cell_id": np.arange(len(store)), "name": names, "seen": seen}), file)
