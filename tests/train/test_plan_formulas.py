"""The formulas of planning against what a built model really holds, keeps and computes."""

from __future__ import annotations

import numpy as np
import pytest

from scmf.train.flops import computed_flops, training_flops
from scmf.train.plan.memory import logit_bytes, memory_of, saved_bytes, stage_parameters, state_bytes
from scmf.train.plan.workload import Shape, shape_of
from support.planned import bytes_held, bytes_kept, flops_counted, place_of
from support.ranks import run_ranks
from support.tiny import VOCABULARY, drawn_step, tiny_config

TENSOR = {"trainer__parallel__tensor": 2}
PIPELINE = {"trainer__parallel__pipeline": 2}
DECODER = {"model__kind": "decoder"}
BF16 = {"trainer__precision": "bf16"}


@pytest.mark.parametrize(
    ("changes", "ranks"),
    [
        pytest.param({}, 1, id="one rank"),
        pytest.param(TENSOR | PIPELINE, 4, id="tensor x pipeline"),
        pytest.param({"model__norm": "post"} | PIPELINE, 2, id="post-norm over stages"),
        pytest.param(DECODER | {"model__positions": "rotary"} | TENSOR, 2, id="decoder, rotary"),
        pytest.param(BF16, 1, id="bf16"),
        pytest.param({"trainer__optimizer": {"kind": "muon", "lr": 1e-3}}, 1, id="muon"),
        pytest.param({"trainer__optimizer": {"kind": "sgd", "lr": 1e-3, "momentum": 0.0}}, 1, id="sgd"),
        pytest.param({"trainer__parallel__fsdp": True}, 2, id="fsdp"),
    ],
)
def test_weights_gradients_and_optimizer_take_the_bytes_that_the_formulas_say(changes, ranks):
    config = tiny_config(**changes)
    place = place_of(config, replicas=ranks // config.trainer.parallel.model_ranks)
    for rank, numbers, *held in run_ranks(bytes_held, ranks, changes):
        assert numbers == stage_parameters(place, rank).all
        for planned, real in zip(state_bytes(place, rank), held, strict=True):
            assert planned == pytest.approx(real, rel=0.01)  # Megatron pads its buffers


def test_a_sharded_optimizer_is_shared_out_and_gradients_are_not():
    changes = {"trainer__parallel__shard_optimizer": True} | BF16
    place = place_of(tiny_config(**changes), replicas=2)
    planned = state_bytes(place, 0)
    totals = np.sum([held[2:] for held in run_ranks(bytes_held, 2, changes)], axis=0)
    assert [2 * part for part in planned] == pytest.approx(totals.tolist(), rel=0.02)


@pytest.fixture(scope="module")
def microbatch():
    return drawn_step(0, replica=0, replicas=1).microbatches[0]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="no dropout"),
        pytest.param({"model__hidden_dropout": 0.1, "model__attention_dropout": 0.1}, id="dropout"),
        pytest.param({"model__norm": "post"}, id="post-norm"),
        pytest.param({"trainer__parallel__recompute": "selective"}, id="feed-forwards recomputed"),
        pytest.param({"trainer__parallel__recompute": "full"}, id="everything recomputed"),
        pytest.param(DECODER, id="decoder"),
    ],
)
def test_what_the_backward_pass_needs_takes_the_bytes_that_the_formulas_say(changes, microbatch):
    (kept,) = run_ranks(bytes_kept, 1, changes, microbatch)
    place = place_of(tiny_config(**changes), replicas=1)
    shape = shape_of(microbatch, packing=True)
    planned = saved_bytes(place, shape, rank=0, microbatches=1) + logit_bytes(place, shape)
    assert planned == pytest.approx(kept, rel=0.04)


@pytest.mark.parametrize("changes", [pytest.param({}, id="encoder"), pytest.param(DECODER, id="decoder")])
def test_flops_by_formula_are_those_that_torch_counts(changes, microbatch):
    dropped = changes | {"model__attention_dropout": 0.1}
    ((forward, both),) = run_ranks(flops_counted, 1, dropped, microbatch)
    model = tiny_config(**changes).model
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
