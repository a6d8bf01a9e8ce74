"""The `data` section: which cells, as which tokens, in which batches."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt
from scmf.core.config import Config

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


class RankTokenizerConfig(Config):
    """Rank value encoding: a cell is its genes, ordered by how far each exceeds its corpus median."""

    kind: Literal["rank"] = "rank"
    vocabulary: str = "geneformer-v1"
    """A shipped vocabulary (geneformer-v1, geneformer-v2) or the path of a vocabulary file."""
    seq_length: Annotated[int, Field(ge=2, le=65_536)]
    """Tokens kept a cell, special tokens included. Geneformer V1: 2048, V2: 4096."""


class SplitConfig(Config):
    """Which cells train, validate and test; never the same cell twice."""

    by: str | None = None
    """Column of `obs` whose groups (donors, batches) stay whole, or null to draw single cells by hash."""
    validation: Fraction = 0.05
    """Share of the cells (or of the groups' cells) held out for validation."""
    test: Fraction = 0.0
    """Share held out for the final test."""


class CellsConfig(Config):
    """Cells of one store as rank tokens, packed."""

    kind: Literal["cells"] = "cells"
    store: str
    """Folder written by `scmf-store convert`."""
    tokenizer: RankTokenizerConfig
    split: SplitConfig = SplitConfig()
    global_batch_size: PositiveInt
    """Cells an optimizer step, all ranks together."""
    packing: bool = True
    """Lay cells end to end without padding; false pads every cell to the longest of its microbatch."""
    microbatch_tokens: PositiveInt | None = None
    """Positions a packed microbatch; the memory of a step is proportional to it. Only with packing."""
    micro_batch_size: PositiveInt | None = None
    """Cells a padded microbatch. Only without packing."""
    workers: NonNegativeInt = 2
    """Threads that prepare batches ahead of the step; 0 prepares them in the step itself."""
    prefetch_steps: PositiveInt = 4
    """Steps prepared ahead."""
