"""`scmf-store add`, `merge`, `subset`, `split` and `name-split`. Arguments in; stores of other cells out."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from scmf.core.text import counted
from scmf.data.cli_convert import add_making_flags, convert_options, made, print_line
from scmf.data.cli_sources import add_source_flags

_COPY = "copy files that could be shared with the old store as hard links"


def add_add(parser: argparse.ArgumentParser) -> None:
    """Flags of `add`."""
    add_source_flags(parser)
    add_making_flags(parser)


def add_sources_command(options: argparse.Namespace) -> int:
    """Add sources to a store."""
    from scmf.core.errors import ConfigError
    from scmf.data.edit.add import add_sources

    if options.duplicates not in {"report", "keep"}:
        raise ConfigError(
            f"add takes --duplicates report or keep, not {options.duplicates}",
            where="command line",
            fix="add with --duplicates report, then scmf-store subset --drop-duplicates makes a store without them",
        )
    manifest = add_sources(options.store, options.sources, convert_options(options), log=print_line)
    print_line(made(manifest, options.store))
    return 0


def add_merge(parser: argparse.ArgumentParser) -> None:
    """Flags of `merge`."""
    parser.add_argument("stores", nargs="+", type=Path, metavar="DIR", help="stores, in the order of their cells")
    _add_dest(parser)
    parser.add_argument(
        "--duplicates",
        default="report",
        choices=("report", "keep"),
        help="report: read all values once more and say which cells repeat others; keep: do not look",
    )


def merge(options: argparse.Namespace) -> int:
    """Merge stores."""
    from scmf.data.edit.merge import merge_stores
    from scmf.data.store import CellStore

    stores = [CellStore.open(path) for path in options.stores]
    duplicates, links = options.duplicates, not options.copy
    manifest = merge_stores(stores, options.dest, duplicates=duplicates, links=links, log=print_line)
    print_line(made(manifest, options.dest))
    return 0


def add_subset(parser: argparse.ArgumentParser) -> None:
    """Flags of `subset`."""
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="RULE",
        help="keep cells for which it holds: COLUMN=VALUE,..., COLUMN!=VALUE, COLUMN>=NUMBER; several must all hold",
    )
    parser.add_argument("--cells", type=Path, metavar="FILE", help="keep the cells named in it, one a line")
    parser.add_argument("--genes", type=Path, metavar="FILE", help="keep the genes with the ids in it, one a line")
    parser.add_argument("--drop-duplicates", action="store_true", help="keep the first of cells with the same counts")
    _add_dest(parser)


def subset(options: argparse.Namespace) -> int:
    """Make a store of some cells or genes."""
    from scmf.data.edit.subset import Wishes, subset_store
    from scmf.data.store import CellStore

    wishes = Wishes(tuple(options.where), options.cells, options.genes, options.drop_duplicates)
    store = CellStore.open(options.store)
    manifest = subset_store(store, options.dest, wishes, links=not options.copy, log=print_line)
    print_line(made(manifest, options.dest))
    return 0


def add_split(parser: argparse.ArgumentParser) -> None:
    """Flags of `split`."""
    parser.add_argument("--by", required=True, metavar="COLUMN", help="column of obs; each of its values has a store")
    _add_dest(parser)


def split(options: argparse.Namespace) -> int:
    """Make a store of each group."""
    from scmf.data.edit.subset import split_store
    from scmf.data.store import CellStore

    store = CellStore.open(options.store)
    made_stores = split_store(store, options.by, options.dest, links=not options.copy, log=print_line)
    print_line(f"{options.dest}: {counted(len(made_stores), 'store')}")
    return 0


def add_name_split(parser: argparse.ArgumentParser) -> None:
    """Flags of `name-split`."""
    parser.add_argument("name", metavar="NAME", help="what data.split.name will say")
    for kind in ("train", "validation", "test"):
        parser.add_argument(
            f"--{kind}",
            action="append",
            default=[],
            metavar="RULE",
            help=f"cells of {kind}: a rule as for subset --where; of several, one is enough",
        )
    parser.add_argument("--remove", action="store_true", help="take the split out instead")


def name_split(options: argparse.Namespace) -> int:
    """Write a named split into a store's manifest."""
    from scmf.core.errors import ConfigError
    from scmf.data.edit.named import name_split as write
    from scmf.data.edit.named import remove_split
    from scmf.data.store import CellStore

    store = CellStore.open(options.store)
    if options.remove:
        remove_split(store, options.name)
        print_line(f"{options.store}: split {options.name} removed")
        return 0
    if not options.train:
        raise ConfigError("a split needs --train", where="command line", fix="add --train 'COLUMN=VALUE,...'")
    sets: dict[str, Any] = {kind: getattr(options, kind) for kind in ("train", "validation", "test")}
    sizes = write(store, options.name, **sets)
    print_line(f"{options.store}: split {options.name}: " + ", ".join(f"{kind} {n:,}" for kind, n in sizes.items()))
    return 0


def _add_dest(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dest", required=True, type=Path, metavar="DIR", help="folder to make")
    parser.add_argument("--copy", action="store_true", help=_COPY)
