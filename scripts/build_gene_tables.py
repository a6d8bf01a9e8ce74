"""Build the gene tables that scmf ships: names and ids of human and mouse, and their orthologs.

In: a folder with the GENCODE lists of CELLxGENE (`cellxgene_genes_homo_sapiens.csv.gz`, `..._mus_musculus.csv.gz`)
and Ensembl 105's orthologs by symbol (`Ensembl105_Human2Mouse_symbols.csv`), and one with Geneformer's published
dictionaries (V1/ and V2/). Out: human.parquet, mouse.parquet and human-mouse.parquet.

    python scripts/build_gene_tables.py GENE_TABLES DICTIONARIES [--dest FOLDER]
"""

from __future__ import annotations

import argparse
import csv
import gzip
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from build_vocabularies import read_dictionary

from scmf.data.ensembl import NamedSpecies
from scmf.data.gene_names import is_excel_date
from scmf.data.genes import SHIPPED, Gene, GeneTable
from scmf.data.orthologs import OrthologPair, Orthologs

GENCODE = (
    "GENCODE genes of {species}: ids, symbols, versions, lengths, biotypes; gencode_files of "
    "chanzuckerberg/single-cell-curation@65b419f55c40 on GitHub, MIT licence"
)
DICTIONARIES = (
    "Aliases and retired ids: name and Ensembl mapping dictionaries of Geneformer V1 (gc30M) and V2 (gc104M), whose "
    "sha256 are those of explorerwjy/Geneformer@dff467cb1535 on GitHub. Facts: identifiers. The mirrors state no "
    "licence; upstream is believed to be Apache-2.0"
)
RENAMES = (
    "Renames by HGNC and MGI of 2019 and 2020: SEPTn to SEPTINn, MARCHn to MARCHFn, MARCn to MTARCn, DEC1 to DELEC1 "
    "(names that spreadsheets take for dates), and the cytosolic tRNA synthetases (AARS to AARS1 ...)"
)
ORTHOLOGS = (
    "Human-mouse orthologs by symbol, Ensembl 105; Ensembl105_Human2Mouse_symbols.csv of celltypist 1.7.1, MIT "
    "licence; symbols resolved to ids with the gene tables {human} and {mouse}"
)
VERSION = "single-cell-curation@65b419f55c40"
FILES: Mapping[NamedSpecies, str] = {"human": "homo_sapiens", "mouse": "mus_musculus"}
CLONE = re.compile(r"[A-Z0-9]+-\d+[A-Z]+\d+(__[A-Z])?\.\d+")
"""Names of loci by clone, such as CH507-42P11.5: the dictionaries give all four that 10x's own ids can check to
another gene, so none is taken."""
SYNTHETASES = ("EPRS", *(f"{letter}ARS" for letter in "ACDGHIKLMNQRSTVWY"))

Aliases = dict[str, tuple[str, ...]]


def main() -> None:
    """Write the three tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", type=Path)
    parser.add_argument("dictionaries", type=Path)
    parser.add_argument("--dest", type=Path, default=SHIPPED)
    arguments = parser.parse_args()
    human, mouse = build_human(arguments.tables, arguments.dictionaries), build_mouse(arguments.tables)
    for table in (human, mouse):
        table.save(arguments.dest / f"{table.species}.parquet")
        others = f"{len(table.aliases):,} aliases, {len(table.retired):,} retired ids"
        print(f"{table.species}: {len(table):,} genes, {others}, {table.fingerprint}")
    orthologs = build_orthologs(arguments.tables / "Ensembl105_Human2Mouse_symbols.csv", human, mouse)
    orthologs.save(arguments.dest / "human-mouse.parquet")
    print(
        f"{len(orthologs.pairs):,} pairs, {len(orthologs.one_to_one):,} one-to-one; {orthologs.unresolved:,} unresolved"
    )


def build_human(tables: Path, dictionaries: Path) -> GeneTable:
    """GENCODE's genes with Geneformer's aliases and retired ids."""
    bare = _gencode(tables, "human")
    mapping = _strings(dictionaries / "V2" / "ensembl_mapping_dict_gc104M.parquet")
    retired = {old: new for old, new in mapping.items() if old.startswith("ENSG") and old not in bare and new in bare}
    names = [
        *_strings(dictionaries / "V1" / "gene_name_id_dict_gc30M.parquet").items(),
        *_strings(dictionaries / "V2" / "gene_name_id_dict_gc104M.parquet").items(),
        *mapping.items(),
    ]
    return GeneTable(
        species="human",
        version=VERSION,
        genes=bare.genes,
        aliases=_aliases(bare, _renames(bare), ((name, retired.get(gene, gene)) for name, gene in names)),
        retired=retired,
        source="; ".join([GENCODE.format(species="human"), DICTIONARIES, RENAMES]),
    )


def build_mouse(tables: Path) -> GeneTable:
    """GENCODE's genes; of the previous symbols, the renames only."""
    bare = _gencode(tables, "mouse")
    return GeneTable(
        species="mouse",
        version=VERSION,
        genes=bare.genes,
        aliases=_renames(bare),
        source="; ".join([GENCODE.format(species="mouse"), RENAMES]),
    )


def build_orthologs(path: Path, human: GeneTable, mouse: GeneTable) -> Orthologs:
    """Pairs of ids; one-to-one is decided over all pairs of symbols, before any is lost for want of an id."""
    with path.open(newline="") as file:
        symbols = [(h, m) for h, m in csv.reader(file) if m]
    partners_of_human, partners_of_mouse = _partners(symbols), _partners((m, h) for h, m in symbols)
    pairs = []
    for h, m in symbols:
        human_id, mouse_id = _id_of(human, h), _id_of(mouse, m)
        if human_id and mouse_id:
            single = len(partners_of_human[h]) == len(partners_of_mouse[m]) == 1
            pairs.append(OrthologPair(human_id, mouse_id, single))
    return Orthologs(
        version="Ensembl 105",
        pairs=tuple(sorted(_demote_repeats(pairs))),
        unresolved=len(symbols) - len(pairs),
        source=ORTHOLOGS.format(human=human.fingerprint[:19], mouse=mouse.fingerprint[:19]),
    )


def _gencode(tables: Path, species: NamedSpecies) -> GeneTable:
    with gzip.open(tables / f"cellxgene_genes_{FILES[species]}.csv.gz", "rt", newline="") as file:
        rows = sorted(csv.reader(file))
    genes = tuple(Gene(i, "" if s == i else s, int(v), int(n), b) for i, s, v, n, b in rows)
    return GeneTable(species=species, version=VERSION, genes=genes)


def _strings(path: Path) -> dict[str, str]:
    return {str(k): str(v) for k, v in read_dictionary(path).items()}


def _aliases(table: GeneTable, renames: Aliases, names: Iterable[tuple[str, str]]) -> Aliases:
    """Names that are no current symbol; one that its sources give to several genes keeps them all."""
    found = dict(renames)
    for name, gene in names:
        key = name.upper()
        new = key and key not in renames and key not in table.by_upper_symbol and gene in table
        if new and not (key.startswith("ENSG") or is_excel_date(key) or CLONE.fullmatch(key)):
            found[key] = tuple(sorted({*found.get(key, ()), gene}))
    return found


def _renames(table: GeneTable) -> Aliases:
    """The renames whose new symbol is one gene of the table, and whose old one is no current symbol."""
    current = table.by_upper_symbol
    renames = _renamed_symbols()
    return {old: current[new] for old, new in renames if old not in current and len(current.get(new, ())) == 1}


def _renamed_symbols() -> Iterator[tuple[str, str]]:
    for old, new, last in (("SEPT", "SEPTIN", 14), ("MARCH", "MARCHF", 11), ("MARC", "MTARC", 2)):
        yield from ((f"{old}{n}", f"{new}{n}") for n in range(1, last + 1))
    yield "DEC1", "DELEC1"
    yield from ((name, f"{name}1") for name in SYNTHETASES)


def _partners(pairs: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for a, b in pairs:
        found.setdefault(a, set()).add(b)
    return found


def _id_of(table: GeneTable, symbol: str) -> str:
    """Id of a symbol, by the rules for any name; "" for none."""
    found = table.map([symbol]).matches[0]
    return found.id if found.how in {"exact", "alias", "ambiguous-chosen"} else ""


def _demote_repeats(pairs: list[OrthologPair]) -> list[OrthologPair]:
    """Two symbols may lead to one id by now: then none of its pairs is one-to-one."""
    human, mouse = _partners((p.human, p.mouse) for p in pairs), _partners((p.mouse, p.human) for p in pairs)
    kept = {(p.human, p.mouse): p.one_to_one and len(human[p.human]) == len(mouse[p.mouse]) == 1 for p in pairs}
    return [OrthologPair(h, m, single) for (h, m), single in kept.items()]


if __name__ == "__main__":
    main()
