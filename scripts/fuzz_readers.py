"""Damaged bytes for every reader. In: seconds. Out: what each target did with them; exit code 1 if one went wrong.

    python scripts/fuzz_readers.py --seconds 60

A target is given the bytes of a sound file with damage in them. It may refuse them with one of our errors, or read
them; it may not raise anything else, crash, hang or give a number that verify would not have warned of. What it
stumbles over is kept in --keep, and `--replay FILE --target NAME` shows it again. The HDF5 library itself loops and
crashes over some damaged files; that is counted by itself. fuzz_atheris.py does the same guided by coverage.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np
import xxhash

from scmf.core.errors import ScmfError
from scmf.data.ingest.convert import convert
from scmf.data.ingest.plan import ConvertOptions
from scmf.data.ledger import Ledger
from scmf.data.manifest import MANIFEST, parse_manifest
from scmf.data.store import CellStore
from scmf.data.verify import verify_store
from scmf.data.vocabulary import load_vocabulary

DEMO: Final = Path(__file__).parents[1] / "data" / "mix3cl_celseq2_dropseq_counts.h5ad"
_WRONG: Final = 9
_CPU_SECONDS_EACH: Final = 10
_EXTREME: Final = (0, 1, 2, 0x7F, 0x80, 0xFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)


class Target:
    """One reader and a sound file for it.

    Args:
        sound: the file's bytes.
        read: raises nothing but ScmfError, or the finding.
    """

    def __init__(self, sound: bytes, read: Callable[[bytes], None]) -> None:
        self.sound = sound
        self.read = read

    def survives(self, damaged: bytes) -> bool:
        """Whether the bytes were read; False where they were refused. Anything else is raised."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # libraries warn of what they meet in damaged files
                self.read(damaged)
        except ScmfError:
            return False
        return True

    def feed(self, damaged: bytes) -> None:
        """The same without an answer, as atheris wants it."""
        self.survives(damaged)


class LibraryEnded(Exception):  # noqa: N818  # it is no error of ours
    """The process ended inside a library that we call."""


class Isolated(Target):
    """A target whose library may loop or crash: each file in a process of its own, for ten CPU-seconds at most."""

    def survives(self, damaged: bytes) -> bool:
        """As `Target.survives`; LibraryEnded when the process was ended by a signal."""
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            self._in_child(damaged)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            raise LibraryEnded(signal.Signals(os.WTERMSIG(status)).name)
        if os.WEXITSTATUS(status) == _WRONG:
            raise AssertionError("see the traceback above")
        return os.WEXITSTATUS(status) == 0

    def _in_child(self, damaged: bytes) -> NoReturn:
        # What the system does then is to end the process, which no library prevents.
        resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS_EACH, _CPU_SECONDS_EACH))
        signal.alarm(12 * _CPU_SECONDS_EACH)
        try:
            code = 0 if super().survives(damaged) else 1
        except BaseException:
            traceback.print_exc(limit=-4)
            code = _WRONG
        os._exit(code)


def targets(work: Path) -> dict[str, Target]:
    """Every target by name, on a small store of real cells.

    Args:
        work: empty folder.
    """
    source = _small_source(work / "cells.h5ad")
    store = work / "store"
    convert([source], store, ConvertOptions(cells_per_part=20), log=lambda _: None)
    sound = {p.relative_to(store).as_posix(): p.read_bytes() for p in store.rglob("*") if p.is_file()}
    files = [name for name in sound if name.startswith("part-00000/")]
    arrays = {name: _StoreFile(store, name) for name in sorted(files) if name.split("/")[1] in {"X", "obs"}}
    made: dict[str, Target] = {name: Target(sound[name], file.read) for name, file in arrays.items()}
    made["manifest"] = Target(sound[MANIFEST], _whole_manifest)
    made["manifest, sealed again"] = Target(sound[MANIFEST], _StoreFile(store, MANIFEST, seal=_seal_manifest).read)
    hashes = np.random.default_rng(0).integers(0, 2**64, 300, np.uint64, endpoint=False)
    about: dict[str, Any] = {"kind": "store", "store": "s", "id_space": "ensembl", "genes": "0" * 16}
    ledger = Ledger.of(hashes, **about)
    made["ledger"] = Target(ledger.to_bytes(), lambda raw: _use_ledger(raw, hashes))
    made["ledger, sealed again"] = Target(ledger.to_bytes(), lambda raw: _use_ledger(_seal_ledger(raw), hashes))
    made["vocabulary"] = Target(_vocabulary(store, work), lambda raw: _read_vocabulary(raw, work))
    made["h5ad"] = Isolated(source.read_bytes(), lambda raw: _convert(raw, work))
    return made


def _small_source(path: Path) -> Path:
    import anndata

    table = anndata.read_h5ad(DEMO)[:40, :400].copy()
    table.write_h5ad(path)
    return path


class _StoreFile:
    """Reads a whole store in which one file is damaged, and puts the file back."""

    def __init__(self, store: Path, name: str, *, seal: Callable[[bytes], bytes] | None = None) -> None:
        self.store, self.path, self.seal = store, store / name, seal
        self.sound = self.path.read_bytes()
        self.values = _read_all(store)

    def read(self, raw: bytes) -> None:
        self.path.write_bytes(raw if self.seal is None else self.seal(raw))
        try:
            values = _read_all(self.store)
            if values != self.values and self.seal is None and not list(verify_store(self.store)):
                raise AssertionError("another number was read, and verify finds no fault")
        finally:
            self.path.write_bytes(self.sound)


def _read_all(path: Path) -> tuple[bytes, ...]:
    """Every number and label of a store."""
    store = CellStore.open(path)
    batch = store.fetch(np.arange(len(store)))
    table = store.obs()
    text = table.to_csv().encode()
    return (batch.indptr.tobytes(), batch.indices.tobytes(), batch.counts.tobytes(), text)


def _whole_manifest(raw: bytes) -> None:
    parse_manifest(raw, where=Path("manifest.json"))


def _seal_manifest(raw: bytes) -> bytes:
    """The bytes with the checksum that they ask for, so that what is behind it is reached."""
    if len(raw) < 46:
        return raw
    zeroed = raw[:14] + b"0" * 32 + raw[46:]
    return raw[:14] + xxhash.xxh3_128(zeroed).hexdigest().encode() + raw[46:]


def _seal_ledger(raw: bytes) -> bytes:
    return raw[:-16] + xxhash.xxh3_128_digest(raw[:-16])


def _use_ledger(raw: bytes, hashes: np.ndarray) -> None:
    ledger = Ledger.from_bytes(raw, where="damaged")
    ledger.contains(hashes)
    ledger.positions()


def _vocabulary(store: Path, work: Path) -> bytes:
    from scmf.data.medians import write_vocabulary

    write_vocabulary(store, work / "vocabulary.parquet")
    return (work / "vocabulary.parquet").read_bytes()


def _read_vocabulary(raw: bytes, work: Path) -> None:
    path = work / "damaged.parquet"
    path.write_bytes(raw)
    load_vocabulary(str(path))


def _convert(raw: bytes, work: Path) -> None:
    path = work / "damaged.h5ad"
    path.write_bytes(raw)
    try:
        convert([path], work / "converted", ConvertOptions(), log=lambda _: None)
        if list(verify_store(work / "converted")):
            raise AssertionError("what was converted is not sound")
    finally:
        shutil.rmtree(work / "converted", ignore_errors=True)


def damage(sound: bytes, draw: random.Random) -> bytes:
    """The bytes with one to four accidents: bits, bytes, words of extreme value, holes, repeats, a cut."""
    raw = bytearray(sound)
    for _ in range(draw.choice((1, 1, 2, 4))):
        _ACCIDENTS[draw.randrange(len(_ACCIDENTS))](raw, draw)
    return bytes(raw)


def _flip(raw: bytearray, draw: random.Random) -> None:
    if raw:
        raw[draw.randrange(len(raw))] ^= draw.randrange(1, 256)


def _extreme(raw: bytearray, draw: random.Random) -> None:
    size = draw.choice((1, 2, 4, 8))
    if len(raw) > size:
        at = draw.randrange(len(raw) - size)
        raw[at : at + size] = (draw.choice(_EXTREME) % 2 ** (8 * size)).to_bytes(size, "little")


def _hole(raw: bytearray, draw: random.Random) -> None:
    at = draw.randrange(len(raw) + 1)
    del raw[at : at + draw.choice((1, 7, 64, 4096))]


def _repeat(raw: bytearray, draw: random.Random) -> None:
    at = draw.randrange(len(raw) + 1)
    raw[at:at] = raw[at : at + draw.choice((1, 7, 64, 4096))]


def _zero(raw: bytearray, draw: random.Random) -> None:
    at, size = draw.randrange(len(raw) + 1), draw.choice((4, 64, 4096))
    raw[at : at + size] = bytes(len(raw[at : at + size]))


def _cut(raw: bytearray, draw: random.Random) -> None:
    del raw[draw.randrange(len(raw) + 1) :]


def _digit(raw: bytearray, draw: random.Random) -> None:
    """Another digit where there is one: what is text stays text."""
    digits = [i for i in range(len(raw)) if 48 <= raw[i] <= 57][:4096]
    if digits:
        raw[draw.choice(digits)] = draw.randrange(48, 58)


_ACCIDENTS: Final = (_flip, _flip, _extreme, _extreme, _hole, _repeat, _zero, _cut, _digit)


def rounds(made: dict[str, Target], *, seconds: float, count: int | None, seed: int) -> Iterator[tuple[str, bytes]]:
    """Each target in turn with the next damage, until the time or the number of rounds is over."""
    end, number = time.monotonic() + seconds, 0
    while number != count and time.monotonic() < end:
        for name, target in made.items():
            yield name, damage(target.sound, random.Random(f"{seed} {name} {number}"))  # noqa: S311
        number += 1


def run_rounds(options: argparse.Namespace) -> int:
    """Damage every target's file again and again, in this process."""
    options.keep.mkdir(parents=True, exist_ok=True)
    read, refused, wrong, ended = 0, 0, 0, 0
    with tempfile.TemporaryDirectory() as folder:
        made = targets(Path(folder))
        if options.target is not None:
            made = {options.target: made[options.target]}
        last = options.keep / "last"
        for name, raw in rounds(made, seconds=options.seconds, count=options.rounds, seed=options.seed):
            last.write_bytes(raw)  # what a crash of the whole process leaves behind
            try:
                survived = made[name].survives(raw)
            except LibraryEnded as end:
                ended += 1
                print(f"{name}: the library ended the process with {end}", flush=True)
                continue
            except Exception:
                wrong += 1
                kept = options.keep / f"{wrong:04d}-{name.replace('/', '_').replace(', ', '-').replace(' ', '_')}"
                kept.write_bytes(raw)
                print(f"--- {name}, kept as {kept}\n{traceback.format_exc(limit=-4)}", flush=True)
                continue
            read, refused = read + survived, refused + (not survived)
        last.unlink(missing_ok=True)
    print(
        f"{read + refused + wrong + ended} damaged files for {len(made)} targets: {refused} refused, {read} read, "
        f"{ended} ended by the HDF5 library, {wrong} wrong"
    )
    return 1 if wrong else 0


def replay(options: argparse.Namespace) -> int:
    """Show again what a target does with kept bytes."""
    with tempfile.TemporaryDirectory() as folder:
        print("read" if targets(Path(folder))[options.target].survives(options.replay.read_bytes()) else "refused")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Fuzz all readers, or replay one finding."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rounds", type=int, help="stop after so many rounds over all targets")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-findings"))
    parser.add_argument("--target", help="only this one")
    parser.add_argument("--replay", type=Path)
    options = parser.parse_args(argv)
    return run_rounds(options) if options.replay is None else replay(options)


if __name__ == "__main__":
    sys.exit(main())
