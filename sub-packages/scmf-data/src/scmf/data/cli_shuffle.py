"""`scmf-store shuffle-quality`: how well an order mixes a store. In: the arguments. Out: one line a column."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any, Final

_ONE_CELL: Final = 2
"""An order of fewer cells has no batches to compare."""
_BLOCK: Final = 64
_WINDOW: Final = 4096


def add_shuffle(parser: argparse.ArgumentParser) -> None:
    """The options of the sub-command; the store's folder is there already."""
    parser.add_argument("--by", action="append", required=True, metavar="COLUMN", help="column of obs; may be repeated")
    parser.add_argument("--order", choices=("random", "blocks", "none"), default="random", help="default: random")
    parser.add_argument("--block", type=int, metavar="N", help=f"with --order blocks (default: {_BLOCK})")
    parser.add_argument("--window", type=int, metavar="N", help=f"with --order blocks (default: {_WINDOW})")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="cells of a batch (default: 64)")
    parser.add_argument("--seed", type=int, default=42, metavar="N", help="of the order (default: 42)")
    parser.add_argument("--json", action="store_true", help="the measurements as one JSON list")


def shuffle(options: argparse.Namespace) -> int:
    """Measure and print.

    Raises:
        StoreError: no store there, or no such column.
        ConfigError: a window that holds fewer than two blocks, a batch of no cells, blocks of another order.
    """
    from scmf.core.errors import ConfigError
    from scmf.data.joined import open_store
    from scmf.data.shuffle_quality import draw_batches, measure_order

    if options.order != "blocks" and (options.block is not None or options.window is not None):
        raise ConfigError(
            f"--block and --window are of the order blocks, and the order is {options.order}",
            where="command line",
            fix="add --order blocks, or leave them out",
        )
    store = open_store(str(options.store))
    if options.batch_size < 1 or len(store) < _ONE_CELL * options.batch_size:
        raise ConfigError(
            f"{len(store):,} cells make no two batches of {options.batch_size:,}",
            where="--batch-size",
            fix=f"use a batch of at most {max(1, len(store) // _ONE_CELL):,} cells",
        )
    cells = draw_batches(_cells_at(options, len(store)), n_cells=len(store), batch_size=options.batch_size)
    found = list(measure_order(store, cells, options.by))
    text = json.dumps([one.as_dict() for one in found], indent=2) if options.json else "\n".join(map(str, found))
    sys.stdout.write(text + "\n")
    return 0


def _cells_at(options: argparse.Namespace, n_cells: int) -> Any:
    """The order that the options ask for, over all cells."""
    import numpy as np

    from scmf.data.config_order import BlockOrderConfig
    from scmf.data.drawing import BlockDrawing, RandomDrawing
    from scmf.data.split import RunSet

    everything = RunSet(np.zeros(1, np.int64), np.array([0, n_cells], np.int64))
    if options.order == "none":
        return everything.take
    if options.order == "random":
        random = RandomDrawing(everything, seed=options.seed)
        return lambda places: random.take(places, epoch=0)
    block = _BLOCK if options.block is None else options.block
    values = {"kind": "blocks", "block": block, "window": _WINDOW if options.window is None else options.window}
    order = BlockOrderConfig.parse(values, source="scmf-store shuffle-quality")
    blocks = BlockDrawing(everything, seed=options.seed, block=order.block, window=order.window)
    return lambda places: blocks.take(places, epoch=0)
