"""How fast cells come from the disk. In: a store. Out: cells and bytes a second with nothing in memory.

Before each pattern the system is asked to drop the store's pages; what it keeps is told. The disk's own rate, one
long read of the same files, is measured first and last, because shared disks are not the same from second to second.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from scmf.data.bench import forget
from scmf.data.drawing import BlockDrawing
from scmf.data.order import permute
from scmf.data.readahead import ask_for_cells, expect_random_access
from scmf.data.split import RunSet
from scmf.data.store import CellStore

BATCH: Final = 64
BLOCK: Final = 64
WINDOW: Final = 4096
_THREADS: Final = 2
_AHEAD: Final = 8
"""Batches on their way at a time: `prefetch_steps` of a run with its workers."""
_PIECE: Final = 512
"""Cells of a window that are fetched by one call."""
_CHUNK: Final = 8 << 20

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ColdRate:
    """One way of reading, from the disk."""

    pattern: str
    read: str
    """mmap or pread; `disk` for the long read."""
    cells_per_s: float
    """0 for the long read."""
    bytes_per_s: float
    """Of counts and genes asked for; what the disk fetches beside them is not counted."""
    cells: int
    kept: float
    """Share of the store's pages that the system did not drop before."""


@dataclass(frozen=True, slots=True)
class ColdReport:
    """Rates with an empty memory, and the disk's own."""

    n_cells: int
    values_per_cell: float
    rates: tuple[ColdRate, ...]
    disk_bytes_per_s: float
    """Mean of the long reads before and after."""
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def bench_cold(store: CellStore, *, seconds: float = 3.0) -> ColdReport:
    """Read random cells and windows of blocks, each by memory map and by requests.

    Args:
        store: best a hundred times larger than what is read in the time given.
        seconds: given to each pattern.
    """
    long_reads = [_long_read(store, seconds)]
    rates: list[ColdRate] = []
    for mode in ("mmap", "pread"):
        opened = CellStore.open(store.path, read=mode)
        expect_random_access(opened)
        rates.append(_measure("random cells", opened, _random_batches, seconds))
        rates.append(_measure(f"windows of {WINDOW // BLOCK} blocks of {BLOCK}", opened, _windows, seconds))
    long_reads.append(_long_read(store, seconds))
    disk = sum(rate.bytes_per_s for rate in long_reads) / len(long_reads)
    values = store.manifest.n_values / len(store)
    return ColdReport(len(store), values, (*long_reads, *rates), disk, tuple(_notes(rates, store)))


def _notes(rates: list[ColdRate], store: CellStore) -> Iterator[str]:
    yield f"{_THREADS} threads, {_AHEAD} batches on their way; tokens, masks and packs come on top of this"
    kept = max(rate.kept for rate in rates)
    if kept > 0.1:
        yield f"the system kept up to {kept:.0%} of the store in memory: those figures are too high"
    if max(rate.cells for rate in rates) >= len(store):
        yield "the store was read to its end before the time was over: a larger one says more"


def _measure(
    pattern: str, store: CellStore, batches_of: Callable[[CellStore], Iterator[Ids]], seconds: float
) -> ColdRate:
    store.fetch(next(batches_of(store)))  # compiles, and maps
    kept = 1 - forget(store)
    cells = n_bytes = 0
    begin = time.monotonic()
    for ids, size in _ahead(store, batches_of(store), until=begin + seconds):
        cells += len(ids)
        n_bytes += size
    elapsed = time.monotonic() - begin
    return ColdRate(pattern, store.reading.mode, cells / elapsed, n_bytes / elapsed, cells, kept)


def _ahead(store: CellStore, batches: Iterator[Ids], *, until: float) -> Iterator[tuple[Ids, int]]:
    """Batches fetched by threads, in order, a few on their way; each with its bytes in the store."""

    def fetch(ids: Ids) -> tuple[Ids, int]:
        ask_for_cells(store, ids)
        found = store.fetch(ids)
        return ids, len(found.indices) * _bytes_a_value(store)

    with ThreadPoolExecutor(_THREADS) as pool:
        waiting = [pool.submit(fetch, ids) for _, ids in zip(range(_AHEAD), batches, strict=False)]
        while waiting:
            yield waiting.pop(0).result()
            ids = next(batches, None) if time.monotonic() < until else None
            if ids is not None:
                waiting.append(pool.submit(fetch, ids))


def _bytes_a_value(store: CellStore) -> int:
    record = store.parts[0].record
    return np.dtype(record.counts_dtype).itemsize + np.dtype(record.indices_dtype).itemsize


def _random_batches(store: CellStore) -> Iterator[Ids]:
    """Every cell once, in random order."""
    for start in range(0, len(store), BATCH):
        yield permute(np.arange(start, min(start + BATCH, len(store)), dtype=np.int64), n=len(store), key=1)


def _windows(store: CellStore) -> Iterator[Ids]:
    """Cells of each window of a block order, in the order of their ids, as a run asks for them ahead of time."""
    everything = RunSet(np.zeros(1, np.int64), np.array([0, len(store)], np.int64))
    drawing = BlockDrawing(everything, seed=0, block=BLOCK, window=WINDOW)
    for start in range(0, len(store), WINDOW):
        window = np.sort(drawing.take(np.array(drawing.window_of(start)), epoch=0))
        yield from np.array_split(window, max(1, len(window) // _PIECE))


def _long_read(store: CellStore, seconds: float) -> ColdRate:
    """One file after the other from its beginning, in pieces of 8 MiB."""
    kept = 1 - forget(store)
    buffer = bytearray(_CHUNK)
    n_bytes, begin = 0, time.monotonic()
    for part in store.parts:
        for name in ("data", "indices"):
            n_bytes += _read_file(str(part.path / "X" / name / "c" / "0"), buffer, until=begin + seconds)
    elapsed = max(time.monotonic() - begin, 1e-9)
    return ColdRate("one long read", "disk", 0.0, n_bytes / elapsed, 0, kept)


def _read_file(path: str, buffer: bytearray, *, until: float) -> int:
    handle, n_bytes = os.open(path, os.O_RDONLY), 0
    try:
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        while time.monotonic() < until and (got := os.preadv(handle, [buffer], n_bytes)):
            n_bytes += got
    finally:
        os.close(handle)
    return n_bytes


def cold_lines(report: ColdReport) -> Iterator[str]:
    """The report as a table."""
    disk = f"the disk gives {report.disk_bytes_per_s / 1e6:,.0f} MB/s in one long read"
    yield f"{report.n_cells:,} cells, {report.values_per_cell:,.0f} values a cell; {disk}"
    for rate in report.rates:
        share = f"{rate.bytes_per_s / report.disk_bytes_per_s:>6.0%} of the disk" if rate.cells else ""
        cells = f"{rate.cells_per_s:>12,.0f} cells/s" if rate.cells else " " * 20
        yield f"{rate.pattern + ', ' + rate.read:<42}{cells}  {rate.bytes_per_s / 1e6:>8,.0f} MB/s  {share}".rstrip()
    for note in report.notes:
        yield f"note: {note}"
