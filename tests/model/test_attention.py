"""Attention inside segments, fused and with dropout, against plain softmax attention."""

from __future__ import annotations

import pytest
import torch

from scmf.model.attention import PackedAttention, segment_attention
from scmf.model.dropped_attention import Segments, drop_attention
from support.alone import alone

CPU = torch.device("cpu")
LENGTHS = [5, 1, 17, 9]


@pytest.fixture
def qkv():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(sum(LENGTHS), 2, 8, dtype=torch.float64, generator=generator) for _ in range(3)]


def plain(query, key, value, drop=None, dropout=0.0, causal=False):
    """softmax(q k / sqrt(E)) v of one segment, (L, A, E), with the dropped weights given."""
    q, k, v = (t.transpose(0, 1) for t in (query, key, value))
    scores = q @ k.transpose(1, 2) * q.size(-1) ** -0.5
    if causal:
        scores = scores + torch.full(scores.shape[1:], -torch.inf).triu(1)
    weights = torch.softmax(scores, -1)
    if drop is not None:
        weights = weights.masked_fill(drop, 0.0) / (1 - dropout)
    return (weights @ v).transpose(0, 1)


@pytest.mark.parametrize("causal", [False, True])
def test_each_segment_attends_to_itself_alone(qkv, causal):
    packed = segment_attention(*qkv, lengths=LENGTHS, dropout=0.0, causal=causal)
    each = [plain(*part, causal=causal) for part in zip(*(t.split(LENGTHS) for t in qkv), strict=True)]
    torch.testing.assert_close(packed, torch.cat(each))


@pytest.mark.parametrize("causal", [False, True])
def test_dropout_drops_weights_and_scales_what_is_left(qkv, causal):
    segments = Segments(LENGTHS, 0.25, device=CPU, causal=causal)
    packed = drop_attention(*(t.float() for t in qkv), segments)
    drops = [drop for _, drop in segments.drawn(2)]
    parts = zip(*(t.float().split(LENGTHS) for t in qkv), drops, strict=True)
    expected = [plain(*part, dropout=0.25, causal=causal) for part in parts]
    torch.testing.assert_close(packed, torch.cat(expected))


@pytest.mark.parametrize("causal", [False, True])
def test_the_gradient_with_dropout_is_that_of_plain_attention(qkv, causal):
    segments = Segments(LENGTHS, 0.25, device=CPU, causal=causal)
    inputs = [t.float().requires_grad_() for t in qkv]
    weight = torch.randn(sum(LENGTHS), 2, 8, generator=torch.Generator().manual_seed(2))
    ours = torch.autograd.grad((drop_attention(*inputs, segments) * weight).sum(), inputs)
    drops = [drop for _, drop in segments.drawn(2)]
    parts = zip(*(t.split(LENGTHS) for t in inputs), drops, strict=True)
    reference = torch.cat([plain(*part, dropout=0.25, causal=causal) for part in parts])
    for mine, theirs in zip(ours, torch.autograd.grad((reference * weight).sum(), inputs), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dropout", [0.02, 0.1, 0.5])
def test_dropout_drops_the_share_it_is_asked_for(dropout):
    drops = torch.cat([drop.flatten() for _, drop in Segments([300, 500], dropout, device=CPU).drawn(4)])
    error = (dropout * (1 - dropout) / drops.numel()) ** 0.5
    assert abs(drops.double().mean().item() - dropout) < 4 * error + 1 / 65_536


def test_equal_generator_states_drop_the_same_and_others_do_not():
    state = torch.get_rng_state()
    first, second = (Segments([64], 0.3, device=CPU) for _ in range(2))
    torch.set_rng_state(state)
    again = Segments([64], 0.3, device=CPU)
    (one,), (two,), (three,) = ([d for _, d in s.drawn(1)] for s in (first, second, again))
    assert torch.equal(one, three)
    assert not torch.equal(one, two)


def test_an_attention_mask_is_refused_rather_than_ignored():
    alone()
    from scmf.model.config import EncoderConfig
    from scmf.model.transformer_config import ModelLayout, transformer_config

    config = transformer_config(
        EncoderConfig(layers=1, hidden=8, ffn=8, heads=1), layout=ModelLayout(), precision="fp32", on_gpu=False
    )
    attention = PackedAttention(config, 1, None, "self")
    with pytest.raises(ValueError, match="no attention mask"):
        attention(*(torch.zeros(3, 1, 8) for _ in "qkv"), attention_mask=torch.ones(1))
