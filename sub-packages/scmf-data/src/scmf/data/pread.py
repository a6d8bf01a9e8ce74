"""Cells by requests in place of a memory map. In: parts of a store and cell ids. Out: copies of values, and addresses.

The files are told first which ranges come (they are fetched from the disk at once, in its own order), then read
by one compiled loop without the interpreter's lock. Neighbours in the file that are neighbours in the batch are one
request. A disk or server that fails is an error that names the file, where a memory map would end the process.
"""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from shlex import quote
from threading import Lock
from typing import Final

import numba
import numpy as np
import numpy.typing as npt
from numba import types

from scmf.core.errors import StoreError
from scmf.data.part import Part
from scmf.data.part_table import AddressArray, CellSpans, Found, LongArray, PartTable

IntArray = npt.NDArray[np.int32]
ByteArray = npt.NDArray[np.uint8]

_ARRAYS: Final = ("indices", "data", "indptr")
_WILLNEED: Final = getattr(os, "POSIX_FADV_WILLNEED", 3)
_ADVICE: Final = sys.platform == "linux"
_INDPTR_BYTES: Final = 8

_pread = types.ExternalFunction("pread", types.intp(types.intc, types.uintp, types.uintp, types.int64))
_fadvise = types.ExternalFunction("posix_fadvise", types.intc(types.intc, types.int64, types.int64, types.intc))


class PreadTable(PartTable):
    """Reads values with requests; finds them in the copies."""

    def __init__(self, parts: Sequence[Part], part_genes: LongArray) -> None:
        super().__init__(parts, part_genes)
        self._files = {name: np.full(len(parts), -1, np.int32) for name in _ARRAYS}
        self._opening = Lock()
        weakref.finalize(self, _close_all, self._files)

    def find(self, cell_ids: LongArray, *, ranks_only: bool = False) -> tuple[LongArray, Iterator[CellSpans]]:
        """Number of values of each cell, and where their copies lie; raises as `PartTable.find`."""
        found = self.look_up(cell_ids)
        return found.lengths, self._copies(found, ranks_only=ranks_only)

    def look_up(self, cell_ids: LongArray) -> Found:
        """Part, first value and number of values of each cell: 16 bytes of indptr are read for each."""
        parts, rows = self.locate(cell_ids)
        self._open(parts)
        ends = np.empty((len(parts), 2), np.int64)
        sizes = np.full(len(parts), 2 * _INDPTR_BYTES, np.int64)
        self._read("indptr", parts, rows * _INDPTR_BYTES, sizes, ends.view(np.uint8).ravel())
        starts, lengths = ends[:, 0].copy(), ends[:, 1] - ends[:, 0]
        if ((starts < 0) | (lengths < 0) | (ends[:, 1] > self._n_values[parts])).any():
            self._say_what_is_wrong(cell_ids)
        return Found(parts, starts, lengths)

    def advise(self, cell_ids: LongArray, give: Callable[[AddressArray, LongArray], None]) -> None:  # noqa: ARG002  # files take their own advice
        """Tell the system which ranges of the files come; it begins to read them, and nobody waits."""
        found = self.look_up(cell_ids)
        for number, here in self.by_kind(found.parts):
            kind = self.kinds[number]
            parts, starts, lengths = found.parts[here], found.starts[here], found.lengths[here]
            for name, empty in zip(_ARRAYS[: 1 if kind.ranked else 2], kind.like, strict=False):
                self._ask(name, parts, starts * empty.itemsize, lengths * empty.itemsize)

    def _copies(self, found: Found, *, ranks_only: bool) -> Iterator[CellSpans]:
        for number, here in self.by_kind(found.parts):
            kind = self.kinds[number]
            parts, starts, lengths = found.parts[here], found.starts[here], found.lengths[here]
            wanted = _ARRAYS[: 1 if ranks_only and kind.ranked else 2]
            ranges = [
                (name, starts * one.itemsize, lengths * one.itemsize)
                for name, one in zip(wanted, kind[:2], strict=False)
            ]
            for name, offsets, sizes in ranges:
                self._ask(name, parts, offsets, sizes)
            copies = [np.empty(int(sizes.sum()), np.uint8) for _, _, sizes in ranges]
            at = [
                self._read(name, parts, offsets, sizes, copy)
                for (name, offsets, sizes), copy in zip(ranges, copies, strict=True)
            ]
            addresses = (at[0], at[-1])  # of counts that were not read, nobody uses the address
            yield CellSpans(here, kind.like, addresses, lengths, parts, kind.genes, kind.ranked, keep=tuple(copies))

    def _ask(self, name: str, parts: LongArray, offsets: LongArray, sizes: LongArray) -> None:
        if _ADVICE:
            order = np.lexsort((offsets, parts))
            ask_for_ranges(self._files[name][parts[order]], offsets[order], sizes[order], _WILLNEED)

    def _read(self, name: str, parts: LongArray, offsets: LongArray, sizes: LongArray, into: ByteArray) -> AddressArray:
        """Read ranges of an array's files end to end into memory; returns the address of each, (k,) uint64."""
        targets = np.cumsum(sizes) - sizes
        addresses: AddressArray = np.uint64(into.ctypes.data) + targets.astype(np.uint64)
        files, done = self._files[name][parts], 0
        while (done := read_ranges(files, offsets, sizes, addresses, done)) < len(sizes):
            self._read_slowly(name, int(parts[done]), (int(offsets[done]), int(sizes[done])), into[targets[done] :])
            done += 1
        return addresses

    def _read_slowly(self, name: str, part: int, span: tuple[int, int], into: ByteArray) -> None:
        """A range that the compiled loop could not read: once more, with the system's own words where it fails."""
        offset, size = span
        path = self._parts[part].path / "X" / name / "c" / "0"
        view = into.data[:size]
        try:
            while len(view):
                got = os.preadv(int(self._files[name][part]), [view], offset)
                if got == 0:
                    raise OSError(0, f"the file ends before byte {offset + len(view):,}")  # noqa: TRY301
                view, offset = view[got:], offset + got
        except OSError as error:
            raise StoreError(
                f"cannot read {size:,} bytes at {span[0]:,}: {error.strerror}",
                where=str(path),
                fix=f"check the disk or the network, then: scmf-store verify {quote(str(path.parents[4]))}",
            ) from error

    def _open(self, parts: LongArray) -> None:
        if (self._files["indptr"][parts] >= 0).all():
            return
        with self._opening:  # two threads would each open the files, and one of two handles would never be closed
            for number in np.unique(parts[self._files["indptr"][parts] < 0]).tolist():
                self._open_part(number)

    def _open_part(self, number: int) -> None:
        self._parts[number].prove_boundaries()
        for name in _ARRAYS:  # indptr last: whoever sees its handle may use all three
            self._parts[number].array(name)  # checks the file's size and index; touches no value
            path = self._parts[number].path / "X" / name / "c" / "0"
            if self._files[name][number] < 0:
                self._files[name][number] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _close_all(files: dict[str, IntArray]) -> None:
    for handles in files.values():
        for handle in handles[handles >= 0].tolist():
            os.close(handle)


@numba.njit(nogil=True, cache=True)
def read_ranges(files: IntArray, offsets: LongArray, sizes: LongArray, addresses: AddressArray, first: int) -> int:
    """Read ranges of files into memory; ranges that follow each other in both are one request.

    Args:
        files: (k,) int32 handle of each range's file.
        offsets: (k,) int64 first byte in the file.
        sizes: (k,) int64 bytes.
        addresses: (k,) uint64 where they go.
        first: the range to begin with.

    Returns:
        k, or the number of the first range that could not be read whole.
    """
    i = first
    while i < len(sizes):
        size, last = sizes[i], i + 1
        while (
            last < len(sizes)
            and files[last] == files[i]
            and offsets[last] == offsets[i] + size
            and addresses[last] == addresses[i] + np.uint64(size)
        ):
            size += sizes[last]
            last += 1
        done = np.int64(0)
        while done < size:
            got = _pread(files[i], addresses[i] + np.uint64(done), np.uint64(size - done), offsets[i] + done)
            if got <= 0:
                return i
            done += got
        i = last
    return i


@numba.njit(nogil=True, cache=True)
def ask_for_ranges(files: IntArray, offsets: LongArray, sizes: LongArray, advice: int) -> int:
    """Tell the system which ranges of files come; returns how many it refused.

    Args:
        files: (k,) int32, sorted together with the offsets.
        offsets: (k,) int64, rising inside a file.
        sizes: (k,) int64.
        advice: the system's number of POSIX_FADV_WILLNEED.
    """
    refused, i = 0, 0
    while i < len(sizes):
        end, last = offsets[i] + sizes[i], i + 1
        while last < len(sizes) and files[last] == files[i] and offsets[last] <= end:
            end = max(end, offsets[last] + sizes[last])
            last += 1
        if end > offsets[i]:  # no bytes would mean: to the end of the file
            refused += _fadvise(files[i], offsets[i], end - offsets[i], advice) != 0
        i = last
    return refused
