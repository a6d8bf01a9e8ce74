"""The two tables of parts: the same weights under the same keys, and honest refusals without a GPU."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from scmf.core.errors import MachineError
from scmf.model.config import EncoderConfig
from scmf.model.device import has_gpu
from scmf.model.encoder import Encoder
from scmf.model.initial import draw_weights, global_names
from scmf.model.megatron import IdentityOp
from scmf.model.pack import Pack
from scmf.model.spec import choose_kernels, layer_spec, local_parts, te_parts_of, transformer_engine_parts
from scmf.model.transformer_config import transformer_config
from support import fake_te
from support.alone import alone
from support.tiny import VOCABULARY, drawn_step

SIZES = EncoderConfig(layers=2, hidden=64, ffn=128, heads=4)


def build(parts, norm):
    layout = alone()
    config = SIZES.replace(norm=norm)
    megatron = transformer_config(config, layout=layout.model, precision="fp32", on_gpu=False)
    encoder = Encoder(config, megatron=megatron, vocabulary=VOCABULARY, groups=layout.groups, parts=parts)
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
    assert choose_kernels() == "local"
    with pytest.raises(MachineError, match="needs a CUDA device") as refused:
        transformer_engine_parts()
    assert "pip install" in refused.value.fix
