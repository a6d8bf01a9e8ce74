"""Kill conversions at random moments and compare what comes out. In: a number of kills. Out: a line, or what differs.

    python scripts/soak_convert.py --kills 100

A child converts; it is killed with SIGKILL after a random time, every fifth one just when the manifest is being put
in its place, half of them with two workers. The same command is then started again, which goes on where it was. At
every moment the destination has to be absent, or a whole store equal to the uninterrupted one, byte for byte.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from scmf.core.random import stream
from scmf.data.ingest.convert import convert
from scmf.data.ingest.making import Making
from scmf.data.ingest.plan import ConvertOptions

DEMO = Path(__file__).parents[1] / "data" / "mix3cl_celseq2_dropseq_counts.h5ad"
_PATIENCE_SECONDS = 600.0


def start(sources: list[Path], dest: Path, *, workers: int, cells_per_part: int) -> int:
    """Fork a child that converts; returns its process id. It exits with 0 when the store is whole."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        making = Making(workers=workers, medians=True)
        options = ConvertOptions(cells_per_part=cells_per_part, overwrite=True, memory=2 << 30, making=making)
        convert(sources, dest, options, log=lambda _: None)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def wait(child: int) -> int:
    """Wait for a child; its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def alive(child: int) -> bool:
    """Whether the child still runs; a child that has ended is not waited for."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def wait_for(path: Path, child: int) -> None:
    """Wait until a file is there, or the child has ended."""
    end = time.monotonic() + _PATIENCE_SECONDS
    while not path.exists() and alive(child) and time.monotonic() < end:
        time.sleep(0.0005)


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def soak(sources: list[Path], work: Path, *, kills: int, cells_per_part: int, seed: int) -> str:
    """Kill so often; returns a sentence about it.

    Raises:
        SystemExit: a store that differs from the uninterrupted one, or a restart that failed.
    """
    began = time.monotonic()
    if wait(start(sources, work / "whole", workers=1, cells_per_part=cells_per_part)):
        raise SystemExit("the uninterrupted conversion failed")
    seconds, whole = time.monotonic() - began, content(work / "whole")
    dest, partial, rng = work / "store", work / ".store.partial", stream(seed, "soak convert")
    hit = finished = went_on = 0
    for k in range(kills):
        went_on += any((partial / "journal").glob("part-*.json"))
        child = start(sources, dest, workers=1 + k % 2, cells_per_part=cells_per_part)
        if k % 5 == 4:
            wait_for(partial / "manifest.json", child)
            time.sleep(rng.uniform(0, 0.01))
        else:
            time.sleep(rng.uniform(0, 1.1 * seconds))
        os.kill(child, signal.SIGKILL)
        code = wait(child)
        hit += code == -signal.SIGKILL
        finished += code == 0
        if code not in {0, -signal.SIGKILL}:
            raise SystemExit(f"kill {k}: a restart failed with exit code {code}")
        if dest.exists() and content(dest) != whole:
            raise SystemExit(f"kill {k}: the store differs from the uninterrupted one")
    if wait(start(sources, dest, workers=1, cells_per_part=cells_per_part)):
        raise SystemExit("the last restart failed")
    if content(dest) != whole:
        raise SystemExit("the last store differs from the uninterrupted one")
    left = sorted(p.name for p in work.iterdir() if p.name not in {"whole", "store"})
    if left:
        raise SystemExit(f"left behind: {', '.join(left)}")
    return (
        f"{kills} kills: {hit} fell into a conversion, {went_on} restarts found parts, {finished} came too late; equal"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the soak."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--cells-per-part", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--source", type=Path, action="append", help="h5ad file (default: the repository's)")
    parser.add_argument("--work-dir", type=Path, help="disk to use (default: the system's temporary folder)")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=options.work_dir) as work:
        sources, parts = options.source or [DEMO], options.cells_per_part
        print(soak(sources, Path(work), kills=options.kills, cells_per_part=parts, seed=options.seed))
    return 0


if __name__ == "__main__":
    sys.exit(main())
