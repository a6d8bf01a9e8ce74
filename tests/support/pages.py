"""The documentation as data: pages, their fenced blocks, and the run of all blocks of a page in one shell.

Rules of a page:
    ```bash and ```python blocks are executed, in order, in one shell, in a fresh folder that looks like a clone.
    ```output right below a block holds lines that the block prints, in that order; `...` stands for any text.
    <!-- not executed: REASON --> right above a block leaves it out; a block that shows a command and is neither
    executed nor marked is a fault.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from support.warm import warm_programs

REPOSITORY = Path(__file__).parents[2]
EXECUTED = ("bash", "python")
TIMEOUT_SECONDS = 400
_MARK = "\x1e"
_FENCE = re.compile(r"^```(\w*)\s*$")
_REASON = re.compile(r"^<!-- not executed:(.*)-->$")
_COMMAND = re.compile(
    r"^\s*(\$ |scmf-|torchrun |srun |sbatch |make |git |pip |python |cp |cat |grep |curl |docker |CUDA_|OMP_|NVTE_)"
)


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block."""

    language: str
    code: str
    line: int
    """Of the opening fence, from 1."""
    reason: str | None
    """Why it is not executed, where the page says so; may be empty, which is a fault."""

    @property
    def executed(self) -> bool:
        """Whether the page is run with it."""
        return self.language in EXECUTED and self.reason is None

    @property
    def shows_a_command(self) -> bool:
        """Whether a reader would take it for something to type."""
        return self.language in EXECUTED or any(_COMMAND.match(line) for line in self.code.splitlines())


@dataclass(frozen=True, slots=True)
class PageRun:
    """What a page's blocks did."""

    folder: Path
    returncode: int
    printed: dict[int, str]
    """Stdout and stderr of each block, by its line."""

    @property
    def tail(self) -> str:
        """The last block that ran, and the end of what it printed."""
        line = max(self.printed, default=0)
        return f"block at line {line}:\n{self.printed.get(line, '')[-4000:]}"


def pages() -> list[Path]:
    """Every page whose blocks are executed."""
    single = [REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "recipes/README.md")]
    return sorted((REPOSITORY / "docs").glob("*.md")) + [path for path in single if path.exists()]


def texts() -> list[Path]:
    """Every markdown file of the repository."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "*.md"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    return [path for name in listed.stdout.split() if (path := REPOSITORY / name).exists()]


def name(path: Path) -> str:
    """Relative to the repository, for test ids and messages."""
    return str(path.relative_to(REPOSITORY))


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page.

    Raises:
        ValueError: a fence is never closed.
    """
    found: list[Block] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    start: int | None = None
    for number, line in enumerate(lines):
        if start is None and _FENCE.match(line):
            start = number
        elif start is not None and line.rstrip() == "```":
            found.append(_block(lines, start, number))
            start = None
    if start is not None:
        raise ValueError(f"{name(page)}:{start + 1}: the fence is never closed")
    return found


def _block(lines: list[str], start: int, end: int) -> Block:
    opening, above = _FENCE.match(lines[start]), _REASON.match(lines[start - 1]) if start else None
    return Block(
        language=opening.group(1) if opening else "",
        code="\n".join(lines[start + 1 : end]) + "\n",
        line=start + 1,
        reason=above.group(1).strip() if above else None,
    )


def prose(page: Path) -> str:
    """A page without its fenced blocks; line numbers stay."""
    kept, inside = [], False
    for line in page.read_text(encoding="utf-8").splitlines():
        fence = line.startswith("```")
        kept.append("" if inside or fence else line)
        inside = inside != fence
    return "\n".join(kept)


def expectations(page: Path) -> list[tuple[Block, Block]]:
    """Pairs of an executed block and the ```output below it."""
    found = blocks(page)
    return [(a, b) for a, b in itertools.pairwise(found) if b.language == "output" and a.executed]


def missing_lines(expected: str, printed: str) -> list[str]:
    """Lines of an output block that were not printed in that order; `...` stands for any text on the line."""
    missing, rest = [], printed.splitlines()
    for line in expected.splitlines():
        pattern = re.compile(".*".join(map(re.escape, line.rstrip().split("..."))))
        at = next((i for i, text in enumerate(rest) if pattern.fullmatch(text.rstrip())), None)
        if at is None:
            missing.append(line)
        else:
            rest = rest[at + 1 :]
    return missing


def run_page(page: Path, folder: Path) -> PageRun:
    """Run the executed blocks of a page in one shell that stops at the first failure.

    Args:
        page: the markdown file.
        folder: empty; becomes the working folder, with the repository's data and scripts in it.
    """
    furnish(folder)
    script = folder.parent / f"{folder.name}.sh"
    script.write_text(_script([block for block in blocks(page) if block.executed], folder.parent))
    result = subprocess.run(
        ["bash", str(script)],
        cwd=folder,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    _, *printed = result.stdout.split(_MARK)
    by_line = dict(text.split("\n", 1) for text in printed)
    return PageRun(folder, result.returncode, {int(line): text for line, text in by_line.items()})


def furnish(folder: Path) -> None:
    """Make a folder look like the root of a clone. `data` is a folder of its own, which pages write to."""
    (folder / "data").mkdir(parents=True)
    for path in (REPOSITORY / "data").glob("*.*"):
        (folder / "data" / path.name).symlink_to(path)
    for part in ("scripts", "recipes"):
        (folder / part).symlink_to(REPOSITORY / part)


def _script(executed: list[Block], aside: Path) -> str:
    """One bash script: exports and functions of a block hold for the next, as in a reader's terminal."""
    lines = ["set -euo pipefail"]
    for block in executed:
        lines.append(f"printf '{_MARK}%s\\n' {block.line}")
        if block.language == "python":
            file = aside / f"block_{block.line}.py"
            file.write_text(block.code)
            lines.append(f"PYTHONPATH=${{PYTHONPATH:-.}} python {file}")
        else:
            lines.append(block.code)
    return "\n".join(lines) + "\n"


def _environment() -> dict[str, str]:
    """A reader's terminal with the virtual environment active; one thread, because tests share the machine."""
    launcher = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    kept = {k: v for k, v in os.environ.items() if k not in launcher}
    folders = [str(warm_programs()), str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    ranks = {"PYTHON_EXEC": str(warm_programs() / "python")}  # what torchrun starts them with
    return {**kept, **ranks, "PATH": os.pathsep.join(folders), "OMP_NUM_THREADS": "1", "COLUMNS": "120", "TERM": "dumb"}


def help_of(*words: str) -> str:
    """`--help` of a command, or of its sub-command."""
    program = shutil.which(words[0], path=_environment()["PATH"])
    if program is None:
        raise FileNotFoundError(words[0])
    shown = subprocess.run(
        [program, *words[1:], "--help"], capture_output=True, text=True, env=_environment(), check=True
    )
    return shown.stdout
