"""Folders as sources. In: a folder. Out: the open source in it, or a refusal that names what to convert instead."""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path
from typing import Final

from scmf.data.ingest.findings import refuse
from scmf.data.ingest.mtx import MtxSource, mtx_files
from scmf.data.ingest.source import ReadWishes, Source
from scmf.data.manifest import MANIFEST

_CELL_RANGER: Final = (
    "filtered_feature_bc_matrix.h5",
    "filtered_feature_bc_matrix",
    "sample_filtered_feature_bc_matrix.h5",
    "sample_filtered_feature_bc_matrix",
    "filtered_gene_bc_matrices_h5.h5",
    "filtered_gene_bc_matrices",
    "raw_feature_bc_matrix.h5",
    "raw_feature_bc_matrix",
)
"""What Cell Ranger leaves in `outs`, the best first."""

_TILEDB: Final = ("__tiledb_group.tdb", "__group", "__schema")
"""What every TileDB group or array has."""


def open_folder(path: Path, wishes: ReadWishes) -> Source:
    """Open a folder with the reader of its format; InputError where there is none."""
    if (path / MANIFEST).is_file() and b'"scmf-cells"' in (path / MANIFEST).read_bytes()[:4096]:
        place = shlex.quote(str(path))
        fix = f"use it as it is: scmf-store info {place}; with other stores: scmf-store merge {place} OTHER --dest DIR"
        raise refuse("D001", "the folder is a store already", where=str(path), fix=fix)
    if (path / "zarr.json").is_file() or (path / ".zgroup").is_file() or (path / ".zarray").is_file():
        return _open_zarr(path)
    if (path / "data.npy").is_file() and (path / "row_ptr.npy").is_file():
        from scmf.data.ingest.scdl import ScdlSource

        return ScdlSource(path)
    if any((path / name).exists() for name in _TILEDB):
        from scmf.data.ingest.soma import SomaSource

        return SomaSource(path, wishes)
    if mtx_files(path):
        return MtxSource(path, wishes)
    raise _nothing_here(path)


def _open_zarr(path: Path) -> Source:
    from scmf.data.ingest.zarr_group import AnnDataZarr

    children = {p.name for p in path.iterdir() if p.is_dir()}
    inner = next((n for n in ("mod", "tables") if n in children and not {"obs", "var"} & children), None)
    if inner is not None:
        tables = sorted(p for p in (path / inner).iterdir() if p.is_dir())
        kind = "MuData" if inner == "mod" else "SpatialData"
        listed = ", ".join(t.name for t in tables[:6]) or "none"
        fix = f"name one table: scmf-store convert {shlex.quote(str(tables[0]))} --dest DIR" if tables else None
        raise refuse("D001", f"a {kind} group; its tables are {listed}", where=str(path), fix=fix)
    if not {"obs", "var"} <= children:
        what = f"the zarr group is no AnnData: it has {', '.join(sorted(children)) or 'no groups'}"
        raise refuse("D002", what, where=str(path), fix="name the folder that holds X, obs and var")
    return AnnDataZarr(path)


def _nothing_here(path: Path) -> Exception:
    """Refusal of a folder without a source, with the nearest thing below it that is one."""
    near = _below(path)
    if near:
        word = "sources" if len(near) > 1 else "source"
        fix = f"name the {word}: scmf-store convert {shell_list(near)} --dest DIR"
        named = ", ".join(str(p.relative_to(path)) for p in near[:3])
        return refuse(
            "D001", f"a folder with {len(near)} {word} in it ({named}), itself none", where=str(path), fix=fix
        )
    if any((path / name).exists() for name in ("barcodes.tsv", "barcodes.tsv.gz", "features.tsv.gz", "genes.tsv")):
        return refuse("D002", "a 10x folder without its matrix.mtx", where=str(path), fix="copy the whole folder again")
    names = sorted(p.name for p in path.iterdir())
    what = f"the folder holds nothing that convert reads: {', '.join(names[:5]) or 'it is empty'}"
    return refuse("D001", what, where=str(path), fix="name a file or folder with counts; docs/inputs.md lists them")


def shell_list(paths: list[Path]) -> str:
    """Paths of one folder as words for a shell; more than three of one suffix as one pattern."""
    kinds = Counter(p.suffix for p in paths)
    patterns = {p: f"{shlex.quote(str(p.parent))}/*{p.suffix}" for p in paths if kinds[p.suffix] > 3 and p.suffix}
    return " ".join(dict.fromkeys(patterns.get(p, shlex.quote(str(p))) for p in paths))


def _below(path: Path) -> list[Path]:
    for folder in (path, path / "outs"):
        known = [folder / name for name in _CELL_RANGER if (folder / name).exists()]
        if known:
            return known[:1]
    files = sorted(p for p in path.iterdir() if p.suffix in {".h5ad", ".loom", ".h5"} and p.is_file())
    folders = [p for p in sorted(path.iterdir()) if p.is_dir() and _is_source(p)]
    return files + folders


def _is_source(folder: Path) -> bool:
    if (folder / ".zattrs").is_file():
        return b'"anndata"' in (folder / ".zattrs").read_bytes()
    return bool(mtx_files(folder)) or any((folder / name).is_file() for name in ("zarr.json", "row_ptr.npy"))
