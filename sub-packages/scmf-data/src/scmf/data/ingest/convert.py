"""Conversion. In: h5ad files. Out: a cell store whose every count was checked, or nothing."""

from __future__ import annotations

import errno
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from scmf.core.errors import InputError, StoreError
from scmf.data.ingest.blocks import RawBlock, iter_blocks
from scmf.data.ingest.counts import FAULTS, elements_with_counts
from scmf.data.ingest.filler import Fault, PartFiller, Tally
from scmf.data.ingest.genes import column_numbers
from scmf.data.ingest.inspection import make_plan
from scmf.data.ingest.kernels import first_fault
from scmf.data.ingest.plan import ConvertOptions, Plan, Request, SourcePlan
from scmf.data.ingest.progress import Progress
from scmf.data.ingest.refusals import refuse
from scmf.data.ingest.source import ReadWishes, Source, open_source, reading
from scmf.data.manifest import Manifest, SourceRecord
from scmf.data.store_writer import StoreWriter, describe_file

Array = npt.NDArray[Any]
Log = Callable[[str], None]

SOURCE_COLUMN: Final = "scmf_source"
"""Column of obs that names the file from which a cell came."""
_PROGRAM_BYTES: Final = 256 << 20
"""What Python, numba, anndata and zarr take before the first cell."""
_LEAST_BUDGET: Final = 32 << 20
_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True, slots=True)
class Conversion:
    """What a conversion made."""

    manifest: Manifest
    tallies: tuple[Tally, ...]
    """One a source."""


def convert(sources: Sequence[Path], dest: Path, options: ConvertOptions, *, log: Log) -> Conversion:
    """Convert h5ad files to one store.

    Args:
        sources: the files, in the order of their cells.
        dest: folder to make.
        options: the user's wishes.
        log: takes one line for people: what was chosen, why, and what was dropped.

    Raises:
        InputError: a source that is refused, with its number.
        StoreError: a destination that exists, or a disk that is full. Nothing is left in the way.
    """
    with StoreWriter(dest, overwrite=options.overwrite) as writer:
        plan = make_plan(Request(tuple(sources), options, dest), log=log, scratch=writer.scratch)
        for line in (line for source in plan.sources for line in source.lines()):
            log(line)
        try:
            conversion = _fill(writer, plan, options)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise _full_disk(error, dest) from error
    for source, tally in zip(plan.sources, conversion.tallies, strict=True):
        log(_summary(source, tally))
    return conversion


def _fill(writer: StoreWriter, plan: Plan, options: ConvertOptions) -> Conversion:
    filler = PartFiller(writer, var=_var(plan), cells_per_part=options.cells_per_part)
    tallies: list[Tally] = []
    records: list[SourceRecord] = []
    with Progress("converting", plan.n_cells) as progress:
        for source in plan.sources:
            tally = _Source(source, plan, filler, options).convert(progress, writer.scratch)
            records.append(_record(source, tally, first_cell=sum(r.n_cells for r in records)))
            tallies.append(tally)
    filler.close_part()
    manifest = Manifest(
        n_cells=plan.n_cells,
        n_values=sum(p.n_values for p in filler.records),
        max_count=max(p.max_count for p in filler.records),
        id_space=options.genes.id_space,
        species=plan.species,
        gene_ids=tuple(plan.gene_numbers),
        obs_columns=tuple(filler.obs_columns),
        parts=tuple(filler.records),
        sources=tuple(records),
    )
    writer.finish(manifest)
    return Conversion(manifest, tuple(tallies))


class _Source:
    """One source on its way into the store."""

    def __init__(self, source: SourcePlan, plan: Plan, filler: PartFiller, options: ConvertOptions) -> None:
        self.source, self.plan, self.filler, self.options = source, plan, filler, options
        self.budget = max(_LEAST_BUDGET, options.memory - _PROGRAM_BYTES)
        self.numbers = column_numbers(source.genes, plan.gene_numbers)
        self.tally = Tally()

    def convert(self, progress: Progress, scratch: Path) -> Tally:
        """Stream the cells into parts."""
        with (
            open_source(self.source.path, ReadWishes(self.options.cells_in, scratch)) as file,
            reading(self.source.path, self.source.element),
        ):
            matrix = file.matrices()[self.source.element]
            noted = 0  # cells whose obs rows have been handed over
            for block in iter_blocks(matrix, budget=self.budget, scratch=scratch):
                done = 0
                while done < block.n_cells:
                    n = min(block.n_cells - done, self.filler.room)
                    self._put(file, block.cells(done, done + n))
                    done += n
                    progress.advance(n)
                    if not self.filler.room:
                        self.filler.add_obs(self._obs(file, noted, block.first_cell + done))
                        self.filler.close_part()
                        noted = block.first_cell + done
            if noted < self.source.n_cells:
                self.filler.add_obs(self._obs(file, noted, self.source.n_cells))
        if not self.tally.values:
            where = f"{self.source.path}: {self.source.element}"
            raise refuse("D004", "no kept gene has a count above zero", where=where)
        return self.tally

    def _put(self, file: Source, block: RawBlock) -> None:
        fault = self.filler.put(block, self.numbers, self.tally)
        if fault is not None:
            raise self._refusal(file, block, fault)

    def _obs(self, file: Source, start: int, stop: int) -> pd.DataFrame:
        frame = file.obs_rows(start, stop, element=self.source.element)
        frame[SOURCE_COLUMN] = pd.Categorical([self.source.name]).repeat(stop - start)
        return frame

    def _refusal(self, file: Source, block: RawBlock, fault: Fault) -> InputError:
        number, name = FAULTS[fault.kind]
        element = self.source.element
        others = elements_with_counts(file, but=element)
        return refuse(
            number,
            f"{element} holds {name}: {', '.join(self._offenders(file, block, fault))}",
            where=f"{self.source.path}: {element}",
            fix=f"{self.plan.command} --counts {shlex.quote(others[0])}" if others else None,
        )

    def _offenders(self, file: Source, block: RawBlock, fault: Fault) -> list[str]:
        """The first three offending values with their cell and gene."""
        cells, genes = file.cells_of(self.source.element), file.var(self.source.element).index()
        position = fault.position
        found: list[str] = []
        while position >= 0 and len(found) < 3:
            row = int(np.searchsorted(block.indptr, position, side="right")) - 1
            cell = cells.index(block.first_cell + row, block.first_cell + row + 1)[0]
            column = int(block.columns[position])
            gene = genes[column] if 0 <= column < len(genes) else f"number {column}"
            found.append(f"{block.values[position]:.6g} (cell {cell}, gene {gene})")
            step = int(first_fault(block.values[position + 1 :]))
            position = position + 1 + step if step >= 0 else -1
        return found


def _var(plan: Plan) -> pd.DataFrame:
    symbols = dict.fromkeys(plan.gene_numbers, "")
    for source in plan.sources:
        for gene, symbol in zip(source.genes.ids, source.genes.symbols, strict=True):
            if gene and not symbols[gene]:
                symbols[gene] = symbol
    index = pd.Index(list(symbols), dtype=object)
    return pd.DataFrame({"gene_symbol": np.array(list(symbols.values()), dtype=object)}, index=index)


def _record(source: SourcePlan, tally: Tally, *, first_cell: int) -> SourceRecord:
    genes = source.genes
    file = describe_file(source.path)
    kept = [i for i in genes.ids if i]
    return SourceRecord(
        name=source.name,
        bytes=file.bytes,
        checksum=file.checksum,
        first_cell=first_cell,
        n_cells=source.n_cells,
        counts=source.element,
        layout=source.layout,
        gene_column=genes.column,
        n_genes=source.n_genes,
        genes_without_id=genes.without_id,
        genes_of_other_species=genes.other_species,
        other_features=genes.other_features,
        repeated_columns=len(kept) - len(set(kept)),
        versions_stripped=genes.versions_stripped,
        values_rounded=tally.rounded,
    )


def _summary(source: SourcePlan, tally: Tally) -> str:
    share = tally.kept / max(1, tally.kept + tally.dropped)
    notes = [f"{tally.values:,} counts kept, {share:.2%} of all molecules"]
    if tally.empty_cells:
        notes.append(f"{tally.empty_cells:,} cells without a count")
    if tally.rounded:
        notes.append(f"{tally.rounded:,} values rounded within float noise")
    return f"{source.path}: every value checked; {'; '.join(notes)}"


def _full_disk(error: OSError, dest: Path) -> StoreError:
    return StoreError(
        f"the store could not be written: {error.strerror}",
        where=str(error.filename or dest),
        fix="free space on that disk or name another --dest, then run the same command again; nothing was left behind",
    )
