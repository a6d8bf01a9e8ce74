"""Commands that mend findings. In: a source and the command that met it. Out: a line for a shell, quoted.

A command is given only where it mends: flags of scmf-store for what scmf does, and a line of Python with anndata
for what has to be changed in an h5ad file. The latter reads the file into memory and writes a new one beside it.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Mender:
    """What is known about one source when a fix is written."""

    path: Path
    format: str
    command: Callable[..., str]
    """The user's command with other flags: `command(counts="layers/counts")`."""
    elements_with_counts: Callable[[str], Sequence[str]]
    """Other elements that look like raw counts, given one that does not."""

    def other_element(self, element: str) -> str:
        """The command that takes another element with counts, or where to look when there is none."""
        others = self.elements_with_counts(element)
        if others:
            return self.command(counts=others[0])
        return "get the file with raw counts from its origin; no other element of this one holds any"

    def undo(self, element: str, inverse: str) -> str:
        """Write a file whose X holds the counts of a logarithm."""
        code = (
            f"x = {_access(element)}; "
            f"undo = lambda x: {inverse}; "
            "a.X = undo(x) if isinstance(x, np.ndarray) else type(x)((undo(x.data), x.indices, x.indptr), x.shape)"
        )
        return self.edit(code, "counts") if element != "raw.X" else ""

    def drop_cells(self, element: str, least_genes: int) -> str:
        """Write a file without the cells that have too few genes above zero."""
        code = f"n = np.asarray(({_access(element)} > 0).sum(axis=1)).ravel(); a = a[n >= {least_genes}]"
        return self.edit(code, "cells")

    def edit(self, code: str, name: str) -> str:
        """A line of Python that changes an AnnData `a` and writes it beside the source; "" for other formats."""
        if self.format != "h5ad":
            return ""
        out = self.path.with_name(f"{self.path.stem}.{name}.h5ad")
        read = f"import anndata, numpy as np; a = anndata.read_h5ad({_quoted(self.path)})"
        return shlex.join(["python", "-c", f"{read}; {code}; a.write_h5ad({_quoted(out)})"])


def _access(element: str) -> str:
    """An element as anndata spells it."""
    folder, _, name = element.partition("/")
    return f"a.layers[{_quoted(name)}]" if folder == "layers" else f"a.{element}"


def _quoted(text: object) -> str:
    """A Python string in double quotes, which need no escape inside the single quotes of a shell."""
    return json.dumps(str(text), ensure_ascii=False)
