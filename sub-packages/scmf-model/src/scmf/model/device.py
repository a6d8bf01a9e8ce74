"""The device of this process. The only file, with the seam, that names CUDA."""

from __future__ import annotations

import functools
import gc
import importlib
import os
import shutil
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch


def has_gpu() -> bool:
    """Whether this process computes on a GPU."""
    return bool(torch.cuda.is_available())  # noqa: TID251  the one place


def gpu_count() -> int:
    """GPUs that this process can see."""
    return int(torch.cuda.device_count()) if has_gpu() else 0  # noqa: TID251


def local_device() -> torch.device:
    """The GPU of this process's local rank (LOCAL_RANK, else 0), the only one that it sees, or the CPU."""
    if not has_gpu():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) if gpu_count() > 1 else 0)


def use_device(device: torch.device) -> None:
    """Make `device` the default of the kernels that take none."""
    if device.type == "cuda":
        torch.cuda.set_device(device)  # noqa: TID251


def peak_memory(device: torch.device) -> int:
    """Largest number of bytes that tensors have held on a GPU since the start; 0 on a CPU."""
    return int(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else 0  # noqa: TID251


def wait_for(device: torch.device) -> None:
    """Wait until everything that was asked of a GPU is done; a CPU has done it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # noqa: TID251


def release_memory(device: torch.device) -> None:
    """Hand back what tensors that are gone have held."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()  # noqa: TID251


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation has failed, on a GPU or on the host, where torch raises a plain RuntimeError."""
    # oneDNN says no more of it than that it could not make its kernel; cuBLAS and cuDNN name a status.
    words = (
        "can't allocate memory",
        "not enough memory",
        "out of memory",
        "could not create a primitive",
        "ALLOC_FAILED",
    )
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )


def compute_capability(device: torch.device) -> tuple[int, int] | None:
    """Generation of a GPU's instructions, such as (9, 0) for an H200; None on a CPU."""
    if device.type != "cuda":
        return None
    major, minor = torch.cuda.get_device_capability(device)  # noqa: TID251
    return int(major), int(minor)


def cuda_version() -> tuple[int, int] | None:
    """CUDA that torch was built for, such as (12, 9); None for a build without it."""
    if torch.version.cuda is None:
        return None
    major, minor = torch.version.cuda.split(".")[:2]
    return int(major), int(minor)


def device_name(device: torch.device) -> str:
    """The chip's name for the run's record."""
    return str(torch.cuda.get_device_name(device)) if device.type == "cuda" else "cpu"  # noqa: TID251


def accelerator_facts() -> dict[str, Any]:
    """Torch's build and the GPUs that it can use, in plain values; why it can use none, where it says so."""
    error = None
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]  # noqa: TID251
    except (RuntimeError, AssertionError) as refusal:
        error = str(refusal).splitlines()[0]
    devices = [torch.cuda.get_device_properties(number) for number in range(gpu_count())]  # noqa: TID251
    nccl = torch.cuda.nccl.version() if devices and torch.distributed.is_nccl_available() else None  # type: ignore[no-untyped-call]  # noqa: TID251
    return {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "error": error,
        "nccl": None if nccl is None else ".".join(map(str, nccl)),
        "devices": [{"name": d.name, "memory": d.total_memory, "capability": f"{d.major}.{d.minor}"} for d in devices],
    }


def seed_generators(seed: int) -> None:
    """Seed torch's default generators of every device of this process."""
    torch.manual_seed(seed)  # noqa: TID251


TRANSFORMER_ENGINE = "transformer-engine[pytorch]>=2.9,<2.12"
"""What to install. Source: the versions that Megatron-Core 0.16.1 names in its own metadata."""


@functools.cache
def transformer_engine_fault() -> str | None:
    """Why Transformer Engine cannot be imported, in its own last words; None where it can. Only on a GPU."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # The second is what Megatron-Core 0.16.1 imports; where it is missing, Megatron does without all of it.
            for name in ("transformer_engine.pytorch", "transformer_engine.pytorch.fp8"):
                importlib.import_module(name)
    except Exception as error:  # RuntimeError, OSError and AssertionError have been seen
        return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
    return None


def has_transformer_engine() -> bool:
    """Whether Transformer Engine can be used: it can be imported, and there is a GPU, without which it does nothing."""
    return has_gpu() and transformer_engine_fault() is None


def hide_unusable_transformer_engine() -> None:
    """Keep a Transformer Engine that cannot work here from being imported by Megatron-Core.

    A half-installed one raises RuntimeError or OSError where Megatron catches ImportError only, so that
    `import megatron.core` itself would fail (seen with 0.16.1). None in sys.modules makes it an ImportError.
    """
    if not has_transformer_engine():
        sys.modules.setdefault("transformer_engine", None)  # type: ignore[arg-type]


def can_compile() -> bool:
    """Whether torch.compile can make a GPU's kernels here: Triton asks for a C compiler and for Python's headers.

    Source: triton/runtime/build.py.
    """
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    return bool(compiler) and Path(sysconfig.get_path("include"), "Python.h").exists()


@contextmanager
def uncompiled_without_gpu() -> Iterator[None]:
    """Let torch.compile return functions as they are, where there is no GPU, to what is imported inside the block.

    Megatron-Core decorates its fused kernels with it. On a CPU none of them is used, and the decorator alone imports
    torch's whole compiler: 1.4 of the 7.1 CPU-seconds in which a rank used to start (torch 2.13).
    """
    if has_gpu():
        yield
        return
    compiled = torch.compile
    torch.compile = _as_it_is  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compile = compiled


def _as_it_is(function: Any = None, **_: Any) -> Any:
    """torch.compile's two ways of being called: with the function, or with options and then the function."""
    return _as_it_is if function is None else function


class StreamMark:
    """A moment on the stream of this process's GPU; made and read without the host waiting for the device."""

    def __init__(self) -> None:
        self._event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # noqa: TID251
        self._event.record()

    def passed(self) -> bool:
        """Whether the device has come by."""
        return bool(self._event.query())  # type: ignore[no-untyped-call]

    def seconds_until(self, later: StreamMark) -> float:
        """Seconds between two moments that have passed."""
        return float(self._event.elapsed_time(later._event)) / 1e3


def marks_of(device: torch.device) -> type[StreamMark] | None:
    """What notes a moment on a device's stream; None on a CPU, which does its work before it goes on."""
    return StreamMark if device.type == "cuda" else None


@contextmanager
def named_range(name: str) -> Iterator[None]:
    """Show the block under a name in NVIDIA's profiler; only on a GPU."""
    torch.cuda.nvtx.range_push(name)  # type: ignore[no-untyped-call]  # noqa: TID251
    try:
        yield
    finally:
        torch.cuda.nvtx.range_pop()  # type: ignore[no-untyped-call]  # noqa: TID251


def capture_for_profiler(*, on: bool) -> None:
    """Begin or end what `nsys profile --capture-range=cudaProfilerApi` records; only on a GPU."""
    (torch.cuda.profiler.start if on else torch.cuda.profiler.stop)()  # type: ignore[no-untyped-call]  # noqa: TID251


_HISTORY = 100_000
"""Allocations that are remembered, each with its Python stack: about 100 MB of the host's memory."""


def remember_allocations() -> None:
    """Have a GPU's allocator keep where its memory was taken; only on a GPU."""
    torch.cuda.memory._record_memory_history(max_entries=_HISTORY)  # noqa: SLF001, TID251


def write_allocations(path: Path) -> None:
    """Write what the allocator has kept, as https://pytorch.org/memory_viz shows it; only on a GPU."""
    torch.cuda.memory._dump_snapshot(str(path))  # type: ignore[no-untyped-call]  # noqa: SLF001, TID251
