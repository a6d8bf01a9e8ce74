"""Random numbers with a name and a position instead of a global generator, so that resume is arithmetic."""

from __future__ import annotations

import hashlib
import zlib

import numpy as np


def stream(seed: int, purpose: str, *position: int) -> np.random.Generator:
    """Generator that depends only on its arguments: the same on any rank, worker or restart.

    Args:
        seed: the run's seed, >= 0.
        purpose: what the numbers are for; two purposes never share a stream.
        position: non-negative integers, such as an epoch and a cell id.
    """
    return np.random.default_rng([seed, zlib.crc32(purpose.encode()), *position])


def derive_seed(seed: int, purpose: str, *position: int) -> int:
    """63-bit seed for another engine's generator, a function of the arguments alone.

    Unlike `hash`, equal on every machine and Python; unlike adding numbers, never equal by accident.
    """
    text = f"{seed}/{purpose}/" + "/".join(str(p) for p in position)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1
