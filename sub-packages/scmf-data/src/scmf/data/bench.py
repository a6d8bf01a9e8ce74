"""How fast this disk and these cores feed cells. In: a store. Out: cells a second, by pattern and temperature."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from scmf.core.random import stream
from scmf.data.part import Part
from scmf.data.store import CellStore

BATCH: Final = 64
_BLOCK: Final = 16
_SECONDS: Final = 2.0
"""Time given to each pattern."""

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Rate:
    """One pattern of access."""

    pattern: str
    cells_per_s: float
    """By the clock, with one thread."""
    cells_per_cpu_s: float
    bytes_per_s: float
    cells: int
    """Cells fetched while measuring."""


@dataclass(frozen=True, slots=True)
class BenchReport:
    """What was measured, and what it does not say."""

    n_cells: int
    values_per_cell: float
    rates: tuple[Rate, ...]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def bench_store(store: CellStore, *, seconds: float = _SECONDS) -> BenchReport:
    """Fetch batches of 64 cells for a few seconds in each of three patterns.

    The cold pattern comes first, after asking the kernel to forget the store's pages; the others are warm: each
    set of cells has been read once before the clock starts.
    """
    rates, notes = [], ["one thread; tokens, masks and packs come on top of this"]
    forgotten = forget(store)
    if forgotten < 0.9:
        notes.append(
            f"the kernel kept {1 - forgotten:.0%} of the store's pages in memory, so the cold figure is too high; "
            "for a true one, drop the caches or use a store larger than memory"
        )
    rates.append(_measure("random cells, cold", store, _random_batches(store, "bench cold"), seconds))
    warm = _random_batches(store, "bench warm")
    sample = [warm(k) for k in range(min(256, 1 + len(store) // BATCH))]
    for ids in sample:
        store.fetch(ids)
    rates.append(_measure("random cells, warm", store, lambda k: sample[k % len(sample)], seconds))
    blocks = [_blocks(store, ids) for ids in sample]
    for ids in blocks:
        store.fetch(ids)
    name = f"blocks of {_BLOCK} cells, warm"
    rates.append(_measure(name, store, lambda k: blocks[k % len(blocks)], seconds))
    values = store.manifest.n_values / len(store)
    return BenchReport(len(store), values, tuple(rates), tuple(notes))


def _measure(pattern: str, store: CellStore, batch: Callable[[int], Ids], seconds: float) -> Rate:
    cells = values = k = 0
    clock, cpu = time.monotonic(), time.thread_time()
    while (elapsed := time.monotonic() - clock) < seconds:
        fetched = store.fetch(batch(k))
        cells += len(fetched.indptr) - 1
        values += len(fetched.indices)
        k += 1
    used = max(time.thread_time() - cpu, 1e-9)
    width = store.parts[0].data.itemsize + store.parts[0].indices.itemsize
    return Rate(pattern, cells / elapsed, cells / used, values * width / elapsed, cells)


def _random_batches(store: CellStore, purpose: str) -> Callable[[int], Ids]:
    return lambda k: stream(0, purpose, k).integers(0, len(store), BATCH)


def _blocks(store: CellStore, ids: Ids) -> Ids:
    """As many cells as `ids`, in runs of neighbours that start at some of them."""
    starts = np.minimum(ids[: BATCH // _BLOCK], max(0, len(store) - _BLOCK))
    run = np.arange(min(_BLOCK, len(store)))
    return np.ravel(starts[:, None] + run)


def forget(store: CellStore) -> float:
    """Ask the kernel to drop the store's pages from memory; returns the share of them that is gone. Needs no rights."""
    gone = total = 0
    for part in store.parts:
        for name in ("data", "indices", "indptr"):
            part.let_go(name)
            resident, pages = _drop(part, name)
            gone += pages - resident
            total += pages
    return gone / max(1, total)


def resident_bytes(store: CellStore) -> int:
    """Bytes of the store's counts and genes that are in memory now, by whoever read them."""
    total = 0
    for part in store.parts:
        for name in ("data", "indices"):
            with (part.path / "X" / name / "c" / "0").open("rb") as file:
                total += _resident_pages(file.fileno())[0] * mmap.PAGESIZE
    return total


def _drop(part: Part, name: str) -> tuple[int, int]:
    path = part.path / "X" / name / "c" / "0"
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return _resident_pages(file.fileno())


def _resident_pages(handle: int) -> tuple[int, int]:
    """Pages of a file that are in memory, and all its pages."""
    import ctypes

    size = os.fstat(handle).st_size
    pages = -(-size // mmap.PAGESIZE)
    with mmap.mmap(handle, size, access=mmap.ACCESS_COPY) as mapping:
        flags = (ctypes.c_ubyte * pages)()
        start = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
        status = ctypes.CDLL(None).mincore(ctypes.c_void_p(start), ctypes.c_size_t(size), flags)
        in_memory = int((np.ctypeslib.as_array(flags) & 1).sum())
        return (in_memory, pages) if status == 0 else (pages, pages)
