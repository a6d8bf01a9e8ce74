"""Batches ahead of the step. In: a stream and a position. Out: its batches in order, prepared by threads.

Threads suffice: the kernels release the interpreter's lock, and what is left to the interpreter is a few
hundred microseconds a step. The order is that of the positions, whatever the threads do.
"""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

from scmf.core.errors import ScmfError
from scmf.data.step_stream import Draw

Step = TypeVar("Step")
Made_co = TypeVar("Made_co", covariant=True)


class Stepping(Protocol[Made_co]):
    """What can be prepared ahead: a step at any position, from any thread."""

    @property
    def noun(self) -> str:
        """What one unit of a position is called in sentences."""
        ...

    def draw(self, cells_seen: int) -> Draw:
        """Cells of the step that begins after so many cells."""
        ...

    def step(self, cells_seen: int) -> Made_co:
        """This replica's share of it."""
        ...


class LookAhead(Generic[Step]):
    """Endless iterator over a stream's step batches, from a position on. Close it, or use it in `with`."""

    def __init__(self, stream: Stepping[Step], *, start: int, global_batch_size: int, workers: int, depth: int) -> None:
        """Begin to prepare.

        Args:
            stream: prepares one batch a call, from any thread.
            start: cells seen before the first batch.
            global_batch_size: cells between one batch and the next.
            workers: threads; 0 prepares each batch when it is asked for.
            depth: batches prepared or in preparation at most.
        """
        self.last_wait = 0.0
        """Seconds that the last `next` took: time in which the step had no data."""
        self.total_wait = 0.0
        """Sum of all of them."""
        self._stream = stream
        self._position = start
        self._stride = global_batch_size
        self._depth = depth
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="scmf-data") if workers else None
        self._ahead: deque[Future[Step]] = deque()
        self._fill()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Step:
        """The next batch. What went wrong while preparing it is raised here, with the cells it happened to."""
        begin = time.perf_counter()
        if self._ahead:
            batch = self._ahead.popleft().result()
        elif self._pool is None and self._depth:
            batch = self._prepare(self._advance())
        else:
            raise StopIteration  # closed
        self._fill()
        self.last_wait = time.perf_counter() - begin
        self.total_wait += self.last_wait
        return batch

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop what is prepared and wait for the threads; nothing comes after."""
        for batch in self._ahead:
            batch.cancel()
        self._ahead.clear()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._depth = 0

    def _fill(self) -> None:
        while self._pool is not None and len(self._ahead) < self._depth:
            self._ahead.append(self._pool.submit(self._prepare, self._advance()))

    def _advance(self) -> int:
        position = self._position
        self._position += self._stride
        return position

    def _prepare(self, position: int) -> Step:
        try:
            return self._stream.step(position)
        except Exception as error:
            cells = ", ".join(map(str, self._stream.draw(position).cell_ids[:8].tolist()))
            noun = self._stream.noun
            place = f"the step at {position:,} {noun}s seen, which has {noun}s {cells}, ..."
            if isinstance(error, ScmfError):
                where = f"{error.where}; {place}"
                raise type(error)(error.what, where=where, fix=error.fix) from error
            error.add_note(f"while preparing {place}")
            raise
