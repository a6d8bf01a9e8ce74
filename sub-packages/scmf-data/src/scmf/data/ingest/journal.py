"""A conversion that can be cut anywhere and goes on. In: what is to be made. Out: a folder that knows what is made.

Beside the destination lies a hidden folder with the finished parts, a note of each, and the identity of the
conversion: sources, options, version. A note is written after its part is on the disk, so that what is noted is
whole. The same conversion, started again, finds the notes and makes the rest; another one starts afresh, and says so.
"""

from __future__ import annotations

import json
import os
import shutil
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from pydantic import ValidationError

from scmf.core.config import Config
from scmf.data.manifest import MANIFEST, Manifest, dump_manifest
from scmf.data.store_writer import check_destination, claim, put_in_place, replace_file, sync

_NOTES: Final = "journal"
_IDENTITY: Final = "conversion.json"

Note = TypeVar("Note", bound=Config)
Identity = dict[str, Any]


class FileState(Config):
    """What tells in no time that a file has not changed."""

    path: str
    bytes: int
    changed_ns: int


class ConversionFolder:
    """The hidden folder of one conversion; a context manager.

    It survives what kills the process, Ctrl-C included, once a part is finished; a refusal removes it.
    """

    def __init__(self, dest: Path, *, overwrite: bool = False, in_place: bool = False) -> None:
        """Take the destination; `in_place` for a store that parts will be added to."""
        self.dest = dest
        self.path = dest.parent / f".{dest.name}.{'adding' if in_place else 'partial'}"
        self.keep = False
        if not in_place:
            way_out = "add --overwrite to replace it, or name another --dest"
            check_destination(dest, overwrite=overwrite, way_out=way_out)

    def __enter__(self) -> Self:
        self.dest.parent.mkdir(parents=True, exist_ok=True)
        self._lock = claim(self.path, keep=True)
        self.keep = (self.path / _NOTES / _IDENTITY).exists()  # a refusal of today spares what an earlier day made
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or not self.keep:
            shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)

    @property
    def scratch(self) -> Path:
        """Folder for temporary files on the store's disk."""
        return self.path / "scratch"

    def has_parts(self) -> bool:
        """Whether a part is finished."""
        return any((self.path / _NOTES).glob("part-*.json"))

    def begin(self, identity: Identity) -> str | None:
        """Go on with the conversion of this identity, or start it.

        Returns:
            Why an unfinished conversion that was there had to be removed; None where there was none.
        """
        reason = self._difference(identity)
        if reason is not None:
            # First, so that notes without their parts are never taken for whole.
            (self.path / _NOTES / _IDENTITY).unlink(missing_ok=True)
            for entry in self.path.iterdir():
                if entry != self.scratch:  # text that the plan has just unpacked
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        (self.path / _NOTES).mkdir(exist_ok=True)
        if reason is not None:
            replace_file(self.path / _NOTES / _IDENTITY, json.dumps(identity, indent=1).encode())
        self._clear_attempts()
        self.keep = False
        return reason or None

    def note(self, key: str, kind: type[Note]) -> Note | None:
        """What is noted under a key; None where nothing is."""
        path = self.path / _NOTES / f"{key}.json"
        if not path.exists():
            return None
        try:
            return kind.model_validate_json(path.read_bytes())
        except ValidationError:  # of another version; the work is done again
            return None

    def finish_job(self, key: str, result: Config, attempt: Path | None) -> None:
        """Move what a job made to its place and note it down."""
        if attempt is not None:
            for entry in attempt.iterdir():
                target = self.place(entry.name)
                if target.is_dir():
                    shutil.rmtree(target)  # moved by a process that died before it could note it
                if entry.name != "scratch":
                    entry.rename(target)
            shutil.rmtree(attempt)
        replace_file(self.path / _NOTES / f"{key}.json", result.model_dump_json().encode())

    def place(self, name: str) -> Path:
        """Where a thing that a job made belongs: parts at the top, notes about them with the notes."""
        if name.startswith("part-"):
            return (self.path if name.count(".") == 0 else self.path / _NOTES) / name
        return self.scratch / name

    def forget(self, key: str) -> None:
        """Remove a note."""
        (self.path / _NOTES / f"{key}.json").unlink(missing_ok=True)

    def finish(self, manifest: Manifest) -> None:
        """Write the manifest and put the store in its place."""
        replace_file(self.path / MANIFEST, dump_manifest(manifest))
        # From here on the notes are of no use. The identity goes first: what is left of them then counts for nothing.
        (self.path / _NOTES / _IDENTITY).unlink()
        shutil.rmtree(self.path / _NOTES)
        shutil.rmtree(self.scratch, ignore_errors=True)
        sync(self.path)
        put_in_place(self.path, self.dest)

    def _difference(self, identity: Identity) -> str | None:
        """None for the same conversion; "" for none at all; else what differs."""
        path = self.path / _NOTES / _IDENTITY
        if not path.exists():
            return ""
        try:
            found = json.loads(path.read_bytes())
        except ValueError:
            return "its journal cannot be read"
        names = [name for name in identity if found.get(name) != identity[name]]
        return f"it had other {' and '.join(names)}" if names else None

    def _clear_attempts(self) -> None:
        if self.scratch.exists():
            for entry in self.scratch.glob("attempt-*"):
                shutil.rmtree(entry, ignore_errors=True)


def program_version() -> str:
    """Version of the code whose bytes a part holds."""
    return version("scmf-data")


def state_of(paths: tuple[Path, ...]) -> list[dict[str, Any]]:
    """State of each file, as the identity keeps it."""
    states = []
    for path in paths:
        found = path.stat()
        state = FileState(path=str(path.absolute()), bytes=found.st_size, changed_ns=found.st_mtime_ns)
        states.append(state.model_dump())
    return states
