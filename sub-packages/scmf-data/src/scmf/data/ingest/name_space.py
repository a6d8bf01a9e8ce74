"""What kind of names genes and cells have. In: their texts. Out: the kind, judged by what most of them look like."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Final, Literal

from scmf.data.ensembl import ENSEMBL
from scmf.data.gene_names import assembly_of

NameSpace = Literal["ensembl", "transcript", "probe", "prefixed", "row number", "entrez", "barcode", "symbol", "empty"]

_TRANSCRIPT: Final = re.compile(r"^(ENS[A-Z]{0,6}[TP]\d{11}|[NX][MRP]_\d{6,9})(\.\d+)?$")
_PROBE: Final = re.compile(r"^(\w+_at|ILMN_\d+|A_\d\d_P\d+|ENS[A-Z]{0,6}G\d{11}\|[^|]+\|\w+)$")
"""Affymetrix, Illumina and Agilent arrays, and the probes of 10x panels (ENSG00000000003|TSPAN6|8eab823)."""
_BARCODE: Final = re.compile(r"(^|[^A-Za-z])[ACGT]{8,}([^A-Za-z]|$)")
_ENTREZ: Final = re.compile(r"^(GeneID:|entrez:)?\d+$", re.IGNORECASE)
_COUNTED: Final = re.compile(r"^(?:gene|feature|var|v|g|row)?[_.-]?(\d+)$", re.IGNORECASE)
_LOOKED_AT: Final = 2_000
SPIKE_IN: Final = re.compile(r"^ERCC-\d{5}$")
SPREADSHEET_NUMBER: Final = re.compile(r"^\d(\.\d+)?E\+\d+$", re.IGNORECASE)
"""What a spreadsheet makes of RIKEN symbols, such as 2310009E13: 2.31E+19."""


def space_of(names: Sequence[str]) -> NameSpace:
    """The kind of most of the names, by two thousand of them; `symbol` for names that are nothing else."""
    step = max(1, len(names) // _LOOKED_AT)
    given = [n.strip() for n in names[::step] if n.strip()]
    if not given:
        return "empty"
    tests: dict[NameSpace, int] = {
        "ensembl": sum(ENSEMBL.match(n) is not None for n in given),
        "transcript": sum(_TRANSCRIPT.match(n) is not None for n in given),
        "probe": sum(_PROBE.match(n) is not None for n in given),
        "prefixed": sum(assembly_of(n) is not None for n in given),
        "barcode": sum(is_barcode(n) for n in given),
        "entrez": sum(_ENTREZ.match(n) is not None for n in given),
    }
    best = max(tests, key=lambda space: tests[space])
    if _consecutive(names[:_LOOKED_AT]):
        return "row number"
    return best if tests[best] > len(given) / 2 else "symbol"


def is_barcode(name: str) -> bool:
    """Whether a name has a stretch of bases, as the barcodes of droplets do."""
    return _BARCODE.search(name) is not None


def _consecutive(names: Sequence[str]) -> bool:
    """Whether names only count: 0, 1, 2, or gene_0, gene_1, gene_2."""
    found = [_COUNTED.match(n) for n in names]
    numbers = [int(m[1]) for m in found if m]
    return len(numbers) == len(names) > 1 and all(b - a == 1 for a, b in itertools.pairwise(numbers))
