"""Every kind of optimizer: the rule it names, the same in every layout, and exact after a resume."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch

from scmf.core.errors import CheckpointError, ConfigError
from scmf.train.checkpoint import Progress
from scmf.train.config import EmaConfig
from scmf.train.ema import Average
from scmf.train.identity import optimizer_identity, refuse_another_run
from scmf.train.optimizer import describe_optimizer
from scmf.train.optimizer_config import OPTIMIZERS, AdamConfig, AdamWConfig, OptimizerConfig, SgdConfig
from support.alone import alone
from support.optimizers import EMA, KINDS, average_as_weights, cut_and_uncut, kind_of, resumed, some_steps
from support.ranks import RankFailedError, run_ranks
from support.tiny import build_engine, drawn_step, tiny_config

ELEMENTWISE = [name for name, cls in OPTIMIZERS.items() if cls.elementwise]
REFERENCES: dict[str, Any] = {
    "adamw": lambda p, d: torch.optim.AdamW(p, lr=3e-3, weight_decay=0.01 * d),
    "adam": lambda p, d: torch.optim.Adam(p, lr=3e-3, weight_decay=0.01 * d),
    "adamax": lambda p, d: torch.optim.Adamax(p, lr=3e-3, weight_decay=0.01 * d),
    "sgd": lambda p, d: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01 * d),
    "rmsprop": lambda p, d: torch.optim.RMSprop(p, lr=3e-4, momentum=0.5, weight_decay=0.01 * d),
}


def test_the_table_has_every_kind_and_a_reference_for_each_that_is_one_of_torch():
    assert list(KINDS) == list(OPTIMIZERS)
    assert {*REFERENCES, "muon"} == set(OPTIMIZERS)


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_updates_as_torch_does_with_decay_on_matrices_alone(name):
    config = tiny_config(**kind_of(name), trainer__schedule={"kind": "constant"})
    engine = build_engine(config, alone())
    own = list(engine.encoder.named_parameters())
    copies = {key: p.detach().clone().requires_grad_() for key, p in own}
    references = []
    for key, p in own:
        decay = 0.0 if p.no_weight_decay else 1.0
        if name == "muon" and p.hidden_matrix:
            options = {"lr": 3e-3, "weight_decay": 0.01, "adjust_lr_fn": "match_rms_adamw"}
            references.append(torch.optim.Muon([copies[key]], **options))
        else:
            references.append(REFERENCES["adamw" if name == "muon" else name]([copies[key]], decay))
    for step in range(3):
        engine.train_step(drawn_step(step, replica=0, replicas=1), step=step)
        for key, p in own:
            copies[key].grad = p.main_grad.clone()
        for reference in references:
            reference.step()
    for key, p in own:
        torch.testing.assert_close(
            p.detach(), copies[key].detach(), rtol=1e-5, atol=1e-6, msg=lambda m, k=key: f"{k} {m}"
        )


def test_muon_takes_the_matrices_inside_the_layers_and_nothing_else():
    engine = build_engine(tiny_config(**kind_of("muon")), alone())
    hidden = {name for name, p in engine.encoder.named_parameters() if p.hidden_matrix}
    assert hidden == {
        f"encoder.layers.{layer}.{part}.weight"
        for layer in range(4)
        for part in ("self_attention.linear_qkv", "self_attention.linear_proj", "mlp.linear_fc1", "mlp.linear_fc2")
    }
    counted = sum(len(group["params"]) for group in engine.optimizer.param_groups if group["hidden_matrix"])
    assert counted == len(hidden)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """One process: losses of six steps of every kind, and a save after three."""
    folder = tmp_path_factory.mktemp("kinds")
    return folder, run_ranks(cut_and_uncut, 1, {}, list(KINDS), folder)[0]


@pytest.mark.parametrize(
    ("ranks", "parallel", "names"),
    [
        pytest.param(1, {}, list(KINDS), id="one process"),
        pytest.param(2, {"tensor": 2}, ELEMENTWISE, id="TP2"),
        pytest.param(2, {"pipeline": 2}, list(KINDS), id="PP2"),
        pytest.param(2, {"shard_optimizer": True}, ELEMENTWISE, id="sharded optimizer on 2"),
        pytest.param(2, {"fsdp": True}, ELEMENTWISE, id="FSDP on 2"),
    ],
)
def test_a_save_of_one_process_goes_on_in_every_layout_as_if_never_cut(ranks, parallel, names, one):
    folder, uncut = one
    found = run_ranks(resumed, ranks, parallel, names, folder)
    for name in names:
        losses, average = uncut[name]
        (mine, averaged), *others = [rank[name] for rank in found]
        assert all(other == (mine, averaged) for other in others), name
        if parallel == {}:
            assert (mine, averaged) == (losses[3:], average), name
        # Muon makes its updates orthogonal in bf16, which turns rounding of gradients into more of it.
        assert max(abs(a - b) for a, b in zip(mine, losses[3:], strict=True)) < 1e-3, name
        assert abs(averaged - average) < 1e-3, name
        assert losses[-1] < losses[0] - 0.05, name


def test_a_save_of_a_sharded_optimizer_in_bf16_is_exact_in_its_layout_and_goes_on_without_it(tmp_path):
    sharded, names = {"shard_optimizer": True}, ["adamw", "adamax", "sgd"]
    uncut = run_ranks(cut_and_uncut, 2, sharded, names, tmp_path, "bf16")[0]
    again = run_ranks(resumed, 2, sharded, names, tmp_path, "bf16")[0]
    alone_again = run_ranks(resumed, 1, {}, names, tmp_path, "bf16")[0]
    for name in names:
        losses, average = uncut[name]
        assert again[name] == (losses[3:], average), name
        assert max(abs(a - b) for a, b in zip(alone_again[name][0], losses[3:], strict=True)) < 0.02, name


def test_the_average_of_a_checkpoint_can_be_the_weights_of_a_model_in_another_layout(one):
    folder, _ = one
    losses = [run_ranks(average_as_weights, n, folder / "adamw", p)[0] for n, p in ((1, {}), (2, {"tensor": 2}))]
    engine = build_engine(tiny_config(**EMA), alone())
    some_steps(engine, alone(), 0, 3)
    expected = engine.evaluate_average([drawn_step(99, replica=0, replicas=1)]).mean
    assert losses[0] == pytest.approx(expected, abs=1e-6)  # this process may have more threads
    assert losses[1] == pytest.approx(expected, abs=1e-4)


def test_a_checkpoint_without_an_average_has_none_to_give(tmp_path):
    from support.tiny import train_saving

    run_ranks(train_saving, 1, {}, 1, tmp_path)
    with pytest.raises(RankFailedError, match=r"cannot be read into this model.*optimizer\.state\.ema"):
        run_ranks(average_as_weights, 1, tmp_path, {})


def test_the_average_follows_the_weights_and_begins_with_those_that_are_loaded():
    engine = build_engine(tiny_config(trainer__ema={"decay": 0.8, "warmup": False}), alone())
    name, weight = next(iter(engine.encoder.named_parameters()))
    expected = weight.detach().double().clone()
    for step in range(4):
        some_steps(engine, alone(), step, step + 1)
        expected = 0.8 * expected + 0.2 * weight.detach().double()
    inner = engine.optimizer.chained_optimizers[0].optimizer
    torch.testing.assert_close(inner.state[weight]["ema"].double(), expected, rtol=1e-5, atol=1e-7, msg=name)
    engine.average.begin()
    assert torch.equal(inner.state[weight]["ema"], weight.detach())


def test_early_steps_of_an_average_keep_less():
    average = Average.__new__(Average)
    average._config = EmaConfig(decay=0.99)
    assert [average.decay(step) for step in (0, 9, 10**6)] == [0.1, 10 / 19, 0.99]
    average._config = EmaConfig(decay=0.99, warmup=False)
    assert average.decay(0) == 0.99


ADAMW = Progress(
    step=1, max_steps=10, cells_seen=8, seed=42, val_loss=None, data={}, model={}, global_batch_size=8, layout={},
    versions={},
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"optimizer": {"kind": "adam", "lr": 0.1}}, "trainer.optimizer kind is adam .* and adamw in the checkpoint"),
        ({"ema": {}}, "trainer.optimizer ema is True .* and False in the checkpoint"),
    ],
)
def test_a_checkpoint_of_another_optimizer_is_refused_by_name(changes, named, tmp_path):
    trainer = tiny_config(**{f"trainer__{key}": value for key, value in changes.items()}).trainer
    here = replace(ADAMW, optimizer=optimizer_identity(trainer))
    with pytest.raises(CheckpointError, match=named):
        refuse_another_run(here, ADAMW, tmp_path, by_epochs=False)
    refuse_another_run(ADAMW, ADAMW, tmp_path, by_epochs=False)


def test_what_only_one_side_has_is_absent_from_the_other(tmp_path):
    with_head = replace(ADAMW, model={"head line": "classify A, B (0), pool mean"})
    here, head = "this configuration", "head line is classify A, B (0), pool mean"
    for sides, said in (
        ((with_head, ADAMW), f"model {head} in {here} and absent from the checkpoint"),
        ((ADAMW, with_head), f"model head line is absent from {here} and classify A, B (0), pool mean in the checkp"),
    ):
        with pytest.raises(CheckpointError, match=re.escape(said)):
            refuse_another_run(*sides, tmp_path, by_epochs=False)


def test_momentum_is_part_of_what_a_resumed_run_has_to_keep():
    assert SgdConfig(lr=0.1).state() == {"kind": "sgd", "momentum": True}
    assert SgdConfig(lr=0.1, momentum=0.0).state() == {"kind": "sgd", "momentum": False}


def test_a_kind_of_ones_own_trains():
    config = tiny_config(trainer__optimizer={"kind": "support.own_kinds.RpropConfig", "lr": 1e-3})
    losses = some_steps(build_engine(config, alone()), alone(), 0, 6)
    assert losses[-1] < losses[0]
    with pytest.raises(NotImplementedError, match=r"OptimizerConfig has no build\(groups\)"):
        OptimizerConfig(lr=1.0).build([])


def test_a_field_of_another_kind_is_refused():
    with pytest.raises(ConfigError, match="momentum"):
        tiny_config(trainer__optimizer={"kind": "adamw", "lr": 0.1, "momentum": 0.9})
    with pytest.raises(ConfigError, match='"lion" is not built in') as refused:
        tiny_config(trainer__optimizer={"kind": "lion", "lr": 0.1})
    assert "adamw, adam, adamax, sgd, rmsprop, muon" in refused.value.fix


def test_the_log_says_what_a_decay_means():
    assert "decoupled" in describe_optimizer(AdamWConfig(lr=0.1), ema=None)
    assert "classic L2" in describe_optimizer(AdamConfig(lr=0.1, weight_decay=0.1), ema=None)
    assert describe_optimizer(AdamConfig(lr=0.1), ema=0.9) == (
        "optim  adam, peak lr 0.1; average of the weights with decay 0.9"
    )
