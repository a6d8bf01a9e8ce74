"""`scmf-recipe`: a recipe's name goes in, a complete and commented YAML comes out. Needs no torch and no GPU."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from scmf.core.config_write import json_schema, to_yaml, write_config
from scmf.core.errors import ConfigError, StoreError, run_command
from scmf.train.bionemo_flags import TrainingParser
from scmf.train.config import MainConfig
from scmf.train.recipe import Recipe, RecipeArguments, header, run_line
from scmf.train.recipe_named import own_module_folder, recipe_named
from scmf.train.recipe_text import Sourced, describe, describe_json, diff, diff_json, list_json, list_recipes
from scmf.train.recipes import RECIPES

_EXAMPLES = """\
examples:
  scmf-recipe --list
  scmf-recipe --recipe 106m-pretrain --data-path data/atlas --dest cfg.yaml
  scmf-recipe --recipe 10m-pretrain trainer.optimizer.lr=3e-4 data.split.by=donor_id
  scmf-recipe --describe 10m-published
  scmf-recipe --diff 10m-pretrain cfg.yaml
  scmf-recipe --recipe my_recipes.py:mine --dest cfg.yaml
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
    if options.recipe is not None:
        _write(recipe_named(options.recipe), options)
    else:
        sys.stdout.write(_shown(options))
    return 0


def _shown(options: argparse.Namespace) -> str:
    """What a question is answered with."""
    if options.list:
        return (list_json if options.json else list_recipes)(RECIPES)
    if options.schema:
        return json.dumps(json_schema(MainConfig), indent=2, ensure_ascii=False) + "\n"
    if options.describe is not None:
        return (describe_json if options.json else describe)(Sourced.named(options.describe, flag="--describe"))
    one, other = (Sourced.named(text, flag="--diff") for text in options.diff)
    return (diff_json if options.json else diff)(one, other)


def _parser() -> argparse.ArgumentParser:
    parser = TrainingParser(
        prog="scmf-recipe",
        description="Write the complete, commented configuration of a run.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--recipe", metavar="NAME", help="the recipe to write; your own is module:NAME or FILE.py:NAME")
    what.add_argument("--list", action="store_true", help="show all recipes")
    what.add_argument("--describe", metavar="NAME", help="show where each number of a recipe, or of a YAML, comes from")
    what.add_argument("--diff", nargs=2, metavar=("A", "B"), help="show what differs between two recipes or YAML files")
    what.add_argument("--schema", action="store_true", help="print the JSON Schema of a configuration, for editors")
    parser.add_argument("--json", action="store_true", help="with --list, --describe and --diff: JSON for programs")
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
    if options.json and (options.recipe is not None or options.schema):
        fix = "leave it out" if options.schema else "leave it out; --dest FILE.json writes the configuration as JSON"
        raise ConfigError("--json goes with --list, --describe and --diff", where="command line", fix=fix)
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
    folder = own_module_folder(recipe, config)
    run = run_line(config, "THIS_FILE" if options.dest == "-" else options.dest, folder=str(folder) if folder else None)
    comment = header(recipe, version=version("scmf-train"), arguments=arguments, run=run)
    if options.dest == "-":
        sys.stdout.write(to_yaml(config, header=comment))
        return
    write_config(config, options.dest, header=comment, overwrite=options.force)
    sys.stdout.write(f"wrote {options.dest}\nnext: {run}\n")
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


if __name__ == "__main__":
    main()
