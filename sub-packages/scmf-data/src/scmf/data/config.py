"""The `data` section: which cells, as which tokens, in which batches. Imports no store, no kernels."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from scmf.core.config import Config, Variant
from scmf.core.config_fault import Fault
from scmf.core.config_kind import Kinds
from scmf.core.errors import ConfigError
from scmf.data.config_order import (
    BalancedConfig,
    BlockOrderConfig,
    CurriculumConfig,
    OrderConfig,
    RandomOrderConfig,
    SamplingConfig,
    StoreEntry,
    UniformConfig,
    WeightsConfig,
    gradual_faults,
    order_faults,
)
from scmf.data.config_tokenizer import (
    SHIPPED_VOCABULARIES,
    CharTokenizerConfig,
    RankTokenizerConfig,
    StoredTokenizerConfig,
    TokenizerConfig,
)

__all__ = [
    "SHIPPED_VOCABULARIES",
    "CellsConfig",
    "CharTokenizerConfig",
    "ContiguousSplitConfig",
    "DataConfig",
    "HashSplitConfig",
    "RankTokenizerConfig",
    "SequenceSplitConfig",
    "SequencesConfig",
    "SharesConfig",
    "SplitConfig",
    "StoredTokenizerConfig",
    "TokenizerConfig",
]

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
StorePlace = Annotated[str, Field(min_length=1)] | Annotated[tuple[StoreEntry, ...], Field(min_length=1, strict=False)]
SEQUENCE_TOKENIZERS = {"char": CharTokenizerConfig, "stored": StoredTokenizerConfig}


class SharesConfig(Config):
    """Base of every split: the shares that are held out."""

    validation: Fraction = 0.05
    """Share held out for validation."""
    test: Fraction = 0.0
    """Share held out for the final test."""

    def faults(self) -> Iterator[Fault]:
        """Something is left to train on."""
        yield from super().faults()
        if self.validation + self.test >= 1.0:
            yield Fault(
                "validation",
                f"data.split.validation={self.validation} and data.split.test={self.test} leave nothing to train on",
                "make them sum to less than 1",
            )


class _SplitColumn(Config):
    """What stays whole. (A base of its own, behind SharesConfig: so the key is written before the shares.)"""

    by: Annotated[str, Field(min_length=1)] | None = None
    """Column of `obs` whose groups (donors, batches) stay whole, or null to draw single cells by hash."""


class SplitConfig(SharesConfig, _SplitColumn):
    """Which cells train, validate and test; never the same cell twice."""

    validation: Fraction = 0.05
    """Share of the cells (or of the groups' cells) held out for validation."""
    test: Fraction = 0.0
    """Share of the cells held out for the final test."""
    name: Annotated[str, Field(min_length=1)] | None = None
    """A named split that travels with the store, in place of `by` and the shares; `scmf-store info` lists them."""

    def faults(self) -> Iterator[Fault]:
        """One thing decides which cells."""
        yield from super().faults()
        if self.name is not None and self.by is not None:
            yield Fault(
                "name",
                f"data.split.name={self.name} and data.split.by={self.by} both say which cells are held out",
                "write null for one of them",
            )


class SequenceSplitConfig(SharesConfig, Variant):
    """Base of every split of sequences, which also says what one unit of a step is."""


class ContiguousSplitConfig(SequenceSplitConfig, kind="contiguous"):
    """The first tokens train, the next validate, the last test; units are windows of seq_length tokens. For text."""

    move_windows: bool = True
    """Let the windows of training begin elsewhere in every epoch, so that no token is always the first of one."""


class HashSplitConfig(SequenceSplitConfig, kind="hash"):
    """A hash of its tokens decides where a sequence goes, so that equal ones stay together; units are sequences."""


class DataConfig(Variant):
    """Base of every `data` section: a store, a tokenizer, a split, and the batches of a step."""

    store: StorePlace
    """Folder written by `scmf-store convert`."""
    tokenizer: Annotated[TokenizerConfig, Kinds({"rank": RankTokenizerConfig, **SEQUENCE_TOKENIZERS})]
    """What one cell or window becomes; the vocabulary travels with every checkpoint."""
    split: SharesConfig = SharesConfig()
    """What trains and what is held out."""
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
        """The step batches that this section describes; each kind answers with its own.

        Args:
            place: `objective` (scmf.data.objective), `seed`, and where they are not the usual ones `replica` and
                `align`, as scmf.data.stream.CellStream takes them.

        Returns:
            A scmf.data.step_stream.StepStream.

        Raises:
            ConfigError: this kind has no batches, or not for this objective.
            StoreError: the store is missing or damaged.
            VocabularyError: no such vocabulary, or it does not fit the store.
        """
        raise ConfigError(
            f"data.kind={self.kind} says nothing about how its batches are made of {', '.join(place)}",
            where=f"{type(self).__module__}.{type(self).__qualname__}.open",
            fix="derive the class from CellsConfig or SequencesConfig, or give it a method open(**place)",
        )

    @property
    def folders(self) -> tuple[str, ...]:
        """Stores of this computer, to be looked for before minutes are spent; () where a class opens its own."""
        return ()

    def faults(self) -> Iterator[Fault]:
        """One way to make microbatches, and a longest cell that fits into one."""
        yield from super().faults()
        yield from self._packing_faults() if self.packing else self._padding_faults()

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


class _StoredCells(Variant):
    """Where the cells are. (A base of its own, behind DataConfig: so `read` is written right after `store`.)"""

    store: StorePlace
    """Folder written by `scmf-store convert`, s3://bucket/folder, or several as a list of {path: ..., weight: ...}."""
    read: Literal["auto", "mmap", "pread"] = "auto"
    """How values are read: mmap (memory map), pread (requests; for stores far larger than memory and network disks)."""


class CellsConfig(DataConfig, _StoredCells, kind="cells"):
    """Cells of one store as tokens, packed or padded."""

    store: StorePlace
    """Folder written by `scmf-store convert`, s3://bucket/folder, or several as a list of {path: ..., weight: ...}."""
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
    curriculum: CurriculumConfig | None = None
    """Easy cells first: by, start, steps, pacing; null draws from all training cells from the first step on."""

    def open(self, **place: Any) -> Any:
        """The step batches that this section describes; a class of your own may answer with its own.

        Args:
            place: `objective`, `seed`, `replica` and `align`, as scmf.data.stream.CellStream takes them.

        Returns:
            A CellStream, or what has its methods.

        Raises:
            ConfigError: the objective is not for cells.
            StoreError: the store is missing or damaged.
            VocabularyError: no such vocabulary, or it knows no gene of the store.
        """
        # By name: a config builds its own object, and scmf-recipe, which imports it, must not wait for zarr and numba.
        stream = importlib.import_module("scmf.data.stream")
        joined = importlib.import_module("scmf.data.joined")
        return stream.CellStream(joined.open_stores(self.store, read=self.read), self, **place)

    @property
    def folders(self) -> tuple[str, ...]:
        """The stores; () where a class of one's own opens something else."""
        if type(self).open is not CellsConfig.open:
            return ()
        return (self.store,) if isinstance(self.store, str) else tuple(entry.path for entry in self.store)

    def faults(self) -> Iterator[Fault]:
        """Stores that differ, and an order that can be drawn from."""
        yield from super().faults()
        entries = () if isinstance(self.store, str) else self.store
        paths = [entry.path for entry in entries]
        if len(set(paths)) < len(paths):
            twice = next(path for path in paths if paths.count(path) > 1)
            yield Fault(
                "store",
                f"data.store names {twice} twice",
                "name it once; a weight above 1 draws its cells more often",
            )
        yield from gradual_faults(self.sampling, entries)
        yield from order_faults(self.order, self.sampling, self.curriculum, entries)


class SequencesConfig(DataConfig, kind="sequences"):
    """Text, or any ready tokens: windows of long sequences, or short sequences whole."""

    store: Annotated[str, Field(min_length=1)]
    """Folder written by `scmf-store convert` of text files, or of a parquet table of ready tokens."""
    tokenizer: Annotated[TokenizerConfig, Kinds(SEQUENCE_TOKENIZERS)]
    """char for text, stored for ready tokens; the vocabulary is the store's and travels with every checkpoint."""
    split: Annotated[SequenceSplitConfig, Kinds({"contiguous": ContiguousSplitConfig, "hash": HashSplitConfig})] = (
        ContiguousSplitConfig()
    )
    """What trains and what is held out, and with it the unit: contiguous (windows of text), or hash (sequences)."""
    global_batch_size: Annotated[int, Field(ge=1, le=16_777_216)]
    """Windows (or whole sequences) an optimizer step, all ranks together."""
    packing: bool = True
    """Lay windows end to end without padding; false pads each to the longest of its microbatch."""
    micro_batch_size: Annotated[int, Field(ge=1, le=65_536)] | None = None
    """Windows (or whole sequences) of a padded microbatch on one rank. Only without packing."""

    def open(self, **place: Any) -> Any:
        """The step batches that this section describes.

        Args:
            place: `objective`, `seed`, `replica` and `align`, as scmf.data.sequences.stream.SequenceStream takes them.

        Returns:
            A SequenceStream.

        Raises:
            StoreError: the store is missing or damaged, or holds no sequences.
            ConfigError: the split leaves nothing to train on, or the vocabulary has no token that the objective needs.
        """
        return importlib.import_module("scmf.data.sequences.stream").open_stream(self, **place)

    @property
    def folders(self) -> tuple[str, ...]:
        """The store; () where a class of one's own opens something else."""
        return (self.store,) if type(self).open is SequencesConfig.open else ()

    def faults(self) -> Iterator[Fault]:
        """A store on a disk of this machine: it is read from a memory map."""
        yield from super().faults()
        if "://" in self.store:
            yield Fault(
                "store",
                f"data.store={self.store} is not on a disk, and stores of sequences are read by memory map",
                "copy the folder to a disk and name that",
            )
