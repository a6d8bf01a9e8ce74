"""Easy cells first: which cells are drawn when, on real cells and on numbers; the same after any cut."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scmf.core.errors import ConfigError, StoreError
from scmf.data.config import CellsConfig
from scmf.data.config_order import CurriculumConfig
from scmf.data.curriculum import CurriculumDrawing, curriculum_drawing
from scmf.data.masks import Corruption
from scmf.data.split import RunSet
from scmf.data.stages import stage_edges
from scmf.data.step_stream import Replica
from scmf.data.stream import CellStream
from scmf.data.stream_report import report_stream

CORRUPTION = Corruption(select=0.15, mask=0.8, random=0.1)
BATCH = 16


def everything(n):
    """A set of the cells 0 to n - 1, in that order."""
    return RunSet(np.zeros(1, np.int64), np.array([0, n], np.int64))


def drawn(drawing, start, stop):
    """Ids of the cells at positions of the run."""
    epochs, places = np.divmod(np.arange(start, stop), len(drawing))
    return np.concatenate([drawing.take(places[epochs == e], epoch=e) for e in np.unique(epochs).tolist()])


def config(cells, **changes):
    """A valid data section of a store with a curriculum."""
    values = {
        "kind": "cells",
        "store": str(cells.path),
        "tokenizer": {"kind": "rank", "seq_length": 96},
        "split": {"validation": 0.1},
        "global_batch_size": BATCH,
        "microbatch_tokens": 512,
        "curriculum": {"by": "length", "start": 0.2, "steps": 40},
    }
    return CellsConfig.parse({**values, **changes}, source="test")


def stream_of(store, *, replica=None, **changes):
    """Batches of the store's cells under a curriculum."""
    place = {} if replica is None else {"replica": replica}
    return CellStream(store, config(store, **changes), objective=CORRUPTION, seed=5, **place)


def test_real_cells_with_few_genes_come_first_and_all_of_them_after_the_last_step(demo_store):
    stream = stream_of(demo_store)
    train = np.sort(stream.splits.train.take(np.arange(stream.n_train)))
    lengths = demo_store.lengths(train)
    for step in (0, 10, 20, 39):
        first, last = step * BATCH, (step + 1) * BATCH - 1
        share = [stream.numbers_at(position + 1)["curriculum/share"] for position in (first, last)]
        assert share[0] == pytest.approx(0.2 + 0.8 * step / 40, abs=0.02)
        # At most the admitted share of the training cells is shorter than the longest one drawn.
        longest = demo_store.lengths(stream.draw(first).cell_ids).max()
        assert longest <= stream.numbers_at(last + 1)["curriculum/bound"]
        assert (lengths < longest).mean() <= share[1]
    epoch = drawn(stream.drawing, 40 * BATCH, 40 * BATCH + stream.n_train)
    assert np.array_equal(np.sort(epoch), train)
    assert stream.numbers_at(40 * BATCH + 1) == {"curriculum/share": 1.0, "curriculum/bound": lengths.max()}


def test_a_run_says_how_its_curriculum_grows(demo_store):
    said, facts = report_stream(stream_of(demo_store))
    (line,) = [line for line in said if "curriculum" in line]
    assert "at first 38 of 189 training cells (up to " in line
    assert line.endswith("after 40 steps, linear")
    assert facts["curriculum"]["by"] == "length"
    assert report_stream(stream_of(demo_store, curriculum=None))[1]["curriculum"] is None


def test_replicas_share_the_cells_of_a_step_of_a_curriculum(demo_store):
    whole = stream_of(demo_store).step(3 * BATCH)
    shares = [stream_of(demo_store, replica=Replica(i, of=2)).step(3 * BATCH) for i in range(2)]
    found = [pack.cell_ids for share in shares for pack in share.microbatches]
    assert np.array_equal(np.sort(np.concatenate(found)), np.sort(whole.cell_ids))
    assert all(np.array_equal(share.cell_ids, whole.cell_ids) for share in shares)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(20, 200),
    start=st.floats(0.2, 0.9),
    steps=st.integers(1, 60),
    pacing=st.sampled_from(["linear", "sqrt"]),
    hard_first=st.booleans(),
    seed=st.integers(0, 99),
)
def test_inside_a_stage_no_cell_comes_twice_before_all_admitted_ones_have_come(
    n, start, steps, pacing, hard_first, seed
):
    settings_ = CurriculumConfig(by="x", start=start, steps=steps, pacing=pacing, hard_first=hard_first)
    difficulty = np.random.default_rng(seed).integers(0, 9, n).astype(np.float64)
    drawing = CurriculumDrawing(everything(n), difficulty, settings_, batch=4, seed=seed)
    ids, keys = drawn(drawing, 0, 4 * steps + 2 * n), np.empty(4 * steps + 2 * n, np.uint64)
    for epoch in range(-(-len(keys) // n)):
        here = np.arange(epoch * n, min(len(keys), (epoch + 1) * n))
        keys[here] = drawing.mask_keys(here - epoch * n, epoch=epoch)
    admitted = np.array([drawing.bound_at(position)[0] for position in range(len(ids))])
    easiest = np.argsort(np.argsort(-difficulty if hard_first else difficulty, kind="stable"), kind="stable")
    assert (easiest[ids] < admitted).all()
    assert (np.diff(admitted) >= 0).all()
    assert admitted[0] == np.ceil(start * n - 1e-6)
    assert (admitted[4 * steps :] == n).all()
    # The same cell never with the same mask, and within one key no cell twice.
    assert len(set(zip(ids.tolist(), keys.tolist(), strict=True))) == len(ids)
    edges = stage_edges(steps, batch=4).tolist()
    for begin, end in itertools.pairwise(edges):
        counts = np.bincount(ids[begin:end], minlength=n)[np.argsort(easiest)[: admitted[begin]]]
        assert np.ptp(counts) <= 1
    tail = np.bincount(ids[4 * steps :], minlength=n)
    assert (tail == 2).all()


def test_a_stage_that_goes_through_its_cells_again_does_so_in_another_order():
    asked = CurriculumConfig(by="x", start=0.2, steps=500)
    drawing = CurriculumDrawing(everything(100), np.arange(100.0), asked, batch=20, seed=3)
    turns = drawn(drawing, 0, 100).reshape(5, 20)  # the first of a hundred stages
    assert (np.sort(turns) == np.arange(20)).all()
    assert len({tuple(turn) for turn in turns.tolist()}) == 5


def test_pacing_is_that_of_its_paper():
    linear, sqrt = (CurriculumConfig(by="x", start=0.1, steps=9, pacing=p) for p in ("linear", "sqrt"))
    assert [round(linear.share_at(t), 3) for t in (0.0, 0.5, 1.0)] == [0.1, 0.55, 1.0]
    assert [round(sqrt.share_at(t), 3) for t in (0.0, 0.5, 1.0)] == [0.1, 0.711, 1.0]


def test_a_column_of_difficulties_orders_the_cells_and_hard_first_turns_it_around(demo_store):
    column = next(c for c in demo_store.manifest.obs_columns if "total" in c or "n_" in c or "count" in c)
    values = demo_store.obs([column])[column].to_numpy(np.float64)
    for hard_first in (False, True):
        asked = CurriculumConfig(by=column, start=0.2, steps=40, hard_first=hard_first)
        drawing = curriculum_drawing(demo_store, everything(210), asked, batch=BATCH, seed=1)
        first = np.unique(drawn(drawing, 0, 6))
        easiest = np.argsort(-values if hard_first else values, kind="stable")[:42]
        assert set(first.tolist()) <= set(easiest.tolist())


@pytest.mark.parametrize(
    ("curriculum", "error", "sentence"),
    [
        pytest.param({"by": "gone", "steps": 9}, StoreError, "no column 'gone'", id="no column"),
        pytest.param({"by": "cell_line", "start": 0.2, "steps": 9}, StoreError, "no column of difficulties", id="text"),
        pytest.param(
            {"by": "length", "start": 0.05, "steps": 9},
            ConfigError,
            "begins with 10 of 189 training cells, and a step draws 16",
            id="few",
        ),
    ],
)
def test_a_curriculum_that_cannot_be_is_refused_with_a_way_out(demo_store, curriculum, error, sentence):
    with pytest.raises(error, match=sentence) as refused:
        stream_of(demo_store, curriculum=curriculum)
    assert len(str(refused.value).splitlines()) == 3


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"order": {"kind": "blocks"}}, id="blocks"),
        pytest.param({"sampling": {"kind": "balanced", "by": "cell_line"}}, id="sampling"),
        pytest.param({"store": [{"path": "a", "weight": 2.0}, {"path": "b"}]}, id="stores"),
    ],
)
def test_what_two_settings_would_decide_differently_is_refused(demo_store, changes):
    with pytest.raises(ConfigError, match=r"data\.curriculum draws") as refused:
        config(demo_store, **changes)
    assert "curriculum: null" in refused.value.fix


def test_a_resume_under_another_curriculum_is_another_run_and_another_batch_size_is_not(demo_store):
    here = stream_of(demo_store).fingerprint
    assert "curriculum" not in stream_of(demo_store, curriculum=None).fingerprint
    other = stream_of(demo_store, curriculum={"by": "length", "start": 0.2, "steps": 41}).fingerprint
    assert other["curriculum"] != here["curriculum"]
    halved = stream_of(demo_store, global_batch_size=32, curriculum={"by": "length", "start": 0.2, "steps": 20})
    assert halved.fingerprint == here
    both = [stream_of(demo_store).draw(position).cell_ids for position in (0, BATCH)]
    assert np.array_equal(halved.draw(0).cell_ids, np.concatenate(both))
