"""Speed of the data path on this machine, on synthetic cells. In: sizes. Out: one table a benchmark.

    python scripts/bench_data.py convert --cells 20000
    python scripts/bench_data.py load --cells 20000
    python scripts/bench_data.py peers --quick
    python scripts/bench_data.py convert --cells 200000 --genes 36000 --work-dir /big/disk

Rates are cells per CPU-second (user and system time of the process that does the work), which a busy machine
disturbs less than the clock; take ratios between lines of one run rather than numbers of different runs.

The synthetic cells have what matters for speed: 2,050 expressed genes a cell on average, log-normally spread,
with a power-law of gene frequencies and mostly small counts.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numba
import numpy as np
import numpy.typing as npt

from scmf.core.random import stream

Array = npt.NDArray[Any]

_CELL_TYPES: Final = 24
_BLOCK: Final = 10_000
_MEAN_DEPTH: Final = np.log(5200)  # molecules of a cell: log-normal, 500 to 80,000


@dataclass(frozen=True, slots=True)
class Synthetic:
    """A synthetic h5ad file."""

    path: Path
    n_cells: int
    n_values: int


@numba.njit(cache=True)
def draw_cells(depths: Array, types: Array, cumulative: Array, uniforms: Array, out: tuple[Array, Array, Array]) -> int:
    """Draw molecules of each cell from its type's gene frequencies; returns the values written.

    Args:
        depths: (cells,) molecules of each cell.
        types: (cells,) type of each cell.
        cumulative: (types, genes) cumulative gene frequencies.
        uniforms: (molecules,) numbers in [0, 1).
        out: indptr (cells + 1,), indices and counts (molecules,).
    """
    indptr, indices, counts = out
    n_genes = cumulative.shape[1]
    tally = np.zeros(n_genes, np.int32)
    used = write = 0
    for cell in range(depths.shape[0]):
        row = cumulative[types[cell]]
        for k in range(used, used + depths[cell]):
            tally[min(np.searchsorted(row, uniforms[k], side="right"), n_genes - 1)] += 1
        used += depths[cell]
        for gene in range(n_genes):
            if tally[gene] > 0:
                indices[write] = gene
                counts[write] = tally[gene]
                tally[gene] = 0
                write += 1
        indptr[cell + 1] = write
    return write


def write_synthetic(path: Path, *, n_cells: int, n_genes: int) -> Synthetic:
    """Write an uncompressed CSR h5ad as anndata does, a block of cells at a time."""
    import anndata
    import h5py
    import pandas as pd
    from anndata.io import write_elem
    from scipy.sparse import csr_matrix

    rng = stream(0, "bench genes")
    cumulative = _frequencies(rng, n_genes)
    genes = pd.Index([f"ENSG{i:011d}" for i in range(n_genes)])
    types = stream(0, "bench types").integers(0, _CELL_TYPES, n_cells)
    first = _draw(cumulative, types[:_BLOCK], block=0)
    columns = {"cell_type": [f"type{t}" for t in types], "donor": [f"d{t % 5}" for t in types]}
    obs = pd.DataFrame(columns, index=[f"cell{i}" for i in range(n_cells)], dtype="category")
    table = anndata.AnnData(csr_matrix(first, shape=(min(_BLOCK, n_cells), n_genes)), var=pd.DataFrame(index=genes))
    table.write_h5ad(path)
    with h5py.File(path, "r+") as file:
        sparse = anndata.io.sparse_dataset(file["X"])
        for block, start in enumerate(range(_BLOCK, n_cells, _BLOCK), start=1):
            arrays = _draw(cumulative, types[start : start + _BLOCK], block=block)
            sparse.append(csr_matrix(arrays, shape=(len(types[start : start + _BLOCK]), n_genes)))
        del file["obs"]
        write_elem(file, "obs", obs)
        return Synthetic(path, n_cells, int(file["X/data"].shape[0]))


def _frequencies(rng: np.random.Generator, n_genes: int) -> Array:
    base = (np.arange(n_genes) + 30.0) ** -1.25
    weights = rng.permutation(base) * np.exp(rng.normal(0, 1.2, (_CELL_TYPES, n_genes)))
    return np.cumsum(weights / weights.sum(axis=1, keepdims=True), axis=1)


def _draw(cumulative: Array, types: Array, *, block: int) -> tuple[Array, Array, Array]:
    rng = stream(0, "bench cells", block)
    depths = np.clip(rng.lognormal(_MEAN_DEPTH, 0.75, len(types)), 500, 80_000).astype(np.int64)
    total = int(depths.sum())
    out = np.zeros(len(types) + 1, np.int64), np.empty(total, np.int32), np.empty(total, np.float32)
    n = draw_cells(depths, types, cumulative, rng.random(total), out)
    return out[2][:n], out[1][:n], out[0]


def bench_convert(options: argparse.Namespace, work: Path) -> None:
    """Convert the same cells from each layout, each in a process of its own, and print a table."""
    source = write_synthetic(work / "csr.h5ad", n_cells=options.cells, n_genes=options.genes)
    print(f"{source.n_cells:,} cells x {options.genes:,} genes, {source.n_values / source.n_cells:,.0f} values a cell")
    print(f"{'convert':<14}{'cells/CPU-s':>12}{'cells/s':>10}{'peak RSS MB':>13}{'bytes/cell':>12}")
    for layout in options.layouts:
        path = _as_layout(source.path, work / f"{layout}.h5ad", layout)
        _convert_once(path, work / "warm-up", cells=0)  # compiles the kernels, and brings the file into memory
        measured = _convert_once(path, work / f"store-{layout}", cells=source.n_cells)
        line = "{cells_per_cpu_s:>12,.0f}{cells_per_s:>10,.0f}{rss:>13,.0f}{bytes:>12,.0f}"
        print(f"{layout:<14}" + line.format(**measured))


def bench_load(options: argparse.Namespace, work: Path) -> None:
    """Convert synthetic cells once, then load them at random as masked batches, and print a table."""
    from bench_load import measure_load

    from scmf.data.cli import store_command

    source = write_synthetic(work / "csr.h5ad", n_cells=options.cells, n_genes=options.genes)
    store_command(["convert", str(source.path), "--dest", str(work / "store")])
    measure_load(work / "store", work)


def bench_peers(options: argparse.Namespace, work: Path) -> None:
    """Scmf beside other ways to read cells, each in an environment of its own, and print a table."""
    from bench_peers import bench_peers as run

    run(options, work)


def _as_layout(source: Path, path: Path, layout: str) -> Path:
    """The same cells in another layout, made in memory."""
    import anndata

    if layout == "csr":
        return source
    table = anndata.read_h5ad(source)
    if layout == "csc":
        table.X = table.X.tocsc()
    elif layout == "dense":
        table.X = table.X.toarray()
    table.write_h5ad(path, compression="gzip" if layout == "csr-gzip" else None)
    return path


def _convert_once(source: Path, dest: Path, *, cells: int) -> dict[str, float]:
    """Run scmf-store in a process of its own and read what it used."""
    code = "import sys; from scmf.data.cli import main; main(sys.argv[1:])"
    before, clock = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    command = [sys.executable, "-c", _MEASURED.format(code=code), "convert", str(source), "--dest", str(dest)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds, after = time.monotonic() - clock, resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    size = sum(p.stat().st_size for p in dest.rglob("*") if p.is_file())
    shutil.rmtree(dest)
    peak = json.loads(output.splitlines()[-1])["rss"]
    return {"cells_per_cpu_s": cells / used, "cells_per_s": cells / seconds, "rss": peak, "bytes": size / max(1, cells)}


# The peak is read inside the process, from VmHWM: ru_maxrss of a child begins with what its parent had.
_MEASURED: Final = """
import atexit, json
def report():
    lines = open("/proc/self/status").read().splitlines()
    kib = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    print(json.dumps({{"rss": kib * 1024 / 1e6}}))
atexit.register(report)
{code}
"""

BENCHMARKS: Final[dict[str, Callable[[argparse.Namespace, Path], None]]] = {
    "convert": bench_convert,
    "load": bench_load,
    "peers": bench_peers,
}
"""Name: function of the options and an empty folder."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one benchmark, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", choices=[*BENCHMARKS, "all"], nargs="?", default="all")
    parser.add_argument("--cells", type=int, default=20_000)
    parser.add_argument("--genes", type=int, default=36_000)
    parser.add_argument(
        "--layouts",
        nargs="+",
        default=["csr", "csr-gzip", "csc"],
        choices=["csr", "csr-gzip", "csc", "dense"],
        help="dense takes 4 bytes x cells x genes of disk",
    )
    parser.add_argument("--work-dir", type=Path, help="disk to use (default: the system's temporary folder)")
    parser.add_argument("--quick", action="store_true", help="peers: 4,000 cells and two seconds a number")
    parser.add_argument("--json", type=Path, help="peers: file for the numbers")
    parser.add_argument("--environments", type=Path, help="peers: keep their environments in this folder")
    parser.add_argument("--python312", help="peers: a Python 3.12, for annbatch (default: python3.12 of PATH)")
    options = parser.parse_args(argv)
    for name in BENCHMARKS if options.benchmark == "all" else [options.benchmark]:
        with tempfile.TemporaryDirectory(dir=options.work_dir) as work:
            BENCHMARKS[name](options, Path(work))
    return 0


if __name__ == "__main__":
    sys.exit(main())
