"""The machine without its accelerators. In: this process's place. Out: checks of Python, limits, memory, disks."""

from __future__ import annotations

import locale
import os
import resource
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from scmf.data.reading import memory_bytes
from scmf.train.doctor.check import Check, fault, ok, warning

_GB = 1e9
_LEAST_MEMORY = 4 * _GB
_LEAST_SHARED = 1 * _GB
_LEAST_DISK = 5 * _GB
_LEAST_FILES = 1024
_SUPPORTED = ((3, 11), (3, 12))


def host_checks(*, gpus: int) -> Iterator[Check]:
    """Everything about the machine that needs neither torch nor a store.

    Args:
        gpus: that the driver shows.
    """
    yield check_python(sys.version_info[:3])
    yield check_cores(
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, quota()
    )
    yield check_memory(memory_bytes())
    yield check_shared_memory(Path("/dev/shm"), gpus=gpus)  # noqa: S108  # the place itself is looked at
    yield check_open_files(*resource.getrlimit(resource.RLIMIT_NOFILE))
    yield check_text(sys.getfilesystemencoding(), locale.getpreferredencoding(do_setlocale=False))
    yield check_compiled_code()
    yield check_disk((Path.cwd(), Path(tempfile.gettempdir())))


def check_python(version: tuple[int, int, int]) -> Check:
    """Python is one of those that scmf is tested on."""
    text = ".".join(map(str, version))
    if version[:2] in _SUPPORTED:
        return ok("python", f"{text} ({sys.executable})")
    return fault(
        "python",
        f"{text}; scmf is tested on 3.11 and 3.12",
        where=sys.executable,
        fix="make an environment with another Python: python3.12 -m venv .venv",
    )


def quota() -> float | None:
    """Cores that the control group allows; None where it sets no limit."""
    for path, split in ((Path("/sys/fs/cgroup/cpu.max"), True), (Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), False)):
        try:
            words = path.read_text().split()
            period = words[1] if split else path.with_name("cpu.cfs_period_us").read_text()
            return int(words[0]) / int(period) if words[0] not in {"max", "-1"} else None
        except (OSError, ValueError, IndexError):
            continue
    return None


def check_cores(affinity: int, allowed: float | None) -> Check:
    """Threads of libraries count the cores they see, not the time that they are given.

    Args:
        affinity: cores on which this process may run.
        allowed: cores' time that the control group gives; None without a limit.
    """
    if allowed is None or allowed >= affinity:
        return ok("cores", f"{affinity}")
    threads = max(1, int(allowed))
    return warning(
        "cores",
        f"{affinity} to be seen, and the time of {allowed:.1f}: {affinity} threads of kernels wait for each other",
        where="the control group's CPU limit",
        fix=f"export OMP_NUM_THREADS={threads}, or ask the scheduler for whole cores",
    )


def check_memory(n_bytes: int) -> Check:
    """Enough for the program, a conversion and a small model."""
    if n_bytes >= _LEAST_MEMORY:
        return ok("memory", f"{n_bytes / _GB:,.1f} GB")
    return warning(
        "memory",
        f"{n_bytes / _GB:,.1f} GB; the program alone takes 0.6 GB, the 10M recipe 3.5 GB on a CPU",
        where="this machine, or the control group's memory limit",
        fix="ask the scheduler or the container for more; what a config takes: scmf-plan --config cfg.yaml",
    )


def check_shared_memory(place: Path, *, gpus: int) -> Check:
    """Containers often have 64 MB, which is too little for NCCL between the GPUs of a node."""
    if not place.is_dir():
        return ok("shared-memory", f"no {place}: not a Linux, or hidden")
    total, _, free = shutil.disk_usage(place)
    found = f"{free / _GB:,.2f} GB free of {total / _GB:,.2f} in {place}"
    if free >= _LEAST_SHARED or gpus < 2:
        return ok("shared-memory", found)
    return warning(
        "shared-memory",
        f"{found}, and {gpus} GPUs that exchange data through it",
        where=str(place),
        fix="start the container with --shm-size=8g (Docker), or --ipc=host",
    )


def check_open_files(soft: int, hard: int) -> Check:
    """A store of 100 million cells has 100 parts, and three open files a part."""
    if soft == resource.RLIM_INFINITY or soft >= _LEAST_FILES:
        return ok("open-files", "no limit" if soft == resource.RLIM_INFINITY else f"{soft:,}")
    most = "" if hard == resource.RLIM_INFINITY else f" (this user may have {hard:,})"
    return warning(
        "open-files",
        f"{soft:,} at most{most}; a store takes three a part, checkpoints some more",
        where="ulimit -n",
        fix=f"ulimit -n {_LEAST_FILES if hard == resource.RLIM_INFINITY else min(4096, hard)}",
    )


def check_text(files: str, terminal: str) -> Check:
    """Names of genes and donors hold letters of every language."""
    if {files.lower().replace("-", ""), terminal.lower().replace("-", "")} == {"utf8"}:
        return ok("text", "UTF-8")
    return warning(
        "text",
        f"file names are {files} and text is {terminal}: names outside of ASCII may fail",
        where="the locale of this process",
        fix="export LC_ALL=C.UTF-8, or PYTHONUTF8=1",
    )


def check_compiled_code() -> Check:
    """Kernels that cannot be kept are compiled anew by every process: half a minute each time."""
    import scmf.data

    given = os.environ.get("NUMBA_CACHE_DIR")
    package = Path(next(iter(scmf.data.__path__)))
    # As numba looks for a place: what it is told, beside the code, then the user's own folder.
    places = [Path(given)] if given else [package / "__pycache__", Path.home() / ".cache"]
    found = next((place for place in places if _writable(place)), None)
    if found is not None:
        return ok("compiled-code", f"kept in {found}")
    return warning(
        "compiled-code",
        f"cannot be kept in {' nor in '.join(map(str, places))}: each process compiles its kernels anew",
        where="NUMBA_CACHE_DIR",
        fix=f"export NUMBA_CACHE_DIR={Path(tempfile.gettempdir()) / 'scmf-kernels'}",
    )


def check_disk(places: tuple[Path, ...]) -> Check:
    """Room for checkpoints, stores and temporary files."""
    free = {place: shutil.disk_usage(place).free for place in places}
    found = "; ".join(f"{n / _GB:,.1f} GB free in {place}" for place, n in free.items())
    short = [place for place, n in free.items() if n < _LEAST_DISK]
    unwritable = [place for place in places if not _writable(place)]
    if unwritable:
        return warning(
            "disk",
            f"{found}; no right to write in {unwritable[0]}",
            where=str(unwritable[0]),
            fix="run in a folder of your own, and set trainer.result_dir and TMPDIR to such folders",
        )
    if short:
        return warning(
            "disk",
            f"{found}; a checkpoint of the 106M recipe takes 1.3 GB, and several are kept",
            where=str(short[0]),
            fix="free space, or name another disk with --result-dir, --dest and TMPDIR",
        )
    return ok("disk", found)


def _writable(place: Path) -> bool:
    """Whether files can be made there, or the folder itself."""
    while not place.exists() and place != place.parent:
        place = place.parent
    return os.access(place, os.W_OK | os.X_OK)
