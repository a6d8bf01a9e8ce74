"""scmf's commands without the seconds that Python takes to import torch, for tests that run many of them.

A server imports everything once. Programs named like the commands send it their arguments, environment, folder
and streams; it forks a process for each, which runs the command's entry point as the installed program does. Ranks
that a command starts are forked from it in the same way. `python` is among the programs, for scripts and for -c.
Tests of the start itself and of limits that a process inherits use the real programs.
"""

from __future__ import annotations

import array
import atexit
import functools
import importlib
import importlib.metadata
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

_START_SECONDS = 240
_CLIENT = """\
#!{python} -SE
import array, json, os, signal, socket, sys
line = socket.socket(socket.AF_UNIX)
line.connect({address!r})
request = json.dumps([{program!r}, sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
line.sendmsg([len(request).to_bytes(8, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))])
line.sendall(request)
for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, lambda number, _: line.send(bytes([number])))
code = line.recv(1)
os._exit(code[0] if code else 255)
"""


def commands() -> tuple[str, ...]:
    """Names of every installed scmf program."""
    return tuple(sorted(entry.name for entry in _entry_points()))


@functools.cache
def warm_programs() -> Path:
    """Folder of programs that behave like the installed ones and start at once; the server ends with this process."""
    if not hasattr(os, "pidfd_open"):  # Linux only; elsewhere the installed programs themselves
        return Path(sys.executable).parent
    folder = Path(tempfile.mkdtemp(prefix="scmf-warm-"))
    address = folder / "socket"
    paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    server = subprocess.Popen(
        [sys.executable, "-m", "support.warm", str(address)], stdin=subprocess.PIPE, env=environment
    )
    atexit.register(_end, server, folder)
    _wait_for(address, server)
    for name in (*commands(), "python"):
        program = folder / name
        program.write_text(_CLIENT.format(python=sys.executable, address=str(address), program=str(program)))
        program.chmod(0o755)
    return folder


def _entry_points() -> list[importlib.metadata.EntryPoint]:
    scripts = importlib.metadata.entry_points(group="console_scripts")
    return [entry for entry in scripts if entry.name.startswith("scmf-")]


def _end(server: subprocess.Popen[bytes], folder: Path) -> None:
    server.kill()
    server.wait()
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def _wait_for(address: Path, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not address.exists():
        if server.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the server of commands did not start; exit code {server.poll()}")
        time.sleep(0.05)


def _serve(address: str) -> NoReturn:
    importlib.import_module("support.imported")
    if threading.active_count() > 1:
        raise RuntimeError(f"imports have started threads, which a fork would lose: {threading.enumerate()}")
    line = socket.socket(socket.AF_UNIX)
    line.bind(f"{address}.new")
    line.listen(64)
    Path(f"{address}.new").rename(address)  # whoever sees it can connect
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # handlers are not waited for
    while True:
        ready, _, _ = select.select([line, sys.stdin], [], [])
        if sys.stdin in ready:  # the tests have ended
            os._exit(0)
        connection, _ = line.accept()
        if os.fork() == 0:
            line.close()
            _handle(connection)
        connection.close()


def _handle(connection: socket.socket) -> NoReturn:
    """Fork the command, pass signals on and answer with its exit code; kill it when the program that asked is gone."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    request, streams = _receive(connection)
    child = os.fork()
    if child == 0:
        connection.close()
        _become(*request, streams)
    for stream in streams:
        os.close(stream)
    ended = os.pidfd_open(child)
    ready: list[Any] = []
    while ended not in ready and (not ready or (number := connection.recv(1))):
        if ready:
            os.kill(child, number[0])
        ready, _, _ = select.select([ended, connection], [], [])
    if ended not in ready:
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if ended in ready:
        connection.sendall(bytes([code if code >= 0 else 128 - code]))
    os._exit(0)


def _receive(connection: socket.socket) -> tuple[Any, list[int]]:
    size, ancillary, _, _ = connection.recvmsg(8, socket.CMSG_SPACE(3 * 4))
    streams = array.array("i")
    streams.frombytes(ancillary[0][2])
    body = bytearray()
    while len(body) < int.from_bytes(size, "big"):
        body += connection.recv(1 << 20)
    return json.loads(bytes(body)), list(streams)


def _become(
    program: str, arguments: list[str], folder: str, environment: dict[str, str], streams: list[int]
) -> NoReturn:
    from scmf.train import launch

    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    launch.subprocess = SimpleNamespace(Popen=_ForkedRank)  # type: ignore[assignment]
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)
    _run(program, arguments, environment)


def _run(program: str, arguments: Sequence[str], environment: Mapping[str, str]) -> NoReturn:
    """Run a program in this process, and end as the interpreter does."""
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # read again from the environment
    named = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [*map(os.path.abspath, named), *(path for path in sys.path if path not in named)]
    sys.argv = [program, *arguments]
    try:
        code = _main(Path(program).name)()
    except SystemExit as leaving:
        code = leaving.code
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]  # as the interpreter does before its exit functions
    atexit._run_exitfuncs()
    if not sys.stdout.closed:  # by the program itself
        sys.stdout.flush()
    os._exit(code if isinstance(code, int) else code is not None)


def _main(name: str) -> Callable[[], Any]:
    if name == "python":
        return _script
    return next(entry for entry in _entry_points() if entry.name == name).load()  # type: ignore[no-any-return]


def _script() -> None:
    """`python FILE ...`, `-c CODE ...` and `-m MODULE ...`; anything else becomes the real interpreter."""
    program, *words = sys.argv
    first, *rest = words[words[:1] == ["-u"] :] or ["-"]  # torchrun's ranks are started with -u
    if first not in ("-c", "-m") and first.startswith("-"):
        os.execv(sys.executable, [sys.executable, *words])  # noqa: S606
    sys.executable = program  # what a script starts is warm too
    if first == "-c":
        sys.argv = ["-c", *rest[1:]]
        sys.path.insert(0, "")
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102  as the interpreter does
    elif first == "-m":
        sys.argv = rest
        sys.path.insert(0, str(Path.cwd()))
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [first, *rest]
        sys.path.insert(0, str(Path(first).resolve().parent))
        runpy.run_path(first, run_name="__main__")


class _ForkedRank:
    """What `subprocess.Popen` is to the launcher: a rank, forked from the launcher in place of a start of Python."""

    def __init__(self, command: Sequence[str], *, env: Mapping[str, str]) -> None:
        self.returncode: int | None = None
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _run("scmf-train", command[command.index("scmf.train.cli_train") + 1 :], env)

    def poll(self) -> int | None:
        """Exit code; negative for a signal, None while it runs."""
        return self._reap(os.WNOHANG)

    def wait(self) -> int | None:
        """Exit code, once it has ended."""
        return self._reap(0)

    def _reap(self, options: int) -> int | None:
        if self.returncode is None:
            ended, status = os.waitpid(self.pid, options)
            self.returncode = os.waitstatus_to_exitcode(status) if ended else None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


if __name__ == "__main__":
    _serve(sys.argv[1])
