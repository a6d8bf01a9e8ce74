"""`scmf-train`: a config goes in, a trained run comes out. Starts its own ranks, or obeys torchrun and Slurm."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from scmf.core.errors import ConfigError, ScmfError, run_command
from scmf.data.manifest import expect_store
from scmf.train.bionemo_flags import TrainingParser
from scmf.train.config import MainConfig, load_config
from scmf.train.heap import share_heaps
from scmf.train.launch import die_with_launcher, run_ranks, under_launcher
from scmf.train.run_directory import RunDirectory, versions
from scmf.train.signals import end_when_asked

_COUNTS = (".h5ad", ".h5", ".loom", ".mtx", ".gz", ".csv", ".tsv", ".zarr")
_EXAMPLES = """\
examples:
  scmf-train --config cfg.yaml
  scmf-train --config cfg.yaml --resume auto
  scmf-train --config cfg.yaml --dry-run
  scmf-train --config cfg.yaml trainer.optimizer.lr=3e-4 trainer.devices=2
  scmf-train --config cfg.yaml -v trainer.profile="{start: 20, steps: 3}"
  torchrun --nnodes 2 --nproc-per-node 8 ... -m scmf.train.cli_train --config cfg.yaml
Exit codes: 0 done; 1 an error, in three lines on stderr; 75 a signal asked it to end, and it has saved (--resume auto).
A config can name code (kind: my_package.MyConfig): run only configs that you trust.
"""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Entry point; exits with 0, or with 1 and three lines on stderr."""
    end_when_asked()
    run_command(train_command, argv)


def train_command(argv: Sequence[str]) -> int:
    """Run the command's body.

    Args:
        argv: arguments without the program's name.

    Returns:
        0; 75 where a signal has asked the run to end and it has saved; or the code of the first rank that failed.

    Raises:
        ScmfError: what the user can mend.
    """
    options = _parser().parse_intermixed_args(argv)
    if options.dry_run and options.resume:
        raise ConfigError(
            "--dry-run runs two steps from the start, and --resume asks for another start",
            where="command line",
            fix="leave out one of them; what a resume finds is checked at the resume, before anything is written",
        )
    if options.resume == "":
        raise ConfigError(
            "--resume is an empty word: a variable of the script is not set",
            where="command line",
            fix="set the variable, or write --resume auto",
        )
    die_with_launcher()
    share_heaps()
    _refuse_data(Path(options.config))
    config = load_config(
        options.config,
        [*options.overrides, *_verbosity(options)],
        data_cls=options.data_config_cls,
        model_cls=options.model_config_cls,
    )
    _refuse_missing_store(config)
    if not (options.resume or options.dry_run or under_launcher()):
        RunDirectory(Path(config.trainer.result_dir)).refuse_to_overwrite()  # again when the run begins
    ranks = _ranks_to_start(config)
    if ranks > 1:
        return run_ranks(ranks, argv)
    try:
        return _run_rank(config, options)
    except KeyboardInterrupt:
        if under_launcher():  # it says so, once
            raise
        sys.stderr.write("stopped by Ctrl-C; --resume auto goes on from the last checkpoint\n")
        return 130


def _verbosity(options: argparse.Namespace) -> list[str]:
    """The override that -q or -v stands for."""
    level = 0 if options.quiet else 2 if options.verbose else None
    return [] if level is None else [f"trainer.log.verbosity={level}"]


def _parser() -> argparse.ArgumentParser:
    parser = TrainingParser(
        prog="scmf-train",
        description="Train the model that a config describes.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="YAML or JSON written by scmf-recipe")
    parser.add_argument("overrides", nargs="*", metavar="a.b=value", help="keys of the config to change for this run")
    parser.add_argument(
        "--resume",
        metavar="auto|PATH",
        help="go on from the newest checkpoint of the run directory, or from the one named",
    )
    parser.add_argument(
        "--resume-if-exists", dest="resume", action="store_const", const="auto", help="the same as --resume auto"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="build everything, run two steps, print sizes and speed; write nothing"
    )
    loud = parser.add_mutually_exclusive_group()
    loud.add_argument(
        "-q", "--quiet", action="store_true", help="show warnings, errors and the end (trainer.log.verbosity=0)"
    )
    loud.add_argument(
        "-v", "--verbose", action="store_true", help="show details too: where the time goes (trainer.log.verbosity=2)"
    )
    parser.add_argument("--data-config-cls", metavar="CLASS", help="dotted path of the class of the data section")
    parser.add_argument("--model-config-cls", metavar="CLASS", help="dotted path of the class of the model section")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _refuse_data(path: Path) -> None:
    """Tell apart what people give `--config` instead of a configuration.

    Raises:
        ConfigError: a store, a run's folder, or a file of counts.
    """
    name = shlex.quote(str(path))
    recipe = "scmf-recipe --recipe 10m-pretrain --data-path {} --dest cfg.yaml, then scmf-train --config cfg.yaml"
    if (path / "manifest.json").is_file():
        what, fix = "this is a cell store, and --config takes the file that names it", recipe.format(name)
    elif (path / "config.yaml").is_file():
        what = "this is the folder of a run, and --config takes a file"
        fix = f"scmf-train --config {shlex.quote(str(path / 'config.yaml'))} --resume auto"
    elif path.suffix in _COUNTS and path.exists():
        what = "this is a file of counts, and --config takes the file that names a store of them"
        fix = f"scmf-store convert {name} --dest data/cells, then {recipe.format('data/cells')}"
    else:
        return
    raise ConfigError(what, where=str(path), fix=fix)


def _refuse_missing_store(config: MainConfig) -> None:
    """Say at once that a store is not there: importing Megatron takes many times as long.

    Not on a rank of a launcher, where one that fails before the others have met it would let them wait; and not for
    a class of one's own, whose stores may be something else.

    Raises:
        StoreError: no store in a folder that `data.store` names.
    """
    for place in config.data.folders:
        if "://" not in place and not under_launcher():
            expect_store(Path(place))


def _ranks_to_start(config: MainConfig) -> int:
    """Ranks that this process has to start: none under a launcher, else `trainer.devices`.

    Raises:
        ConfigError: several nodes without a launcher.
        MachineError: more GPUs asked for than there are.
    """
    if under_launcher():
        return 1
    if config.trainer.nodes > 1:
        raise ConfigError(
            f"trainer.nodes={config.trainer.nodes}, and no launcher has started this process",
            where="trainer.nodes",
            fix="start it with torchrun or srun on every node (docs/launching.md), or write nodes: 1",
        )
    from scmf.train.machine import devices_to_use

    return devices_to_use(config.trainer.devices)


def _run_rank(config: MainConfig, options: argparse.Namespace) -> int:
    """This process as one rank. Megatron is imported here, after everything cheap has been checked."""
    # Before torch is loaded: threads that wait by spinning take the cores from those that work. Measured on two
    # shared cores: a step takes 1.0 instead of 2 to 4 CPU-seconds, and 1 instead of 2 to 7 seconds.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from scmf.train.agreement import refuse_unlike
    from scmf.train.dry_run import dry_run
    from scmf.train.layout import lay_out
    from scmf.train.rules import check_launched, check_world
    from scmf.train.run import run
    from scmf.train.world import join_world, lost_contact, patience

    seconds, tensor = config.trainer.on_fault.hang_seconds, config.trainer.parallel.tensor
    with join_world(patience(seconds), tensor=tensor) as world:
        try:
            refuse_unlike(_given(config), fix="have the same configuration and the same environment on all nodes")
            check_launched(config, world.size)
            check_world(config, world.size)
            with lay_out(world, config.trainer.parallel) as layout:
                if options.dry_run:
                    dry_run(config, layout)
                    return 0
                return run(config, layout, resume=_resume(options.resume, config))
        except ScmfError as error:
            if world.size == 1:
                raise
            raise type(error)(error.what, where=f"{error.where} (rank {world.rank})", fix=error.fix) from error
        except RuntimeError as error:
            words = lost_contact(error)
            if words is None:
                raise
            # A rank that has failed tells the user what happened; this one only stops.
            sys.stderr.write(f"rank {world.rank} stops: another rank is gone ({words.lower()})\n")
            sys.stderr.flush()
            os._exit(1)  # leaving in order would wait for the ranks that are gone


def _given(config: MainConfig) -> dict[str, object]:
    """What all ranks have to have alike: every key of the configuration, and the versions of what decides numbers."""
    # Python's own patch releases differ between nodes and change no number.
    packages = {f"the version of {name}": version for name, version in versions().items() if name != "python"}
    return dict(_flat(config.model_dump(mode="json"))) | packages


def _flat(section: Mapping[str, object], above: str = "") -> Iterator[tuple[str, object]]:
    for key, value in section.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _resume(asked: str | None, config: MainConfig) -> str | None:
    """`--resume`, which is auto where torchrun has started these ranks again after one has failed."""
    if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        return asked
    begun = (Path(config.trainer.result_dir) / "config.yaml").exists()
    return "auto" if begun else asked


if __name__ == "__main__":
    # torch's checkpoint planner and Megatron import the main program again in helper processes.
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    sys.exit(main())
