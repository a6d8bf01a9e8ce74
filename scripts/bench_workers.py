"""How much faster several workers convert. In: sizes. Out: one line a number of workers, with the ratio to one.

    python scripts/bench_workers.py --cells 200000 --workers 1 2

Wall time of the whole command, with its start; the machine has to be quiet. The stores are compared byte for byte.
The file is read once before, so that the disk plays no part.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench_data import write_synthetic

from scmf.data.manifest import read_manifest

_CODE = "import sys; from scmf.data.cli import main; main(sys.argv[1:])"


def convert(source: Path, dest: Path, workers: int) -> float:
    """Seconds of one conversion in a process of its own."""
    command = [sys.executable, "-c", _CODE, "convert", str(source), "--dest", str(dest), "--workers", str(workers)]
    start = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=dict(os.environ, OMP_NUM_THREADS="1"))
    return time.monotonic() - start


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=200_000)
    parser.add_argument("--genes", type=int, default=36_000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--work-dir", type=Path, help="disk to use (default: the system's temporary folder)")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=options.work_dir) as folder:
        work = Path(folder)
        source = write_synthetic(work / "cells.h5ad", n_cells=options.cells, n_genes=options.genes).path
        convert(source, work / "warm-up", 1)
        shutil.rmtree(work / "warm-up")
        first, fingerprint = 0.0, ""
        for n in options.workers:
            seconds = convert(source, work / "store", n)
            found = read_manifest(work / "store").fingerprint
            first, fingerprint = first or seconds, fingerprint or found
            same = "same bytes" if found == fingerprint else "OTHER BYTES"
            rate = options.cells / seconds
            print(f"{n} workers: {seconds:6.2f} s  {rate:>9,.0f} cells/s  {first / seconds:.2f}x  {same}", flush=True)
            shutil.rmtree(work / "store")
    return 0


if __name__ == "__main__":
    sys.exit(main())
