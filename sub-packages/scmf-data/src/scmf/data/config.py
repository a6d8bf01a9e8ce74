"""The `data` section: which cells, as which tokens, in which batches. Imports no store, no kernels."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from scmf.core.config import Config, Variant
from scmf.core.config_fault import Fault, nearest
from scmf.core.config_kind import Kinds
from scmf.data.config_order import (
    BalancedConfig,
    BlockOrderConfig,
    OrderConfig,
    RandomOrderConfig,
    SamplingConfig,
    StoreEntry,
    UniformConfig,
    WeightsConfig,
)

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]

SHIPPED_VOCABULARIES = {"geneformer-v1": 25_426, "geneformer-v2": 20_275}
"""Tokens of each shipped vocabulary, special tokens included, so that a config is checked without loading one.

Source: token_dictionary_gc30M (Geneformer V1) and token_dictionary_gc104M (V2), keys counted.
"""


class TokenizerConfig(Variant):
    """Base of every tokenizer: what one cell becomes."""

    vocabulary: Annotated[str, Field(min_length=1)] = "geneformer-v1"
    """A shipped vocabulary (geneformer-v1, geneformer-v2), or the path of a vocabulary file."""
    seq_length: Annotated[int, Field(ge=2, le=65_536)]
    """Tokens kept a cell, special tokens included. Geneformer V1: 2048, V2: 4096."""

    def faults(self) -> Iterator[Fault]:
        """A bare word is the name of a shipped vocabulary: a misspelt name should not become a path."""
        yield from super().faults()
        name = self.vocabulary
        if name not in SHIPPED_VOCABULARIES and "/" not in name and "." not in name:
            near = nearest(name, SHIPPED_VOCABULARIES)
            yield Fault(
                "vocabulary",
                f"no vocabulary {name} is shipped, and a path would hold a slash or a dot",
                f"did you mean {near}?" if near else f"use one of {', '.join(SHIPPED_VOCABULARIES)}, or ./{name}",
            )

    @property
    def vocabulary_size(self) -> int | None:
        """Tokens of a shipped vocabulary; None for a file, which has to be opened to know."""
        return SHIPPED_VOCABULARIES.get(self.vocabulary)


class RankTokenizerConfig(TokenizerConfig, kind="rank"):
    """Rank value encoding: a cell is its genes, ordered by how far each exceeds its corpus median."""


class SplitConfig(Config):
    """Which cells train, validate and test; never the same cell twice."""

    by: Annotated[str, Field(min_length=1)] | None = None
    """Column of `obs` whose groups (donors, batches) stay whole, or null to draw single cells by hash."""
    validation: Fraction = 0.05
    """Share of the cells (or of the groups' cells) held out for validation."""
    test: Fraction = 0.0
    """Share of the cells held out for the final test."""
    name: Annotated[str, Field(min_length=1)] | None = None
    """A named split that travels with the store, in place of `by` and the shares; `scmf-store info` lists them."""

    def faults(self) -> Iterator[Fault]:
        """Something is left to train on, and one thing decides which cells."""
        yield from super().faults()
        if self.name is not None and self.by is not None:
            yield Fault(
                "name",
                f"data.split.name={self.name} and data.split.by={self.by} both say which cells are held out",
                "write null for one of them",
            )
        if self.validation + self.test >= 1.0:
            yield Fault(
                "validation",
                f"data.split.validation={self.validation} and data.split.test={self.test} leave no cells to train on",
                "make them sum to less than 1",
            )


class DataConfig(Variant):
    """Base of every `data` section: a store, a tokenizer, a split, and the batches of a step."""

    store: Annotated[str, Field(min_length=1)] | Annotated[tuple[StoreEntry, ...], Field(min_length=1, strict=False)]
    """Folder written by `scmf-store convert`, s3://bucket/folder, or several as a list of {path: ..., weight: ...}."""
    read: Literal["auto", "mmap", "pread"] = "auto"
    """How values are read: mmap (memory map), pread (requests; for stores far larger than memory and network disks)."""
    tokenizer: Annotated[TokenizerConfig, Kinds({"rank": RankTokenizerConfig})]
    """What one cell becomes; the vocabulary travels with every checkpoint."""
    split: SplitConfig = SplitConfig()
    """Which cells train and which are held out."""
    order: Annotated[OrderConfig, Kinds({"random": RandomOrderConfig, "blocks": BlockOrderConfig})] = (
        RandomOrderConfig()
    )
    """Which training cell comes when: random, or blocks (with block and window) for disks that cannot seek."""
    sampling: Annotated[
        SamplingConfig, Kinds({"uniform": UniformConfig, "balanced": BalancedConfig, "weights": WeightsConfig})
    ] = UniformConfig()
    """How often a cell is drawn: uniform, balanced (by a column's groups), or weights (a column of numbers)."""
    global_batch_size: Annotated[int, Field(ge=1, le=16_777_216)]
    """Cells an optimizer step, all ranks together."""
    packing: bool = True
    """Lay cells end to end without padding; false pads every cell to the longest of its microbatch."""
    microbatch_tokens: Annotated[int, Field(ge=2, le=16_777_216)] | None = None
    """Positions of a packed microbatch on one rank; a step's memory is proportional to it. Only with packing."""
    micro_batch_size: Annotated[int, Field(ge=1, le=65_536)] | None = None
    """Cells of a padded microbatch on one rank. Only without packing."""
    workers: Annotated[int, Field(ge=0, le=1024)] = 2
    """Threads a rank that prepare batches ahead of the step; 0 prepares them in the step itself."""
    prefetch_steps: Annotated[int, Field(ge=1, le=1024)] = 4
    """Steps prepared ahead, by each rank."""

    def open(self, **place: Any) -> Any:
        """The step batches that this section describes; a class of your own may answer with its own.

        Args:
            place: `corruption`, `seed`, `replica` and `align`, as scmf.data.stream.CellStream takes them.

        Returns:
            A CellStream, or what has its methods.

        Raises:
            StoreError: the store is missing or damaged.
            VocabularyError: no such vocabulary, or it knows no gene of the store.
        """
        # By name: scmf-recipe imports this module, and must not wait for zarr and numba.
        stream = importlib.import_module("scmf.data.stream")
        joined = importlib.import_module("scmf.data.joined")
        return stream.CellStream(joined.open_stores(self.store, read=self.read), self, **place)

    def faults(self) -> Iterator[Fault]:
        """One way to make microbatches, a longest cell that fits into one, and an order that can be drawn from."""
        yield from super().faults()
        yield from self._packing_faults() if self.packing else self._padding_faults()
        yield from self._order_faults()

    def _order_faults(self) -> Iterator[Fault]:
        entries = () if isinstance(self.store, str) else self.store
        paths = [entry.path for entry in entries]
        if len(set(paths)) < len(paths):
            twice = next(path for path in paths if paths.count(path) > 1)
            yield Fault(
                "store",
                f"data.store names {twice} twice",
                "name it once; a weight above 1 draws its cells more often",
            )
        unequal = len({entry.weight for entry in entries}) > 1
        if self.order.kind == "blocks" and (unequal or self.sampling.kind != "uniform"):
            what = "the weights of data.store" if unequal else f"data.sampling.kind={self.sampling.kind}"
            yield Fault(
                "order",
                f"data.order.kind=blocks gives every cell once an epoch, and {what} asks for some more often",
                "write order: {kind: random}, or draw all cells alike",
            )

    def _packing_faults(self) -> Iterator[Fault]:
        length = self.tokenizer.seq_length
        if self.micro_batch_size is not None:
            yield Fault(
                "micro_batch_size",
                f"data.micro_batch_size={self.micro_batch_size} counts padded cells; data.packing=true has none",
                f"write micro_batch_size: null, and microbatch_tokens: {self.micro_batch_size * length}",
            )
        if self.microbatch_tokens is None:
            yield Fault(
                "microbatch_tokens",
                "data.microbatch_tokens is null, and data.packing=true needs a budget",
                f"give the positions of a microbatch, at least tokenizer.seq_length={length}; 8 x that is usual",
            )
        elif self.microbatch_tokens < length:
            yield Fault(
                "microbatch_tokens",
                f"data.microbatch_tokens={self.microbatch_tokens} is less than data.tokenizer.seq_length={length}, "
                "so the longest cells fit into no microbatch",
                f"use at least {length}, or a shorter seq_length",
            )

    def _padding_faults(self) -> Iterator[Fault]:
        if self.microbatch_tokens is not None:
            yield Fault(
                "microbatch_tokens",
                f"data.microbatch_tokens={self.microbatch_tokens} is a pack's budget; data.packing=false has no packs",
                "write microbatch_tokens: null, or packing: true",
            )
        if self.micro_batch_size is None:
            yield Fault(
                "micro_batch_size",
                "data.micro_batch_size is null, and data.packing=false needs the cells of a microbatch",
                "give a number, for example 8",
            )
        elif self.global_batch_size % self.micro_batch_size:
            yield Fault(
                "micro_batch_size",
                f"data.global_batch_size={self.global_batch_size} is not a multiple of "
                f"data.micro_batch_size={self.micro_batch_size}",
                "use a micro_batch_size that divides it",
            )


class CellsConfig(DataConfig, kind="cells"):
    """Cells of one store as tokens, packed or padded."""
