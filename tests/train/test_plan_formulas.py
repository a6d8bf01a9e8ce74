"""The formulas of planning against what a built model really holds, keeps and computes."""

from __future__ import annotations

import numpy as np
import pytest

from scmf.train.flops import computed_flops, training_flops
from scmf.train.plan.memory import logit_bytes, memory_of, saved_bytes, stage_parameters, state_bytes
from scmf.train.plan.workload import Shape, shape_of
from support.planned import bytes_held, counted_for_each, held_by_each, kept_by_each, place_of
from support.ranks import run_ranks
from support.tiny import VOCABULARY, drawn_step, tiny_config

TENSOR = {"trainer__parallel__tensor": 2}
PIPELINE = {"trainer__parallel__pipeline": 2}
DECODER = {"model__kind": "decoder"}
BF16 = {"trainer__precision": "bf16"}


ALONE = {
    "fp32": {},
    "bf16": BF16,
    "muon": {"trainer__optimizer": {"kind": "muon", "lr": 1e-3}},
    "sgd": {"trainer__optimizer": {"kind": "sgd", "lr": 1e-3, "momentum": 0.0}},
    "average": {"trainer__ema": {"decay": 0.9}},
}
KEPT = {
    "no dropout": {},
    "dropout": {"model__hidden_dropout": 0.1, "model__attention_dropout": 0.1},
    "post-norm": {"model__norm": "post"},
    "feed-forwards recomputed": {"trainer__parallel__recompute": "selective"},
    "everything recomputed": {"trainer__parallel__recompute": "full"},
    "decoder": DECODER,
}


def holds_as_planned(changes, rank, numbers, *held, replicas):
    place = place_of(tiny_config(**changes), replicas=replicas)
    assert numbers == stage_parameters(place, rank).all
    for planned, real in zip(state_bytes(place, rank), held, strict=True):
        assert planned == pytest.approx(real, rel=0.01)  # Megatron pads its buffers


@pytest.fixture(scope="module")
def held():
    (each,) = run_ranks(held_by_each, 1, list(ALONE.values()))
    return dict(zip(ALONE, each, strict=True))


@pytest.mark.parametrize("name", ALONE)
def test_weights_gradients_and_optimizer_take_the_bytes_that_the_formulas_say(held, name):
    holds_as_planned(ALONE[name], *held[name], replicas=1)


@pytest.mark.parametrize(
    ("changes", "ranks"),
    [
        pytest.param({"model__norm": "post"} | TENSOR | PIPELINE, 4, id="post-norm, tensor x pipeline"),
        pytest.param(PIPELINE, 2, id="pipeline"),
        pytest.param(DECODER | {"model__positions": "rotary"} | TENSOR, 2, id="decoder, rotary, tensor"),
        pytest.param({"trainer__parallel__fsdp": True}, 2, id="fsdp"),
    ],
)
def test_ranks_hold_the_bytes_that_the_formulas_say(changes, ranks):
    replicas = ranks // tiny_config(**changes).trainer.parallel.model_ranks
    for rank in run_ranks(bytes_held, ranks, changes):
        holds_as_planned(changes, *rank, replicas=replicas)


def test_a_sharded_optimizer_is_shared_out_and_gradients_are_not():
    changes = {"trainer__parallel__shard_optimizer": True} | BF16
    place = place_of(tiny_config(**changes), replicas=2)
    planned = state_bytes(place, 0)
    totals = np.sum([held[2:] for held in run_ranks(bytes_held, 2, changes)], axis=0)
    assert [2 * part for part in planned] == pytest.approx(totals.tolist(), rel=0.02)


@pytest.fixture(scope="module")
def microbatch():
    return drawn_step(0, replica=0, replicas=1).microbatches[0]


@pytest.fixture(scope="module")
def kept(microbatch):
    (each,) = run_ranks(kept_by_each, 1, list(KEPT.values()), microbatch)
    return dict(zip(KEPT, each, strict=True))


@pytest.mark.parametrize("name", KEPT)
def test_what_the_backward_pass_needs_takes_the_bytes_that_the_formulas_say(kept, name, microbatch):
    place = place_of(tiny_config(**KEPT[name]), replicas=1)
    shape = shape_of(microbatch, packing=True)
    planned = saved_bytes(place, shape, rank=0, microbatches=1) + logit_bytes(place, shape)
    assert planned == pytest.approx(kept[name], rel=0.04)


@pytest.fixture(scope="module")
def counted(microbatch):
    dropped = [changes | {"model__attention_dropout": 0.1} for changes in ({}, DECODER)]
    (each,) = run_ranks(counted_for_each, 1, dropped, microbatch)
    return dict(zip(("encoder", "decoder"), each, strict=True))


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_flops_by_formula_are_those_that_torch_counts(counted, kind, microbatch):
    forward, both = counted[kind]
    model = tiny_config(model__kind=kind).model
    shape = shape_of(microbatch, packing=True)
    sizes = {
        "positions": shape.positions,
        "segments": shape.segments.tolist(),
        "targets": shape.targets,
        "vocabulary_size": VOCABULARY.size,
    }
    planned = computed_flops(model, **sizes)
    # The CPU's attention computes what causal models do not see, and drops it; its backward pass computes the
    # scores again. Neither is counted.
    hidden_from_view = 4 * model.layers * model.hidden * _unseen(model, shape)
    again = 2 * model.layers * model.hidden * int((shape.segments**2).sum())
    assert forward == planned / 3 + hidden_from_view
    assert both == planned + 3 * hidden_from_view + again


def _unseen(model, shape: Shape):
    pairs = sum(length * (length - 1) // 2 for length in shape.segments.tolist())
    return pairs if model.causal else 0


def test_without_padding_and_recomputation_what_is_computed_is_what_is_counted():
    model = tiny_config().model
    lengths = [5, 30, 64]
    real = training_flops(model, lengths=lengths, targets=9, vocabulary_size=900)
    same = {"segments": lengths, "targets": 9, "vocabulary_size": 900}
    assert computed_flops(model, positions=99, **same) == real
    assert computed_flops(model, positions=128, **same) > real
    fuller = [computed_flops(model, positions=99, recompute=r, **same) for r in ("none", "selective", "full")]
    assert fuller == sorted(set(fuller))


def test_parts_add_up_and_the_fullest_stage_is_the_one_that_is_planned(microbatch):
    shape = shape_of(microbatch, packing=True)
    whole = memory_of(place_of(tiny_config(), replicas=1), shape, microbatches=4)
    assert whole.total == sum(whole.parts().values())
    stages = place_of(tiny_config(**PIPELINE), replicas=1)
    one, many = (memory_of(stages, shape, microbatches=m) for m in (1, 8))
    assert one.activations < many.activations < whole.activations * 1.05  # the first stage holds two at a time
