"""What all ranks decide together. In: something that may fail. Out: its result on every rank, or one message.

A fault that every rank sees would be told once a rank, and one that a single rank sees would leave the others
waiting in a collective. Here every rank learns of it, one tells, and all stop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from scmf.core.errors import ConfigError, ScmfError, describe_os_error

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
    result, fault = attempt(action)
    stop_on(first_fault(fault))
    return result  # type: ignore[return-value]  # without a fault it is the action's result


def on_first(action: Callable[[], T]) -> T:
    """Run an action on the first rank only, and have its result on every rank.

    Args:
        action: what reads or writes the run directory; its result has to be picklable.

    Raises:
        ScmfError: on the first rank, if it failed.
        SystemExit: on the other ranks; the code is 1.
    """
    box: list[tuple[T | None, ScmfError | None]] = [attempt(action) if dist.get_rank() == 0 else (None, None)]
    dist.broadcast_object_list(box, src=0)
    result, fault = box[0]
    stop_on(None if fault is None else RankFault(0, fault))
    return result  # type: ignore[return-value]


def refuse_unlike(mine: Mapping[str, object], *, fix: str) -> None:
    """Refuse a run whose ranks were given different things; collective.

    Nodes with a configuration, packages or a store of their own would train on, each by its own, and nobody would know.

    Args:
        mine: what this rank was given, by name; plain values.
        fix: what to do about a difference.

    Raises:
        ConfigError: on the lowest rank that has something else than the first; the first difference is told.
        SystemExit: on the other ranks; the code is 1.
    """
    first = on_first(lambda: dict(mine))
    together(lambda: _compare(first, mine, fix))


def _compare(first: Mapping[str, object], mine: Mapping[str, object], fix: str) -> None:
    for name in dict.fromkeys([*first, *mine]):
        if first.get(name) != mine.get(name):
            raise ConfigError(
                f"{name} is {mine.get(name)} on this rank and {first.get(name)} on the first", where=name, fix=fix
            )


@dataclass(frozen=True, slots=True)
class RankFault:
    """What went wrong on one rank."""

    rank: int
    error: ScmfError


def attempt(action: Callable[[], T]) -> tuple[T | None, ScmfError | None]:
    """The result, or the fault that a user can mend; others are raised."""
    try:
        return action(), None
    except ScmfError as error:
        return None, error
    except OSError as error:
        return None, describe_os_error(error)


def first_fault(fault: ScmfError | None, group: Any = None) -> RankFault | None:
    """The fault of the lowest rank that has one, on every rank of the group; collective.

    Args:
        fault: this rank's.
        group: process group; all ranks by default.
    """
    faults: list[ScmfError | None] = [None] * dist.get_world_size()
    dist.all_gather_object(faults, fault, group=group)
    return next((RankFault(rank, found) for rank, found in enumerate(faults) if found is not None), None)


def stop_on(fault: RankFault | None) -> None:
    """Stop all ranks on a fault that all know, told by the one that had it.

    Raises:
        ScmfError: on that rank.
        SystemExit: on the others; the code is 1.
    """
    if fault is None:
        return
    if dist.get_rank() == fault.rank:
        raise fault.error
    raise SystemExit(1) from fault.error  # the first rank writes the cause into log.txt


@dataclass(frozen=True, slots=True)
class Standing:
    """What a rank has to say before a step; added up, what all have to say."""

    stop: int = 0
    """Ranks that were asked to end."""
    wishes: int = 0
    """Ranks on which an observer of the user's asks the run to end."""
    failed: int = 0
    """Ranks that have no data for this step, or cannot save any more."""
    bad_cells: int = 0
    """Cells of this step that were replaced."""
    kiloflops: int = 0
    """Thousands of FLOPs of this step, by formula."""


class Council:
    """The ranks' agreement before every step: one sum of a few numbers, by CPU. Alone, it is free.

    Args:
        timeout: how long a rank waits for the others.
    """

    def __init__(self, timeout: timedelta) -> None:
        alone = dist.get_world_size() == 1
        # On GPUs the ranks' own group would make the host wait for the device.
        self._group = None if alone else dist.new_group(backend="gloo", timeout=timeout)

    def hear(self, mine: Standing) -> Standing:
        """The sum over all ranks; collective."""
        if self._group is None:
            return mine
        numbers = torch.tensor(astuple(mine), dtype=torch.int64)
        dist.all_reduce(numbers, group=self._group)
        return Standing(*numbers.tolist())

    def gather(self, item: T) -> list[T]:
        """The item of every rank, in their order; collective, for what happens rarely."""
        if self._group is None:
            return [item]
        items: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(items, item, group=self._group)
        return items
