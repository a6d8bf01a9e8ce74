"""`scmf-store rank-order`: the same cells in rank order. In: the arguments. Out: a store."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_rank_order(parser: argparse.ArgumentParser) -> None:
    """The options of the sub-command; the store's folder is there already."""
    parser.add_argument("--vocabulary", required=True, metavar="NAME", help="geneformer-v1, geneformer-v2 or a file")
    parser.add_argument("--dest", required=True, type=Path, metavar="DIR", help="folder to make")


def rank_order(options: argparse.Namespace) -> int:
    """Write the store.

    Raises:
        StoreError: no intact store there, or the destination is taken.
        VocabularyError: no such vocabulary, or it cannot rank this store.
    """
    from scmf.data.manifest import read_manifest
    from scmf.data.progress import Progress
    from scmf.data.rank_order import write_rank_ordered
    from scmf.data.vocabulary import load_vocabulary

    vocabulary = load_vocabulary(options.vocabulary)
    with Progress("rank order", read_manifest(options.store).n_cells) as progress:
        store = write_rank_ordered(options.store, options.dest, vocabulary, on_cells=progress.advance)
    sys.stdout.write(f"{options.dest}: {len(store):,} cells in the rank order of {vocabulary.name}\n")
    return 0
