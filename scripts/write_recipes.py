"""Write recipes/*.yaml from the table of recipes; with --check, only say which files differ (exit 1)."""

from __future__ import annotations

import argparse
import sys
from importlib.metadata import version
from pathlib import Path

from scmf.core.config_write import to_yaml, write_config
from scmf.train.recipe import header
from scmf.train.recipes import RECIPES

FOLDER = Path(__file__).resolve().parents[1] / "recipes"


def stale(folder: Path) -> list[Path]:
    """Files that differ from what the table gives: edited, missing, or of a recipe that is gone."""
    expected = {
        folder / f"{recipe.name}.yaml": to_yaml(recipe.config(), header=header(recipe, version=version("scmf-train")))
        for recipe in RECIPES
    }
    found = {path: path.read_text(encoding="utf-8") for path in folder.glob("*.yaml")}
    return sorted(path for path in expected.keys() | found.keys() if expected.get(path) != found.get(path))


def main() -> int:
    """Write or check; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file differs")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the files are (default: recipes/)")
    options = parser.parse_args()
    differing = stale(options.folder)
    if options.check:
        for path in differing:
            print(f"{path} is not what the table of recipes gives; run scripts/write_recipes.py")
        return 1 if differing else 0
    for recipe in RECIPES:
        path = options.folder / f"{recipe.name}.yaml"
        write_config(recipe.config(), path, header=header(recipe, version=version("scmf-train")), overwrite=True)
    print(f"wrote {len(RECIPES)} recipes to {options.folder}")
    left_over = stale(options.folder)
    for path in left_over:
        print(f"{path} belongs to no recipe: remove it")
    return 1 if left_over else 0


if __name__ == "__main__":
    sys.exit(main())
