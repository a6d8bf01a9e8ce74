"""What a run has trained on, for its checkpoints. In: the cells of every step. Out: a ledger beside the weights.

A stream whose units are no cells (windows of text) has no ledger.

The first rank keeps it; on the others it does nothing. What it costs: a look at one bit a cell each step, and at a
save reading and hashing the cells that were new since the save before.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from scmf.data.ledger import LEDGER, Ledger
from scmf.data.step_stream import Remembering, StepStream
from scmf.train.agreement import together

LongArray = npt.NDArray[np.int64]


class SeenRecord:
    """The cells that a run has seen.

    Args:
        stream: of the run.
        first: whether this is the first rank.
    """

    def __init__(self, stream: StepStream, *, first: bool) -> None:
        self._stream = stream
        self._seen = stream.begin_seen() if first and isinstance(stream, Remembering) else None

    def note(self, cell_ids: LongArray) -> None:
        """Note the cells of a step, of all replicas."""
        if self._seen is not None:
            self._seen.add(cell_ids)

    def file(self) -> dict[str, bytes]:
        """The ledger as a file for a checkpoint; no file on the other ranks. Collective.

        Raises:
            StoreError: the store was damaged while the run read it.
        """
        return together(lambda: {} if self._seen is None else {LEDGER: self._seen.ledger().to_bytes()})

    def take(self, folder: Path, *, cells_seen: int) -> None:
        """Go on with what a checkpoint has seen; one without a ledger has what its data position says. Collective.

        Raises:
            StoreError: a damaged ledger.
        """
        together(lambda: self._take(folder, cells_seen))

    def _take(self, folder: Path, cells_seen: int) -> None:
        if self._seen is None:
            return
        if (folder / LEDGER).is_file():
            self._seen.go_on(Ledger.load(folder))
            return
        size = self._stream.config.global_batch_size
        for position in range(0, cells_seen, size):
            self._seen.add(self._stream.draw(position).cell_ids[: cells_seen - position])
