"""The `model` section: sizes of a transformer and its task. Imports neither torch nor megatron."""

from __future__ import annotations

import importlib
from abc import abstractmethod
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from scmf.core.config import Variant
from scmf.core.config_fault import Fault
from scmf.core.config_kind import Kinds
from scmf.model.task import TASKS, ClmTask, MlmTask, TaskConfig

__all__ = [
    "BackboneConfig",
    "ClmTask",
    "DecoderConfig",
    "EncoderConfig",
    "MlmTask",
    "ModelConfig",
    "TaskConfig",
    "largest_divisor",
]

Dropout = Annotated[float, Field(ge=0.0, lt=1.0)]
Width = Annotated[int, Field(ge=1, le=1_048_576)]
Positions = Literal["learned", "sinusoidal", "rotary"]


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
    task: Annotated[TaskConfig, Kinds(TASKS)] = MlmTask()
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


class BackboneConfig(ModelConfig):
    """What encoders and decoders share: norms, dropout, positions; embeddings are tied with the output."""

    causal: ClassVar[bool]
    """Whether a token sees only itself and the ones before it."""

    norm: Literal["pre", "post"] = "pre"
    """LayerNorm before (BioNeMo, GPT-2) or after (BERT, Geneformer on Hugging Face) attention and feed-forward."""
    hidden_dropout: Dropout = 0.0
    """Dropout of the residual stream. BioNeMo's Geneformer: 0.02, BERT: 0.1."""
    attention_dropout: Dropout = 0.0
    """Dropout of the attention weights. BioNeMo's Geneformer and BERT: 0.1."""
    layernorm_epsilon: Annotated[float, Field(gt=0.0, le=1e-2)] = 1e-12
    """Added to the variance in every LayerNorm. BERT, Geneformer: 1e-12, GPT-2: 1e-5."""
    init_std: Annotated[float, Field(gt=0.0, le=1.0)] = 0.02
    """Standard deviation of the initial weights; projections back to the residual stream take std / sqrt(2 layers)."""
    positions: Positions = "learned"
    """How a token knows its place: learned (BERT, GPT-2), sinusoidal (Transformer) or rotary (RoFormer, ESM-2)."""

    def faults(self) -> Iterator[Fault]:
        """The task sees what the backbone shows, and widths are even where positions need pairs."""
        yield from super().faults()
        if self.task.causal not in (None, self.causal):
            yield self._wrong_way()
        if self.positions == "sinusoidal" and self.hidden % 2:
            yield Fault(
                "positions",
                f"model.positions=sinusoidal takes a sine and a cosine of each wavelength, and model.hidden="
                f"{self.hidden} is odd",
                "use an even hidden, or positions: learned",
            )
        if self.positions == "rotary" and self.hidden % (2 * self.heads):
            yield Fault(
                "positions",
                f"model.positions=rotary turns pairs of a head's numbers, and model.hidden={self.hidden} over "
                f"model.heads={self.heads} is no even width",
                "use a hidden that is a multiple of 2 x heads, or positions: learned",
            )

    def _wrong_way(self) -> Fault:
        sees = "only itself and the tokens before it" if self.causal else "the whole of its sequence"
        other = "encoder" if self.causal else "decoder"
        return Fault(
            "task",
            f"model.task.kind={self.task.kind} asks for a {'causal' if self.task.causal else 'bidirectional'} model, "
            f"and a token of model.kind={self.kind} sees {sees}",
            f"write model.kind: {other}, or task: {{kind: {'clm' if self.causal else 'mlm'}}}",
        )

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
        rows, width, ffn = self.padded_vocabulary_size(vocabulary_size), self.hidden, self.ffn
        norm = 2 * width
        square = width * width + width
        embeddings = rows * width + (seq_length * width if self.positions == "learned" else 0)
        layer = norm + 3 * square + square + norm + (width * ffn + ffn) + (ffn * width + width)
        # Pre-LN ends with a norm; post-LN begins with one, over the embeddings.
        return embeddings + self.layers * layer + norm + self.task.head_parameters(width, rows)


class EncoderConfig(BackboneConfig, kind="encoder"):
    """Bidirectional transformer encoder: every token sees the whole of its sequence."""

    causal = False


class DecoderConfig(BackboneConfig, kind="decoder"):
    """Causal transformer decoder: a token sees itself and the ones before it, as in GPT."""

    causal = True
    task: Annotated[TaskConfig, Kinds({"clm": ClmTask, **TASKS})] = ClmTask()
    """What the model is trained to do."""


def largest_divisor(number: int, limit: int) -> int:
    """The largest divisor of a number that is at most a limit; both > 0."""
    return next(d for d in range(min(limit, number), 0, -1) if number % d == 0)
