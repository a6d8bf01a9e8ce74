"""The heaps of a training process: threads share two, whatever their number; the user's own setting is obeyed."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="heaps a thread are glibc's")

# Threads that are alive at once and allocate: each would get a heap. malloc_info counts them.
_COUNT = """
import ctypes, re, sys, tempfile, threading
from scmf.train.cli_train import train_command
from scmf.core.errors import ScmfError
try:
    train_command(["--config", "not-there.yaml"])
except ScmfError:
    pass
started, end = threading.Barrier(13), threading.Event()
def allocate():
    kept = [bytearray(1000) for _ in range(100)]
    started.wait()
    end.wait()
    del kept
threads = [threading.Thread(target=allocate) for _ in range(12)]
for thread in threads:
    thread.start()
started.wait()
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
with tempfile.TemporaryFile() as file:
    stream = ctypes.c_void_p(libc.fdopen(file.fileno(), b"w"))
    assert libc.malloc_info(0, stream) == 0
    libc.fflush(stream)
    file.seek(0)
    print(len(re.findall(b"<heap nr", file.read())))
end.set()
"""


def _heaps(**variables: str) -> int:
    environment = {key: value for key, value in os.environ.items() if key not in ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES")}
    command = [sys.executable, "-c", _COUNT]
    done = subprocess.run(command, env=environment | variables, check=True, capture_output=True, text=True)
    return int(done.stdout)


@glibc
def test_a_training_process_with_many_threads_has_two_heaps() -> None:
    """What keeps resident memory flat over a long run: `scmf-train` says so before anything else."""
    assert _heaps() <= 2


@glibc
@pytest.mark.parametrize("variables", [{"MALLOC_ARENA_MAX": "5"}, {"GLIBC_TUNABLES": "glibc.malloc.arena_max=5"}])
def test_whoever_has_set_the_number_of_heaps_is_obeyed(variables: dict[str, str]) -> None:
    """Both ways that glibc has."""
    assert _heaps(**variables) == 5
