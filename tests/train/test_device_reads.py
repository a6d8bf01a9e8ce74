"""The host queues a whole step ahead of the device, and reads it in one place, in every layout."""

from __future__ import annotations

import pytest

from support.ranks import run_ranks
from support.unreadable import reads_of_a_step

TENSOR = {"trainer__parallel__tensor": 2, "trainer__parallel__sequence": True}
PIPELINE = {"trainer__parallel__pipeline": 2}
NEXT_TOKEN = {
    "model__kind": "decoder",
    "model__task": {"kind": "clm", "label_smoothing": 0.1},
    "model__positions": "sinusoidal",
}
SEVERAL = {
    "model__task": {
        "kind": "several",
        "tasks": {
            "mlm": {"kind": "mlm"},
            "type": {"kind": "classify", "column": "type", "classes": ["B", "T"]},
            "age": {"kind": "regress", "column": "age", "mean": 0.0, "sd": 1.0},
        },
    }
}


@pytest.mark.parametrize(
    ("changes", "rank"),
    [
        pytest.param(SEVERAL | {"model__hidden_dropout": 0.1}, 3, id="replicas with labels"),
        pytest.param(NEXT_TOKEN | {"trainer__ema": {"decay": 0.99}}, 0, id="decoder with an average"),
        pytest.param(TENSOR | {"trainer__parallel__shard_optimizer": True}, 1, id="tensor, sequence, sharded"),
        pytest.param(PIPELINE | {"model__norm": "post"}, 7, id="last stage"),
        pytest.param(PIPELINE | TENSOR | {"trainer__parallel__recompute": "full"}, 0, id="first stage"),
    ],
)
def test_a_step_reads_the_device_once_whatever_the_layout_of_eight_ranks(changes, rank):
    assert run_ranks(reads_of_a_step, 1, {"trainer__precision": "bf16"} | changes, rank, 8) == [["tolist"]]


def test_fp16_reads_it_a_second_time_to_see_an_overflow():
    assert run_ranks(reads_of_a_step, 1, {"trainer__precision": "fp16"}, 0, 8) == [["item", "tolist"]]
