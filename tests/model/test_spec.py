"""The two tables of parts: the same weights under the same keys, and honest refusals without a GPU."""

from __future__ import annotations

import importlib
import os
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from scmf.core.errors import MachineError
from scmf.model import device, spec
from scmf.model.config import EncoderConfig
from scmf.model.device import TRANSFORMER_ENGINE, has_gpu
from scmf.model.initial import draw_weights, global_names
from scmf.model.megatron import IdentityOp
from scmf.model.pack import Pack
from scmf.model.spec import choose_kernels, layer_spec, local_parts, te_parts_of, transformer_engine_parts
from scmf.model.transformer import Transformer, build_transformer
from scmf.model.transformer_config import Fp8, transformer_config
from support import fake_te
from support.alone import alone
from support.tiny import VOCABULARY, drawn_step

SIZES = EncoderConfig(layers=2, hidden=64, ffn=128, heads=4)


def build(parts, norm):
    layout = alone()
    config = SIZES.replace(norm=norm)
    megatron = transformer_config(config, layout=layout.model, precision="fp32", on_gpu=False)
    encoder = Transformer(config, megatron=megatron, vocabulary=VOCABULARY, groups=layout.groups, parts=parts)
    draw_weights(encoder, config, seed=1)
    return encoder.eval()


def checkpoint_keys(encoder):
    entries = encoder.sharded_state_dict(metadata={"dp_cp_group": alone().groups.dp_cp}).items()
    return {
        (entry.key, tuple(entry.global_shape), tuple(entry.global_offset))
        for key, entry in entries
        if not key.endswith("_extra_state")
    }


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_both_sets_of_kernels_keep_their_weights_under_the_same_checkpoint_keys(norm):
    assert checkpoint_keys(build(te_parts_of(fake_te), norm)) == checkpoint_keys(build(local_parts(), norm))


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_both_sets_of_kernels_start_from_the_same_weights_and_compute_the_same(norm):
    ours, theirs = build(local_parts(), norm), build(te_parts_of(fake_te), norm)
    weights = dict(global_names(theirs))
    for name, parameter in global_names(ours):
        assert torch.equal(parameter, weights[name]), name
    (pack, *_) = drawn_step(0, replica=0, replicas=1).microbatches
    on_device = Pack.of(pack, torch.device("cpu"))
    torch.testing.assert_close(ours(on_device), theirs(on_device))


def test_the_pre_norm_layer_of_transformer_engine_keeps_norms_inside_the_linears():
    parts = te_parts_of(fake_te)
    layer = layer_spec(parts, "pre", ffn=128).submodules
    assert layer.self_attention.submodules.linear_qkv is fake_te.TELayerNormColumnParallelLinear
    assert layer.mlp.submodules.linear_fc1 is fake_te.TELayerNormColumnParallelLinear
    assert layer.input_layernorm is IdentityOp
    assert layer.pre_mlp_layernorm is IdentityOp


def test_the_post_norm_layer_of_transformer_engine_has_plain_linears_and_two_norms():
    layer = layer_spec(te_parts_of(fake_te), "post", ffn=128).submodules
    assert layer.self_attention.submodules.linear_qkv is fake_te.TEColumnParallelLinear
    assert layer.mlp.submodules.linear_fc1 is fake_te.TEColumnParallelLinear
    assert (layer.post_attention_norm, layer.post_mlp_norm) == (fake_te.TENorm, fake_te.TENorm)


@pytest.mark.parametrize("place", ["pre", "post"])
def test_attention_is_in_both_directions_and_packed(place):
    layer = layer_spec(local_parts(), place, ffn=128).submodules
    assert layer.self_attention.params["attn_mask_type"].name == "padding"
    (pack, *_) = drawn_step(0, replica=0, replicas=1).microbatches
    params = Pack.of(pack, torch.device("cpu")).packed_seq_params
    assert params.qkv_format == "thd"
    assert params.cu_seqlens_q.dtype == torch.int32
    assert params.cu_seqlens_q[-1] == len(pack.input_ids)
    assert params.max_seqlen_q >= int(np.diff(pack.cu_seqlens).max())


def test_a_later_token_changes_an_earlier_one_so_nothing_is_causal():
    encoder = build(local_parts(), "pre")
    (pack, *_) = drawn_step(0, replica=0, replicas=1).microbatches
    changed = pack.input_ids.copy()
    last = int(pack.cu_seqlens[1]) - 1
    changed[last] += 1
    before = encoder.hidden_states(Pack.of(pack, torch.device("cpu")))
    after = encoder.hidden_states(Pack.of(replace(pack, input_ids=changed), torch.device("cpu")))
    assert not torch.equal(before[0], after[0])


@pytest.mark.skipif(has_gpu(), reason="this machine has a GPU")
def test_without_a_gpu_the_local_parts_are_chosen_and_transformer_engine_is_refused():
    assert choose_kernels("bf16") == "local"
    with pytest.raises(MachineError, match="needs a CUDA device") as refused:
        transformer_engine_parts()
    assert "pip install" in refused.value.fix


@pytest.fixture
def gpu(monkeypatch):
    """A machine that says it has a GPU with Transformer Engine, of which stand-ins are imported."""
    monkeypatch.setattr(spec, "has_gpu", lambda: True)
    monkeypatch.setattr(spec, "has_transformer_engine", lambda: True)
    monkeypatch.setattr("megatron.core.extensions.transformer_engine", fake_te)
    monkeypatch.setenv("NVTE_UNFUSED_ATTN", "")  # so that it is put back
    monkeypatch.delenv("NVTE_UNFUSED_ATTN")
    return monkeypatch


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp8", Fp8("current")])
def test_a_gpu_computes_by_transformer_engine(gpu, precision):
    assert choose_kernels(precision) == "te"
    gpu.setattr(spec, "has_transformer_engine", lambda: False)
    gpu.setattr(spec, "transformer_engine_fault", lambda: "OSError: libcudnn.so.9")
    with pytest.raises(MachineError, match=r"no Transformer Engine that can be imported .*libcudnn") as refused:
        choose_kernels(precision)
    assert TRANSFORMER_ENGINE in refused.value.fix


@pytest.mark.parametrize(
    ("package", "fault"),
    [
        pytest.param(
            {"__init__": "raise RuntimeError('no libtransformer_engine.so')"}, "no libtransf", id="no library"
        ),
        pytest.param({"__init__": ""}, "No module named 'transformer_engine.pytorch'", id="without its part for torch"),
        pytest.param(
            {"__init__": "", "pytorch/__init__": ""}, "'transformer_engine.pytorch.fp8'", id="of another time"
        ),
    ],
)
def test_a_half_installed_transformer_engine_on_a_gpu_is_hidden_from_megatron_and_told(
    monkeypatch, tmp_path, package, fault
):
    for name, text in package.items():
        path = tmp_path / "transformer_engine" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    # Set first, so that all of them are put back.
    for name in ("transformer_engine", "transformer_engine.pytorch"):
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(device, "has_gpu", lambda: True)
    device.transformer_engine_fault.cache_clear()
    try:
        device.hide_unusable_transformer_engine()
        assert not device.has_transformer_engine()
        assert fault in device.transformer_engine_fault()
        with pytest.raises(ImportError):
            importlib.import_module("transformer_engine.pytorch.fp8")  # what Megatron asks for, and catches
    finally:
        device.transformer_engine_fault.cache_clear()


def test_what_is_installed_for_gpus_is_what_the_error_says():
    packages = Path(__file__).parents[2] / "sub-packages"
    extras = tomllib.loads((packages / "scmf-model" / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras["gpu"] == [TRANSFORMER_ENGINE]
    doctor = packages / "scmf-train" / "src" / "scmf" / "train" / "doctor" / "programs.py"
    assert TRANSFORMER_ENGINE in doctor.read_text()  # which imports no torch


def test_kernels_are_compiled_where_there_is_a_compiler_and_pythons_headers(monkeypatch, tmp_path):
    monkeypatch.setenv("CC", "cc")
    monkeypatch.setattr(device.sysconfig, "get_path", lambda _: str(tmp_path))
    assert not device.can_compile()
    (tmp_path / "Python.h").touch()
    assert device.can_compile()
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not device.can_compile()


def test_fp32_is_computed_by_the_local_parts_on_a_gpu_too_because_transformer_engine_would_take_tf32(gpu):
    assert choose_kernels("fp32") == "local"
    gpu.setattr(spec, "has_transformer_engine", lambda: False)
    assert choose_kernels("fp32") == "local"


def test_transformer_engine_may_take_its_unfused_attention_only_where_the_user_has_said_so(gpu):
    assert transformer_engine_parts().attention is fake_te.TEDotProductAttention
    assert os.environ["NVTE_UNFUSED_ATTN"] == "0"
    gpu.setenv("NVTE_UNFUSED_ATTN", "1")
    transformer_engine_parts()
    assert os.environ["NVTE_UNFUSED_ATTN"] == "1"


@pytest.mark.parametrize(
    ("said", "raised", "match"),
    [
        pytest.param(
            "No dot product attention backend is available for the provided inputs.",
            MachineError,
            "no fused attention for packed cells",
            id="no kernel",
        ),
        pytest.param("something else", ValueError, "something else", id="another mistake"),
    ],
)
def test_attention_that_transformer_engine_refuses_is_told_with_the_way_out(said, raised, match):
    class Refusing(fake_te.TEDotProductAttention):
        def forward(self, *_, **__):
            raise ValueError(said)

    encoder = build(replace(te_parts_of(fake_te), attention=Refusing), "pre")
    (pack, *_) = drawn_step(0, replica=0, replicas=1).microbatches
    with pytest.raises(raised, match=match):
        encoder(Pack.of(pack, torch.device("cpu")))


def test_under_fsdp_weights_are_fp32_whatever_the_precision():
    config = transformer_config(SIZES, layout=replace(alone().model, fsdp=True), precision="bf16", on_gpu=False)
    assert (config.params_dtype, config.bf16) == (torch.float32, False)


@pytest.mark.parametrize(
    ("ours", "megatron"),
    [
        pytest.param(Fp8("current"), ("hybrid", "tensorwise"), id="current"),
        pytest.param(Fp8("delayed"), ("hybrid", "delayed"), id="delayed"),
        pytest.param(Fp8("block"), ("e4m3", "blockwise"), id="block"),
        pytest.param(Fp8("mxfp8"), ("e4m3", "mxfp8"), id="mxfp8"),
    ],
)
def test_fp8_reaches_megatron_by_its_names_with_bf16_around_it(ours, megatron):
    config = transformer_config(SIZES, layout=alone().model, precision=ours, on_gpu=False)
    assert (config.fp8, config.fp8_recipe) == megatron
    assert (config.bf16, config.params_dtype, config.first_last_layers_bf16) == (True, torch.bfloat16, False)


def test_first_and_last_layers_stay_in_bf16_where_that_is_asked_for():
    from megatron.core.fp8_utils import is_first_last_bf16_layer  # late: scmf.model.megatron silences its warnings

    fp8 = Fp8("current", first_bf16=0, last_bf16=1)
    config = transformer_config(SIZES, layout=alone().model, precision=fp8, on_gpu=False)
    assert [is_first_last_bf16_layer(config, layer) for layer in range(SIZES.layers)] == [False, True]


def test_an_fp8_model_of_transformer_engines_parts_runs_with_stand_ins():
    layout = alone()
    megatron = transformer_config(SIZES, layout=layout.model, precision=Fp8("current"), on_gpu=False)
    parts = te_parts_of(fake_te)
    encoder = Transformer(SIZES, megatron=megatron, vocabulary=VOCABULARY, groups=layout.groups, parts=parts)
    draw_weights(encoder, SIZES, seed=1)
    (pack, *_) = drawn_step(0, replica=0, replicas=1).microbatches
    losses = encoder.bfloat16()(Pack.of(pack, torch.device("cpu")))
    assert losses.dtype == torch.float32
    assert torch.isfinite(losses).all()


def kept_bytes(encoder):
    """Memory of what the backward pass needs, weights not counted."""
    weights = {p.untyped_storage().data_ptr() for p in encoder.parameters()}
    kept = {}

    def pack_hook(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    (pack, *_) = drawn_step(0, replica=0, replicas=1).microbatches
    with torch.autograd.graph.saved_tensors_hooks(pack_hook, lambda tensor: tensor):
        encoder.hidden_states(Pack.of(pack, torch.device("cpu")))
    return sum(kept.values())


def test_recomputation_keeps_less_for_the_backward_pass():
    sizes = {r: replace(alone().model, recompute=r) for r in ("none", "selective", "full")}
    shape = {"vocabulary": VOCABULARY, "groups": alone().groups, "precision": "fp32", "seed": 1}
    kept = {
        r: kept_bytes(build_transformer(SIZES.replace(layers=4), layout=size, **shape)) for r, size in sizes.items()
    }
    assert kept["selective"] < 0.75 * kept["none"]
    assert kept["full"] < 0.25 * kept["none"]
