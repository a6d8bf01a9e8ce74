"""The seam that lets Megatron-Core 0.16.1 compute on CPUs: what no flag of Megatron covers.

In: a machine without a GPU. Out: Megatron's own code, with four kinds of places turned to the CPU. Nothing that
works on a CPU build of torch is changed, and on a machine with a GPU nothing happens at all. A test pins this
file to the Megatron version and to the places it touches.

1. `torch.cuda.current_device`, `torch.cuda.synchronize`, `Tensor.cuda`: raise on a CPU build; here they name
   the CPU, do nothing, and return the tensor.
2. Literal `device="cuda"` in a few modules: those modules see a proxy of torch whose factories make CPU tensors.
3. The tracker of random states: keeps CPU generator states.
4. `tensor.type() == "torch.cuda.FloatTensor"` in the optimizer: inside `cuda_type_names()` that is so.
And one number: the gradient norm is taken in float64, because Megatron's float32 sum is off by 4e-5 on a
tensor of 6.5 million values on a CPU, which makes clipping depend on the layout.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch

from scmf.core.errors import MachineError
from scmf.model.device import has_gpu
from scmf.model.megatron import tensor_parallel

MEGATRON_VERSION = "0.16.1"
LITERAL_CUDA_MODULES = (
    "megatron.core.pipeline_parallel.schedules",
    "megatron.core.optimizer.optimizer",
    "megatron.core.optimizer.clip_grads",
    "megatron.core.optimizer.grad_scaler",
    "megatron.core.tensor_parallel.data",
    "megatron.core.utils",
    "megatron.core.dist_checkpointing.exchange_utils",
    "megatron.core.dist_checkpointing.strategies.state_dict_saver",
)
_FACTORIES = ("tensor", "zeros", "ones", "empty", "full", "arange", "empty_like", "zeros_like")
_CPU = torch.device("cpu")
_TYPE = torch.Tensor.type


def open_seam() -> bool:
    """Make Megatron-Core run on the CPU; call before anything of it is built. May be called again.

    Returns:
        Whether the seam is needed, that is whether there is no GPU.

    Raises:
        MachineError: another Megatron-Core than the one this file was written for.
    """
    if has_gpu():
        return False
    _check_version()
    # setattr: torch's own annotations do not foresee it.
    setattr(torch.cuda, "current_device", _current_device)  # noqa: B010, TID251
    setattr(torch.cuda, "synchronize", _synchronize)  # noqa: B010, TID251
    setattr(torch.Tensor, "cuda", _cuda)  # noqa: B010
    proxy = _CpuTorch("torch")
    for name in LITERAL_CUDA_MODULES:
        setattr(importlib.import_module(name), "torch", proxy)  # noqa: B010
    _install_tracker()
    setattr(importlib.import_module("megatron.core.optimizer.clip_grads"), "l2_norm_impl", _exact_norm)  # noqa: B010
    return True


def _check_version() -> None:
    from importlib.metadata import version

    found = version("megatron-core")
    if found != MEGATRON_VERSION:
        raise MachineError(
            f"the CPU seam is written for megatron-core {MEGATRON_VERSION}, this is {found}",
            where="scmf.model.seam",
            fix=f"pip install megatron-core=={MEGATRON_VERSION}",
        )


def _current_device() -> torch.device:
    return _CPU


def _synchronize(device: object = None) -> None:
    del device


def _cuda(self: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
    del args, kwargs
    return self


class _CpuTorch(types.ModuleType):
    """The `torch` that a module with literal device names sees."""

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(torch, name)
        return _on_cpu(attribute) if name in _FACTORIES else attribute


def _on_cpu(factory: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    @functools.wraps(factory)
    def make(*args: Any, **kwargs: Any) -> torch.Tensor:
        if "cuda" in str(kwargs.get("device", "")):
            kwargs["device"] = _CPU
            kwargs.pop("pin_memory", None)
        return factory(*args, **kwargs)

    return make


class CpuStatesTracker(tensor_parallel.random.CudaRNGStatesTracker):
    """Megatron's tracker of named random states, over the CPU generator."""

    def add(self, name: str, seed: int) -> None:
        """Start the named state at `seed`; the same name or seed twice is Megatron's error."""
        if seed in self.seeds_ or name in self.states_:
            raise ValueError(f"random state {name!r} or seed {seed} is already tracked")
        self._is_initialized = True
        self.seeds_.add(seed)
        self.states_[name] = torch.Generator().manual_seed(seed).get_state()

    @contextlib.contextmanager
    def fork(self, name: str = "model-parallel-rng") -> Iterator[None]:
        """Draw from the named state inside the block, from the default one after it."""
        outer = torch.get_rng_state()
        torch.set_rng_state(self.states_[name])
        try:
            yield
        finally:
            self.states_[name] = torch.get_rng_state()
            torch.set_rng_state(outer)


def _install_tracker() -> None:
    random = tensor_parallel.random
    if not isinstance(random._CUDA_RNG_STATE_TRACKER, CpuStatesTracker):  # noqa: SLF001
        random._CUDA_RNG_STATE_TRACKER = CpuStatesTracker()  # noqa: SLF001
        random._CUDA_RNG_STATE_TRACKER_INITIALIZED = True  # noqa: SLF001
    random._get_cuda_rng_state = _get_state  # noqa: SLF001
    random._set_cuda_rng_state = _set_state  # noqa: SLF001


def _get_state(*_: object, **__: object) -> torch.Tensor:
    return torch.get_rng_state()


def _set_state(state: torch.Tensor, *_: object, **__: object) -> None:
    torch.set_rng_state(state)


def _exact_norm(
    chunk: int, no_op: torch.Tensor, lists: list[list[torch.Tensor]], *_: object
) -> tuple[torch.Tensor, None]:
    """L2 norm over a list of gradients, accumulated in float64; Megatron's signature."""
    del chunk, no_op
    norms = [torch.linalg.vector_norm(t, dtype=torch.float64) for t in lists[0]]
    return torch.stack(norms).norm().view(1), None


@contextlib.contextmanager
def cuda_type_names() -> Iterator[None]:
    """Inside the block `tensor.type()` names a CUDA type, as Megatron's optimizers compare it; no change on a GPU."""
    if has_gpu():
        yield
        return
    setattr(torch.Tensor, "type", _cuda_named_type)  # noqa: B010
    try:
        yield
    finally:
        setattr(torch.Tensor, "type", _TYPE)  # noqa: B010


def _cuda_named_type(self: torch.Tensor, dtype: Any = None, *args: Any, **kwargs: Any) -> Any:
    if dtype is not None:
        return _TYPE(self, dtype, *args, **kwargs)
    name = str(_TYPE(self))
    return name if name.startswith("torch.cuda.") else name.replace("torch.", "torch.cuda.", 1)
