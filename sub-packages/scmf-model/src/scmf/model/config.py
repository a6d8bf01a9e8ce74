"""The `model` section: sizes of the encoder and its task. Imports neither torch nor megatron."""

from __future__ import annotations

import importlib
from abc import abstractmethod
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from scmf.core.config import Variant
from scmf.core.config_fault import Fault
from scmf.core.config_kind import Kinds

Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Dropout = Annotated[float, Field(ge=0.0, lt=1.0)]
Width = Annotated[int, Field(ge=1, le=1_048_576)]


class TaskConfig(Variant):
    """Base of every task: what is hidden from the model, and what it is asked for."""


class MlmTask(TaskConfig, kind="mlm"):
    """Masked language model: predict the tokens that were corrupted."""

    select: Annotated[float, Field(gt=0.0, le=1.0)] = 0.15
    """Share of a cell's tokens chosen as targets. Source: BERT."""
    mask: Probability = 0.80
    """Of the chosen, the share replaced by <mask>. Source: BERT."""
    random: Probability = 0.10
    """Of the chosen, the share replaced by a random gene; the rest is kept. Source: BERT (BioNeMo's recipes: 0.02)."""

    def faults(self) -> Iterator[Fault]:
        """A chosen token is masked, replaced or kept: three shares of one."""
        yield from super().faults()
        if self.mask + self.random > 1.0:
            yield Fault(
                "random",
                f"model.task.mask={self.mask} and model.task.random={self.random} are shares of the same tokens "
                "and sum to more than 1",
                f"use random: {round(1.0 - self.mask, 6)} or less",
            )


class ModelConfig(Variant):
    """Base of every `model` section: sizes of one transformer over Megatron-Core layers, and its task."""

    layers: Annotated[int, Field(ge=1, le=4096)]
    """Transformer layers. Geneformer V1: 6, BioNeMo 106M: 12."""
    hidden: Width
    """Width of the residual stream."""
    ffn: Width
    """Width of the feed-forward layer; 4 x hidden is usual."""
    heads: Annotated[int, Field(ge=1, le=4096)]
    """Attention heads; each is hidden / heads wide."""
    pad_vocabulary_to: Annotated[int, Field(ge=1, le=65_536)] = 128
    """The vocabulary is padded to a multiple of this, so that tensor ranks share it evenly. Source: Megatron."""
    task: Annotated[TaskConfig, Kinds({"mlm": MlmTask})] = MlmTask()
    """What the model is trained to do."""
    init_from: Annotated[str, Field(min_length=1)] | None = None
    """Checkpoint whose weights (not optimizer, not step) the run starts from; null draws them from the seed."""

    def faults(self) -> Iterator[Fault]:
        """Heads share the width evenly."""
        yield from super().faults()
        if self.hidden % self.heads:
            yield Fault(
                "heads",
                f"model.heads={self.heads} cannot share model.hidden={self.hidden} evenly",
                f"use a number that divides it, at most this: {largest_divisor(self.hidden, self.heads)}",
            )

    @abstractmethod
    def build(self, **place: Any) -> Any:
        """This rank's stage of the model, with its initial weights, on the CPU.

        Args:
            place: `vocabulary`, `groups`, `layout`, `precision` and `seed`, as
                scmf.model.transformer.build_transformer takes them.

        Returns:
            A Megatron LanguageModule whose forward takes a scmf.model.pack.Pack.
        """

    def padded_vocabulary_size(self, vocabulary_size: int) -> int:
        """Rows of the embedding: the vocabulary rounded up to a multiple of `pad_vocabulary_to`."""
        return -(-vocabulary_size // self.pad_vocabulary_to) * self.pad_vocabulary_to


class EncoderConfig(ModelConfig, kind="encoder"):
    """Bidirectional transformer encoder, learned positions, embeddings tied with the output."""

    norm: Literal["pre", "post"] = "pre"
    """LayerNorm before (BioNeMo) or after (BERT, Geneformer on Hugging Face) attention and feed-forward."""
    hidden_dropout: Dropout = 0.0
    """Dropout of the residual stream. BioNeMo's Geneformer: 0.02, BERT: 0.1."""
    attention_dropout: Dropout = 0.0
    """Dropout of the attention weights. BioNeMo's Geneformer and BERT: 0.1."""
    layernorm_epsilon: Annotated[float, Field(gt=0.0, le=1e-2)] = 1e-12
    """Added to the variance in every LayerNorm. Source: BERT, Geneformer."""
    init_std: Annotated[float, Field(gt=0.0, le=1.0)] = 0.02
    """Standard deviation of the initial weights; projections back to the residual stream take std / sqrt(2 layers)."""

    def build(self, **place: Any) -> Any:
        """This rank's stage of the model: scmf.model.transformer.build_transformer with these sizes."""
        # By name: scmf-recipe imports this module, and must not wait for torch and Megatron.
        return importlib.import_module("scmf.model.transformer").build_transformer(self, **place)

    def n_parameters(self, vocabulary_size: int, seq_length: int) -> int:
        """Trained numbers of the whole model, counted by formula.

        Args:
            vocabulary_size: tokens, special ones included, before padding.
            seq_length: learned positions.
        """
        vocabulary, width, ffn = self.padded_vocabulary_size(vocabulary_size), self.hidden, self.ffn
        norm = 2 * width
        square = width * width + width
        embeddings = vocabulary * width + seq_length * width
        layer = norm + 3 * square + square + norm + (width * ffn + ffn) + (ffn * width + width)
        # Pre-LN ends with a norm; post-LN begins with one, over the embeddings.
        head = square + norm + vocabulary
        return embeddings + self.layers * layer + norm + head


def largest_divisor(number: int, limit: int) -> int:
    """The largest divisor of a number that is at most a limit; both > 0."""
    return next(d for d in range(min(limit, number), 0, -1) if number % d == 0)
