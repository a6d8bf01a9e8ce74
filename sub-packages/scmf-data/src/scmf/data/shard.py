"""One array as one zarr v3 shard that is also a plain file. In: arrays, in order. Out: a zarr array folder.

The shard is the contiguous little-endian array, padded to whole inner chunks, then the shard index
(offset and length of every inner chunk, crc32c), as the `sharding_indexed` codec prescribes. So zarr reads
slices of it, and the same file is a memory map.

Source: https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/v1.0.html
"""

from __future__ import annotations

import json
import mmap
import os
import shlex
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import google_crc32c
import numpy as np
import numpy.typing as npt
import xxhash

from scmf.core.errors import StoreError

INNER: Final = 1 << 18
"""Elements of an inner chunk: what zarr reads for a slice. The hot path does not see chunks."""

Array = npt.NDArray[Any]


def inner_chunk(n: int) -> int:
    """Elements of an inner chunk of an array of n elements; a short array is one chunk, without padding."""
    return max(1, min(n, INNER))


def shard_index(n: int, itemsize: int) -> bytes:
    """Index of the shard of an array of n elements, with its crc32c: the last bytes of the file."""
    chunk = inner_chunk(n)
    n_chunks = max(1, -(-n // chunk))
    index = np.empty((n_chunks, 2), "<u8")
    index[:, 0] = np.arange(n_chunks, dtype=np.uint64) * np.uint64(chunk * itemsize)
    index[:, 1] = chunk * itemsize
    raw = index.tobytes()
    return raw + struct.pack("<I", google_crc32c.value(raw))


def padded_bytes(n: int, itemsize: int) -> int:
    """Bytes of the shard before its index."""
    chunk = inner_chunk(n)
    return max(1, -(-n // chunk)) * chunk * itemsize


def array_document(n: int, dtype: np.dtype[Any]) -> dict[str, Any]:
    """`zarr.json` of the array."""
    chunk = inner_chunk(n)
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    codec = {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": [chunk],
            "codecs": [little],
            "index_codecs": [little, {"name": "crc32c"}],
            "index_location": "end",
        },
    }
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [n],
        "data_type": dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [max(1, -(-n // chunk)) * chunk]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0.0 if dtype.kind == "f" else 0,
        "codecs": [codec],
        "attributes": {},
        "storage_transformers": [],
    }


def write_document(folder: Path, document: dict[str, Any]) -> None:
    """Write `zarr.json` into a folder, which is made when missing."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "zarr.json").write_text(json.dumps(document, indent=1) + "\n")


@dataclass(frozen=True, slots=True)
class WrittenShard:
    """A closed shard file."""

    n: int
    bytes: int
    checksum: str


class ShardWriter:
    """Appends blocks to one array and keeps the checksum of the file as it grows."""

    def __init__(self, folder: Path, dtype: npt.DTypeLike, *, row: int | None = None) -> None:
        """Start the array.

        Args:
            folder: its zarr folder.
            dtype: type of an element.
            row: elements of a row of an array of two axes, whose document the caller writes; None: one axis.
        """
        self.folder = folder
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self.n = 0
        """Elements, or rows."""
        self._row = row or 1
        self._path = shard_file(folder, row)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("wb", buffering=0)
        self._checksum = xxhash.xxh3_128()

    def append(self, block: Array) -> None:
        """Write a block; it is cast to the array's type, which must hold it exactly."""
        block = np.ascontiguousarray(block, dtype=self.dtype).ravel()
        self._write(block.view(np.uint8).data)
        self.n += block.size // self._row

    def close(self) -> WrittenShard:
        """Pad, write the index and `zarr.json`, and bring the file to the disk."""
        itemsize = self.dtype.itemsize * self._row
        padding = padded_bytes(self.n, itemsize) - self.n * itemsize
        self._write(memoryview(bytes(padding) + shard_index(self.n, itemsize)))
        size = self._file.tell()
        os.fsync(self._file.fileno())
        self._file.close()
        write_document(self.folder, array_document(self.n, self.dtype))
        return WrittenShard(n=self.n, bytes=size, checksum=self._checksum.hexdigest())

    def abandon(self) -> None:
        """Close the file as it is; the folder is of no further use."""
        self._file.close()

    def _write(self, view: memoryview) -> None:
        self._checksum.update(view)
        try:
            while len(view):  # a raw write may take only a part of the bytes
                view = view[self._file.write(view) :]
        except OSError as error:
            error.filename = error.filename or str(self._path)
            raise


def shard_file(folder: Path, row: int | None = None) -> Path:
    """File of the only shard of an array of one axis, or of two where `row` says how long a row is."""
    return folder / "c" / "0" if row is None else folder / "c" / "0" / "0"


def map_rows(folder: Path, dtype: npt.DTypeLike, n: int, *, row: int) -> Array:
    """Map an array of n rows read-only; see `map_shard`."""
    return _map(shard_file(folder, row), np.dtype((np.dtype(dtype).newbyteorder("<"), (row,))), n, folder)


def map_shard(folder: Path, dtype: npt.DTypeLike, n: int) -> Array:
    """Map an array of n elements read-only, after checking that the file is laid out as one plain array.

    A shard rewritten by zarr may be compressed, or miss chunks that are all zero; either would shift every
    later element, so size and index have to be exactly what the writer gave.

    Raises:
        StoreError: missing file, another size, another index.
    """
    return _map(shard_file(folder), np.dtype(dtype).newbyteorder("<"), n, folder)


def _map(path: Path, dtype: np.dtype[Any], n: int, folder: Path) -> Array:
    itemsize = dtype.itemsize
    index = shard_index(n, itemsize)
    expected = padded_bytes(n, itemsize) + len(index)
    store = folder.parents[2]
    if not path.is_file():
        raise damaged_file("the array's file is missing", path, store=store)
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size != expected:
            what = f"the array's file has {size:,} bytes and should have {expected:,}"
            raise damaged_file(what, path, store=store)
        if os.pread(file.fileno(), len(index), size - len(index)) != index:
            raise damaged_file("the array's shard index is not the one of a plain array", path, store=store)
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return np.frombuffer(mapping, dtype=dtype, count=n)


def damaged_file(what: str, path: Path, *, store: Path) -> StoreError:
    """Error about one file of a store, with the command that says what else is wrong."""
    command = f"scmf-store verify {shlex.quote(str(store))}"
    return StoreError(what, where=str(path), fix=f"{command}; then restore that file or convert the sources again")
