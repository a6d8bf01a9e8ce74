"""One target of fuzz_readers.py under atheris, which looks for bytes that reach new lines. Ends with atheris's code.

    python scripts/fuzz_atheris.py "ledger, sealed again" --seconds 60 --keep fuzz-findings

Needs atheris (`pip install atheris`); ci/fuzz installs it.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import sys
import tempfile
from pathlib import Path
from types import FunctionType
from typing import Final

import atheris
from fuzz_readers import targets

# Modules without compiled kernels: numba cannot compile what atheris makes of a function.
READERS: Final = ("scmf.data.manifest", "scmf.data.ledger", "scmf.data.shard", "scmf.data.store", "scmf.data.obs")


def instrument(module: str) -> None:
    """Have atheris see which lines of a module's functions and methods are reached."""
    things = vars(importlib.import_module(module)).values()
    classes = [vars(thing).values() for thing in things if isinstance(thing, type) and thing.__module__ == module]
    for thing in itertools.chain(things, *classes):
        function = getattr(thing, "__func__", thing)  # class methods
        if isinstance(function, FunctionType) and function.__module__ == module:
            atheris.instrument_func(function)


def main() -> None:
    """Fuzz until the time is over or something goes wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-findings"))
    options = parser.parse_args()
    options.keep.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp())
    target = targets(folder)[options.target]
    (folder / "corpus").mkdir()
    (folder / "corpus" / "sound").write_bytes(target.sound)
    for module in READERS:
        instrument(module)
    limits = [f"-max_total_time={options.seconds}", "-timeout=120", f"-max_len={2 * len(target.sound)}"]
    command = [sys.argv[0], str(folder / "corpus"), *limits, f"-artifact_prefix={options.keep}/"]
    atheris.Setup(command, target.feed)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
