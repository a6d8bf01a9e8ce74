"""The heaps of this process. In: nothing. Out: resident memory that stays flat over a long run.

glibc gives every thread a heap of its own, up to eight a core, and returns none of them: a run of 10,000 steps was
seen to grow from 871 to 1,205 MB that way, while nothing leaked.
"""

from __future__ import annotations

import ctypes
import os

_HEAPS = 2
"""The main thread's, and one that autograd's and the loader's threads share. Measured: steps take no longer."""
_ARENA_MAX = -8
"""M_ARENA_MAX of glibc's malloc.h."""
_VARIABLE = "MALLOC_ARENA_MAX"


def share_heaps() -> None:
    """Let the threads of this process, and of those that it starts, share two heaps.

    To be called before threads are started: heaps that exist stay. Whoever has set `MALLOC_ARENA_MAX` or
    `GLIBC_TUNABLES` is obeyed, and on a system without glibc nothing happens.
    """
    if _VARIABLE in os.environ or "malloc.arena_max" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and mallopt(_ARENA_MAX, _HEAPS):
        os.environ[_VARIABLE] = str(_HEAPS)
