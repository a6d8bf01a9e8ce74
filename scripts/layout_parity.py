"""The same run in several layouts: prints, as a markdown table, how far each one's losses are from one process's.

    python scripts/layout_parity.py                        # all layouts, 30 steps; minutes on two cores
    python scripts/layout_parity.py --layouts TP2 --steps 5

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
LAYOUTS = {
    "TP2": ("trainer.devices=2", "trainer.parallel.tensor=2"),
    "TP2xSP": ("trainer.devices=2", "trainer.parallel.tensor=2", "trainer.parallel.sequence=true"),
    "PP2": ("trainer.devices=2", "trainer.parallel.pipeline=2"),
    "DP2": ("trainer.devices=2",),
    "TP2xPP2": ("trainer.devices=4", "trainer.parallel.tensor=2", "trainer.parallel.pipeline=2"),
    "TP2xDP2": ("trainer.devices=4", "trainer.parallel.tensor=2"),
    "PP2xDP2": ("trainer.devices=4", "trainer.parallel.pipeline=2"),
}
FIRST_STEPS = 5


def main() -> None:
    """Train one process and every layout asked for; print the table."""
    options = _parser().parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _call("scmf-store", "convert", COUNTS, "--dest", folder / "store")
        _call("scmf-recipe", "--recipe", "test", "--data-path", folder / "store", "--dest", folder / "cfg.yaml", *MODEL)
        reference = losses(folder, "one process", ("trainer.devices=1",), steps=options.steps)
        print(f"loss of one process: {reference[0]:.3f} at step 1, {reference[-1]:.3f} at step {options.steps}\n")
        print(f"| layout | ranks | steps 1 to {min(FIRST_STEPS, options.steps)} | steps 1 to {options.steps} |")
        print("|---|--:|--:|--:|")
        for layout in options.layouts:
            own = losses(folder, layout, LAYOUTS[layout], steps=options.steps)
            apart = [abs(a - b) for a, b in zip(own, reference, strict=True)]
            ranks = LAYOUTS[layout][0].partition("=")[2]
            print(f"| {layout} | {ranks} | {max(apart[:FIRST_STEPS]):.1e} | {max(apart):.1e} |", flush=True)


def losses(folder: Path, name: str, layout: tuple[str, ...], *, steps: int) -> list[float]:
    """Training loss of every step of one run.

    Args:
        folder: has cfg.yaml; the run is written below it.
        name: of the run's folder.
        layout: `key=value` words.
        steps: length of the run.
    """
    run = folder / name
    length = (f"trainer.max_steps={steps}", f"trainer.checkpoint.every={steps}", f"trainer.result_dir={run}")
    _call("scmf-train", "--config", folder / "cfg.yaml", *length, *layout)
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
    return parser


if __name__ == "__main__":
    main()
