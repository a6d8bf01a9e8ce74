"""Pieces of a conversion that any process can do, in any order. In: a plan. Out: parts, turned matrices, checksums.

A part is a function of the plan alone: which process makes it, and when, changes no byte. A job writes into a folder
of its own; the process that leads moves the result to its place and notes it down, so that a worker that outlives
its leader spoils nothing.
"""

from __future__ import annotations

import itertools
import shlex
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from scmf.core.config import Config
from scmf.core.errors import InputError
from scmf.data.cell_hash import KeyArray, gene_keys
from scmf.data.ingest.blocks import RawBlock, iter_blocks
from scmf.data.ingest.counts import FAULTS, elements_with_counts
from scmf.data.ingest.findings import refuse
from scmf.data.ingest.genes import column_numbers
from scmf.data.ingest.kernels import first_fault
from scmf.data.ingest.part_filler import Fault, PartFiller, Tally
from scmf.data.ingest.plan import ConvertOptions, Plan, SourcePlan
from scmf.data.ingest.recognise import open_source
from scmf.data.ingest.source import Matrix, ReadWishes, Source, reading
from scmf.data.ingest.statistics import Pairs, pairs, save_gene_histogram
from scmf.data.ingest.turned import is_turned, turn, turned
from scmf.data.manifest import Checksum, PartRecord, describe_file
from scmf.data.store_writer import sync_tree

Array = npt.NDArray[Any]
Advance = Callable[[int], None]

SOURCE_COLUMN: Final = "scmf_source"
"""Column of obs that names the file from which a cell came."""
_OBS_BYTES: Final = 16 << 20
_BYTES_A_FIELD: Final = 160
"""One text of obs as a Python object, and its copies on the way to the disk."""


class FinishedPart(Config):
    """What is known of a part that is whole and on the disk."""

    record: PartRecord
    obs_columns: tuple[str, ...]
    tallies: dict[int, dict[str, int]]
    """Number of a source: what happened to its cells of this part."""
    lengths: Pairs
    library: Pairs


class SourceFile(Config):
    """Checksum of a source, taken over all of its files in order."""

    bytes: int
    checksum: Checksum


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive cells of one source."""

    source: int
    start: int
    stop: int


@dataclass
class Site:
    """What every job needs to know. Travels to workers as it is; what it finds out stays with the process."""

    plan: Plan
    options: ConvertOptions
    folder: Path
    """Where the conversion is being made."""
    budget: int
    """Bytes by which a process may grow."""
    symbols: dict[str, str] = field(default_factory=dict)
    """Symbols that are known beforehand, by gene id."""

    @property
    def text(self) -> Path:
        """Folder for unpacked text of sources."""
        return self.folder / "scratch" / "text"

    def turned(self, source: int) -> Path:
        """Folder of a source's matrix, turned."""
        return self.folder / "scratch" / f"turned-{source}"

    def attempt(self) -> Path:
        """A folder that nothing else will use."""
        return self.folder / "scratch" / f"attempt-{uuid.uuid4().hex[:12]}"

    @cached_property
    def var(self) -> pd.DataFrame:
        """Genes of the store with their symbols."""
        symbols = {gene: self.symbols.get(gene, "") for gene in self.plan.gene_numbers}
        for source in self.plan.sources:
            for gene, symbol in zip(source.genes.ids, source.genes.symbols, strict=True):
                if gene and not symbols[gene]:
                    symbols[gene] = symbol
        index = pd.Index(list(symbols), dtype=object)
        return pd.DataFrame({"gene_symbol": np.array(list(symbols.values()), dtype=object)}, index=index)

    @cached_property
    def keys(self) -> KeyArray:
        """(n_genes,) keys of the genes, for hashes of cells."""
        return gene_keys(self.plan.gene_numbers)

    def open(self, source: SourcePlan) -> Source:
        """Open a source as it was planned."""
        return open_source(source.path, ReadWishes(self.options.cells_in, self.text))


class Job(Protocol):
    """One piece of work."""

    @property
    def key(self) -> str:
        """Name under which the result is noted down."""

    def run(self, site: Site, advance: Advance) -> tuple[Config, Path | None]:
        """Do it; returns the result and the folder whose content is to be moved to its place."""


@dataclass(frozen=True, slots=True)
class ChecksumJob:
    """Reads every byte of a source."""

    source: int

    @property
    def key(self) -> str:
        """Name of the note."""
        return f"checksum-{self.source}"

    def run(self, site: Site, advance: Advance) -> tuple[SourceFile, None]:
        """Checksum of the source's files; of several, the checksum of their checksums."""
        import xxhash

        del advance
        with site.open(site.plan.sources[self.source]) as file:
            found = [describe_file(path) for path in file.files()]
        if len(found) == 1:
            return SourceFile(bytes=found[0].bytes, checksum=found[0].checksum), None
        text = "".join(record.checksum for record in found).encode()
        return SourceFile(bytes=sum(r.bytes for r in found), checksum=xxhash.xxh3_128_hexdigest(text)), None


class Turned(Config):
    """A matrix that lies on the disk as CSR."""


@dataclass(frozen=True, slots=True)
class TurnJob:
    """Turns a CSC or COO matrix into CSR on the disk, so that parts can be cut from it."""

    source: int

    @property
    def key(self) -> str:
        """Name of the note."""
        return f"turned-{self.source}"

    def run(self, site: Site, advance: Advance) -> tuple[Turned, Path]:
        """Turn it."""
        del advance
        source, attempt = site.plan.sources[self.source], site.attempt()
        with site.open(source) as file, reading(source.path, source.element):
            turn(file.matrices()[source.element], attempt / f"turned-{self.source}", budget=site.budget)
        sync_tree(attempt)
        return Turned(), attempt


@dataclass(frozen=True, slots=True)
class PartJob:
    """Makes one part."""

    name: str
    segments: tuple[Segment, ...] = field(repr=False)

    @property
    def key(self) -> str:
        """Name of the note."""
        return self.name

    def run(self, site: Site, advance: Advance) -> tuple[FinishedPart, Path]:
        """Make the part, and beside it what is wanted of its cells: NAME.hashes and NAME.genes."""
        attempt = site.attempt()
        filler = PartFiller(
            attempt / self.name,
            var=site.var,
            keys=site.keys,
            medians=site.options.making.medians,
            obsm=site.plan.obsm,
        )
        tallies: dict[int, dict[str, int]] = {}
        try:
            for segment in self.segments:
                tally = _SegmentReader(site, segment, attempt / "scratch").fill(filler, advance)
                tallies[segment.source] = {name: getattr(tally, name) for name in Tally.__slots__}
        except BaseException:
            filler.abandon()
            raise
        return self._close(filler, attempt, tallies), attempt

    def _close(self, filler: PartFiller, attempt: Path, tallies: dict[int, dict[str, int]]) -> FinishedPart:
        columns = filler.obs.columns
        record = filler.close()
        filler.hashes.tofile(attempt / f"{self.name}.hashes")
        if filler.gene_histogram is not None:
            save_gene_histogram(attempt / f"{self.name}.genes", filler.gene_histogram)
        sync_tree(attempt)
        return FinishedPart(
            record=record,
            obs_columns=columns,
            tallies=tallies,
            lengths=pairs(filler.histograms.lengths),
            library=pairs(filler.histograms.library),
        )


class _SegmentReader:
    """Consecutive cells of one source on their way into a part."""

    def __init__(self, site: Site, segment: Segment, scratch: Path) -> None:
        self.site, self.segment, self.scratch = site, segment, scratch
        self.source = site.plan.sources[segment.source]
        self.numbers = column_numbers(self.source.genes, site.plan.gene_numbers)

    def fill(self, filler: PartFiller, advance: Advance) -> Tally:
        """Append the cells and their rows of obs."""
        tally, where = Tally(), (self.source.path, self.source.element)
        with self.site.open(self.source) as file, reading(*where):
            for block in self._blocks(file):
                fault = filler.put(block, self.numbers, tally)
                if fault is not None:
                    raise self._refusal(file, block, fault)
                advance(block.n_cells)
            for frame in self._obs(file):
                filler.obs.add(frame)
            for name in filler.obsm.records:
                self._add_obsm(file, name, filler)
        return tally

    def _add_obsm(self, file: Source, name: str, filler: PartFiller) -> None:
        node, rows = file.obsm()[name], max(1, _OBS_BYTES // (8 * filler.obsm.records[name].width))
        for start in range(self.segment.start, self.segment.stop, rows):
            filler.obsm.add(name, node[start : min(start + rows, self.segment.stop)])

    def _blocks(self, file: Source) -> Iterator[RawBlock]:
        matrix = _by_cells(self.site, self.segment.source, file.matrices()[self.source.element])
        cells, budget = (self.segment.start, self.segment.stop), self.site.budget
        return iter_blocks(matrix, budget=budget, scratch=self.scratch, cells=cells)

    def _obs(self, file: Source) -> Iterator[pd.DataFrame]:
        """Rows of obs, some megabytes at a time."""
        first = file.obs_rows(self.segment.start, self.segment.start + 1, element=self.source.element)
        rows = int(np.clip(_OBS_BYTES // (_BYTES_A_FIELD * (1 + first.shape[1])), 1 << 10, 1 << 16))
        for start in range(self.segment.start, self.segment.stop, rows):
            stop = min(start + rows, self.segment.stop)
            frame = file.obs_rows(start, stop, element=self.source.element)
            if (kept_as := own_source_column(frame.columns)) is not None:
                frame = frame.rename(columns={SOURCE_COLUMN: kept_as})
            frame[SOURCE_COLUMN] = pd.Categorical([self.source.name]).repeat(stop - start)
            yield frame

    def _refusal(self, file: Source, block: RawBlock, fault: Fault) -> InputError:
        number, name = FAULTS[fault.kind]
        element = self.source.element
        others = elements_with_counts(file, but=element)
        return refuse(
            number,
            f"{element} holds {name}: {', '.join(self._offenders(file, block, fault))}",
            where=f"{self.source.path}: {element}",
            fix=f"{self.site.plan.command} --counts {shlex.quote(others[0])}" if others else None,
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


def own_source_column(columns: Iterable[str]) -> str | None:
    """Under which name a source's own column `scmf_source` (of an earlier store) is kept; None where it has none."""
    known = set(columns)
    if SOURCE_COLUMN not in known:
        return None
    return next(name for k in itertools.count(1) if (name := f"{SOURCE_COLUMN}_{k}") not in known)


def cut_parts(plan: Plan, *, cells_per_part: int, first: int = 0) -> list[PartJob]:
    """Jobs of all parts, which are cut across sources in the order of their cells."""
    starts = np.cumsum([0, *(source.n_cells for source in plan.sources)])
    jobs = []
    for number, start in enumerate(range(0, plan.n_cells, cells_per_part), start=first):
        stop = min(start + cells_per_part, plan.n_cells)
        segments = [
            Segment(k, max(start, int(a)) - int(a), min(stop, int(b)) - int(a))
            for k, (a, b) in enumerate(pairwise(starts))
            if a < stop and b > start
        ]
        jobs.append(PartJob(f"part-{number:05d}", tuple(segments)))
    return jobs


def sources_to_turn(plan: Plan, parts: list[PartJob]) -> list[TurnJob]:
    """Sources whose cells cannot be read from the middle and go into more than one part."""
    uses = [segment.source for part in parts for segment in part.segments]
    turnable = [k for k, source in enumerate(plan.sources) if source.layout in {"csc", "coo"}]
    return [TurnJob(k) for k in turnable if uses.count(k) > 1]


def _by_cells(site: Site, source: int, matrix: Matrix) -> Matrix:
    """The matrix, or its turned form where there is one."""
    folder = site.turned(source)
    return turned(folder, like=matrix) if is_turned(folder) else matrix
