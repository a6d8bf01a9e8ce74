"""Named cells to validate on: of the run's store, of another one; never cells that the run trains on."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from scmf.core.errors import ConfigError, StoreError
from scmf.data.config import CellsConfig
from scmf.data.config_order import StoreEntry
from scmf.data.edit.merge import merge_stores
from scmf.data.edit.named import name_split
from scmf.data.edit.subset import Wishes, subset_store
from scmf.data.held_out import open_held_out
from scmf.data.joined import open_stores
from scmf.data.masks import Corruption
from scmf.data.store import CellStore
from scmf.data.stream import CellStream

KEY = "trainer.validate.splits[0]"


@pytest.fixture(scope="module")
def store(demo_store, tmp_path_factory):
    """The demo cells with two named splits: H1975 cells train, and either other line is held out somewhere."""
    folder = tmp_path_factory.mktemp("held_out") / "store"
    shutil.copytree(demo_store.path, folder)
    line = "cell_line={}".format
    name_split(
        CellStore.open(folder), "lines", train=[line("H1975")], validation=[line("H2228")], test=[line("HCC827")]
    )
    name_split(CellStore.open(folder), "other", train=[line("HCC827")], validation=[line("H1975")], test=[])
    return CellStore.open(folder)


@pytest.fixture(scope="module")
def half(store, tmp_path_factory):
    """The dropseq cells as a store of their own."""
    return _batch(store, "dropseq", tmp_path_factory)


@pytest.fixture(scope="module")
def other_half(store, tmp_path_factory):
    """The other cells."""
    return _batch(store, "celseq2", tmp_path_factory)


def _batch(store, batch, tmp_path_factory):
    folder = tmp_path_factory.mktemp(batch) / "store"
    subset_store(store, folder, Wishes(where=(f"batch={batch}",)), links=False, log=lambda _: None)
    return CellStore.open(folder)


def stream_of(store, path=None, **changes):
    """Batches of the cells that the split `lines` trains on."""
    values = {
        "kind": "cells",
        "store": path or str(store.path),
        "tokenizer": {"kind": "rank", "seq_length": 96},
        "split": {"name": "lines"},
        "global_batch_size": 16,
        "microbatch_tokens": 512,
    }
    config = CellsConfig.parse({**values, **changes}, source="test")
    opened = store if path is None else open_stores(config.store)
    return CellStream(opened, config, objective=Corruption(select=0.15, mask=0.8, random=0.1), seed=5)


def open_one(stream, **given):
    """One entry of trainer.validate.splits, as the trainer opens it."""
    return open_held_out(stream, key=KEY, **{"name": "x", "store": None, "split": None, "part": None, **given})


def cells_of(stream):
    """Every cell of a stream's validation."""
    batches = iter(stream.validation(i) for i in range(99))
    return np.sort(np.concatenate([batch.cell_ids for batch in iter(lambda: next(batches), None)]))


def test_parts_of_a_split_of_the_store_are_its_cells(store):
    stream = stream_of(store)
    lines = store.obs(["cell_line"])["cell_line"].to_numpy()
    for given, line in (
        ({"part": "test"}, "HCC827"),
        ({"split": "lines"}, "H2228"),
        ({"split": "lines", "part": "test"}, "HCC827"),
        ({"split": "other", "part": "train"}, "HCC827"),
    ):
        assert np.array_equal(cells_of(open_one(stream, **given)), np.flatnonzero(lines == line))
    # The run's own stream is as it was.
    assert np.array_equal(cells_of(stream), np.flatnonzero(lines == "H2228"))


def test_the_tokens_and_masks_of_a_named_split_are_made_as_those_of_the_run(store):
    stream = stream_of(store)
    same, here = open_one(stream, split="lines").validation(0), stream.validation(0)
    for one, other in zip(same.microbatches, here.microbatches, strict=True):
        assert np.array_equal(one.input_ids, other.input_ids)
        assert np.array_equal(one.targets, other.targets)


def test_another_store_is_validated_on_whole_with_the_runs_vocabulary(other_half, half):
    held_out = open_one(stream_of(other_half, split={"validation": 0.5}), store=str(half.path))
    assert np.array_equal(cells_of(held_out), np.arange(105))
    batch = held_out.validation(0)
    alone = stream_of(half, split={"validation": 0.5}).over(half, held_out.splits.validation).validation(0)
    for one, other in zip(batch.microbatches, alone.microbatches, strict=True):
        assert np.array_equal(one.input_ids, other.input_ids)


@pytest.mark.parametrize(
    "given",
    [
        pytest.param({"split": "other"}, id="a split of the store"),
        pytest.param({"split": "lines", "part": "train"}, id="the run's own"),
        pytest.param({"store": "{store}"}, id="the same store by its path"),
        pytest.param({"store": "{moved}"}, id="a copy of it elsewhere"),
    ],
)
def test_cells_that_the_run_trains_on_are_found_and_refused(store, tmp_path, given):
    moved = tmp_path / "moved"
    if "{moved}" in given.values():
        shutil.copytree(store.path, moved)
    given = {key: value.format(store=store.path, moved=moved) for key, value in given.items()}
    with pytest.raises(ConfigError, match=r"the run trains on 73 of the (73|210) cells that are called x") as refused:
        open_one(stream_of(store), **given)
    assert KEY in refused.value.where


def test_one_of_several_stores_is_known_again(other_half, half):
    entries = [{"path": str(one.path)} for one in (other_half, half)]
    joined = stream_of(other_half, entries, split={"validation": 0.1})
    with pytest.raises(ConfigError, match=r"the run trains on \d+ of the 105 cells"):
        open_one(joined, store=str(half.path))
    train = np.sort(joined.splits.train.take(np.arange(joined.n_train)))
    assert f"{(train >= len(other_half)).sum()} of the 105" in _refusal(joined, half)


def test_cells_are_known_again_in_a_store_that_was_added_to_since(demo_store, store, tmp_path):
    """The newer store has the parts of the older one, and another fingerprint."""
    newer, more = tmp_path / "newer", tmp_path / "more"
    subset_store(store, more, Wishes(where=("batch=dropseq", "cell_line=H1975")), links=False, log=lambda _: None)
    merge_stores([CellStore.open(more), store], newer, duplicates="keep", links=True, log=lambda _: None)
    trained = stream_of(CellStore.open(newer), split={"validation": 0.5})
    extra = len(CellStore.open(newer)) - len(store)
    expected = int(trained.splits.train.contains(np.arange(extra, extra + 210)).sum())
    assert 0 < expected < 210
    assert _refusal(trained, store).startswith(f"the run trains on {expected} of the 210 cells")


def test_stores_that_share_cells_are_not_read_as_one(store, tmp_path):
    shutil.copytree(store.path, tmp_path / "a copy")
    entries = [StoreEntry(path=str(path)) for path in (store.path, tmp_path / "a copy")]
    with pytest.raises(ConfigError, match="part-00000 of one store and part-00000 of another have the same cells"):
        open_stores(entries)


def _refusal(stream, store):
    with pytest.raises(ConfigError) as refused:
        open_one(stream, store=str(store.path))
    return refused.value.what


def test_what_is_not_there_is_told_with_the_key_that_names_it(store, half):
    with pytest.raises(StoreError, match="no split named 'donors'; it has lines, other") as refused:
        open_one(stream_of(store), split="donors")
    assert f"{KEY}.split" in refused.value.where
    with pytest.raises(ConfigError, match="no cells to validate on under the name x"):
        open_one(stream_of(store), split="other", part="test")
    with pytest.raises(StoreError):
        open_one(stream_of(store), store=str(half.path.parent / "gone"))
