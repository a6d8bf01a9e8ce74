"""scmf beside other ways to read cells, in one call. In: sizes. Out: one table with ratios, and JSON.

    python scripts/bench_data.py peers --quick
    python scripts/bench_data.py peers --cells 200000 --work-dir /big/disk --json peers.json

Each peer runs in an environment of its own that is made here, with its version pinned; what it has in common with
scmf (torch, numpy, anndata, h5py) it takes from scmf's environment, so that no peer is slower for an older library,
and none brings another build of torch. All read the same synthetic cells from the same disk, one after the other.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import sysconfig
import time
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench_data import write_synthetic
from bench_load import measure_own

_HERE: Final = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class PeerPackages:
    """What to install for a peer."""

    name: str
    packages: tuple[str, ...] = ()
    """Pinned; what they need is pinned by constraints.txt or taken as it comes."""
    python: tuple[int, int] = (3, 11)
    """The oldest Python that they run on."""


PEERS: Final = (
    PeerPackages("BioNeMo SCDL", ("bionemo-scdl==0.1.3",)),
    PeerPackages("scDataset", ("scdataset==0.3.0",)),
    PeerPackages("HF datasets", ("datasets==5.2.0",)),
    PeerPackages("HF, tokens made before", ("datasets==5.2.0", "transformers==5.23.0")),
    PeerPackages("AnnLoader"),
    PeerPackages("backed h5ad"),
)
WHOLE: Final = ("HF, tokens made before",)
"""Peers that make the masked batch with parts of their own."""
LEFT_OUT: Final = {
    "annbatch": "0.3.1 asks for Python 3.12 and newer zarr and anndata than scmf's, which it would share"
}

_QUIET: Final = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
"""One thread a peer, as one worker has: threads that wait by spinning would count as work."""

COLUMNS: Final = (
    ("convert", "convert"),
    ("random", "random, warm"),
    ("masked", "to masked batch"),
    ("cold", "random, cold*"),
)


def environment(peer: PeerPackages, folder: Path) -> Path:
    """Python of the peer's environment, which is made where it is missing.

    Raises:
        CalledProcessError: a package cannot be installed.
    """
    root = folder / peer.name.replace(" ", "-")
    python = root / "bin" / "python"
    if not (root / "ready").exists():
        venv.create(root, with_pip=True, clear=True)
        shared = Path(sysconfig.get_path("purelib"))
        site = root / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
        # A path file comes behind the environment's own packages, so a peer's pins win over what is shared.
        (site / "shared.pth").write_text(f"{shared}\n")
        if peer.packages:
            constraints = _HERE.parent / "constraints.txt"
            command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*command, "-c", str(constraints), *peer.packages], check=True)
        (root / "ready").touch()
    return python


def bench_peers(options: argparse.Namespace, work: Path) -> None:
    """Measure scmf and every peer, and print the table."""
    cells = 4_000 if options.quick else options.cells
    seconds = 2.0 if options.quick else 10.0
    source = write_synthetic(work / "csr.h5ad", n_cells=cells, n_genes=options.genes)
    print(f"{cells:,} cells x {options.genes:,} genes, {source.n_values / cells:,.0f} values a cell, {_machine()}")
    found: dict[str, dict[str, float]] = {"scmf": _own(source.path, work, cells=cells, seconds=seconds)}
    for peer in PEERS:
        try:
            found[peer.name] = _measure(peer, options, work, cells=cells, seconds=seconds)
        except subprocess.CalledProcessError as error:
            lines = (error.stderr or "see above").strip().splitlines()
            print(f"{peer.name}: left out, {lines[-1]}", flush=True)
    for name, reason in LEFT_OUT.items():
        print(f"{name}: left out, {reason}")
    _print_table(found)
    if options.json is not None:
        options.json.write_text(json.dumps({"cells": cells, "genes": options.genes, "found": found}, indent=1) + "\n")


def _own(source: Path, work: Path, *, cells: int, seconds: float) -> dict[str, float]:
    command = [sys.executable, "-c", _CONVERT, str(source), str(work / "warm-up"), str(work / "store"), str(cells)]
    own: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return own | measure_own(work / "store", work, seconds=seconds)


# In a process of its own, for its peak of memory; the second time, because the first one loads compiled code, as
# importing a peer does before its clock begins.
_CONVERT: Final = """
import json, sys, time
from pathlib import Path
from scmf.data.ingest.convert import convert
from scmf.data.ingest.plan import ConvertOptions
source, first, second, cells = sys.argv[1:]
convert([Path(source)], Path(first), ConvertOptions(), log=lambda _: None)
begin = time.process_time()
convert([Path(source)], Path(second), ConvertOptions(), log=lambda _: None)
used = time.process_time() - begin
kib = next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmHWM"))
print(json.dumps({"convert": int(cells) / used, "convert_rss_mb": kib * 1024 / 1e6}))
"""


def _measure(
    peer: PeerPackages, options: argparse.Namespace, work: Path, *, cells: int, seconds: float
) -> dict[str, float]:
    python = environment(peer, options.environments or work / "environments")
    folder = work / peer.name.replace(" ", "-")
    folder.mkdir()
    command = [str(python), str(_HERE / "bench_peer.py"), peer.name, str(work / "csr.h5ad"), str(work / "medians.npy")]
    command += [str(folder), "--cells", str(cells), "--seconds", str(seconds)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=_QUIET)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _print_table(found: dict[str, dict[str, float]]) -> None:
    print(f"\n{'cells per CPU-second':<24}" + "".join(f"{title:>26}" for _, title in COLUMNS))
    own = found["scmf"]
    for name, numbers in found.items():
        print(f"{name:<24}" + "".join(f"{_cell(numbers.get(key), own[key], name):>26}" for key, _ in COLUMNS))
    print("* cells a second by the clock, files dropped from memory first; scmf looks ahead, peers are as documented")
    given = max(numbers["masked"] for name, numbers in found.items() if name not in ("scmf", *WHOLE))
    print(f"random cells to masked batch: {own['masked'] / given:.1f}x the best peer that is given our NumPy tokens")
    for name in WHOLE:
        if name in found:
            print(f"random cells to masked batch: {own['masked'] / found[name]['masked']:.1f}x {name}, its own way")
    print(f"converting took {own['convert_rss_mb']:,.0f} MB; two workers feed {own['two_workers']:.2f}x one")


def _cell(value: float | None, own: float, name: str) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" + ("" if name == "scmf" else f" ({own / value:,.1f}x)")


def _machine() -> str:
    return f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {time.strftime('%Y-%m-%d')}"
