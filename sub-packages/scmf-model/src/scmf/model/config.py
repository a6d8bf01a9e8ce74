"""The `model` section: sizes of the encoder and its task. Imports neither torch nor megatron."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt
from scmf.core.config import Config

Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Dropout = Annotated[float, Field(ge=0.0, lt=1.0)]


class MlmTask(Config):
    """Masked language model: predict the tokens that were corrupted."""

    kind: Literal["mlm"] = "mlm"
    select: Annotated[float, Field(gt=0.0, le=1.0)] = 0.15
    """Share of a cell's tokens chosen as targets. Source: BERT."""
    mask: Probability = 0.80
    """Of the chosen, the share replaced by <mask>. Source: BERT."""
    random: Probability = 0.10
    """Of the chosen, the share replaced by a random gene; the rest is kept. Source: BERT (BioNeMo's recipes: 0.02)."""


class EncoderConfig(Config):
    """Bidirectional transformer encoder over Megatron-Core layers, learned positions, tied embeddings."""

    kind: Literal["encoder"] = "encoder"
    layers: PositiveInt
    hidden: PositiveInt
    """Width of the residual stream."""
    ffn: PositiveInt
    """Width of the feed-forward layer."""
    heads: PositiveInt
    norm: Literal["pre", "post"] = "pre"
    """LayerNorm before (BioNeMo) or after (BERT, Geneformer on Hugging Face) attention and feed-forward."""
    hidden_dropout: Dropout = 0.0
    attention_dropout: Dropout = 0.0
    layernorm_epsilon: Annotated[float, Field(gt=0.0, le=1e-2)] = 1e-12
    init_std: Annotated[float, Field(gt=0.0, le=1.0)] = 0.02
    """Standard deviation of the initial weights; projections back to the residual stream take std / sqrt(2 layers)."""
    pad_vocabulary_to: PositiveInt = 128
    """The vocabulary is padded to a multiple of this, so that tensor-parallel ranks share it evenly."""
    task: MlmTask = MlmTask()
    init_from: str | None = None
    """Checkpoint whose weights (not optimizer, not step) the run starts from."""
