"""`scmf-store convert` and `info` of text and of ready tokens. Arguments in; a store, or what it holds, out."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from scmf.core.errors import StoreError

if TYPE_CHECKING:
    from scmf.data.sequences.manifest import SequenceManifest

_OF_CELLS: Final = (
    "counts",
    "gene_column",
    "gene_ids",
    "species",
    "gene_table",
    "orthologs",
    "gene_report",
    "cells_in",
    "obsm",
    "workers",
    "cells_per_part",
    "duplicates",
    "medians",
    "memory",
)
"""Flags of `convert` that say something about counts of cells."""


def add_sequence_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of `convert` for what is no counts of cells."""
    parser.add_argument(
        "--tokenizer", choices=("char",), help="the sources are text, one token a character (default: found)"
    )
    parser.add_argument(
        "--vocabulary", metavar="NAME", help="of a table of ready tokens: geneformer-v1, geneformer-v2 or a file"
    )


def convert_sequences(options: argparse.Namespace, parser: argparse.ArgumentParser, say: Callable[[str], None]) -> bool:
    """Make a store of sequences, where the sources are text or ready tokens.

    Args:
        options: parsed.
        parser: of `convert`, which knows the flags' defaults.
        say: takes a line of the result.

    Returns:
        Whether they were; False leaves them to the conversion of cells.

    Raises:
        InputError: a source that is refused.
        StoreError: a flag that does not belong to these sources, or a destination in use.
    """
    from scmf.data.sequences.recognise import sort_of

    sort = sort_of(options.sources, as_text=options.tokenizer is not None)
    if sort == "cells":
        _refuse_flags(options, parser, ("tokenizer", "vocabulary"), "counts of cells")
        return False
    if sort == "text":
        _refuse_flags(options, parser, (*_OF_CELLS, "vocabulary"), "text")
        manifest = _convert_text(options, say)
    else:
        _refuse_flags(options, parser, (*_OF_CELLS, "tokenizer"), "ready tokens")
        manifest = _convert_tokens(options, say)
    say(_made(manifest, options.dest))
    return True


def describe_sequences(options: argparse.Namespace, say: Callable[[str], None]) -> None:
    """`info` of a store of sequences.

    Raises:
        StoreError: it cannot be opened, or a page is asked for.
    """
    from scmf.data.sequences.facts import describe_store, facts_of
    from scmf.data.sequences.store import SequenceStore

    store = SequenceStore.open(options.store)
    if options.html is not None:
        raise StoreError(
            "pages are made of stores of cells only",
            where=f"--html {options.html}",
            fix="leave out --html; --json gives every fact",
        )
    if options.json:
        say(json.dumps(facts_of(store.manifest), indent=2))
        return
    for line in describe_store(store):
        say(line)


def _convert_text(options: argparse.Namespace, say: Callable[[str], None]) -> SequenceManifest:
    from scmf.data.sequences.convert import SequenceWishes, convert_text

    wishes = SequenceWishes(overwrite=options.overwrite, skip_space_check=options.skip_space_check)
    return convert_text(options.sources, options.dest, wishes, log=say)


def _convert_tokens(options: argparse.Namespace, say: Callable[[str], None]) -> SequenceManifest:
    from scmf.data.any_vocabulary import read_vocabulary
    from scmf.data.sequences.convert import SequenceWishes, convert_tokens
    from scmf.data.vocabulary import load_vocabulary

    if options.vocabulary is None:
        sources = " ".join(shlex.quote(str(path)) for path in options.sources)
        raise StoreError(
            "ids alone do not say what they mean: the vocabulary that made them is needed",
            where="--vocabulary",
            fix=f"scmf-store convert {sources} --vocabulary geneformer-v1 --dest {shlex.quote(str(options.dest))}, or "
            "geneformer-v2, or the path of a vocabulary file",
        )
    wishes = SequenceWishes(overwrite=options.overwrite, skip_space_check=options.skip_space_check)
    load = read_vocabulary if Path(options.vocabulary).is_file() else load_vocabulary  # of characters too
    return convert_tokens(options.sources, options.dest, load(options.vocabulary), wishes, log=say)


def _refuse_flags(
    options: argparse.Namespace, parser: argparse.ArgumentParser, names: tuple[str, ...], what: str
) -> None:
    """No flag is left unused in silence."""
    for name in names:
        if getattr(options, name) != parser.get_default(name):
            flag = f"--{name.replace('_', '-')}"
            raise StoreError(
                f"{flag} says nothing about {what}",
                where=", ".join(str(path) for path in options.sources[:4]),
                fix=f"leave out {flag}",
            )


def _made(manifest: SequenceManifest, dest: Path) -> str:
    """The last line: what there is now, and how to look at it."""
    from scmf.core.text import counted

    size = f"{counted(manifest.n_sequences, 'sequence')} of {counted(manifest.n_tokens, 'token')}"
    where = shlex.quote(str(dest))
    return f"{dest}: {size} in {manifest.n_bytes / 1e6:,.1f} MB; look at it with: scmf-store info {where}"
