"""The engine's regression model: `char-gpt-test` on shipped text meets recorded losses, alone and on several ranks.

The numbers change only in a commit that says why. They were recorded on one CPU process with AVX-512; the same steps
with AVX2, with SSE alone and with two threads stay within 4e-5.
"""

from __future__ import annotations

import pytest

from scmf.data.sequences.convert import convert_text
from support.ranks import run_ranks
from support.text import OPENING, curve_on_ranks, fit

TRAINING = (
    4.152532, 3.994188, 3.938291, 3.743556, 3.601432, 3.503861, 3.416305, 3.327529, 3.449015, 3.295099,
    3.160148, 3.437611, 3.264273, 3.325758, 3.255467, 3.385086, 3.325564, 3.467136, 3.503318, 3.176563,
    3.215216, 3.194287, 3.193243, 3.614999, 3.182029, 3.285022, 3.120333, 3.270756, 3.311968, 3.316765,
)  # fmt: skip
"""Nats a character, steps 1 to 30."""
VALIDATION = 3.217901
TENSOR = "trainer.parallel.tensor=2"
PIPELINE = "trainer.parallel.pipeline=2"
SEQUENCE = "trainer.parallel.sequence=true"


@pytest.fixture(scope="module")
def opening(tmp_path_factory):
    """The shipped text as a store."""
    dest = tmp_path_factory.mktemp("text") / "store"
    convert_text([OPENING], dest, log=lambda _: None)
    return dest


@pytest.mark.parametrize(
    ("ranks", "overrides"),
    [
        pytest.param(1, [], id="one process"),
        pytest.param(2, [TENSOR, SEQUENCE], id="TP2xSP"),
        pytest.param(2, [PIPELINE], id="PP2"),
        pytest.param(2, [], id="DP2"),
    ],
)
def test_a_character_gpt_meets_the_recorded_losses(ranks, overrides, opening):
    run = curve_on_ranks(opening, ranks, *overrides)
    differences = [abs(here - recorded) for here, recorded in zip(run["training"], TRAINING, strict=True)]
    assert max(differences[:5]) < 1e-4
    assert max(differences) < 1e-3
    assert run["validation"] == pytest.approx(VALIDATION, abs=1e-3)


def test_a_thousand_characters_are_learned_in_two_epochs_with_falling_validation_loss(tmp_path):
    text, store = tmp_path / "text.txt", tmp_path / "store"
    text.write_text(OPENING.read_text()[:1000])
    convert_text([text], store, log=lambda _: None)
    characters = len(set(text.read_text()))
    overrides = (
        f"data.tokenizer.characters={characters}",
        "data.tokenizer.seq_length=16",
        "data.global_batch_size=1",
        "data.split={kind: contiguous, validation: 0.1, test: 0}",
        "model.positions=rotary",
        "trainer.max_steps=null",
        "trainer.max_epochs=2",
        "trainer.optimizer.lr=3e-3",
        "trainer.validate={every: 29, batches: 8}",
        "trainer.checkpoint.every=1000",
    )
    (lines,) = run_ranks(fit, 1, store, tmp_path / "run", overrides)
    assert lines[-1]["epoch"] == pytest.approx(2.0, abs=0.02)
    held_out = [line["val/loss"] for line in lines if "val/loss" in line]
    assert len(held_out) == 4
    assert held_out == sorted(held_out, reverse=True)
    assert held_out[0] - held_out[-1] > 0.1
