"""What a command says to a misspelt word: the nearest right one, and the whole command with it."""

from __future__ import annotations

import argparse
from importlib.metadata import version

import pytest

from scmf.core.command import Parser
from scmf.core.errors import ConfigError
from scmf.core.near_word import nearest


def parser():
    top = Parser(prog="scmf-x")
    commands = top.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    convert = commands.add_parser("convert")
    convert.add_argument("sources", nargs="+")
    convert.add_argument("--dest", required=True)
    convert.add_argument("--counts")
    convert.add_argument("--species", choices=("human", "mouse"))
    commands.add_parser("check")
    return top


@pytest.mark.parametrize(
    ("words", "says", "fix"),
    [
        pytest.param(
            ["convert", "my cells.h5ad", "--dst", "out"],
            "the following arguments are required: --dest; --dst: did you mean --dest?",
            "scmf-x convert 'my cells.h5ad' --dest out",
            id="required flag",
        ),
        pytest.param(
            ["convert", "a", "--dest", "out", "--coutns=X"],
            "unrecognized arguments: --coutns=X; --coutns: did you mean --counts?",
            "scmf-x convert a --dest out --counts=X",
            id="optional flag",
        ),
        pytest.param(
            ["convert", "a", "--destination", "out"],
            "the following arguments are required: --dest; --destination: did you mean --dest?",
            "scmf-x convert a --dest out",
            id="longer name",
        ),
        pytest.param(
            ["convert", "a", "--dest", "out", "--coun", "X"],
            "unrecognized arguments: --coun X; --coun: did you mean --counts?",
            "scmf-x convert a --dest out --counts X",
            id="beginning of a flag",
        ),
        pytest.param(
            ["convert", "a", "-dest", "out", "\u2014counts", "X"],
            "-dest: did you mean --dest?; \u2014counts: did you mean --counts?",
            "scmf-x convert a --dest out --counts X",
            id="other dashes",
        ),
        pytest.param(["chekc", "a"], "'chekc'", "scmf-x check a", id="command"),
        pytest.param(
            ["convert", "a", "--dest", "o", "--species", "humn"],
            "'humn'",
            "scmf-x convert a --dest o --species human",
            id="choice",
        ),
        pytest.param(
            ["convert", "a", "--output", "o"],
            "the following arguments are required: --dest",
            "scmf-x convert --help",
            id="nothing near",
        ),
        pytest.param(
            ["convert", "a"], "the following arguments are required: --dest", "scmf-x convert --help", id="left out"
        ),
    ],
)
def test_a_misspelt_word_is_answered_with_the_command_that_was_meant(words, says, fix):
    with pytest.raises(ConfigError) as caught:
        parser().parse_args(words)
    assert says in caught.value.what
    assert caught.value.fix == fix


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (["cfg.yaml", "--fast", "a.b=1"], "scmf-x --config cfg.yaml --fast a.b=1"),
        (["my cfg.yaml"], "scmf-x --config 'my cfg.yaml'"),
        (["a.b=1"], "scmf-x --help"),
        (["--fast"], "scmf-x --help"),
        ([], "scmf-x --help"),
    ],
)
def test_a_word_in_the_place_of_a_missing_flag_is_given_the_flag(words, fix):
    train = Parser(prog="scmf-x")
    train.add_argument("--config", required=True)
    train.add_argument("--fast", action="store_true")
    train.add_argument("overrides", nargs="*")
    with pytest.raises(ConfigError) as caught:
        train.parse_intermixed_args(words)
    assert caught.value.fix == fix
    assert "required: --config" in caught.value.what


def even(text):
    if int(text) % 2:
        raise argparse.ArgumentTypeError(f"{text} is odd")
    return int(text)


@pytest.mark.parametrize(
    ("words", "says", "fix"),
    [
        (["--n", "ten"], "argument --n: 'ten' is no whole number", "--n N: how many"),
        (["--n"], "argument --n: expected one argument", "--n N: how many"),
        (["--share", "1,5"], "argument -s/--share: '1,5' is no number", "--share S: of all"),
        (["--even", "3"], "argument --even: 3 is odd", "--even E: 0, 2, ..."),
        (["--pair", "a"], "argument --pair: expected 2 arguments", "--pair A B: two of them"),
        (["--n", "1", "--m", "2"], "argument --m: not allowed with argument --n", "scmf-x --help"),
    ],
)
def test_a_value_that_a_flag_does_not_take_is_answered_with_what_it_takes(words, says, fix):
    one = Parser(prog="scmf-x")
    either = one.add_mutually_exclusive_group()
    either.add_argument("--n", type=int, metavar="N", help="how many")
    either.add_argument("--m", type=int, metavar="M", help="how many others")
    one.add_argument("-s", "--share", type=float, metavar="S", help="of all")
    one.add_argument("--even", type=even, metavar="E", help="0, 2, ...")
    one.add_argument("--pair", nargs=2, metavar=("A", "B"), help="two of them")
    with pytest.raises(ConfigError) as caught:
        one.parse_args(words)
    assert (caught.value.what, caught.value.fix) == (says, fix)


def test_flags_between_positional_words_are_all_in_the_command_that_was_meant():
    train = Parser(prog="scmf-x")
    train.add_argument("--config", required=True)
    train.add_argument("--dry-run", action="store_true")
    train.add_argument("overrides", nargs="*")
    with pytest.raises(ConfigError) as caught:
        train.parse_intermixed_args(["--config", "a b.yaml", "x=1", "--dry_run", "y=2"])
    assert caught.value.fix == "scmf-x --config 'a b.yaml' x=1 --dry-run y=2"


def test_the_command_that_was_meant_is_accepted():
    with pytest.raises(ConfigError) as caught:
        parser().parse_args(["convert", "a", "--dst", "out"])
    assert parser().parse_args(caught.value.fix.split()[1:]).dest == "out"


@pytest.mark.parametrize(("word", "right"), [("--speices", "--species"), ("--zzz", None), ("--", None)])
def test_only_a_near_word_is_suggested(word, right):
    assert nearest(word, ["--species", "--dest"]) == right


def test_every_program_says_its_version_and_a_sub_command_has_none(capsys):
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"scmf-x {version('scmf-core')}\n"
    with pytest.raises(ConfigError):
        parser().parse_args(["check", "--version"])
