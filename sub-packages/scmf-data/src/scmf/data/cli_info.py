"""`scmf-store info`. Arguments in; what a store holds, as lines, as JSON or as a page."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from scmf.data.cli_convert import print_line
from scmf.data.cli_sequences import describe_sequences


def add_info(parser: argparse.ArgumentParser) -> None:
    """Flags of `info`."""
    parser.add_argument("--json", action="store_true", help="the facts as one JSON object")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with plots: one file, no network")


def info(options: argparse.Namespace) -> int:
    """Print the facts of a store that can be opened; StoreError for one that is damaged."""
    from scmf.data.facts import describe_store
    from scmf.data.manifest import SEQUENCES_FORMAT, format_of
    from scmf.data.store import CellStore

    if format_of(options.store) == SEQUENCES_FORMAT:
        describe_sequences(options, print_line)
        return 0
    store = CellStore.open(options.store)  # the manifest alone would praise a store whose arrays are gone
    manifest = store.manifest
    if options.html is not None:
        from scmf.data.page import write_page

        write_page(store, options.html)
    if options.json:
        facts = manifest.model_dump(mode="json", exclude={"gene_ids", "parts", "gene_medians", "gene_cells"})
        facts |= {"n_genes": len(manifest.gene_ids), "n_parts": len(manifest.parts)}
        facts |= {"bytes": manifest.n_bytes, "fingerprint": manifest.fingerprint}
        print_line(json.dumps(facts, indent=2))
    else:
        print_line("\n".join(describe_store(manifest)))
    if options.html is not None:
        print_line(f"{options.html}: a page with plots")
    return 0
