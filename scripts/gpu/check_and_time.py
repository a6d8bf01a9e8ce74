"""What an scmf on a GPU has to show, in one run of about ten minutes: right numbers first, then speed.

    python scripts/gpu/check_and_time.py                          # everything, on the first GPU
    python scripts/gpu/check_and_time.py --only speed --sizes 10m --steps 20
    python scripts/gpu/check_and_time.py --plan                   # without a GPU: what would be timed, and its FLOPs
    python scripts/gpu/check_and_time.py --rehearse               # without a GPU: every check, small, on the CPU

Every check runs in a process of its own under a time limit; one that fails is told and the next one begins. Exit code
0 where all are ok. The checks: the machine; losses of small models on the GPU in fp32, bf16 and fp8 beside the CPU's in
fp32; a token that changes no other cell; a resume against the run that was not cut; places where the host waits for the
device; which attention Transformer Engine takes for packed cells with dropout. Then real tokens/s, cells/s, memory, and
MFU by the formula of scmf.train.flops against the chip's dense peak in bf16 (--peak-tflops).

Nothing is downloaded. It needs torch with CUDA, Transformer Engine (docs/gpu.md), numba.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gpu_cases import KINDS, SEQ_LENGTH, SIZES, Case
from timed_steps import LongArray, read_lengths

from scmf.train.flops import utilisation

SECTIONS = Path(__file__).resolve().parent / "sections.py"
NEAR = {"fp32": 1e-4, "bf16": 3e-2, "fp8": 1e-1}
"""Largest difference from the CPU's losses in fp32, nats, over five steps, that is rounding. fp32: ten times what
layouts of CPUs differ by; bf16 and fp8: guesses, to be replaced by what a GPU shows."""
_STEPS = 10
_WAYS = (("bf16", "packed"), ("fp8", "packed"), ("bf16", "padded"))
_HEADER = "\n| model | precision | batch | cells/s | tokens/s | MFU | memory |\n|---|---|---|--:|--:|--:|--:|"


class CheckFailedError(RuntimeError):
    """A check that was not passed, in one line."""


@dataclass(frozen=True)
class Check:
    """One thing to look at."""

    group: str
    name: str
    action: Callable[[], str]
    """Its result is printed; it raises CheckFailedError."""


@dataclass(frozen=True)
class Asker:
    """Runs sections in processes of their own."""

    limit: float
    """Seconds a process."""
    on_cpu: bool

    def ask(
        self, section: str, *, on_cpu: bool = False, environment: dict[str, str] | None = None, **words: Any
    ) -> Any:
        """The answer of a section.

        Raises:
            CheckFailedError: it failed, or took too long.
        """
        done = self.run(section, on_cpu=on_cpu, environment=environment, **words)
        return json.loads(done.stdout.splitlines()[-1])

    def run(
        self, section: str, *, on_cpu: bool = False, environment: dict[str, str] | None = None, **words: Any
    ) -> subprocess.CompletedProcess[str]:
        """The same, with everything that it has printed."""
        hidden = {"CUDA_VISIBLE_DEVICES": ""} if on_cpu or self.on_cpu else {}
        command = [sys.executable, str(SECTIONS), section, json.dumps(words)]
        settings = {**os.environ, **(environment or {}), **hidden}
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, env=settings, check=False, timeout=self.limit
            )
        except subprocess.TimeoutExpired as error:
            raise CheckFailedError(f"no answer after {self.limit:g} s") from error
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise CheckFailedError("\n        ".join(lines[-6:]))
        return done


def main() -> None:
    """Refuse without a GPU; else check, time and print."""
    options = _parser().parse_args()
    lengths = read_lengths(options.lengths, seq_length=SEQ_LENGTH, cells=options.cells)
    if options.plan:
        for case in _cases(options):
            print(_plan(case, lengths))
        return
    if not options.rehearse:
        _refuse_without_gpu()
    sys.exit(1 if run_all(list(_checks(options, lengths))) else 0)


def run_all(checks: list[Check]) -> list[str]:
    """Run every check and print its line at once; the names of those that failed."""
    failed, group = [], None
    for check in checks:
        if check.group == "speed" and group != "speed":
            print(_HEADER)
        group, begun = check.group, time.perf_counter()
        try:
            line = check.action()
            print(line if group == "speed" else f"ok      {check.name}: {line} ({time.perf_counter() - begun:.0f} s)")
        except Exception as error:  # the next one begins whatever this one did
            failed.append(check.name)
            print(f"FAILED  {check.name}: {error}")
        sys.stdout.flush()
    print(f"\n{len(checks) - len(failed)} of {len(checks)} ok" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return failed


def _refuse_without_gpu() -> None:
    from scmf.model.device import has_gpu, has_transformer_engine, transformer_engine_fault

    if not has_gpu():
        sys.exit("no GPU is visible here; this script measures GPUs (--plan shows what it would do)")
    if not has_transformer_engine():
        sys.exit(f"Transformer Engine cannot be imported ({transformer_engine_fault()}); docs/gpu.md says how")


def _cases(options: argparse.Namespace) -> list[Case]:
    return [Case(size, *how) for size in options.sizes for how in _WAYS]


def _checks(options: argparse.Namespace, lengths: LongArray) -> Iterator[Check]:
    """Everything that is asked for, in order."""
    asker = Asker(options.limit, on_cpu=options.rehearse)
    every = [*_right(asker, rehearse=options.rehearse), *_timed(asker, options, lengths)]
    yield from (check for check in every if options.only in (None, check.group))


def _right(asker: Asker, *, rehearse: bool) -> Iterator[Check]:
    """Checks of numbers. A CPU has no fp8, and one attention."""
    yield Check("machine", "machine", partial(_machine, asker))
    for kind in KINDS:
        exact = functools.cache(partial(asker.ask, "losses", on_cpu=True, kind=kind, precision="fp32", steps=_STEPS))
        for precision in NEAR:
            if precision != "fp8" or not (rehearse or kind == "fsdp"):
                action = partial(_parity, asker, exact, kind, precision)
                yield Check("parity", f"losses, {kind}, {precision}", action)
    for kind in ("encoder", "decoder"):
        yield Check("apart", f"cells apart, {kind}", partial(_apart, asker, kind))
    for kind in ("encoder", "fsdp"):
        yield Check("resume", f"resume, {kind}", partial(_resume, asker, kind))
    yield Check("waits", "waits", partial(_waits, asker))
    if not rehearse:
        yield Check("attention", "attention", partial(_attention, asker))


def _timed(asker: Asker, options: argparse.Namespace, lengths: LongArray) -> Iterator[Check]:
    words = {
        "lengths": None if options.lengths is None else str(options.lengths),
        "cells": len(lengths),
        "budget": options.budget,
        "steps": options.steps,
    }
    for case in _cases(options):
        if not (options.rehearse and case.precision == "fp8"):
            name = f"{case.size} {case.precision} {case.way}"
            yield Check("speed", name, partial(_speed, asker, case, words, options.peak_tflops))


def _machine(asker: Asker) -> str:
    found = asker.ask("facts")
    devices = ", ".join(device["name"] for device in found["devices"]) or "no GPU"
    packages = ", ".join(f"{name} {version}" for name, version in found["packages"].items() if version)
    compiles = "kernels can be compiled" if found["can_compile"] else "no kernel can be compiled"
    return f"{devices}; CUDA {found['cuda']}, NCCL {found['nccl']}; {packages}; {compiles}"


def _parity(asker: Asker, exact: Callable[[], list[float]], kind: str, precision: str) -> str:
    """Losses of a small model in a precision beside those of the CPU in fp32."""
    found = asker.ask("losses", precision=precision, kind=kind, steps=_STEPS)
    differences = [abs(a - b) for a, b in zip(exact(), found, strict=True)]
    early, late = max(differences[:5]), max(differences)
    said = f"{early:.1e} nats from the CPU over 5 steps, {late:.1e} over {_STEPS}; {found[0]:.3f} -> {found[-1]:.3f}"
    if not all(difference < NEAR[precision] for difference in differences[:5]):  # max() may pass over a NaN
        raise CheckFailedError(f"{said}; {NEAR[precision]:g} over 5 steps would be rounding")
    return said


def _apart(asker: Asker, kind: str) -> str:
    found = asker.ask("apart", kind=kind, precision="bf16")
    if found["others"] or not found["own"]:
        raise CheckFailedError(f"a token changed {found['own']} outputs of its cell and {found['others']} of others")
    return f"a token changes {found['own']} outputs of its own cell and no bit of another's"


def _resume(asker: Asker, kind: str) -> str:
    found = asker.ask("resumed", kind=kind, precision="bf16")
    first, second = (abs(a - b) for a, b in zip(found["whole"], found["resumed"], strict=True))
    # The first comes of what was saved alone; between the two lies an update, whose gradient a GPU adds in any order.
    if not (first < NEAR["fp32"] and second < NEAR["bf16"]):
        raise CheckFailedError(f"losses {found['whole']} without a cut, {found['resumed']} after one")
    return "equal to the last bit" if first == second == 0 else f"losses {first:.1e} and {second:.1e} apart"


def _waits(asker: Asker) -> str:
    found = asker.ask("waits", precision="bf16")
    if sum(found.values()) > 1:
        raise CheckFailedError(f"the host waits in more places of a step than one: {found}")
    return f"the host waits in {found or 'no place that torch reports'}"


def _attention(asker: Asker) -> str:
    """What Transformer Engine says that it took, with the recipe's dropout."""
    debug = {"NVTE_DEBUG": "1", "NVTE_DEBUG_LEVEL": "2"}
    words: dict[str, Any] = {
        "case": ("10m", "bf16", "packed"),
        "lengths": None,
        "cells": 32,
        "budget": 16_384,
        "steps": 1,
    }
    done = asker.run("speed", environment=debug, **words)
    return chosen_attention(done.stdout + done.stderr)


def chosen_attention(log: str) -> str:
    """The backends that Transformer Engine's log says it took, in order, each once."""
    found = dict.fromkeys(re.findall(r"(?:Selected|Running with|Using) (?:backend = )?(\w*Attention\S*)", log))
    return ", ".join(found) or "not said in the log; run with NVTE_DEBUG=1 NVTE_DEBUG_LEVEL=2 and look"


def _speed(asker: Asker, case: Case, words: dict[str, Any], peak_tflops: float) -> str:
    """A row of the table. Against the peak of bf16 in every line, so that fp8's gain or loss shows as such."""
    found = asker.ask("speed", case=(case.size, case.precision, case.way), **words)
    seconds, cells = found["seconds"], words["cells"]
    share = utilisation(found["flops"], seconds=seconds, peak=peak_tflops * 1e12)
    return (
        f"| {case.size} | {case.precision} | {case.way} | {cells / seconds:,.1f} | {found['tokens'] / seconds:,.0f} "
        f"| {share:.1%} | {found['bytes'] / 1e9:.1f} GB |"
    )


def _plan(case: Case, lengths: LongArray) -> str:
    """What a case would compute."""
    batch = case.batch(lengths, budget=case.config().data.microbatch_tokens or 0)
    positions = sum(len(m.input_ids) for m in batch.microbatches)
    tokens = sum(m.tokens for m in batch.microbatches)
    return (
        f"{case.size} {case.precision} {case.way}: {len(lengths)} cells, {tokens:,} tokens in "
        f"{len(batch.microbatches)} microbatches, {tokens / positions:.0%} filled; "
        f"{case.flops(lengths, batch) / len(lengths) / 1e12:.3f} TFLOP a cell"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    groups = ("machine", "parity", "apart", "resume", "waits", "attention", "speed")
    parser.add_argument("--only", choices=groups, help="one kind of check (default: all)")
    parser.add_argument("--sizes", nargs="+", choices=sorted(SIZES), default=["10m", "106m"], help="default: both")
    parser.add_argument("--lengths", type=Path, help="tokens of each cell, .npy or text (default: log-normal)")
    parser.add_argument("--cells", type=int, default=256, help="cells a step (default: 256)")
    parser.add_argument("--budget", type=int, default=65_536, help="positions of a microbatch (default: 65,536)")
    parser.add_argument("--steps", type=int, default=10, help="timed steps (default: 10)")
    parser.add_argument("--limit", type=float, default=180.0, help="seconds that one process may take (default: 180)")
    parser.add_argument("--peak-tflops", type=float, default=989.0, help="dense bf16 peak (default: 989, an H200's)")
    parser.add_argument("--plan", action="store_true", help="print what would be timed; needs no GPU")
    parser.add_argument("--rehearse", action="store_true", help="run every check on the CPU; its numbers are no GPU's")
    return parser


if __name__ == "__main__":
    main()
