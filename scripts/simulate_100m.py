"""A store of a hundred million cells without its terabyte: what opening, ordering and splitting it costs.

Every part is real (manifest, indptr, obs) but for the counts and gene numbers, which are holes: the file system keeps
their size and shard index and no bytes. Parts are hard links of one, so that a hundred of them take the disk of one.
What is measured does not read counts: opening, resident memory, the order's draws, lengths of drawn cells, a split.

    python scripts/simulate_100m.py --cells 1000000 10000000 100000000
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import xxhash

from scmf.data.manifest import MANIFEST, FileRecord, Manifest, PartRecord, describe_file, dump_manifest
from scmf.data.obs import write_tables
from scmf.data.shard import ShardWriter, array_document, padded_bytes, shard_index, write_document

CELLS_A_PART: Final = 1_000_000
VALUES_A_CELL: Final = 2_000
DONORS_A_PART: Final = 20
_DRAWS: Final = 200
_BATCH: Final = 64


def make_store(dest: Path, *, n_cells: int, cells_per_part: int = CELLS_A_PART) -> int:
    """Write a store of `n_cells` whose counts are holes.

    Args:
        dest: folder to make.
        n_cells: a multiple of `cells_per_part`.
        cells_per_part: cells of each part.

    Returns:
        Bytes that the store seems to have.
    """
    genes = tuple(f"ENSG{i:011d}" for i in range(36_000))
    first = _make_part(dest / "part-00000", cells_per_part, genes)
    parts = [first]
    for number in range(1, n_cells // cells_per_part):
        name = f"part-{number:05d}"
        shutil.copytree(dest / "part-00000", dest / name, copy_function=os.link)
        parts.append(first.replace(name=name))
    manifest = Manifest(
        n_cells=n_cells,
        n_values=n_cells * VALUES_A_CELL,
        max_count=0,
        id_space="ensembl",
        species="human",
        gene_ids=genes,
        obs_columns=("donor_id",),
        parts=tuple(parts),
        sources=(),
    )
    (dest / MANIFEST).write_bytes(dump_manifest(manifest))
    return sum(file.bytes for part in parts for file in part.files.values())


def _make_part(folder: Path, n_cells: int, genes: tuple[str, ...]) -> PartRecord:
    encoding = {"encoding-version": "0.1.0"}
    write_document(folder, _group({"encoding-type": "anndata", **encoding}))
    shape = [n_cells, len(genes)]
    write_document(folder / "X", _group({"encoding-type": "csr_matrix", **encoding, "shape": shape}))
    for name in ("data", "indices"):
        _write_hole(folder / "X" / name, n_cells * VALUES_A_CELL)
    indptr = ShardWriter(folder / "X" / "indptr", np.int64)
    indptr.append(np.arange(n_cells + 1, dtype=np.int64) * VALUES_A_CELL)
    indptr.close()
    donors = pd.Categorical.from_codes(
        np.arange(n_cells) * DONORS_A_PART // n_cells, categories=[f"d{i:02}" for i in range(DONORS_A_PART)]
    )
    obs = pd.DataFrame({"donor_id": donors}, index=pd.Index(np.arange(n_cells).astype(str), dtype=object))
    write_tables(folder, obs=obs, var=pd.DataFrame(index=pd.Index(genes, dtype=object)))
    holes = {f"X/{name}/c/0" for name in ("data", "indices")}
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        # Four gigabytes of nothing need no checksum: nothing here verifies them.
        nothing = FileRecord(bytes=path.stat().st_size, checksum=xxhash.xxh3_128(b"").hexdigest())
        files[name] = nothing if name in holes else describe_file(path)
    return PartRecord(
        name=folder.name,
        n_cells=n_cells,
        n_values=n_cells * VALUES_A_CELL,
        n_genes=len(genes),
        counts_dtype="uint16",
        indices_dtype="uint16",
        max_count=0,
        files=files,
    )


def _group(attributes: dict[str, Any]) -> dict[str, Any]:
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes}


def _write_hole(folder: Path, n: int) -> None:
    """An array of n uint16 of which only the shard index is on the disk."""
    write_document(folder, array_document(n, np.dtype("uint16")))
    (folder / "c").mkdir()
    with (folder / "c" / "0").open("wb") as file:
        file.truncate(padded_bytes(n, 2))
        file.seek(0, os.SEEK_END)
        file.write(shard_index(n, 2))


def measure(store: Path) -> dict[str, Any]:
    """What a process of its own needs for this store; see the keys.

    Args:
        store: as `make_store` wrote it.
    """
    output = subprocess.run(
        [sys.executable, __file__, "--measure", str(store)], check=True, capture_output=True, text=True
    ).stdout
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result


def measure_here(path: Path) -> dict[str, float]:
    """The measurements, in this process."""
    import scmf.data.obs  # noqa: F401  # the readers of tables, before the memory is looked at
    from scmf.data.drawing import BlockDrawing, Drawing, RandomDrawing
    from scmf.data.split import RunSet, split_cells
    from scmf.data.store import CellStore

    before = _resident()
    begin = time.perf_counter()
    store = CellStore.open(path)
    result: dict[str, float] = {"cells": len(store), "open_ms": 1e3 * (time.perf_counter() - begin)}
    result["open_mb"] = _resident() - before
    own = _resident("RssAnon")
    store.lengths([0])  # compiles
    splits = split_cells(store, by=None, validation=0.05, test=0.0, seed=1)
    everything = RunSet(np.zeros(1, np.int64), np.array([0, len(store)], np.int64))
    orders: dict[str, Drawing] = {
        "random": RandomDrawing(splits.train, seed=1),
        "blocks": BlockDrawing(everything, seed=1, block=64, window=4096),
    }
    for name, order in orders.items():
        places = np.random.default_rng(0).integers(0, len(order), (_DRAWS, _BATCH))
        order.take(places[0], epoch=0)
        begin_cpu = time.thread_time()
        for batch in places:
            order.take(batch, epoch=3)
        result[f"{name}_us_a_cell"] = 1e6 * (time.thread_time() - begin_cpu) / places.size
    batch = splits.train.take(np.random.default_rng(1).integers(0, len(splits.train), 10_000))
    begin_cpu = time.thread_time()
    store.lengths(batch)
    result["length_us_a_cell"] = 1e6 * (time.thread_time() - begin_cpu) / len(batch)
    result["own_mb"] = _resident("RssAnon") - own
    result["mapped_mb"] = _resident("RssFile")
    begin = time.perf_counter()
    split_cells(store, by="donor_id", validation=0.05, test=0.0, seed=1)
    result["group_split_s"] = time.perf_counter() - begin
    result["group_split_peak_mb"] = _resident("VmHWM") - before
    return result


def _resident(field: str = "VmRSS") -> float:
    """Memory of this process, MB: VmRSS, its peak VmHWM, RssAnon (its own), RssFile (pages of files)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024 / 1e6


def main(argv: Sequence[str] | None = None) -> int:
    """Make stores of each size and print one line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, nargs="+", default=[1_000_000, 10_000_000, 100_000_000])
    parser.add_argument("--cells-per-part", type=int, default=CELLS_A_PART)
    parser.add_argument("--work-dir", type=Path, help="disk to use; it must know sparse files and hard links")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.measure is not None:
        print(json.dumps(measure_here(options.measure)))
        return 0
    for n_cells in options.cells:
        with tempfile.TemporaryDirectory(dir=options.work_dir) as work:
            size = make_store(Path(work) / "store", n_cells=n_cells, cells_per_part=options.cells_per_part)
            measured = measure(Path(work) / "store")
            facts = "  ".join(f"{key} {value:,.2f}" for key, value in measured.items() if key != "cells")
            print(f"{n_cells:>13,} cells, {size / 1e9:,.1f} GB on paper:  {facts}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
