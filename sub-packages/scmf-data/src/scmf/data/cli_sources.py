"""The flags that say how sources are read, for every sub-command that reads them. In: a parser. Out: the wishes."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from scmf.data.ingest.plan import ConvertOptions

_UNITS: Final = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30}


def add_source_flags(parser: argparse.ArgumentParser) -> None:
    """Sources and everything that decides what is read from them."""
    what = "h5ad, 10x h5 or mtx, loom, zarr, CSV ... (docs/inputs.md), in the order of their cells"
    parser.add_argument("sources", nargs="+", type=Path, metavar="SRC", help=what)
    parser.add_argument(
        "--counts", default="auto", metavar="WHERE", help="raw counts: auto, X, raw.X or layers/NAME (default: auto)"
    )
    parser.add_argument("--gene-column", metavar="NAME", help="column of var with the gene ids (default: found)")
    parser.add_argument(
        "--gene-ids",
        default="ensembl",
        choices=("ensembl", "map", "symbols"),
        help="the file's Ensembl ids (default: ensembl), its names mapped to them, or its names as they are",
    )
    parser.add_argument("--species", choices=("human", "mouse"), help="keep the genes of this species only")
    parser.add_argument(
        "--gene-table", type=Path, metavar="FILE", help="CSV of name,id that --gene-ids map uses first: your own names"
    )
    parser.add_argument(
        "--orthologs", choices=("human",), help="give mouse genes the ids of their one-to-one human orthologs"
    )
    parser.add_argument(
        "--gene-report", type=Path, metavar="FILE", help="CSV file to make: what became of every column, and how"
    )
    parser.add_argument(
        "--cells-in",
        choices=("rows", "columns"),
        help="where the cells of a plain table or matrix are (default: found)",
    )
    parser.add_argument(
        "--obsm", default="", metavar="NAMES", help="arrays of obsm to keep, such as spatial,X_pca (default: none)"
    )
    parser.add_argument(
        "--memory", default=512 << 20, type=parse_bytes, metavar="BYTES", help="stay within this (default: 512MiB)"
    )


def source_options(options: argparse.Namespace) -> ConvertOptions:
    """The wishes of a parsed command line; a sub-command without one of convert's flags has its default."""
    from scmf.data.ingest.genes import GeneWishes
    from scmf.data.ingest.plan import ConvertOptions

    return ConvertOptions(
        counts=options.counts,
        genes=GeneWishes(
            column=options.gene_column,
            id_space="symbols" if options.gene_ids == "symbols" else "ensembl",
            map_names=options.gene_ids == "map",
            species=options.species,
            table=options.gene_table,
            orthologs=options.orthologs,
        ),
        gene_report=options.gene_report,
        memory=options.memory,
        cells_in=options.cells_in,
        obsm=tuple(name for name in options.obsm.split(",") if name),
    )


def parse_bytes(text: str) -> int:
    """Bytes from `2GB`, `512MiB` or `1000000`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]i?|)b?", text.strip().lower())
    if not match or match.group(2) not in _UNITS:
        raise argparse.ArgumentTypeError(f"{text!r} is no amount of memory; write 2GB or 512MiB")
    return int(float(match.group(1)) * _UNITS[match.group(2)])
