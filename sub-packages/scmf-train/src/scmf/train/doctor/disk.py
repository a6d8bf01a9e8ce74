"""A store's disk. In: the folder of a store. Out: a check, from a bounded reading of its largest files."""

from __future__ import annotations

import os
import time
from pathlib import Path

from scmf.core.errors import StoreError
from scmf.data.manifest import expect_store
from scmf.data.reading import file_system_of
from scmf.train.doctor.check import Check, fault, ok, warning

_SECONDS = 2.0
_MOST = 1 << 30
_BLOCK = 8 << 20
_SLOW = 100e6
"""Bytes a second: 10,000 cells of 2,500 values."""


def check_store(store: Path) -> Check:
    """Whether it is there, and how fast its files are read with nothing of them in memory."""
    try:
        expect_store(store)
    except StoreError as error:
        return fault("store", error.what, where=error.where, fix=error.fix)
    try:
        n_bytes, seconds, dropped = read_files(store)
    except OSError as error:
        return fault(
            "store",
            f"cannot be read: {error.strerror}",
            where=str(error.filename or store),
            fix=f"check the permissions and the disk; what is damaged: scmf-store verify {store}",
        )
    rate = n_bytes / max(seconds, 1e-9)
    found = f"{n_bytes / 1e6:,.0f} MB read in {seconds:.1f} s: {rate / 1e6:,.0f} MB/s, {file_system_of(store)}"
    if not dropped:
        found += ", partly from memory"
    if rate >= _SLOW:
        return ok("store", found)
    return warning(
        "store",
        f"{found}; training takes about 10 kB a cell",
        where=str(store),
        fix="copy the store to a local disk, or set data.order={kind: blocks} and data.read=pread; cells a second: "
        f"scmf-store bench {store} --cold",
    )


def read_files(store: Path) -> tuple[int, float, bool]:
    """Read the largest files, no longer than some seconds.

    Returns:
        Bytes, seconds, and whether the system could be asked to forget them before.
    """
    files = sorted((p for p in store.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size, reverse=True)
    n_bytes, begun, dropped = 0, time.monotonic(), hasattr(os, "posix_fadvise")
    for path in files:
        with path.open("rb", buffering=0) as file:
            if dropped:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while block := file.read(_BLOCK):
                n_bytes += len(block)
                if n_bytes >= _MOST or time.monotonic() - begun > _SECONDS:
                    return n_bytes, time.monotonic() - begun, dropped
    return n_bytes, time.monotonic() - begun, dropped
