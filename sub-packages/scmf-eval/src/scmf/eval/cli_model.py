"""The arguments that name a trained model, for every command that uses one. In: a command line. Out: a checkpoint."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from scmf.core.command import Parser
from scmf.eval.saved import Saved, find_saved

PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def command(commands: Any, name: str, text: str, *, examples: str, run: Callable[..., int] | None = None) -> Parser:
    """A parser with the common looks: of a whole command, or of one of its sub-commands.

    Args:
        commands: of `add_subparsers`; None for the whole command.
        name: of the command.
        text: one sentence.
        examples: end of its help.
        run: body of a sub-command.
    """
    looks: dict[str, Any] = {
        "description": text,
        "formatter_class": argparse.RawDescriptionHelpFormatter,
        "epilog": examples,
    }
    if commands is None:
        return Parser(prog=name, **looks)
    parser: Parser = commands.add_parser(name, help=text, **looks)
    parser.set_defaults(run=run)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def add_model(parser: argparse.ArgumentParser) -> None:
    """The arguments that name a model."""
    parser.add_argument(
        "--run", dest="source", required=True, type=Path, metavar="DIR", help="run directory, or a step_* folder in it"
    )
    parser.add_argument(
        "--weights",
        default="latest",
        metavar="latest|best|ema|STEP",
        help="newest checkpoint, lowest validation loss, running average of the newest, or a step (default: latest)",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="auto",
        help="arithmetic; auto is fp32 on a CPU and the run's own on a GPU, bf16 for fp8 (default: auto)",
    )
    parser.add_argument(
        "--trust-code", action="store_true", help="import classes of one's own that the checkpoint's config names"
    )


def saved_of(options: argparse.Namespace, *, changes: tuple[str, ...] = ()) -> Saved:
    """The checkpoint that the arguments name.

    Raises:
        ScmfError: there is none, or it is damaged.
    """
    # Before torch is loaded: threads that wait by spinning take the cores from those that work (scmf.train.cli_train).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return find_saved(options.source, weights=options.weights, changes=changes, trust_code=options.trust_code)


def precision_of(options: argparse.Namespace) -> Literal["fp32", "bf16", "fp16"] | None:
    """The precision that was asked for; None for auto."""
    return None if options.precision == "auto" else options.precision
