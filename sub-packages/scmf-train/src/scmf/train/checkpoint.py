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
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist
import xxhash

from scmf.core.errors import CheckpointError
from scmf.train.config import CheckpointConfig

FORMAT = "scmf-checkpoint-1"
RECORD = "checkpoint.json"
_ASIDE = ".writing-"


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


class CheckpointFolder:
    """The `checkpoints/` folder of one run.

    Args:
        path: the folder; made at the first save.
        config: what to keep.
    """

    def __init__(self, path: Path, config: CheckpointConfig) -> None:
        self.path = path
        self.config = config

    def save(self, progress: Progress, *, write: Callable[[Path], None], files: dict[str, bytes]) -> Path:
        """Write one checkpoint; collective over all ranks.

        Args:
            progress: goes into the record.
            write: writes this rank's shards into the folder it is given; collective.
            files: small files to put beside them, written by the first rank.

        Returns:
            The checkpoint's folder.

        Raises:
            OSError: disk full and the like; the earlier checkpoints are as they were.
        """
        final = self.path / f"step_{progress.step:08d}"
        aside = self.path / f"{_ASIDE}{final.name}"
        first = dist.get_rank() == 0
        if first:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
        dist.barrier()
        try:
            write(aside)
            if first:
                self._complete(aside, final, progress, files)
        except BaseException:
            if first:
                shutil.rmtree(aside, ignore_errors=True)
            raise
        dist.barrier()
        return final

    def _complete(self, aside: Path, final: Path, progress: Progress, files: dict[str, bytes]) -> None:
        for name, content in files.items():
            (aside / name).write_bytes(content)
        _write_record(aside, progress)
        if final.exists():
            # A run resumed from an older step comes by here again.
            self._remove(final)
        aside.rename(final)
        _sync_folder(self.path)
        self._prune()

    def _prune(self) -> None:
        """Keep the newest and the best, remove the rest, and point the links."""
        complete = self.complete()
        keep = {*complete[-self.config.keep_last :], *self._best()[: self.config.keep_best]}
        for path in complete:
            if path not in keep:
                self._remove(path)
        self._link()

    def _best(self) -> list[Path]:
        """Complete checkpoints with a validation loss, lowest first."""
        rated = [(read_progress(path).val_loss, path) for path in self.complete()]
        return [path for _, path in sorted((loss, path) for loss, path in rated if loss is not None)]

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
        later = [path for path in self.complete() if read_progress(path).step > step]
        moved = [path.rename(_unused(path.with_name(f"abandoned_{path.name}"))) for path in later]
        if moved:
            self._link()
        return moved

    def newest(self) -> Path | None:
        """The newest complete checkpoint, or None."""
        return next(iter(reversed(self.complete())), None)


def read_progress(folder: Path) -> Progress:
    """What a checkpoint's record says.

    Raises:
        CheckpointError: no record, or not one of this version.
    """
    record = _read_record(folder)
    try:
        return Progress(**record["progress"])
    except TypeError as error:
        raise _unreadable(folder / RECORD, str(error)) from error


def verify(folder: Path) -> None:
    """Compare every file of a checkpoint with its record.

    Raises:
        CheckpointError: a file is missing, cut or changed; the first is named.
    """
    for name, expected in _read_record(folder)["files"].items():
        path = folder / name
        found = _describe(path) if path.is_file() else None
        if found != expected:
            fault = "is missing" if found is None else "does not have the bytes that were written"
            raise CheckpointError(
                f"{name} {fault}",
                where=str(folder),
                fix="name another checkpoint with --resume PATH, or remove this folder and use --resume auto",
            )


def find(resume: str, folder: CheckpointFolder) -> Path | None:
    """The checkpoint that `--resume` means.

    Args:
        resume: "auto", or a path as `find_path` takes it.
        folder: of this run.

    Returns:
        None for "auto" in a run that has none yet.

    Raises:
        CheckpointError: a path without a checkpoint.
    """
    return folder.newest() if resume == "auto" else find_path(resume, folder)


def find_path(path: str | Path, folder: CheckpointFolder) -> Path:
    """The checkpoint at a path: itself, or the newest of a run directory or of a `checkpoints` folder.

    Raises:
        CheckpointError: there is none.
    """
    here = Path(path)
    if not here.exists():
        raise CheckpointError("there is no such folder", where=str(path), fix="correct the path; for --resume, or auto")
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


def _write_record(folder: Path, progress: Progress) -> None:
    files = {str(path.relative_to(folder)): _describe(path) for path in _files(folder)}
    record = {"format": FORMAT, "progress": asdict(progress), "files": files}
    with (folder / RECORD).open("w") as file:
        json.dump(record, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    _sync_folder(folder)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != RECORD)


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
