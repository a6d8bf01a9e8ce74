"""`scmf-store coverage`: what a vocabulary knows of a store. Arguments in; shares and missing genes out."""

from __future__ import annotations

import argparse
import json
import sys


def add_coverage(coverage: argparse.ArgumentParser) -> None:
    """Arguments of `coverage`, besides the store."""
    coverage.add_argument("--vocabulary", required=True, metavar="NAME", help="geneformer-v1, geneformer-v2 or a file")
    coverage.add_argument("--cells", default=20_000, type=int, metavar="N", help="look at so many (default: 20000)")
    coverage.add_argument("--top", default=10, type=int, metavar="N", help="missing genes to name (default: 10)")
    coverage.add_argument("--json", action="store_true", help="the answer as one JSON object")


def coverage(options: argparse.Namespace) -> int:
    """Measure and print."""
    from scmf.core.errors import ConfigError
    from scmf.data.coverage import REASONS, coverage_facts, measure_coverage, missing_genes
    from scmf.data.store import CellStore
    from scmf.data.vocabulary import load_vocabulary

    for name in ("cells", "top"):
        if getattr(options, name) < (name == "cells"):
            what = f"--{name} {getattr(options, name)} is too few"
            raise ConfigError(what, where="command line", fix=f"leave out --{name}, or name a larger number")
    store, vocabulary = CellStore.open(options.store), load_vocabulary(options.vocabulary)
    found = measure_coverage(vocabulary, store, cells=options.cells)
    missing = missing_genes(vocabulary, store, found)
    facts = coverage_facts(vocabulary, found, missing)
    top = missing[: options.top]
    if options.json:
        document = {**facts, "top": [gene._asdict() for gene in top]}
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
        return 0
    lines = [f"{vocabulary.name}: {found}"]
    for reason, group in facts["missing"].items():
        lines.append(
            f"{reason}: {group['genes']:,} genes, {group['share_of_counts']:.2%} of the counts; {REASONS[reason]}"
        )
    lines += [f"  {gene.id:<20} {gene.symbol:<16} {gene.share:>7.2%}  {gene.reason}" for gene in top]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0
