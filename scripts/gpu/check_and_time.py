"""What an scmf on a GPU has to show, in one run: the same losses as on the CPU, then speed. Out: tables on stdout.

    python scripts/gpu/check_and_time.py                          # parity, then bf16 and fp8 at 10M and 106M
    python scripts/gpu/check_and_time.py --sizes 10m --steps 20
    python scripts/gpu/check_and_time.py --plan                   # without a GPU: what would run, and its FLOPs

1. Parity: the same small encoder, and a decoder with rotary positions, from the same weights and packs on the CPU and
   on the GPU, fp32 and no dropout: largest difference of the loss over 20 steps.
2. Speed: packed in bf16 and fp8, and padded in bf16; real tokens/s, cells/s, memory, and MFU by the formula of
   scmf.train.flops, against the chip's dense peak (--peak-tflops).
3. Which attention Transformer Engine took for packed cells with dropout (from its own log).

Nothing is compiled or downloaded. It needs torch with CUDA, Transformer Engine (docs/gpu.md), numba.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from timed_steps import LongArray, packed, padded, read_lengths, step_of

from scmf.core.batch import StepBatch
from scmf.train.config import MainConfig
from scmf.train.flops import training_flops, utilisation
from scmf.train.recipe import RecipeArguments
from scmf.train.recipes import find_recipe

VOCABULARY, SEQ_LENGTH = 25_426, 2048
SIZES = {"10m": "10m-pretrain", "106m": "106m-pretrain"}
SMALL = ("model.layers=4", "model.hidden=128", "model.ffn=256", "model.heads=4")
NO_DROPOUT = ("model.hidden_dropout=0.0", "model.attention_dropout=0.0")
KINDS = {
    "encoder": (),
    "decoder": ("model.kind=decoder", "model.task={kind: clm, label_smoothing: 0.1}", "model.positions=rotary"),
}
"""Models whose numbers are compared: attention both ways and causal, positions learned and rotary."""


@dataclass(frozen=True)
class Case:
    """One line of the table."""

    size: str
    precision: str
    way: str

    def config(self, *more: str) -> MainConfig:
        """The recipe of this size in this precision."""
        words = (f"trainer.precision={self.precision}", *more)
        return find_recipe(SIZES[self.size]).config(RecipeArguments(overrides=words))


def main() -> None:
    """Refuse without a GPU; else check, time and print."""
    options = _parser().parse_args()
    lengths = read_lengths(options.lengths, seq_length=SEQ_LENGTH, cells=options.cells)
    cases = [Case(size, *how) for size in options.sizes for how in _WAYS]
    if options.plan:
        _print_plan(cases, lengths)
        return
    if options.losses:
        print(json.dumps(_losses(options.losses, options.kind)))
        return
    _refuse_without_gpu()
    if not options.time_only:
        _print_parity()
    print("\n| model | precision | batch | cells/s | tokens/s | MFU | memory |\n|---|---|---|--:|--:|--:|--:|")
    for case in cases:
        _print_speed(case, lengths, options)
    if not options.time_only:
        _print_attention()


_WAYS = (("bf16", "packed"), ("fp8", "packed"), ("bf16", "padded"))


def _refuse_without_gpu() -> None:
    from scmf.model.device import has_gpu, has_transformer_engine

    if not has_gpu():
        sys.exit("no GPU is visible here; this script measures GPUs (--plan shows what it would do)")
    if not has_transformer_engine():
        sys.exit("Transformer Engine is not installed; docs/gpu.md says how")


def _print_plan(cases: list[Case], lengths: LongArray) -> None:
    for case in cases:
        batch = _batch(case, lengths, budget=case.config().data.microbatch_tokens or 0)
        positions = sum(len(m.input_ids) for m in batch.microbatches)
        tokens = sum(m.tokens for m in batch.microbatches)
        print(
            f"{case.size} {case.precision} {case.way}: {len(lengths)} cells, {tokens:,} tokens in "
            f"{len(batch.microbatches)} microbatches, {tokens / positions:.0%} filled; "
            f"{_flops(case, lengths, batch) / len(lengths) / 1e12:.3f} TFLOP a cell"
        )


def _batch(case: Case, lengths: LongArray, *, budget: int) -> StepBatch:
    layout = packed(lengths, budget=budget) if case.way == "packed" else padded(lengths, cells=budget // SEQ_LENGTH)
    return step_of(lengths, layout, vocabulary=VOCABULARY, seq_length=SEQ_LENGTH)


def _flops(case: Case, lengths: LongArray, batch: StepBatch) -> int:
    targets = sum(len(m.targets) for m in batch.microbatches)
    return training_flops(case.config().model, lengths=lengths.tolist(), targets=targets, vocabulary_size=VOCABULARY)


def _print_speed(case: Case, lengths: LongArray, options: argparse.Namespace) -> None:
    """Time steps of one case: the median of them, after three to warm."""
    from scmf.model.device import local_device, peak_memory

    batch = _batch(case, lengths, budget=options.budget)
    seconds = sorted(_seconds_of_steps(case.config(), batch, steps=options.steps))[options.steps // 2]
    tokens = sum(m.tokens for m in batch.microbatches)
    # Against the peak of bf16 in every line, so that fp8's gain or loss shows as such.
    share = utilisation(_flops(case, lengths, batch), seconds=seconds, peak=options.peak_tflops * 1e12)
    print(
        f"| {case.size} | {case.precision} | {case.way} | {len(lengths) / seconds:,.0f} | {tokens / seconds:,.0f} "
        f"| {share:.1%} | {peak_memory(local_device()) / 1e9:.1f} GB |",
        flush=True,
    )


def _seconds_of_steps(config: MainConfig, batch: StepBatch, *, steps: int) -> list[float]:
    from scmf.model.transformer import VocabularyShape
    from scmf.train.engine import Engine
    from scmf.train.layout import lay_out
    from scmf.train.world import join_world

    with join_world() as world, lay_out(world, config.trainer.parallel) as layout:
        precision = config.trainer.precision
        engine = Engine(
            config,
            layout=layout,
            vocabulary=VocabularyShape(size=VOCABULARY, seq_length=SEQ_LENGTH),
            max_steps=100_000,
            precision="fp32" if precision == "auto" else precision,
        )
        taken = []
        for step in range(steps + 3):
            begin = time.perf_counter()
            engine.train_step(batch, step=step)
            # The step reads its loss and norm, and the next one waits for the update: a step's time is whole.
            taken.append(time.perf_counter() - begin)
        return taken[3:]


def _losses(steps: int, kind: str) -> list[float]:
    """Losses of a small model in fp32 on this process's device."""
    from scmf.model.transformer import VocabularyShape
    from scmf.train.engine import Engine
    from scmf.train.layout import lay_out
    from scmf.train.world import join_world

    config = Case("10m", "fp32", "packed").config(*SMALL, *NO_DROPOUT, *KINDS[kind], "trainer.schedule.warmup_steps=0")
    lengths = read_lengths(None, seq_length=256, cells=8)
    batch = step_of(lengths, packed(lengths, budget=1024), vocabulary=VOCABULARY, seq_length=256)
    with join_world() as world, lay_out(world, config.trainer.parallel) as layout:
        shape = VocabularyShape(size=VOCABULARY, seq_length=256)
        engine = Engine(config, layout=layout, vocabulary=shape, max_steps=1000, precision="fp32")
        return [engine.train_step(batch, step=step).loss.mean for step in range(steps)]


def _print_parity(steps: int = 20) -> None:
    for kind in KINDS:
        cpu, gpu = (_losses_elsewhere(steps, visible, "--kind", kind) for visible in ("", None))
        apart = [abs(a - b) for a, b in zip(cpu, gpu, strict=True)]
        print(
            f"parity: {kind}: largest loss difference CPU to GPU {max(apart[:5]):.1e} over 5 steps, "
            f"{max(apart):.1e} over {steps}"
        )
        print(f"        loss {gpu[0]:.3f} -> {gpu[-1]:.3f}")


def _losses_elsewhere(steps: int, visible: str | None, *more: str) -> list[float]:
    """`_losses` in a process of its own, with or without GPUs."""
    environment = dict(os.environ) if visible is None else {**os.environ, "CUDA_VISIBLE_DEVICES": visible}
    command = [sys.executable, __file__, "--losses", str(steps), *more]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if result.returncode != 0:
        sys.exit(f"the run {'on the GPU' if visible is None else 'on the CPU'} failed:\n{result.stderr}")
    losses: list[float] = json.loads(result.stdout.splitlines()[-1])
    return losses


def _print_attention() -> None:
    """What Transformer Engine says that it took, with the recipe's dropout."""
    environment = {**os.environ, "NVTE_DEBUG": "1", "NVTE_DEBUG_LEVEL": "2"}
    command = [sys.executable, __file__, "--time-only", "--sizes", "10m", "--cells", "32", "--steps", "1"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    print("\nattention:", chosen_attention(result.stdout + result.stderr))


def chosen_attention(log: str) -> str:
    """The backends that Transformer Engine's log says it took, in order, each once."""
    found = dict.fromkeys(re.findall(r"(?:Selected|Running with|Using) (?:backend = )?(\w*Attention\S*)", log))
    return ", ".join(found) or "not said in the log; run with NVTE_DEBUG=1 NVTE_DEBUG_LEVEL=2 and look"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=sorted(SIZES), default=sorted(SIZES), help="default: both")
    parser.add_argument("--lengths", type=Path, help="tokens of each cell, .npy or text (default: log-normal)")
    parser.add_argument("--cells", type=int, default=256, help="cells a step (default: 256)")
    parser.add_argument("--budget", type=int, default=65_536, help="positions of a microbatch (default: 65,536)")
    parser.add_argument("--steps", type=int, default=20, help="timed steps (default: 20)")
    parser.add_argument("--peak-tflops", type=float, default=989.0, help="dense bf16 peak (default: 989, an H200's)")
    parser.add_argument("--plan", action="store_true", help="print what would run; needs no GPU")
    parser.add_argument("--losses", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--kind", choices=sorted(KINDS), default="encoder", help=argparse.SUPPRESS)
    parser.add_argument("--time-only", action="store_true", help="neither parity nor the choice of attention")
    return parser


if __name__ == "__main__":
    main()
