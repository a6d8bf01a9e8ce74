"""Where a rank stands before any model is built: how long it waits for the others, and which GPU is its own."""

from __future__ import annotations

import os

import pytest
import torch

from scmf.core.errors import MachineError
from scmf.model import device
from scmf.train import world
from scmf.train.world import TIMEOUT, World, join_world, patience
from support.patient import patience_of_groups
from support.ranks import run_ranks


def test_every_group_waits_as_long_as_the_run_is_patient():
    asked = patience(hang_seconds=3600)
    assert asked > TIMEOUT  # Megatron's and torch's own, which would end a run before its watchdog has spoken
    for groups in run_ranks(patience_of_groups, 2, asked):
        assert groups == dict.fromkeys(groups, asked)


def seen(monkeypatch, gpus, **environment):
    """The refusal's words, or the device, of the rank of an environment that sees so many GPUs."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(device, "has_gpu", lambda: gpus > 0)
    monkeypatch.setattr(device, "gpu_count", lambda: gpus)
    found = world.read_environment()
    world._refuse_without_gpu_of_its_own(found, gpus=gpus)
    return found.device


FOURTH = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "3", "LOCAL_WORLD_SIZE": "4"}


def test_a_rank_takes_the_gpu_of_its_number_on_the_node(monkeypatch):
    assert seen(monkeypatch, 8, **FOURTH) == torch.device("cuda", 3)
    assert seen(monkeypatch, 0, **FOURTH) == torch.device("cpu")


def test_a_task_to_which_slurm_shows_one_gpu_alone_takes_that_one(monkeypatch):
    assert seen(monkeypatch, 1, **FOURTH, SLURM_STEP_NUM_TASKS="4") == torch.device("cuda", 0)


@pytest.mark.parametrize("gpus", [1, 2])
def test_more_ranks_than_gpus_are_refused_before_nccl_is_asked(monkeypatch, gpus):
    with pytest.raises(MachineError, match=f"number 3, from 0, of this node's 4, and sees {gpus} GPU") as refused:
        seen(monkeypatch, gpus, **FOURTH)
    assert f"--nproc-per-node {gpus}" in refused.value.fix


@pytest.mark.parametrize(("tensor", "queues"), [(1, None), (2, "1")])
def test_a_gpu_has_one_queue_where_ranks_share_layers_and_all_of_them_elsewhere(monkeypatch, tensor, queues):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("CUDA_DEVICE_MAX_CONNECTIONS", "")  # so that it is put back
    monkeypatch.delenv("CUDA_DEVICE_MAX_CONNECTIONS")
    monkeypatch.setattr(world.dist, "init_process_group", lambda *_, **__: None)
    monkeypatch.setattr(world.dist, "destroy_process_group", lambda: None)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    with join_world(tensor=tensor) as alone:
        assert isinstance(alone, World)
        assert os.environ.get("CUDA_DEVICE_MAX_CONNECTIONS") == queues
