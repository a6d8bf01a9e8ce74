"""What one core makes of text and of ready tokens. Out: characters and tokens per CPU-second.

    python scripts/bench_sequences.py --million 100

The text is made here: words of a small vocabulary in random order. Conversion is timed with everything it does (two
readings, checksums, writing and syncing); feeding is one thread on a store that is in memory.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from scmf.core.random import stream
from scmf.data.config import SequencesConfig
from scmf.data.masks import Corruption
from scmf.data.objective import NextToken, Objective
from scmf.data.sequences.convert import convert_text, convert_tokens
from scmf.data.vocabulary import load_vocabulary

_STEPS: Final = 100
_ROW: Final = 2048


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--million", type=float, default=100.0, help="characters, and tokens")
    options = parser.parse_args(argv)
    n = int(options.million * 1e6)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        _line("text: convert", "characters", n, _convert_text(work, n))
        for length in (256, 1024):
            _feed(f"text: windows of {length}", work / "text", NextToken(), length=length, by="contiguous", kind="char")
        _line("ready tokens: convert", "tokens", n, _convert_rows(work, n))
        bert = Corruption(select=0.15, mask=0.8, random=0.1)
        _feed("ready tokens: masked sequences", work / "rows", bert, length=_ROW, by="hash", kind="stored")
    return 0


def _convert_text(work: Path, n: int) -> float:
    rng = stream(0, "bench text")
    letters = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz,.;\nABCDEFGHIJ ", np.uint8)
    with (work / "text.txt").open("wb") as file:
        for start in range(0, n, 1 << 22):
            file.write(rng.choice(letters, min(1 << 22, n - start)).tobytes())
    begin = time.process_time()
    convert_text([work / "text.txt"], work / "text", log=_quiet)
    return time.process_time() - begin


def _convert_rows(work: Path, n: int) -> float:
    ids = stream(0, "bench rows").integers(2, 25_426, n // _ROW * _ROW, dtype=np.int32).reshape(-1, _ROW)
    pq.write_table(pa.table({"input_ids": pa.array(list(ids))}), work / "rows.parquet")
    begin = time.process_time()
    convert_tokens([work / "rows.parquet"], work / "rows", load_vocabulary("geneformer-v1"), log=_quiet)
    return time.process_time() - begin


def _feed(name: str, store: Path, objective: Objective, *, length: int, by: str, kind: str) -> None:
    """Batches of 65,536 tokens, after one that compiles."""
    size = 65_536 // length
    values: dict[str, Any] = {
        "store": str(store),
        "tokenizer": {"kind": kind, "seq_length": length},
        "split": {"kind": by, "validation": 0.05},
        "global_batch_size": size,
        "microbatch_tokens": 65_536,
    }
    feed = SequencesConfig.model_validate(values).open(objective=objective, seed=0)
    feed.step(0)
    begin, tokens = time.process_time(), 0
    for step in range(_STEPS):
        tokens += sum(m.tokens for m in feed.step(step * size).microbatches)
    _line(name, "tokens", tokens, time.process_time() - begin)


def _line(name: str, noun: str, n: int, seconds: float) -> None:
    sys.stdout.write(f"{name:<34}{n / max(seconds, 1e-9) / 1e6:>10,.1f} million {noun}/CPU-s\n")


def _quiet(_: str) -> None:
    """No line for people."""


if __name__ == "__main__":
    sys.exit(main())
