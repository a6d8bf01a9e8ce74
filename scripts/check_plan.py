"""scmf-plan against real runs on this machine's CPU. Out: a table of predicted and measured step times and memory.

    python scripts/check_plan.py --store data/pbmc                # all cases, about ten minutes on two quiet cores
    python scripts/check_plan.py --store data/pbmc --cases tiny --steps 20 --probe 10

Each case is planned by `scmf-plan --probe`, which measures steps of one or two small microbatches, and then run by
`scmf-train`, for more steps of larger and more microbatches: what is measured is not what the probe has seen. Time is
taken twice: by the clock (the median of the steps' own rates in metrics.jsonl, the first two left out), and as the
processors' time of the whole process, as the difference between a long and a short run over their steps. On a busy
machine only the second means something. Memory is the process's largest resident set, over the long run with its save
at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHORT = 3
"""Steps of the short run."""
_RUN = ("trainer.validate.every=null", "trainer.log.every=1", "trainer.checkpoint.every=1000000", "data.workers=1")
_10M = ("10m-pretrain", "trainer.schedule.warmup_steps=1", "trainer.schedule.hold_steps=0")

CASES: dict[str, tuple[str, ...]] = {
    "tiny": ("demo", "trainer.schedule.warmup_steps=1"),
    "10M, 512 tokens": (
        *_10M,
        "data.tokenizer.seq_length=512",
        "data.microbatch_tokens=8192",
        "data.global_batch_size=32",
    ),
    "10M, 2,048 tokens": (*_10M, "data.global_batch_size=12"),
    "10M, 2,048 tokens, padded": (
        *_10M,
        "data.packing=false",
        "data.microbatch_tokens=null",
        "data.micro_batch_size=4",
    ),
}
"""Name: a recipe and what is changed of it."""


@dataclass(frozen=True)
class Run:
    """One process of scmf-train."""

    step_seconds: float
    """Median by the clock."""
    processor_seconds: float
    """Of the whole process."""
    peak_bytes: int


def main() -> None:
    """Plan, run and compare every case."""
    options = _parser().parse_args()
    print(f"{os.cpu_count()} cores, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'not set')}, ", end="")
    print(f"load {os.getloadavg()[0]:.1f}")
    print("| case | quantity | predicted | measured | error |\n|---|---|--:|--:|--:|")
    for name in options.cases or CASES:
        for row in compare(name, options):
            print(row, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", required=True, help="written by scmf-store convert; the same cells for all cases")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), help="all unless named")
    parser.add_argument("--steps", type=int, default=12, help="of the long run")
    parser.add_argument("--probe", type=float, default=30.0, help="seconds")
    return parser


def compare(name: str, options: argparse.Namespace) -> Iterator[str]:
    """Rows of the table for one case."""
    with tempfile.TemporaryDirectory(prefix="check-plan-") as folder:
        config = Path(folder) / "cfg.yaml"
        recipe, *changes = CASES[name]
        words = ["--recipe", recipe, "--data-path", options.store, "--dest", str(config), *changes, *_RUN]
        _call("scmf-recipe", *words, f"trainer.max_steps={options.steps}")
        plan = json.loads(_call("scmf-plan", "--config", str(config), "--probe", str(options.probe), "--json"))
        short, long = (_train(config, Path(folder) / f"run{steps}", steps) for steps in (SHORT, options.steps))
    processor = (long.processor_seconds - short.processor_seconds) / (options.steps - SHORT)
    yield _row(name, "s a step, clock", plan["speeds"][0]["seconds_per_step"], long.step_seconds)
    yield _row(name, "s a step, processors", plan["probe"]["processor_seconds_per_step"], processor)
    yield _row(name, "GB at the peak", plan["memory_bytes"]["total"] / 1e9, long.peak_bytes / 1e9)


def _row(name: str, what: str, predicted: float, measured: float) -> str:
    return f"| {name} | {what} | {predicted:.3g} | {measured:.3g} | {predicted / measured - 1:+.0%} |"


def _train(config: Path, folder: Path, steps: int) -> Run:
    words = ["--config", str(config), f"trainer.max_steps={steps}", f"trainer.result_dir={folder}"]
    usage = _wait(["scmf-train", *words])
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    batch = lines[0]["cells_seen"]
    seconds = [batch / line["speed/cells_per_s"] for line in lines[2:]]
    return Run(statistics.median(seconds), usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def _wait(words: list[str]) -> Any:
    """Run a program to its end; its resource usage.

    Raises:
        SystemExit: it failed.
    """
    program = _program(words[0])
    with tempfile.TemporaryFile() as log:
        actions = [(os.POSIX_SPAWN_DUP2, log.fileno(), 1), (os.POSIX_SPAWN_DUP2, log.fileno(), 2)]
        number = os.posix_spawn(program, [program, *words[1:]], _environment(), file_actions=actions)
        _, status, usage = os.wait4(number, 0)
        log.seek(0)
        if os.waitstatus_to_exitcode(status):
            sys.exit(f"{' '.join(words)} failed:\n{log.read().decode()}")
    return usage


def _call(*words: str) -> str:
    """What a program prints on stdout."""
    done = subprocess.run(
        [_program(words[0]), *words[1:]], capture_output=True, text=True, check=False, env=_environment()
    )
    if done.returncode:
        sys.exit(f"{' '.join(words)} failed:\n{done.stderr}")
    return done.stdout


def _program(name: str) -> str:
    """The program on the path, else the one beside this Python."""
    return shutil.which(name) or str(Path(sys.executable).parent / name)


def _environment() -> Mapping[str, str]:
    return {**os.environ, "CUDA_VISIBLE_DEVICES": ""}


if __name__ == "__main__":
    main()
