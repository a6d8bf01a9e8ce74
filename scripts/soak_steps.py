"""A long run of a tiny model: does memory grow, do steps become slower?

    python scripts/soak_steps.py                  # 10,000 steps; about six minutes on one core
    python scripts/soak_steps.py --steps 500

The whole of `scmf-train` runs in this process: loader, steps, average of the weights, validation, checkpoints, log.
After every step its resident memory and the CPU time of all its threads are noted. Prints a table; exits with 1 where
memory grows by more than 2% of itself, at the slope behind the first tenth, or the median step of the last tenth takes
15% more CPU time than that of the first.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

COUNTS = Path(__file__).resolve().parents[1] / "data" / "mix3cl_celseq2_dropseq_counts.h5ad"
SIZES = {
    "data.tokenizer.seq_length": 64,
    "data.microbatch_tokens": 256,
    "data.global_batch_size": 4,
    "data.workers": 1,
    "model.layers": 2,
    "model.hidden": 32,
    "model.ffn": 64,
    "model.heads": 2,
    "trainer.schedule.warmup_steps": 20,
    "trainer.validate.every": 50,
    "trainer.validate.batches": 2,
    "trainer.checkpoint.every": 100,
    "trainer.log.every": 10,
    "trainer.log.cell_ids": True,
    "trainer.ema": "{decay: 0.99}",
    "trainer.early_stop": "{patience: 1000000}",
}
GROWTH = 0.02
"""Largest growth of resident memory over the run, as a share of it."""
SLOWDOWN = 1.15
"""Largest quotient of the last tenth's median step and the first's."""
_SKIP = 0.1
"""Share of the run in which memory may still settle: the first validations and saves."""


@dataclass
class Log:
    """What was noted after every step."""

    resident: list[int] = field(default_factory=list)
    """Bytes."""
    cpu: list[float] = field(default_factory=list)
    """Seconds of CPU time of this process so far."""

    def note(self) -> None:
        """One more step."""
        import psutil

        self.resident.append(psutil.Process().memory_info().rss)
        self.cpu.append(time.process_time())

    @property
    def slope(self) -> float:
        """Bytes a step, least squares over what follows the settling."""
        kept = np.array(self.resident[int(len(self.resident) * _SKIP) :], np.float64)
        return float(np.polyfit(np.arange(len(kept)), kept, 1)[0])

    @property
    def growth(self) -> float:
        """Bytes over the whole run, at that slope."""
        return self.slope * len(self.resident)

    def step_seconds(self, *, last: bool) -> float:
        """Median CPU seconds of a step of the first or the last tenth."""
        tenth = max(2, len(self.cpu) // 10)
        part = self.cpu[-tenth:] if last else self.cpu[1 : tenth + 1]  # the first step compiles
        return float(np.median(np.diff(part)))

    @property
    def slowdown(self) -> float:
        """The last tenth's median step over the first's."""
        return self.step_seconds(last=True) / self.step_seconds(last=False)


def soak(folder: Path, *, steps: int) -> Log:
    """Run so many steps in this process, and note what each leaves behind.

    Args:
        folder: empty; the run is left in it.
        steps: of the run, at least 50.
    """
    from scmf.data.ingest.convert import convert
    from scmf.data.ingest.plan import ConvertOptions
    from scmf.train.heap import share_heaps
    from scmf.train.layout import lay_out
    from scmf.train.recipe import RecipeArguments
    from scmf.train.recipes import find_recipe
    from scmf.train.run import run
    from scmf.train.world import join_world

    share_heaps()  # as scmf-train does, first of all
    convert([COUNTS], folder / "store", ConvertOptions(cells_per_part=50), log=lambda _: None)
    words = [f"{key}={_word(value)}" for key, value in SIZES.items()]
    arguments = RecipeArguments(
        store=str(folder / "store"), result_dir=str(folder / "run"), overrides=(*words, f"trainer.max_steps={steps}")
    )
    config, log = find_recipe("test").config(arguments), Log()
    with join_world() as world, lay_out(world, config.trainer.parallel) as layout, noting(log):
        code = run(config, layout, resume=None)
    if code != 0 or len(log.cpu) != steps:
        raise RuntimeError(f"the run ended with {code} after {len(log.cpu)} of {steps} steps")
    return log


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@contextlib.contextmanager
def noting(log: Log) -> Any:
    """Note every training step inside the block."""
    from scmf.train.engine import Engine

    whole = Engine.train_step

    def train_step(self: Engine, *args: Any, **options: Any) -> Any:
        """The engine's, noted."""
        report = whole(self, *args, **options)
        log.note()
        return report

    Engine.train_step = train_step  # type: ignore[method-assign]
    try:
        yield
    finally:
        Engine.train_step = whole  # type: ignore[method-assign]


def table(log: Log) -> str:
    """What was found, for a page."""
    first, last = (log.step_seconds(last=last) * 1e3 for last in (False, True))
    settled = log.resident[int(len(log.resident) * _SKIP)]
    rows = {
        "steps": f"{len(log.cpu):,}",
        "resident memory after a tenth, MB": f"{settled / 1e6:,.1f}",
        "largest after it, MB": f"{max(log.resident[int(len(log.resident) * _SKIP) :]) / 1e6:,.1f}",
        "slope, bytes a step": f"{log.slope:,.0f}",
        "growth over the run": f"{log.growth / settled:+.2%}",
        "median step, first tenth, CPU ms": f"{first:.2f}",
        "median step, last tenth, CPU ms": f"{last:.2f} ({log.slowdown:.3f}x)",
    }
    return "\n".join(["| | |", "|---|--:|", *(f"| {key} | {value} |" for key, value in rows.items())])


def main() -> None:
    """Run and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000)
    wanted = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        log = soak(Path(folder), steps=wanted.steps)
    print(table(log))
    settled = log.resident[int(len(log.resident) * _SKIP)]
    sys.exit(int(log.growth > GROWTH * settled or log.slowdown > SLOWDOWN))


if __name__ == "__main__":
    main()
