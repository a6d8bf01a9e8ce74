"""What a store holds, in words. In: its manifest. Out: lines for people."""

from __future__ import annotations

from scmf.data.manifest import Manifest
from scmf.data.obsm import common_records


def describe_store(manifest: Manifest) -> list[str]:
    """The facts, a line each."""
    obsm = ", ".join(f"{name} ({r.width})" for name, r in common_records(manifest.parts).items())
    mean = manifest.n_values / max(1, manifest.n_cells)
    types = sorted({f"{p.counts_dtype} counts, {p.indices_dtype} genes" for p in manifest.parts})
    lines = [
        f"cells        {manifest.n_cells:,}",
        f"genes        {len(manifest.gene_ids):,} ({manifest.id_space}, {manifest.species or 'species unknown'})",
        f"values       {manifest.n_values:,} ({mean:,.0f} a cell), counts up to {manifest.max_count:,}",
        f"parts        {len(manifest.parts)} ({'; '.join(types)})",
        f"size         {manifest.n_bytes / 1e6:,.1f} MB",
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
