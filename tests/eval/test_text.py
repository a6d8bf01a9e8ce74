"""A model that has learned one sentence by heart: what it writes, and what it loses on every character."""

from __future__ import annotations

import json

import pytest

from support.command import lines, run, succeed, three_lines

GREEDY = ("--temperature", "0")


def generate(source, *arguments):
    return run("scmf-predict", "generate", "--run", source, *arguments)


def texts(source, *arguments):
    out = succeed("scmf-predict", "generate", "--run", source, "--json", *arguments)
    return [json.loads(line) for line in out.splitlines()]


def perplexity(source, split):
    return json.loads(succeed("scmf-eval", "perplexity", "--run", source, "--split", split, "--json"))


def test_a_text_that_was_learned_is_continued_as_it_was_learned(text_run):
    result = generate(text_run.folder, "--prompt", "the quick ", "--max-new-tokens", "50", *GREEDY)
    assert result.stdout == "the quick brown fox jumps over the lazy dog.\nthe quick brown fox\n"[: 10 + 50] + "\n"
    assert result.stderr.startswith("model  weights of step 150")


def test_a_text_ends_before_its_stop_text(text_run):
    [text] = texts(text_run.folder, "--prompt", "the quick ", "--stop", "lazy", "--stop", r"\n", *GREEDY)
    assert text == {
        "number": 0,
        "prompt": "the quick ",
        "text": "brown fox jumps over the ",
        "tokens": 29,
        "ended_by": "stop",
    }


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("the \njumps\n\no\nthe \n" + "the quick brown fox jumps over the lazy " * 2 + "\n")
    return path


def test_a_seed_repeats_its_texts_whatever_the_batch_and_another_seed_gives_others(text_run, prompts):
    asked = ("--prompts-file", prompts, "--temperature", "3", "--max-new-tokens", "40")
    once = texts(text_run.folder, *asked)
    assert [text["prompt"][:5] for text in once] == ["the ", "jumps", "o", "the ", "the q"]
    assert texts(text_run.folder, *asked, "--batch", "1") == once
    assert once[0]["text"] != once[3]["text"]
    assert texts(text_run.folder, *asked, "--seed", "7") != once


def test_of_a_prompt_longer_than_the_window_the_end_is_seen_and_that_is_said(text_run, prompts):
    result = generate(text_run.folder, "--prompts-file", prompts, "--max-new-tokens", "3", *GREEDY)
    assert "note   prompt 5 has 80 characters; the model sees the last 32 of a text" in result.stderr
    assert result.stdout.endswith("over the lazy dog\n")
    assert "--- prompt 2 of 5\njumps ov\n" in result.stdout


def test_an_empty_prompt_is_the_beginning_of_a_text(text_run):
    [text] = texts(text_run.folder, "--prompt", "", "--max-new-tokens", "5")
    assert len(text["text"]) == 5


def test_a_prompt_in_json_may_hold_line_breaks(text_run, tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "dog.\\nthe quick"}\n')
    [text] = texts(text_run.folder, "--prompts-file", path, "--max-new-tokens", "6", *GREEDY)
    assert (text["prompt"], text["text"]) == ("dog.\nthe quick", " brown")


def test_a_character_that_was_never_seen_is_refused_by_prompt_and_place(text_run):
    what, where, _ = three_lines(generate(text_run.folder, "--prompt", "the quick Fox"))
    assert "'F' (U+0046 LATIN CAPITAL LETTER F) at offset 10" in what
    assert where == "prompt 1: 'the quick Fox'"


def test_every_character_of_a_text_is_predicted_once_and_the_loss_is_the_trainers(text_run):
    found = {split: perplexity(text_run.folder, split) for split in ("train", "validation")}
    out = succeed("scmf-eval", "perplexity", "--run", text_run.folder, "--split", "test")
    held_out = round(0.1 * len(text_run.text))
    assert [part["targets"] for part in found.values()] == [len(text_run.text) - 2 * held_out, held_out]
    assert all(part["targets"] == part["tokens"] for part in found.values())
    assert f"targets  {held_out} characters, each predicted from those before it in its window\n" in out
    assert "bits a character; perplexity" in out
    assert found["validation"]["nats"] == lines(text_run.folder / "metrics.jsonl")[-1]["val/loss"]
    assert (found["validation"]["noun"], found["validation"]["measure"]) == ("window", "perplexity")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["--prompt", "x", "--temperature", "-1"], "--temperature is -1.0", id="temperature"),
        pytest.param(["--prompt", "x", "--max-new-tokens", "0"], "--max-new-tokens is 0", id="length"),
        pytest.param(["--prompt", "x", "--stop", ""], "--stop is empty", id="stop"),
        pytest.param(["--prompts-file", "nowhere.txt"], "No such file", id="missing file"),
        pytest.param([], "--prompt", id="no prompt"),
        pytest.param(["--prompt", "x", "--temprature", "1"], "did you mean --temperature", id="misspelt option"),
    ],
)
def test_a_wrong_option_is_told_in_three_lines_before_a_model_is_read(arguments, said, tmp_path):
    what, _, _ = three_lines(generate(tmp_path / "no-run", *arguments))
    assert said in what


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(b"\n\n", "no prompt in this file", id="empty"),
        pytest.param(b"caf\xe9", "byte 3 is no UTF-8", id="latin-1"),
        pytest.param(b'{"prompt": 3}', 'no text under "prompt"', id="number"),
        pytest.param(b"{", "this is no JSON", id="broken"),
    ],
)
def test_a_file_that_holds_no_prompts_is_told(content, said, tmp_path):
    path = tmp_path / ("p.jsonl" if content.startswith(b"{") else "p.txt")
    path.write_bytes(content)
    what, _, _ = three_lines(generate(tmp_path / "no-run", "--prompts-file", path))
    assert said in what
