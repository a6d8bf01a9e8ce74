"""The models and steps of scripts/gpu/check_and_time.py. In: a size, a precision, a kind. Out: configs and batches.

Nothing here imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from timed_steps import LongArray, packed, padded, step_of

from scmf.core.batch import StepBatch
from scmf.train.config import MainConfig
from scmf.train.flops import training_flops
from scmf.train.recipe import RecipeArguments
from scmf.train.recipes import find_recipe

VOCABULARY, SEQ_LENGTH, SHORT = 25_426, 2048, 256
SIZES = {"10m": "10m-pretrain", "106m": "106m-pretrain"}
SMALL = (
    "model.layers=4",
    "model.hidden=128",
    "model.ffn=256",
    "model.heads=4",
    "trainer.schedule.warmup_steps=0",
    "data.tokenizer.seq_length=256",
)
NO_DROPOUT = ("model.hidden_dropout=0.0", "model.attention_dropout=0.0")
KINDS = {
    "encoder": (),
    "post-norm": ("model.norm=post",),
    "decoder": ("model.kind=decoder", "model.task={kind: clm, label_smoothing: 0.1}", "model.positions=rotary"),
    "fsdp": ("trainer.parallel.fsdp=true",),
}
"""Models whose numbers are compared: attention both ways and causal, norms before and after, positions learned and
rotary, weights whole and shared out."""


@dataclass(frozen=True)
class Case:
    """One line of the table of speeds."""

    size: str
    precision: str
    way: str

    def config(self, *more: str) -> MainConfig:
        """The recipe of this size in this precision."""
        words = (f"trainer.precision={self.precision}", *more)
        return find_recipe(SIZES[self.size]).config(RecipeArguments(overrides=words))

    def batch(self, lengths: LongArray, *, budget: int) -> StepBatch:
        """A step of cells of these lengths in microbatches of so many positions."""
        cells = max(1, budget // SEQ_LENGTH)
        layout = packed(lengths, budget=budget) if self.way == "packed" else padded(lengths, cells=cells)
        return step_of(lengths, layout, vocabulary=VOCABULARY, seq_length=SEQ_LENGTH)

    def flops(self, lengths: LongArray, batch: StepBatch) -> int:
        """Of the model's matrix products in that step, by formula."""
        model, targets = self.config().model, sum(len(m.targets) for m in batch.microbatches)
        return training_flops(model, lengths=lengths.tolist(), targets=targets, vocabulary_size=VOCABULARY)


def small_case(kind: str, precision: str, *more: str) -> MainConfig:
    """A small model of a kind."""
    return Case("10m", precision, "packed").config(*SMALL, *KINDS[kind], *more)
