"""`scmf-recipe`: a recipe's name goes in, a complete and commented YAML comes out. Needs no torch and no GPU."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import NoReturn

from scmf.core.command import Parser
from scmf.core.config_write import json_schema, to_yaml, write_config
from scmf.core.errors import ConfigError, StoreError, run_command
from scmf.train.config import MainConfig
from scmf.train.recipe import Recipe, RecipeArguments, header, parameters
from scmf.train.recipes import RECIPES, find_recipe

_EXAMPLES = """\
examples:
  scmf-recipe --list
  scmf-recipe --recipe 106m-pretrain --data-path data/atlas --dest cfg.yaml
  scmf-recipe --recipe 10m-pretrain trainer.optimizer.lr=3e-4 data.split.by=donor_id
  scmf-recipe --describe 10m-published
  scmf-recipe --schema > scmf.schema.json
then: scmf-train --config cfg.yaml
"""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Entry point; exits with 0, or with 1 and three lines on stderr."""
    run_command(recipe_command, argv)


def recipe_command(argv: Sequence[str]) -> int:
    """Run the command's body.

    Args:
        argv: arguments without the program's name.

    Raises:
        ConfigError: unknown recipe or key, or a file that exists.
    """
    options = _parser().parse_intermixed_args(argv)
    _refuse_what_would_be_ignored(options)
    if options.list:
        sys.stdout.write(list_recipes())
    elif options.schema:
        sys.stdout.write(json.dumps(json_schema(MainConfig), indent=2, ensure_ascii=False) + "\n")
    elif options.describe is not None:
        sys.stdout.write(describe(find_recipe(options.describe)))
    else:
        _write(find_recipe(options.recipe), options)
    return 0


def list_recipes() -> str:
    """A table of all recipes: size, batch, length, other names."""
    rows = [("recipe", "parameters", "tokens", "batch", "steps", "what")]
    for recipe in RECIPES:
        config = recipe.config()
        trained = parameters(config)
        size = f"{trained / 1e6:.1f}M" if trained is not None else "?"
        length, batch = config.data.tokenizer.seq_length, config.data.global_batch_size
        rows.append((recipe.name, size, f"{length:,}", f"{batch:,}", f"{config.trainer.steps:,}", recipe.summary))
    names = [f"{recipe.name}: {', '.join(recipe.aliases)}" for recipe in RECIPES if recipe.aliases]
    return _table(rows, right=(1, 2, 3, 4)) + "\nother names that are understood\n  " + "\n  ".join(names) + "\n"


def describe(recipe: Recipe) -> str:
    """Every number of a recipe with its source."""
    rows = [("key", "value", "source")]
    rows += [(key, json.dumps(setting.value), setting.source) for key, setting in sorted(recipe.settings.items())]
    rest = "\nEvery other key has its default; the written YAML documents each.\n"
    return f"{recipe.name}: {recipe.summary}\n\n" + _table(rows) + rest


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="scmf-recipe",
        description="Write the complete, commented configuration of a run.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--recipe", metavar="NAME", help="the recipe to write")
    what.add_argument("--list", action="store_true", help="show all recipes")
    what.add_argument("--describe", metavar="NAME", help="show where each number of a recipe comes from")
    what.add_argument("--schema", action="store_true", help="print the JSON Schema of a configuration, for editors")
    parser.add_argument("--dest", metavar="FILE", default="-", help="*.yaml or *.json to write; - (default) prints")
    parser.add_argument("--force", action="store_true", help="replace the file if it exists")
    parser.add_argument("--data-path", metavar="DIR", help="store written by `scmf-store convert` (data.store)")
    parser.add_argument("--result-dir", metavar="DIR", help="run directory (trainer.result_dir)")
    parser.add_argument(
        "--init-from",
        "--initial-ckpt-path",
        metavar="DIR",
        help="checkpoint of the first weights (model.init_from)",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="any other key, for example trainer.nodes=2")
    return parser


def _refuse_what_would_be_ignored(options: argparse.Namespace) -> None:
    flags = {"--dest": options.dest != "-", "--force": options.force, "--data-path": options.data_path}
    flags |= {"--result-dir": options.result_dir, "--init-from": options.init_from}
    given = [flag for flag, value in flags.items() if value] + options.overrides
    if options.recipe is None and given:
        raise ConfigError(
            f"{given[0]} goes with --recipe only", where="command line", fix="add --recipe NAME, or leave it out"
        )


def _write(recipe: Recipe, options: argparse.Namespace) -> None:
    from importlib.metadata import version

    arguments = RecipeArguments(
        store=options.data_path,
        result_dir=options.result_dir,
        init_from=options.init_from,
        overrides=tuple(options.overrides),
    )
    config = recipe.config(arguments)
    comment = header(recipe, version=version("scmf-train"), arguments=arguments)
    if options.dest == "-":
        sys.stdout.write(to_yaml(config, header=comment))
        return
    write_config(config, options.dest, header=comment, overwrite=options.force)
    sys.stdout.write(f"wrote {options.dest}\nnext: scmf-train --config {quote(options.dest)}\n")
    _note_missing_store(options.data_path)


def _note_missing_store(path: str | None) -> None:
    """Say that there is no store yet: it may come later, or be on another machine, so it is no error."""
    if path is None or "://" in path:
        return
    from scmf.data.manifest import expect_store

    try:
        expect_store(Path(path))
    except StoreError as error:
        sys.stderr.write(f"note: {error}\n")


def _table(rows: Sequence[tuple[str, ...]], right: tuple[int, ...] = ()) -> str:
    """Columns of text; the last is not padded."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
