"""The same run in several layouts: prints, as a markdown table, how far each one's losses are from one process's.

    python scripts/layout_parity.py                        # all layouts, 30 steps; minutes on two cores
    python scripts/layout_parity.py --layouts TP2 --steps 5
    python scripts/layout_parity.py --write-docs           # and put the table into docs/parallelism.md

Runs `scmf-train` on CPU ranks with the counts that the repository ships, in fp32 and without dropout (whose draws
depend on the layout).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

COUNTS = Path(__file__).resolve().parents[1] / "data" / "mix3cl_celseq2_dropseq_counts.h5ad"
MODEL = (
    "model.layers=4",
    "model.hidden=64",
    "model.ffn=128",
    "model.heads=4",
    "model.hidden_dropout=0.0",
    "model.attention_dropout=0.0",
    "data.tokenizer.seq_length=256",
    "data.microbatch_tokens=1024",
    "data.global_batch_size=8",
    "trainer.precision=fp32",
    "trainer.optimizer.lr=3e-3",
    "trainer.schedule.warmup_steps=2",
    "trainer.validate.every=null",
    "trainer.log.every=1",
)
_TENSOR = "trainer.parallel.tensor=2"
_PIPELINE = "trainer.parallel.pipeline=2"
_INTERLEAVED = "trainer.parallel.interleave=2"
_SHARD = "trainer.parallel.shard_optimizer=true"
LAYOUTS = {
    "TP2": (2, _TENSOR),
    "TP2xSP": (2, _TENSOR, "trainer.parallel.sequence=true"),
    "PP2": (2, _PIPELINE),
    "PP2, interleaved by 2": (2, _PIPELINE, _INTERLEAVED),
    "DP2": (2,),
    "DP2, sharded optimizer": (2, _SHARD),
    "DP2, FSDP": (2, "trainer.parallel.fsdp=true"),
    "full recompute": (1, "trainer.parallel.recompute=full"),
    "selective recompute": (1, "trainer.parallel.recompute=selective"),
    "TP2xPP2": (4, _TENSOR, _PIPELINE),
    "TP2xDP2": (4, _TENSOR),
    "TP2xDP2, sharded optimizer": (4, _TENSOR, _SHARD),
    "PP2xDP2": (4, _PIPELINE),
    "PP2xDP2, interleaved by 2, sharded optimizer": (4, _PIPELINE, _INTERLEAVED, _SHARD),
    "DP4, FSDP, full recompute": (4, "trainer.parallel.fsdp=true", "trainer.parallel.recompute=full"),
}
PAGE = Path(__file__).resolve().parents[1] / "docs" / "parallelism.md"
BEGIN, END = "<!-- table of scripts/layout_parity.py -->", "<!-- end of the table -->"
FIRST_STEPS = 5


def main() -> None:
    """Train one process and every layout asked for; print the table, or put it into the page."""
    options = _parser().parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _call("scmf-store", "convert", COUNTS, "--dest", folder / "store")
        _call("scmf-recipe", "--recipe", "test", "--data-path", folder / "store", "--dest", folder / "cfg.yaml", *MODEL)
        reference = losses(folder, "one process", (1,), steps=options.steps)
        said = f"loss of one process: {reference[0]:.3f} at step 1, {reference[-1]:.3f} at step {options.steps}"
        print(f"{said}\n\n{_head(options.steps)}", flush=True)
        for layout in options.layouts:
            own = losses(folder, layout, LAYOUTS[layout], steps=options.steps)
            apart = [abs(a - b) for a, b in zip(own, reference, strict=True)]
            rows.append(f"| {layout} | {LAYOUTS[layout][0]} | {max(apart[:FIRST_STEPS]):.1e} | {max(apart):.1e} |")
            print(rows[-1], flush=True)
    if options.write_docs:
        write_table("\n".join([_head(options.steps), *rows, "", f"{said[0].upper()}{said[1:]}."]))


def _head(steps: int) -> str:
    return f"| layout | ranks | steps 1 to {min(FIRST_STEPS, steps)} | steps 1 to {steps} |\n|---|--:|--:|--:|"


def write_table(table: str, page: Path = PAGE) -> None:
    """Replace the table of a page, between its two comments.

    Args:
        table: markdown.
        page: has both comments once.
    """
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}")


def losses(folder: Path, name: str, layout: Sequence[str | int], *, steps: int) -> list[float]:
    """Training loss of every step of one run.

    Args:
        folder: has cfg.yaml; the run is written below it.
        name: of the run's folder.
        layout: ranks, then `key=value` words.
        steps: length of the run.
    """
    run = folder / name
    length = (f"trainer.max_steps={steps}", f"trainer.checkpoint.every={steps}", f"trainer.result_dir={run}")
    ranks, *words = (str(part) for part in layout)
    _call("scmf-train", "--config", folder / "cfg.yaml", *length, f"trainer.devices={ranks}", *words)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["train/loss"] for line in lines]


def _call(program: str, *arguments: str | Path) -> None:
    """One of scmf's commands of this environment, on the CPU, silent unless it fails."""
    binary = Path(sys.executable).with_name(program)
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(
        [binary, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, check=False
    )
    if result.returncode != 0:
        sys.exit(f"{program} exited with {result.returncode}:\n{result.stdout}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30, help="optimizer steps of every run (default: 30)")
    parser.add_argument(
        "--layouts", nargs="+", choices=sorted(LAYOUTS), default=list(LAYOUTS), help="default: all of them"
    )
    parser.add_argument("--write-docs", action="store_true", help=f"put the table into {PAGE.name}")
    return parser


if __name__ == "__main__":
    main()
