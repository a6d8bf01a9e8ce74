"""scmf beside other ways to read cells, in one call. In: sizes. Out: one table with ratios, and JSON.

    python scripts/bench_data.py peers --quick
    python scripts/bench_data.py peers --cells 200000 --work-dir /big/disk --json peers.json

Each peer runs in an environment of its own that is made here, with its version pinned; what it has in common with
scmf (torch, numpy, anndata, h5py) it takes from scmf's environment, so that no peer is slower for an older library,
and none brings another build of torch. annbatch asks for a newer Python than scmf may run on: it shares nothing, and is
measured where a Python 3.12 is found or named:

    python scripts/bench_data.py peers --quick --python312 /usr/bin/python3.12

All read the same synthetic cells from the same disk, one after the other.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
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
    alone: bool = False
    """Runs on Python 3.12 with newer libraries than scmf's: shares nothing."""

    @property
    def folder(self) -> str:
        """Name of its environment: one for each set of packages."""
        return self.name.partition(",")[0].replace(" ", "-") if self.alone else self.name.replace(" ", "-")


_ANNBATCH: Final = ("annbatch[zarrs]==0.3.1", "zarrs==0.2.3", "anndata==0.13.4", "zarr==3.4.2", "typing_extensions")

PEERS: Final = (
    PeerPackages("BioNeMo SCDL", ("bionemo-scdl==0.1.3",)),
    PeerPackages("scDataset", ("scdataset==0.3.0",)),
    PeerPackages("HF datasets", ("datasets==5.2.0",)),
    PeerPackages("HF, tokens made before", ("datasets==5.2.0", "transformers==5.23.0")),
    PeerPackages("AnnLoader"),
    PeerPackages("backed h5ad"),
    PeerPackages("annbatch", _ANNBATCH, alone=True),
    PeerPackages("annbatch, cell by cell", _ANNBATCH, alone=True),
)
WHOLE: Final = ("HF, tokens made before",)
"""Peers that make the masked batch with parts of their own."""
_QUIET: Final = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
"""One thread a peer, as one worker has: threads that wait by spinning would count as work."""

COLUMNS: Final = (
    ("convert", "convert"),
    ("random", "random, warm"),
    ("masked", "to masked batch"),
    ("usual", "the usual masks"),
    ("cold", "random, cold*"),
)


def environment(peer: PeerPackages, folder: Path, *, python312: str | None) -> Path:
    """Python of the peer's environment, which is made where it is missing.

    Args:
        peer: what to install.
        folder: of all environments.
        python312: a Python 3.12 for those that run on no older one, or None where there is none.

    Raises:
        CalledProcessError: a package cannot be installed.
        FileNotFoundError: the peer needs a Python 3.12.
    """
    root = folder / peer.folder
    python = root / "bin" / "python"
    if (root / "ready").exists():
        return python
    if peer.alone:
        if python312 is None:
            raise FileNotFoundError(f"{peer.packages[0]} needs Python 3.12, which is not on PATH; name it: --python312")
        subprocess.run([python312, "-m", "venv", "--clear", str(root)], check=True, capture_output=True, text=True)
        subprocess.run([*_pip(python), *peer.packages], check=True)
    else:
        venv.create(root, with_pip=True, clear=True)
        shared = Path(sysconfig.get_path("purelib"))
        site = root / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
        # A path file comes behind the environment's own packages, so a peer's pins win over what is shared.
        (site / "shared.pth").write_text(f"{shared}\n")
        if peer.packages:
            subprocess.run([*_pip(python), "-c", str(_HERE.parent / "constraints.txt"), *peer.packages], check=True)
    (root / "ready").touch()
    return python


def _pip(python: Path) -> list[str]:
    return [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]


def find_python312(named: str | None) -> str | None:
    """The Python 3.12 that was named, or that PATH has; a name on PATH may stand for none, as pyenv's do."""
    if named is not None or sys.version_info[:2] == (3, 12):
        return named or sys.executable
    found = shutil.which("python3.12")
    works = found and subprocess.run([found, "--version"], capture_output=True, check=False).returncode == 0
    return found if works else None


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
        except FileNotFoundError as error:
            print(f"{peer.name}: left out, {error}", flush=True)
        except subprocess.CalledProcessError as error:
            lines = (error.stderr or "see above").strip().splitlines()
            print(f"{peer.name}: left out, {lines[-1]}", flush=True)
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
    environments = options.environments or work / "environments"
    python = environment(peer, environments, python312=find_python312(options.python312))
    folder = work / peer.name.replace(" ", "-")
    folder.mkdir()
    command = [str(python), str(_HERE / "bench_peer.py"), peer.name, str(work / "csr.h5ad"), str(work / "medians.npy")]
    command += [str(folder), "--cells", str(cells), "--seconds", str(seconds)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=_QUIET)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _print_table(found: dict[str, dict[str, float]]) -> None:
    print(f"\n{'cells per CPU-second':<24}" + "".join(f"{title:>24}" for _, title in COLUMNS))
    own = found["scmf"] | {"usual": found["scmf"]["masked"]}
    for name, numbers in found.items():
        print(f"{name:<24}" + "".join(f"{_cell(numbers.get(key), own[key], name):>24}" for key, _ in COLUMNS))
    print("* cells a second by the clock, files dropped from memory first; scmf looks ahead, peers are as documented")
    for key, how in (("masked", "few draws"), ("usual", "the usual masks")):
        best = max(n.get(key, 0.0) for name, n in found.items() if name not in ("scmf", *WHOLE))
        what = f"the best peer that is given our NumPy tokens and {how}"
        print(f"random cells to masked batch: {own['masked'] / best:.1f}x {what}")
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
