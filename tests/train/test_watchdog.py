"""A run without progress ends, and says where every rank stands."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from scmf.train.watchdog import HUNG, Watchdog
from support.hanging import hang
from support.ranks import RankFailedError, run_ranks

HELD = """
import ctypes, sys
from scmf.train.watchdog import Watchdog
with Watchdog(1.0, rank=0, size=1) as watchdog:
    watchdog.beat("step 7")
    ctypes.PyDLL(None).pause()  # holds the interpreter's lock: no thread of Python can run
"""


def test_when_one_rank_hangs_all_print_their_stacks_and_end(tmp_path):
    with pytest.raises(RankFailedError, match="died"):
        run_ranks(hang, 2, tmp_path, 2.0)
    deadline = time.monotonic() + 120
    told = {rank: tmp_path / f"rank{rank}" for rank in (0, 1)}
    while not all(path.exists() and "fix:" in path.read_text() for path in told.values()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    hung, waiting = told[1].read_text(), told[0].read_text()
    assert "error: rank 1 of 2 has made no progress for 2 s" in hung
    assert "where: step 7" in hung
    assert "in wait_for_nothing" in hung
    assert "dist.barrier()" in waiting
    assert "in wait_for_nothing" not in waiting


def test_a_rank_that_holds_the_interpreter_is_ended_as_well():
    result = subprocess.run(
        [sys.executable, "-c", HELD], capture_output=True, text=True, timeout=240, check=False, env=dict(os.environ)
    )
    assert result.returncode != 0
    assert "Timeout" in result.stderr
    assert 'File "<string>", line 6 in <module>' in result.stderr


def test_beats_keep_the_watchdog_quiet_and_its_end_forgets_it(monkeypatch):
    ended = []
    monkeypatch.setattr("scmf.train.watchdog.os._exit", ended.append)
    with Watchdog(3600.0, rank=0, size=1) as watchdog:
        watchdog.beat("a step")
    with Watchdog(None, rank=0, size=1) as watchdog:
        watchdog.beat("a step")
    assert not ended
    assert HUNG == 124
