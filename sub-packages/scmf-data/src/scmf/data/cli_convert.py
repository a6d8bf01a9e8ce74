"""`scmf-store convert`, and the flags about making that `add` shares. Arguments in; a store out."""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from scmf.data.cli_sequences import add_sequence_flags, convert_sequences
from scmf.data.cli_sources import add_source_flags, source_options
from scmf.data.ingest.early import begin_server
from scmf.data.ingest.making import DUPLICATES, Making, usual_memory

if TYPE_CHECKING:
    from scmf.data.ingest.plan import ConvertOptions
    from scmf.data.manifest import Manifest


def add_convert(parser: argparse.ArgumentParser) -> None:
    """Flags of `convert`."""
    add_source_flags(parser)
    parser.add_argument("--dest", required=True, type=Path, metavar="DIR", help="folder to make")
    add_making_flags(parser)
    parser.add_argument("--medians", action="store_true", help="compute the genes' medians on the way")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the store at --dest when the new one is whole"
    )
    add_sequence_flags(parser)
    parser.set_defaults(parser=parser)


def add_making_flags(parser: argparse.ArgumentParser) -> None:
    """Flags about how parts are made."""
    parser.set_defaults(memory=None)  # several workers have more
    parser.add_argument(
        "--workers",
        default=1,
        type=positive,
        metavar="N",
        help="processes that make parts; 144MiB more each (default: 1)",
    )
    parser.add_argument(
        "--cells-per-part",
        type=positive,
        metavar="N",
        help="at most 2 million (default: even parts of at most 1000000)",
    )
    parser.add_argument(
        "--duplicates",
        default="report",
        choices=tuple(DUPLICATES),
        help="cells with the same counts as an earlier one: "
        + "; ".join(f"{name}: {text}" for name, text in DUPLICATES.items())
        + " (default: report)",
    )
    parser.add_argument("--skip-space-check", action="store_true", help="start although the disk seems too small")


def convert_options(options: argparse.Namespace) -> ConvertOptions:
    """The wishes of a parsed command line."""
    medians = getattr(options, "medians", False)
    options.memory = options.memory or usual_memory(options.workers, medians=medians)
    making = Making(
        workers=options.workers,
        duplicates=options.duplicates,
        medians=medians,
        skip_space_check=options.skip_space_check,
    )
    return replace(
        source_options(options),
        cells_per_part=options.cells_per_part,
        overwrite=getattr(options, "overwrite", False),
        making=making,
    )


def convert_command(options: argparse.Namespace) -> int:
    """Make the store."""
    if options.workers > 1:
        begin_server()
    if convert_sequences(options, options.parser, print_line):
        return 0
    from scmf.data.ingest.convert import convert

    conversion = convert(options.sources, options.dest, convert_options(options), log=print_line)
    if options.gene_ids == "symbols":
        print_line("warning: genes are kept by name; the shipped vocabularies, which use Ensembl ids, will not match")
    print_line(made(conversion.manifest, options.dest))
    return 0


def made(manifest: Manifest, dest: Path) -> str:
    """The last line: what there is now, and how to look at it."""
    size = f"{manifest.n_cells:,} cells x {len(manifest.gene_ids):,} genes in {manifest.n_bytes / 1e6:,.1f} MB"
    parts = "1 part" if len(manifest.parts) == 1 else f"{len(manifest.parts)} parts"
    return f"{dest}: {size}, {parts}; look at it with: scmf-store info {shlex.quote(str(dest))}"


def positive(text: str) -> int:
    """A positive whole number, as a flag's type."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def print_line(line: str) -> None:
    """A line of the result."""
    sys.stdout.write(line + "\n")
