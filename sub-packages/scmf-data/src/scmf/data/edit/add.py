"""More sources into a store. In: a store and sources. Out: the same store with more parts.

Nothing that is there is touched: new parts are made beside the store, moved in, and count from the moment at which
the manifest is replaced, in one step. Genes that are new to the store are appended to its list.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from scmf.core.errors import InputError
from scmf.data.edit.repeated import repeated_cells
from scmf.data.edit.selection import check_editable, symbols_of
from scmf.data.ingest.budget import worker_budget
from scmf.data.ingest.convert import interruptible, look_at, make_parts
from scmf.data.ingest.describe import describe, summary
from scmf.data.ingest.jobs import ChecksumJob, FinishedPart, Site, cut_parts
from scmf.data.ingest.journal import ConversionFolder
from scmf.data.ingest.making import cells_of_part
from scmf.data.ingest.plan import ConvertOptions, Plan, Request
from scmf.data.ingest.statistics import add_pairs
from scmf.data.manifest import MANIFEST, Manifest, dump_manifest
from scmf.data.store import CellStore
from scmf.data.store_writer import replace_file, sync

Log = Callable[[str], None]

_PART: Final = re.compile(r"^part-\d{5,}$")


@dataclass(frozen=True, slots=True)
class AddRequest(Request):
    """What a user has asked for, as a command that adds."""

    def command(self, *, sources: tuple[Path, ...] | None = None, **changes: Any) -> str:
        """The user's command for a shell, with other sources or wishes."""
        words = [str(self.dest), *map(str, sources or self.sources), *self.options.changed(**changes).flags()]
        return shlex.join(["scmf-store", "add", *words])


def add_sources(dest: Path, sources: Sequence[Path], options: ConvertOptions, *, log: Log) -> Manifest:
    """Convert sources into new parts of a store; the same call after an interruption goes on where it was.

    Args:
        dest: the store.
        sources: in the order of their cells, which come after those that are there.
        options: the user's wishes; `duplicates` are report or keep.
        log: takes a line for people.

    Raises:
        InputError: a source that is refused, or does not fit the store. The store stays as it was.
        StoreError: no store, a rank-ordered one, or a full disk.
    """
    check_editable(CellStore.open(dest))
    with ConversionFolder(dest, in_place=True) as folder:
        store = CellStore.open(dest)  # again, now that nobody else adds to it
        _take_back(folder, store.manifest)
        request = AddRequest(tuple(sources), options, dest)
        plan = _joined(look_at(request, folder, log), store.manifest, request)
        _refuse_known(plan, store.manifest, options)
        site = Site(plan, options, folder.path, worker_budget(plan, options), symbols=symbols_of(store))
        size, first = options.cells_per_part or cells_of_part(plan.n_cells), _next_part(store.manifest)
        with interruptible(folder, log):
            results = make_parts(folder, site, cut_parts(plan, cells_per_part=size, first=first), log=log)
            added, tallies = describe(folder, site, results, first_cell=len(store))
            manifest = _sum(store, added)
            _move_in(folder, dest, results, manifest)
    for source, tally in zip(plan.sources, tallies, strict=True):
        log(summary(source, tally))
    if options.making.duplicates == "report":
        found = repeated_cells(CellStore.open(dest))
        if found:
            log(f"duplicates: {found}; scmf-store subset --drop-duplicates keeps the first of each")
        manifest = manifest.replace(duplicate_cells=len(found))
        replace_file(dest / MANIFEST, dump_manifest(manifest))
    return manifest


def _joined(plan: Plan, manifest: Manifest, request: Request) -> Plan:
    """The plan with the store's genes first; InputError where the sources do not fit the store."""
    for what, ours, theirs in (
        ("species", manifest.species, plan.species),
        ("gene ids", manifest.id_space, request.options.genes.id_space),
    ):
        if ours != theirs:
            raise InputError(
                f"the store's {what}: {ours or 'unknown'}; the sources': {theirs or 'unknown'}",
                where=", ".join(str(source.path) for source in plan.sources),
                fix=_fitting(request, (ours, theirs)),
            )
    genes = dict.fromkeys([*manifest.gene_ids, *plan.gene_numbers])
    return replace(plan, gene_numbers={gene: number for number, gene in enumerate(genes)})


def _fitting(request: Request, kinds: tuple[str | None, str | None]) -> str:
    """The command that makes sources fit a store of another kind, or a store of their own."""
    if kinds == ("human", "mouse"):
        return request.command(orthologs="human")
    own = ["scmf-store", "convert", *map(str, request.sources), "--dest", "DIR", *request.options.flags()]
    return f"make a store of their own: {shlex.join(own)}"


def _refuse_known(plan: Plan, manifest: Manifest, options: ConvertOptions) -> None:
    """Refuse a source that is in the store: most likely the command has done its work before."""
    site = Site(plan, options, Path(), 0)
    for number, source in enumerate(plan.sources):
        with site.open(source) as file:
            size = sum(path.stat().st_size for path in file.files())
        # By size, not by name: what a store calls a source depends on what it was converted with.
        twins = [old for old in manifest.sources if (old.bytes, old.counts) == (size, source.element)]
        if twins and options.making.duplicates != "keep":
            checksum = ChecksumJob(number).run(site, lambda _: None)[0].checksum
            if any(old.checksum == checksum for old in twins):
                raise InputError(
                    "the store has the cells of this source already",
                    where=str(source.path),
                    fix="leave it out; --duplicates keep adds them once more",
                )


def _next_part(manifest: Manifest) -> int:
    return 1 + max(int(part.name.removeprefix("part-")) for part in manifest.parts)


def _sum(store: CellStore, added: Manifest) -> Manifest:
    old = store.manifest
    note = f"added: {added.n_cells:,} cells of {', '.join(s.name for s in added.sources)} to {store.fingerprint}"
    return old.replace(
        n_cells=old.n_cells + added.n_cells,
        n_values=old.n_values + added.n_values,
        max_count=max(old.max_count, added.max_count),
        gene_ids=added.gene_ids,
        obs_columns=tuple(dict.fromkeys([*old.obs_columns, *added.obs_columns])),
        parts=(*old.parts, *added.parts),
        sources=(*old.sources, *added.sources),
        gene_medians=None,
        gene_cells=None,
        length_histogram=add_pairs([old.length_histogram, added.length_histogram]),
        library_histogram=add_pairs([old.library_histogram, added.library_histogram]),
        duplicate_cells=None,
        history=(*old.history, note),
    )


def _take_back(folder: ConversionFolder, manifest: Manifest) -> None:
    """Parts that a killed process had moved in without naming them in the manifest: back to where they are noted."""
    known = {part.name for part in manifest.parts}
    for path in sorted(folder.dest.glob("part-*")):
        if path.name in known or not _PART.match(path.name):
            continue
        if folder.note(path.name, FinishedPart) is None or folder.place(path.name).exists():
            shutil.rmtree(path)
        else:
            path.rename(folder.place(path.name))


def _move_in(folder: ConversionFolder, dest: Path, parts: Sequence[FinishedPart], manifest: Manifest) -> None:
    for part in parts:
        folder.place(part.record.name).rename(dest / part.record.name)
    sync(dest)
    replace_file(dest / MANIFEST, dump_manifest(manifest))
