"""Weights & Biases as a mirror of the metrics. In: numbers of steps. Out: a run there, or its file in the run's folder.

The library hands numbers to a process of its own, which writes them to a file and, online, sends them. A step waits
for neither. Offline nothing is sent, not even reports of the library's own errors.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from scmf.core.errors import MachineError
from scmf.train.log_config import WandbConfig
from scmf.train.metrics import Numbers
from scmf.train.run_directory import RunDirectory

_PATIENCE: Final = 60.0
"""Seconds that a run waits for W&B at its begin and at its end, at most; what is not sent stays on disk."""


def new_id() -> str:
    """Identity of a run at W&B, of no other run: 64 random bits."""
    return secrets.token_hex(8)


def run_id(directory: RunDirectory) -> str:
    """The identity that an earlier start in the folder has noted in run.json; else a new one."""
    noted = directory.newest_note("wandb")
    return str(noted["id"]) if noted else new_id()


def refuse_without_wandb(config: WandbConfig | None) -> None:
    """Find out before anything is built whether W&B can be used.

    Args:
        config: None where it is not asked for.

    Raises:
        MachineError: it is not installed; or is to send, and there is no login.
    """
    if config is None:
        return
    wandb = _library()
    if config.mode == "online" and not _has_login(wandb):
        raise MachineError(
            "trainer.log.wandb.mode=online sends the metrics, and there is no login for Weights & Biases",
            where="trainer.log.wandb.mode",
            fix="wandb login (or set WANDB_API_KEY), or add trainer.log.wandb.mode=offline and send the run later with "
            "wandb sync",
        )


def _library() -> ModuleType:
    """The library, with the reports of its own errors off unless the user has them on."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    try:
        import wandb
    except ImportError as error:
        raise MachineError(
            "trainer.log.wandb is set, but wandb is not installed",
            where="trainer.log.wandb",
            fix="pip install wandb, or add trainer.log.wandb=null",
        ) from error
    module: ModuleType = wandb
    return module


def _has_login(wandb: ModuleType) -> bool:
    """Whether a key or token is in the environment, in W&B's settings or in ~/.netrc; nothing is sent or asked."""
    return bool(os.environ.get("WANDB_IDENTITY_TOKEN_FILE") or wandb.api.api_key)


class WandbMirror:
    """One start of a run, mirrored.

    Args:
        folder: run directory; W&B makes `wandb/` in it.
        config: names, and whether to send.
        identity: of the run; a resumed run has the one of its first start, and goes on there.
        settings: the run's configuration as plain values, shown beside the curves.

    Raises:
        MachineError: W&B cannot be reached, or refuses.
    """

    def __init__(self, folder: Path, config: WandbConfig, *, identity: str, settings: Mapping[str, Any]) -> None:
        self._library = wandb = _library()
        try:
            self._run: Any = wandb.init(
                project=config.project,
                name=config.name,
                entity=config.entity,
                group=config.group,
                tags=list(config.tags) or None,
                id=identity,
                resume="allow" if config.mode == "online" else None,
                dir=str(folder),
                config=dict(settings),
                settings=_quiet(wandb, config),
            )
        except Exception as error:  # the library's own classes and those below it
            raise _refusal(config, error) from error
        # A resumed run writes some steps again, and W&B's own count of lines only rises: the step is a number as well.
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, numbers: Numbers) -> None:
        """Hand over one line."""
        self._run.log({"step": step, **numbers})

    def rewind(self, step: int, keep: Path) -> None:
        """Nothing: the curves show both."""

    def close(self) -> None:
        """Leave everything on disk and, online, wait up to a minute until it is sent; the library's process ends."""
        self._run.finish()
        self._library.teardown()


def _quiet(wandb: ModuleType, config: WandbConfig) -> Any:
    """Metrics alone: no copy of the console, of the code or of the machine's load; run.json has what matters."""
    return wandb.Settings(
        mode=config.mode,
        console="off",
        silent=True,
        disable_code=True,
        disable_git=True,
        x_disable_stats=True,
        x_disable_meta=True,
        x_save_requirements=False,
        init_timeout=_PATIENCE,
        finish_timeout=_PATIENCE,
    )


def _refusal(config: WandbConfig, error: Exception) -> MachineError:
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    return MachineError(
        f"Weights & Biases did not begin a run ({config.mode}): {said}",
        where="trainer.log.wandb",
        fix="check the network and the login (wandb login --verify), or add trainer.log.wandb.mode=offline, or "
        "trainer.log.wandb=null",
    )
