"""Broken configurations of every kind: refused in three lines, or valid and read back equal; never a traceback."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from scmf.core.config_read import parse_json, parse_yaml, read_document
from scmf.core.errors import ConfigError, legible
from scmf.train.cli_recipe import main, recipe_command
from scmf.train.config import check_document

FUZZ = Path(__file__).parents[2] / "scripts" / "fuzz_config.py"


def test_broken_configurations_are_refused_in_three_lines_or_are_valid_and_read_back_equal():
    """A little of what `scripts/fuzz_config.py` does ten thousand times."""
    command = [sys.executable, FUZZ, "--n", "300", "--seed", "20"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = re.search(r"300 configurations: (\d+) refused, (\d+) valid and read back equal, 0 wrong", done.stdout)
    assert counts is not None
    assert min(map(int, counts.groups())) > 30  # both kinds are met


def test_the_fuzz_reports_what_is_no_message_of_ours(tmp_path):
    """The check itself can fail: a message with a fourth line is a finding."""
    three = "error: a\n  where: b\n  fix:   c\n"
    bad = ["Traceback\n", f"{three}  more\n", three.replace("c", ""), three.replace("a", "\x1b[31m")]
    code = (
        f"import fuzz_config\nfuzz_config.check_message(1, {three!r})\n"
        f"for said in {bad!r}:\n"
        "    try:\n        fuzz_config.check_message(1, said)\n"
        "    except fuzz_config.Wrong:\n        print('found')\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=FUZZ.parent, capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines() == ["found"] * 4


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


@pytest.mark.parametrize("levels", [40, 300, 900, 5_000, 200_000])
def test_depth_without_end_is_refused_in_any_form(levels, tmp_path):
    for read in (parse_json, parse_yaml):
        with pytest.raises(ConfigError, match="nested deeper than 32 levels"):
            read('{"data": ' + nested(levels) + "}", "cfg")
    with pytest.raises(ConfigError, match="a key of .* parts" if levels < 200_000 else "."):
        recipe_command(["--recipe", "test", "data" + ".a" * min(levels, 5_000) + "=1"])
    with pytest.raises(ConfigError) as error:  # text that only looks like a deep list
        recipe_command(["--recipe", "test", f"trainer.seed='{nested(levels)}'"])
    assert error.value.what.startswith("trainer.seed must be a whole number, not ")


def test_half_a_character_is_refused_where_it_stands():
    with pytest.raises(ConfigError, match="lone surrogate") as error:
        check_document(parse_json('{"data": {"store": "a\\ud800"}}', "cfg.json"))
    assert error.value.where == "cfg.json, data.store"
    with pytest.raises(ConfigError, match="lone surrogate") as error:
        parse_yaml('model:\n  "\\uDC00": 1\n', "cfg.yaml")
    assert error.value.where == "cfg.yaml, line 2, model.\udc00"
    assert "\\udc00" in str(error.value)
    assert check_document_of_pair() == "😀"


def check_document_of_pair():
    return parse_json('{"a": "\\ud83d\\ude00"}', "x").values["a"]


@pytest.mark.parametrize("letter", ["\n", "\x1b", "\u2028", "\x00", "\u202e", "\x85"])
def test_letters_that_a_terminal_would_obey_are_shown_as_escapes(letter, capsys):
    with pytest.raises(SystemExit):
        main(["--recipe", "test", f"trainer.a{letter}b.c=1"])
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 3
    assert legible(letter) in said
    assert letter not in said.replace("\n", "") if letter != "\n" else "a\\nb" in said


def test_a_list_of_faults_keeps_its_lines_and_no_others(capsys):
    with pytest.raises(SystemExit):
        main(["--recipe", "test", "trainer.a\nb=1", "trainer.seed=x"])
    lines = capsys.readouterr().err.split("\n")
    assert lines[0] == "error: 2 faults in the configuration"
    assert [line[:5] for line in lines[1:3]] == ["  1. ", "  2. "]
    assert [line[:9] for line in lines[3:]] == ["  where: ", "  fix:   ", ""]


def test_names_without_end_are_cut_in_messages(capsys):
    with pytest.raises(SystemExit):
        main(["--recipe", "test", f"trainer.{'x' * 100_000}=1"])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert max(map(len, lines)) < 1_000
    assert "trainer.xxxxxxxx" in lines[0]


def test_a_folder_is_told_from_a_file_of_another_name(tmp_path):
    with pytest.raises(ConfigError, match="this is a folder"):
        read_document(tmp_path)


@pytest.mark.parametrize("setting", [".nan", "[1, {b: .inf}]", "{c: -.inf}"])
def test_settings_of_an_observer_that_would_become_null_when_written_are_refused(setting):
    words = [f"trainer.observers=[{{observer: a.B, settings: {{x: {setting}}}}}]"]
    with pytest.raises(ConfigError, match="not finite") as error:
        recipe_command(["--recipe", "test", *words])
    assert "trainer.observers.0.settings" in error.value.where
