"""The loader half of bench_data.py. In: a store. Out: one table, from random cells to masked batches.

Every line is one thread, warm (the file is in memory), in cells per CPU-second of that thread: what one core
feeds. `LookAhead` multiplies it by its workers as far as the machine has cores.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from bench_peer import forget

from scmf.core.batch import StepBatch
from scmf.data.collate import Collator
from scmf.data.config import CellsConfig
from scmf.data.lookahead import LookAhead
from scmf.data.masks import Corruption
from scmf.data.medians import write_vocabulary
from scmf.data.packing import layout_of
from scmf.data.rank import RankTokenizer
from scmf.data.rank_order import write_rank_ordered
from scmf.data.readahead import ask_for_cells, expect_random_access
from scmf.data.store import CellStore
from scmf.data.stream import CellStream
from scmf.data.vocabulary import load_vocabulary

_SEQ_LENGTH: Final = 2048
_BATCH: Final = 64
_CORRUPTION: Final = Corruption(0.15, 0.8, 0.02)
_LAYOUTS: Final[dict[str, dict[str, Any]]] = {
    "packed, 64 cells a step": {"global_batch_size": 64, "microbatch_tokens": 16_384},
    "packed, 512 cells a step": {"global_batch_size": 512, "microbatch_tokens": 16_384},
    "padded, 64 cells to the longest": {"global_batch_size": 64, "packing": False, "micro_batch_size": 64},
}


def measure_load(store_path: Path, work: Path) -> None:
    """Print what one core feeds from a store, with a vocabulary computed from it: every gene has a token.

    Args:
        store_path: folder of the store.
        work: folder for the vocabulary and for the same cells in rank order.
    """
    store = CellStore.open(store_path)
    values = sum(len(part.data) for part in store.parts) / len(store)
    print(f"{len(store):,} cells, {values:,.0f} values a cell, sequences of at most {_SEQ_LENGTH:,} tokens")
    vocabulary = work / "vocabulary.parquet"
    begin = time.thread_time()
    write_vocabulary(store_path, vocabulary)
    print(f"medians, compiling included: {len(store) / (time.thread_time() - begin):,.0f} cells/CPU-s")
    loaded = load_vocabulary(str(vocabulary))
    ranked = write_rank_ordered(store_path, work / "ranked", loaded)
    tokenizer = RankTokenizer(loaded, gene_ids=store.gene_ids, seq_length=_SEQ_LENGTH)
    cells = np.random.default_rng(0).integers(0, len(store), (200, 64))
    encode = (lambda i: tokenizer.encode(store, cells[i]), lambda i: tokenizer.encode(ranked, cells[i]))
    tokens = [64 * _rate(call, 200) for call in encode]
    titles = f"{'as stored':>10}{'rank order':>12}{'tensors alone':>15}{'share':>7}{'fill':>7}"
    print(f"{'cells/CPU-s of one thread':<34}{titles}")
    print(f"{'rank tokens, 64 random cells':<34}{tokens[0]:>10,.0f}{tokens[1]:>12,.0f}")
    for name, layout in _LAYOUTS.items():
        _print_layout(name, _stream(store_path, vocabulary, layout), _stream(work / "ranked", vocabulary, layout))


def _print_layout(name: str, stream: CellStream, ranked: CellStream) -> None:
    """One line: steps as stored, in rank order, and what writing their tensors alone would allow."""
    size = stream.config.global_batch_size
    n = max(4, 12_800 // size)
    rates = [size * _rate(step, n) for step in (_stepper(stream, size), _stepper(ranked, size), _writer(stream, n))]
    line = f"{name:<34}{rates[0]:>10,.0f}{rates[1]:>12,.0f}{rates[2]:>15,.0f}{rates[1] / rates[2]:>7.0%}"
    print(f"{line}{_fill(stream.step(0)):>7.1%}")


def _writer(stream: CellStream, n: int) -> Callable[[int], object]:
    """Writes the masked microbatches of a step whose cells, tokens and layout are known."""
    collator = Collator(stream.vocabulary, _SEQ_LENGTH, _CORRUPTION)
    ready = []
    for i in range(min(n, 50)):
        draw = stream.draw(i * stream.config.global_batch_size)
        tokens = stream.tokenizer.encode(stream.store, draw.cell_ids)
        ready.append((tokens, draw, layout_of(tokens.lengths, stream.config, align=stream.align)))

    def write(i: int) -> object:
        """The microbatches of one of these steps."""
        tokens, draw, layout = ready[i % len(ready)]
        return collator.collate(tokens, cell_ids=draw.cell_ids, keys=draw.keys, layout=layout)

    return write


def measure_own(store_path: Path, work: Path, *, seconds: float) -> dict[str, float]:
    """What bench_peers.py compares, in cells a CPU-second; `cold` by the clock; `two_workers` against one.

    Args:
        store_path: folder of the store.
        work: folder; gets the vocabulary, and `medians.npy` by gene number for the peers' tokens.
        seconds: given to each number.
    """
    cold = _cold(store_path, seconds)  # first: pages that are mapped cannot be dropped
    store = CellStore.open(store_path)
    vocabulary = work / "vocabulary.parquet"
    write_vocabulary(store_path, vocabulary)
    _save_medians(store, vocabulary, work / "medians.npy")
    cells = np.random.default_rng(0).integers(0, len(store), (200_000, _BATCH))
    stream = _stream(store_path, vocabulary, _LAYOUTS["padded, 64 cells to the longest"])
    stream.step(0)  # compiles
    store.fetch(np.arange(len(store)))
    return {
        "cold": cold,
        "random": _BATCH * _timed(lambda i: store.fetch(cells[i]), seconds),
        "masked": _BATCH * _timed(_stepper(stream, _BATCH), seconds),
        "two_workers": _fed(stream, workers=2, seconds=seconds) / _fed(stream, workers=1, seconds=seconds),
    }


def _save_medians(store: CellStore, vocabulary: Path, path: Path) -> None:
    loaded = load_vocabulary(str(vocabulary))
    medians = dict(zip(loaded.gene_ids, loaded.medians.tolist(), strict=True))
    np.save(path, np.array([medians.get(gene, 0.0) for gene in store.gene_ids]))


def _cold(store_path: Path, seconds: float) -> float:
    """Random cells a second by the clock, each once, with files dropped from memory and eight batches asked for."""
    forget([p for p in store_path.rglob("*") if p.is_file()])
    store = CellStore.open(store_path)
    expect_random_access(store)
    once = np.random.default_rng(1).permutation(len(store))[: len(store) // _BATCH * _BATCH].reshape(-1, _BATCH)
    store.fetch(once[0])  # loads the compiled code
    n, begin = 1, time.monotonic()
    for ids in once[1:9]:
        ask_for_cells(store, ids)
    while n < len(once) and time.monotonic() - begin < seconds:
        if n + 8 < len(once):
            ask_for_cells(store, once[n + 8])
        store.fetch(once[n])
        n += 1
    return (n - 1) * _BATCH / (time.monotonic() - begin)


def _timed(call: Callable[[int], object], seconds: float) -> float:
    """Calls a CPU-second of this thread."""
    n, begin, end = 0, time.thread_time(), time.monotonic() + seconds
    while time.monotonic() < end:
        call(n)
        n += 1
    return n / (time.thread_time() - begin)


def _fed(stream: CellStream, *, workers: int, seconds: float) -> float:
    """Cells a second by the clock that the look-ahead hands out."""
    size = stream.config.global_batch_size
    with LookAhead(stream, start=0, global_batch_size=size, workers=workers, depth=8) as batches:
        next(batches)
        n, begin = 0, time.monotonic()
        while time.monotonic() - begin < seconds:
            next(batches)
            n += 1
        return n * size / (time.monotonic() - begin)


def _stepper(stream: CellStream, size: int) -> Callable[[int], object]:
    return lambda i: stream.step(i * size)


def _stream(store: Path, vocabulary: Path, layout: dict[str, Any]) -> CellStream:
    tokenizer = {"kind": "rank", "vocabulary": str(vocabulary), "seq_length": _SEQ_LENGTH}
    config = CellsConfig.model_validate({"kind": "cells", "store": str(store), "tokenizer": tokenizer, **layout})
    return CellStream(CellStore.open(store), config, objective=_CORRUPTION, seed=0)


def _rate(call: Callable[[int], object], n: int) -> float:
    """Calls a CPU-second of this thread: the middle one of five rounds, after one to compile and warm."""
    rounds = []
    for _ in range(6):
        begin = time.thread_time()
        for i in range(n):
            call(i)
        rounds.append(n / (time.thread_time() - begin))
    return float(np.median(rounds[1:]))


def _fill(batch: StepBatch) -> float:
    """Real tokens of all positions."""
    positions = sum(len(microbatch.input_ids) for microbatch in batch.microbatches)
    return sum(microbatch.tokens for microbatch in batch.microbatches) / positions
