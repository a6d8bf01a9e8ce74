"""A run killed again and again, resumed in other layouts, against the run that nothing happens to.

    python scripts/soak_resume.py --kills 100                # about half an hour on two cores
    python scripts/soak_resume.py --kills 5 --steps 24

Two runs with dropout on the counts that the repository ships. One is always resumed on one rank, with other numbers of
workers: every number has to be bit-equal. The other goes on with 1, 2 or 4 ranks each time: the same cells in the same
order, and losses within 1e-4 (without dropout, whose draws depend on the layout). Kills are -9 to all ranks, at random
moments between two steps or inside a save. Prints a table; exits with 1 where a run differs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np

from scmf.core.random import stream

COUNTS = Path(__file__).resolve().parents[1] / "data" / "mix3cl_celseq2_dropseq_counts.h5ad"
SIZES = (
    "model.layers=2",
    "model.hidden=32",
    "model.ffn=64",
    "model.heads=2",
    "data.tokenizer.seq_length=64",
    "data.microbatch_tokens=256",
    "data.global_batch_size=4",
    "trainer.schedule.warmup_steps=2",
    "trainer.validate.every=10",
    "trainer.validate.batches=2",
    "trainer.checkpoint.every=3",
    "trainer.log.every=1",
    "trainer.log.cell_ids=true",
)
DROPOUT = ("model.hidden_dropout=0.1", "model.attention_dropout=0.1")
NO_DROPOUT = ("model.hidden_dropout=0.0", "model.attention_dropout=0.0")
WITHIN = 1e-4
"""Largest difference of losses in another layout, nats."""
_CONTEXT = multiprocessing.get_context("forkserver")
_PATIENCE_SECONDS = 600


@dataclass
class Campaign:
    """One run that is killed and resumed."""

    name: str
    ranks: tuple[int, ...]
    words: tuple[str, ...]
    steps: int
    exact: bool
    kills: int = 0
    in_saves: int = 0
    starts: dict[int, int] = field(default_factory=dict)
    worst: float = 0.0
    faults: list[str] = field(default_factory=list)


def soak(folder: Path, *, kills: int, steps: int, seed: int = 0) -> list[Campaign]:
    """Kill and resume until enough; compare with the runs that nothing happens to.

    Args:
        folder: empty; the runs are left in it.
        kills: over both campaigns.
        steps: of each run.
        seed: of moments, ranks and workers.
    """
    config = _prepare(folder)
    rng = stream(seed, "kills")
    campaigns = [
        Campaign("same layout, other workers", (1,), _words(DROPOUT, steps), steps, exact=True),
        Campaign("1, 2 and 4 ranks", (1, 2, 4), _words(NO_DROPOUT, steps), steps, exact=False),
    ]
    for number, campaign in enumerate(campaigns):
        uncut = folder / f"uncut_{number}"
        _until_done(config, uncut, campaign.words)
        share = kills // 2 + (kills % 2 if number == 0 else 0)
        while campaign.kills < share:
            run = folder / f"run_{number}_{campaign.kills}"
            _one_run(campaign, config, run, share=share, rng=rng)
            _compare(campaign, uncut, run)
    return campaigns


def _one_run(campaign: Campaign, config: Path, run: Path, *, share: int, rng: np.random.Generator) -> None:
    """One run to its end, killed as often as it has room for: each start gets a few steps further."""
    reached = 0
    while campaign.kills < share and reached < campaign.steps - 4:
        target, inside = reached + int(rng.integers(1, 7)), rng.random() < 0.4
        ranks = int(rng.choice(campaign.ranks))
        more = (*campaign.words, f"data.workers={int(rng.choice((0, 1, 3)))}", f"trainer.devices={ranks}")
        ready = _inside_a_save(run, target) if inside else _after_a_step(run, target, rng.uniform(0.0, 0.05))
        killed = _killed_when(_start(config, run, more, ranks), ready)
        campaign.starts[ranks] = campaign.starts.get(ranks, 0) + 1
        if not killed:
            break
        campaign.kills += 1
        campaign.in_saves += bool(list((run / "checkpoints").glob(".writing-*")))
        reached = _last_step(run)
    ranks = int(rng.choice(campaign.ranks))
    _until_done(config, run, campaign.words, ranks=ranks)
    campaign.starts[ranks] = campaign.starts.get(ranks, 0) + 1


def _words(dropout: tuple[str, ...], steps: int) -> tuple[str, ...]:
    return (*SIZES, *dropout, f"trainer.max_steps={steps}")


def _prepare(folder: Path) -> Path:
    """A store and a config."""
    from scmf.data.cli import main as store
    from scmf.train.cli_recipe import main as recipe

    with contextlib.redirect_stdout(sys.stderr):
        _call(store, "convert", COUNTS, "--dest", folder / "store")
        _call(recipe, "--recipe", "test", "--data-path", folder / "store", "--dest", folder / "cfg.yaml")
    return folder / "cfg.yaml"


def _call(main: Callable[[Sequence[str]], Any], *words: object) -> None:
    try:
        main([str(word) for word in words])
    except SystemExit as end:
        if end.code:
            raise RuntimeError(f"{words} ended with {end.code}") from end


def _start(config: Path, run: Path, words: Sequence[str], ranks: int) -> list[BaseProcess]:
    from scmf.train.launch import free_port

    port = free_port()
    arguments = ["--config", str(config), "--resume", "auto", f"trainer.result_dir={run}", *words]
    processes: list[BaseProcess] = [
        _CONTEXT.Process(target=_rank, args=(rank, ranks, port, arguments), daemon=True) for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    return processes


def _rank(rank: int, ranks: int, port: int, arguments: list[str]) -> None:
    """scmf-train as a launcher starts it."""
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_PORT": port}
    os.environ |= {key: str(value) for key, value in places.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    from scmf.train.cli_train import main

    main(arguments)


def _killed_when(processes: list[BaseProcess], ready: Callable[[], bool]) -> bool:
    """Kill all as soon as `ready()`; False where they have ended before."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    try:
        while all(process.is_alive() for process in processes):
            if time.monotonic() > deadline:
                raise RuntimeError("a run made no progress")
            if ready():
                return True
            time.sleep(0.0005)
        return False
    finally:
        for process in processes:
            if process.is_alive() and process.pid is not None:
                os.kill(process.pid, signal.SIGKILL)
        for process in processes:
            process.join()


def _until_done(config: Path, run: Path, words: Sequence[str], *, ranks: int = 1) -> None:
    processes = _start(config, run, (*words, f"trainer.devices={ranks}"), ranks)
    for process in processes:
        process.join(_PATIENCE_SECONDS)
    if any(process.exitcode != 0 for process in processes):
        raise RuntimeError(f"a run ended with {[process.exitcode for process in processes]}")


def _after_a_step(run: Path, step: int, seconds: float) -> Callable[[], bool]:
    reached: list[float] = []

    def ready() -> bool:
        if not reached and _last_step(run) >= step:
            reached.append(time.monotonic())
        return bool(reached) and time.monotonic() - reached[0] >= seconds

    return ready


def _inside_a_save(run: Path, step: int) -> Callable[[], bool]:
    saves = run / "checkpoints"
    return lambda: _last_step(run) >= step and any(saves.glob(".writing-*"))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        yield from (json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n"))


def _last_step(run: Path) -> int:
    return max((int(line["step"]) for line in _lines(run / "metrics.jsonl")), default=0)


def _compare(campaign: Campaign, uncut: Path, run: Path) -> None:
    if list(_lines(uncut / "cells.jsonl")) != list(_lines(run / "cells.jsonl")):
        campaign.faults.append(f"{run.name}: other cells, or in another order")
    here, there = list(_lines(run / "metrics.jsonl")), list(_lines(uncut / "metrics.jsonl"))
    if [line["step"] for line in here] != [line["step"] for line in there]:
        campaign.faults.append(f"{run.name}: other steps")
        return
    for mine, wanted in zip(here, there, strict=True):
        keys = [key for key in wanted if not key.startswith(("speed/", "memory/", "time/"))]
        if campaign.exact and any(mine.get(key) != wanted[key] for key in keys):
            campaign.faults.append(f"{run.name}: step {wanted['step']} is not bit-equal")
        campaign.worst = max(campaign.worst, abs(mine["train/loss"] - wanted["train/loss"]))
    if campaign.worst > WITHIN:
        campaign.faults.append(f"{run.name}: a loss differs by {campaign.worst:.1e}")


def main() -> None:
    """Soak, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="kill -9 over both campaigns (default 100)")
    parser.add_argument("--steps", type=int, default=60, help="of each run (default 60)")
    parser.add_argument("--seed", type=int, default=0, help="of moments, ranks and workers")
    options = parser.parse_args()
    _CONTEXT.set_forkserver_preload(["scmf.train.run", "scmf.train.cli_train"])
    with tempfile.TemporaryDirectory() as name:
        campaigns = soak(Path(name), kills=options.kills, steps=options.steps, seed=options.seed)
    print("| resumed with | kills | of them inside a save | starts by ranks | cells | largest loss difference |")
    print("|---|--:|--:|---|---|--:|")
    for campaign in campaigns:
        starts = ", ".join(f"{ranks}: {count}" for ranks, count in sorted(campaign.starts.items()))
        same = "differ" if any("cells" in fault for fault in campaign.faults) else "equal"
        print(
            f"| {campaign.name} | {campaign.kills} | {campaign.in_saves} | {starts} | {same} | {campaign.worst:.1e} |"
        )
    for fault in [fault for campaign in campaigns for fault in campaign.faults]:
        print(fault)
    sys.exit(1 if any(campaign.faults for campaign in campaigns) else 0)


if __name__ == "__main__":
    main()
