"""The decoder on packs of text: no token sees a later one, and the numbers are those of a plain GPT."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, embedding, gelu, layer_norm, linear

from scmf.core.batch import Microbatch
from scmf.model.config import DecoderConfig, EncoderConfig
from scmf.model.initial import draw_weights
from scmf.model.pack import Pack
from scmf.model.spec import layer_spec, local_parts, te_parts_of
from scmf.model.transformer import Transformer, VocabularyShape
from scmf.model.transformer_config import transformer_config
from scmf.train.engine import count_parameters
from support import fake_te
from support.alone import alone, small_decoder

TEXT = "Before we proceed any further, hear me speak. Speak, speak. You are all resolved rather to die than to famish?"
SHAPE = VocabularyShape(size=120, seq_length=64)
LENGTHS = [40, 7, 1, 60]
CPU = torch.device("cpu")
POSITIONS = ["learned", "sinusoidal", "rotary"]


def windows(lengths=LENGTHS):
    """Rows of a window's ids, one longer than its input, from the text's characters."""
    ids = np.frombuffer(TEXT.encode(), np.uint8).astype(np.int32)
    return [np.roll(ids, -11 * i)[: length + 1] for i, length in enumerate(lengths)]


def pack_of(rows, width=128):
    """Windows end to end, a padding segment behind them; every real position is a target."""
    lengths = [len(row) - 1 for row in rows]
    used = sum(lengths)
    segments = [*lengths, width - used] if width > used else lengths
    return Microbatch(
        input_ids=np.concatenate([*(row[:-1] for row in rows), np.zeros(width - used, np.int32)]).astype(np.int32),
        positions=np.concatenate([np.arange(n) for n in segments]).astype(np.int32),
        cu_seqlens=np.cumsum([0, *segments]).astype(np.int32),
        target_positions=np.arange(used, dtype=np.int32),
        targets=np.concatenate([row[1:] for row in rows]).astype(np.int32),
        cell_ids=np.arange(len(rows)),
        tokens=used,
        longest=SHAPE.seq_length,
    )


def hidden(model, batch):
    with torch.no_grad():
        return model.hidden_states(Pack.of(batch, CPU))


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_changing_a_token_leaves_every_earlier_one_and_every_other_segment_bit_identical(norm, positions):
    model = small_decoder(SHAPE, norm=norm, positions=positions).eval()
    batch = pack_of(windows())
    at, end = 25, LENGTHS[0]
    changed = batch.input_ids.copy()
    changed[at] = 119 - changed[at]
    before, after = hidden(model, batch), hidden(model, replace(batch, input_ids=changed))
    outside = np.r_[0:at, end : len(changed)]
    assert torch.equal(before[outside], after[outside])
    assert all(not torch.equal(before[i], after[i]) for i in range(at, end))


def test_with_dropout_too_no_token_sees_a_later_one():
    model = small_decoder(SHAPE, hidden_dropout=0.2, attention_dropout=0.3).train()
    batch = pack_of(windows())
    changed = batch.input_ids.copy()
    changed[25] = 119 - changed[25]
    results = []
    for ids in (batch.input_ids, changed):
        with torch.random.fork_rng():
            alone_states_repeat()
            results.append(hidden(model, replace(batch, input_ids=ids)))
    before, after = results
    outside = np.r_[0:25, LENGTHS[0] : len(changed)]
    assert torch.equal(before[outside], after[outside])
    assert not torch.equal(before[25 : LENGTHS[0]], after[25 : LENGTHS[0]])


def alone_states_repeat():
    """Every random state that a pass draws from, as a step begins."""
    from scmf.train.layout import seed_step

    seed_step(alone(), seed=5, step=0)


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_packed_and_one_at_a_time_give_the_same_losses_and_gradients(norm, positions):
    model = small_decoder(SHAPE, norm=norm, positions=positions)
    rows = windows()
    # A pack as long as a segment may be is the one in which Megatron counts rotary positions through all segments.
    short = [windows([30])[0], windows([34])[0]]
    for together, width in ((rows, 128), (short, SHAPE.seq_length)):
        packed, gradients = losses_and_gradients(model, [pack_of(together, width)])
        single, others = losses_and_gradients(model, [pack_of([row], len(row) - 1) for row in together])
        torch.testing.assert_close(packed, single, atol=1e-5, rtol=1e-5)
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, others[name], atol=1e-5, rtol=1e-4, msg=name)


def losses_and_gradients(model, batches):
    model.zero_grad()
    losses = torch.cat([model(Pack.of(batch, CPU)) for batch in batches])
    losses.mean().backward()
    return losses.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


def plain_gpt(weights, ids, *, positions, norm, heads=4, layers=2):
    """(L, V) scores of one window, in plain torch: GPT-2's formulas, from the weights by their names."""
    width = weights["embedding.word_embeddings.weight"].shape[1]
    x = embedding(ids, weights["embedding.word_embeddings.weight"])
    place = torch.arange(len(ids))
    turns = place[:, None] / 10_000 ** (torch.arange(0, width, 2) / width)
    if positions == "learned":
        x = x + weights["embedding.position_embeddings.weight"][place]
    elif positions == "sinusoidal":
        waves = torch.zeros(len(ids), width)
        waves[:, 0::2], waves[:, 1::2] = turns.sin(), turns.cos()
        x = x * math.sqrt(width) + waves

    def normed(value, name):
        return layer_norm(value, (width,), weights[name + ".weight"], weights[name + ".bias"], eps=1e-12)

    def dense(value, name):
        return linear(value, weights[name + ".weight"], weights[name + ".bias"])

    if norm == "post":
        x = normed(x, "embedding.norm")
    for layer in range(layers):
        block = f"decoder.layers.{layer}."
        y = normed(x, block + "input_layernorm") if norm == "pre" else x
        y = dense(plain_attention(dense(y, block + "self_attention.linear_qkv"), heads, positions == "rotary"),
                  block + "self_attention.linear_proj")  # fmt: skip
        x = x + y if norm == "pre" else normed(x + y, block + "post_attention_norm")
        y = normed(x, block + "pre_mlp_layernorm") if norm == "pre" else x
        y = dense(gelu(dense(y, block + "mlp.linear_fc1")), block + "mlp.linear_fc2")
        x = x + y if norm == "pre" else normed(x + y, block + "post_mlp_norm")
    if norm == "pre":
        x = normed(x, "decoder.final_layernorm")
    return x @ weights["embedding.word_embeddings.weight"].T


def plain_attention(qkv, heads, rotary):
    """(L, D) from (L, 3 D) in Megatron's order: query, key and value of a head side by side."""
    q, k, v = qkv.view(len(qkv), heads, 3, -1).permute(2, 1, 0, 3)
    if rotary:
        width = q.shape[-1]
        turn = torch.arange(len(qkv))[:, None] / 10_000 ** (torch.arange(0, width, 2) / width)
        q, k = (
            torch.cat([a * turn.cos() - b * turn.sin(), b * turn.cos() + a * turn.sin()], -1)
            for a, b in (t.chunk(2, -1) for t in (q, k))
        )
    scores = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])
    later = torch.ones(len(qkv), len(qkv), dtype=torch.bool).triu(1)
    return (scores.masked_fill(later, -math.inf).softmax(-1) @ v).transpose(0, 1).reshape(len(qkv), -1)


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_scores_and_losses_are_those_of_a_plain_gpt(norm, positions):
    model = small_decoder(SHAPE, norm=norm, positions=positions, init_std=0.2).eval()
    weights = {name: value.detach() for name, value in model.state_dict().items() if value is not None}
    rows = windows()
    expected = torch.cat([
        plain_gpt(weights, torch.tensor(row[:-1]).long(), positions=positions, norm=norm) for row in rows
    ])  # fmt: skip
    pack = Pack.of(pack_of(rows), CPU)
    with torch.no_grad():
        scores = model.logits(pack, pack.target_positions)
        losses = model(pack)
    torch.testing.assert_close(scores, expected[:, : SHAPE.size], atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(losses, cross_entropy(expected, pack.targets, reduction="none"), atol=2e-4, rtol=1e-4)


def test_labels_are_smoothed_over_the_vocabulary_without_its_padding_and_in_training_alone():
    smooth = small_decoder(SHAPE, task={"kind": "clm", "label_smoothing": 0.1}, init_std=0.2)
    plain = small_decoder(SHAPE, init_std=0.2)
    pack = Pack.of(pack_of(windows()), CPU)
    padded = plain.shared_embedding_or_output_weight()
    scores = plain.hidden_states(pack)[pack.target_positions] @ padded.T
    log_p = scores.log_softmax(1)  # over the padding as well: a model has to learn that it never comes
    target = log_p.gather(1, pack.targets[:, None]).squeeze(1)
    expected = -0.9 * target - 0.1 * log_p[:, : SHAPE.size].mean(1)
    losses = smooth.train()(pack)
    torch.testing.assert_close(losses, expected, atol=1e-5, rtol=1e-5)
    ours = torch.autograd.grad(losses.sum(), list(smooth.parameters()))
    theirs = torch.autograd.grad(expected.sum(), list(plain.parameters()))
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference, atol=1e-4, rtol=1e-4)
    assert torch.equal(smooth.eval()(pack), plain.eval()(pack))


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_the_formula_counts_the_parameters_that_are_built(norm, positions):
    config = DecoderConfig(layers=2, hidden=64, ffn=128, heads=4, norm=norm, positions=positions)
    built = count_parameters(small_decoder(SHAPE, norm=norm, positions=positions), alone())
    assert built == config.n_parameters(SHAPE.size, SHAPE.seq_length)


def of_parts(parts, config):
    layout = alone()
    megatron = transformer_config(config, layout=layout.model, precision="fp32", on_gpu=False)
    model = Transformer(config, megatron=megatron, vocabulary=SHAPE, groups=layout.groups, parts=parts)
    draw_weights(model, config, seed=1)
    return model.eval()


@pytest.mark.parametrize("positions", POSITIONS)
def test_both_sets_of_kernels_compute_the_same_decoder_from_the_same_names(positions):
    config = DecoderConfig(layers=2, hidden=64, ffn=128, heads=4, positions=positions)
    ours, theirs = of_parts(local_parts(), config), of_parts(te_parts_of(fake_te), config)
    keys = [
        {entry.key for key, entry in entries.items() if not key.endswith("_extra_state")}
        for entries in (m.sharded_state_dict(metadata={"dp_cp_group": alone().groups.dp_cp}) for m in (ours, theirs))
    ]
    assert keys[0] == keys[1]
    assert "decoder.layers.self_attention.linear_qkv.weight" in keys[0]
    assert not any("rotary" in key or "sinusoid" in key for key in keys[0])
    torch.testing.assert_close(ours(Pack.of(pack_of(windows()), CPU)), theirs(Pack.of(pack_of(windows()), CPU)))


@pytest.mark.parametrize("parts", [local_parts(), te_parts_of(fake_te)], ids=["local", "te"])
def test_attention_of_a_decoder_is_causal_and_packed_by_its_name(parts):
    layer = layer_spec(parts, "pre", ffn=128, causal=True).submodules
    assert layer.self_attention.params["attn_mask_type"].name == "padding_causal"


def test_rotary_positions_are_turned_by_the_fused_kernel_on_gpus_alone(monkeypatch):
    # Megatron's own class asks for the kernel at once, which is not there without a GPU.
    monkeypatch.setattr("scmf.model.transformer_config.TransformerConfig", dict)
    config = DecoderConfig(layers=1, hidden=8, ffn=8, heads=1, positions="rotary")
    place = {"layout": alone().model, "precision": "bf16"}
    assert transformer_config(config, on_gpu=True, **place)["apply_rope_fusion"]
    assert not transformer_config(config, on_gpu=False, **place)["apply_rope_fusion"]
    assert not transformer_config(config.replace(positions="learned"), on_gpu=True, **place)["apply_rope_fusion"]
    # The kernel is Transformer Engine's, and fp32 is computed without it.
    assert not transformer_config(config, on_gpu=True, **place | {"precision": "fp32"})["apply_rope_fusion"]


def test_an_encoder_may_have_rotary_positions_and_still_sees_both_ways():
    config = EncoderConfig(layers=2, hidden=64, ffn=128, heads=4, positions="rotary")
    model = of_parts(local_parts(), config)
    batch = pack_of(windows())
    changed = batch.input_ids.copy()
    changed[25] = 119 - changed[25]
    before, after = hidden(model, batch), hidden(model, replace(batch, input_ids=changed))
    assert not torch.equal(before[0], after[0])
    assert torch.equal(before[LENGTHS[0] :], after[LENGTHS[0] :])
    assert count_parameters(model, alone()) == config.n_parameters(SHAPE.size, SHAPE.seq_length)


def test_first_weights_have_gpt2s_spread_and_every_layer_is_drawn_by_its_name():
    model = small_decoder(SHAPE)
    one, two = (model.decoder.layers[i].mlp for i in range(2))
    assert one.linear_fc1.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert one.linear_fc2.weight.std().item() == pytest.approx(0.02 / 2, rel=0.05)  # / sqrt(2 x 2 layers)
    assert not torch.equal(one.linear_fc1.weight, two.linear_fc1.weight)
