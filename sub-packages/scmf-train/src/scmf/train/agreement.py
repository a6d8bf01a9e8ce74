"""What all ranks decide together. In: something that may fail. Out: its result on every rank, or one message.

A fault that every rank sees would be told once a rank, and one that a single rank sees would leave the others
waiting in a collective. Here every rank learns of it, one tells, and all stop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch.distributed as dist

from scmf.core.errors import ScmfError, describe_os_error

T = TypeVar("T")


def together(action: Callable[[], T]) -> T:
    """Run an action without collectives on every rank, and go on only if it went well on all.

    Args:
        action: the same on every rank; may raise.

    Returns:
        This rank's result.

    Raises:
        ScmfError: on the lowest rank on which it failed.
        SystemExit: on the other ranks; the code is 1.
    """
    result, fault = _attempt(action)
    faults: list[ScmfError | None] = [None] * dist.get_world_size()
    dist.all_gather_object(faults, fault)
    return _settle(result, faults)


def on_first(action: Callable[[], T]) -> T:
    """Run an action on the first rank only, and have its result on every rank.

    Args:
        action: what reads or writes the run directory; its result has to be picklable.

    Raises:
        ScmfError: on the first rank, if it failed.
        SystemExit: on the other ranks; the code is 1.
    """
    box: list[tuple[T | None, ScmfError | None]] = [_attempt(action) if dist.get_rank() == 0 else (None, None)]
    dist.broadcast_object_list(box, src=0)
    result, fault = box[0]
    return _settle(result, [fault])


def _attempt(action: Callable[[], T]) -> tuple[T | None, ScmfError | None]:
    try:
        return action(), None
    except ScmfError as error:
        return None, error
    except OSError as error:
        return None, describe_os_error(error)


def _settle(result: T | None, faults: list[ScmfError | None]) -> T:
    teller = next((rank for rank, fault in enumerate(faults) if fault is not None), None)
    if teller is None:
        return result  # type: ignore[return-value]  # without a fault it is the action's result
    fault = faults[teller]
    if fault is not None and dist.get_rank() == teller:
        raise fault
    raise SystemExit(1)
