"""Whether ranks can work together. In: a number of ranks. Out: a check; torchrun starts them as it starts a run's."""

from __future__ import annotations

import json
import sys
import time
from datetime import timedelta

import torch
import torch.distributed as dist

from scmf.train.world import World, join_world

_VALUES = 1 << 22
_ROUNDS = 5


def main() -> None:
    """Body of a rank: pass a block around the ring, add one up, and let the first rank say how fast."""
    with join_world(timedelta(seconds=60)) as world:
        _pass_around(world)
        seconds = _add_up(world)
        if world.is_first:
            moved = 2 * (world.size - 1) / world.size * _VALUES * 4
            facts = {"ranks": world.size, "backend": dist.get_backend(), "bytes_per_s": moved / seconds}
            sys.stdout.write(json.dumps(facts) + "\n")


def _pass_around(world: World) -> None:
    """Each rank sends its number to the next, and has to get the one before.

    Raises:
        RuntimeError: it got another.
    """
    mine = torch.full((1024,), world.rank, dtype=torch.float32, device=world.device)
    theirs = torch.empty_like(mine)
    after, before = (world.rank + 1) % world.size, (world.rank - 1) % world.size
    transfers = [dist.P2POp(dist.isend, mine, after), dist.P2POp(dist.irecv, theirs, before)]
    for transfer in dist.batch_isend_irecv(transfers):
        transfer.wait()
    if not bool((theirs == before).all()):
        raise RuntimeError(f"rank {world.rank} got {theirs[0].item():g} from rank {before}")


def _add_up(world: World) -> float:
    """Seconds of one sum over all ranks, the fastest of some.

    Raises:
        RuntimeError: the sum is wrong.
    """
    best, expected = float("inf"), world.size * (world.size + 1) / 2
    for _ in range(_ROUNDS):
        block = torch.full((_VALUES,), world.rank + 1.0, device=world.device)
        begun = time.perf_counter()
        dist.all_reduce(block)
        low, high = block.min().item(), block.max().item()  # the host waits for the device here
        best = min(best, time.perf_counter() - begun)
        if low != expected or high != expected:
            raise RuntimeError(f"the sum over {world.size} ranks is {low:g} to {high:g}, and should be {expected:g}")
    return best


if __name__ == "__main__":
    main()
