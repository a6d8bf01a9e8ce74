"""Errors for people: the places they name are those that the user knows."""

from __future__ import annotations

import errno
import subprocess
import sys

import pytest

from scmf.core.errors import describe_os_error, lasting_path

WRITER = """
import sys
from scmf.core.errors import run_command
run_command(lambda argv: 0 * sys.stdout.write("lines " * int(argv[0])), sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("written", "known"),
    [
        ("/data/.atlas.partial/part-00000/X/data/c/0", "/data/atlas/part-00000/X/data/c/0"),
        ("out/.pbmc v1.parquet.4711.unfinished", "out/pbmc v1.parquet"),
        ("out/.cfg.yaml.4711", "out/cfg.yaml"),
        ("/data/atlas/.manifest.json.new", "/data/atlas/manifest.json"),
        ("/home/.config/scmf/a.h5ad", "/home/.config/scmf/a.h5ad"),
        ("a.partial", "a.partial"),
    ],
)
def test_a_place_is_named_as_it_will_be_when_it_is_whole(written, known):
    assert lasting_path(written) == known
    error = describe_os_error(OSError(errno.ENOSPC, "No space left on device", written))
    assert error.where == known


def run(line):
    words = ["sh", "-c", line, "sh", sys.executable, "-c", WRITER]
    return subprocess.run(words, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("words", ["1", "100000"])
def test_output_to_a_full_disk_names_the_output(words):
    ended = run(f'"$@" {words} > /dev/full')
    what, where, fix = ended.stderr.splitlines()
    assert (ended.returncode, what) == (1, "error: No space left on device")
    assert where == "  where: standard output (/dev/full), or a file that the system did not name"
    assert fix.startswith("  fix:   free space")


def test_a_command_whose_output_was_closed_does_its_work():
    ended = run('"$@" 3 >&-')
    assert (ended.returncode, ended.stderr) == (0, "")
