"""`scmf-eval`: what a trained model is worth. Arguments in; numbers out."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from scmf.core.command import Parser
from scmf.core.errors import ConfigError, StoreError, run_command
from scmf.core.text import counted
from scmf.data.manifest import expect_store
from scmf.eval.cli_model import add_model, command, precision_of, saved_of
from scmf.eval.saved import Saved

_EXAMPLES: Final = """\
examples:
  scmf-eval perplexity --run results/char-gpt-tiny
  scmf-eval perplexity --run results/char-gpt-tiny --split test --weights best --json
  scmf-eval perplexity --run results/10m data.store=/scratch/atlas
--debug shows the traceback of an error.
"""
_SPLITS: Final = ("validation", "test", "train")
MEASURES: Final = {
    "clm": ("perplexity", "each predicted from those before it in its {noun}"),
    "mlm": ("pseudo-perplexity", "those hidden by the run's own masks, each predicted from the rest of its {noun}"),
}
"""By the kind of the task: what exp(loss) is called, and which tokens it is taken over."""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Entry point; exits with 0, or with 1 and three lines on stderr."""
    run_command(eval_command, argv)


def eval_command(argv: Sequence[str]) -> int:
    """Run the command's body.

    Args:
        argv: arguments without the program's name.

    Raises:
        ScmfError: anything that the user can mend.
    """
    return _parser().run_sub_command(argv)


def _parser() -> Parser:
    parser = command(None, "scmf-eval", "What a trained model is worth, on a whole split.", examples=_EXAMPLES)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    text = "Loss and perplexity over every token of a split, each counted once."
    sub = command(commands, "perplexity", text, examples=_EXAMPLES, run=_perplexity)
    add_model(sub)
    sub.add_argument("--split", choices=_SPLITS, default="validation", help="which cells or text (default: validation)")
    sub.add_argument("--json", action="store_true", help="the numbers as one JSON object")
    sub.add_argument(
        "changes", nargs="*", metavar="data.KEY=value", help="keys of the run's data section, such as data.store=PATH"
    )
    return parser


def _perplexity(options: argparse.Namespace) -> int:
    changes = tuple(options.changes)
    saved = saved_of(options, changes=changes)
    measure, over = measure_of(saved)
    _expect_store(saved, options)
    from scmf.eval.loaded import load_model
    from scmf.eval.perplexity import split_loss

    with load_model(saved, precision=precision_of(options)) as loaded:
        result = split_loss(loaded, split=options.split, changed=bool(changes))
    facts: dict[str, Any] = {
        "checkpoint": str(saved.folder),
        "step": saved.progress.step,
        "weights": "average" if saved.average else "trained",
        "precision": loaded.precision,
        "measure": measure,
        **result.numbers(),
    }
    if options.json:
        sys.stdout.write(json.dumps(facts) + "\n")
        return 0
    token = "character" if saved.config.data.tokenizer.kind == "char" else "token"
    lines = [
        f"model    {loaded.describe()}",
        f"data     {result.split} split: {result.tokens:,} {token}s in {counted(result.cells, result.noun)}",
        f"targets  {result.targets:,} {token}s, {over.format(noun=result.noun)}",
        f"loss     {result.nats:.4f} nats, {result.bits:.4f} bits a {token}; {measure} {result.perplexity:,.3f}",
        *(f"note     {name} is not as it was in training" for name in result.differences),
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def measure_of(saved: Saved) -> tuple[str, str]:
    """What exp(loss) is called for a model's task, and over which tokens it is taken.

    Raises:
        ConfigError: the task predicts no tokens.
    """
    task = saved.config.model.task
    found = next((MEASURES[one.kind] for one in task.objectives.values() if one.kind in MEASURES), None)
    if found is None:
        raise ConfigError(
            f"the model's task is {task.kind}, and perplexity is of models that predict tokens ({', '.join(MEASURES)})",
            where=f"model.task of {saved.folder / 'config.yaml'}",
            fix="its own numbers are in metrics.jsonl of the run",
        )
    return found


def _expect_store(saved: Saved, options: argparse.Namespace) -> None:
    """Say at once that the store has gone elsewhere: importing Megatron takes many times as long.

    Raises:
        StoreError: no store where the run had it.
    """
    try:
        for folder in saved.config.data.folders:
            if "://" not in folder:
                expect_store(Path(folder))
    except StoreError as error:
        again = f"scmf-eval perplexity --run {shlex.quote(str(options.source))} data.store=PATH"
        fix = f"{error.fix}; if it is elsewhere now: {again}"
        raise StoreError(error.what, where=error.where, fix=fix) from error
