"""Settings of the loader. In: keyword arguments. Out: a course of cells, and a dictionary of arrays for each step.

Needs no torch. `LoaderConfig` gives rank tokens, `CountsConfig` gives counts; both draw the same cells.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import numpy.typing as npt
from pydantic import Field, ValidationError

from scmf.core.batch import StepBatch
from scmf.core.config import Config
from scmf.core.config_fault import Fault, config_error, faults_of
from scmf.core.config_kind import Kinds
from scmf.data.config import CellsConfig, SplitConfig, StorePlace
from scmf.data.config_order import (
    BalancedConfig,
    BlockOrderConfig,
    OrderConfig,
    RandomOrderConfig,
    SamplingConfig,
    UniformConfig,
    WeightsConfig,
)
from scmf.data.counts import CountsStep, CountsStream
from scmf.data.course import CellCourse
from scmf.data.loader_batch import packed_batch, padded_batch
from scmf.data.masks import Corruption
from scmf.data.step_stream import Replica
from scmf.data.stream import CellStream

Arrays = dict[str, npt.NDArray[Any]]
"""A batch by name."""
Name = Annotated[str, Field(min_length=1)]

BERT: Final = Corruption(select=0.15, mask=0.8, random=0.1)
"""Devlin et al., 2019."""


class BatchesConfig(Config):
    """Which cells, in which batches."""

    store: StorePlace
    """Folder written by `scmf-store convert`, s3://bucket/folder, or several as StoreEntry(path=..., weight=...)."""
    batch_size: Annotated[int, Field(ge=1, le=65_536)]
    """Cells a batch of each replica. Packed, replicas share a step's cells by length: this many on average."""
    split: SplitConfig = SplitConfig()
    """Which cells train and which are held out, as in the `data` section."""
    order: Annotated[OrderConfig, Kinds({"random": RandomOrderConfig, "blocks": BlockOrderConfig})] = (
        RandomOrderConfig()
    )
    """Which training cell comes when: random, or blocks for disks that cannot seek, as in the `data` section."""
    sampling: Annotated[
        SamplingConfig, Kinds({"uniform": UniformConfig, "balanced": BalancedConfig, "weights": WeightsConfig})
    ] = UniformConfig()
    """How often a cell is drawn: uniform, balanced (by a column's groups) or weights, as in the `data` section."""
    read: Literal["auto", "mmap", "pread"] = "auto"
    """How values are read: mmap (memory map), pread (requests; for stores far larger than memory and network disks)."""
    obs: dict[Name, Name] = Field(default_factory=dict)
    """Columns of obs by the name that they have in a batch: {"labels": "cell_type"}."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Decides split, order and masks."""
    workers: Annotated[int, Field(ge=0, le=1024)] = 2
    """Threads of CellLoader that prepare batches ahead; 0 prepares them when they are asked for."""
    ahead: Annotated[int, Field(ge=1, le=1024)] = 4
    """Batches that CellLoader prepares ahead."""

    if not TYPE_CHECKING:  # type checkers know the fields; a method here would make them accept any name

        def __init__(self, **values: Any) -> None:
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise config_error(faults_of(error, type(self), values), source=type(self).__name__) from None

    @property
    @abstractmethod
    def own_names(self) -> frozenset[str]:
        """What a batch has by itself."""
        ...

    @abstractmethod
    def open(self, replica: Replica) -> CellCourse[Any]:
        """The cells by position.

        Raises:
            StoreError: the store is missing or damaged, or lacks a column or a gene.
            VocabularyError: no such vocabulary, or it knows no gene of the store.
            ConfigError: nothing would be left to train on.
        """
        ...

    @abstractmethod
    def arrays(self, course: CellCourse[Any], step: Any) -> Arrays:
        """A step of this course by name."""
        ...

    def faults(self) -> Iterator[Fault]:
        """No column takes the place of what a batch has by itself."""
        yield from super().faults()
        for name in sorted(self.own_names & self.obs.keys()):
            yield Fault(
                "obs",
                f"obs gives a column the name {name!r}, which a batch has already",
                'use another name; to have a column as "labels" of tokens, set corruption=None',
            )

    def cells(self, replica: Replica, **tokens: Any) -> CellsConfig:
        """The same as a `data` section whose steps are one microbatch a replica.

        Args:
            replica: how many share a step.
            tokens: the keys that say what is made of the cells.

        Raises:
            ConfigError: these settings do not go together.
        """
        entries = self.store if isinstance(self.store, str) else [entry.model_dump() for entry in self.store]
        course: dict[str, Any] = {name: getattr(self, name).model_dump() for name in ("split", "order", "sampling")}
        section = {"kind": "cells", "store": entries, "read": self.read, **course, **tokens}
        return CellsConfig.parse(section | {"global_batch_size": self.batch_size * replica.of}, source="the loader")


class LoaderConfig(BatchesConfig):
    """Which cells, as which tokens, in which batches."""

    seq_length: Annotated[int, Field(ge=2, le=65_536)]
    """Tokens kept a cell. Geneformer V1: 2048, V2: 4096."""
    vocabulary: str = "geneformer-v1"
    """A shipped vocabulary (geneformer-v1, geneformer-v2), or the path of a vocabulary file."""
    packed: bool = False
    """Cells end to end with cu_seqlens and position_ids, instead of one padded row a cell with attention_mask."""
    corruption: Corruption | None = BERT
    """What is masked; None gives the cells as they are, without `labels`."""

    @property
    def own_names(self) -> frozenset[str]:
        """What a batch has by itself."""
        layout = {"position_ids", "cu_seqlens", "max_seqlen"} if self.packed else {"attention_mask"}
        return frozenset({"input_ids", "cell_ids"} | layout | ({"labels"} if self.corruption is not None else set()))

    def open(self, replica: Replica) -> CellStream:
        """The cells by position, as tokens."""
        packing: dict[str, Any] = {"packing": False, "micro_batch_size": self.batch_size}
        if self.packed:
            packing = {"packing": True, "microbatch_tokens": self.batch_size * replica.of * self.seq_length}
        tokenizer = {"kind": "rank", "vocabulary": self.vocabulary, "seq_length": self.seq_length}
        section = self.cells(replica, tokenizer=tokenizer, **packing)
        objective = self.corruption or BERT
        opened: CellStream = section.open(objective=objective, seed=self.seed, replica=replica, align=1)
        return opened

    def arrays(self, course: CellCourse[Any], step: Any) -> Arrays:
        """Tokens of a step. Every batch has at least the cells that have a token."""
        if not isinstance(course, CellStream) or not isinstance(step, StepBatch):
            raise TypeError(f"{type(course).__name__} has no tokens")
        (microbatch,) = step.microbatches
        if self.packed:
            return packed_batch(microbatch, corrupted=self.corruption is not None)
        return padded_batch(microbatch, pad=course.vocabulary.pad, corrupted=self.corruption is not None)


class CountsConfig(BatchesConfig):
    """Which cells, as counts of which genes, in which batches."""

    genes: Annotated[tuple[Name, ...], Field(min_length=1, strict=False)] | None = None
    """Ids of the store's genes, in the order of the columns; None: all of them in the order of the store."""
    sparse: bool = False
    """CSR arrays `indptr`, `columns`, `values`, instead of one table `counts`."""

    @property
    def own_names(self) -> frozenset[str]:
        """What a batch has by itself."""
        return frozenset({"indptr", "columns", "values"} if self.sparse else {"counts"}) | {"totals", "cell_ids"}

    def faults(self) -> Iterator[Fault]:
        """Every gene has one column."""
        yield from super().faults()
        genes = self.genes or ()
        if len(set(genes)) < len(genes):
            twice = next(gene for gene in genes if genes.count(gene) > 1)
            yield Fault("genes", f"genes names {twice} twice", "name each gene once")

    def open(self, replica: Replica) -> CountsStream:
        """The cells by position, as counts."""
        from scmf.data.joined import open_stores

        # The data section says which cells come when; its tokens are those of nobody.
        tokenizer = {"kind": "rank", "vocabulary": "geneformer-v1", "seq_length": 2}
        section = self.cells(replica, tokenizer=tokenizer, packing=False, micro_batch_size=self.batch_size)
        store = open_stores(section.store, read=section.read)
        return CountsStream(store, section, seed=self.seed, genes=self.genes, replica=replica)

    def arrays(self, course: CellCourse[Any], step: Any) -> Arrays:
        """Counts of a step."""
        if not isinstance(step, CountsStep):
            raise TypeError(f"{type(course).__name__} has no counts")
        plain: Arrays = {"totals": step.totals, "cell_ids": step.cell_ids}
        if self.sparse:
            return plain | {"indptr": step.indptr, "columns": step.columns, "values": step.counts}
        return plain | {"counts": step.dense()}
