"""Step batches: the same cells, tokens and masks whoever prepares them, however they are laid out."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from scmf.core.errors import VocabularyError
from scmf.data.config import CellsConfig
from scmf.data.masks import Corruption
from scmf.data.memory_source import write_store
from scmf.data.stream import CellStream, Replica
from scmf.data.vocabulary import load_vocabulary

PBMC = Path(__file__).parents[2].parent / "shared" / "data" / "sc_pbmc4k" / "pbmc4k_raw.h5ad"
N_CELLS, SEQ_LENGTH, BATCH = 310, 128, 32
EMPTY = (5, 77, 200)
ALONE = Replica()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Cells of very different lengths in three parts; three of them have no gene at all."""
    draw = np.random.default_rng(0)
    genes = [*load_vocabulary("geneformer-v2").gene_ids[:300], "ENSGX1", "ENSGX2"]
    counts = draw.poisson(draw.lognormal(-1.5, 1.2, (N_CELLS, 1)), (N_CELLS, len(genes)))
    counts[:, 0] += 1
    counts[list(EMPTY)] = 0
    counts[EMPTY[0], -1] = 3  # values, but none with a token
    obs = pd.DataFrame({"donor": [f"d{i // 31}" for i in range(N_CELLS)]}, index=[f"c{i}" for i in range(N_CELLS)])
    folder = tmp_path_factory.mktemp("stream") / "s"
    order = draw.permutation(len(genes))
    return write_store(
        folder,
        counts=csr_matrix(counts[:, order]),
        obs=obs,
        gene_ids=tuple(genes[j] for j in order),
        cells_per_part=120,
    )


def _stream(store, *, replica=ALONE, align=16, seed=1, seq_length=SEQ_LENGTH, **changes):
    fields = {
        "kind": "cells",
        "store": str(store.path),
        "tokenizer": {"kind": "rank", "vocabulary": "geneformer-v2", "seq_length": seq_length},
        "split": {"validation": 0.2},
        "global_batch_size": BATCH,
        "microbatch_tokens": 512,
    }
    config = CellsConfig.model_validate({**fields, **changes})
    corruption = Corruption(0.15, 0.8, 0.1)
    return CellStream(store, config, objective=corruption, seed=seed, replica=replica, align=align)


PADDED = {"packing": False, "microbatch_tokens": None, "micro_batch_size": 8}


def _cells(batches):
    """Of every cell: its tokens as the model sees them, and its targets by place in the cell."""
    found = {}
    for batch in batches:
        for micro in batch.microbatches:
            starts = {}
            number = 0
            segments = list(zip(micro.cu_seqlens[:-1], micro.cu_seqlens[1:], strict=True))
            for start, end in segments:
                if micro.input_ids[start] == 0:
                    assert not micro.input_ids[start:end].any()
                    continue
                starts[number] = (start, end)
                number += 1
            assert number == len(micro.cell_ids)
            for n, cell in enumerate(micro.cell_ids):
                start, end = starts[n]
                here = (micro.target_positions >= start) & (micro.target_positions < end)
                targets = dict(
                    zip((micro.target_positions[here] - start).tolist(), micro.targets[here].tolist(), strict=True)
                )
                found.setdefault(int(cell), []).append((micro.input_ids[start:end].tolist(), targets))
    # A step that reaches into the next epoch may have a cell twice.
    return {cell: sorted(copies, key=str) for cell, copies in found.items()}


def _assert_equal(a, b):
    assert (a.cells, a.cell_ids.tolist()) == (b.cells, b.cell_ids.tolist())
    assert len(a.microbatches) == len(b.microbatches)
    for x, y in zip(a.microbatches, b.microbatches, strict=True):
        for name in x.__slots__:
            assert np.array_equal(getattr(x, name), getattr(y, name)), name


@pytest.mark.parametrize("layout", [{}, PADDED], ids=["packed", "padded"])
@pytest.mark.parametrize("cells_seen", [0, 96, 2_000_000_016])
def test_microbatches_are_as_the_contract_says(store, layout, cells_seen):
    stream = _stream(store, **layout)
    batch = stream.step(cells_seen)
    assert batch.cells == BATCH == len(batch.cell_ids)
    assert len({len(micro.input_ids) for micro in batch.microbatches}) == 1
    for micro in batch.microbatches:
        n = len(micro.input_ids)
        assert n % 16 == 0
        sizes = np.diff(micro.cu_seqlens)
        assert (micro.cu_seqlens[0], micro.cu_seqlens[-1]) == (0, n)
        assert sizes.min() > 0
        assert sizes.max() == micro.longest <= SEQ_LENGTH
        assert np.array_equal(micro.positions, np.concatenate([np.arange(s) for s in sizes]))
        assert micro.tokens == (micro.input_ids != stream.vocabulary.pad).sum()
        assert len(micro.targets) >= len(micro.cell_ids)
        for name in ("input_ids", "positions", "cu_seqlens", "target_positions", "targets"):
            array = getattr(micro, name)
            assert array.dtype == np.int32
            assert array.flags.c_contiguous
        assert micro.cell_ids.dtype == np.int64


@pytest.mark.parametrize("layout", [{}, PADDED], ids=["packed", "padded"])
def test_real_tokens_appear_once_and_are_those_of_the_tokenizer(store, layout):
    stream = _stream(store, **layout)
    batch = stream.step(64)
    cells = _cells([batch])
    assert set(cells) == set(batch.cell_ids.tolist()) - set(EMPTY)
    tokens = stream.tokenizer.encode(store, batch.cell_ids)
    for i, cell in enumerate(batch.cell_ids.tolist()):
        if cell in EMPTY:
            continue
        [(seen, targets)] = cells[cell]
        restored = [targets.get(j, token) for j, token in enumerate(seen)]
        assert restored == tokens.of(i).tolist()


@pytest.mark.parametrize("layout", [{}, PADDED], ids=["packed", "padded"])
@pytest.mark.parametrize("n_replicas", [2, 4])
def test_the_cells_tokens_and_masks_of_a_step_do_not_depend_on_the_number_of_replicas(store, layout, n_replicas):
    alone = _stream(store, **layout)
    replicas = [_stream(store, replica=Replica(r, n_replicas), **layout) for r in range(n_replicas)]
    for cells_seen in (0, 224, 100_000):  # an epoch has 248 cells: the step at 224 straddles two
        batches = [stream.step(cells_seen) for stream in replicas]
        whole = alone.step(cells_seen)
        assert all(np.array_equal(batch.cell_ids, whole.cell_ids) for batch in batches)
        assert _cells(batches) == _cells([whole])


def test_packed_and_padded_carry_the_same_cells_positions_and_targets(store):
    assert _cells([_stream(store).step(32)]) == _cells([_stream(store, **PADDED).step(32)])


@pytest.mark.parametrize("n_replicas", [1, 2, 3])
def test_every_training_cell_is_drawn_once_an_epoch(store, n_replicas):
    streams = [_stream(store, replica=Replica(r, n_replicas)) for r in range(n_replicas)]
    n_train = streams[0].n_train
    drawn, prepared = [], []
    for cells_seen in range(0, 2 * n_train, BATCH):
        batches = [stream.step(cells_seen) for stream in streams]
        drawn.extend(batches[0].cell_ids.tolist())
        prepared.extend(c for b in batches for m in b.microbatches for c in m.cell_ids.tolist())
    first, second = drawn[:n_train], drawn[n_train : 2 * n_train]
    train = streams[0].splits.train.take(np.arange(n_train)).tolist()
    assert sorted(first) == sorted(second) == sorted(train)
    assert first != second
    assert sorted(prepared) == sorted(c for c in drawn if c not in EMPTY)


@settings(max_examples=25, deadline=None)
@given(cells_seen=st.integers(0, 10**15))
def test_a_step_is_a_function_of_its_position(store, cells_seen):
    _assert_equal(_stream(store).step(cells_seen), _stream(store).step(cells_seen))


def test_a_cell_drawn_twice_in_one_step_is_masked_by_its_epochs(store):
    stream = _stream(store, global_batch_size=512)
    assert stream.n_train < 256
    batch = stream.step(0)
    copies = {}
    for micro in batch.microbatches:
        for start, end in zip(micro.cu_seqlens[:-1], micro.cu_seqlens[1:], strict=True):
            copies.setdefault(end - start, set()).add(micro.input_ids[start:end].tobytes())
    assert len(np.unique(batch.cell_ids)) == stream.n_train
    assert sum(map(len, copies.values())) > 1.5 * stream.n_train


def test_the_order_does_not_depend_on_how_it_is_cut_into_steps(store):
    small, large = _stream(store, global_batch_size=16), _stream(store, global_batch_size=80)
    pieces = [small.step(p).cell_ids for p in range(0, 400, 16)]
    whole = [large.step(p).cell_ids for p in range(0, 400, 80)]
    assert np.array_equal(np.concatenate(pieces), np.concatenate(whole))


def test_masks_change_with_the_epoch_and_with_the_seed(store):
    stream = _stream(store, global_batch_size=16)
    n = stream.n_train
    first = _cells(stream.step(p) for p in range(0, 240, 16))
    later = _cells(stream.step(p) for p in range(n, n + 240, 16))
    other = _cells(_stream(store, seed=2, global_batch_size=16).step(p) for p in range(0, 240, 16))
    for cells in (later, other):
        both = first.keys() & cells.keys()
        assert len(both) > 100
        assert sum(first[c][0][1].keys() == cells[c][0][1].keys() for c in both) < len(both) / 4


def test_validation_is_the_same_cells_and_masks_every_time_and_no_cell_twice(store):
    stream = _stream(store)
    batches = [stream.validation(i) for i in range(4)]
    assert [b and b.cells for b in batches] == [32, 30, None, None]
    assert stream.n_validation == 62
    drawn = np.concatenate([b.cell_ids for b in batches[:2]])
    assert len(np.unique(drawn)) == 62
    assert stream.splits.validation.contains(drawn).all()
    assert not stream.splits.train.contains(drawn).any()
    for i in range(2):
        _assert_equal(stream.validation(i), _stream(store).validation(i))
    halves = [_stream(store, replica=Replica(r, 2)).validation(1) for r in range(2)]
    assert _cells(halves) == _cells([batches[1]])


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_pass_over_a_whole_split_has_each_of_its_cells_once_and_no_other(store, split):
    stream = _stream(store, split={"validation": 0.2, "test": 0.1})
    batches = [batch for i in range(20) if (batch := stream.whole(split, i)) is not None]
    drawn = np.concatenate([batch.cell_ids for batch in batches])
    cells = getattr(stream.splits, split)
    assert len(drawn) == len(np.unique(drawn)) == len(cells)
    assert cells.contains(drawn).all()
    assert stream.whole(split, len(batches)) is None


def test_a_replica_whose_cells_are_all_empty_still_has_a_microbatch(store):
    stream = _stream(store, global_batch_size=1)
    train = stream.splits.train.take(np.arange(stream.n_train))
    position = next(p for p in range(10**6) if stream.draw(p).cell_ids[0] in EMPTY and np.isin(EMPTY, train).any())
    for layout in ({}, {**PADDED, "micro_batch_size": 1}):
        [micro] = _stream(store, global_batch_size=1, **layout).step(position).microbatches
        assert (micro.tokens, len(micro.targets), len(micro.cell_ids)) == (0, 0, 0)
        assert not micro.input_ids.any()
        assert micro.cu_seqlens[-1] == len(micro.input_ids) == 16


def test_a_replica_reads_the_values_of_its_own_cells_only(store, monkeypatch):
    stream = _stream(store, replica=Replica(1, 2))
    read = []
    encode = stream.tokenizer.encode
    monkeypatch.setattr(stream.tokenizer, "encode", lambda s, ids: read.append(ids) or encode(s, ids))
    batch = stream.step(0)
    own = [c for m in batch.microbatches for c in m.cell_ids.tolist()]
    assert sorted(c for ids in read for c in ids.tolist() if c not in EMPTY) == sorted(own)
    assert len(own) < BATCH


def test_the_fingerprint_names_what_changed(store):
    here = _stream(store).fingerprint
    assert _stream(store, replica=Replica(1, 4), global_batch_size=64).fingerprint == here
    changes = {
        "tokenizer": {"seq_length": 64},
        "split": {"split": {"validation": 0.1}},
        "seed": {"seed": 5},
    }
    for name, change in changes.items():
        other = _stream(store, **change).fingerprint
        assert [key for key in here if here[key] != other[key]] == [name]


def test_a_store_of_unknown_genes_is_refused_before_the_run(tmp_path):
    obs = pd.DataFrame(index=["a", "b"])
    store = write_store(tmp_path / "s", counts=csr_matrix(np.ones((2, 2))), obs=obs, gene_ids=("CD3E", "CD4"))
    with pytest.raises(VocabularyError, match="not Ensembl ids"):
        _stream(store)


@pytest.mark.skipif(not PBMC.is_file(), reason="the shared data are not here")
@pytest.mark.parametrize(("batch", "least"), [(64, 0.97), (512, 0.98)])
def test_packs_of_real_cells_are_full(tmp_path, batch, least):
    cells = anndata.read_h5ad(PBMC)
    ids = cells.var["ensembl_id"]
    cells = cells[:, ((ids != "") & ~ids.duplicated()).to_numpy()]
    store = write_store(
        tmp_path / "s",
        counts=csr_matrix(cells.X),
        obs=cells.obs[["cell_type"]],
        gene_ids=tuple(cells.var["ensembl_id"]),
    )
    stream = _stream(store, global_batch_size=batch, microbatch_tokens=16_384, align=128, seq_length=4096)
    micros = [m for step in range(4) for m in stream.step(step * batch).microbatches]
    assert sum(m.tokens for m in micros) / sum(len(m.input_ids) for m in micros) > least
