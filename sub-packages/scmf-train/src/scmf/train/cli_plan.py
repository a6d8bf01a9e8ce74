"""`scmf-plan`: a config goes in, what its run will take comes out. Needs no GPU, and torch only for --probe."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from shlex import join
from typing import NoReturn

from scmf.core.errors import ConfigError, StoreError, run_command
from scmf.data.manifest import expect_store
from scmf.data.step_stream import Replica, StepStream
from scmf.train.alignment import align_of
from scmf.train.bionemo_flags import TrainingParser
from scmf.train.config import MainConfig, load_config, with_steps
from scmf.train.objective import objective_of
from scmf.train.plan.advice import refuse_misfit
from scmf.train.plan.cost import ASSUMED_SHARE
from scmf.train.plan.estimate import Plan, assumed_speeds, calibrated, make_plan, measured_speed, target_share
from scmf.train.plan.lengths import read_lengths
from scmf.train.plan.probe_result import Measured
from scmf.train.plan.report import plan_lines, plan_values
from scmf.train.plan.target import THIS, Target, choose_target
from scmf.train.plan.workload import Workload, look_at_lengths, look_at_stream

_EXAMPLES = """\
examples:
  scmf-plan --config cfg.yaml --probe
  scmf-plan --config cfg.yaml --hardware h200 --devices 8
  scmf-plan --config cfg.yaml --hardware a100 --devices 8 --nodes 4 trainer.parallel.recompute=full
  scmf-plan --config cfg.yaml --hardware h100 --lengths 1442
  scmf-plan --config cfg.yaml --json
"""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Entry point; exits with 0, or with 1 and three lines on stderr."""
    run_command(plan_command, argv)


def plan_command(argv: Sequence[str]) -> int:
    """Run the command's body.

    Args:
        argv: arguments without the program's name.

    Raises:
        ScmfError: what the user can mend; a run that does not fit into the memory is one such thing.
    """
    options = _parser().parse_intermixed_args(_with_seconds(argv))
    config = load_config(options.config, [*options.overrides, *_device_words(options)])
    _refuse_what_does_not_go_together(options, config)
    target = choose_target(config, options.hardware)
    config, workload, n_validation = _look(config, target, options)
    plan = make_plan(config, target, workload)
    refuse_misfit(plan, _command(options))
    plan, measured = _with_speeds(plan, options, n_validation=n_validation)
    if options.json:
        sys.stdout.write(json.dumps(plan_values(plan, measured), indent=2) + "\n")
    else:
        sys.stdout.write("\n".join(plan_lines(plan, measured)) + "\n")
    return 0


def _with_seconds(argv: Sequence[str]) -> list[str]:
    """The words with 30 seconds behind a bare `--probe`, where argparse would take an override for the seconds."""
    words: list[str] = []
    for word, after in zip(argv, [*argv[1:], ""], strict=True):
        bare = word == "--probe" and not after.replace(".", "", 1).lstrip("-").isdecimal()
        words += [word, "30"] if bare else [word]
    return words


def _parser() -> argparse.ArgumentParser:
    parser = TrainingParser(
        prog="scmf-plan",
        description="Say what a run will take before it runs: work, memory, time.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="YAML or JSON written by scmf-recipe")
    parser.add_argument("overrides", nargs="*", metavar="a.b=value", help="keys of the config to change for this plan")
    parser.add_argument(
        "--hardware", default=THIS, metavar="NAME", help="h200, h100, a100, ...; this (default): the machine that asks"
    )
    parser.add_argument("--devices", type=_at_least_one, metavar="N", help="devices of a node (trainer.devices)")
    parser.add_argument("--nodes", type=_at_least_one, metavar="N", help="nodes (trainer.nodes)")
    parser.add_argument(
        "--probe",
        type=float,
        metavar="SECONDS",
        help="measure small steps of this config on this machine; --probe alone: for 30 s",
    )
    parser.add_argument(
        "--share",
        type=_share,
        metavar="LOW[,HIGH]",
        default=ASSUMED_SHARE,
        help="share of a GPU's peak to assume, such as 0.35 or 0.2,0.4",
    )
    parser.add_argument(
        "--lengths", metavar="N|FILE", help="tokens of cells, in place of a store that is not there: a number or a file"
    )
    parser.add_argument(
        "--cells", type=_at_least_one, metavar="N", help="training cells, with --lengths and trainer.max_epochs"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _at_least_one(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is no whole number") from None
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


def _share(text: str) -> tuple[float, ...]:
    try:
        shares = tuple(sorted(float(part) for part in text.split(",")))
    except ValueError:
        shares = ()
    if not 1 <= len(shares) <= 2 or not all(0.0 < share <= 1.0 for share in shares):
        raise argparse.ArgumentTypeError(f"{text} is no share of a peak: write 0.35, or 0.2,0.4")
    return shares


def _device_words(options: argparse.Namespace) -> list[str]:
    given = {"trainer.devices": options.devices, "trainer.nodes": options.nodes}
    return [f"{key}={value}" for key, value in given.items() if value is not None]


def _command(options: argparse.Namespace) -> Callable[[int, Sequence[str]], str]:
    """This command with other devices and more overrides."""

    def command(devices: int, more: Sequence[str]) -> str:
        from scmf.train.plan.advice import spread

        words = ["scmf-plan", "--config", options.config, "--hardware", options.hardware]
        now = (options.devices or 1) * (options.nodes or 1)
        if devices == now:
            words += [f"--{name}={n}" for name in ("devices", "nodes") if (n := getattr(options, name)) is not None]
        else:
            words += [f"--{name}={n}" for name, n in zip(("devices", "nodes"), spread(devices), strict=True)]
        words += [] if options.lengths is None else ["--lengths", options.lengths]
        words += [] if options.cells is None else ["--cells", str(options.cells)]
        changed = {word.partition("=")[0] for word in more}
        kept = [word for word in options.overrides if word.partition("=")[0] not in changed]
        return join([*words, *kept, *more])

    return command


def _refuse_what_does_not_go_together(options: argparse.Namespace, config: MainConfig) -> None:
    """Combinations that would leave a flag without effect, or without sense."""
    if options.cells is not None and options.lengths is None:
        raise ConfigError(
            f"--cells {options.cells} says how many cells a store will have, and this plan looks into the store",
            where="--cells",
            fix="leave it out, or add --lengths N to plan without the store",
        )
    if options.probe is None:
        return
    if not 0 < options.probe < float("inf"):
        raise ConfigError(
            f"--probe {options.probe:g} measures for no time, or for ever", where="--probe", fix="--probe 30"
        )
    what = None
    if options.hardware != THIS:
        what = f"--probe measures this machine, and --hardware {options.hardware} is another"
    elif options.lengths is not None:
        what = "--probe takes real steps from a store, and --lengths stands in for one"
    elif (config.trainer.world_size or 1) > 1 and not _has_gpu():
        what = f"--probe measures one process with all cores, and trainer.devices={config.trainer.devices} share them"
    if what is not None:
        raise ConfigError(what, where="--probe", fix="leave out one of the two, or plan for one device of this machine")


def _has_gpu() -> bool:
    from scmf.train.plan.target import visible_gpus

    return bool(visible_gpus())


def _look(config: MainConfig, target: Target, options: argparse.Namespace) -> tuple[MainConfig, Workload, int | None]:
    """The config with its length in steps, what a step has to compute, and cells held out."""
    if options.lengths is not None:
        config = _with_length(config, options.cells)
        return config, _look_at_lengths(config, target, options.lengths), None
    _refuse_missing_store(config, options)
    whole = _open(config, replicas=1)
    first = whole if target.replicas == 1 else _open(config, replicas=target.replicas)
    config = with_steps(config, whole.n_train)
    workload = look_at_stream(first, whole, max_steps=config.trainer.steps, replicas=target.replicas)
    return config, workload, whole.n_validation


def _open(config: MainConfig, *, replicas: int) -> StepStream:
    """The first replica's stream: where a step cannot be shared evenly, it is the one with the longest cells."""
    stream: StepStream = config.data.open(
        objective=objective_of(config.model.task),
        seed=config.trainer.seed,
        replica=Replica(0, replicas),
        align=align_of(config),
    )
    return stream


def _with_length(config: MainConfig, cells: int | None) -> MainConfig:
    if config.trainer.max_epochs is not None and cells is None:
        raise ConfigError(
            f"trainer.max_epochs={config.trainer.max_epochs} are steps only where the number of cells is known",
            where="--lengths",
            fix="add --cells N, or trainer.max_epochs=null trainer.max_steps=N",
        )
    return with_steps(config, cells or 1)


def _look_at_lengths(config: MainConfig, target: Target, given: str) -> Workload:
    return look_at_lengths(
        read_lengths(given),
        config.data,
        share=target_share(config),
        replicas=target.replicas,
        align=align_of(config),
        vocabulary_size=_vocabulary_size(config),
    )


def _vocabulary_size(config: MainConfig) -> int:
    """Tokens of the vocabulary without a store.

    Raises:
        ConfigError: the store alone has it.
        VocabularyError: no such file.
    """
    tokenizer = config.data.tokenizer
    if tokenizer.vocabulary_size is not None:
        return tokenizer.vocabulary_size
    named = getattr(tokenizer, "vocabulary", None)
    if isinstance(named, str):
        from scmf.data.vocabulary import load_vocabulary

        return len(load_vocabulary(named))
    raise ConfigError(
        f"--lengths needs the size of the vocabulary, and data.tokenizer.kind={tokenizer.kind} has it in the store",
        where="--lengths",
        fix="leave out --lengths and convert the store first; for text, data.tokenizer.characters=N says it as well",
    )


def _refuse_missing_store(config: MainConfig, options: argparse.Namespace) -> None:
    """As scmf-train does, with the way to plan without one.

    Raises:
        StoreError: no store in a folder that `data.store` names.
    """
    for place in config.data.folders:
        if "://" in place:
            continue
        try:
            expect_store(Path(place))
        except StoreError as error:
            words = ["scmf-plan", "--config", options.config, "--hardware", options.hardware]
            words += [f"--{name}={n}" for name in ("devices", "nodes") if (n := getattr(options, name)) is not None]
            usual = 1442 if config.data.kind == "cells" else config.data.tokenizer.seq_length
            fix = f"{error.fix}; to plan without a store: {join([*words, *options.overrides])} --lengths {usual}"
            raise StoreError(error.what, where=error.where, fix=fix) from error


def _with_speeds(plan: Plan, options: argparse.Namespace, *, n_validation: int | None) -> tuple[Plan, Measured | None]:
    if options.probe is None:
        speeds = assumed_speeds(plan.config, plan, options.share, n_validation=n_validation)
        return replace(plan, speeds=tuple(speeds)), None
    # Before torch is loaded, as scmf-train does: threads that spin take the cores from those that work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from scmf.train.plan.probe import probe

    measured = probe(plan.config, seconds=options.probe)
    plan = calibrated(plan, measured)
    refuse_misfit(plan, _command(options))
    speed = measured_speed(plan.config, plan, measured.wall, n_validation=n_validation)
    return replace(plan, speeds=(speed,)), measured


if __name__ == "__main__":
    main()
