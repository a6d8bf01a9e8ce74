"""How the values of a store are read: by memory map or by requests. In: a store's folder and size. Out: the choice.

A memory map is fastest where pages stay in memory. Where a store is many times larger than memory, or lies on a
network disk, every page fault waits alone, and an error of the server kills the process (SIGBUS); there `pread`
asks for whole cells, many at a time, and an error is an error.
"""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

Mode = Literal["mmap", "pread"]

TIMES_MEMORY: Final = 8
"""A store larger than so many times the memory is read by pread. annbatch reports freezes of maps of 20 times."""
_FILES_A_PART: Final = 6
_OTHER_FILES: Final = 512
_NETWORK: Final = ("nfs", "cifs", "smb", "lustre", "ceph", "fuse", "gpfs", "beegfs", "9p", "afs", "gluster", "weka")
"""Beginnings of the names of file systems whose disk is elsewhere."""
MOUNTS: Final = Path("/proc/self/mountinfo")
OWN_GROUPS: Final = Path("/proc/self/cgroup")
GROUPS: Final = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Reading:
    """How values are read, and why."""

    mode: Mode
    why: str

    def __str__(self) -> str:
        return f"{self.mode} ({self.why})"


MAPPED: Final = Reading("mmap", "as asked")


def choose_reading(asked: Literal["auto", "mmap", "pread"], path: Path, n_bytes: int) -> Reading:
    """Decide how a store is read.

    Args:
        asked: `data.read`.
        path: the store's folder.
        n_bytes: bytes of all its arrays.
    """
    if asked != "auto":
        return Reading(asked, "as asked")
    kind, memory = file_system_of(path), memory_bytes()
    facts = f"auto: {n_bytes / 1e9:,.2f} GB on {kind}, {memory / 1e9:,.1f} GB of memory"
    far = kind.startswith(_NETWORK) or n_bytes > TIMES_MEMORY * memory
    return Reading("pread" if far else "mmap", facts)


def file_system_of(path: Path) -> str:
    """Type of the file system that holds a path, such as ext4 or nfs4; `unknown` where the system does not say."""
    wanted = str(path.resolve())
    best, kind = "", "unknown"
    try:
        lines = os.fsdecode(MOUNTS.read_bytes()).splitlines()
    except OSError:
        return kind
    for line in lines:
        left, _, right = line.partition(" - ")
        # The kernel writes a blank in a path as \040, and letters beyond ASCII as they are.
        point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), left.split()[4])
        inside = wanted == point or wanted.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, right.split()[0]
    return kind


def memory_bytes() -> int:
    """Memory that this process may use: the machine's, or the least limit of its control groups where that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([total, *_limits()])


def _limits() -> Iterator[int]:
    """Limits of memory of this process's control group and those around it: a job's is in one of its own."""
    try:
        lines = OWN_GROUPS.read_text().splitlines()
    except OSError:
        lines = []
    for line in [*lines, "0::/", "0:memory:/"]:  # in a container its own group is the root
        _, kinds, group = line.split(":", 2)
        if kinds and "memory" not in kinds.split(","):
            continue
        root, name = (GROUPS / "memory", "memory.limit_in_bytes") if kinds else (GROUPS, "memory.max")
        folder = root / group.lstrip("/")
        for place in (folder, *folder.parents[: len(folder.parts) - len(root.parts)]):
            with suppress(OSError):
                limit = (place / name).read_text().strip()
                if limit.isdigit():  # "max" is none
                    yield int(limit)


def allow_files(n_parts: int) -> None:
    """Raise this process's limit of open files where a store has many parts, as far as the system allows.

    A memory map holds its file open (in Python before 3.13 always), and so does reading by requests.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES_A_PART * n_parts + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
