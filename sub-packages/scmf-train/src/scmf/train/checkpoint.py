"""Checkpoints of a run: written aside and renamed, verified before use, kept by age and by validation loss.

    checkpoints/step_00000100/   shards (scmf.train.sharded), config.yaml, vocabulary, checkpoint.json
    checkpoints/last, best       links

`checkpoint.json` is written last and holds the size and checksum of every other file; a folder without it does
not count. A kill at any moment leaves the checkpoints before it untouched.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import xxhash

from scmf.core.errors import CheckpointError
from scmf.core.near_path import correction
from scmf.train.config import CheckpointConfig
from scmf.train.faults import Tally
from scmf.train.loss_average import LossAverage
from scmf.train.stalls import Stalls

FORMAT = "scmf-checkpoint-1"
RECORD = "checkpoint.json"
_ASIDE = ".writing-"
_HASHERS = 4
"""Threads that compute checksums; they read files of many ranks, without the interpreter's lock."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands. With the configuration it determines the data, the masks and the dropout that follow."""

    step: int
    """Optimizer steps done."""
    max_steps: int
    """Length of the run: the horizon of its schedule."""
    cells_seen: int
    """Cells drawn so far: the data position."""
    seed: int
    val_loss: float | None
    """Validation loss at this step, where one was taken."""
    data: dict[str, str]
    """Fingerprints of store, vocabulary and split."""
    model: dict[str, Any]
    """What a resumed run must have unchanged of the model: kind, sizes, norms, precision."""
    global_batch_size: int
    """Cells a step; may change at a resume, because the data position counts cells."""
    layout: dict[str, int]
    """Ranks by axis when it was saved; another layout may read it."""
    versions: dict[str, str]
    faults: Tally = field(default_factory=Tally)
    """What has gone wrong so far, and the data that rollbacks have passed over."""
    stalls: Stalls = field(default_factory=Stalls)
    """What validations have counted for early stopping and the plateau schedule."""
    loss_average: LossAverage = field(default_factory=LossAverage)
    """train/loss_ema so far."""
    val_metric: str = "val/loss"
    """Which loss `val_loss` is: `trainer.checkpoint.metric`."""
    optimizer: dict[str, str | bool] = field(default_factory=lambda: {"kind": "adamw", "ema": False})
    """What a resumed run must have unchanged of the optimizer: what it keeps. A record without it is of AdamW."""


class CheckpointFolder:
    """The `checkpoints/` folder of one run.

    Args:
        path: the folder; made at the first save.
        config: what to keep.
    """

    def __init__(self, path: Path, config: CheckpointConfig) -> None:
        self.path = path
        self.config = config

    def named(self, step: int) -> Path:
        """Where the checkpoint of a step is, or will be."""
        return self.path / f"step_{step:08d}"

    def aside(self, step: int) -> Path:
        """Where the checkpoint of a step is while it is written."""
        return self.path / f"{_ASIDE}{self.named(step).name}"

    def open_aside(self, aside: Path) -> None:
        """Make the folder in which a checkpoint is written; what an earlier try has left there is removed.

        Raises:
            OSError: disk full and the like.
        """
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)

    def close_aside(self, aside: Path, progress: Progress, files: dict[str, bytes]) -> int:
        """Complete a checkpoint whose shards are written: its small files, its record, its name; then prune.

        Args:
            aside: holds the shards of all ranks.
            progress: goes into the record.
            files: small files to put beside the shards.

        Returns:
            Bytes of all files together.

        Raises:
            OSError: disk full and the like; the earlier checkpoints are as they were.
        """
        for name, content in files.items():
            (aside / name).write_bytes(content)
        size = _write_record(aside, progress)
        final = self.named(progress.step)
        if final.exists():
            # A run resumed from an older step comes by here again.
            self._remove(final)
        aside.rename(final)
        _sync_folder(self.path)
        self._prune()
        return size

    def discard(self, aside: Path) -> None:
        """Remove what a save that failed has written."""
        shutil.rmtree(aside, ignore_errors=True)

    def amend(self, folder: Path, progress: Progress) -> None:
        """Give a whole checkpoint another progress: a run that rolls back to it goes on elsewhere in the data.

        Raises:
            CheckpointError: no record to amend.
            OSError: it cannot be written; the old record is as it was.
        """
        _put_record(folder, progress, _read_record(folder)["files"])

    def _prune(self) -> None:
        """Keep the newest, the best and the last good one, remove the rest, and point the links."""
        complete = self.complete()
        keep = {*complete[-self.config.keep_last :], *self._best()[: self.config.keep_best], *self._good()[-1:]}
        for path in complete:
            if path not in keep:
                self._remove(path)
        self._link()

    def _best(self) -> list[Path]:
        """Complete checkpoints with a loss of the metric that decides, lowest first."""
        found = ((progress, path) for path in self.complete() if (progress := _progress_or_none(path)))
        rated = [(progress.val_loss, path) for progress, path in found if progress.val_metric == self.config.metric]
        return [path for _, path in sorted((loss, path) for loss, path in rated if loss is not None)]

    def _good(self) -> list[Path]:
        """Complete checkpoints that a rollback may take, oldest first."""
        rated = [(path, _progress_or_none(path)) for path in self.complete()]
        return [path for path, progress in rated if progress is not None and not progress.faults.bad_in_a_row]

    def _link(self) -> None:
        """Point `last` and `best` at what they name; a link to nothing is removed."""
        best = self._best() if self.config.keep_best else []
        for name, targets in (("last", self.complete()[-1:]), ("best", best[:1])):
            (self.path / name).unlink(missing_ok=True) if not targets else _point(self.path / name, targets[0])

    def _remove(self, path: Path) -> None:
        """Remove a checkpoint so that, killed in between, no half of it counts as whole."""
        aside = _unused(self.path / f"{_ASIDE}removing-{path.name}")
        shutil.rmtree(path.rename(aside))

    def complete(self) -> list[Path]:
        """Folders of complete checkpoints, oldest first."""
        return sorted(path for path in self.path.glob("step_*") if (path / RECORD).is_file())

    def remove_unfinished(self) -> None:
        """Remove what a killed save has left aside."""
        for path in self.path.glob(f"{_ASIDE}*"):
            shutil.rmtree(path, ignore_errors=True)

    def set_aside_after(self, step: int) -> list[Path]:
        """Rename checkpoints of later steps, which a run resumed at `step` has not taken; they stay loadable.

        Returns:
            Their new names.
        """
        later = [path for path in self.complete() if path > self.named(step)]
        moved = [path.rename(_unused(path.with_name(f"abandoned_{path.name}"))) for path in later]
        if moved:
            self._link()
        return moved

    def newest(self) -> Path | None:
        """The newest complete checkpoint, or None."""
        return next(iter(reversed(self.complete())), None)

    def newest_whole(self, *, good: bool = False) -> tuple[Path | None, list[CheckpointError]]:
        """The newest checkpoint whose files are as they were written.

        Args:
            good: leave out those that were saved while steps were being left out.

        Returns:
            Its folder, or None; and what is wrong with each newer one.
        """
        faults: list[CheckpointError] = []
        for path in reversed(self.complete()):
            try:
                if good and read_progress(path).faults.bad_in_a_row:
                    continue
                verify(path)
            except CheckpointError as error:
                faults.append(error)
                continue
            return path, faults
        return None, faults


def read_progress(folder: Path) -> Progress:
    """What a checkpoint's record says.

    Raises:
        CheckpointError: no record, or not one of this version.
    """
    progress = _read_record(folder)["progress"]
    try:
        read = {
            "faults": Tally.of(progress.get("faults", {})),
            "stalls": Stalls.of(progress.get("stalls", {})),
            "loss_average": LossAverage.of(progress.get("loss_average", {})),
        }
        return Progress(**{**progress, **read})
    except (TypeError, ValueError, AttributeError) as error:
        raise _unreadable(folder / RECORD, f"{error}{_other_writer(progress)}") from error


def _other_writer(progress: Any) -> str:
    """Which scmf has written a record, where it was another than this one."""
    written = progress.get("versions") if isinstance(progress, dict) else None
    there, here = written.get("scmf-train") if isinstance(written, dict) else None, version("scmf-train")
    return "" if there in (None, here) else f" (scmf-train {there} has written it, and this is {here})"


def moved(progress: Progress, *, cells_seen: int, faults: Tally) -> Progress:
    """The progress with another data position and tally."""
    return replace(progress, cells_seen=cells_seen, faults=faults)


def _progress_or_none(folder: Path) -> Progress | None:
    """The progress of a checkpoint, None where its record is damaged; the start of a run tells of that."""
    try:
        return read_progress(folder)
    except CheckpointError:
        return None


def verify(folder: Path) -> None:
    """Compare every file of a checkpoint with its record.

    Raises:
        CheckpointError: a file is missing, cut or changed; the first is named.
    """
    record = _read_record(folder)["files"]
    with ThreadPoolExecutor(_HASHERS) as pool:
        descriptions = pool.map(lambda name: _describe_if_there(folder / name), record)
        found = dict(zip(record, descriptions, strict=True))
    for name, expected in record.items():
        if found[name] != expected:
            fault = "is missing" if found[name] is None else "does not have the bytes that were written"
            raise CheckpointError(
                f"{name} {fault}",
                where=str(folder),
                fix="name another checkpoint with --resume PATH, or remove this folder and use --resume auto",
            )


def find_path(path: str | Path, folder: CheckpointFolder) -> Path:
    """The checkpoint at a path: itself, or the newest of a run directory or of a `checkpoints` folder.

    Raises:
        CheckpointError: there is none.
    """
    here = Path(path)
    if not here.exists():
        fix = f"{correction(here)} For --resume, auto takes the newest of the run."
        raise CheckpointError("there is no such folder", where=str(path), fix=fix)
    if (here / RECORD).is_file():
        return here.resolve()
    for inner in (here / "checkpoints", here):
        if newest := CheckpointFolder(inner, folder.config).newest():
            return newest.resolve()
    raise CheckpointError(
        "there is no complete checkpoint", where=str(path), fix="name a step_* folder or a run directory that has some"
    )


def _read_record(folder: Path) -> dict[str, Any]:
    path = folder / RECORD
    try:
        record: dict[str, Any] = json.loads(path.read_text())
        known = record["format"] == FORMAT and {"progress", "files"} <= set(record)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unreadable(path, str(error)) from error
    if not known:
        raise _unreadable(path, f"it is not of the format {FORMAT}")
    return record


def _unreadable(path: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"the checkpoint's record cannot be read: {why}",
        where=str(path),
        fix="name another checkpoint with --resume PATH",
    )


def _write_record(folder: Path, progress: Progress) -> int:
    """Describe the files of a folder in its record. Returns their size in bytes."""
    names = [str(path.relative_to(folder)) for path in _files(folder)]
    with ThreadPoolExecutor(_HASHERS) as pool:
        files = dict(zip(names, pool.map(lambda name: _describe(folder / name), names), strict=True))
    _put_record(folder, progress, files)
    return sum(int(found["bytes"]) for found in files.values())


def _put_record(folder: Path, progress: Progress, files: dict[str, Any]) -> None:
    """Replace the record in one move: whoever reads it sees the old one or the new one."""
    record = {"format": FORMAT, "progress": asdict(progress), "files": files}
    aside = folder.with_name(f".{folder.name}.{RECORD}")
    with aside.open("w") as file:
        json.dump(record, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(folder / RECORD)
    _sync_folder(folder)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != RECORD)


def _describe_if_there(path: Path) -> dict[str, Any] | None:
    return _describe(path) if path.is_file() else None


def _describe(path: Path) -> dict[str, Any]:
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
        size = file.tell()
    return {"bytes": size, "xxh3_128": digest.hexdigest()}


def _unused(path: Path) -> Path:
    """The path, or with a number where it is taken."""
    numbered = (path.with_name(f"{path.name}.{n}") for n in itertools.count(2))
    return path if not path.exists() else next(p for p in numbered if not p.exists())


def _point(link: Path, target: Path) -> None:
    """Make a relative link, replacing the old one in one move."""
    aside = link.with_name(f".{link.name}")
    aside.unlink(missing_ok=True)
    aside.symlink_to(target.name)
    aside.replace(link)


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
