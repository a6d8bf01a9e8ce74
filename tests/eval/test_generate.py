"""Generation token by token, on a small causal model with drawn weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scmf.core.errors import CheckpointError
from scmf.eval.generate import Limits, NextToken, continue_texts, lay_texts
from scmf.eval.sampling import Sampling
from scmf.model.config import DecoderConfig
from scmf.model.pack import Pack
from scmf.model.transformer import VocabularyShape, build_transformer
from support.alone import alone

SEQ_LENGTH, VOCABULARY, CPU = 16, 40, torch.device("cpu")
PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14, 15, 16, 17, 18], [5, 6, 7], list(range(3, 30))]
ALLOWED = np.arange(VOCABULARY) >= 3


@pytest.fixture(scope="module", params=["learned", "sinusoidal", "rotary"])
def model(request):
    layout = alone()
    built = build_transformer(
        DecoderConfig(layers=2, hidden=32, ffn=64, heads=4, positions=request.param, init_std=0.4),
        vocabulary=VocabularyShape(size=VOCABULARY, seq_length=SEQ_LENGTH),
        groups=layout.groups,
        layout=layout.model,
        precision="fp32",
        seed=3,
    ).eval()
    return NextToken(built, device=CPU, seq_length=SEQ_LENGTH, allowed=ALLOWED)


SAMPLING, LIMITS = Sampling(temperature=8.0, seed=5), Limits(20)


def texts(model, prompts, *, sampling=SAMPLING, batch=8, limits=LIMITS):
    found = continue_texts(model, prompts, sampling=sampling, limits=limits, batch=batch)
    return {text.number: text.ids for text in found}


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_texts_do_not_depend_on_what_is_generated_beside_them(model, batch):
    together = texts(model, PROMPTS)
    assert texts(model, PROMPTS, batch=batch) == together
    assert together[0] != together[3]  # the same prompt, another number
    assert all(len(ids) == 20 for ids in together.values())


def test_scores_of_a_text_are_those_that_it_has_alone_to_rounding(model):
    each = np.concatenate([model.scores([prompt]) for prompt in PROMPTS])
    assert np.abs(model.scores(PROMPTS)[:, ALLOWED] - each[:, ALLOWED]).max() < 1e-4
    assert np.isneginf(each[:, ~ALLOWED]).all()


def test_a_seed_repeats_its_texts_and_another_seed_gives_others(model):
    assert texts(model, PROMPTS) == texts(model, PROMPTS)
    assert texts(model, PROMPTS) != texts(model, PROMPTS, sampling=Sampling(temperature=8.0, seed=6))


@torch.no_grad()
def test_greedy_takes_the_token_of_the_highest_score_of_a_forward_pass(model):
    [ids] = texts(model, [[5, 6, 7]], sampling=Sampling(temperature=0.0), limits=Limits(10)).values()
    whole = np.array([5, 6, 7, *ids], np.int32)
    # One pass over the whole text: a causal model sees at each place what it saw when that token was chosen.
    logits = model._model.logits(Pack.of(lay_texts([whole]), CPU), torch.arange(2, 12)).numpy()
    assert np.argmax(np.where(ALLOWED, logits, -np.inf), axis=1).tolist() == list(ids)


def test_of_a_text_longer_than_the_window_the_model_sees_the_last_tokens(model):
    long = list(range(3, 30))
    assert (model.scores([long]) == model.scores([long[-SEQ_LENGTH:]])).all()
    assert texts(model, [long], limits=Limits(3))[0] == texts(model, [long], limits=Limits(9))[0][:3]


def test_tokens_that_are_not_allowed_are_never_chosen(model):
    drawn = texts(model, [[3]] * 20, sampling=Sampling(temperature=50.0), limits=Limits(15), batch=20)
    assert min(min(ids) for ids in drawn.values()) >= 3


def test_a_text_ends_where_its_end_is_met_and_the_others_go_on(model):
    free = texts(model, PROMPTS)
    cut = {number: next(i for i in range(1, 21) if i == 20 or ids[i - 1] % 5 == 0) for number, ids in free.items()}
    ended = list(
        continue_texts(
            model,
            PROMPTS,
            sampling=SAMPLING,
            limits=Limits(20, ends=lambda new: new[-1] % 5 == 0),
            batch=2,
        )
    )
    assert {text.number: text.ids for text in ended} == {n: ids[: cut[n]] for n, ids in free.items()}
    assert {text.ended_by for text in ended if text.ids[-1] % 5 == 0} == {"stop"}
    assert len({cut[n] for n in cut}) > 1


def test_spoilt_weights_are_told_and_nothing_is_made_up(model):
    class Spoilt:
        def logits(self, _pack, positions):
            return torch.full((len(positions), VOCABULARY), torch.nan)

    spoilt = NextToken(Spoilt(), device=CPU, seq_length=SEQ_LENGTH, allowed=ALLOWED)
    with pytest.raises(CheckpointError, match="not numbers"):
        spoilt.scores([[1]])
