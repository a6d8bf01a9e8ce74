"""Heads about whole cells: what stands for a cell, and the losses of its labels."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from scmf.core.batch import CellTargets, Microbatch
from scmf.model.cell_head import cell_heads, pooled
from scmf.model.pack import Pack
from scmf.model.task import ClassifyTask, MlmTask, RegressTask, SeveralTask

BOUNDS = [0, 5, 8, 20, 24]  # cells at 0 and 8, padding between them and behind
CELLS = torch.tensor([0, 2])
SIZES = SimpleNamespace(hidden_size=6, params_dtype=torch.float32, hidden_dropout=0.0)
TASK = SeveralTask(
    tasks={
        "mlm": MlmTask(),
        "line": ClassifyTask(column="line", classes=("a", "b", "c")),
        "depth": RegressTask(column="depth", pool="first"),
    }
)


@pytest.fixture
def pack():
    empty = np.zeros(0, np.int32)
    batch = Microbatch(
        input_ids=np.zeros(24, np.int32),
        positions=np.zeros(24, np.int32),
        cu_seqlens=np.array(BOUNDS, np.int32),
        target_positions=empty,
        targets=empty,
        cell_ids=np.array([7, 9]),
        tokens=17,
        longest=12,
        cell_targets={
            "line": CellTargets(np.array([2], np.int32), np.array([1], np.int32)),
            "depth": CellTargets(np.array([0, 2], np.int32), np.array([0.5, -2.0], np.float32)),
        },
    )
    return Pack.of(batch, torch.device("cpu"))


@pytest.fixture
def hidden():
    return torch.randn(24, 6, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def heads():
    made = cell_heads(TASK, SIZES)
    generator = torch.Generator().manual_seed(4)
    for parameter in made.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return made


def test_a_cell_is_the_mean_of_its_own_tokens_or_its_first(pack, hidden):
    means = pooled(hidden, pack, CELLS, "mean")
    assert torch.allclose(means, torch.stack([hidden[0:5].mean(0), hidden[8:20].mean(0)]), atol=1e-6)
    assert torch.equal(pooled(hidden, pack, CELLS, "first"), hidden[[0, 8]])


@pytest.mark.parametrize("pool", ["mean", "first"])
def test_a_token_of_padding_or_of_another_cell_changes_no_bit(pool, pack, hidden):
    changed = hidden.clone()
    changed[5:] += 1.0
    before, after = (pooled(h, pack, CELLS, pool) for h in (hidden, changed))
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1])


def test_the_mean_of_half_precision_states_is_taken_in_float32(pack, hidden):
    half = (hidden + 300).to(torch.bfloat16)
    assert torch.allclose(pooled(half, pack, CELLS, "mean")[0], half[:5].float().mean(0), rtol=1e-6)


def test_a_class_costs_its_cross_entropy_and_a_number_its_squared_error(pack, hidden, heads):
    line, depth = (heads[name](hidden, pack, pack.cell_targets[name]) for name in ("line", "depth"))
    scores = torch.tanh(hidden[8:20].mean(0) @ heads["line"].dense.weight.T + heads["line"].dense.bias)
    scores = scores @ heads["line"].weight
    assert line[0, 0].item() == pytest.approx(cross_entropy(scores, torch.tensor(1)).item(), rel=1e-5)
    assert line[0, 1].item() == float(scores.argmax() == 1)
    guess = torch.tanh(heads["depth"].dense(hidden[[0, 8]])) @ heads["depth"].weight
    truth = torch.tensor([0.5, -2.0])
    assert torch.allclose(depth, torch.stack([(guess[:, 0] - truth) ** 2, truth, truth**2], 1), atol=1e-5)


def test_cells_without_labels_leave_every_weight_a_gradient_of_zero(pack, hidden, heads):
    nobody = Pack.of(
        Microbatch(
            **{name: np.zeros(4, np.int32) for name in ("input_ids", "positions")},
            cu_seqlens=np.array([0, 4], np.int32),
            **{name: np.zeros(0, np.int32) for name in ("target_positions", "targets")},
            cell_ids=np.zeros(0, np.int64),
            tokens=0,
            longest=4,
            cell_targets={"line": CellTargets(np.zeros(0, np.int32), np.zeros(0, np.int32))},
        ),
        torch.device("cpu"),
    )
    heads["line"](hidden[:4].requires_grad_(), nobody, nobody.cell_targets["line"])[:, 0].sum().backward()
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in heads["line"].parameters())


def test_parameters_of_the_heads_are_those_of_the_formula(heads):
    counted = sum(parameter.numel() for parameter in heads.parameters())
    assert TASK.head_parameters(6, 128) - MlmTask().head_parameters(6, 128) == counted
    assert list(cell_heads(MlmTask(), SIZES)) == []


def test_a_label_may_have_the_name_of_a_method_of_torchs():
    task = TASK.replace(
        tasks={name: ClassifyTask(column="x", classes=("a", "b")) for name in ("type", "values", "train")}
    )
    heads = cell_heads(task, SIZES)
    assert [name for name, _ in heads.items()] == ["type", "values", "train"]
    again = cell_heads(task, SIZES)
    again.load_state_dict({name: torch.ones_like(tensor) for name, tensor in heads.state_dict().items()})
    assert all((parameter == 1).all() for parameter in again.train().parameters())
    assert {name.partition(".")[0] for name, _ in again.named_parameters()} == {"type", "values", "train"}
