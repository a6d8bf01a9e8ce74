"""A decoder in every layout: losses and gradient norms against one process, smoothed labels and rotary positions."""

from __future__ import annotations

import pytest

from support.ranks import run_ranks
from support.tiny import train, train_loading, train_saving

DECODER = {
    "model__kind": "decoder",
    "model__positions": "rotary",
    "model__task": {"kind": "clm", "label_smoothing": 0.1},
}
TENSOR = {"trainer__parallel__tensor": 2}
SEQUENCE = TENSOR | {"trainer__parallel__sequence": True}
PIPELINE = {"trainer__parallel__pipeline": 2}
INTERLEAVED = PIPELINE | {"trainer__parallel__interleave": 2}
FSDP = {"trainer__parallel__fsdp": True}
DROPOUT = {"model__hidden_dropout": 0.1, "model__attention_dropout": 0.1}


@pytest.fixture(scope="module")
def one_process():
    """Losses and gradient norms of eight tiny steps."""
    return run_ranks(train, 1, DECODER, 8)[0]


@pytest.mark.parametrize(
    ("ranks", "changes"),
    [
        pytest.param(2, SEQUENCE, id="TP2xSP"),
        pytest.param(2, INTERLEAVED | {"trainer__parallel__recompute": "full"}, id="PP2x2, full recompute"),
        pytest.param(2, FSDP, id="FSDP on 2"),
        pytest.param(4, TENSOR | PIPELINE | {"trainer__parallel__recompute": "selective"}, id="TP2xPP2, selective"),
    ],
)
def test_a_decoder_meets_one_process_in_every_layout(ranks, changes, one_process):
    runs = run_ranks(train, ranks, DECODER | changes, len(one_process))
    assert all(run == runs[0] for run in runs)
    assert max(abs(a[0] - b[0]) for a, b in zip(runs[0], one_process, strict=True)) < 1e-5
    assert max(abs(a[1] - b[1]) for a, b in zip(runs[0], one_process, strict=True)) < 1e-4


def test_sinusoids_are_the_same_on_every_rank():
    changes = DECODER | {"model__positions": "sinusoidal", "model__norm": "post"}
    (one,) = run_ranks(train, 1, changes, 4)
    two, _ = run_ranks(train, 2, changes | SEQUENCE, 4)
    assert max(abs(a[0] - b[0]) for a, b in zip(one, two, strict=True)) < 1e-5


def test_recomputation_of_a_decoder_changes_no_bit_also_with_dropout():
    plain, again = (
        run_ranks(train, 1, DECODER | DROPOUT | {"trainer__parallel__recompute": way}, 3)[0] for way in ("none", "full")
    )
    assert plain == again


def test_a_decoder_saved_by_two_tensor_ranks_goes_on_in_one_process(one_process, tmp_path):
    (tmp_path / "shards").mkdir()
    run_ranks(train_saving, 2, DECODER | TENSOR, 4, tmp_path / "shards")
    (later,) = run_ranks(train_loading, 1, DECODER, 4, tmp_path / "shards", 4)
    assert max(abs(a[0] - b[0]) for a, b in zip(later, one_process[4:], strict=True)) < 1e-5
