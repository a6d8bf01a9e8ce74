"""What scripts/gpu/check_and_time.py looks at, one thing a process. In: a name and its words as JSON. Out: JSON.

    python scripts/gpu/sections.py losses '{"kind": "encoder", "precision": "fp32", "steps": 5}'

Each computes on a GPU where one is visible, and on the CPU elsewhere.
"""

from __future__ import annotations

import collections
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gpu_cases import NO_DROPOUT, SEQ_LENGTH, SHORT, VOCABULARY, Case, small_case
from timed_steps import packed, read_lengths, step_of

from scmf.core.batch import StepBatch
from scmf.model.device import accelerator_facts, can_compile, local_device, peak_memory
from scmf.model.pack import Pack
from scmf.model.transformer import VocabularyShape
from scmf.train.config import MainConfig
from scmf.train.engine import Engine
from scmf.train.layout import lay_out
from scmf.train.world import join_world


@contextmanager
def engine_of(config: MainConfig, *, seq_length: int) -> Iterator[Engine]:
    """The engine of a config on this process's device, alone."""
    with join_world() as world, lay_out(world, config.trainer.parallel) as layout:
        yield _engine(config, layout, seq_length=seq_length)


def _engine(config: MainConfig, layout: Any, *, seq_length: int) -> Engine:
    precision = config.trainer.precision
    return Engine(
        config,
        layout=layout,
        vocabulary=VocabularyShape(size=VOCABULARY, seq_length=seq_length),
        max_steps=100_000,
        precision="fp32" if precision == "auto" else precision,
    )


def _small_step() -> StepBatch:
    lengths = read_lengths(None, seq_length=SHORT, cells=8)
    return step_of(lengths, packed(lengths, budget=1024), vocabulary=VOCABULARY, seq_length=SHORT)


def facts() -> dict[str, Any]:
    """What is installed and what the driver shows."""
    names = ("torch", "megatron-core", "transformer-engine", "flash-attn", "triton", "scmf-train")
    return {**accelerator_facts(), "packages": {n: _version(n) for n in names}, "can_compile": can_compile()}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def losses(*, kind: str, precision: str, steps: int) -> list[float]:
    """Losses of a small model without dropout."""
    batch = _small_step()
    with engine_of(small_case(kind, precision, *NO_DROPOUT), seq_length=SHORT) as engine:
        return [engine.train_step(batch, step=step).loss.mean for step in range(steps)]


def apart(*, kind: str, precision: str) -> dict[str, int]:
    """Positions of other cells, and of the cell itself, whose outputs change when one token of a cell does."""
    (microbatch, *_) = _small_step().microbatches
    first, last = (int(end) for end in microbatch.cu_seqlens[1:3])
    changed = microbatch.input_ids.copy()
    changed[first] += 1
    with engine_of(small_case(kind, precision, *NO_DROPOUT), seq_length=SHORT) as engine:
        model = engine.encoder.eval()
        with torch.no_grad():
            before, after = (
                model.hidden_states(Pack.of(replace(microbatch, input_ids=ids), local_device()))
                for ids in (microbatch.input_ids, changed)
            )
        moved = (before != after).any(1)
        own = int(moved[first:last].sum())
        return {"own": own, "others": int(moved.sum()) - own}


def resumed(*, kind: str, precision: str) -> dict[str, list[float]]:
    """Losses, with dropout, of two steps after a save: by the run that goes on, and by one that has read it."""
    batch, config = _small_step(), small_case(kind, precision)
    with (
        join_world() as world,
        lay_out(world, config.trainer.parallel) as layout,
        tempfile.TemporaryDirectory() as name,
    ):
        engine = _engine(config, layout, seq_length=SHORT)
        for step in range(3):
            engine.train_step(batch, step=step)
        engine.save(Path(name))
        whole = [engine.train_step(batch, step=step).loss.mean for step in (3, 4)]
        again = _engine(config, layout, seq_length=SHORT)
        again.load(Path(name))
        return {"whole": whole, "resumed": [again.train_step(batch, step=step).loss.mean for step in (3, 4)]}


def waits(*, precision: str) -> dict[str, int]:
    """Where the host waits for a GPU in a step, and how often; nothing on a CPU. Source: torch's sync debug mode."""
    batch = _small_step()
    with engine_of(small_case("encoder", precision), seq_length=SHORT) as engine:
        for step in range(3):
            engine.train_step(batch, step=step)
        if local_device().type == "cpu":
            return {}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")  # noqa: TID251
            engine.train_step(batch, step=3)
            torch.cuda.set_sync_debug_mode("default")  # noqa: TID251
        found = [w for w in caught if "called a synchronizing CUDA operation" in str(w.message)]
        return dict(collections.Counter(f"{Path(w.filename).name}:{w.lineno}" for w in found))


def speed(*, case: tuple[str, str, str], lengths: str | None, cells: int, budget: int, steps: int) -> dict[str, Any]:
    """Median seconds of a step, after three to warm, its tokens, its FLOPs and the memory that it took."""
    timed = Case(*case)
    drawn = read_lengths(None if lengths is None else Path(lengths), seq_length=SEQ_LENGTH, cells=cells)
    batch = timed.batch(drawn, budget=budget)
    taken = []
    with engine_of(timed.config(), seq_length=SEQ_LENGTH) as engine:
        for step in range(steps + 3):
            begin = time.perf_counter()
            engine.train_step(batch, step=step)
            # The step reads its loss and norm, and the next one waits for the update: a step's time is whole.
            taken.append(time.perf_counter() - begin)
        memory = peak_memory(local_device())
    return {
        "seconds": sorted(taken[3:])[steps // 2],
        "tokens": sum(m.tokens for m in batch.microbatches),
        "flops": timed.flops(drawn, batch),
        "bytes": memory,
    }


SECTIONS: dict[str, Callable[..., Any]] = {
    section.__name__: section for section in (facts, losses, apart, resumed, waits, speed)
}


if __name__ == "__main__":
    print(json.dumps(SECTIONS[sys.argv[1]](**json.loads(sys.argv[2]))))
