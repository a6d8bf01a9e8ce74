"""`scmf-predict`: what a trained model says of input. Arguments in; predictions out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NoReturn

from scmf.core.command import Parser
from scmf.core.errors import run_command
from scmf.eval.cli_generate import add_generate, generate
from scmf.eval.cli_model import command

_EXAMPLES: Final = """\
examples:
  scmf-predict generate --run results/char-gpt-tiny --prompt "ROMEO:"
  scmf-predict generate --run results/char-gpt-tiny --prompt "ROMEO:" --temperature 0.8 --top-k 20 --seed 7
  scmf-predict generate --run results/char-gpt-tiny --prompts-file prompts.txt --stop "\\n\\n" --json
  scmf-predict generate --run results/char-gpt-tiny --prompt "" --temperature 0 --weights ema
--debug shows the traceback of an error.
"""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Entry point; exits with 0, or with 1 and three lines on stderr."""
    run_command(predict_command, argv)


def predict_command(argv: Sequence[str]) -> int:
    """Run the command's body.

    Args:
        argv: arguments without the program's name.

    Raises:
        ScmfError: anything that the user can mend.
    """
    return _parser().run_sub_command(argv)


def _parser() -> Parser:
    parser = command(None, "scmf-predict", "What a trained model says of your input.", examples=_EXAMPLES)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    text = "Continue texts with a causal model, character by character."
    add_generate(command(commands, "generate", text, examples=_EXAMPLES, run=generate))
    return parser
