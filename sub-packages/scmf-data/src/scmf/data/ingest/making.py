"""How a store is made, beside what is read. In: the user's wishes. Out: the same, checked, and as flags."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Duplicates = Literal["report", "keep", "drop", "refuse"]

DUPLICATES: Final[dict[Duplicates, str]] = {
    "report": "say how many there are and keep them",
    "keep": "do not look",
    "drop": "keep the first of each",
    "refuse": "make no store of sources that have some",
}
"""What may become of cells with the same counts in the same genes as an earlier one."""

MOST_CELLS: Final = 1_000_000
_SPLIT_FROM: Final = 50_000
_PARTS: Final = 16


@dataclass(frozen=True, slots=True)
class Making:
    """Wishes about the making of a store."""

    workers: int = 1
    """Processes that make parts."""
    duplicates: Duplicates = "report"
    medians: bool = False
    """Compute each gene's median on the way."""
    skip_space_check: bool = False

    def flags(self) -> list[str]:
        """The wishes that are not the defaults, as the command spells them."""
        flags = ["--workers", str(self.workers)] if self.workers > 1 else []
        flags += ["--duplicates", self.duplicates] if self.duplicates != "report" else []
        flags += ["--medians"] if self.medians else []
        return [*flags, *(["--skip-space-check"] if self.skip_space_check else [])]


def cells_of_part(n_cells: int) -> int:
    """Cells a part where nobody says: even parts of at most a million, and enough of them for several workers.

    Depends on the cells alone, so that the store is the same for any number of workers.
    """
    n_parts = max(-(-n_cells // MOST_CELLS), min(n_cells // _SPLIT_FROM, _PARTS), 1)
    return -(-n_cells // n_parts)


def usual_memory(workers: int, *, medians: bool = False) -> int:
    """Bytes for all processes where nobody says: 512 MiB for one, 144 MiB more for each other.

    Medians take 6 kB a gene in each process: 384 MiB more are enough for 65,536 genes.
    """
    return (512 << 20) + (workers - 1) * (144 << 20) + medians * workers * (384 << 20)
