"""Which format a path is. In: a path. Out: the open source of the reader that knows it, or a refusal that names it.

The bytes decide, not the suffix: people rename files, and servers answer with web pages.
"""

from __future__ import annotations

import shlex
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import h5py

from scmf.core.text import counted
from scmf.data.ingest.findings import FINDINGS, missing, refuse
from scmf.data.ingest.folders import open_folder
from scmf.data.ingest.h5ad import H5adFile
from scmf.data.ingest.hdf5 import SIGNATURE, open_hdf5
from scmf.data.ingest.loom import LoomFile, is_loom
from scmf.data.ingest.source import ReadWishes, Source, first_line, reading
from scmf.data.ingest.tenx_h5 import TenxH5, genome_groups
from scmf.data.ingest.text_file import first_bytes, is_blank_table

_RDS: Final = (
    b"X\n\x00\x00\x00",
    b"A\n2\n",
    b"A\n3\n",
    b"RDX2\n",
    b"RDX3\n",
    b"RDA2\n",
    b"RDA3\n",
    b"B\n\x02",
    b"B\n\x03",
)
_R_FIX: Final = "write the counts from R: DropletUtils::write10xCounts(path, counts), then convert that folder"
_PICKLE_FIX: Final = "open it only if you trust its origin, and write the AnnData in it with write_h5ad"
_EXCEL_FIX: Final = (
    "save it as CSV; spreadsheets turn symbols such as MARCH1 into dates, so take the counts from before"
)
_UTF16: Final = (b"\xff\xfe", b"\xfe\xff")
_R_SUFFIXES: Final = frozenset({".rds", ".rda", ".rdata"})
_UNPACK: Final = {
    b"BZh": ("a bzip2 archive", "bunzip2"),
    b"\xfd7zXZ\x00": ("an xz archive", "unxz"),
    b"\x28\xb5\x2f\xfd": ("a zstandard archive", "unzstd"),
    b"7z\xbc\xaf\x27\x1c": ("a 7-zip archive", "7z x"),
}
_STRANGERS: Final = {
    b"%PDF": ("a PDF document", "get the counts that belong to it"),
    b"\x89PNG": ("a PNG image", "get the counts that belong to it"),
    b"\xff\xd8\xff": ("a JPEG image", "get the counts that belong to it"),
    b"II*\x00": ("a TIFF image", "get the counts that belong to it"),
    b"MM\x00*": ("a TIFF image", "get the counts that belong to it"),
    b"\x80\x02": ("a Python pickle, which can run code and is never opened", _PICKLE_FIX),
    b"\x80\x03": ("a Python pickle, which can run code and is never opened", _PICKLE_FIX),
    b"\x80\x04": ("a Python pickle, which can run code and is never opened", _PICKLE_FIX),
    b"\x80\x05": ("a Python pickle, which can run code and is never opened", _PICKLE_FIX),
    b"\x93NUMPY": ("a NumPy array without names of genes", "make an AnnData of it and use write_h5ad"),
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": ("an old Excel file (.xls)", _EXCEL_FIX),
    b"SQLite format 3": ("an SQLite database", "get the counts as h5ad from its origin"),
    b"version https://git-lfs": ("a Git LFS pointer, not the file itself", "git lfs pull"),
    b"<!DOCTYPE": ("a web page: the download failed", "download the file again"),
    b"<!doctype": ("a web page: the download failed", "download the file again"),
    b"<html": ("a web page: the download failed", "download the file again"),
    b"<?xml": ("an XML document, often the answer of a server to a failed download", "download the file again"),
    b"{": ("JSON, often the answer of a server to a failed download", "download the file again"),
}
"""First bytes: what the file is, and what to do."""
_THEN: Final = "unpack it, and convert what is in it: "
_HDF5_SUFFIXES: Final = frozenset({".h5ad", ".h5", ".hdf5", ".h5mu", ".h5seurat", ".loom"})
_TEXT_SUFFIXES: Final = frozenset({".csv", ".tsv", ".txt", ".tab", ".gz", ".counts", ""})
_TAR_MAGIC: Final = slice(257, 262)


def open_source(path: Path, wishes: ReadWishes | None = None) -> Source:
    """Open anything that conversion reads; the format is recognised by content.

    Args:
        path: a file or folder.
        wishes: what the user says about reading.

    Raises:
        InputError: D001 and others: nothing there, or nothing that can be read; the message says what it is.
    """
    path, wishes = Path(path), wishes or ReadWishes()
    if not path.exists():
        raise missing(path)
    if path.is_dir():
        return open_folder(path, wishes)
    if not path.is_file():
        fix = "write what comes out of it to a file, and name that file"
        raise refuse("D001", "a pipe or device, which can be read only once", where=str(path), fix=fix)
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        raise refuse("D016", "the file is empty", where=str(path))
    if head.startswith(SIGNATURE):
        return _open_hdf5(path)
    if head.startswith(b"PK"):
        return _open_zip(path)
    return _open_text(path, wishes, packed=head.startswith(b"\x1f\x8b"))


def _open_hdf5(path: Path) -> Source:
    with open_hdf5(path) as file, reading(path, "its groups"):
        kind = _kind_of_hdf5(file)
        names = sorted(map(str, file))  # a damaged name is bytes
    if kind in _READERS:
        return _READERS[kind](path)
    what, fix = _OTHER_HDF5[kind]
    listed = f" (it holds {', '.join(names[:6])})" if kind == "other" and names else ""
    raise refuse("D002" if kind == "other" else "D001", f"{what}{listed}", where=str(path), fix=fix.format(path))


_READERS: Final[dict[str, Callable[[Path], Source]]] = {"h5ad": H5adFile, "loom": LoomFile, "10x": TenxH5}
_OTHER_HDF5: Final = {
    "h5mu": (
        "a MuData file, with several modalities",
        "write the RNA as h5ad: mudata.read('{}')['rna'].write_h5ad(...)",
    ),
    "seurat": ("an h5Seurat file of R", _R_FIX),
    "molecules": ("a molecule_info.h5 of Cell Ranger", "convert filtered_feature_bc_matrix.h5 of the same run"),
    "table": (
        "a table that pandas wrote to HDF5",
        "read it with pandas.read_hdf, make an AnnData of it and write_h5ad",
    ),
    "other": (
        "the file is HDF5, but neither h5ad nor 10x nor loom",
        "get the counts as h5ad, 10x or loom from its origin",
    ),
}


def _kind_of_hdf5(file: h5py.File) -> str:
    names = set(file)
    kinds = {
        "loom": is_loom(file),
        "10x": bool(genome_groups(file)),
        "h5mu": "mod" in names,
        "seurat": {"cell.names", "assays"} <= names,
        "molecules": {"barcode_idx", "umi"} <= names or {"barcode", "umi"} <= names,
        "table": any("pandas_type" in node.attrs for node in file.values() if isinstance(node, h5py.Group)),
        "h5ad": bool(names & {"X", "raw", "raw.X", "layers", "obs", "var"}),
    }
    return next((kind for kind, found in kinds.items() if found), "other")


def _open_zip(path: Path) -> Source:
    from scmf.data.ingest.zarr_group import AnnDataZarr

    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise refuse("D016", f"the zip archive is damaged: {error}", where=str(path)) from error
    if {"zarr.json", ".zgroup"} & set(names):
        return AnnDataZarr(path)
    if any(name.startswith("xl/") for name in names):
        raise refuse("D001", "an Excel file", where=str(path), fix=_EXCEL_FIX)
    if names and all(name.endswith(".npy") for name in names):
        fix = "make an AnnData of it, with the names of cells and genes, and use write_h5ad"
        raise refuse("D001", "a NumPy archive (.npz) without names of cells and genes", where=str(path), fix=fix)
    folder = shlex.quote(path.stem)
    fix = f"{_THEN}unzip {shlex.quote(str(path))} -d {folder}"
    raise refuse("D001", f"a zip archive of {counted(len(names), 'file')}", where=str(path), fix=fix)


def _open_text(path: Path, wishes: ReadWishes, *, packed: bool) -> Source:
    from scmf.data.ingest.delimited import DelimitedSource
    from scmf.data.ingest.mtx import MtxSource

    head = first_bytes(path)
    if packed and not head:
        raise refuse("D016", "the gzip file is cut short or damaged", where=str(path))
    _refuse_stranger(path, head, packed=packed)
    if head.startswith(b"%%MatrixMarket"):
        return MtxSource(path, wishes)
    first = head.split(b"\n", 1)[0]
    if b"\x00" in head:
        raise refuse("D001", "a binary file of no kind that convert reads", where=str(path))
    if first.startswith(b"#"):
        out = shlex.quote(str(path.with_name(f"{path.stem}.table{path.suffix}")))
        fix = f"leave out the comments: grep -v '^#' {shlex.quote(str(path))} > {out}"
        raise refuse("D001", "text that begins with a comment", where=str(path), fix=fix)
    if not any(s in first for s in (b",", b"\t", b";")) and not is_blank_table(path):
        fix = f"{FINDINGS['D001'].fix} Text becomes a store with: "
        fix += f"scmf-store convert {shlex.quote(str(path))} --tokenizer char --dest DIR"
        raise refuse("D001", "no format of counts that convert reads", where=str(path), fix=fix)
    if path.suffix.lower() not in _TEXT_SUFFIXES:
        fix = f"if it is a table of counts, name it so: mv {shlex.quote(str(path))} {shlex.quote(path.stem + '.csv')}"
        said = f"HDF5 that {path.suffix} says" if path.suffix.lower() in _HDF5_SUFFIXES else "name of a table of counts"
        raise refuse("D001", f"the file is text, not the {said}", where=str(path), fix=fix)
    return DelimitedSource(path, wishes)


def _refuse_stranger(path: Path, head: bytes, *, packed: bool) -> None:
    quoted = shlex.quote(str(path))
    if head[_TAR_MAGIC] == b"ustar":
        raise refuse("D001", "a tar archive", where=str(path), fix=f"{_THEN}tar -xf {quoted}")
    if head.startswith(_UTF16):
        out = shlex.quote(str(path.with_name(f"{path.stem}.utf8{path.suffix}")))
        raise refuse("D001", "text in UTF-16", where=str(path), fix=f"iconv -f UTF-16 -t UTF-8 {quoted} > {out}")
    packed_r = path.suffix.lower() in _R_SUFFIXES and head.startswith(tuple(_UNPACK))
    if head.startswith(_RDS) or packed_r:
        raise refuse("D001", "an R object (.rds or .RData)", where=str(path), fix=_R_FIX)
    if packed and head.startswith(SIGNATURE):
        raise refuse("D001", "an HDF5 file packed with gzip", where=str(path), fix=f"gunzip {quoted}")
    if head.startswith((b"PAR1", b"ARROW1", b"FEA1")):
        _refuse_columns(path, parquet=head.startswith(b"PAR1"))
    for start, (what, command) in _UNPACK.items():
        if head.startswith(start):
            raise refuse("D001", what, where=str(path), fix=f"{_THEN}{command} {quoted}")
    for start, (what, fix) in _STRANGERS.items():
        if head.lstrip(b"\xef\xbb\xbf \r\n").startswith(start):
            raise refuse("D001", what, where=str(path), fix=fix)


def _refuse_columns(path: Path, *, parquet: bool) -> None:
    """Parquet and Arrow have no convention for counts; tables of tokens are known by their column."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        columns = pq.read_schema(path).names if parquet else []
    except (pa.ArrowInvalid, OSError) as error:
        raise refuse("D016", f"the parquet file cannot be read: {first_line(error)}", where=str(path)) from error
    if {"input_ids", "tokens"} & set(columns):
        what = f"a table of ready tokens (columns {', '.join(columns[:4])}): it holds no counts"
        fix = f"a store of sequences is made of it with: scmf-store convert {shlex.quote(str(path))} "
        fix += "--vocabulary NAME --dest DIR"
        raise refuse("D060", what, where=str(path), fix=fix)
    kind = "a parquet table" if parquet else "an Arrow table"
    fix = "make an AnnData of it (cells x genes) and write it with write_h5ad, or write it as CSV"
    raise refuse("D001", f"{kind}; there is no convention for counts in it", where=str(path), fix=fix)
