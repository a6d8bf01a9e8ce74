"""HDF5 files, opened. In: a path. Out: the open file, or a refusal that says what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import h5py

from scmf.data.ingest.findings import missing, refuse
from scmf.data.ingest.source import Source, first_line

SIGNATURE: Final = b"\x89HDF\r\n\x1a\n"


class Hdf5Source(Source):
    """A source that is one open HDF5 file; a context manager."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._file = open_hdf5(path)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def open_hdf5(path: Path) -> h5py.File:
    """Open for reading; InputError D001 for no HDF5, D016 for a damaged one."""
    if not path.exists():
        raise missing(path)
    if path.is_dir():
        raise refuse("D001", "this is a folder, not an HDF5 file", where=str(path))
    try:
        return h5py.File(path, "r", locking="best-effort")
    except OSError as error:
        number, what = ("D001", "the file is not HDF5") if not is_hdf5(path) else ("D016", "")
        what = what or f"the file cannot be opened: {first_line(error)}"
        raise refuse(number, what, where=str(path)) from error


def is_hdf5(path: Path) -> bool:
    """Whether the file begins as HDF5 does. h5py.is_hdf5 also says no to a truncated file, which deserves D016."""
    with path.open("rb") as file:
        return file.read(len(SIGNATURE)) == SIGNATURE
