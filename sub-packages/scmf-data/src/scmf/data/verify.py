"""Every byte of a store against its manifest. In: a folder. Out: the faults, one line each."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from scmf.core.errors import ScmfError, StoreError
from scmf.data.manifest import (
    MANIFEST,
    SEQUENCES_FORMAT,
    FileRecord,
    describe_file,
    expect_store,
    format_of,
    read_manifest,
)
from scmf.data.sequences.manifest import read_sequence_manifest
from scmf.data.sequences.store import SequenceStore
from scmf.data.store import CellStore

Progress = Callable[[int], None]


class PartLike(Protocol):
    """A part of a store of any kind, as its manifest describes it."""

    @property
    def name(self) -> str:
        """Its folder."""
        ...

    @property
    def files(self) -> Mapping[str, FileRecord]:
        """Every file of the part by its path inside the part."""
        ...

    @property
    def contents(self) -> str:
        """How much it holds, for a sentence."""
        ...


class ManifestLike(Protocol):
    """The manifest of a store of any kind."""

    @property
    def parts(self) -> Sequence[PartLike]:
        """The parts."""
        ...

    @property
    def files(self) -> Mapping[str, FileRecord]:
        """Files beside the parts and the manifest."""
        ...


def verify_store(path: Path, *, on_bytes: Progress | None = None) -> Iterator[str]:
    """Yield one line for each fault; nothing for a sound store.

    Reads every file once: each must be there, have its size and its checksum, and there must be no other. The
    manifest covers itself with a checksum of its own.

    Args:
        path: the store's folder.
        on_bytes: called with the bytes just checked.

    Raises:
        StoreError: no store there at all.
    """
    expect_store(path)
    manifest: ManifestLike
    try:
        of_sequences = format_of(path) == SEQUENCES_FORMAT
        manifest = read_sequence_manifest(path) if of_sequences else read_manifest(path)
    except StoreError as error:
        yield f"{MANIFEST}: {error.what}"
        return
    except OSError as error:
        yield f"{MANIFEST}: {_unreadable(error)}"
        return
    yield from _check_extra(path, manifest)
    sound = True
    for line in itertools.chain(
        _check_beside(path, manifest, on_bytes),
        *(_check_part(path / part.name, part, manifest, on_bytes) for part in manifest.parts),
    ):
        sound = False
        yield line
    if sound:
        yield from _check_opens(path, SequenceStore.open if of_sequences else CellStore.open)


def size_of_store(path: Path) -> int:
    """Bytes that `verify_store` will read, from the files as they are."""
    return sum(p.stat().st_size for p in path.glob("part-*/**/*") if p.is_file())


def _check_extra(path: Path, manifest: ManifestLike) -> Iterator[str]:
    known = {MANIFEST, *manifest.files, *(part.name for part in manifest.parts)}
    for entry in sorted(path.iterdir()):
        if entry.name not in known:
            yield f"{entry.name}: not part of the store"


def _check_beside(path: Path, manifest: ManifestLike, on_bytes: Progress | None) -> Iterator[str]:
    for name, record in manifest.files.items():
        if (path / name).exists():
            yield from _check_file(path / name, record, _Place(name, None, manifest), on_bytes)
        else:
            yield f"{name}: missing"


def _check_part(folder: Path, part: PartLike, manifest: ManifestLike, on_bytes: Progress | None) -> Iterator[str]:
    if not folder.exists():
        yield f"{part.name}: missing, with its {part.contents}"
        return
    present, hidden = _list(folder)
    for name, error in hidden.items():
        yield f"{part.name}/{name}: {_unreadable(error)}"
    for name in sorted(present - set(part.files)):
        yield f"{part.name}/{name}: not part of the store"
    for name, record in part.files.items():
        if name in present:
            yield from _check_file(folder / name, record, _Place(name, part, manifest), on_bytes)
        elif not any(name.startswith(f"{closed}/") or closed == "." for closed in hidden):
            yield f"{part.name}/{name}: missing"


class _Place(NamedTuple):
    """A file's name inside its part, or inside the store where it belongs to none."""

    name: str
    part: PartLike | None
    manifest: ManifestLike

    def __str__(self) -> str:
        return self.name if self.part is None else f"{self.part.name}/{self.name}"


def _check_file(path: Path, record: FileRecord, place: _Place, on_bytes: Progress | None) -> Iterator[str]:
    name, part, manifest = place
    if not path.is_file():
        yield f"{place}: not a file"
        return
    try:
        found = describe_file(path)
    except OSError as error:
        yield f"{place}: {_unreadable(error)}"
        return
    if on_bytes is not None:
        on_bytes(found.bytes)
    if found.bytes != record.bytes:
        yield f"{place}: {found.bytes:,} bytes, should be {record.bytes:,}"
    elif found.checksum != record.checksum:
        owner = next((p.name for p in manifest.parts if p.files.get(name) == found and p is not part), None)
        yield f"{place}: checksum differs" + (f"; this is the file of {owner}" if owner else "")


def _list(folder: Path) -> tuple[set[str], dict[str, OSError]]:
    """Files of a folder and below, and why folders cannot be read; one that cannot is not an empty one."""
    hidden: dict[str, OSError] = {}
    present: set[str] = set()

    def note(error: OSError) -> None:
        hidden[Path(error.filename).relative_to(folder).as_posix()] = error

    for here, _, files in os.walk(folder, onerror=note):
        present.update((Path(here) / file).relative_to(folder).as_posix() for file in files)
    return present, hidden


def _unreadable(error: OSError) -> str:
    return f"cannot be read: {error.strerror or error}"


def _check_opens(path: Path, opened: Callable[[Path], object]) -> Iterator[str]:
    """Whether the files, each as written, also fit together."""
    try:
        opened(path)
    except ScmfError as error:
        yield f"{error.where}: {error.what}"
    except OSError as error:
        yield f"{error.filename}: {_unreadable(error)}"
