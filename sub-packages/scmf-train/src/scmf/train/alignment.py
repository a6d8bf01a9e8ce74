"""What the positions of a microbatch are a multiple of. In: a config. Out: a number."""

from __future__ import annotations

import math

from scmf.train.config import MainConfig

ALIGN = 128
"""Positions of a microbatch are a multiple of this: what fp8 block scaling asks for, and 128 is cheap to pad to."""


def align_of(config: MainConfig) -> int:
    """Positions of a microbatch are a multiple of this."""
    parallel = config.trainer.parallel
    # Under sequence parallelism fp8 sees a tensor rank's share of the positions.
    share = parallel.tensor if parallel.sequence and config.trainer.precision == "fp8" else 1
    return math.lcm(ALIGN * share, parallel.tensor)
