"""Memory that runs out, for tests of the microbatch that fits: by injection, and by a limit on this process."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

import torch

from scmf.core.errors import ScmfError
from scmf.train.layout import lay_out
from scmf.train.run import build_trainer, describe
from scmf.train.step import Passes
from scmf.train.world import join_world
from support.real import real_config


def build(store: Path, words: tuple[str, ...], room: dict[int, int], limit: int | None) -> Any:
    """What a trainer's microbatch and first loss become, or the error.

    Args:
        store: of cells.
        words: overrides.
        room: rank -> positions of a microbatch that fit on it.
        limit: bytes that this process may take from the first try on.
    """
    config = real_config(store, Path("unused"), *words)
    try_alone = Passes.try_alone
    with join_world() as world, lay_out(world, config.trainer.parallel) as layout:

        def scarce(passes: Passes, batch: Any) -> None:
            if len(batch.microbatches[0].input_ids) > room.get(world.rank, 1 << 40):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            if limit is not None and resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:
                resource.setrlimit(resource.RLIMIT_AS, (_mapped() + limit, resource.RLIM_INFINITY))
            try_alone(passes, batch)

        Passes.try_alone = scarce
        try:
            trainer, resolved = build_trainer(config, layout)
        except ScmfError as error:
            return error.what, error.fix
        report = trainer.engine.train_step(trainer.stream.step(0), step=0)
        data = trainer.config.data
        note = [line for line in describe(trainer, resolved) if line.startswith("memory")]
        written = json.loads(json.dumps(vars(resolved)))["microbatch"]
        return data.microbatch_tokens or data.micro_batch_size, report.loss.mean, report.cells, written, note


def _mapped() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()
