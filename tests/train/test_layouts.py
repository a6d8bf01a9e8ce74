"""One model in every layout: losses on real cells against one process, 30 steps."""

from __future__ import annotations

import itertools
import runpy
from pathlib import Path

import pytest

from support.ranks import run_ranks
from support.real import steps_on_ranks
from support.tiny import (
    replicated_parameters,
    tracker_when_built,
    train,
    train_fp16,
    train_in_sevenths,
    train_uneven,
)

STEPS = 30
TENSOR = "trainer.parallel.tensor=2"
PIPELINE = "trainer.parallel.pipeline=2"
SEQUENCE = "trainer.parallel.sequence=true"
TENSOR_2 = {"trainer__parallel__tensor": 2}
DROPOUT = {"model__hidden_dropout": 0.1, "model__attention_dropout": 0.1}
LAYOUTS = [
    pytest.param(2, [TENSOR], id="TP2"),
    pytest.param(2, [TENSOR, SEQUENCE], id="TP2xSP"),
    pytest.param(2, [PIPELINE], id="PP2"),
    pytest.param(2, [], id="DP2"),
    pytest.param(4, [TENSOR, PIPELINE], id="TP2xPP2"),
    pytest.param(4, [TENSOR], id="TP2xDP2"),
    pytest.param(4, [PIPELINE], id="PP2xDP2"),
]


@pytest.fixture(scope="module")
def reference(demo_store):
    """One process; its losses are what every layout has to meet."""
    return steps_on_ranks(demo_store.path, 1, STEPS)


@pytest.mark.parametrize(("ranks", "overrides"), LAYOUTS)
def test_a_layout_meets_the_losses_of_one_process_on_the_same_cells(ranks, overrides, reference, demo_store):
    run = steps_on_ranks(demo_store.path, ranks, STEPS, *overrides)
    differences = [abs(here - there) for (here, _), (there, _) in zip(run, reference, strict=True)]
    assert max(differences[:5]) < 1e-4
    assert max(differences) < 1e-3
    assert [cells for _, cells in run] == [cells for _, cells in reference]


def test_the_reference_learns(reference):
    losses = [loss for loss, _ in reference]
    assert losses[0] == pytest.approx(10.1, abs=0.3)  # log of 25,472 tokens
    assert sum(losses[-5:]) / 5 < losses[0] - 0.5


def test_post_norm_meets_one_process_too(demo_store):
    overrides = ["model.norm=post"]
    one = steps_on_ranks(demo_store.path, 1, 10, *overrides)
    for layout in ([TENSOR, SEQUENCE], [PIPELINE]):
        other = steps_on_ranks(demo_store.path, 2, 10, *overrides, *layout)
        assert max(abs(a - b) for (a, _), (b, _) in zip(one, other, strict=True)) < 1e-4, layout


def test_accumulation_over_more_microbatches_changes_rounding_only(reference, demo_store):
    more = steps_on_ranks(demo_store.path, 1, 10, "data.microbatch_tokens=128")
    assert max(abs(a - b) for (a, _), (b, _) in zip(more, reference, strict=False)) < 1e-4


def test_padding_instead_of_packing_changes_rounding_only(reference, demo_store):
    padding = ["data.packing=false", "data.microbatch_tokens=null", "data.micro_batch_size=4"]
    padded = steps_on_ranks(demo_store.path, 1, 10, *padding)
    assert max(abs(a - b) for (a, _), (b, _) in zip(padded, reference, strict=False)) < 1e-4


def test_bf16_follows_fp32(reference, demo_store):
    half = steps_on_ranks(demo_store.path, 1, 10, "trainer.precision=bf16")
    assert max(abs(a - b) for (a, _), (b, _) in zip(half, reference, strict=False)) < 0.05
    assert half != reference[:10]


def test_bf16_on_two_tensor_ranks_follows_bf16_on_one(demo_store):
    half = "trainer.precision=bf16"
    one = steps_on_ranks(demo_store.path, 1, 10, half)
    two = steps_on_ranks(demo_store.path, 2, 10, half, TENSOR)
    assert max(abs(a - b) for (a, _), (b, _) in zip(one, two, strict=True)) < 0.05


FSDP = {"trainer__parallel__fsdp": True}
SHARD = {"trainer__parallel__shard_optimizer": True}
INTERLEAVED = {"trainer__parallel__pipeline": 2, "trainer__parallel__interleave": 2}


@pytest.mark.parametrize(
    ("ranks", "changes"),
    [
        pytest.param(2, INTERLEAVED | {"trainer__parallel__recompute": "full"}, id="PP2x2, full recompute"),
        pytest.param(4, INTERLEAVED | SHARD, id="PP2x2xDP2, sharded optimizer"),
        pytest.param(4, TENSOR_2 | SHARD | {"trainer__parallel__recompute": "selective"}, id="TP2xDP2, sharded, SR"),
        pytest.param(4, FSDP, id="FSDP on 4"),
    ],
)
def test_ways_to_share_out_memory_meet_one_process(ranks, changes, tiny):
    other = run_ranks(train, ranks, changes, len(tiny))
    assert all(rank == other[0] for rank in other)
    assert max(abs(a[0] - b[0]) for a, b in zip(other[0], tiny, strict=True)) < 1e-5
    assert max(abs(a[1] - b[1]) for a, b in zip(other[0], tiny, strict=True)) < 1e-4


def test_interleaved_stages_meet_one_process_over_many_microbatches_also_odd_ones():
    (one,) = run_ranks(train_in_sevenths, 1, {}, 4)
    other, last = run_ranks(train_in_sevenths, 2, INTERLEAVED, 4)
    assert other == last
    assert max(abs(a - b) for a, b in zip(one, other, strict=True)) < 1e-5


@pytest.fixture(scope="module")
def tiny():
    """Losses and gradient norms of eight tiny steps of one process."""
    return run_ranks(train, 1, {}, 8)[0]


@pytest.mark.parametrize("recompute", ["selective", "full"])
def test_recomputation_changes_no_bit_also_with_dropout(recompute, with_dropout):
    (run,) = run_ranks(train, 1, DROPOUT | {"trainer__parallel__recompute": recompute}, len(with_dropout))
    assert run == with_dropout


@pytest.fixture(scope="module")
def with_dropout():
    """Five tiny steps of one process with dropout everywhere."""
    return run_ranks(train, 1, DROPOUT, 5)[0]


def test_an_overflow_in_fp16_halves_the_loss_scale_and_training_goes_on():
    ((steps, scales),) = run_ranks(train_fp16, 1, 10)
    overflows = [step.overflow for step in steps]
    assert overflows[0]  # 65,536 is too much for a sum over many targets
    assert not overflows[-1]
    assert [step.grad_norm is None for step in steps] == overflows
    halvings = [before / after for before, after in itertools.pairwise(scales)]
    assert halvings == [2.0 if overflow else 1.0 for overflow in overflows]
    taken = [step.loss.mean for step in steps if not step.overflow]
    assert taken[-1] < taken[0] - 0.1


def test_replicas_with_different_numbers_of_microbatches_run_as_many_under_fsdp():
    one, two = run_ranks(train_uneven, 2, 3)
    assert one == two
    (whole,) = run_ranks(train_uneven, 1, 3)
    assert max(abs(a - b) for a, b in zip(one, whole, strict=True)) < 1e-5


def test_dropout_differs_between_steps_and_repeats_with_the_seed():
    dropout = {"model__hidden_dropout": 0.2, "model__attention_dropout": 0.2}
    ((first, again),) = zip(run_ranks(train, 1, dropout, 3), run_ranks(train, 1, dropout, 3), strict=True)
    (other,) = run_ranks(train, 1, dropout | {"trainer__seed": 43}, 3)
    assert first == again
    assert first != other
    (without,) = run_ranks(train, 1, {}, 3)
    assert first[0] != without[0]


@pytest.mark.parametrize("sequence", [False, True], ids=["TP2", "TP2xSP"])
def test_tensor_ranks_hold_the_same_replicated_parameters_under_dropout(sequence):
    changes = {
        "model__hidden_dropout": 0.2,
        "model__attention_dropout": 0.2,
        "trainer__parallel__tensor": 2,
        "trainer__parallel__sequence": sequence,
    }
    one, two = run_ranks(replicated_parameters, 2, changes, 10)
    assert len(one) > 30
    assert [name for name in one if one[name] != two[name]] == []


def test_ranks_have_random_states_of_their_own_before_the_model_is_built():
    assert run_ranks(tracker_when_built, 2, {"trainer__parallel__tensor": 2}) == [True, True]


def test_the_parity_table_takes_its_place_on_the_page_and_leaves_the_rest(tmp_path):
    script = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "layout_parity.py"))
    page = tmp_path / "page.md"
    page.write_text(f"above\n\n{script['BEGIN']}\n\nold\n\n{script['END']}\n\nbelow\n")
    for table in ("| first |", "| second |"):
        script["write_table"](table, page)
    assert page.read_text() == f"above\n\n{script['BEGIN']}\n\n| second |\n\n{script['END']}\n\nbelow\n"
    assert script["PAGE"].read_text().count(script["BEGIN"]) == 1
