"""The whole encoder on packs of real cells: cells are kept apart, and every way to batch gives the same numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from scmf.data.collate import Collator
from scmf.data.masks import Corruption
from scmf.data.packing import packed_layout, padded_layout
from scmf.data.rank import RankTokenizer
from scmf.data.vocabulary import load_vocabulary
from scmf.model.config import EncoderConfig
from scmf.model.pack import Pack
from scmf.model.transformer import VocabularyShape
from scmf.train.engine import count_parameters
from support.alone import alone, small_encoder

SEQ = 256
CELLS = np.array([3, 50, 77, 120, 121, 199])


@pytest.fixture(scope="module")
def vocabulary():
    return load_vocabulary("geneformer-v1")


@pytest.fixture(scope="module")
def shape(vocabulary):
    return VocabularyShape(size=len(vocabulary), seq_length=SEQ)


@pytest.fixture(scope="module")
def tokens(demo_store, vocabulary):
    """Six real cells, cut to different lengths so that packs and padding differ."""
    whole = RankTokenizer(vocabulary, gene_ids=demo_store.gene_ids, seq_length=SEQ).encode(demo_store, CELLS)
    keep = [256, 31, 200, 97, 128, 5]
    rows = [whole.ids[start : start + n] for start, n in zip(whole.offsets[:-1], keep, strict=True)]
    return replace(whole, ids=np.concatenate(rows), offsets=np.cumsum([0, *keep]))


def batches(tokens, vocabulary, layout):
    collator = Collator(vocabulary, SEQ, Corruption(select=0.15, mask=0.8, random=0.1))
    keys = np.full(len(CELLS), 12345, np.uint64)
    return collator.collate(tokens, cell_ids=CELLS, keys=keys, layout=layout)


def loss_and_gradients(encoder, microbatches):
    encoder.zero_grad()
    losses = [encoder(Pack.of(m, torch.device("cpu"))) for m in microbatches]
    total, count = sum(x.sum() for x in losses), sum(len(x) for x in losses)
    (total / count).backward()
    return (total / count).item(), {name: p.grad.clone() for name, p in encoder.named_parameters()}


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_changing_one_cell_leaves_every_other_cell_bit_identical(norm, tokens, vocabulary, shape):
    encoder = small_encoder(shape, norm=norm).eval()
    (pack,) = batches(tokens, vocabulary, packed_layout(tokens.lengths, budget=1024, align=128))
    before = encoder.hidden_states(Pack.of(pack, torch.device("cpu")))
    start, stop = int(pack.cu_seqlens[1]), int(pack.cu_seqlens[2])
    changed = pack.input_ids.copy()
    changed[start:stop] = np.roll(changed[start:stop], 1) % 1000 + 2
    after = encoder.hidden_states(Pack.of(replace(pack, input_ids=changed), torch.device("cpu")))
    outside = np.r_[0:start, stop : len(changed)]
    assert torch.equal(before[outside], after[outside])
    assert not torch.equal(before[start:stop], after[start:stop])


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_packed_padded_and_one_at_a_time_give_the_same_loss_and_gradients(norm, tokens, vocabulary, shape):
    encoder = small_encoder(shape, norm=norm)
    ways = {
        "packed": packed_layout(tokens.lengths, budget=1024, align=128),
        "two packs": packed_layout(tokens.lengths, budget=512, align=128),
        "padded": padded_layout(tokens.lengths, cells=3, align=128),
        "one at a time": padded_layout(tokens.lengths, cells=1, align=1),
    }
    results = {name: loss_and_gradients(encoder, batches(tokens, vocabulary, way)) for name, way in ways.items()}
    loss, gradients = results.pop("one at a time")
    for name, (other_loss, other_gradients) in results.items():
        assert abs(other_loss - loss) < 1e-5, name
        for key, gradient in gradients.items():
            difference = (other_gradients[key] - gradient).abs().max().item()
            assert difference < 1e-5, f"{name}: {key}"


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_the_formula_counts_the_parameters_that_are_built(norm, shape):
    encoder = small_encoder(shape, norm=norm)
    config = EncoderConfig(layers=2, hidden=64, ffn=128, heads=4, norm=norm)
    assert count_parameters(encoder, alone()) == config.n_parameters(shape.size, shape.seq_length)


def test_the_10m_recipe_builds_the_parameters_it_says():
    from scmf.train.recipes import find_recipe

    model = find_recipe("10m-pretrain").config().model
    shape = VocabularyShape(size=25_426, seq_length=2048)
    sizes = {"layers": model.layers, "hidden": model.hidden, "ffn": model.ffn, "heads": model.heads}
    assert count_parameters(small_encoder(shape, **sizes), alone()) == 10_300_032


def test_dropout_makes_training_random_and_evaluation_not(tokens, vocabulary, shape):
    encoder = small_encoder(shape, hidden_dropout=0.1, attention_dropout=0.1)
    (pack,) = batches(tokens, vocabulary, packed_layout(tokens.lengths, budget=1024, align=128))
    on_device = Pack.of(pack, torch.device("cpu"))
    assert not torch.equal(encoder(on_device), encoder(on_device))
    encoder.eval()
    assert torch.equal(encoder(on_device), encoder(on_device))


def test_initial_weights_follow_seed_and_name_and_have_the_spread_asked_for(shape):
    one, two = small_encoder(shape), small_encoder(shape)
    for (name, a), (_, b) in zip(one.named_parameters(), two.named_parameters(), strict=True):
        assert torch.equal(a, b), name
    first = one.encoder.layers[0].mlp.linear_fc1.weight
    second = one.encoder.layers[1].mlp.linear_fc1.weight
    assert not torch.equal(first, second)
    assert first.std().item() == pytest.approx(0.02, rel=0.05)
    residual = one.encoder.layers[0].mlp.linear_fc2.weight
    assert residual.std().item() == pytest.approx(0.02 / 2, rel=0.05)  # / sqrt(2 x 2 layers)
    assert (one.encoder.layers[0].input_layernorm.weight == 1).all()
    assert (one.output_layer.bias == 0).all()
