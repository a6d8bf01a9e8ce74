"""`scmf-store`: make stores, look at them, tokenize. Arguments in; a store, a table of facts or faults out."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from scmf.core.command import Parser
from scmf.core.errors import run_command
from scmf.core.text import counted
from scmf.data import cli_check, cli_edit, cli_ledger, cli_rank_order, cli_shuffle
from scmf.data.cli_check import add_check
from scmf.data.cli_convert import add_convert, convert_command, positive, print_line
from scmf.data.cli_coverage import add_coverage, coverage
from scmf.data.cli_info import add_info, info
from scmf.data.cli_ledger import add_ledger, add_seen

_EXAMPLES: Final = """\
examples:
  scmf-store check pbmc.h5ad
  scmf-store convert pbmc.h5ad --dest data/pbmc
  scmf-store convert a.h5ad b.h5ad --dest data/both --counts layers/counts --species human
  scmf-store convert shakespeare.txt --tokenizer char --dest data/shakespeare
  scmf-store add data/pbmc more.h5ad
  scmf-store merge data/pbmc data/other --dest data/all
  scmf-store subset data/all --where "cell_type=B cell" --dest data/b
  scmf-store split data/all --by donor_id --dest data/donors
  scmf-store name-split data/all published --train donor_id=d1,d2 --test donor_id=d3
  scmf-store info data/pbmc
  scmf-store verify data/pbmc
  scmf-store bench data/pbmc --json
  scmf-store tokens data/pbmc --vocabulary geneformer-v2 --out pbmc.parquet
  scmf-store vocabulary data/fish --out fish.parquet
  scmf-store rank-order data/pbmc --vocabulary geneformer-v2 --dest data/pbmc-ranked
  scmf-store shuffle-quality data/pbmc --by cell_type --order blocks
  scmf-store ledger data/pbmc
  scmf-store coverage data/pbmc --vocabulary geneformer-v2
  scmf-store seen other.h5ad --ledger data/pbmc.ledger
"""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Entry point; exits with 0, or with 1 and three lines on stderr."""
    run_command(store_command, argv)


def store_command(argv: Sequence[str]) -> int:
    """Run the command's body.

    Args:
        argv: arguments without the program's name.

    Returns:
        0, or 1 when `verify` found a fault.

    Raises:
        ScmfError: anything that the user can mend.
    """
    return _parser().run_sub_command(argv)


def _parser() -> Parser:
    parser = _command(None, "scmf-store", "Cell stores: make, look at, check, measure, tokenize.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    add_check(_command(commands, "check", "Say everything that is wrong with sources.", run=cli_check.check))
    add_convert(_command(commands, "convert", "Make a store.", run=convert_command))
    _add_edits(commands)
    add_info(_command(commands, "info", "Print what a store holds.", run=info))
    _command(commands, "verify", "Check every byte of a store; exit code 1 and one line a fault.", run=_verify)
    bench = _command(commands, "bench", "Measure how fast this disk and one core feed cells.", run=_bench)
    bench.add_argument("--json", action="store_true", help="the measurements as one JSON object")
    bench.add_argument("--cold", action="store_true", help="from the disk, by memory map and by requests")
    _add_tokens(commands)
    _add_vocabulary(commands)
    add_coverage(_command(commands, "coverage", "Say what a vocabulary knows of a store.", run=coverage))
    ranked = "Write the same cells with their genes in the rank order of a vocabulary."
    cli_rank_order.add_rank_order(_command(commands, "rank-order", ranked, run=cli_rank_order.rank_order))
    quality = "Measure how well an order mixes the cells."
    cli_shuffle.add_shuffle(_command(commands, "shuffle-quality", quality, run=cli_shuffle.shuffle))
    add_ledger(_command(commands, "ledger", "Write what tells a store's cells from others.", run=cli_ledger.ledger))
    add_seen(_command(commands, "seen", "Say which cells of a store or file a ledger has.", run=cli_ledger.seen))
    return parser


def _command(commands: Any, name: str, text: str, *, run: Callable[..., int] | None = None) -> Parser:
    """A parser with the common looks; a sub-command that runs on one store takes its folder."""
    looks: dict[str, Any] = {
        "description": text,
        "formatter_class": argparse.RawDescriptionHelpFormatter,
        "epilog": _examples(name if commands is not None else None),
    }
    if commands is None:
        return Parser(prog=name, **looks)
    parser: Parser = commands.add_parser(name, help=text, **looks)
    parser.set_defaults(run=run)
    if name not in {"check", "convert", "merge", "seen"}:
        parser.add_argument("store", type=Path, metavar="DIR", help="folder of the store")
    return parser


def _examples(command: str | None) -> str:
    """The examples of one sub-command, or all."""
    title, *lines = _EXAMPLES.splitlines()
    own = [line for line in lines if command is None or line.split()[1] == command]
    return "\n".join([*([title] if own else []), *own, "--debug shows the traceback of an error."])


def _add_edits(commands: Any) -> None:
    cli_edit.add_add(_command(commands, "add", "Add sources to a store.", run=cli_edit.add_sources_command))
    cli_edit.add_merge(_command(commands, "merge", "Make one store of several.", run=cli_edit.merge))
    cli_edit.add_subset(_command(commands, "subset", "Make a store of some cells or genes.", run=cli_edit.subset))
    cli_edit.add_split(_command(commands, "split", "Make a store of each group of cells.", run=cli_edit.split))
    text = "Keep the cells of train, validation and test under a name."
    cli_edit.add_name_split(_command(commands, "name-split", text, run=cli_edit.name_split))


def _add_tokens(commands: Any) -> None:
    tokens = _command(commands, "tokens", "Write every cell as rank tokens to a parquet file.", run=_tokens)
    tokens.add_argument("--vocabulary", required=True, metavar="NAME", help="geneformer-v1, geneformer-v2 or a file")
    tokens.add_argument("--out", required=True, type=Path, metavar="FILE", help="parquet file to make")
    tokens.add_argument(
        "--seq-length", type=positive, metavar="N", help="tokens kept a cell (default: 2048, or 4096 with <cls>)"
    )


def _add_vocabulary(commands: Any) -> None:
    text = "Compute a vocabulary, genes and their medians, from a store."
    vocabulary = _command(commands, "vocabulary", text, run=_vocabulary)
    vocabulary.add_argument(
        "--out",
        required=True,
        type=parquet_file,
        metavar="FILE",
        help="parquet file to make, for data.tokenizer.vocabulary",
    )
    vocabulary.add_argument(
        "--min-cells", default=1, type=positive, metavar="N", help="a gene in fewer cells has no token (default: 1)"
    )
    vocabulary.add_argument(
        "--framed", action="store_true", help="sequences begin with <cls> and end with <eos>, as in Geneformer V2"
    )


def parquet_file(text: str) -> Path:
    """A file to be made, by a name that says what it will hold."""
    if Path(text).suffix != ".parquet":
        raise argparse.ArgumentTypeError(f"{text} does not end in .parquet, and parquet is what is written")
    return Path(text)


def _verify(options: argparse.Namespace) -> int:
    from scmf.data.progress import Progress
    from scmf.data.verify import size_of_store, verify_store

    faults = 0
    with Progress("verifying", size_of_store(options.store), unit="bytes") as progress:
        for line in verify_store(options.store, on_bytes=progress.advance):
            print_line(line)
            faults += 1
    if faults:
        sys.stderr.write(
            f"error: {counted(faults, 'fault')}\n  where: {options.store}\n  fix:   bring the files named above back "
            f"from a copy, or make the store again: scmf-store convert SRC --dest {shlex.quote(str(options.store))} "
            "--overwrite\n"
        )
        return 1
    print_line(f"{options.store}: sound")
    return 0


def _bench(options: argparse.Namespace) -> int:
    from scmf.data.bench import bench_store
    from scmf.data.bench_cold import bench_cold, cold_lines
    from scmf.data.store import CellStore

    if options.cold:
        cold = bench_cold(CellStore.open(options.store))
        print_line(json.dumps(cold.as_dict(), indent=2) if options.json else "\n".join(cold_lines(cold)))
        return 0
    report = bench_store(CellStore.open(options.store))
    if options.json:
        print_line(json.dumps(report.as_dict(), indent=2))
        return 0
    print_line(f"{report.n_cells:,} cells, {report.values_per_cell:,.0f} values a cell")
    for rate in report.rates:
        speed = f"{rate.cells_per_s:>12,.0f} cells/s  {rate.cells_per_cpu_s:>12,.0f} cells/CPU-s"
        print_line(f"{rate.pattern:<26}{speed}  {rate.bytes_per_s / 1e6:>8,.0f} MB/s")
    for note in report.notes:
        print_line(f"note: {note}")
    return 0


def _tokens(options: argparse.Namespace) -> int:
    from scmf.data.progress import Progress
    from scmf.data.rank import RankTokenizer
    from scmf.data.store import CellStore
    from scmf.data.token_table import write_tokens
    from scmf.data.vocabulary import load_vocabulary

    store = CellStore.open(options.store)
    vocabulary = load_vocabulary(options.vocabulary)
    seq_length = options.seq_length or (4096 if vocabulary.framed else 2048)
    tokenizer = RankTokenizer(vocabulary, gene_ids=store.gene_ids, seq_length=seq_length)
    with Progress("tokens", len(store)) as progress:
        tokens = write_tokens(store, tokenizer, options.out, on_cells=progress.advance)
    print_line(
        f"{options.out}: {len(store):,} cells, {tokens:,} tokens of {vocabulary.name}, at most {seq_length} a cell"
    )
    return 0


def _vocabulary(options: argparse.Namespace) -> int:
    from scmf.data.coverage import measure_coverage
    from scmf.data.medians import write_vocabulary
    from scmf.data.progress import Progress
    from scmf.data.store import CellStore

    store = CellStore.open(options.store)
    with Progress("vocabulary", len(store)) as progress:
        vocabulary = write_vocabulary(
            options.store,
            options.out,
            min_cells=options.min_cells,
            framed=options.framed,
            on_cells=progress.advance,
        )
    print_line(f"{options.out}: {len(vocabulary):,} tokens, fingerprint {vocabulary.fingerprint}")
    print_line(str(measure_coverage(vocabulary, store)))
    return 0


if __name__ == "__main__":
    main()
