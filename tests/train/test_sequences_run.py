"""Runs on a store of sequences: the encoder trains on ready tokens as on cells, and goes on where it was cut."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scmf.data.any_vocabulary import read_vocabulary
from scmf.data.ledger import LEDGER
from scmf.data.sequences.convert import convert_tokens
from scmf.data.sequences.store import SequenceStore
from scmf.data.vocabulary import load_vocabulary
from support.command import run, succeed

CONFIG = """
data:
  kind: sequences
  store: {store}
  tokenizer: {{kind: stored, seq_length: 48}}
  split: {{kind: hash, validation: 0.2}}
  global_batch_size: 8
  microbatch_tokens: 256
  workers: 0
model: {{kind: encoder, layers: 1, hidden: 16, ffn: 32, heads: 2}}
trainer:
  max_steps: 6
  optimizer: {{kind: adamw, lr: 1.0e-2}}
  schedule: {{kind: cosine, warmup_steps: 1}}
  validate: {{every: 6, batches: 2}}
  checkpoint: {{every: 3}}
  log: {{every: 1, cell_ids: true}}
  result_dir: {run}
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Eighty cells, each a few of forty genes in an order of its own."""
    folder = tmp_path_factory.mktemp("ready")
    rng = np.random.default_rng(1)
    rows = [(2 + rng.permutation(40)[: rng.integers(10, 40)]).tolist() for _ in range(80)]
    pq.write_table(pa.table({"input_ids": rows}), folder / "t.parquet")
    convert_tokens([folder / "t.parquet"], folder / "store", load_vocabulary("geneformer-v1"), log=lambda _: None)
    return folder / "store"


def metrics(folder):
    kept = ("step", "epoch", "cells_seen", "train/loss", "val/loss")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: line[key] for key in kept if key in line} for line in lines]


def test_an_encoder_trains_on_ready_tokens_and_goes_on_where_it_was_cut(store, tmp_path):
    config = tmp_path / "cfg.yaml"
    config.write_text(CONFIG.format(store=store, run=tmp_path / "run"))
    out = succeed("scmf-train", "--config", config)
    assert "validation sequences; vocabulary geneformer-v1 (25,426 tokens)" in out
    assert "8 sequences a step" in out
    assert "order  random sequences" in out
    assert (out.count(" sequences/s  "), out.count("cells/s")) == (6, 0)  # rates are of what the store has
    whole = metrics(tmp_path / "run")
    assert [line["step"] for line in whole] == [1, 2, 3, 4, 5, 6]
    assert whole[-1]["train/loss"] < whole[0]["train/loss"] - 0.3
    newest = tmp_path / "run" / "checkpoints" / "step_00000006"
    stored = read_vocabulary(newest / "vocabulary.parquet")
    assert stored.fingerprint == SequenceStore.open(store).vocabulary.fingerprint
    assert not (newest / LEDGER).exists()  # a ledger is of cells
    shutil.rmtree(newest)
    assert "resumed at step 3 after 24 sequences" in succeed("scmf-train", "--config", config, "--resume", "auto")
    assert metrics(tmp_path / "run") == whole


def test_a_store_that_is_not_there_is_told_at_once(tmp_path):
    config = tmp_path / "cfg.yaml"
    config.write_text(CONFIG.format(store=tmp_path / "none", run=tmp_path / "run"))
    result = run("scmf-train", "--config", config)
    assert result.returncode == 1
    assert result.stderr.startswith("error: there is no such store\n")
    assert not (tmp_path / "run").exists()
