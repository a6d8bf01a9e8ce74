"""`scmf-predict generate`: texts continued. Arguments in; the texts, or one JSON object a prompt, out."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from scmf.core.errors import ConfigError
from scmf.eval.cli_model import add_model, precision_of, saved_of
from scmf.eval.sampling import Sampling
from scmf.eval.saved import Saved

if TYPE_CHECKING:
    from scmf.eval.text import Written  # which imports torch


def add_generate(parser: argparse.ArgumentParser) -> None:
    """The arguments of `generate`."""
    add_model(parser)
    prompts = parser.add_mutually_exclusive_group(required=True)
    prompts.add_argument("--prompt", metavar="TEXT", help='what the text begins with; "" for the beginning of a text')
    prompts.add_argument(
        "--prompts-file",
        type=Path,
        metavar="FILE",
        help='one prompt a line; of a .jsonl file one {"prompt": ...} a line, which may hold line breaks',
    )
    parser.add_argument(
        "--max-new-tokens", type=int, default=200, metavar="N", help="characters to add at most (default: 200)"
    )
    parser.add_argument(
        "--temperature", type=float, default=1.0, metavar="T", help="0 always takes the likeliest (default: 1.0)"
    )
    parser.add_argument("--top-k", type=int, metavar="K", help="choose among the K likeliest")
    parser.add_argument("--top-p", type=float, metavar="P", help="choose among the fewest likeliest that sum to P")
    parser.add_argument(
        "--stop",
        action="append",
        default=[],
        metavar="TEXT",
        help="end where this is generated, and leave it out; \\n is a line break; may be given several times",
    )
    parser.add_argument("--seed", type=int, default=42, metavar="N", help="of the random choices (default: 42)")
    parser.add_argument("--batch", type=int, default=16, metavar="N", help="texts at a time (default: 16)")
    parser.add_argument("--json", action="store_true", help="one JSON object a prompt")


def generate(options: argparse.Namespace) -> int:
    """Run the command's body.

    Raises:
        ScmfError: anything that the user can mend.
    """
    sampling = Sampling(temperature=options.temperature, top_k=options.top_k, top_p=options.top_p, seed=options.seed)
    _refuse_numbers(options)
    prompts = _prompts(options)
    stops = tuple(_unescaped(stop) for stop in options.stop)
    saved = saved_of(options)
    _refuse_task(saved, options)
    from scmf.eval.loaded import load_model
    from scmf.eval.text import TextModel, TextSettings

    with load_model(saved, precision=precision_of(options)) as loaded:
        model = TextModel(loaded)
        _note(f"model  {loaded.describe()}")
        for line in model.notes(prompts):
            _note(f"note   {line}")
        settings = TextSettings(sampling, options.max_new_tokens, stops, options.batch)
        _print(model.write(prompts, settings), as_json=options.json, total=len(prompts))
    return 0


def _refuse_numbers(options: argparse.Namespace) -> None:
    """Counts are at least 1, and a stop text has something in it.

    Raises:
        ConfigError: with the option.
    """
    for name, value in (("max-new-tokens", options.max_new_tokens), ("batch", options.batch)):
        if value < 1:
            raise ConfigError(f"--{name} is {value}", where="command line", fix=f"--{name} 1 or more")
    if "" in options.stop:
        raise ConfigError(
            "--stop is empty text, which every text ends with", where="command line", fix=r'--stop "\n" ends at a line'
        )


def _refuse_task(saved: Saved, options: argparse.Namespace) -> None:
    """Only a model that predicts the next token can go on with a text.

    Raises:
        ConfigError: this one has another task.
    """
    kind = saved.config.model.task.kind
    if kind != "clm":
        raise ConfigError(
            f"the model's task is {kind}, and only causal language models (clm) continue a text",
            where=f"model.task of {saved.folder / 'config.yaml'}",
            fix=f"scmf-eval perplexity --run {shlex.quote(str(options.source))} measures this one",
        )


def _prompts(options: argparse.Namespace) -> list[str]:
    if options.prompts_file is None:
        return [_unescaped(options.prompt)]
    path: Path = options.prompts_file
    lines = _lines(path)
    prompts = [_prompt_of(line, f"{path}, line {n}") for n, line in lines] if path.suffix == ".jsonl" else None
    found = [line for _, line in lines] if prompts is None else prompts
    if not found:
        raise ConfigError("there is no prompt in this file", where=str(path), fix="write one prompt a line")
    return found


def _lines(path: Path) -> list[tuple[int, str]]:
    """Lines with something on them, with their numbers from 1."""
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"byte {error.start:,} is no UTF-8", where=str(path), fix=f"iconv -t UTF-8 {shlex.quote(str(path))}"
        ) from error
    return [(n, bare) for n, line in enumerate(text.split("\n"), start=1) if (bare := line.removesuffix("\r"))]


def _prompt_of(line: str, where: str) -> str:
    fix = 'write an object a line: {"prompt": "ROMEO:"}'
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise ConfigError(f"this is no JSON: {error}", where=where, fix=fix) from error
    prompt = value.get("prompt") if isinstance(value, dict) else None
    if not isinstance(prompt, str):
        raise ConfigError('there is no text under "prompt"', where=where, fix=fix)
    return prompt


def _unescaped(text: str) -> str:
    r"""Text as typed: \n, \t and \\ are a line break, a tab and a backslash."""
    return re.sub(r"\\([nt\\])", lambda match: {"n": "\n", "t": "\t", "\\": "\\"}[match[1]], text)


def _print(written: Iterable[Written], *, as_json: bool, total: int) -> None:
    for one in written:
        if as_json:
            line = json.dumps(asdict(one), ensure_ascii=False)
        elif total > 1:
            line = f"--- prompt {one.number + 1} of {total}\n{one.prompt}{one.text}"
        else:
            line = one.prompt + one.text
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def _note(line: str) -> None:
    """On stderr: stdout is the text alone."""
    sys.stderr.write(line + "\n")
