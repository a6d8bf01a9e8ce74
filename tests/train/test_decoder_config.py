"""Settings of decoders: what does not go together is refused with the key, the numbers and the way out."""

from __future__ import annotations

import pytest

from scmf.core.errors import ConfigError
from scmf.model.config import ClmTask, DecoderConfig
from scmf.train.config import MainConfig
from scmf.train.recipe import RecipeArguments
from scmf.train.recipes import find_recipe

THREE_SHARDS = [
    "trainer.parallel.fsdp=true",
    "trainer.devices=3",
    "data.global_batch_size=9",
    "model.hidden=48",
    "model.ffn=96",
    "model.pad_vocabulary_to=6",
]


def char_test(*overrides):
    return find_recipe("char-gpt-test").config(RecipeArguments(overrides=overrides))


@pytest.mark.parametrize(
    ("overrides", "what", "fix"),
    [
        pytest.param(
            ["model.kind=encoder"],
            "model.task.kind=clm asks for a causal model, and a token of model.kind=encoder sees the whole",
            "write model.kind: decoder, or task: {kind: mlm}",
            id="encoder that predicts next tokens",
        ),
        pytest.param(
            ["model.task={kind: mlm}"],
            "model.task.kind=mlm asks for a bidirectional model, and a token of model.kind=decoder sees only itself",
            "write model.kind: encoder, or task: {kind: clm}",
            id="decoder that fills masks",
        ),
        pytest.param(
            ["model.positions=rotary", "model.hidden=30"],
            "model.positions=rotary turns pairs of a head's numbers, and model.hidden=30 over model.heads=2",
            "use a hidden that is a multiple of 2 x heads",
            id="rotary over odd heads",
        ),
        pytest.param(
            ["model.positions=sinusoidal", "model.hidden=31", "model.heads=1"],
            "model.positions=sinusoidal takes a sine and a cosine of each wavelength, and model.hidden=31 is odd",
            "use an even hidden",
            id="sinusoids over an odd width",
        ),
        pytest.param(["model.positions=alibi"], "'learned', 'sinusoidal' or 'rotary'", "", id="unknown positions"),
        pytest.param(["model.task.label_smoothing=1.0"], "label_smoothing", "", id="nothing left of the target"),
        pytest.param(["model.task.label_smothing=0.1"], "label_smothing", "label_smoothing", id="misspelt"),
        pytest.param(
            THREE_SHARDS,
            "data.tokenizer.seq_length=32 makes matrices of 32 positions",
            "use seq_length: 33",
            id="learned positions that three ranks cannot share",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_with_the_way_out(overrides, what, fix):
    with pytest.raises(ConfigError) as refused:
        char_test(*overrides)
    text = str(refused.value)
    assert what in text
    assert fix in text


def test_computed_positions_are_no_matrix_that_ranks_would_have_to_share():
    assert char_test(*THREE_SHARDS, "model.positions=rotary").model.positions == "rotary"


def test_a_task_without_a_kind_is_the_backbones_own():
    document = char_test().model_dump(mode="json", by_alias=True)
    document["model"]["task"] = {"label_smoothing": 0.2}
    model = MainConfig.parse(document, source="test").model
    assert isinstance(model, DecoderConfig)
    assert model.task == ClmTask(label_smoothing=0.2)
