"""How long a checkpoint takes, beside what the disk can do: the 106M model with Adam's two moments, 1.3 GB.

    python scripts/bench_checkpoint.py --folder /where/runs/go
    python scripts/bench_checkpoint.py --layers 2 --hidden 64       # seconds

Measures a plain write and a cold read of as many bytes, a save that is waited for, a save in the background with the
time for which the run stands still, and verification and load of the result from a cold cache. Prints a table. The
two saves of the same step are compared byte for byte.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from scmf.model.transformer import VocabularyShape
from scmf.train.checkpoint import RECORD, CheckpointFolder, Progress, verify
from scmf.train.config import CheckpointConfig, MainConfig
from scmf.train.engine import Engine
from scmf.train.layout import Layout, lay_out
from scmf.train.saver import Saver
from scmf.train.sharded import INDEX
from scmf.train.world import TIMEOUT, join_world

VOCABULARY = 25_426
_CHUNK = 1 << 24


def main() -> None:
    """Build, save, load, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path.cwd(), help="on the disk to measure (default: here)")
    parser.add_argument("--layers", type=int, default=12, help="of the encoder (default 12)")
    parser.add_argument("--hidden", type=int, default=768, help="width of the encoder (default 768)")
    options = parser.parse_args()
    config = _config(options.layers, options.hidden)
    with (
        tempfile.TemporaryDirectory(dir=options.folder, prefix="bench-checkpoint-") as name,
        join_world() as world,
        lay_out(world, config.trainer.parallel) as layout,
    ):
        sys.exit(measure(config, layout, Path(name)))


def measure(config: MainConfig, layout: Layout, folder: Path) -> int:
    """Print the table. Returns 1 where the two saves differ."""
    engine = _engine(config, layout)
    _fill_moments(engine)
    waited, beside = (_save(engine, folder / name, background=name == "beside") for name in ("waited", "beside"))
    size = sum(path.stat().st_size for path in beside.path.rglob("*") if path.is_file())
    write, read = _plain_write(folder / "plain", size), _cold(folder / "plain", lambda: _plain_read(folder / "plain"))
    (folder / "plain").unlink()
    check = _cold(beside.path, lambda: verify(beside.path))
    load = _cold(beside.path, lambda: engine.load(beside.path))
    rows = (
        ("plain write with fsync", write, write, 0.0),
        ("save, waited for", waited.seconds, write, waited.stall),
        ("save in the background", beside.seconds, write, beside.stall),
        ("plain read, cold", read, read, 0.0),
        ("verify, cold", check, read, 0.0),
        ("load, cold", load, read, 0.0),
    )
    print(f"{engine.n_parameters:,} parameters, {size / 1e9:.2f} GB with Adam's moments\n")
    print("| what | seconds | MB/s | share of the disk's bandwidth | the run stands still |")
    print("|---|--:|--:|--:|--:|")
    for what, seconds, plain, stall in rows:
        print(f"| {what} | {seconds:.2f} | {size / seconds / 1e6:,.0f} | {plain / seconds:.0%} | {stall:.2f} s |")
    print(f"\nsave and load together: {beside.seconds + check + load:.1f} s")
    return _differ(waited.path, beside.path)


class _Saved:
    def __init__(self, path: Path, seconds: float, stall: float) -> None:
        self.path, self.seconds, self.stall = path, seconds, stall


def _save(engine: Engine, folder: Path, *, background: bool) -> _Saved:
    saver = Saver(CheckpointFolder(folder, CheckpointConfig()), background=background, timeout=TIMEOUT)
    report = None
    for _ in range(2):  # the first one also takes the memory that the copies live in
        saver.save(_progress(), stage=engine.stage, files={})
        report = saver.wait()
    if report is None or report.fault is not None:
        raise RuntimeError(str(report))
    return _Saved(report.path, report.seconds, report.stall)


def _config(layers: int, hidden: int) -> MainConfig:
    values = {
        "data": {
            "kind": "cells",
            "store": "unused",
            "tokenizer": {"kind": "rank", "vocabulary": "geneformer-v1", "seq_length": 2048},
            "global_batch_size": 8,
            "microbatch_tokens": 16_384,
        },
        "model": {"kind": "encoder", "layers": layers, "hidden": hidden, "ffn": 4 * hidden, "heads": hidden // 64},
        "trainer": {"max_steps": 10, "optimizer": {"kind": "adamw", "lr": 1e-3}, "result_dir": "unused"},
    }
    return MainConfig.parse(values, source="bench_checkpoint")


def _engine(config: MainConfig, layout: Layout) -> Engine:
    shape = VocabularyShape(size=VOCABULARY, seq_length=2048)
    return Engine(config, layout=layout, vocabulary=shape, max_steps=10, precision="fp32")


def _fill_moments(engine: Engine) -> None:
    """One update with made-up gradients, so that the optimizer has its state."""
    for group in engine.optimizer.param_groups:
        group["lr"] = 1e-6
        for parameter in group["params"]:
            parameter.grad = parameter.detach().clone()
    engine.optimizer.step_with_ready_grads()
    engine.optimizer.zero_grad()


def _progress() -> Progress:
    return Progress(
        step=1,
        max_steps=10,
        cells_seen=8,
        seed=0,
        val_loss=None,
        data={},
        model={},
        global_batch_size=8,
        layout={"world": 1},
        versions={},
    )


def _plain_write(path: Path, size: int) -> float:
    chunk = np.random.default_rng(0).bytes(_CHUNK)
    begun = time.perf_counter()
    with path.open("wb") as file:
        for start in range(0, size, _CHUNK):
            file.write(chunk[: min(_CHUNK, size - start)])
        file.flush()
        os.fsync(file.fileno())
    return time.perf_counter() - begun


def _plain_read(path: Path) -> None:
    with path.open("rb") as file:
        while file.read(_CHUNK):
            pass


def _cold(path: Path, action: Callable[[], None]) -> float:
    """Seconds of an action on a file or a folder that is not in memory."""
    for file in [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]:
        handle = os.open(file, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


def _differ(one: Path, other: Path) -> int:
    # The index names its folder and has an id of its own; the record has the index's checksum.
    names = [sorted(p.name for p in path.iterdir() if p.name not in (RECORD, INDEX)) for path in (one, other)]
    differ = names[0] != names[1] or any((one / n).read_bytes() != (other / n).read_bytes() for n in names[0])
    print("the two saves are", "NOT equal" if differ else "equal byte for byte")
    return int(differ)


if __name__ == "__main__":
    main()
