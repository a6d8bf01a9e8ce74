"""Whether `verify` finds every broken byte. In: a store. Out: flips made and flips found; exit code 1 if any was not.

    python scripts/flip_bytes.py data/pbmc --flips 1000

Works on a copy. Every file is hit at least once, files beyond that by their size; a flip changes one byte to another.
Verify has to name the file, and to find nothing once the byte is back.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from scmf.core.random import stream
from scmf.data.verify import verify_store


def flip(path: Path, offset: int, change: int) -> None:
    """Exclusive-or one byte of a file; the same call takes it back."""
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ change]))


def unnoticed(store: Path, *, flips: int, seed: int = 0) -> list[str]:
    """Flip single bytes of a store that may be damaged; what verify did not find, or found wrongly."""
    rng = stream(seed, "flip bytes")
    files = sorted(p for p in store.rglob("*") if p.is_file())
    sizes = np.array([p.stat().st_size for p in files], np.float64)
    chosen = [*range(len(files)), *rng.choice(len(files), max(0, flips - len(files)), p=sizes / sizes.sum())]
    missed = []
    for number in chosen[:flips]:
        path, name = files[number], files[number].relative_to(store).as_posix()
        offset, change = int(rng.integers(sizes[number])), int(rng.integers(1, 256))
        flip(path, offset, change)
        found = list(verify_store(store))
        flip(path, offset, change)
        if not any(line.startswith(name) for line in found):
            missed.append(f"{name}, byte {offset:,}, changed by {change:#04x}: verify said {found}")
    missed += [f"with every byte back: {line}" for line in verify_store(store)]
    return missed


def main(argv: Sequence[str] | None = None) -> int:
    """Flip bytes in a copy of a store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--flips", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        store = shutil.copytree(options.store, Path(folder) / "store")
        n_files = sum(1 for p in store.rglob("*") if p.is_file())
        missed = unnoticed(store, flips=options.flips, seed=options.seed)
    print(f"{options.flips} flips in {n_files} files: verify found {options.flips - len(missed)}")
    print("".join(f"{line}\n" for line in missed), end="")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
