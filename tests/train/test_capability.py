"""A precision that a machine cannot compute rightly is refused, with what is missing and the way out."""

from __future__ import annotations

import pytest
import torch

from scmf.core.errors import MachineError
from scmf.model.device import cuda_version
from scmf.train.capability import Machine, refuse_precision, this_machine

CPU = Machine(capability=None, transformer_engine=False)
A100, H200, B200 = (Machine(capability=c, transformer_engine=True, cuda=(13, 0)) for c in ((8, 0), (9, 0), (10, 0)))


@pytest.mark.parametrize(
    ("precision", "recipe", "machine", "needs", "instead"),
    [
        pytest.param("fp8", "current", CPU, "Transformer Engine on a GPU", "bf16", id="no GPU"),
        pytest.param("fp8", "current", A100, "8.9 for trainer.fp8.recipe=current, and", "bf16", id="old"),
        pytest.param("fp8", "mxfp8", H200, "10.0 for trainer.fp8.recipe=mxfp8", "recipe=current", id="mxfp8 on Hopper"),
        pytest.param(
            "fp8", "mxfp8", Machine((12, 0), True), "below compute capability 12.0", "recipe=current", id="new"
        ),
        pytest.param(
            "fp8", "block", Machine((9, 0), True, (12, 8)), "CUDA 12.9", "recipe=current", id="block, old CUDA"
        ),
        pytest.param("bf16", "current", Machine((7, 0), True), "8.0, and this one has 7.0", "fp16", id="bf16 on Volta"),
    ],
)
def test_what_a_machine_lacks_is_named(precision, recipe, machine, needs, instead):
    with pytest.raises(MachineError) as error:
        refuse_precision(precision, recipe, machine)
    assert needs in error.value.what
    assert instead in error.value.fix


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_cpu_computes_everything_but_fp8(precision):
    refuse_precision(precision, "current", CPU)


@pytest.mark.parametrize(
    ("recipe", "machine"), [("current", H200), ("delayed", H200), ("block", H200), ("mxfp8", B200)]
)
def test_every_recipe_has_its_chip(recipe, machine):
    refuse_precision("fp8", recipe, machine)


def test_this_machine_is_looked_at():
    assert this_machine(torch.device("cpu")).capability is None


@pytest.mark.parametrize(("said", "version"), [(None, None), ("12.9", (12, 9)), ("13.0", (13, 0))])
def test_the_cuda_of_torch_is_read_as_numbers(monkeypatch, said, version):
    monkeypatch.setattr(torch.version, "cuda", said)
    assert cuda_version() == version
