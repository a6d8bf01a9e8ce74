"""The manifest of a conversion. In: its finished parts. Out: the manifest, and what happened to each source."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from scmf.data.ingest.duplicate_policy import thinned
from scmf.data.ingest.findings import refuse
from scmf.data.ingest.jobs import FinishedPart, Site, SourceFile
from scmf.data.ingest.journal import ConversionFolder
from scmf.data.ingest.part_filler import Tally
from scmf.data.ingest.plan import SourcePlan
from scmf.data.ingest.statistics import add_gene_histogram, add_pairs
from scmf.data.manifest import FindingRecord, Manifest, SourceRecord
from scmf.data.medians import BINS, medians_of

BoolArray = npt.NDArray[np.bool_]


def describe(
    folder: ConversionFolder,
    site: Site,
    parts: Sequence[FinishedPart],
    *,
    kept: BoolArray | None = None,
    first_cell: int = 0,
) -> tuple[Manifest, tuple[Tally, ...]]:
    """The manifest of the parts, and what happened to each source.

    Args:
        folder: with the notes.
        site: what was planned.
        parts: what was made.
        first_cell: of the first source in the store.
        kept: (cells of the sources,) cells that are left after duplicates were dropped; None for all.

    Raises:
        InputError: D004, a source without a single count in the genes kept.
    """
    plan = site.plan
    tallies = tuple(_tally(parts, k) for k in range(len(plan.sources)))
    for source, tally in zip(plan.sources, tallies, strict=True):
        if not tally.values:
            where = f"{source.path}: {source.element}"
            raise refuse("D004", "no kept gene has a count above zero", where=where)
    medians, gene_cells = _medians(folder, site, parts)
    manifest = Manifest(
        n_cells=sum(p.record.n_cells for p in parts),
        n_values=sum(p.record.n_values for p in parts),
        max_count=max(p.record.max_count for p in parts),
        id_space=site.options.genes.id_space,
        species=plan.species,
        gene_ids=tuple(plan.gene_numbers),
        obs_columns=tuple(dict.fromkeys(c for p in parts for c in p.obs_columns)),
        parts=tuple(p.record for p in parts),
        sources=_records(folder, site, tallies, kept, first_cell),
        gene_medians=medians,
        gene_cells=gene_cells,
        length_histogram=add_pairs(p.lengths for p in parts),
        library_histogram=add_pairs(p.library for p in parts),
    )
    if kept is None:
        return manifest, tallies
    note = f"{int((~kept).sum()):,} cells with the same counts as an earlier cell were dropped"
    return manifest.replace(duplicate_cells=0, history=(note,)), tallies


def summary(source: SourcePlan, tally: Tally) -> str:
    """What happened to a source, for people."""
    share = tally.kept / max(1, tally.kept + tally.dropped)
    others = " (with those of features that are no genes)" if source.genes.other_features else ""
    notes = [f"{tally.values:,} counts kept, {share:.2%} of all molecules{others}"]
    if tally.empty_cells:
        notes.append(f"{tally.empty_cells:,} cells without a count")
    if tally.rounded:
        notes.append(f"{tally.rounded:,} values rounded within float noise")
    return f"{source.path}: every value checked; {'; '.join(notes)}"


def _tally(parts: Sequence[FinishedPart], source: int) -> Tally:
    total = Tally()
    for part in parts:
        if source in part.tallies:
            total.add(Tally(**part.tallies[source]))
    return total


def _records(
    folder: ConversionFolder, site: Site, tallies: Sequence[Tally], kept: BoolArray | None, first: int
) -> tuple[SourceRecord, ...]:
    records = []
    for k, (source, tally) in enumerate(zip(site.plan.sources, tallies, strict=True)):
        file = folder.note(f"checksum-{k}", SourceFile)
        if file is None:
            raise RuntimeError(f"source {k} has no checksum")
        record = _record(source, tally, file, first_cell=first)
        records.append(record if kept is None else thinned(record, kept))
        first += source.n_cells
    return tuple(records)


def _record(source: SourcePlan, tally: Tally, file: SourceFile, *, first_cell: int) -> SourceRecord:
    genes = source.genes
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
        **genes.record(),
        values_rounded=tally.rounded,
        findings=tuple(FindingRecord(**f.record()) for f in source.findings),
    )


def _medians(
    folder: ConversionFolder, site: Site, parts: Sequence[FinishedPart]
) -> tuple[tuple[float, ...] | None, tuple[int, ...] | None]:
    """Median of each gene and the cells that have it, where they are wanted."""
    if not site.options.making.medians:
        return None, None
    total = np.zeros((len(site.plan.gene_numbers), BINS), np.uint32)
    for part in parts:
        add_gene_histogram(folder.place(f"{part.record.name}.genes"), total)
    cells = total.sum(axis=1, dtype=np.int64)
    return tuple(float(m) for m in medians_of(total)), tuple(int(n) for n in cells)
