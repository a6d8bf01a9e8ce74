"""Every reason for which a source file is refused. In: a number and what was found. Out: an InputError.

The numbers are stable: scripts and search engines may rely on them. docs/store.md prints this table.
"""

from __future__ import annotations

from typing import Final

from scmf.core.errors import InputError

REFUSALS: Final[dict[str, tuple[str, str]]] = {
    "D001": (
        "The file is missing, is a folder, or is not HDF5.",
        "Check the path; `file NAME` says what the file is.",
    ),
    "D002": (
        "The file is HDF5 but not h5ad (a loom or 10x file), or its obs or var cannot be read.",
        "Read it with anndata or scanpy and write it with `write_h5ad`.",
    ),
    "D003": (
        "A matrix is not CSR, CSC or dense numbers, or does not fit obs and var.",
        "Read the file with anndata, check it, and write it again.",
    ),
    "D004": ("The matrix has no cells or no genes.", "Leave the file out."),
    "D005": (
        "The element that `--counts` names is not in the file.",
        "Name one of the elements that the message lists.",
    ),
    "D006": ("Negative values: scaled, centred or corrected data.", "Name the element with raw counts: `--counts`."),
    "D007": ("Values that are not finite.", "Name another element with `--counts`, or mend the file at its origin."),
    "D008": (
        "Values that are not integers: normalised, logarithmic or corrected data.",
        "Name the element with raw counts: `--counts`.",
    ),
    "D009": (
        "No element of the file holds raw counts.",
        "Get the file with raw counts from its origin; normalised values cannot be turned back.",
    ),
    "D010": (
        "No column of var holds Ensembl gene ids.",
        "Add a column of Ensembl ids and name it with `--gene-column`, or keep the names with `--gene-ids symbols`.",
    ),
    "D011": (
        "The column that `--gene-column` names is missing or does not hold gene ids.",
        "Name one of the columns that the message lists.",
    ),
    "D012": (
        "No gene of the file can be kept.",
        "Name the right `--gene-column` or `--species`, or leave the file out.",
    ),
    "D013": (
        "Genes of more than one species.",
        "Say which to keep with `--species`; the others are dropped and counted.",
    ),
    "D014": ("A count above 4,294,967,295.", "Such a value is no count of molecules: mend the file at its origin."),
    "D015": (
        "A sparse matrix points outside its genes or values.",
        "The file is damaged: get it again from its origin.",
    ),
    "D016": ("The file is cut short or damaged: part of it cannot be read.", "Get the file again from its origin."),
}
"""Number: what it means, and what mends it in general. Messages give the exact command where there is one."""


def refuse(number: str, what: str, *, where: str, fix: str | None = None) -> InputError:
    """Error with a stable number; `fix` defaults to the table's."""
    return InputError(f"SCMF-{number}: {what}", where=where, fix=fix or REFUSALS[number][1])
