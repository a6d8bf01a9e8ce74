"""Speed of training on this machine's CPU, side by side in one run. Out: real tokens per CPU-second.

    python scripts/bench_train.py                                      # scmf alone
    python scripts/bench_train.py --lengths pbmc.npy --rounds 6        # and Hugging Face, where transformers is

Sides: scmf packed and scmf padded to the longest of a microbatch; Hugging Face's BertForMaskedLM with fused attention
(sdpa), padded to the longest and to the sequence length. Same sizes (the 10M recipe: 6 layers x 256, 25,426 tokens),
same cells, fp32, AdamW, gradient clipped at 1. scmf computes the vocabulary head on masked positions, BertForMaskedLM
on all.
Dropout is 0 on every side, or `--dropout P` of hidden states on every side (attention's is `--attention-dropout`).

Every round takes one step of every side in turn; a side's number is the median of its rounds after the first. CPU
time is of this process with all its threads, which a busy machine disturbs less than the clock: take ratios within
one run.
transformers is for this script alone: pip install -r requirements-bench.txt.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from timed_steps import LongArray, packed, padded, read_lengths, step_of

from scmf.core.batch import StepBatch
from scmf.model.transformer import VocabularyShape
from scmf.train.config import MainConfig
from scmf.train.engine import Engine
from scmf.train.layout import Layout, lay_out
from scmf.train.recipe import RecipeArguments
from scmf.train.recipes import find_recipe
from scmf.train.world import join_world

VOCABULARY, SEQ_LENGTH = 25_426, 2048
Step = Callable[[], None]


def main() -> None:
    """Time every side and print the table."""
    options = _parser().parse_args()
    lengths = read_lengths(options.lengths, seq_length=SEQ_LENGTH, cells=options.cells)
    with join_world() as world, lay_out(world, _config(options).trainer.parallel) as layout:
        torch.set_num_threads(options.threads)
        sides = dict(_scmf(options, layout, lengths))
        if importlib.util.find_spec("transformers") is not None:
            sides |= dict(_hugging_face(options, lengths))
        rates = measure(sides, tokens=int(lengths.sum()), rounds=options.rounds)
        print(f"{options.cells} cells a step, {lengths.mean():,.0f} tokens a cell, {options.threads} threads, ", end="")
        print(f"dropout {options.dropout}, attention dropout {options.attention_dropout}; torch {torch.__version__}")
        _print_table(rates)
        if options.overhead:
            _print_overhead(options, layout, lengths)


def measure(sides: dict[str, Step], *, tokens: int, rounds: int) -> dict[str, float]:
    """Real tokens per CPU-second of every side: medians of rounds in turn, after one to warm."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds + 1):
        for name, step in sides.items():
            begin = time.process_time()
            step()
            seconds[name].append(time.process_time() - begin)
    return {name: tokens / statistics.median(taken[1:]) for name, taken in seconds.items()}


def _print_table(rates: dict[str, float]) -> None:
    print("\n| side | real tokens / CPU-s | of HF to the longest | of HF to 2,048 |")
    print("|---|--:|--:|--:|")
    for name, rate in rates.items():
        ratios = [f"{rate / rates[other]:.2f}x" if other in rates else "" for other in ("HF longest", "HF 2048")]
        print(f"| {name} | {rate:,.0f} | {' | '.join(ratios)} |")


def _config(options: argparse.Namespace, *more: str) -> MainConfig:
    dropout = (
        f"model.hidden_dropout={options.dropout}",
        f"model.attention_dropout={options.attention_dropout}",
    )
    recipe = find_recipe("10m-pretrain")
    words = (*dropout, f"model.layers={options.layers}", "trainer.precision=fp32", *more)
    return recipe.config(RecipeArguments(overrides=words))


def _engine(options: argparse.Namespace, layout: Layout) -> Engine:
    shape = VocabularyShape(size=VOCABULARY, seq_length=SEQ_LENGTH)
    return Engine(_config(options), layout=layout, vocabulary=shape, max_steps=100_000, precision="fp32")


def _scmf(options: argparse.Namespace, layout: Layout, lengths: LongArray) -> Iterator[tuple[str, Step]]:
    for name, batch in _batches(options, lengths):
        engine = _engine(options, layout)
        yield name, _stepper(engine, batch)


def _batches(options: argparse.Namespace, lengths: LongArray) -> Iterator[tuple[str, StepBatch]]:
    sizes = {"vocabulary": VOCABULARY, "seq_length": SEQ_LENGTH}
    yield "scmf packed", step_of(lengths, packed(lengths, budget=options.budget), **sizes)
    yield "scmf padded", step_of(lengths, padded(lengths, cells=options.micro), **sizes)


def _stepper(engine: Engine, batch: StepBatch) -> Step:
    step = iter(range(1_000_000))
    return lambda: _checked(engine.train_step(batch, step=next(step)).grad_norm)


def _checked(norm: float | None) -> None:
    if norm is None:
        raise RuntimeError("a step was left out: it would look fast")


def _hugging_face(options: argparse.Namespace, lengths: LongArray) -> Iterator[tuple[str, Step]]:
    for name, width in (("HF longest", None), ("HF 2048", SEQ_LENGTH)):
        batch = step_of(
            lengths, padded(lengths, cells=options.micro, width=width), vocabulary=VOCABULARY, seq_length=SEQ_LENGTH
        )
        yield name, _hf_stepper(options, batch)


def _hf_stepper(options: argparse.Namespace, batch: StepBatch) -> Step:
    from transformers import BertConfig, BertForMaskedLM

    model_config = _config(options).model
    model = BertForMaskedLM(
        BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=model_config.hidden,
            num_hidden_layers=model_config.layers,
            num_attention_heads=model_config.heads,
            intermediate_size=model_config.ffn,
            max_position_embeddings=SEQ_LENGTH,
            hidden_dropout_prob=options.dropout,
            attention_probs_dropout_prob=options.attention_dropout,
            attn_implementation="sdpa",
        )
    ).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01, fused=True)
    batches = [_hf_inputs(m, options.micro) for m in batch.microbatches]

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        for inputs in batches:
            (model(**inputs).loss / len(batches)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def _hf_inputs(microbatch: Any, cells: int) -> dict[str, torch.Tensor]:
    """The same cells as a rectangle, with the mask and the labels that BertForMaskedLM takes."""
    ids = torch.from_numpy(microbatch.input_ids).long()
    labels = torch.full_like(ids, -100)
    labels[torch.from_numpy(microbatch.target_positions).long()] = torch.from_numpy(microbatch.targets).long()
    rows = [t.view(cells, -1) for t in (ids, labels)]
    return {"input_ids": rows[0], "labels": rows[1], "attention_mask": (rows[0] != 0).long()}


@contextmanager
def _timed(owner: Any, name: str, seconds: list[float]) -> Iterator[None]:
    """Add the CPU time of every call of a function to the list."""
    real = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        begin = time.process_time()
        try:
            return real(*args, **kwargs)
        finally:
            seconds.append(time.process_time() - begin)

    setattr(owner, name, call)
    try:
        yield
    finally:
        setattr(owner, name, real)


def _print_overhead(options: argparse.Namespace, layout: Layout, lengths: LongArray) -> None:
    """The step without the model's forward and backward passes, the gradient's norm and the optimizer."""
    engine, (_, batch) = _engine(options, layout), next(_batches(options, lengths))
    step = _stepper(engine, batch)
    step()
    parts: list[float] = []
    whole: list[float] = []
    with _timed_parts(engine, parts):
        for _ in range(options.rounds):
            begin = time.process_time()
            step()
            whole.append(time.process_time() - begin)
    share = 1 - sum(parts) / sum(whole)
    print(f"\nloop: {share:.2%} of a step is outside forward, backward, gradient norm and optimizer")


@contextmanager
def _timed_parts(engine: Engine, parts: list[float]) -> Iterator[None]:
    """Time the four parts of a step where the engine and Megatron's schedule call them."""
    from megatron.core.pipeline_parallel import schedules

    import scmf.train.engine as module

    (model,) = engine.passes.models
    with (
        _timed(model.module, "forward", parts),
        _timed(schedules, "backward_step", parts),
        _timed(module, "squared_norm", parts),
        _timed(module, "update", parts),
    ):
        yield


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=Path, help="tokens of each cell, .npy or text (default: log-normal)")
    parser.add_argument("--cells", type=int, default=16, help="cells a step (default: 16)")
    parser.add_argument("--micro", type=int, default=8, help="cells of a padded microbatch (default: 8)")
    parser.add_argument("--budget", type=int, default=8192, help="positions of a packed microbatch (default: 8,192)")
    parser.add_argument("--rounds", type=int, default=6, help="timed rounds (default: 6)")
    parser.add_argument("--layers", type=int, default=6, help="layers on every side (default: 6)")
    parser.add_argument("--threads", type=int, default=2, help="threads (default: 2)")
    parser.add_argument("--dropout", type=float, default=0.0, help="of hidden states, on every side")
    parser.add_argument("--attention-dropout", type=float, default=0.0, help="of attention weights, on every side")
    parser.add_argument("--overhead", action="store_true", help="also measure what the loop itself costs")
    return parser


if __name__ == "__main__":
    main()
