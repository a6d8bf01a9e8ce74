"""Whether there is room. In: a plan. Out: bytes of memory for each process, or a refusal; the same for the disk."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from scmf.core.errors import MachineError, StoreError
from scmf.data.ingest.jobs import PartJob
from scmf.data.ingest.plan import ConvertOptions, Plan
from scmf.data.medians import BINS

PROGRAM_BYTES: Final = 352 << 20
"""What Python, numba, anndata and zarr take before the first cell."""
WORKER_BYTES: Final = 80 << 20
"""What one more process takes that it does not share with the others."""
MAPPED_BYTES: Final = 48 << 20
"""What is left of the tables of gene names, and of the matches, once names have been mapped; measured 43 MB."""
LEAST_BUDGET: Final = 32 << 20
_BYTES_A_VALUE: Final = 4
"""In the store: an index and a count of two bytes."""
_BYTES_A_CELL: Final = 64
"""In the store: a start, a name, some labels."""
_BYTES_TURNED: Final = 28
"""On the disk while a column-wise value is sorted: its triple, and its place in the turned matrix."""


def worker_budget(plan: Plan, options: ConvertOptions) -> int:
    """Bytes by which each process may grow.

    Raises:
        MachineError: `--memory` is less than the program and its workers take.
    """
    n = options.making.workers
    medians = len(plan.gene_numbers) * BINS * 4 if options.making.medians else 0
    fixed = PROGRAM_BYTES + (n * WORKER_BYTES if n > 1 else 0) + n * medians
    fixed += MAPPED_BYTES if options.genes.map_names or options.genes.orthologs else 0
    budget = (options.memory - fixed) // n
    if budget < LEAST_BUDGET:
        least = -(-(fixed + n * LEAST_BUDGET) // 10**6)
        why = f"{n} worker{'s' if n > 1 else ''}{' and medians' if medians else ''}"
        raise MachineError(
            f"{options.memory / 1e6:,.0f} MB of memory are too little for {why}, which take {least:,} MB at least",
            where="--memory",
            fix=f"give --memory {least}MB or more" + (", or fewer --workers" if n > 1 else ""),
        )
    return int(budget)


def check_space(plan: Plan, parts: Sequence[PartJob], folder: Path, options: ConvertOptions) -> None:
    """Refuse a disk that cannot hold what is still to be written.

    The estimate takes every stored value for a count that is kept, in the narrow types; of a dense source, whose
    zeros nobody has counted, it takes a tenth.

    Raises:
        StoreError: too little is free.
    """
    if options.making.skip_space_check:
        return
    needed = sum(_bytes_of(plan, part, segment=k) for part in parts for k in range(len(part.segments)))
    turned = sum(s.n_stored * _BYTES_TURNED for s in plan.sources if s.layout in {"csc", "coo"}) if parts else 0
    free = shutil.disk_usage(folder).free
    if needed + turned > free:
        extra = f", {turned / 1e9:,.2f} GB of them for sorting," if turned else ""
        raise StoreError(
            f"about {(needed + turned) / 1e9:,.2f} GB{extra} are needed and {free / 1e9:,.2f} GB are free",
            where=str(folder.parent),
            fix="free space on that disk or name another --dest; --skip-space-check tries all the same",
        )


def _bytes_of(plan: Plan, part: PartJob, *, segment: int) -> int:
    piece = part.segments[segment]
    source = plan.sources[piece.source]
    values = source.n_stored // 10 if source.layout == "dense" else source.n_stored
    cells = piece.stop - piece.start
    return values * cells // max(1, source.n_cells) * _BYTES_A_VALUE + cells * _BYTES_A_CELL
