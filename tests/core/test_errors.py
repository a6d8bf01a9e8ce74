"""Errors for people: the places they name are those that the user knows."""

from __future__ import annotations

import errno

import pytest

from scmf.core.errors import describe_os_error, lasting_path


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
