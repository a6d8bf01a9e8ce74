"""Runs that are watched closely, on forked ranks: with every mirror, through a proxy that counts, on a full disk."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import psutil

from scmf.train.metrics import MetricsFile
from support.faulty import SMALL, Injection, Outcome, fit_rank
from support.ranks import run_ranks


def watch(store: Path, directory: Path, *words: str, proxy: int, ranks: int = 1, resume: str | None = None) -> Any:
    """Train on forked ranks; how it ended on each, and what it left running.

    Args:
        store: of cells.
        directory: of the run.
        words: overrides after SMALL's.
        proxy: port on this machine through which everything that is sent would go.
        ranks: processes.
        resume: as the command takes it.
    """
    return run_ranks(_watched, ranks, store, directory, (*SMALL, *words), proxy, resume)


def _watched(store: Path, directory: Path, words: tuple[str, ...], proxy: int, resume: str | None) -> Any:
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"):
        os.environ[name] = f"http://127.0.0.1:{proxy}"
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        del os.environ[name]
    os.environ["HOME"] = str(directory.parent)  # nobody has logged in here
    outcome = fit_rank(store, directory, words, resume, Injection())
    children = [process.name() for process in psutil.Process().children()]
    waited_for = [t.name for t in threading.enumerate() if t is not threading.main_thread() and not t.daemon]
    return outcome, children, waited_for


def fit_on_full_disk(store: Path, directory: Path, *words: str, step: int, ranks: int = 2) -> list[Outcome]:
    """Train on a disk that takes no more of metrics.jsonl from a step on."""
    return run_ranks(_on_full_disk, ranks, store, directory, (*SMALL, *words), step)


def _on_full_disk(store: Path, directory: Path, words: tuple[str, ...], step: int) -> Outcome:
    write = MetricsFile.write

    def written(sink: Any, at: int, numbers: Any) -> None:
        if at >= step:
            sink._file.close()
            sink._file = Path("/dev/full").open("a", encoding="utf-8")  # noqa: SIM115  the sink closes it
        write(sink, at, numbers)

    MetricsFile.write = written
    return fit_rank(store, directory, words, None, Injection())
