"""Stores on object storage. In: an address such as s3://bucket/store. Out: a store whose files come when needed.

A file is fetched as a whole when its part is first read, checked against the manifest's checksum, and kept in a cache
on the local disk, where it is mapped like any other. So the hot path knows nothing of networks, a damaged transfer is
never read, and a second run finds what the first has fetched. The cache has a limit; what was used least recently
goes first, and a store that does not fit is refused with both numbers.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, Final

import xxhash

from scmf.core.errors import MachineError, ScmfError, StoreError
from scmf.data.manifest import MANIFEST, FileRecord, Manifest, parse_manifest
from scmf.data.part import Part
from scmf.data.reading import Reading, allow_files
from scmf.data.store import CellStore

CACHE: Final = "SCMF_CACHE"
"""Environment variable: folder of the cache. Default: ~/.cache/scmf/stores."""
LIMIT: Final = "SCMF_CACHE_BYTES"
"""Environment variable: most bytes that the cache may hold. Default: nine tenths of what the disk has for it."""
CONNECT_SECONDS: Final = 15
READ_SECONDS: Final = 60
"""Longest silence of the server while a file is read; three attempts, then an error."""
LOCK_SECONDS: Final = 3600
"""Longest wait for another process that fetches the same file."""
_CHUNK: Final = 8 << 20
_ARRIVING: Final = ".arriving"


class RemoteStore(CellStore):
    """A store read through a cache. Pickles as its address."""

    url: str

    def __reduce__(self) -> tuple[Callable[..., CellStore], tuple[Any, ...]]:
        return open_remote, (self.url,)


def open_remote(url: str) -> RemoteStore:
    """Open a store by its address; only the manifest is read.

    Args:
        url: s3://bucket/folder, or another address that fsspec knows.

    Raises:
        MachineError: fsspec or the package for this kind of address is not installed.
        StoreError: no store there, no access, or a server that does not answer.
    """
    files = _connect(url)
    root = files.root
    manifest = parse_manifest(files.read(MANIFEST), where=Path(root) / MANIFEST)
    cache = Cache.for_store(manifest, files)
    allow_files(len(manifest.parts))
    parts = tuple(
        Part(cache.folder / record.name, record, bring=partial(cache.bring, record.name, record.files))
        for record in manifest.parts
    )
    store = RemoteStore(cache.folder, manifest, parts, reading=Reading("mmap", f"from the cache of {url}"))
    store.url = url
    return store


@dataclass(frozen=True, slots=True)
class RemoteFiles:
    """Files under one address."""

    url: str
    system: Any
    """fsspec's file system."""
    root: str
    """The folder, as that file system names it."""

    def read(self, name: str) -> bytes:
        """A small file's bytes."""
        with self._telling(name):
            content: bytes = self.system.cat_file(f"{self.root}/{name}")
            return content

    def fetch(self, name: str, to: Path) -> FileRecord:
        """Copy a file over one that is there; returns the size and checksum of what arrived."""
        state, size = xxhash.xxh3_128(), 0
        address = f"{self.root}/{name}"
        with self._telling(name), self.system.open(address, "rb", block_size=_CHUNK) as source, to.open("r+b") as file:
            while block := source.read(_CHUNK):
                file.write(block)
                state.update(block)
                size += len(block)
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
        return FileRecord(bytes=size, checksum=state.hexdigest())

    @contextmanager
    def _telling(self, name: str) -> Iterator[None]:
        """Whatever the file system raises is told with the address; of our own disk's errors, what they are."""
        try:
            yield
        except ScmfError:
            raise
        except Exception as error:  # botocore, aiohttp and OSError have no base of their own
            missing = isinstance(error, FileNotFoundError)
            said = (str(error).splitlines() or ["no reason given"])[0][:200]
            reason = "there is no such file" if missing else f"{type(error).__name__}: {said}"
            advice = (
                "check the address, or that all of the store was copied there"
                if missing
                else "check the network, the disk of the cache, the credentials (AWS_PROFILE, AWS_ACCESS_KEY_ID) and "
                "the endpoint (AWS_ENDPOINT_URL); whole files that have arrived stay in the cache"
            )
            raise StoreError(f"cannot read {name}: {reason}", where=f"{self.url}/{name}", fix=advice) from error


@dataclass(frozen=True, slots=True)
class Cache:
    """Files of one store on the local disk."""

    folder: Path
    files: RemoteFiles

    @classmethod
    def for_store(cls, manifest: Manifest, files: RemoteFiles) -> Cache:
        """The folder of a store in the cache: named by its fingerprint, so that copies of a store share it."""
        folder = cache_root() / manifest.fingerprint
        folder.mkdir(parents=True, exist_ok=True)
        return cls(folder, files)

    def bring(self, part: str, records: Mapping[str, FileRecord], name: str) -> None:
        """Make sure that a file of a part is here and whole; fetch it once, whoever asks.

        Raises:
            StoreError: it cannot be fetched, is not what the manifest says, or does not fit into the cache.
        """
        target, record = self.folder / part / name, records[name]
        with _IN_USE_LOCK:
            _IN_USE.add(target)
        if _is_whole(target, record):
            with suppress(FileNotFoundError):  # another process may have made room since
                os.utime(target)  # used just now
                return
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone(_lock_of(target)):
            if not _is_whole(target, record):
                self._fetch(f"{part}/{name}", target, record)

    def _fetch(self, name: str, target: Path, record: FileRecord) -> None:
        arriving = target.with_name(f".{target.name}{_ARRIVING}")
        arriving.unlink(missing_ok=True)  # of a process that was killed; its lock is ours now
        with _alone(cache_root() / ".room.lock"):
            make_room(record.bytes, where=f"{self.files.url}/{name}")
            with arriving.open("wb") as file:
                file.truncate(record.bytes)  # a hole, so that other processes count what is on its way
        try:
            found = self.files.fetch(name, arriving)
            if found != record:
                raise StoreError(
                    f"{found.bytes:,} bytes arrived with checksum {found.checksum}; the manifest says "
                    f"{record.bytes:,} and {record.checksum}",
                    where=f"{self.files.url}/{name}",
                    fix="try again; if it says the same, copy the store there again from a sound one",
                )
            arriving.replace(target)
        finally:
            arriving.unlink(missing_ok=True)


_IN_USE: set[Path] = set()
_IN_USE_LOCK = Lock()


def cache_root() -> Path:
    """Folder of the cache."""
    return Path(os.environ.get(CACHE) or Path.home() / ".cache" / "scmf" / "stores")


def cache_limit() -> int:
    """Most bytes that the cache may hold.

    Raises:
        StoreError: the environment variable is no number of bytes.
    """
    text = os.environ.get(LIMIT)
    if text is None:
        return (shutil.disk_usage(cache_root()).free + sum(file.on_disk for file in _held())) * 9 // 10
    if not text.isdigit():
        raise StoreError(f"{text!r} is no number of bytes", where=LIMIT, fix=f"export {LIMIT}=200000000000")
    return int(text)


def make_room(n_bytes: int, *, where: str) -> None:
    """Remove what was used least recently, and by no store of this process, until so many bytes fit.

    A file that another process has mapped stays readable there after it is removed.

    Raises:
        StoreError: it cannot fit.
    """
    files, limit = _held(), cache_limit()
    held = sum(file.bytes for file in files)
    with _IN_USE_LOCK:
        free = sorted((f for f in files if f.path not in _IN_USE and not f.arriving), key=lambda file: file.used)
    for file in free:
        if held + n_bytes <= limit:
            return
        held -= file.bytes
        file.path.unlink(missing_ok=True)
    if held + n_bytes > limit:
        raise StoreError(
            f"the cache may hold {limit:,} bytes; {held:,} are in use and {n_bytes:,} more are needed",
            where=f"{where}, cache {cache_root()}",
            fix=f"export {LIMIT}={held + n_bytes} or more, name a larger disk with {CACHE}, or copy the store to a "
            "local disk and name its folder",
        )


@dataclass(frozen=True, slots=True)
class _Held:
    """A file of the cache."""

    path: Path
    bytes: int
    """What it has, or will have when it has arrived."""
    on_disk: int
    used: float
    """When last, seconds since 1970."""

    @property
    def arriving(self) -> bool:
        """Whether it is on its way."""
        return self.path.name.endswith(_ARRIVING)


def _held() -> list[_Held]:
    """Files of the cache, whole or on their way; what a killed process has left of one is removed."""
    found = []
    for path in cache_root().rglob("*"):
        if path.name.endswith(".lock"):
            continue
        if _is_left_over(path):
            path.unlink(missing_ok=True)
            continue
        with suppress(FileNotFoundError):  # other processes make room too, and give files their names
            state = path.stat()
            if stat.S_ISREG(state.st_mode):
                found.append(_Held(path, state.st_size, 512 * state.st_blocks, state.st_mtime))
    return found


def _is_left_over(path: Path) -> bool:
    """Whether nobody holds the lock under which a file arrives."""
    if not path.name.endswith(_ARRIVING):
        return False
    with suppress(FileNotFoundError), _lock_of(path).open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _lock_of(path: Path) -> Path:
    """The lock under which a file is fetched, by its name or by that under which it arrives."""
    return path.with_name(f".{path.name.removeprefix('.').removesuffix(_ARRIVING)}.lock")


def _is_whole(path: Path, record: FileRecord) -> bool:
    """Files get their name when they are whole and checked, so that the size is enough."""
    return path.is_file() and path.stat().st_size == record.bytes


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock that other processes and threads of this machine respect."""
    deadline = time.monotonic() + LOCK_SECONDS
    with path.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise StoreError(
                        f"another process has been fetching this file for {LOCK_SECONDS:,} seconds",
                        where=str(path),
                        fix=f"see what it does, and end it if it hangs: fuser {shlex.quote(str(path))}",
                    ) from None
                time.sleep(0.05)
        yield


def _connect(url: str) -> RemoteFiles:
    scheme = url.partition("://")[0]
    try:
        import fsspec

        system, root = fsspec.core.url_to_fs(url, **_options(scheme))
    except ImportError as error:
        raise MachineError(
            f"{scheme}:// needs a package that is not installed ({error})",
            where=url,
            fix="pip install 'scmf-data[s3]'" if scheme == "s3" else f"install fsspec and its package for {scheme}://",
        ) from None
    except ValueError as error:
        raise StoreError(
            f"{scheme}:// is no address that can be read ({error})",
            where=url,
            fix="name a folder, or s3://bucket/folder",
        ) from None
    return RemoteFiles(url.rstrip("/"), system, root.rstrip("/"))


def _options(scheme: str) -> dict[str, Any]:
    """Limits of patience: a server that is silent must not hold a run for ever."""
    if scheme not in ("s3", "s3a"):
        return {}
    patience = {"connect_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS, "retries": {"max_attempts": 3}}
    return {"config_kwargs": patience, "use_listings_cache": False}
