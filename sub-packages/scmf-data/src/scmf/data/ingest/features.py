"""Which columns of a matrix are genes. In: the table of its features. Out: those to keep, and a note on the rest.

A matrix of 10x may have antibodies, guides and peaks beside genes. An antibody is often called by the symbol of its
gene (CD4), so that without this its counts would be added to those of the RNA.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from scmf.data.ingest.findings import refuse
from scmf.data.ingest.table import Table

GENE_EXPRESSION: Final = "Gene Expression"
_COLUMNS: Final = ("feature_type", "feature_types")
"""As our readers of 10x files call it, and as scanpy does."""
_OTHERS: Final = frozenset(
    {"Antibody Capture", "Antigen Capture", "CRISPR Guide Capture", "Custom", "Multiplexing Capture", "Peaks"}
)
"""Types of features that are no genes. Source: "Feature-Barcode Matrices" in 10x Genomics' documentation."""


def kept_features(var: Table, *, where: str) -> npt.NDArray[np.bool_] | None:
    """(features,) those that are genes, None where all are; InputError D012 where none is."""
    types = _types(var)
    if types is None:
        return None
    kept = np.isin(types, [GENE_EXPRESSION, ""])
    if not kept.any():
        found = ", ".join(f"{n:,} {t}" for t, n in Counter(types).items())
        fix = "name a matrix with gene expression; of a multiome run, filtered_feature_bc_matrix.h5"
        raise refuse("D012", f"no feature is {GENE_EXPRESSION}: the file has {found}", where=where, fix=fix)
    return None if kept.all() else kept


def feature_notes(var: Table) -> list[str]:
    """One sentence on the kinds of features, where there are several."""
    types = _types(var)
    if types is None or len(set(types)) < 2:
        return []
    counts = Counter(types)
    genes = counts.pop(GENE_EXPRESSION, 0) + counts.pop("", 0)
    others = ", ".join(f"{n:,} {t}" for t, n in counts.items())
    return [f"{genes:,} {GENE_EXPRESSION} features are kept; {others} are no genes and dropped"]


def _types(var: Table) -> npt.NDArray[Any] | None:
    """(features,) type of each; None without such a column, or where it has none of 10x's types but another meaning."""
    for name in _COLUMNS:
        types = var.texts(name) if name in var.columns else None
        if types is not None and not {GENE_EXPRESSION, *_OTHERS}.isdisjoint(types):
            return types
    return None
