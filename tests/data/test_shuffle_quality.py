"""How well batches are mixed: nothing above chance for a random order, all of it for files read in order."""

from __future__ import annotations

import json

import numpy as np
import pytest

from scmf.core.errors import ConfigError, StoreError
from scmf.data.cli import store_command
from scmf.data.config import CellsConfig
from scmf.data.drawing import BlockDrawing
from scmf.data.masks import Corruption
from scmf.data.shuffle_quality import draw_batches, entropy, measure_stream, shuffle_quality
from scmf.data.split import RunSet
from scmf.data.stream_report import report_stream

N = 65_536
DONORS = np.arange(N) // 512  # 128 donors, each a stretch of the store


def _quality(window, *, block=64):
    drawing = BlockDrawing(
        RunSet(np.zeros(1, np.int64), np.array([0, N], np.int64)), seed=1, block=block, window=window
    )
    cells = draw_batches(lambda places: drawing.take(places, epoch=0), n_cells=N, batch_size=64)
    return shuffle_quality("donor", DONORS[cells].astype(np.int32))


def test_entropy_is_shannons():
    assert entropy(np.array([[1, 1, 1, 1], [4, 0, 0, 0], [2, 1, 1, 0]])).tolist() == [2.0, 0.0, 1.5]


@pytest.mark.parametrize("groups", [2, 30, 4000])
def test_a_random_order_has_nothing_above_chance_however_many_groups(groups):
    labels = np.random.default_rng(groups).integers(0, groups, (256, 64)).astype(np.int32)
    quality = shuffle_quality("x", labels)
    assert abs(quality.excess) < 5 * quality.deviation
    assert quality.mutual_information > quality.excess  # the plug-in estimate alone would see a fault


def test_batches_of_one_label_give_all_of_it_away():
    labels = np.repeat(np.arange(16, dtype=np.int32), 64).reshape(16, 64)
    quality = shuffle_quality("x", labels)
    assert (quality.mutual_information, quality.batch_entropy, quality.label_entropy) == (4.0, 0.0, 4.0)
    assert quality.excess > 3.5


def test_a_larger_window_mixes_better_and_the_largest_as_well_as_random():
    excess = [_quality(window).excess for window in (256, 2048, 16_384)]
    assert excess[0] > excess[1] > excess[2] > -0.02
    assert excess[0] > 1.0
    whole = _quality(N)
    assert abs(whole.excess) < 5 * whole.deviation


def test_batches_are_spaced_over_the_epoch():
    cells = draw_batches(lambda places: places, n_cells=100_000, batch_size=64)
    assert cells.shape == (256, 64)
    assert cells[0, 0] == 0
    assert cells[-1, -1] > 99_000
    assert draw_batches(lambda places: places, n_cells=10, batch_size=64).shape == (1, 10)


def _stream(store, **changes):
    fields = {
        "store": str(store.path),
        "tokenizer": {"kind": "rank", "seq_length": 64},
        "split": {"by": "batch", "validation": 0.1},
        "global_batch_size": 8,
        "microbatch_tokens": 256,
    }
    config = CellsConfig.model_validate({**fields, **changes})
    return config.open(objective=Corruption(0.15, 0.8, 0.1), seed=1)


def test_a_run_reports_how_it_reads_splits_and_mixes(demo_store):
    column = next(c for c in demo_store.manifest.obs_columns if 2 < len(demo_store.obs_groups(c).names) < 20)
    stream = _stream(demo_store, split={"by": column, "validation": 0.1})
    lines, facts = report_stream(stream)
    text = "\n".join(lines)
    assert "by mmap (auto:" in text
    assert "order  random; sampling uniform" in text
    assert "% of all, 10.0% asked" in text
    assert f"{column}: " not in text  # a random order is as mixed as can be; the record has its numbers
    assert json.loads(json.dumps(facts))["shuffle_quality"][0]["column"] == column
    assert [quality.column for quality in measure_stream(stream)] == [column]
    assert report_stream(object()) == ([], {})


def test_block_order_is_told_with_its_sizes(demo_store):
    lines, facts = report_stream(_stream(demo_store, split={}, order={"kind": "blocks", "block": 8, "window": 32}))
    assert "order  blocks (block 8, window 32); sampling uniform" in "\n".join(lines)
    assert f"{demo_store.manifest.obs_columns[0]}: " in "\n".join(lines)
    assert facts["order"] == {"kind": "blocks", "block": 8, "window": 32}


def test_the_command_measures_any_order(demo_store, capsys):
    column = demo_store.manifest.obs_columns[0]
    common = ["shuffle-quality", str(demo_store.path), "--by", column, "--batch-size", "16", "--json"]
    found = {}
    for order in (["random"], ["none"], ["blocks", "--block", "4", "--window", "64"]):
        assert store_command([*common, "--order", *order]) == 0
        found[order[0]] = json.loads(capsys.readouterr().out)[0]
    assert found["none"]["batch_size"] == 16
    assert found["none"]["batches"] == len(demo_store) // 16
    assert store_command(common[:-1]) == 0
    assert "bits above a random order" in capsys.readouterr().out


def test_the_command_refuses_what_has_no_batches(demo_store):
    common = ["shuffle-quality", str(demo_store.path), "--by"]
    with pytest.raises(ConfigError, match="make no two batches"):
        store_command([*common, "x", "--batch-size", "200"])
    with pytest.raises(StoreError, match="no column 'x'"):
        store_command([*common, "x"])
    with pytest.raises(ConfigError, match="of the order blocks, and the order is random"):
        store_command([*common, "x", "--block", "8"])
    with pytest.raises(ConfigError, match="fewer than two blocks"):
        store_command([*common, "x", "--order", "blocks", "--window", "64"])
