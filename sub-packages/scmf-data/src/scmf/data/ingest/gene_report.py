"""What became of every column, as a table. In: sources with their genes. Out: one CSV file."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from scmf.data.ingest.source_genes import SourceGenes

COLUMNS: Final = ("source", "column", "given", "id", "symbol", "how", "candidates")
MOST_CANDIDATES: Final = 10


def write_gene_report(path: Path, sources: Iterable[tuple[str, SourceGenes]]) -> int:
    """Write a row a column of every source; an older file is replaced as a whole.

    Args:
        path: CSV file to make.
        sources: name and genes of each source.

    Returns:
        Rows written. `column` counts from 0; `how` is a key of `scmf.data.gene_names.HOWS`; `candidates` are the
        ids of an ambiguous name, at most ten, with semicolons between them.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    rows = 0
    try:
        with unfinished.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for name, genes in sources:
                for column, (gene, symbol, origin) in enumerate(
                    zip(genes.ids, genes.symbols, genes.origins, strict=True)
                ):
                    candidates = ";".join(origin.candidates[:MOST_CANDIDATES])
                    writer.writerow([name, column, origin.given, gene, symbol, origin.how, candidates])
                    rows += 1
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return rows
