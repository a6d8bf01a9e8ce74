"""All checks in order. In: what to look at. Out: checks, as they are made."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from scmf.core.errors import MachineError
from scmf.train.doctor.check import Check, fault, ok
from scmf.train.doctor.disk import check_store
from scmf.train.doctor.host import host_checks
from scmf.train.doctor.inquiry import Answer, ask
from scmf.train.doctor.products import check_products
from scmf.train.doctor.programs import (
    check_megatron,
    check_optional,
    check_packages,
    check_torch,
    check_transformer_engine,
    missing_requirements,
)
from scmf.train.launch import free_port
from scmf.train.plan.target import visible_gpus


def examine(*, store: Path | None = None, ring: bool = True) -> Iterator[Check]:
    """Look at this machine.

    Args:
        store: one to read from.
        ring: start ranks and have them exchange data.
    """
    drivers, silent = _ask_driver()
    yield from host_checks(gpus=len(drivers))
    yield check_packages(missing_requirements())
    answer = ask("-m", "scmf.train.doctor.torch_facts", "--products", OMP_WAIT_POLICY="PASSIVE")
    usable = len(answer.value["devices"]) if answer.value else 0
    for check in check_torch(answer, drivers):
        yield silent if silent is not None and check.name == "gpus" and not usable else check
    yield check_megatron()
    yield check_transformer_engine(gpus=usable)
    yield check_optional("apex", distribution="apex", module="apex")
    yield check_optional("nemo", distribution="nemo_toolkit", module="nemo")
    if answer.value:
        device = answer.value["devices"][0]["name"] if usable else "cpu"
        yield check_products(answer.value["products"], device=device)
        if ring:
            yield check_ring(max(2, usable) if usable != 1 else 1)
    if store is not None:
        yield check_store(store)


def _ask_driver() -> tuple[tuple[tuple[str, int], ...], Check | None]:
    """GPUs by the driver, and a fault where it does not answer."""
    try:
        return visible_gpus(), None
    except MachineError as error:
        return (), fault("gpus", error.what, where=error.where, fix="nvidia-smi; mend the driver, or reboot the node")


def check_ring(ranks: int) -> Check:
    """Start ranks with torchrun and let them exchange data.

    Args:
        ranks: one a GPU, or two on cores.
    """
    words = ["-m", "torch.distributed.run", "--nnodes=1", f"--nproc-per-node={ranks}"]
    words += ["--master-addr=127.0.0.1", f"--master-port={free_port()}", "-m", "scmf.train.doctor.ring"]
    # One node: gloo need not ask which address the host's name has, which fails on many laptops.
    lo = "lo" if sys.platform.startswith("linux") else "lo0"
    answer = ask(*words, OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME=lo)
    if answer.value is None:
        return _broken_ring(ranks, answer)
    rate = answer.value["bytes_per_s"] / 1e9
    return ok("ring", f"{ranks} ranks by {answer.value['backend']}, {rate:,.1f} GB/s a rank in a sum over all of 17 MB")


def _broken_ring(ranks: int, answer: Answer) -> Check:
    return fault(
        "ring",
        f"{ranks} ranks cannot work together: {answer.failure}",
        where="torchrun on 127.0.0.1",
        fix="NCCL_DEBUG=INFO scmf-doctor says more on GPUs; on cores check that a firewall leaves 127.0.0.1 alone",
    )
