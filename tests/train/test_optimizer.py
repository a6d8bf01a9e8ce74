"""What decays, how the rate moves, and what a step does with a gradient that is not finite."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from scmf.core.errors import TrainingError
from scmf.train.optimizer import mark_decay, optimizer_parameters
from scmf.train.schedule import CosineConfig
from support.alone import alone
from support.tiny import build_engine, drawn_step, tiny_config


@pytest.fixture
def engine():
    return build_engine(tiny_config(), alone())


def test_matrices_decay_and_biases_and_norms_do_not(engine):
    decays = {name: not p.no_weight_decay for name, p in engine.encoder.named_parameters()}
    for name, here in decays.items():
        assert here == (name.endswith("weight") and "norm" not in name), name
    assert decays["embedding.word_embeddings.weight"]
    assert decays["embedding.position_embeddings.weight"]
    assert not decays["encoder.layers.0.input_layernorm.weight"]
    assert not decays["output_layer.norm.weight"]


def test_the_groups_hold_every_parameter_once_with_its_decay(engine):
    assert len(optimizer_parameters(engine.optimizer)) == len(list(engine.encoder.parameters()))
    for group in engine.optimizer.param_groups:
        expected = {0.0 if p.no_weight_decay else 0.01 for p in group["params"]}
        assert expected == {group["weight_decay"]}


def test_a_module_without_a_rule_is_an_error_not_a_guess():
    class Strange(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

    with pytest.raises(TrainingError, match=r"Strange\.scale") as refused:
        mark_decay(nn.Sequential(nn.Linear(2, 2), Strange()))
    assert refused.value.where == "1.scale"


def test_the_gradient_is_clipped_to_the_norm_asked_for(engine):
    free = build_engine(tiny_config(trainer__optimizer__clip=1e9), alone())
    batch = drawn_step(0, replica=0, replicas=1)
    clipped, whole = engine.train_step(batch, step=0), free.train_step(batch, step=0)
    assert clipped.grad_norm == whole.grad_norm
    assert whole.grad_norm > 1.0
    norms = [
        math.sqrt(sum(p.main_grad.double().pow(2).sum().item() for p in e.encoder.parameters())) for e in (engine, free)
    ]
    assert norms[0] == pytest.approx(1.0, rel=1e-5)
    assert norms[1] == pytest.approx(whole.grad_norm, rel=1e-5)


def test_a_loss_that_is_not_finite_changes_nothing(engine):
    batch = drawn_step(0, replica=0, replicas=1)
    with torch.no_grad():
        engine.encoder.output_layer.bias[0] = math.nan
    before = {name: p.clone() for name, p in engine.encoder.named_parameters()}
    for _ in range(2):
        assert engine.train_step(batch, step=0).grad_norm is None
    for name, parameter in engine.encoder.named_parameters():
        assert torch.equal(parameter, before[name]) or name == "output_layer.bias"


COSINE = CosineConfig(warmup_steps=10, hold_steps=20, min_lr=1e-5)


def test_the_rate_rises_falls_and_holds():
    rates = [COSINE.rate(step, peak=1e-3, max_steps=100) for step in range(120)]
    assert rates[0] == pytest.approx(1e-3 / 11)
    assert max(rates) == rates[10] == 1e-3
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:80] == sorted(rates[10:80], reverse=True)
    assert rates[45] == pytest.approx((1e-3 + 1e-5) / 2)  # half of the 70 steps of cosine
    assert rates[80:] == [pytest.approx(1e-5)] * 40
