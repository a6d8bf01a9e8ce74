"""Values found by address: the same spans as the parts' own arrays, and nothing outside them."""

from __future__ import annotations

import gc
import mmap
import shutil

import numba
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from scmf.core.errors import StoreError, VocabularyError
from scmf.data.manifest import dump_manifest, read_manifest
from scmf.data.memory_source import write_store
from scmf.data.part_table import pointer_to
from scmf.data.rank import RankTokenizer
from scmf.data.readahead import SUPPORTED, WILLNEED, advise, ask_for_cells, expect_random_access
from scmf.data.store import CellStore
from scmf.data.vocabulary import BARE_SPECIALS, Vocabulary

GENES = tuple(f"ENSG{i:03}" for i in range(40))


@numba.njit
def _read(address, n, like):
    return numba.carray(pointer_to(address), (n,), like.dtype).copy()


@pytest.fixture(scope="module")
def counts():
    return np.random.default_rng(0).poisson(0.7, (50, 40)) * np.arange(1, 51)[:, None]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory, counts):
    """Parts of 20, 20 and 10 cells, of which the second has wide counts."""
    root = tmp_path_factory.mktemp("table")
    obs = pd.DataFrame(index=[f"c{i}" for i in range(50)])
    narrow = {"obs": obs, "gene_ids": GENES, "cells_per_part": 20}
    write_store(root / "narrow", counts=csr_matrix(counts), **narrow)
    write_store(root / "wide", counts=csr_matrix(counts * 70_000), **narrow)
    shutil.copytree(root / "wide" / "part-00001", root / "narrow" / "part-00001", dirs_exist_ok=True)
    old, wide = read_manifest(root / "narrow"), read_manifest(root / "wide")
    parts = (old.parts[0], wide.parts[1], old.parts[2])
    manifest = old.replace(parts=parts, max_count=wide.max_count)
    (root / "narrow" / "manifest.json").write_bytes(dump_manifest(manifest))
    store = CellStore.open(root / "narrow")
    assert [part.data.dtype for part in store.parts] == [np.uint16, np.uint32, np.uint16]
    return store


def test_values_by_address_are_those_of_the_parts(mixed):
    cells = np.random.default_rng(1).integers(0, 50, 200)
    lengths, pieces = mixed.table.find(cells)
    pieces = list(pieces)
    assert len(pieces) == 2
    assert np.array_equal(lengths, mixed.lengths(cells))
    seen = np.zeros(200, int)
    for piece in pieces:
        for k, i in enumerate(np.arange(200)[piece.here]):
            seen[i] += 1
            expected = mixed.fetch(cells[i : i + 1])
            found = [_read(a[k], lengths[i], like) for a, like in zip(piece.addresses, piece.like, strict=True)]
            assert np.array_equal(found[0], expected.indices)
            assert np.array_equal(found[1], expected.counts)
    assert (seen == 1).all()


def test_parts_of_different_types_give_the_tokens_of_one(mixed, counts, tmp_path):
    vocabulary = Vocabulary(
        name="toy", version="1", specials=BARE_SPECIALS, gene_ids=GENES, medians=np.linspace(0.3, 7, 40)
    )
    obs = pd.DataFrame(index=[f"c{i}" for i in range(50)])
    one = write_store(tmp_path / "one", counts=csr_matrix(counts), obs=obs, gene_ids=GENES)
    tokenizer = RankTokenizer(vocabulary, gene_ids=GENES, seq_length=30)
    cells = np.random.default_rng(2).permutation(50)
    ours, theirs = tokenizer.encode(mixed, cells), tokenizer.encode(one, cells)
    # Counts 70,000 times as high are the same cell.
    assert np.array_equal(ours.offsets, theirs.offsets)
    assert np.array_equal(ours.ids, theirs.ids)


@pytest.mark.parametrize("bad", [-1, 50])
def test_a_cell_outside_the_store_is_an_error(mixed, bad):
    with pytest.raises(IndexError, match=f"cell id {bad} "):
        mixed.table.find(np.array([3, bad]))


@pytest.mark.parametrize("value", [-8, 10**15])
def test_a_damaged_indptr_is_an_error_and_not_a_read_outside(mixed, tmp_path, value):
    shutil.copytree(mixed.path, tmp_path / "s")
    store = CellStore.open(tmp_path / "s")
    store.prove_boundaries()  # as they were
    with (tmp_path / "s" / "part-00000" / "X" / "indptr" / "c" / "0").open("r+b") as file:
        file.seek(8 * 7)
        file.write(np.int64(value).tobytes())
    with pytest.raises(StoreError) as caught:
        store.table.find(np.array([3, 6]))
    assert caught.value.where.endswith("part-00000/X/indptr")


def test_a_tokenizer_of_other_genes_is_refused(mixed):
    vocabulary = Vocabulary(name="toy", version="1", specials=BARE_SPECIALS, gene_ids=GENES, medians=np.ones(40))
    tokenizer = RankTokenizer(vocabulary, gene_ids=GENES[:5], seq_length=30)
    with pytest.raises(VocabularyError, match="made for 5 genes, the store has 40"):
        tokenizer.encode(mixed, np.arange(50))


def test_the_mapping_lives_as_long_as_its_addresses(mixed):
    store = CellStore.open(mixed.path)
    lengths, pieces = store.table.find(np.array([0]))
    del store
    gc.collect()
    piece = next(pieces)
    assert len(_read(piece.addresses[1][0], lengths[0], piece.like[1])) == lengths[0]


@pytest.mark.skipif(not SUPPORTED, reason="this system has no madvise")
def test_the_system_accepts_the_hints(mixed):
    expect_random_access(mixed)
    ask_for_cells(mixed, np.arange(50))
    _, pieces = mixed.table.find(np.arange(50))
    for piece in pieces:
        for addresses, like in zip(piece.addresses, piece.like, strict=True):
            sizes = piece.lengths * like.itemsize
            for advice in (mmap.MADV_RANDOM, WILLNEED):
                assert advise(addresses, sizes, 4096, advice) == 0
            assert advise(addresses, sizes, 4096, 12_345) > 0
