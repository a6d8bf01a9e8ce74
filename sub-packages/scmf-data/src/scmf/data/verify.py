"""Every byte of a store against its manifest. In: a folder. Out: the faults, one line each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from scmf.core.errors import StoreError
from scmf.data.manifest import MANIFEST, FileRecord, Manifest, PartRecord, read_manifest
from scmf.data.store import CellStore
from scmf.data.store_writer import describe_file

Progress = Callable[[int], None]


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
    if not (path / MANIFEST).is_file():
        read_manifest(path)  # says why
    try:
        manifest = read_manifest(path)
    except StoreError as error:
        yield f"{MANIFEST}: {error.what}"
        return
    except OSError as error:
        yield f"{MANIFEST}: {_unreadable(error)}"
        return
    yield from _check_totals(manifest)
    yield from _check_extra(path, manifest)
    sound = True
    for part in manifest.parts:
        for line in _check_part(path / part.name, part, manifest, on_bytes):
            sound = False
            yield line
    if sound:
        yield from _check_opens(path)


def size_of_store(path: Path) -> int:
    """Bytes that `verify_store` will read, from the files as they are."""
    return sum(p.stat().st_size for p in path.glob("part-*/**/*") if p.is_file())


def _check_totals(manifest: Manifest) -> Iterator[str]:
    for name in ("n_cells", "n_values"):
        total = sum(getattr(part, name) for part in manifest.parts)
        if total != getattr(manifest, name):
            yield f"{MANIFEST}: {name} is {getattr(manifest, name):,}, the parts have {total:,}"


def _check_extra(path: Path, manifest: Manifest) -> Iterator[str]:
    known = {MANIFEST, *(part.name for part in manifest.parts)}
    for entry in sorted(path.iterdir()):
        if entry.name not in known:
            yield f"{entry.name}: not part of the store"


def _check_part(folder: Path, part: PartRecord, manifest: Manifest, on_bytes: Progress | None) -> Iterator[str]:
    if not folder.exists():
        yield f"{part.name}: missing, with its {part.n_cells:,} cells"
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
    """A file's name inside its part."""

    name: str
    part: PartRecord
    manifest: Manifest


def _check_file(path: Path, record: FileRecord, place: _Place, on_bytes: Progress | None) -> Iterator[str]:
    name, part, manifest = place
    if not path.is_file():
        yield f"{part.name}/{name}: not a file"
        return
    try:
        found = describe_file(path)
    except OSError as error:
        yield f"{part.name}/{name}: {_unreadable(error)}"
        return
    if on_bytes is not None:
        on_bytes(found.bytes)
    if found.bytes != record.bytes:
        yield f"{part.name}/{name}: {found.bytes:,} bytes, should be {record.bytes:,}"
    elif found.checksum != record.checksum:
        owner = next((p.name for p in manifest.parts if p.files.get(name) == found and p is not part), None)
        yield f"{part.name}/{name}: checksum differs" + (f"; this is the file of {owner}" if owner else "")


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


def _check_opens(path: Path) -> Iterator[str]:
    """Whether the files, each as written, also fit together."""
    try:
        CellStore.open(path)
    except StoreError as error:
        yield f"{error.where}: {error.what}"
    except OSError as error:
        yield f"{error.filename}: {_unreadable(error)}"
