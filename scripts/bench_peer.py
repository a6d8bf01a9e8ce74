"""One peer, measured in its own environment. In: its name, an h5ad file, a folder. Out: one JSON object.

Run by bench_peers.py with the Python of the peer's environment; imports nothing of scmf. Every peer does what its
documentation shows, in one process: random batches of 64 cells as it hands them out, and the same cells as masked
rank tokens, for which all peers but one share the NumPy code of peer_tokens.py. CPU time is the process's, all threads
together.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import resource
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from peer_tokens import inverse_of
from peer_ways import BATCH, PEERS, Peer


def measure(peer: Peer, n_cells: int, *, seconds: float) -> dict[str, float]:
    """Everything that is measured of one peer, in cells a CPU-second; `cold` in cells a second by the clock."""
    found: dict[str, float] = {}
    for package in peer.packages:
        importlib.import_module(package)
    begin, clock = time.process_time(), time.monotonic()
    if peer.convert():
        found["convert"] = n_cells / (time.process_time() - begin)
        found["convert_wall"] = n_cells / (time.monotonic() - clock)
        found["convert_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rng = np.random.default_rng(0)
    cells = rng.integers(0, n_cells, (200_000, BATCH))
    once = rng.permutation(n_cells)[: n_cells // BATCH * BATCH].reshape(-1, BATCH)
    forget(peer.files())
    found["cold"] = _rate(peer.batches(once), lambda batch: batch, seconds, clock=time.monotonic)
    for _ in zip(once, peer.batches(once), strict=False):
        pass  # everything is in memory now
    found["random"] = _rate(peer.batches(cells), lambda batch: batch, seconds)
    inverse = inverse_of(peer.medians)
    found["masked"] = _rate(peer.batches(cells), lambda batch: peer.masked(batch, inverse, rng), seconds)
    if not peer.whole and importlib.util.find_spec("torch") is not None:
        found["usual"] = _rate(peer.batches(cells), lambda batch: peer.usual(batch, inverse), seconds)
    return found


def _rate(
    batches: Iterator[Any], use: Callable[[Any], Any], seconds: float, *, clock: Callable[[], float] = time.process_time
) -> float:
    """Cells per unit of the clock, after one batch to warm up."""
    use(next(batches))
    n, begin, end = 0, clock(), time.monotonic() + seconds
    for batch in batches:
        use(batch)
        n += BATCH
        if time.monotonic() > end:
            break
    return n / max(clock() - begin, 1e-9)


def forget(files: list[Path]) -> None:
    """Ask the system to drop files from memory."""
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> int:
    """Measure one peer and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("source", type=Path)
    parser.add_argument("medians", type=Path, help="npy file, one number a gene")
    parser.add_argument("work", type=Path)
    parser.add_argument("--cells", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=5)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    peer = PEERS[options.peer](options.source, options.work, np.load(options.medians))
    found = measure(peer, options.cells, seconds=options.seconds)
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
