"""The soak of steps in a process of its own, which joins a world once."""

from __future__ import annotations

import sys
from pathlib import Path


def soak_steps(scripts: Path, folder: Path, steps: int) -> tuple[list[int], list[float], str]:
    """Resident bytes and CPU seconds after every step, and the table."""
    sys.path.insert(0, str(scripts))
    import soak_steps as script

    log = script.soak(folder, steps=steps)
    return log.resident, log.cpu, script.table(log)
