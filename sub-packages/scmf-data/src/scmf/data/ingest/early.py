"""The server from which workers are forked, begun early. Imports next to nothing: it runs beside other imports.

In: nothing. Out: a process that imports what workers need, while this one imports the same and looks at the sources.
"""

from __future__ import annotations

import multiprocessing
from multiprocessing import forkserver
from typing import Any, Final

_WORKERS: Final = "scmf.data.ingest.workers"


def worker_context() -> Any:
    """Context of processes that are forked from a server that has imported the workers' code."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([_WORKERS])
    return context


def begin_server() -> None:
    """Start the server now; returns at once. Takes a second of another core off the time to the first worker."""
    worker_context()
    forkserver.ensure_running()
