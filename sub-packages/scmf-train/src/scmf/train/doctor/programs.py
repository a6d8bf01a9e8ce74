"""Packages and whether they work together. In: what is installed. Out: checks, each import tried in its own process."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shlex
import sys
from collections.abc import Iterator
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

from scmf.train.doctor.check import Check, fault, ok, warning
from scmf.train.doctor.inquiry import Answer, try_import

_OURS = ("scmf-core", "scmf-data", "scmf-model", "scmf-train", "scmf-eval")


def missing_requirements(distributions: tuple[str, ...] = _OURS) -> list[str]:
    """Requirements of installed distributions that are not met, as pip takes them, with what is there instead."""
    found = []
    for distribution in distributions:
        try:
            wanted = importlib.metadata.requires(distribution) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for text in wanted:
            requirement = _needed(text)
            if requirement is None:
                continue
            try:
                version = importlib.metadata.version(requirement.name)
            except importlib.metadata.PackageNotFoundError:
                found.append(f"{requirement.name}{requirement.specifier} (missing)")
                continue
            if not requirement.specifier.contains(version, prereleases=True):
                found.append(f"{requirement.name}{requirement.specifier} (is {version})")
    return list(dict.fromkeys(found))


def _needed(text: str) -> Requirement | None:
    """A requirement that holds here; None for those of extras and of other machines."""
    try:
        requirement = Requirement(text)
    except InvalidRequirement:
        return None
    holds = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    return requirement if holds else None


def check_packages(unmet: list[str]) -> Check:
    """What scmf asks for is there.

    Args:
        unmet: of `missing_requirements`.
    """
    versions = ", ".join(f"{name} {version}" for name in _OURS[3:] if (version := version_of(name)))
    if not unmet:
        return ok("packages", f"{versions} and all that they ask for")
    words = [word.partition(" ")[0] for word in unmet]
    return fault(
        "packages",
        f"{len(unmet)} {'is' if len(unmet) == 1 else 'are'} not as asked for: {', '.join(unmet[:5])}",
        where=sys.prefix,
        fix=f"make setup; or, in an environment of your own: pip install {shlex.join(words)}",
    )


def version_of(distribution: str) -> str | None:
    """Installed version; None where it is not."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_torch(answer: Answer, drivers: tuple[tuple[str, int], ...]) -> Iterator[Check]:
    """Torch and the GPUs.

    Args:
        answer: of scmf.train.doctor.torch_facts.
        drivers: name and bytes of memory of each GPU, as the driver says.
    """
    facts: dict[str, Any] | None = answer.value
    if facts is None:
        yield fault(
            "torch",
            f"cannot be imported: {answer.failure}",
            where=f"{version_of('torch') or 'not installed'} in {sys.prefix}",
            fix="pip install --force-reinstall torch==2.13.0; without a GPU choose the CPU build: docs/gpu.md",
        )
        return
    build = f"{facts['torch']}, {'built for CUDA ' + facts['cuda'] if facts['cuda'] else 'the build for CPUs'}"
    yield ok("torch", build)
    yield _check_gpus(facts, drivers)
    yield _check_nccl(facts)


def _check_gpus(facts: dict[str, Any], drivers: tuple[tuple[str, int], ...]) -> Check:
    shown = f"{len(drivers)} by the driver: {', '.join(name for name, _ in drivers)}"
    if facts["devices"]:
        each = [f"{d['name']} ({d['memory'] / 1e9:.0f} GB, capability {d['capability']})" for d in facts["devices"]]
        return ok("gpus", "; ".join(each))
    if not drivers:
        return ok("gpus", "none: runs use the cores, with gloo, in fp32 unless told otherwise")
    if not facts["cuda"]:
        return fault(
            "gpus",
            f"{shown}; torch {facts['torch']} is the build for CPUs and cannot use them",
            where="torch",
            fix="pip install torch==2.13.0 from an index with CUDA builds; docs/gpu.md has the set of versions",
        )
    return fault(
        "gpus",
        f"{shown}; torch built for CUDA {facts['cuda']} cannot use them: {facts['error'] or 'it gives no reason'}",
        where="the driver and torch",
        fix="nvidia-smi shows the driver's CUDA version, which must not be older than torch's: update the driver, or "
        "install a torch built for an older CUDA",
    )


def _check_nccl(facts: dict[str, Any]) -> Check:
    if not facts["devices"]:
        return ok("nccl", "not needed: ranks on cores talk by gloo")
    if facts["nccl"]:
        return ok("nccl", facts["nccl"])
    return fault(
        "nccl",
        "torch was built without NCCL, and several GPUs cannot train together",
        where=f"torch {facts['torch']}",
        fix="pip install torch==2.13.0 from an index with CUDA builds for Linux",
    )


def check_megatron() -> Check:
    """Megatron-Core through the one file that knows it, which shields it from what is half installed."""
    version, wanted = version_of("megatron-core"), _wanted("scmf-model", "megatron-core")
    failure = try_import("scmf.model.megatron")
    if failure is None:
        return ok("megatron", f"megatron-core {version}")
    return fault(
        "megatron",
        f"megatron-core {version or '(not installed)'} cannot be imported: {failure}",
        where=sys.prefix,
        fix=f"pip install megatron-core{wanted}",
    )


def _wanted(distribution: str, package: str) -> str:
    """Versions of a package that a distribution asks for."""
    try:
        texts = importlib.metadata.requires(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return ""
    found = [_needed(text) for text in texts]
    return next((str(r.specifier) for r in found if r is not None and r.name == package), "")


def check_transformer_engine(*, gpus: int) -> Check:
    """It is needed on GPUs, and can do nothing elsewhere.

    Args:
        gpus: that torch can use.
    """
    name, version = "transformer-engine", version_of("transformer-engine")
    there = version is not None or importlib.util.find_spec("transformer_engine") is not None
    if not gpus:
        return ok(
            name, f"{version or 'installed'}, and kept from being imported: no GPU" if there else "not needed: no GPU"
        )
    if not there:
        return fault(
            name,
            "not installed, and GPUs train by its kernels only",
            where=sys.prefix,
            fix="pip install 'scmf-model[gpu]'; in a container of NVIDIA's NGC it is there already",
        )
    failure = try_import("transformer_engine.pytorch")
    if failure is None:
        return ok(name, version or "installed, without a version")
    return fault(
        name,
        f"{version or 'installed'}, and cannot be imported: {failure}",
        where=sys.prefix,
        fix="install the wheel that was built for this torch and CUDA: pip install --no-build-isolation "
        "--force-reinstall 'transformer-engine[pytorch]>=2.9,<2.12'",
    )


def check_optional(name: str, *, distribution: str, module: str) -> Check:
    """A package of NGC containers that scmf can do without.

    Args:
        name: of the check.
        distribution: as pip knows it.
        module: to import.
    """
    version = version_of(distribution)
    if version is None and importlib.util.find_spec(module) is None:
        return ok(name, "not installed, and not needed")
    failure = try_import(module)
    if failure is None:
        return ok(name, version or "installed, without a version")
    return warning(
        name,
        f"{version or 'installed'}, and cannot be imported: {failure}",
        where=sys.prefix,
        fix=f"scmf does without it, but Megatron-Core tries to import it: pip uninstall {distribution}, or mend it",
    )
