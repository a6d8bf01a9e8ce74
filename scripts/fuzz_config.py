"""Ten thousand broken configurations. In: a number and a seed. Out: what became of them; exit code 1 if one went wrong.

    python scripts/fuzz_config.py --n 10000 --seed 0

Each is a recipe with faults (types, keys, values, structure, depth, encodings, YAML's traps, words of the command
line), read by the commands themselves, in this process: `scmf-train`, whose ranks are replaced by a look at the
config that they would be given, and `scmf-recipe`. A configuration may be refused, with our three lines, or be valid,
and then read back equal from what is written of it. `--replay NUMBER` shows one again, with its traceback.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from unittest import mock

from config_mutations import KINDS, broken_text, broken_tree, encoded, overrides, written

from scmf.core.config_read import parse_json, parse_yaml
from scmf.core.config_write import to_json, to_yaml
from scmf.train import cli_recipe, cli_train
from scmf.train.config import MainConfig, check_document
from scmf.train.recipe import Recipe, nest
from scmf.train.recipes import RECIPES

_SUFFIXES: Final = (".yaml",) * 40 + (".yml", ".json", ".json", ".YAML", ".txt", "", ".yaml.gz")


class Wrong(Exception):  # noqa: N818  # it is no error of ours, but the finding
    """A configuration that was neither refused in three lines nor valid."""


@dataclass(frozen=True, slots=True)
class Case:
    """One broken configuration, and the command line it is given to."""

    program: str
    argv: list[str]
    name: str
    content: bytes


def case(seed: int, number: int) -> Case:
    """The case of a number: always the same one.

    Args:
        seed: of the whole run.
        number: from 0.
    """
    draw = random.Random(f"{seed} {number}")  # noqa: S311  # no secret
    recipe = draw.choice(RECIPES)
    tree = _document(recipe, whole=draw.random() < 0.1)
    words = overrides(tree, draw)
    if draw.random() < 0.15:
        return Case("scmf-recipe", ["--recipe", recipe.name, *words], "", b"")
    suffix = draw.choice(_SUFFIXES)
    text = written(broken_tree(tree, draw), draw, suffix=suffix)
    name = f"cfg{suffix}"
    argv = ["--config", name if draw.random() < 0.98 else draw.choice(("missing.yaml", ".", "", "cfg\n.yaml")), *words]
    if draw.random() < 0.03:
        argv += [draw.choice(("--data-config-cls", "--model-config-cls")), draw.choice(KINDS)]
    return Case("scmf-train", argv, name, encoded(broken_text(text, draw), draw))


def _document(recipe: Recipe, *, whole: bool) -> dict[str, Any]:
    """What a recipe sets, or every key."""
    if whole:
        return recipe.config().model_dump(mode="json", by_alias=True)
    return nest({key: setting.value for key, setting in recipe.settings.items()})


def outcome(tried: Case) -> str:
    """`valid` or `refused`, with what was said checked; Wrong otherwise.

    Args:
        tried: its file is written into the working folder.
    """
    if tried.name:
        Path(tried.name).write_bytes(tried.content)
    configs: list[MainConfig] = []
    out, err = io.StringIO(), io.StringIO()
    with _commands_without_ranks(configs), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        main = cli_train.main if tried.program == "scmf-train" else cli_recipe.main
        code: Any = None
        try:
            main(tried.argv)
        except SystemExit as leaving:
            code = leaving.code
    if code == 0 and not err.getvalue() and tried.program == "scmf-recipe":
        configs = [check_document(parse_yaml(out.getvalue(), "what scmf-recipe wrote"))]
    for config in configs:
        check_round_trip(config)
    if code != 0 or not configs:
        check_message(code, err.getvalue())
    return "valid" if configs else "refused"


@contextlib.contextmanager
def _commands_without_ranks(configs: list[MainConfig]) -> Iterator[None]:
    """scmf-train up to the point where it starts its ranks; most stores are not there, which it says before."""
    look_for_store = cli_train._refuse_missing_store  # noqa: SLF001  # the last that is done before ranks

    def valid(config: MainConfig) -> None:
        """Note a configuration that was accepted, then go on as the command does."""
        configs.append(config)
        look_for_store(config)

    with mock.patch.multiple(
        cli_train, _refuse_missing_store=valid, _ranks_to_start=lambda _: 1, _run_rank=lambda *_: 0
    ):
        yield


def check_message(code: object, said: str) -> None:
    """Three lines, or one list of faults between the first and the last two; Wrong otherwise."""
    lines = said.split("\n")
    if code != 1 or lines.pop() != "":
        raise Wrong(f"exit code {code}: {said}")
    if not (lines[0].startswith("error: ") and len(lines[0]) > len("error: ")):
        raise Wrong(f"the first line does not say what: {said}")
    if not (lines[-2].startswith("  where: ") and lines[-1].startswith("  fix:   ")):
        raise Wrong(f"the last two lines are not where and fix: {said}")
    if not (lines[-2][9:].strip() and lines[-1][9:].strip()):
        raise Wrong(f"where or fix is empty: {said}")
    for number, line in enumerate(lines[1:-2], start=1):
        if not line.startswith(f"  {number}. "):
            raise Wrong(f"line {number} is none of a list of faults: {said}")
    if not all(line.isprintable() for line in lines):
        raise Wrong(f"characters that no terminal should be sent: {said!r}")
    if max(map(len, lines)) > 2_000:
        raise Wrong(f"a line of {max(map(len, lines)):,} characters: {said[:200]}")


def check_round_trip(config: MainConfig) -> None:
    """What is written of a config is the config, as YAML and as JSON; Wrong otherwise."""
    for form, text, parse in (("YAML", to_yaml(config), parse_yaml), ("JSON", to_json(config), parse_json)):
        again = check_document(parse(text, form))
        if again != config:
            raise Wrong(f"{form} reads back to another config:\n{text}")


def fuzz(seed: int, numbers: Sequence[int]) -> tuple[Counter[str], list[int]]:
    """Try cases in a folder of their own.

    Returns:
        How many had each outcome, and the numbers of those that went wrong.
    """
    counts: Counter[str] = Counter()
    wrong: list[int] = []
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for number in numbers:
            tried = case(seed, number)
            try:
                counts[outcome(tried)] += 1
            except Exception:
                wrong.append(number)
                print(
                    f"--- {number}: {tried.program} {tried.argv!r:.300}\n{traceback.format_exc(limit=-5)[-3000:]}",
                    flush=True,
                )
    return counts, wrong


def main(argv: Sequence[str] | None = None) -> int:
    """Fuzz, or show one case again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--replay", type=int, metavar="NUMBER")
    options = parser.parse_args(argv)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        os.environ.pop(name, None)
    if options.replay is not None:
        tried = case(options.seed, options.replay)
        print(f"{tried.program} {tried.argv!r}\n{tried.content[:5_000]!r}")
    counts, wrong = fuzz(options.seed, range(options.n) if options.replay is None else [options.replay])
    print(
        f"{counts.total() + len(wrong)} configurations: {counts['refused']} refused, {counts['valid']} valid and read "
        f"back equal, {len(wrong)} wrong"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
