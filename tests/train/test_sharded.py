"""Shards of model and optimizer: exact in the same layout, to rounding in another, and never executed."""

from __future__ import annotations

import pickle
import shutil

import pytest
import torch

from scmf.core.errors import CheckpointError
from scmf.model.megatron import dist_checkpointing
from scmf.train.optimizer_state import Share, _entries
from scmf.train.sharded import INDEX, check_index
from support.ranks import run_ranks
from support.tiny import save_twice, train, train_loading, train_saving

DROPOUT = {"model__hidden_dropout": 0.1, "model__attention_dropout": 0.1}
TENSOR = {"trainer__parallel__tensor": 2}
PIPELINE = {"trainer__parallel__pipeline": 2}
INTERLEAVED = PIPELINE | {"trainer__parallel__interleave": 2}
BF16 = {"trainer__precision": "bf16"}
FSDP = {"trainer__parallel__fsdp": True}
SHARD = {"trainer__parallel__shard_optimizer": True}


@pytest.fixture(scope="module")
def uncut():
    """Twelve steps of one process, not cut."""
    return run_ranks(train, 1, {}, 12)[0]


def save_after_six(folder, ranks, changes):
    folder.mkdir()
    run_ranks(train_saving, ranks, changes, 6, folder)
    return folder


@pytest.mark.parametrize(
    ("ranks", "changes"),
    [
        pytest.param(1, DROPOUT, id="one process, dropout"),
        pytest.param(1, {"trainer__precision": "fp16"}, id="one process, fp16"),
        pytest.param(2, TENSOR | DROPOUT, id="TP2, dropout"),
        pytest.param(2, PIPELINE, id="PP2"),
        pytest.param(2, SHARD | BF16 | DROPOUT, id="DP2, sharded optimizer, bf16, dropout"),
        pytest.param(2, FSDP | BF16 | DROPOUT, id="FSDP, bf16, dropout"),
    ],
)
def test_a_run_resumed_in_the_same_layout_is_bit_equal_to_the_run_never_cut(ranks, changes, tmp_path):
    whole = run_ranks(train, ranks, changes, 12)[0]
    folder = save_after_six(tmp_path / "shards", ranks, changes)
    assert run_ranks(train_loading, ranks, changes, 6, folder, 6)[0] == whole[6:]


@pytest.mark.parametrize(
    ("saved", "resumed"),
    [
        pytest.param((2, TENSOR), (2, PIPELINE), id="TP2 -> PP2"),
        pytest.param((1, {}), (4, TENSOR | PIPELINE), id="1 -> TP2xPP2"),
        pytest.param((2, PIPELINE), (2, TENSOR | {"trainer__parallel__sequence": True}), id="PP2 -> TP2xSP"),
        pytest.param((1, {}), (3, SHARD), id="1 -> sharded optimizer on 3"),
        pytest.param((4, SHARD | TENSOR), (2, INTERLEAVED), id="TP2, sharded optimizer -> PP2x2"),
        pytest.param((2, FSDP), (2, TENSOR), id="FSDP -> TP2"),
        pytest.param((2, SHARD), (4, FSDP), id="sharded optimizer -> FSDP on 4"),
    ],
)
def test_a_run_resumed_in_another_layout_meets_the_run_never_cut(saved, resumed, uncut, tmp_path):
    folder = save_after_six(tmp_path / "shards", *saved)
    ranks, changes = resumed
    losses = run_ranks(train_loading, ranks, changes, 6, folder, 6)[0]
    assert max(abs(a[0] - b[0]) for a, b in zip(losses, uncut[6:], strict=True)) < 1e-4


def test_under_bf16_a_checkpoint_of_fsdp_goes_on_without_it_and_back(tmp_path):
    whole = run_ranks(train, 1, BF16, 12)[0]
    there = save_after_six(tmp_path / "fsdp", 2, FSDP | BF16)
    back = save_after_six(tmp_path / "one", 2, SHARD | BF16)
    for ranks, changes, folder in ((1, BF16, there), (2, FSDP | BF16, back)):
        losses = run_ranks(train_loading, ranks, changes, 6, folder, 6)[0]
        assert max(abs(a[0] - b[0]) for a, b in zip(losses, whole[6:], strict=True)) < 0.01


@pytest.mark.parametrize(
    ("ranks", "changes"),
    [pytest.param(1, {"trainer__precision": "bf16"}, id="bf16"), pytest.param(2, TENSOR, id="TP2")],
)
def test_what_is_written_while_the_run_goes_on_has_the_bytes_of_a_save_that_is_waited_for(ranks, changes, tmp_path):
    folders = [tmp_path / name for name in ("at once", "later")]
    for folder in folders:
        folder.mkdir()
    run_ranks(save_twice, ranks, changes, *folders)
    names = [sorted(path.name for path in folder.iterdir()) for folder in folders]
    assert names[0] == names[1]
    assert "common.pt" in names[0]
    for name in (name for name in names[0] if name != INDEX):  # which names its folder, and has an id of its own
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return save_after_six(tmp_path_factory.mktemp("saved") / "shards", 1, {})


@pytest.mark.parametrize(("start", "stop"), [(0, 35), (3, 29), (5, 10), (6, 9), (10, 35), (34, 35), (7, 7)])
def test_a_run_of_a_matrix_is_saved_as_rectangles_in_their_places(start, stop):
    matrix = torch.arange(35.0).view(7, 5)
    place = {"replica_id": (0, 0, 1), "prepend_axis_num": 1}  # the second of three layers
    weight = dist_checkpointing.ShardedTensor.from_rank_offsets("w", matrix, (0, 1, 3), **place)
    run = matrix.flatten()[start:stop]
    share = Share(matrix, run, start, None, is_copy=False)
    whole = torch.full((3, 7, 5), -1.0)
    for entry in _entries(weight, "exp_avg", run, share):
        assert entry.key == "optimizer.state.exp_avg.w"
        whole[entry.global_slice()] = entry.data
    expected = torch.where((matrix >= start) & (matrix < stop), matrix, -1.0)
    assert torch.equal(whole[1], expected)
    assert (whole[[0, 2]] == -1).all()


def test_a_checkpoint_of_another_size_is_refused(shards):
    from support.ranks import RankFailedError

    with pytest.raises(RankFailedError, match="cannot be read into this model"):
        run_ranks(train_loading, 1, {"model__hidden": 128}, 1, shards, 6)


class Trap:
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        import os

        return os.system, ("echo executed > trap",)


def test_an_index_that_would_execute_something_is_refused_before_it_does(shards, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = shutil.copytree(shards, tmp_path / "shards")
    (folder / INDEX).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(CheckpointError, match=r"names posix\.system"):
        check_index(folder)
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize("keep", [0, 1, 100, 2000])
def test_a_cut_index_is_named_as_damaged(shards, tmp_path, keep):
    folder = shutil.copytree(shards, tmp_path / "shards")
    index = folder / INDEX
    index.write_bytes(index.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="its index cannot be read"):
        check_index(folder)


def test_a_missing_index_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="its index is missing"):
        check_index(tmp_path)
