"""What has been done since the last line of the log. In: steps. Out: rates and the line that a person reads."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from scmf.train.console import describe_seconds
from scmf.train.engine import StepReport


@dataclass
class Interval:
    """Sums since the last line of the log. Validation and saving are not part of it."""

    cells: int = 0
    tokens: int = 0
    data_wait: float = 0.0
    since: float = field(default_factory=time.perf_counter)

    def add(self, report: StepReport, *, data_wait: float) -> None:
        """One step, and the seconds it had no data."""
        self.cells += report.cells
        self.tokens += report.loss.tokens
        self.data_wait += data_wait

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time of the block out."""
        begun = time.perf_counter()
        yield
        self.since += time.perf_counter() - begun

    def rates(self) -> dict[str, float]:
        """Per second of wall time, all ranks together; real tokens only."""
        seconds = max(time.perf_counter() - self.since, 1e-9)
        return {
            "speed/cells_per_s": self.cells / seconds,
            "speed/tokens_per_s": self.tokens / seconds,
            "speed/data_wait": self.data_wait / seconds,
        }

    def start_again(self) -> None:
        """Begin the next interval."""
        self.cells, self.tokens, self.data_wait, self.since = 0, 0, 0.0, time.perf_counter()


def step_line(step: int, total: int, numbers: Mapping[str, float], *, batch: int) -> list[str]:
    """The parts of one line of the log.

    Args:
        step: done.
        total: of the run.
        numbers: of metrics.jsonl at this step.
        batch: cells a step.
    """
    parts = [f"step {step:,}/{total:,}"]
    if "train/loss" in numbers:
        left = (total - step) * batch / numbers["speed/cells_per_s"]
        skipped = math.isnan(numbers["train/grad_norm"])
        parts += [
            f"loss {numbers['train/loss']:.3f}",
            "left out: not finite" if skipped else f"|g| {numbers['train/grad_norm']:.2f}",
            f"lr {numbers['train/lr']:.1e}",
            f"{numbers['speed/cells_per_s']:.1f} cells/s",
            f"{numbers['speed/tokens_per_s'] / 1e3:.1f}k tok/s",
            f"data wait {numbers['speed/data_wait']:.1%}",
            f"eta {describe_seconds(left)}",
        ]
    if "val/loss" in numbers:
        parts.append(f"val loss {numbers['val/loss']:.3f}")
    return parts


def peak_resident_bytes() -> int:
    """Largest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def perplexity(loss: float) -> float:
    """The exponential of the mean loss; infinite where a float cannot hold it."""
    return math.exp(loss) if loss < 700 else math.inf
