"""Small sources with chosen names of genes, for tests of how names become ids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from scmf.data.ingest.convert import convert
from scmf.data.ingest.genes import GeneWishes, find_genes
from scmf.data.ingest.plan import ConvertOptions
from scmf.data.ingest.source_genes import SourceGenes
from scmf.data.store import CellStore

COMMAND = "scmf-store convert in.h5ad --dest out"
TP53, GAPDH = "ENSG00000141510", "ENSG00000111640"


class Var:
    """A table of genes in memory, with the part of `Table` that the search for ids uses."""

    def __init__(self, **columns: Sequence[str]) -> None:
        self._texts = {name: np.array(values, dtype=object) for name, values in columns.items()}
        self.columns = tuple(name for name in columns if name != "index")

    def __len__(self) -> int:
        return len(self._texts["index"])

    def texts(self, name: str) -> Any:
        """(genes,) object array of strings."""
        return self._texts[name]


def find(*index: str, map_names: bool = True, command: str = COMMAND, **wishes: Any) -> SourceGenes:
    """Genes of a table with this index and `columns`; names are mapped unless said otherwise."""
    columns = wishes.pop("columns", {})
    wishes = GeneWishes(map_names=map_names, **wishes)
    var: Any = Var(index=index, **columns)
    return find_genes(var, wishes, where="in.h5ad: var", command=command)


def cells(counts: Any, names: Sequence[str], **var: Any) -> anndata.AnnData:
    """An AnnData of these counts and names of genes."""
    counts = csr_matrix(np.asarray(counts, np.float32))
    obs = pd.DataFrame(index=[f"cell{k}" for k in range(counts.shape[0])])
    return anndata.AnnData(counts, obs=obs, var=pd.DataFrame(var, index=list(names)))


def to_store(source: Path, dest: Path, **options: Any) -> tuple[CellStore, list[str]]:
    """The source converted, and the lines that conversion printed."""
    lines: list[str] = []
    convert([source], dest, ConvertOptions(**options), log=lines.append)
    return CellStore.open(dest), lines


def all_counts(store: CellStore) -> csr_matrix:
    """(cells, genes) float64 counts of a store."""
    batch = store.fetch(np.arange(len(store)))
    shape = (len(store), store.n_genes)
    return csr_matrix((batch.counts.astype(np.float64), batch.indices, batch.indptr), shape=shape)
