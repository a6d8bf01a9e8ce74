"""The seam under Megatron on CPUs: pinned to a version and to the places that it touches."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import subprocess
import sys
from importlib.metadata import version

import pytest
import torch

from scmf.core.errors import MachineError
from scmf.model import seam
from scmf.model.device import has_gpu
from scmf.model.megatron import get_cuda_rng_tracker
from support.alone import alone

IMPORTED = "import sys; print('imported', sorted({'wandb', 'torch._inductor.compile_fx'} & set(sys.modules)))"
"""Prints what costs seconds and is not used: a rank starts in half the time without."""

pytestmark = pytest.mark.skipif(has_gpu(), reason="the seam stays closed where there is a GPU")


def test_the_seam_is_for_the_megatron_that_is_installed():
    assert version("megatron-core") == seam.MEGATRON_VERSION


@pytest.mark.parametrize("name", seam.LITERAL_CUDA_MODULES)
def test_every_patched_module_still_names_cuda_itself(name):
    source = inspect.getsource(importlib.import_module(name))
    assert re.search(r"device\s*=\s*.{0,12}cuda", source), "the patch is not needed any more: remove it"


def test_the_types_that_the_optimizer_compares_are_named_only_inside_the_block():
    tensor = torch.zeros(1)
    with seam.cuda_type_names():
        assert tensor.type() == "torch.cuda.FloatTensor"
        assert tensor.bfloat16().type() == "torch.cuda.BFloat16Tensor"
        assert tensor.type(torch.float64).dtype == torch.float64
    assert tensor.type() == "torch.FloatTensor"


def test_the_gradient_norm_does_not_lose_digits_in_a_large_tensor():
    alone()
    clip = importlib.import_module("megatron.core.optimizer.clip_grads")
    gradient = torch.full((6_500_000,), 1e-3) + torch.arange(6_500_000) * 1e-12
    exact = gradient.double().norm().item()
    assert clip.get_grad_norm_fp32([gradient], grad_stats_parallel_group=alone().groups.mp) == pytest.approx(
        exact, rel=1e-7
    )


def test_named_random_states_do_not_disturb_the_default_one():
    alone()
    tracker = get_cuda_rng_tracker()
    before = torch.get_rng_state()
    with tracker.fork():
        inside = torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
    with tracker.fork():
        assert not torch.equal(torch.rand(3), inside)  # the named state has moved on


def test_another_megatron_is_refused_with_the_command_that_mends_it(monkeypatch):
    monkeypatch.setattr(seam, "MEGATRON_VERSION", "0.99.0")
    with pytest.raises(MachineError) as refused:
        seam.open_seam()
    assert refused.value.fix == "pip install megatron-core==0.99.0"


def test_a_half_installed_transformer_engine_does_not_break_the_import_which_takes_no_compiler_and_no_mirror_with_it(
    tmp_path,
):
    package = tmp_path / "transformer_engine"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('libtransformer_engine.so is missing')\n")
    code = "import scmf.model.megatron, scmf.model.transformer; " + IMPORTED
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"},
        check=False,
    )
    assert result.stdout.strip() == "imported []", result.stderr[-2000:]


def test_what_megatron_is_imported_without_is_there_for_everybody_else():
    assert importlib.util.find_spec("wandb") is not None  # an error where it is still hidden
    assert torch.compile.__module__ == "torch"
