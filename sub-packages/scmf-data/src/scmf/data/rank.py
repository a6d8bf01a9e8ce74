"""Rank value encoding. In: a store, a vocabulary and cell ids. Out: each cell's genes as tokens, highest first."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import numpy as np
import numpy.typing as npt

from scmf.core.errors import VocabularyError
from scmf.data.rank_kernel import DIGITS, close_gaps, encode_cells, take_ranked
from scmf.data.store import CellStore
from scmf.data.vocabulary import Vocabulary

IntArray = npt.NDArray[np.int32]
LongArray = npt.NDArray[np.int64]
GeneTable = tuple[IntArray, npt.NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token ids of many cells, laid end to end."""

    ids: IntArray
    """(n,) int32, cell after cell."""
    offsets: LongArray
    """(n_cells + 1,) int64: cell i has ids[offsets[i]:offsets[i + 1]], which may be none."""

    def __len__(self) -> int:
        """Number of cells."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> LongArray:
        """(n_cells,) int64 tokens of each cell."""
        return np.diff(self.offsets)

    def of(self, i: int) -> IntArray:
        """Tokens of the i-th cell."""
        return self.ids[self.offsets[i] : self.offsets[i + 1]]


class RankTokenizer:
    """Orders a cell's genes by how far each exceeds its corpus median.

    The value of a gene is its count, scaled to 10,000 over all values stored for the cell, divided by the
    gene's median, rounded to float32; equal values come in the order of their tokens. Genes without a token
    are dropped, columns that share a token are summed first. A cell without any token has no tokens at all,
    not even <cls> and <eos>.

    Source: Theodoris et al., Nature 2023; order equal to Geneformer's `TranscriptomeTokenizer`.
    """

    def __init__(self, vocabulary: Vocabulary, *, gene_ids: Sequence[str], seq_length: int) -> None:
        """Look up every gene once.

        Args:
            vocabulary: tokens and medians.
            gene_ids: id of each column of the store.
            seq_length: tokens kept a cell, <cls> and <eos> included.

        Raises:
            VocabularyError: no gene of the store has a token, or the sequence has no room for a gene.
        """
        self.vocabulary = vocabulary
        self.seq_length = seq_length
        self._limit = seq_length - vocabulary.frame
        if self._limit < 1:
            raise VocabularyError(
                f"a sequence of {seq_length} tokens has no room for a gene beside <cls> and <eos>",
                where="data.tokenizer.seq_length",
                fix="make it longer; Geneformer V2 uses 4096",
            )
        token = vocabulary.tokens_of(gene_ids)
        if not (token >= 0).any():
            raise _no_gene_known(vocabulary, gene_ids)
        inverse_median = np.zeros(len(token))
        inverse_median[token >= 0] = 1.0 / vocabulary.medians[token[token >= 0] - vocabulary.first_gene]
        self._genes = (token, inverse_median)
        known = token[token >= 0]
        self._sums_needed = len(vocabulary) if len(np.unique(known)) < len(known) else 0
        self._checked: WeakSet[CellStore] = WeakSet()
        self._by_list: WeakKeyDictionary[CellStore, list[GeneTable]] = WeakKeyDictionary()

    def encode(self, store: CellStore, cell_ids: LongArray) -> Tokens:
        """Tokens of the cells, in the order given.

        Args:
            store: has the genes that this tokenizer was made for.
            cell_ids: (k,) int64, any order, repeats allowed.

        Raises:
            StoreError: an array of the store points outside itself.
        """
        frame = self.vocabulary.frame
        stored, pieces = store.table.find(cell_ids, ranks_only=True)
        starts = np.zeros(len(cell_ids) + 1, np.int64)
        np.cumsum(np.minimum(stored, self._limit) + frame, out=starts[1:])
        ids = np.empty(int(starts[-1]), np.int32)
        lengths = np.zeros(len(cell_ids), np.int64)
        scratch = self._scratch(int(stored.max(initial=0)))
        for piece in pieces:
            # One place later where <cls> comes first.
            first = starts[:-1][piece.here] + (frame > 0)
            found = np.zeros(len(first), np.int64)
            spans = (*piece.addresses, piece.lengths)
            genes = self._genes_of(store, piece.genes)
            out = (ids, first, found)
            if piece.ranked:
                self._refuse_other_order(store)
                bad = take_ranked(
                    piece.like[0], (spans[0], spans[2]), genes[0], out, self._limit, self._sums_needed > 0
                )
            else:
                bad = encode_cells(piece.like, spans, genes, scratch, out, self._limit)
            if bad >= 0:
                store.fetch(cell_ids[piece.here][bad : bad + 1])  # names the part's damaged array
                raise self._other_genes(store)
            lengths[piece.here] = found
        ends = (self.vocabulary.cls, self.vocabulary.eos) if frame else (-1, -1)
        offsets = close_gaps(ids, starts, lengths, ends)
        return Tokens(ids[: offsets[-1]], offsets)

    def _refuse_other_order(self, store: CellStore) -> None:
        if store not in self._checked:
            refuse_other_rank_order(store, self.vocabulary)
            self._checked.add(store)

    def _genes_of(self, store: CellStore, number: int) -> GeneTable:
        """Token and inverse median by the gene numbers of one of the store's lists of genes."""
        if not len(store.gene_maps[number]):
            return self._genes
        tables = self._by_list.get(store)
        if tables is None:
            tables = [tuple(a[m] if len(m) else a for a in self._genes) for m in store.gene_maps]  # type: ignore[misc]  # two arrays each
            self._by_list[store] = tables
        return tables[number]

    def lengths_upper_bound(self, store: CellStore, cell_ids: LongArray) -> LongArray:
        """Most tokens that each cell can have, from metadata alone. (k,) int64."""
        stored = store.lengths(cell_ids)
        return np.where(stored > 0, np.minimum(stored, self._limit) + self.vocabulary.frame, 0)

    def _other_genes(self, store: CellStore) -> VocabularyError:
        return VocabularyError(
            f"this tokenizer was made for {len(self._genes[0]):,} genes, the store has {store.n_genes:,}",
            where=str(store.path),
            fix="make a tokenizer from the gene ids of this store",
        )

    def _scratch(self, longest: int) -> tuple[npt.NDArray[Any], ...]:
        """Working memory of one call, so that threads do not meet."""
        return (
            np.empty(longest, np.uint64),
            np.empty(longest, np.uint64),
            np.empty(2 * DIGITS, np.uint32),
            np.zeros(self._sums_needed, np.float64),
        )


def refuse_other_rank_order(store: CellStore, vocabulary: Vocabulary) -> None:
    """A store in rank order is good for the vocabulary that ranked it.

    Raises:
        VocabularyError: it was another one.
    """
    for part in store.parts:
        order = part.record.rank_order
        if order is not None and order.fingerprint != vocabulary.fingerprint:
            raise VocabularyError(
                f"the store's cells are in the rank order of {order.vocabulary} ({order.fingerprint}), and the "
                f"vocabulary is {vocabulary.name} ({vocabulary.fingerprint})",
                where=f"{part.path.parent}, data.tokenizer.vocabulary",
                fix="use that vocabulary, or the store that this one was made from, or make another from it: "
                f"scmf-store rank-order STORE --vocabulary {shlex.quote(vocabulary.name)} --dest DIR",
            )


def _no_gene_known(vocabulary: Vocabulary, gene_ids: Sequence[str]) -> VocabularyError:
    example = gene_ids[0] if len(gene_ids) else "(none)"
    wanted = vocabulary.gene_ids[0]
    if example.startswith("ENS") and not example.startswith("ENSG") and wanted.startswith("ENSG"):
        reason, flag = "the store is of another species than the vocabulary", "--orthologs human (mouse only)"
    elif not example.startswith("ENS"):
        reason, flag = "the store's genes are not Ensembl ids", "--gene-ids map"
    else:
        reason, flag = "the store and the vocabulary use other ids", "--gene-ids map"
    return VocabularyError(
        f"none of the {len(gene_ids):,} genes has a token: {reason} ({example} against {wanted})",
        where=f"data.tokenizer.vocabulary={vocabulary.name}",
        fix=f"convert the sources again with {flag}, or compute a vocabulary from the store itself: "
        "scmf-store vocabulary STORE --out FILE",
    )
