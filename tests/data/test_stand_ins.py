"""Cells that cannot be read: another of the same split stands in, the same one always, and it is told."""

from __future__ import annotations

import numpy as np
import pytest

from scmf.core.errors import StoreError
from scmf.data.config import CellsConfig
from scmf.data.masks import Corruption
from scmf.data.stand_ins import StandIns
from scmf.data.stream import CellStream, Replica
from support.spoilt import LOST, spoil_open


@pytest.fixture
def spoilt(demo_store, tmp_path):
    return spoil_open(demo_store, tmp_path / "store")


def open_stream(store, *, number=0, of=1):
    values = {
        "kind": "cells",
        "store": str(store.path),
        "tokenizer": {"kind": "rank", "vocabulary": "geneformer-v1", "seq_length": 96},
        "split": {"validation": 0.1},
        "global_batch_size": 63,
        "microbatch_tokens": 256,
    }
    config = CellsConfig.parse(values, source="a test")
    return CellStream(
        store, config, objective=Corruption(select=0.15, mask=0.8, random=0.1), seed=42, replica=Replica(number, of)
    )


def epoch(stream):
    return [stream.step(position) for position in (0, 63, 126)]


def read(batches):
    return sorted(cell for batch in batches for m in batch.microbatches for cell in m.cell_ids.tolist())


@pytest.mark.parametrize("replicas", [1, 2])
def test_each_lost_cell_is_replaced_once_by_one_of_the_training_cells_whoever_reads_it(spoilt, replicas):
    streams = [open_stream(spoilt, number=number, of=replicas) for number in range(replicas)]
    batches = [batch for stream in streams for batch in epoch(stream)]
    replaced = {cell.cell_id: cell for batch in batches for cell in batch.replaced}
    train = set(streams[0].splits.train.take(np.arange(streams[0].n_train)).tolist())
    assert set(replaced) == LOST & train
    assert sum(len(batch.replaced) for batch in batches) == len(replaced)
    assert all(cell.instead in train - set(replaced) for cell in replaced.values())
    expected = [*(train - set(replaced)), *(cell.instead for cell in replaced.values())]
    assert read(batches) == sorted(expected)
    assert "part-00001" in replaced[60].why


def test_the_stand_in_is_the_same_in_every_layout_and_every_epoch(spoilt):
    alone = {cell for batch in epoch(open_stream(spoilt)) for cell in batch.replaced}
    two = {cell for n in (0, 1) for batch in epoch(open_stream(spoilt, number=n, of=2)) for cell in batch.replaced}
    later = {cell for position in (189, 252, 315) for cell in open_stream(spoilt).step(position).replaced}
    assert {(cell.cell_id, cell.instead) for cell in alone} == {(cell.cell_id, cell.instead) for cell in two}
    assert {(cell.cell_id, cell.instead) for cell in alone} == {(cell.cell_id, cell.instead) for cell in later}


def test_whole_cells_are_read_once_and_nothing_is_replaced(demo_store):
    assert not any(batch.replaced for batch in epoch(open_stream(demo_store)))


class Pool:
    """Cells 0 to 9."""

    def __len__(self):
        return 10

    def take(self, places):
        return places


def test_a_store_that_cannot_be_read_at_all_is_an_error_and_no_endless_search():
    asked = []

    def gone(ids):
        asked.append(ids)
        raise StoreError("the disk is gone", where="the store", fix="mend it")

    with pytest.raises(StoreError, match="the disk is gone"):
        StandIns(1).read(np.arange(4), Pool(), gone)
    assert len(asked) < 40


def test_what_fails_on_all_together_only_is_raised():
    def crowded(ids):
        if len(ids) > 1:
            raise OSError(5, "Input/output error")
        return ids

    with pytest.raises(OSError, match="Input/output"):
        StandIns(1).read(np.arange(4), Pool(), crowded)
