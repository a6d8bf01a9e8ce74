"""Text unpacked into flat binary files. In: (row, column, value) blocks. Out: arrays on disk that can be sliced.

Text can be read from its start only; conversion looks at the middle, reads blocks, and goes back to a value to name
it. So text is parsed once, in bounded memory, and everything else reads the copy.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import xxhash

from scmf.data.ingest.source import Layout, Matrix

Array = npt.NDArray[Any]

_DONE: Final = "spool.json"
_TYPES: Final[dict[str, np.dtype[Any]]] = {
    "rows": np.dtype(np.int32),
    "columns": np.dtype(np.int32),
    "values": np.dtype(np.float64),
}


class Triples(NamedTuple):
    """Entries of a matrix as the text has them."""

    rows: Array
    """(values,) int32."""
    columns: Array
    """(values,) int32."""
    values: Array
    """(values,) float64."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What is known when the text has been read to its end."""

    n_rows: int
    n_columns: int
    n_values: int
    order: Literal["rows", "columns", "none"]
    """By what the entries are sorted."""


class FileNode:
    """An array in a flat file, read by slices; no map, so that memory stays what it is."""

    def __init__(self, path: Path, dtype: np.dtype[Any], n: int) -> None:
        self._path = path
        self.dtype = dtype
        self.shape: tuple[int, ...] = (n,)

    def __getitem__(self, rows: slice) -> Array:
        start, stop, _ = rows.indices(self.shape[0])
        n = max(0, stop - start)
        return np.fromfile(self._path, self.dtype, count=n, offset=start * self.dtype.itemsize)


class Spool:
    """The unpacked copy of one text; it is written on first use and found again by the next process."""

    def __init__(self, source: Path, *, scratch: Path | None, key: str = "") -> None:
        """Name the copy.

        Args:
            source: the text file.
            scratch: folder in which the copy stays until its owner removes it; None: a temporary folder.
            key: what else decides the copy, such as the separator.
        """
        self._temporary = scratch is None
        root = Path(tempfile.mkdtemp(prefix="scmf-")) if scratch is None else scratch
        state = source.stat()
        digest = xxhash.xxh3_64(f"{source.absolute()} {state.st_size} {state.st_mtime_ns} {key}".encode()).hexdigest()
        self._root, self.folder = root, root / f"text-{digest}"

    def unpack(self, blocks: Callable[[SpoolWriter], Shape]) -> Shape:
        """What the text holds; `blocks` fills a new copy where there is none yet."""
        done = self.folder / _DONE
        if not done.exists():
            self._root.mkdir(parents=True, exist_ok=True)
            work = Path(tempfile.mkdtemp(prefix=".text-", dir=self._root))
            try:
                with SpoolWriter(work) as writer:
                    shape = blocks(writer)
                    writer.finish(shape)
                if not done.exists():  # another process may have been quicker
                    work.replace(self.folder)
            finally:
                shutil.rmtree(work, ignore_errors=True)
        return Shape(**json.loads(done.read_text()))

    def names(self, file: str) -> Array:
        """(rows,) bytes array of names that was kept with the copy."""
        names: Array = np.load(self.folder / f"{file}.npy", allow_pickle=False)
        return names

    def matrix(self, shape: Shape, *, path: Path, cells_in: Literal["rows", "columns"]) -> Matrix:
        """The copy as a matrix X of cells x genes."""
        rows, columns, values = (FileNode(self.folder / n, dtype, shape.n_values) for n, dtype in _TYPES.items())
        cells, genes = (rows, columns) if cells_in == "rows" else (columns, rows)
        sizes = (shape.n_rows, shape.n_columns)
        n_cells, n_genes = sizes if cells_in == "rows" else reversed(sizes)
        layout: Layout = "coo" if shape.order == "none" else "csr" if shape.order == cells_in else "csc"
        if layout == "coo":
            return Matrix("X", layout, n_cells, n_genes, path, values, indices=genes, rows=cells)
        starts = np.load(self.folder / f"{shape.order}-starts.npy", allow_pickle=False)
        minor = genes if layout == "csr" else cells
        return Matrix("X", layout, n_cells, n_genes, path, values, indices=minor, indptr=starts)

    def close(self) -> None:
        """Remove a temporary copy."""
        if self._temporary:
            shutil.rmtree(self._root, ignore_errors=True)


class SpoolWriter:
    """Takes entries in the order of the text; a context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files = {name: (folder / name).open("wb") for name in _TYPES}
        self._counts = {"rows": np.zeros(0, np.int64), "columns": np.zeros(0, np.int64)}
        self._last = {"rows": -1, "columns": -1}
        self._sorted = {"rows": True, "columns": True}
        self._names: dict[str, list[Array]] = {}
        self.n_values = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()

    def put(self, triples: Triples) -> None:
        """Append entries."""
        if not len(triples.values):
            return
        self.n_values += len(triples.values)
        for name, array in zip(_TYPES, triples, strict=True):
            self._files[name].write(np.ascontiguousarray(array, _TYPES[name]).view(np.uint8).data)
        self._note("rows", triples.rows)
        self._note("columns", triples.columns)

    def put_names(self, file: str, names: list[bytes]) -> None:
        """Append names of rows."""
        self._names.setdefault(file, []).append(np.array(names, dtype="S"))

    @property
    def order(self) -> Literal["rows", "columns", "none"]:
        """By what the entries so far are sorted."""
        return "rows" if self._sorted["rows"] else "columns" if self._sorted["columns"] else "none"

    def finish(self, shape: Shape) -> None:
        """Write the starts and the mark that the copy is whole."""
        for file in self._files.values():
            file.close()
        for name, pieces in self._names.items():
            np.save(self._folder / f"{name}.npy", np.concatenate(pieces))
        if shape.order != "none":
            n = shape.n_rows if shape.order == "rows" else shape.n_columns
            counts = np.zeros(n + 1, np.int64)
            known = self._counts[shape.order]
            counts[1:][: len(known)] = known[:n]
            np.save(self._folder / f"{shape.order}-starts.npy", np.cumsum(counts))
        (self._folder / _DONE).write_text(json.dumps(asdict(shape)))

    def _note(self, axis: str, numbers: Array) -> None:
        if self._sorted[axis]:
            self._count(axis, numbers)
        rising = bool((numbers[1:] >= numbers[:-1]).all()) and int(numbers[0]) >= self._last[axis]
        self._sorted[axis] = self._sorted[axis] and rising
        self._last[axis] = int(numbers[-1])

    def _count(self, axis: str, numbers: Array) -> None:
        """Add to the entries of each row or column; the array of counts doubles when it must grow."""
        highest = int(numbers.max()) + 1
        if highest > len(self._counts[axis]):
            grown = np.zeros(max(highest, 2 * len(self._counts[axis])), np.int64)
            grown[: len(self._counts[axis])] = self._counts[axis]
            self._counts[axis] = grown
        first = int(numbers.min())
        self._counts[axis][first:highest] += np.bincount(numbers - first, minlength=highest - first)


def text_blocks(file: Any, *, size: int = 1 << 22) -> Iterator[bytes]:
    """Blocks of whole lines of a binary stream; the last line may lack its end."""
    rest = b""
    while block := file.read(size):
        cut = block.rfind(b"\n") + 1
        if cut:
            yield rest + block[:cut]
            rest = block[cut:]
        else:
            rest += block
    if rest:
        yield rest
