"""Conversion. In: sources. Out: a cell store whose every count was checked, or nothing."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import xxhash

from scmf.core.errors import MachineError, StoreError, lasting_path
from scmf.data.ingest.budget import check_space, worker_budget
from scmf.data.ingest.describe import describe, summary
from scmf.data.ingest.duplicate_policy import Duplicates, drop_cells
from scmf.data.ingest.duplicates import find_duplicates
from scmf.data.ingest.inspection import make_plan
from scmf.data.ingest.jobs import (
    SOURCE_COLUMN,
    ChecksumJob,
    FinishedPart,
    Job,
    PartJob,
    Site,
    SourceFile,
    Turned,
    cut_parts,
    sources_to_turn,
)
from scmf.data.ingest.journal import ConversionFolder, Identity, program_version, state_of
from scmf.data.ingest.making import cells_of_part
from scmf.data.ingest.part_filler import Tally
from scmf.data.ingest.plan import ConvertOptions, Plan, Request
from scmf.data.ingest.recognise import open_source
from scmf.data.ingest.workers import run_jobs
from scmf.data.manifest import Manifest
from scmf.data.part import Part
from scmf.data.progress import Progress
from scmf.data.store import CellStore

__all__ = ["SOURCE_COLUMN", "Conversion", "convert", "make_parts"]

Log = Callable[[str], None]

_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True, slots=True)
class Conversion:
    """What a conversion made."""

    manifest: Manifest
    tallies: tuple[Tally, ...]
    """One a source."""


def convert(sources: Sequence[Path], dest: Path, options: ConvertOptions, *, log: Log) -> Conversion:
    """Convert sources to one store; the same call after an interruption goes on where it was.

    Args:
        sources: the sources, in the order of their cells.
        dest: folder to make.
        options: the user's wishes.
        log: takes one line for people: what was chosen, why, and what was dropped.

    Raises:
        InputError: a source that is refused, with its number. Nothing is left behind.
        StoreError: a destination that exists or is inside a source, or a disk that is full.
        MachineError: too little memory was allowed, or a worker was killed.
    """
    _check_apart(sources, dest)
    with ConversionFolder(dest, overwrite=options.overwrite) as folder:
        plan = look_at(Request(tuple(sources), options, dest), folder, log)
        site = Site(plan, options, folder.path, worker_budget(plan, options))
        parts = cut_parts(plan, cells_per_part=options.cells_per_part or cells_of_part(plan.n_cells))
        with interruptible(folder, log):
            results = make_parts(folder, site, parts, log=log)
            conversion = _without_duplicates(folder, site, results, log)
            folder.finish(conversion.manifest)
    for source, tally in zip(plan.sources, conversion.tallies, strict=True):
        log(summary(source, tally))
    return conversion


def _check_apart(sources: Sequence[Path], dest: Path) -> None:
    """Refuse a destination inside a source: of a folder such as zarr, every file belongs to the user's data."""
    above = {os.path.realpath(dest), *(os.path.realpath(p) for p in dest.absolute().parents)}
    source = next((s for s in sources if s.is_dir() and os.path.realpath(s) in above), None)
    if source is not None:
        open_source(source).close()  # a folder that is no source is refused for that
        what = f"the destination is inside the source {source}"
        raise StoreError(what, where=str(dest), fix="name a --dest outside of it")


def look_at(request: Request, folder: ConversionFolder, log: Log) -> Plan:
    """Plan the conversion, and say what was found."""
    plan = make_plan(request, log=log, scratch=folder.scratch / "text")
    for line in (line for source in plan.sources for line in source.lines()):
        log(line)
    if request.options.gene_report is not None:
        from scmf.data.ingest.gene_report import write_gene_report

        write_gene_report(request.options.gene_report, [(str(s.path), s.genes) for s in plan.sources])
    return plan


def make_parts(folder: ConversionFolder, site: Site, parts: Sequence[PartJob], *, log: Log) -> list[FinishedPart]:
    """Do everything that is not done yet, and note it down as it is finished."""
    plan, options = site.plan, site.options
    states = _states(site)
    reason = folder.begin(_identity(site, parts, states))
    if reason:
        log(f"an unfinished conversion to the same place was removed: {reason}")
    done = {part.name: folder.note(part.name, FinishedPart) for part in parts}
    made = [note for note in done.values() if note is not None]
    if made:
        log(f"going on: {len(made)} of {len(parts)} parts were finished before")
    left = [part for part in parts if done[part.name] is None]
    turns = [job for job in sources_to_turn(plan, left) if folder.note(job.key, Turned) is None]
    checksums = [ChecksumJob(k) for k in range(len(plan.sources)) if folder.note(f"checksum-{k}", SourceFile) is None]
    check_space(plan, left, folder.path, options)
    total = plan.n_cells - sum(part.record.n_cells for part in made)
    with Progress("converting", total) as progress:
        stages: list[list[Job]] = [[*turns], [*left, *checksums]]
        for jobs in stages:
            for result in run_jobs(jobs, site, workers=options.making.workers, advance=progress.advance):
                folder.finish_job(result.job.key, result.result, result.attempt)
    if _states(site) != states:
        raise StoreError(
            "a source was written to while it was read",
            where=", ".join(str(source.path) for source in plan.sources),
            fix="wait until the sources are finished, then run the same command again",
        )
    notes = [folder.note(part.name, FinishedPart) for part in parts]
    return [note for note in notes if note is not None]


@contextmanager
def interruptible(folder: ConversionFolder, log: Log) -> Iterator[None]:
    """What is finished stays when the reason to stop is not the sources: Ctrl-C, memory, the disk.

    Raises:
        StoreError: the disk is full.
    """
    try:
        yield
    except (KeyboardInterrupt, MachineError, MemoryError):
        folder.keep = folder.has_parts()
        if folder.keep:
            log("finished parts are kept: the same command goes on from there")
        raise
    except OSError as error:
        folder.keep = folder.has_parts()
        if error.errno not in _FULL:
            raise
        raise _full_disk(error, folder) from error


def _without_duplicates(folder: ConversionFolder, site: Site, results: Sequence[FinishedPart], log: Log) -> Conversion:
    """Look for duplicates and do with them what is wished."""
    policy = site.options.making.duplicates
    conversion = Conversion(*describe(folder, site, results))
    if policy == "keep":
        return conversion
    manifest = conversion.manifest
    store = CellStore(folder.path, manifest, tuple(Part.open(folder.path, record) for record in manifest.parts))
    files = [folder.place(f"{result.record.name}.hashes") for result in results]
    found = Duplicates(store, *find_duplicates(store, files, budget=site.budget))
    if found and policy == "refuse":
        raise found.error()
    if found:
        log(f"duplicates: {found}; {'dropped' if policy == 'drop' else '--duplicates drop keeps the first of each'}")
    if not found or policy != "drop":
        return replace(conversion, manifest=manifest.replace(duplicate_cells=len(found)))
    left, kept = drop_cells(folder, site, store, results, found.cells)
    return Conversion(*describe(folder, site, left, kept=kept))


def _states(site: Site) -> list[list[dict[str, Any]]]:
    """State of every file of every source."""
    found = []
    for source in site.plan.sources:
        with site.open(source) as file:
            found.append(state_of(file.files()))
    return found


def _hash(names: Iterable[str]) -> str:
    return xxhash.xxh3_128_hexdigest("\n".join(names).encode())


def _identity(site: Site, parts: Sequence[PartJob], states: list[list[dict[str, Any]]]) -> Identity:
    """All that the bytes of the parts depend on."""
    options, making = site.options, site.options.making
    wishes: dict[str, Any] = {"counts": options.counts, "genes": repr(options.genes), "obsm": list(options.obsm)}
    wishes |= {"cells_in": options.cells_in, "medians": making.medians}
    return {
        "version": program_version(),
        "sources": [
            {"files": files, "name": s.name, "element": s.element, "columns": _hash(s.genes.ids)}
            for files, s in zip(states, site.plan.sources, strict=True)
        ],
        "options": wishes,
        "genes": _hash(site.plan.gene_numbers),
        "parts": [part.name for part in parts],
        "cells of the first part": sum(s.stop - s.start for s in parts[0].segments),
    }


def _full_disk(error: OSError, folder: ConversionFolder) -> StoreError:
    what, again = "nothing was left behind", "then run the same command again"
    if folder.keep:
        what = f"finished parts are kept in {folder.path}, from which it goes on"
    return StoreError(
        f"the store could not be written: {error.strerror}",
        where=lasting_path(str(error.filename or folder.dest)),
        fix=f"free space on that disk, {again}, or name another --dest; {what}",
    )
