"""Shares that move along the run: at each position what was asked there, and each cell as often as its neighbours."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from scmf.core.errors import ConfigError
from scmf.data.config import CellsConfig
from scmf.data.config_order import BalancedConfig, StoreEntry, UniformConfig, WeightsConfig
from scmf.data.gradual import GradualDrawing
from scmf.data.joined import JoinedStore
from scmf.data.memory_source import write_store
from scmf.data.sampling import weighted_drawing
from scmf.data.split import RunSet
from scmf.data.stages import STAGES, stage_edges, stage_middles

SIZES = {"common": 300, "some": 90, "rare": 10}
N = sum(SIZES.values())
EVERYTHING = RunSet(np.zeros(1, np.int64), np.array([0, N], np.int64))
BATCH = 8


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Three cell types of 300, 90 and 10 cells, shuffled."""
    draw = np.random.default_rng(0)
    types = draw.permutation(np.repeat(list(SIZES), list(SIZES.values())))
    obs = pd.DataFrame({"type": types, "w": np.where(types == "rare", 0.0, 2.0)}, index=[f"c{i}" for i in range(N)])
    counts = csr_matrix(draw.poisson(1.0, (N, 5)) + 1)
    folder = tmp_path_factory.mktemp("gradual") / "s"
    return write_store(folder, counts=counts, obs=obs, gene_ids=tuple(f"ENSG{i}" for i in range(5)))


def drawn(drawing, start, stop):
    """Ids of the cells at positions of the run."""
    epochs, places = np.divmod(np.arange(start, stop), len(drawing))
    return np.concatenate([drawing.take(places[epochs == e], epoch=e) for e in np.unique(epochs).tolist()])


def shares(store, ids):
    """Share of each cell type among the draws."""
    types = store.obs(["type"])["type"].to_numpy()
    return pd.Series(types[ids]).value_counts(normalize=True).reindex(list(SIZES)).fillna(0.0).to_numpy()


def test_groups_move_from_their_cells_shares_to_equal_shares_and_stay_there(store):
    sampling = BalancedConfig(by="type", exponent=1.0, end_exponent=0.0, steps=2000)
    drawing = weighted_drawing(store, EVERYTHING, sampling, batch=BATCH, seed=1)
    end, sizes = 2000 * BATCH, np.array(list(SIZES.values()))
    for moved in (0.005, 0.255, 0.505, 0.755, 0.995):
        # One stage is a hundredth of the way; its places are divided to within one.
        begin = round((moved - 0.005) * end)
        asked = sizes ** (1.0 - moved) / (sizes ** (1.0 - moved)).sum()
        found = shares(store, drawn(drawing, begin, begin + end // STAGES))
        assert np.abs(found - asked).max() <= 1.001 / (end // STAGES)
        assert drawing.moved_at(begin) == pytest.approx(moved)
    assert np.abs(shares(store, drawn(drawing, end, end + N)) - 1 / 3).max() <= 1.001 / N
    assert drawing.moved_at(end) == 1.0


def test_over_all_stages_a_group_has_what_the_stages_ask_for_in_sum(store):
    sampling = BalancedConfig(by="type", exponent=1.0, end_exponent=0.0, steps=100)
    drawing = weighted_drawing(store, EVERYTHING, sampling, batch=BATCH, seed=3)
    middles, sizes = stage_middles(stage_edges(100, batch=BATCH)), np.array(list(SIZES.values()))
    each = sizes ** (1.0 - middles[:, None])
    asked = (each / each.sum(axis=1, keepdims=True)).sum(axis=0) * BATCH
    # 8 places a stage: the rare type is asked for in 0.2 to 2.7 of them.
    assert np.abs(shares(store, drawn(drawing, 0, 100 * BATCH)) * 100 * BATCH - asked).max() < 4


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=2, max_size=5),
    steps=st.integers(1, 40),
    seed=st.integers(0, 50),
)
def test_neighbours_in_a_group_come_equally_often_up_to_one_wherever_the_run_is_cut(sizes, steps, seed):
    n = sum(sizes)
    groups = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes), dtype=np.int32), sizes))
    edges = stage_edges(steps, batch=BATCH)
    ramp = [1.0 + np.arange(len(sizes)) * moved for moved in [*stage_middles(edges), 1.0]]
    cells = RunSet(np.zeros(1, np.int64), np.array([0, n], np.int64))
    drawing = GradualDrawing(cells, groups, ramp, edges=edges, seed=seed)
    ids = drawn(drawing, 0, steps * BATCH + 2 * n)
    # At the end of every stage and epoch; inside one, a group's draws are shuffled among those of the others.
    for stop in (int(edges[len(edges) // 2]), steps * BATCH, steps * BATCH + n, len(ids)):
        counts = np.bincount(ids[:stop], minlength=n)
        assert max(np.ptp(counts[groups == g]) for g in range(len(sizes))) <= 1


def test_what_is_masked_in_a_cell_is_new_each_time_that_it_comes(store):
    sampling = BalancedConfig(by="type", exponent=1.0, end_exponent=0.0, steps=100)
    for drawing in (
        weighted_drawing(store, EVERYTHING, sampling, batch=BATCH, seed=1),
        weighted_drawing(store, EVERYTHING, BalancedConfig(by="type"), batch=BATCH, seed=1),
    ):
        places = np.arange(N)
        ids = np.concatenate([drawing.take(places, epoch=e) for e in range(4)])
        keys = np.concatenate([drawing.mask_keys(places, epoch=e) for e in range(4)])
        pairs = set(zip(ids.tolist(), keys.tolist(), strict=True))
        assert len(np.unique(ids)) < len(ids) == len(pairs)


def test_a_draw_is_a_function_of_seed_and_position(store):
    sampling = BalancedConfig(by="type", exponent=1.0, end_exponent=0.0, steps=100)
    drawing = weighted_drawing(store, EVERYTHING, sampling, batch=BATCH, seed=1)
    whole = drawn(drawing, 0, 3 * N)
    again = weighted_drawing(store, EVERYTHING, sampling, batch=BATCH, seed=1)
    for place in np.random.default_rng(0).integers(0, 3 * N, 40).tolist():
        assert again.take(np.array([place % N]), epoch=place // N) == whole[place : place + 1]
    # Twice the cells a step in half of the steps: the same run.
    halved = BalancedConfig(by="type", exponent=1.0, end_exponent=0.0, steps=50)
    assert np.array_equal(drawn(weighted_drawing(store, EVERYTHING, halved, batch=16, seed=1), 0, 3 * N), whole)


def test_a_column_of_weights_is_softened_by_its_exponent_and_zero_is_never_drawn(store):
    flat = WeightsConfig(column="w", exponent=0.0)
    ids = drawn(weighted_drawing(store, EVERYTHING, flat, batch=BATCH, seed=1), 0, 3 * N)
    counts = np.bincount(ids, minlength=N)[store.obs(["w"])["w"].to_numpy() > 0]
    assert counts.sum() == len(ids)
    assert np.ptp(counts) <= 1


def test_the_weights_of_two_stores_move_in_a_straight_line(store):
    both = JoinedStore([store, store], weights=[1.0, 1.0], end_weights=[1.0, 7.0])
    cells = RunSet(np.zeros(1, np.int64), np.array([0, 2 * N], np.int64))
    drawing = weighted_drawing(both, cells, UniformConfig(steps=1000), batch=BATCH, seed=0)
    middle = drawn(drawing, 4000, 4080)  # the 51st of 100 stages
    assert (middle >= N).sum() == pytest.approx(80 * 4.03 / 5.03, abs=1)
    late = drawn(drawing, 8000, 8000 + 2 * N)
    assert [(late < N).sum(), (late >= N).sum()] == [N // 4, 7 * N // 4]
    assert both.fingerprint != JoinedStore([store, store], weights=[1.0, 1.0]).fingerprint


def config(**changes):
    """A valid data section with changes."""
    values = {
        "kind": "cells",
        "store": "unused",
        "tokenizer": {"kind": "rank", "seq_length": 64},
        "global_batch_size": 8,
        "microbatch_tokens": 256,
    }
    return CellsConfig.parse({**values, **changes}, source="test")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        pytest.param({"sampling": {"kind": "uniform", "steps": 5}}, "nothing moves in them", id="nothing moves"),
        pytest.param(
            {"sampling": {"kind": "balanced", "by": "x", "exponent": 1.0, "end_exponent": 0.0}},
            "gives no steps to reach it in",
            id="no steps",
        ),
        pytest.param(
            {"store": [{"path": "a", "end_weight": 2.0}, {"path": "b"}]}, "gives no steps to reach it in", id="stores"
        ),
        pytest.param(
            {
                "store": [{"path": "a", "end_weight": 2.0}, {"path": "b"}],
                "sampling": {"kind": "uniform", "steps": 5},
                "order": {"kind": "blocks"},
            },
            "the weights of data.store asks for some more often",
            id="blocks",
        ),
    ],
)
def test_what_is_not_defined_is_refused_with_a_way_out(changes, sentence):
    with pytest.raises(ConfigError, match=sentence) as refused:
        config(**changes)
    assert len(str(refused.value).splitlines()) == 3


def test_what_older_checkpoints_say_of_a_sampling_is_still_said():
    assert UniformConfig().identity() == {"kind": "uniform"}
    assert BalancedConfig(by="type").identity() == {"kind": "balanced", "by": "type"}
    assert WeightsConfig(column="w").identity() == {"kind": "weights", "column": "w"}
    assert StoreEntry(path="a", weight=3.0).last_weight == 3.0
