"""`scmf-store info`. Arguments in; what a store holds, as lines, as JSON or as a page."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from scmf.data.cli_convert import print_line, total_bytes

if TYPE_CHECKING:
    from scmf.data.manifest import Manifest


def add_info(parser: argparse.ArgumentParser) -> None:
    """Flags of `info`."""
    parser.add_argument("--json", action="store_true", help="the facts as one JSON object")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with plots: one file, no network")


def info(options: argparse.Namespace) -> int:
    """Print the facts of a store that can be opened; StoreError for one that is damaged."""
    from scmf.data.store import CellStore

    store = CellStore.open(options.store)  # the manifest alone would praise a store whose arrays are gone
    manifest = store.manifest
    if options.html is not None:
        from scmf.data.page import write_page

        write_page(store, options.html)
    if options.json:
        facts = manifest.model_dump(mode="json", exclude={"gene_ids", "parts", "gene_medians", "gene_cells"})
        facts |= {"n_genes": len(manifest.gene_ids), "n_parts": len(manifest.parts)}
        facts |= {"bytes": total_bytes(manifest), "fingerprint": manifest.fingerprint}
        print_line(json.dumps(facts, indent=2))
    else:
        print_line("\n".join(describe_store(manifest)))
    if options.html is not None:
        print_line(f"{options.html}: a page with plots")
    return 0


def describe_store(manifest: Manifest) -> list[str]:
    """The facts, a line each."""
    from scmf.data.obsm import common_records

    obsm = ", ".join(f"{name} ({r.width})" for name, r in common_records(manifest.parts).items())
    mean = manifest.n_values / max(1, manifest.n_cells)
    types = sorted({f"{p.counts_dtype} counts, {p.indices_dtype} genes" for p in manifest.parts})
    lines = [
        f"cells        {manifest.n_cells:,}",
        f"genes        {len(manifest.gene_ids):,} ({manifest.id_space}, {manifest.species or 'species unknown'})",
        f"values       {manifest.n_values:,} ({mean:,.0f} a cell), counts up to {manifest.max_count:,}",
        f"parts        {len(manifest.parts)} ({'; '.join(types)})",
        f"size         {total_bytes(manifest) / 1e6:,.1f} MB",
        f"obs columns  {', '.join(manifest.obs_columns)}",
        f"obsm         {obsm or 'none'}",
        f"duplicates   {'not looked for' if manifest.duplicate_cells is None else f'{manifest.duplicate_cells:,}'}",
        f"medians      {'computed' if manifest.gene_medians else 'not computed'}",
        f"fingerprint  {manifest.fingerprint}",
    ]
    for source in manifest.sources:
        cells = f"cells {source.first_cell:,} to {source.first_cell + source.n_cells - 1:,}" if source.n_cells else "-"
        lines.append(f"source       {source.name}: {cells}, counts from {source.counts}, xxh3 {source.checksum}")
    lines += [f"split        {name}" for name in manifest.splits]
    return lines + [f"history      {line}" for line in manifest.history]
