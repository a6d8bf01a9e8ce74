"""Fixtures of the tests of scmf.data."""

from __future__ import annotations

import pytest

from scmf.data.cli import main


@pytest.fixture
def run(capsys):
    """Run scmf-store in this process; returns its exit code, stdout and stderr."""

    def call(*arguments):
        with pytest.raises(SystemExit) as caught:
            main([str(a) for a in arguments])
        return (caught.value.code or 0, *capsys.readouterr())

    return call
