"""The cell store, written. In: canonical CSR blocks and tables. Out: a complete store, or nothing.

Everything is written into a hidden sibling of the destination, brought to the disk, and renamed. A process
that dies leaves that sibling, which the next conversion to the same destination removes.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
import zarr

from scmf.core.config import Config
from scmf.core.errors import StoreError
from scmf.data.manifest import (
    FORMAT,
    MANIFEST,
    SEQUENCES_FORMAT,
    FileRecord,
    PartRecord,
    describe_file,
    dump_manifest,
    format_of,
)
from scmf.data.obs import write_table, write_tables
from scmf.data.obs_writer import ObsSpool
from scmf.data.shard import ShardWriter, WrittenShard, write_document

Array = npt.NDArray[Any]

_NO_LOCKS: Final = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK}
"""What a file system without locks says (Lustre mounted without flock): go on, without that protection."""
_COPY_VALUES: Final = 1 << 22
_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2


class PartWriter:
    """Appends blocks of cells to one part. Counts start as uint16 and are rewritten wider when they must."""

    def __init__(self, path: Path, *, n_genes: int, counts_dtype: npt.DTypeLike = np.uint16) -> None:
        self.path = path
        self.n_genes = n_genes
        self.n_cells = 0
        self.max_count: int = 0
        self._lengths: list[npt.NDArray[np.int64]] = []
        write_document(path, _group("anndata"))
        write_document(path / "X", {"zarr_format": 3, "node_type": "group", "attributes": {}})
        self._counts = ShardWriter(path / "X" / "data", counts_dtype)
        self._indices = ShardWriter(path / "X" / "indices", np.uint16 if n_genes <= 65_536 else np.uint32)

    @property
    def counts_dtype(self) -> np.dtype[Any]:
        """Type in which the counts are being written."""
        return self._counts.dtype

    @property
    def indices_dtype(self) -> np.dtype[Any]:
        """Type in which the gene numbers are being written."""
        return self._indices.dtype

    def append(self, *, lengths: Array, indices: Array, counts: Array) -> None:
        """Add cells.

        Args:
            lengths: (cells,) values of each cell.
            indices: (values,) gene numbers below n_genes, rising inside a cell.
            counts: (values,) positive counts that `counts_dtype` holds exactly; see `widen`.
        """
        self._lengths.append(np.asarray(lengths, dtype=np.int64))
        self._indices.append(indices)
        self._counts.append(counts)
        self.n_cells += len(lengths)
        self.max_count = max(self.max_count, int(np.ceil(counts.max(initial=0))))

    def widen(self, dtype: npt.DTypeLike) -> None:
        """Write the counts in a wider type from here on, and rewrite those already written."""
        narrow = self._counts
        narrow.abandon()
        path = narrow.folder / "c" / "0"
        old = path.rename(path.with_name("narrow"))
        self._counts = ShardWriter(narrow.folder, dtype)
        for start in range(0, narrow.n, _COPY_VALUES):
            n = min(_COPY_VALUES, narrow.n - start)
            block = np.fromfile(old, narrow.dtype, count=n, offset=start * narrow.dtype.itemsize)
            self._counts.append(block)
        old.unlink()

    def close(self, *, obs: pd.DataFrame | ObsSpool, var: pd.DataFrame) -> PartRecord:
        """Write indptr, the tables and the attributes, and describe the part.

        Args:
            obs: one row a cell, in the order in which they were appended: a table, or frames that wait on disk.
            var: one row a gene, indexed by gene id.
        """
        lengths = np.concatenate([np.zeros(1, np.int64), *self._lengths])
        indptr = ShardWriter(self.path / "X" / "indptr", np.int64)
        indptr.append(np.cumsum(lengths))
        shape = {"shape": [self.n_cells, self.n_genes]}
        write_document(self.path / "X", _group("csr_matrix", **shape))
        written = {"data": self._counts.close(), "indices": self._indices.close(), "indptr": indptr.close()}
        if isinstance(obs, ObsSpool):
            obs.write(zarr.open_group(self.path, mode="r+"))
            write_table(self.path, "var", var)
        else:
            write_tables(self.path, obs=obs, var=var)
        for name in ("layers", "obsm", "obsp", "uns", "varm", "varp"):
            write_document(self.path / name, _group("dict"))
        return PartRecord(
            name=self.path.name,
            n_cells=self.n_cells,
            n_values=self._counts.n,
            n_genes=self.n_genes,
            counts_dtype=self.counts_dtype.name,  # type: ignore[arg-type]  # checked by the model
            indices_dtype=self.indices_dtype.name,  # type: ignore[arg-type]
            max_count=self.max_count,
            files=describe_files(self.path, {f"X/{name}": shard for name, shard in written.items()}),
        )

    def abandon(self) -> None:
        """Close the files of a part that will not be finished."""
        self._counts.abandon()
        self._indices.abandon()


class StoreWriter:
    """A store being written beside its destination. Leaving the `with` block without `finish` removes it."""

    def __init__(self, dest: Path, *, overwrite: bool = False) -> None:
        self.dest = dest
        self.overwrite = overwrite
        self.folder = dest.parent / f".{dest.name}.partial"
        self._open_part: PartWriter | None = None
        self._n_parts = 0
        check_destination(dest, overwrite=overwrite)

    def __enter__(self) -> Self:
        self.dest.parent.mkdir(parents=True, exist_ok=True)
        self._lock = claim(self.folder)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._open_part is not None:
            self._open_part.abandon()
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._lock)

    @property
    def scratch(self) -> Path:
        """Folder for temporary files on the store's disk; gone when the store is finished."""
        return self.folder / "scratch"

    def new_part(self, *, n_genes: int) -> PartWriter:
        """Start the next part; the one before must be closed."""
        path = self.folder / f"part-{self._n_parts:05d}"
        self._n_parts += 1
        self._open_part = PartWriter(path, n_genes=n_genes)
        return self._open_part

    def finish(self, manifest: Config) -> None:
        """Write the manifest, bring every file to the disk and put the store in its place."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        (self.folder / MANIFEST).write_bytes(dump_manifest(manifest))
        sync_tree(self.folder)
        put_in_place(self.folder, self.dest)


def _group(encoding: str, **attributes: object) -> dict[str, Any]:
    version = {"encoding-type": encoding, "encoding-version": "0.1.0", **attributes}
    return {"zarr_format": 3, "node_type": "group", "attributes": version}


def describe_files(part: Path, written: dict[str, WrittenShard]) -> dict[str, FileRecord]:
    """Every file of a part.

    Args:
        part: its folder.
        written: arrays by their folder inside the part, whose checksums were taken while they were written.
    """
    known = {f"{name}/c/0": FileRecord(bytes=w.bytes, checksum=w.checksum) for name, w in written.items()}
    paths = sorted(p for p in part.rglob("*") if p.is_file())
    names = [p.relative_to(part).as_posix() for p in paths]
    return {n: known[n] if n in known else describe_file(p) for n, p in zip(names, paths, strict=True)}


def check_destination(dest: Path, *, overwrite: bool, way_out: str = "name another --dest") -> None:
    """Refuse a destination that is in use, unless it is a store and may be replaced.

    Args:
        dest: where a store is to be.
        overwrite: a store may be replaced.
        way_out: what a user can do about a store that is there; only `convert` has --overwrite.
    """
    if dest.is_symlink() or (dest.exists() and not dest.is_dir()):
        raise StoreError("the destination is not a folder", where=str(dest), fix="name another --dest")
    whole = next((p for p in dest.absolute().parents if _is_store(p)), None)
    if whole is not None:
        what = f"the destination is inside the store {whole}, which would not be sound with it"
        raise StoreError(what, where=str(dest), fix="name a --dest outside of it")
    if not dest.exists() or not any(dest.iterdir()):
        return
    if not (dest / MANIFEST).is_file():
        raise StoreError(
            "the destination is a folder with other things in it; it is never removed",
            where=str(dest),
            fix="name another --dest",
        )
    if not overwrite:
        raise StoreError(
            "the destination is a store already",
            where=str(dest),
            fix=way_out,
        )


def _is_store(folder: Path) -> bool:
    return (folder / MANIFEST).is_file() and format_of(folder) in {FORMAT, SEQUENCES_FORMAT}


def claim(folder: Path, *, keep: bool = False) -> int:
    """Make the folder and lock it; a dead process's leftovers are removed unless kept, a living one's never are.

    Returns:
        Handle of the lock, to close.

    Raises:
        StoreError: a living process has the folder.
    """
    folder.mkdir(exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise StoreError(
            "another conversion to the same destination is running",
            where=str(folder),
            fix="wait until it ends, or name another --dest",
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    if not keep:
        empty(folder)
    return lock


def empty(folder: Path) -> None:
    """Remove all that is in a folder."""
    for entry in folder.iterdir():
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


def put_in_place(folder: Path, dest: Path) -> None:
    """Give a whole store, synced already, its name; a store that had the name is then in `folder`."""
    if dest.exists() and any(dest.iterdir()):
        _exchange(folder, dest)
    else:
        folder.rename(dest)
    sync(dest.parent)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file in one step: at every moment the old or the new content is there, whole."""
    aside = path.with_name(f".{path.name}.new")
    with aside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    aside.rename(path)
    sync(path.parent)


def sync_tree(folder: Path) -> None:
    """Bring every file and folder below to the disk."""
    for path in [*folder.rglob("*"), folder]:
        sync(path)


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _exchange(new: Path, old: Path) -> None:
    """Swap two folders in one step, so that there is a complete store at every moment."""
    swap = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)  # Linux only
    if swap and swap(_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(old), _RENAME_EXCHANGE) == 0:
        return
    # A file system that cannot swap (NFS): the old store is absent for the moment between two renames.
    aside = old.with_name(f".{old.name}.replaced")
    shutil.rmtree(aside, ignore_errors=True)
    old.rename(aside)
    new.rename(old)
    shutil.rmtree(aside, ignore_errors=True)
