"""`make demo`: from a counts file to a trained, interrupted and resumed encoder, with the curve against a baseline.

Runs the commands that a user would, and prints each before it runs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from scmf.core.errors import ConfigError, InputError, run_command
from scmf.data.masks import Corruption
from scmf.data.stream import Replica
from scmf.data.unigram import UnigramLoss, unigram_loss
from scmf.model.config import MlmTask
from scmf.train.config import MainConfig, load_config

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ROOT / "data" / "mix3cl_celseq2_dropseq_counts.h5ad"
MARK = ".made-by-scmf-demo"
BAR_WIDTH = 60
"""Characters a nat."""


def main() -> NoReturn:
    """Entry point; exits with 0, or with 1 and three lines on stderr."""
    run_command(demo)


def demo(argv: Sequence[str]) -> int:
    """Convert, write a recipe, train, stop it on purpose, resume, report.

    Args:
        argv: arguments without the program's name.
    """
    options = _parser().parse_args(argv)
    if not options.data.is_file():
        raise InputError("there is no such file", where=str(options.data), fix="make demo DATA=path/to/counts.h5ad")
    folder: Path = options.folder
    store, config, run = folder / "store", folder / "cfg.yaml", folder / "run"
    _begin(folder)
    sys.stdout.write(f"all goes to {folder}; if stopped, go on with: scmf-train --config {config} --resume auto\n")
    _call("scmf-store", "convert", options.data, "--dest", store)
    _call(
        "scmf-recipe",
        "--recipe",
        "demo",
        "--data-path",
        store,
        "--result-dir",
        run,
        "--dest",
        config,
        *options.overrides,
    )
    _train_and_kill(config, run)
    _call("scmf-train", "--config", config, "--resume", "auto")
    settings = load_config(config)
    _report(run, _baseline(settings), settings)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--data", type=Path, default=SHIPPED, help="counts to train on (.h5ad); the shipped ones")
    parser.add_argument("--folder", type=Path, default=Path("demo"), help="where everything is written")
    parser.add_argument("overrides", nargs="*", metavar="a.b=value", help="keys of the recipe to change")
    return parser


def _begin(folder: Path) -> None:
    """An empty folder; an earlier demo is removed, anything else is left alone."""
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARK).exists():
            raise ConfigError(
                "the folder holds something that is not a demo", where=str(folder), fix="name another with --folder"
            )
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).touch()


def _argv(command: str, *arguments: object) -> list[str]:
    """The command beside this Python, and the line that a user would type."""
    words = [command, *map(str, arguments)]
    sys.stdout.write(f"\n$ {' '.join(words)}\n")
    sys.stdout.flush()
    return [str(Path(sys.executable).with_name(command)), *words[1:]]


def _call(command: str, *arguments: object) -> None:
    """Run a command; when it fails it has said why, and the demo ends with its exit code."""
    code = subprocess.run(_argv(command, *arguments), check=False).returncode
    if code:
        sys.exit(code)


def _train_and_kill(config: Path, run: Path) -> None:
    """Start training and kill -9 it once it is past its second checkpoint."""
    process = subprocess.Popen(_argv("scmf-train", "--config", config), start_new_session=True)
    try:
        while process.poll() is None and len(list(run.glob("checkpoints/step_*"))) < 2:
            time.sleep(0.1)
        time.sleep(1.0)  # some steps past the checkpoint, which the resumed run computes again
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
    if code > 0:
        sys.exit(code)
    if code < 0:
        sys.stdout.write("\n-- killed on purpose (kill -9); it goes on from its last checkpoint --\n")


def _baseline(config: MainConfig) -> UnigramLoss:
    """The best guess that does not look at the cell, on the targets that the run validates on."""
    task = config.model.task
    if not isinstance(task, MlmTask):
        raise ConfigError("the baseline is for masked language models", where="model.task", fix="kind: mlm")
    corruption = Corruption(select=task.select, mask=task.mask, random=task.random)
    stream = config.data.open(objective=corruption, seed=config.trainer.seed, replica=Replica(), align=128)
    return unigram_loss(stream, batches=config.trainer.validation.batches)


def _report(run: Path, baseline: UnigramLoss, config: MainConfig) -> None:
    """The curve, the baseline, the speed, and where everything is."""
    lines: list[dict[str, Any]] = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    validated = [line for line in lines if "val/loss" in line]
    speed = statistics.median(line["speed/cells_per_s"] for line in lines if "speed/cells_per_s" in line)
    final = validated[-1]["val/loss"]
    out = [
        "",
        "loss on held-out cells, nats a masked token; the bars are what is gained over gene frequencies alone",
        "",
    ]
    out += [_bar(f"step {line['step']:>5,}", line["val/loss"], baseline.mean) for line in validated]
    out += [_bar("unigram   ", baseline.mean, baseline.mean), ""]
    gap = baseline.mean - final
    verdict = "below" if gap > 0 else "ABOVE"
    out += [
        f"the model is {abs(gap):.2f} nats {verdict} the unigram baseline, the best guess that ignores the cell",
        f"speed   {speed:.1f} cells/s (median), {config.data.tokenizer.seq_length:,} tokens a cell at most",
        f"run     {run}: config.yaml, run.json, metrics.jsonl, log.txt, checkpoints/",
        f"go on   scmf-recipe --recipe 10m-pretrain --data-path {config.data.store} --dest cfg.yaml",
    ]
    sys.stdout.write("\n".join(out) + "\n")


def _bar(name: str, loss: float, baseline: float) -> str:
    return f"  {name}  {loss:6.3f}  {'#' * round(BAR_WIDTH * max(0.0, baseline - loss))}".rstrip()


if __name__ == "__main__":
    main()
