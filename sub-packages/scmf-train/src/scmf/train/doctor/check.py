"""What was looked at, and what was found. In: nothing. Out: the table of checks from which code and docs take texts."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Final, Literal

State = Literal["ok", "warning", "fault"]

CHECKS: Final = {
    "python": ("SCMF-M001", "the version that scmf runs on"),
    "packages": ("SCMF-M002", "every package that scmf asks for is installed, in a version that it asks for"),
    "torch": ("SCMF-M003", "torch can be imported, and is the build for this machine"),
    "gpus": ("SCMF-M004", "what the driver shows, torch can use"),
    "nccl": ("SCMF-M005", "GPUs can talk to each other"),
    "megatron": ("SCMF-M006", "Megatron-Core can be imported"),
    "transformer-engine": ("SCMF-M007", "the layers of GPUs can be imported, where there are GPUs"),
    "apex": ("SCMF-M008", "where it is installed, it can be imported"),
    "nemo": ("SCMF-M009", "where it is installed, it can be imported"),
    "cores": ("SCMF-M010", "cores that this process may use, by affinity and control group"),
    "memory": ("SCMF-M011", "memory that this process may use, by machine and control group"),
    "shared-memory": ("SCMF-M012", "shared memory, through which ranks of one node exchange data"),
    "open-files": ("SCMF-M013", "the limit of open files, of which a store takes three a part"),
    "text": ("SCMF-M014", "files and terminals are read and written as UTF-8"),
    "compiled-code": ("SCMF-M015", "compiled kernels can be kept from one process to the next"),
    "disk": ("SCMF-M016", "room where runs and temporary files are written"),
    "products": ("SCMF-M017", "speed of one matrix product by type, beside the chip's stated peak where it is known"),
    "ring": ("SCMF-M018", "ranks started by torchrun find each other, pass data around and add it up rightly"),
    "store": (
        "SCMF-M019",
        "a store is there and its files come from the disk at a usable rate, with `scmf-doctor --store`",
    ),
}
"""Number of each check and what it is about. Numbers are never given to another check."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    """A key of CHECKS."""
    state: State
    found: str
    """One sentence with the numbers."""
    where: str = ""
    """What to look at; only with a warning or a fault."""
    fix: str = ""
    """What mends it, as a command where there is one; only with a warning or a fault."""

    def __post_init__(self) -> None:
        if self.name not in CHECKS or (self.state != "ok") != bool(self.where and self.fix):
            raise ValueError(f"{self}: a known name, and a place and a way out for all that is not ok")

    @property
    def number(self) -> str:
        """Stable, for scripts and for the documentation."""
        return CHECKS[self.name][0]

    def as_dict(self) -> dict[str, str]:
        """Plain values for JSON."""
        return {"number": self.number, **asdict(self)}

    def lines(self) -> list[str]:
        """For people."""
        mark = {"ok": "ok     ", "warning": "warning", "fault": "FAULT  "}[self.state]
        lines = [f"{mark}  {self.name:<18}  {self.found}"]
        if self.state != "ok":
            lines += [f"         {self.number}", f"         where: {self.where}", f"         fix:   {self.fix}"]
        return lines


def ok(name: str, found: str) -> Check:
    """Nothing to mend."""
    return Check(name, "ok", found)


def warning(name: str, found: str, *, where: str, fix: str) -> Check:
    """Runs will work, slowly or not always."""
    return Check(name, "warning", found, where, fix)


def fault(name: str, found: str, *, where: str, fix: str) -> Check:
    """Runs will fail, or will not be what was asked for."""
    return Check(name, "fault", found, where, fix)
