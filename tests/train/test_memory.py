"""Out of memory at the start: smaller microbatches on all ranks, the same global batch, the same loss."""

from __future__ import annotations

import pytest

from scmf.core.errors import MachineError
from scmf.train.memory import halved, largest_microbatch
from support.faulty import SMALL
from support.ranks import run_ranks
from support.real import real_config
from support.scarce import build

PROBE = (*SMALL, "trainer.faults.probe_memory=true")


def test_memory_that_runs_out_on_one_rank_halves_the_microbatch_of_all_and_keeps_the_loss(demo_store):
    words = (*PROBE, "data.microbatch_tokens=1024")
    (whole,) = {tuple(map(str, got)) for got in run_ranks(build, 2, demo_store.path, words, {}, None)}
    (small,) = {tuple(map(str, got)) for got in run_ranks(build, 2, demo_store.path, words, {1: 300}, None)}
    assert whole[0] == "1024"
    assert small[0] == "256"
    assert float(small[1]) == pytest.approx(float(whole[1]), abs=1e-5)
    assert small[2] == whole[2] == "4"
    assert (whole[3], whole[4]) == ("as configured", "[]")
    assert small[3] == "data.microbatch_tokens=256"
    assert "data.microbatch_tokens=256 does, 4 cells a step" in small[4]


def test_a_limit_on_the_memory_of_the_process_is_met_by_a_smaller_microbatch(demo_store):
    words = (*PROBE, "data.microbatch_tokens=131072")
    ((tokens, loss, *_),) = run_ranks(build, 1, demo_store.path, words, {}, 1_500_000_000)
    assert 64 <= tokens < 131072
    assert loss > 0


def test_ranks_that_share_a_model_are_told_what_to_ask_for(demo_store):
    words = (*PROBE, "trainer.parallel.tensor=2", "data.microbatch_tokens=1024")
    for what, fix in run_ranks(build, 2, demo_store.path, words, {0: 300, 1: 300}, None):
        assert what == "memory ran out with data.microbatch_tokens=1024"
        assert fix.startswith("add data.microbatch_tokens=512")


@pytest.fixture
def data(tmp_path):
    return real_config(tmp_path, tmp_path, "data.tokenizer.seq_length=96").data


def test_a_microbatch_is_halved_down_to_one_cell_and_refused_below(data):
    sizes, smaller = [], data.replace(microbatch_tokens=1000)
    for _ in range(4):
        smaller = halved(smaller, replicas=1)
        sizes.append(smaller.microbatch_tokens)
    assert sizes == [500, 250, 125, 96]
    with pytest.raises(MachineError, match="even with one cell of 96 tokens"):
        halved(smaller, replicas=1)


@pytest.mark.parametrize(("cells", "replicas", "half"), [(8, 1, 4), (6, 2, 3), (3, 4, 1)])
def test_padded_microbatches_go_on_dividing_a_ranks_share(data, cells, replicas, half):
    padded = data.replace(global_batch_size=24, packing=False, microbatch_tokens=None, micro_batch_size=cells)
    smaller = halved(padded, replicas=replicas)
    assert smaller.micro_batch_size == half
    assert smaller.global_batch_size == 24


def test_the_microbatch_that_is_tried_is_the_largest_that_can_come(data):
    microbatch = largest_microbatch(data.replace(microbatch_tokens=1000), masked=0.15, align=128)
    assert len(microbatch.input_ids) == 1024
    assert microbatch.cu_seqlens.tolist() == [*range(0, 1024, 96), 1024]
    assert len(microbatch.targets) == 154
    assert microbatch.positions.max() < 96
