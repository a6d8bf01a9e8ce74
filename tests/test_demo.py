"""`make demo` on the shipped counts, shortened: it learns more than gene frequencies, survives a kill, and says so."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.command import environment, lines

SCRIPT = Path(__file__).parents[1] / "scripts" / "demo.py"
SHORTER = ["trainer.max_steps=120", "trainer.checkpoint.every=20", "trainer.validate.every=20"]


def demo(folder, *arguments):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        cwd=folder,
        env=environment(OMP_NUM_THREADS="2"),
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    result = demo(folder, *SHORTER)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder / "demo" / "run", result.stdout


def test_the_trained_loss_on_held_out_cells_is_clearly_below_the_unigram_baseline(finished):
    run, out = finished
    (gap,) = re.findall(r"the model is ([\d.]+) nats below the unigram baseline", out)
    (baseline,) = re.findall(r"unigram +([\d.]+)", out)
    final = [line["val/loss"] for line in lines(run / "metrics.jsonl") if "val/loss" in line][-1]
    assert float(gap) == pytest.approx(float(baseline) - final, abs=0.01)
    assert float(gap) > 0.25


def test_the_demo_is_killed_once_and_goes_on(finished):
    run, out = finished
    assert "killed on purpose" in out
    assert re.search(r"resumed at step \d+", out)
    steps = [line["step"] for line in lines(run / "metrics.jsonl")]
    assert steps == sorted(set(steps))
    assert steps[-1] == 120
    assert len(json.loads((run / "run.json").read_text())["starts"]) == 2


def test_the_demo_stays_under_four_gigabytes(finished):
    run, _ = finished
    assert max(line.get("memory/peak_bytes", 0) for line in lines(run / "metrics.jsonl")) < 4e9


def test_the_demo_prints_every_command_that_it_runs(finished):
    _, out = finished
    shown = re.findall(r"^\$ (scmf-\w+)", out, re.MULTILINE)
    assert shown == ["scmf-store", "scmf-recipe", "scmf-train", "scmf-train"]


def test_a_file_that_is_not_there_is_told(tmp_path):
    result = demo(tmp_path, "--data", "absent.h5ad")
    assert result.returncode == 1
    assert result.stderr.splitlines() == [
        "error: there is no such file",
        "  where: absent.h5ad",
        "  fix:   make demo DATA=path/to/counts.h5ad",
    ]


def test_a_folder_of_the_users_is_not_removed(tmp_path):
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "thesis.txt").write_text("mine")
    result = demo(tmp_path)
    assert result.returncode == 1
    assert "not a demo" in result.stderr
    assert (tmp_path / "demo" / "thesis.txt").read_text() == "mine"


def test_counts_that_are_not_raw_stop_the_demo_with_the_refusal(tmp_path):
    awkward = SCRIPT.parents[1].parent / "shared" / "data" / "awkward" / "pbmc68k_reduced_scaled_negative.h5ad"
    if not awkward.exists():
        pytest.skip("needs ../shared/data/awkward")
    result = demo(tmp_path, "--data", str(awkward))
    assert result.returncode == 1
    assert "SCMF-D" in result.stderr
    assert "Traceback" not in result.stderr
