"""A matrix of genes x cells seen as cells x genes. In: an array node of two axes. Out: the same, transposed."""

from __future__ import annotations

from typing import Any

import numpy as np

from scmf.data.ingest.source import ArrayNode


class Transposed:
    """Rows of this array are columns of the node; nothing is copied until a slice is read."""

    def __init__(self, node: ArrayNode) -> None:
        self._node: Any = node
        self.shape: tuple[int, ...] = tuple(reversed(node.shape))
        self.dtype: np.dtype[Any] = node.dtype
        chunks = getattr(node, "chunks", None)
        self.chunks = tuple(reversed(chunks)) if chunks else None

    def __getitem__(self, rows: slice) -> Any:
        """(rows, columns) array, C-contiguous."""
        return np.ascontiguousarray(self._node[:, rows].T)
