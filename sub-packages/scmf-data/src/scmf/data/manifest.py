"""The manifest of a cell store. In: the bytes of `manifest.json`. Out: a checked, frozen value, and back.

The models below are the schema: the writer, the reader, `scmf-store verify` and docs/store.md use these names.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path, PurePosixPath
from shlex import quote
from typing import Annotated, Any, ClassVar, Final, Literal, TypeVar

import xxhash
from pydantic import AfterValidator, Field, NonNegativeInt, PositiveInt, ValidationError

from scmf.core.config import Config
from scmf.core.errors import StoreError
from scmf.core.near_path import correction

FORMAT: Final = "scmf-cells"
SEQUENCES_FORMAT: Final = "scmf-sequences"
"""Of scmf.data.sequences.manifest; named here so that each can say what the other is."""
VERSION: Final = 1
MANIFEST: Final = "manifest.json"

Checksum = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
"""xxh3-128 of a file's bytes, 32 lower-case hexadecimal digits."""
CountsDtype = Literal["uint16", "uint32", "float32"]
IndicesDtype = Literal["uint16", "uint32"]
IdSpace = Literal["ensembl", "symbols"]
Species = Literal["human", "mouse", "other"]

_HEAD = b'{"checksum": "'
_BODY = b'",\n"manifest": '
_TAIL = b"}\n"
_ZEROS = b"0" * 32
_MIXED_UP: Final = {
    SEQUENCES_FORMAT: (
        "this is a store of sequences (text, or ready tokens), and a store of cells is asked for here",
        "scmf-store info and verify read it; to train on it write data.kind: sequences (docs/sequences.md)",
    ),
    FORMAT: (
        "this is a store of cells, and a store of sequences (text, or ready tokens) is asked for here",
        "write data.kind: cells, or name a store that was made of text or of a parquet table of tokens",
    ),
}
"""What a store is that is of the other format than asked for, and what to do with it."""
Checked = TypeVar("Checked", bound="AnyManifest")


def _inside(name: str) -> str:
    """A path that stays in its folder: of a store that comes from elsewhere, files are written where it names them."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name:
        raise ValueError(f"{name!r} is no path inside the part")
    return name


InnerPath = Annotated[str, AfterValidator(_inside)]
"""A file's path inside a part, or a name that becomes part of one."""


class FileRecord(Config):
    """One file of a part."""

    bytes: NonNegativeInt
    checksum: Checksum


def describe_file(path: Path) -> FileRecord:
    """Size and checksum of a file, read in blocks of 4 MiB."""
    state, size = xxhash.xxh3_128(), 0
    with path.open("rb", buffering=0) as file:
        # A store has hundreds of small files a part: four zeroed megabytes for each would be most of the work.
        buffer = memoryview(bytearray(min(1 << 22, max(1, os.fstat(file.fileno()).st_size))))
        while n := file.readinto(buffer):
            state.update(buffer[:n])
            size += n
    return FileRecord(bytes=size, checksum=state.hexdigest())


class ObsmRecord(Config):
    """One array beside obs, such as coordinates."""

    width: PositiveInt
    """Numbers a cell."""
    dtype: Literal["float32", "float64"]


class RankOrder(Config):
    """That the values of every cell stand in rank order, and by which vocabulary."""

    vocabulary: str
    """Name of the vocabulary."""
    fingerprint: str
    """Of the vocabulary, its medians included: the order is good for no other."""


class PartRecord(Config):
    """One part: a folder that is an AnnData zarr group, and what must be in it."""

    name: Annotated[str, Field(pattern=r"^part-\d{5,}$")]
    n_cells: PositiveInt
    n_values: NonNegativeInt
    """Stored counts; zeros are not stored."""
    n_genes: PositiveInt
    """Columns: the first n_genes of the store's genes."""
    counts_dtype: CountsDtype
    indices_dtype: IndicesDtype
    max_count: NonNegativeInt
    """The highest stored count; 0 in a part without values."""
    rank_order: RankOrder | None = None
    """Set by `scmf-store rank-order`: genes are not rising inside a cell, but ranked, those without a token last."""
    files: dict[InnerPath, FileRecord]
    """Every file of the part by its path inside the part."""
    obsm: dict[InnerPath, ObsmRecord] = Field(default_factory=dict)
    """Arrays beside obs by name."""

    @property
    def contents(self) -> str:
        """How much the part holds, for a sentence."""
        return f"{self.n_cells:,} cells"


class FindingRecord(Config):
    """What a look at a source has found; docs/doctor.md has the table of numbers."""

    number: Annotated[str, Field(pattern=r"^SCMF-D\d{3}$")]
    severity: Literal["warning", "note"]
    what: str
    element: str
    """X, raw.X, layers/NAME, obs or var; "" for the source as a whole."""
    count: NonNegativeInt | None = None
    """Cells, genes or values that it concerns, where they were counted."""


class SourceRecord(Config):
    """One input file: where its cells lie in the store and what was done to it."""

    name: str
    """File name without its folder."""
    bytes: NonNegativeInt
    checksum: Checksum
    first_cell: NonNegativeInt
    n_cells: NonNegativeInt
    counts: str
    """Element that held the raw counts: X, raw.X or layers/NAME."""
    layout: Literal["csr", "csc", "coo", "dense", "memory"]
    gene_column: str
    """Column of var that held the gene ids; `index` for the index."""
    n_genes: NonNegativeInt
    """Columns of the source."""
    genes_without_id: NonNegativeInt = 0
    """Columns dropped because their id is empty or not of the store's id space."""
    genes_of_other_species: NonNegativeInt = 0
    """Columns dropped because `--species` asked for another species."""
    other_features: NonNegativeInt = 0
    """Columns dropped because they are no genes: antibodies, guides, peaks."""
    repeated_columns: NonNegativeInt = 0
    """Columns added to an earlier column of the same id."""
    genes_found: dict[str, NonNegativeInt] = Field(default_factory=dict)
    """Columns by how their ids were found: keys of `scmf.data.gene_names.HOWS`."""
    gene_table: str | None = None
    """Species and fingerprint of the table with which names were mapped; null where the ids are the source's own."""
    orthologs: str | None = None
    """Which ids were replaced by those of orthologs, and by which table; null: none."""
    versions_stripped: NonNegativeInt = 0
    """Ids that carried a version (ENSG00000141510.16)."""
    values_rounded: NonNegativeInt = 0
    """Counts that were not exact integers, but within float noise of one."""
    findings: tuple[FindingRecord, ...] = ()
    """What was found by the look at the source before its conversion."""


class NamedSplit(Config):
    """A split that travels with the store: each set is the cells for which any of its rules holds."""

    train: tuple[str, ...]
    """Rules as `scmf-store subset --where` takes them, such as `donor_id=d1,d2`; see scmf.data.where."""
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()


class AnyManifest(Config):
    """What the manifests of all kinds of stores have in common."""

    totals: ClassVar[tuple[str, ...]] = ()
    """Numbers that are the sums of the parts'."""

    def contradiction(self) -> str | None:
        """The first thing in which the manifest disagrees with itself, or None."""
        parts: tuple[Any, ...] = getattr(self, "parts", ())
        for name in self.totals:
            total = sum(getattr(part, name) for part in parts)
            if total != getattr(self, name):
                return f"{name} is {getattr(self, name):,}, the parts have {total:,}"
        twice = [name for name, times in Counter(part.name for part in parts).items() if times > 1]
        return f"{twice[0]} is there twice" if twice else None


class Manifest(AnyManifest):
    """Everything a reader has to know before it touches a cell."""

    totals: ClassVar[tuple[str, ...]] = ("n_cells", "n_values")

    format: Literal["scmf-cells"] = FORMAT
    version: Literal[1] = VERSION
    n_cells: NonNegativeInt
    n_values: NonNegativeInt
    max_count: NonNegativeInt
    id_space: IdSpace
    species: Species | None
    gene_ids: tuple[str, ...]
    """The union over all sources, in order of first appearance; no id twice."""
    obs_columns: tuple[str, ...]
    parts: tuple[PartRecord, ...]
    sources: tuple[SourceRecord, ...]
    splits: dict[str, NamedSplit] = Field(default_factory=dict)
    """Named splits. Their sets never share a cell: checked when they are written."""
    gene_medians: tuple[float, ...] | None = None
    """Median of each gene's non-zero counts scaled to 10,000 a cell, once computed; 0 for a gene never seen."""
    gene_cells: tuple[int, ...] | None = None
    """Cells in which each gene has a count, once computed together with the medians."""
    length_histogram: tuple[tuple[int, int], ...] | None = None
    """(expressed genes, cells) pairs, exact, lengths rising; null where a store was written without it."""
    library_histogram: tuple[tuple[int, int], ...] | None = None
    """(bin, cells) pairs of the cells' total counts: bin 0 is a total of 0, bin k from 2**((k-1)/8) to 2**(k/8)."""
    duplicate_cells: NonNegativeInt | None = None
    """Cells with the same counts in the same genes as an earlier cell of the store; null where nobody looked."""
    history: tuple[str, ...] = ()
    """What was done to the store since its sources were converted: added, merged, chosen, dropped."""

    def contradiction(self) -> str | None:
        """The first thing in which the manifest disagrees with itself, or None."""
        most = max((part.n_genes for part in self.parts), default=0)
        if most > len(self.gene_ids):
            return f"a part has {most:,} genes, the store {len(self.gene_ids):,}"
        return super().contradiction()

    @property
    def files(self) -> dict[str, FileRecord]:
        """Files beside the parts and the manifest."""
        return {}

    @property
    def n_bytes(self) -> int:
        """Bytes of all files but the manifest."""
        return sum(file.bytes for part in self.parts for file in part.files.values())

    @property
    def fingerprint(self) -> str:
        """xxh3-128 over the genes and every file's checksum: another one when a cell or a label changes."""
        state = xxhash.xxh3_128()
        for gene in self.gene_ids:
            state.update(gene.encode() + b"\n")
        for part in self.parts:
            for name in sorted(part.files):
                state.update(f"{part.name}/{name} {part.files[name].checksum}\n".encode())
        return state.hexdigest()


def dump_manifest(manifest: Config) -> bytes:
    """Bytes of `manifest.json`: JSON whose checksum covers the whole file, its own digits taken as zeros."""
    body = _BODY + manifest.model_dump_json(indent=1).encode() + _TAIL
    digest = xxhash.xxh3_128(_HEAD + _ZEROS + body).hexdigest().encode()
    return _HEAD + digest + body


def parse_manifest(raw: bytes, *, where: Path) -> Manifest:
    """Read `manifest.json`'s bytes.

    Raises:
        StoreError: a damaged file, another format or version, or a value outside the schema.
    """
    return parse_document(raw, Manifest, form=FORMAT, where=where)


def parse_document(raw: bytes, schema: type[Checked], *, form: str, where: Path) -> Checked:
    """Read the bytes of a manifest of any format.

    Args:
        raw: the file.
        schema: what it has to hold.
        form: the format that it has to name.
        where: its path, for messages.

    Raises:
        StoreError: a damaged file, another format or version, or a value outside the schema.
    """
    start = len(_HEAD)
    digest, body = raw[start : start + 32], raw[start + 32 :]
    sound = raw.startswith(_HEAD) and body.startswith(_BODY) and body.endswith(_TAIL)
    if not sound or xxhash.xxh3_128(_HEAD + _ZEROS + body).hexdigest().encode() != digest:
        raise StoreError(
            "the manifest is damaged or edited: its bytes do not give its own checksum",
            where=str(where),
            fix="restore manifest.json from a copy, or convert the sources again with --overwrite",
        )
    document = body[len(_BODY) : -len(_TAIL)]
    _check_version(document, form=form, where=where)
    try:
        manifest = schema.model_validate_json(document)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(p) for p in first["loc"])
        raise _unfit(f"the manifest breaks its schema at {place}: {first['msg']}", where) from error
    fault = manifest.contradiction()
    if fault is not None:
        raise _unfit(f"the manifest contradicts itself: {fault}", where)
    return manifest


def _unfit(what: str, where: Path) -> StoreError:
    return StoreError(what, where=str(where), fix="convert the sources again with --overwrite")


def read_manifest(store: Path) -> Manifest:
    """Read the manifest of the store in this folder; StoreError when there is none."""
    expect_store(store)
    path = store / MANIFEST
    return parse_manifest(path.read_bytes(), where=path)


def format_of(store: Path) -> str:
    """The format that the manifest in this folder names, before anything of it is checked; "" where it names none.

    Raises:
        StoreError: there is no store.
    """
    expect_store(store)
    with (store / MANIFEST).open("rb") as file:
        return _named(file.read(4096), b"format")


def expect_store(store: Path) -> None:
    """Nothing where a folder has a manifest; else StoreError with the way to the store that was meant."""
    if not (store / MANIFEST).is_file():
        raise _no_store(store)


def _no_store(path: Path) -> StoreError:
    """Why a path is no store, and the way to the one that was meant."""
    if not path.exists():
        fix = correction(path, accept=lambda near: (near / MANIFEST).is_file())
        fix += f" To make it: scmf-store convert FILE --dest {quote(str(path))}"
        return StoreError("there is no such store", where=str(path), fix=fix)
    if not path.is_dir():
        fix = f"name the folder of a store; to make one of this file: scmf-store convert {quote(str(path))} --dest DIR"
        return StoreError("this is a file; a store is a folder", where=str(path), fix=fix)
    whole = next((p for p in path.absolute().parents if (p / MANIFEST).is_file()), None)
    if whole is not None:
        what, fix = f"this folder is inside the store {whole}", f"name the store: {quote(str(whole))}"
        return StoreError(what, where=str(path), fix=fix)
    inside = sorted(p.parent.name for p in path.glob(f"*/{MANIFEST}"))
    if inside:
        fix = f"name one of the stores in it: {', '.join(inside[:3])}"
    else:
        fix = "check the path; scmf-store convert makes a store of h5ad files and others, in a folder of its own"
    return StoreError("this folder is not a cell store: it has no manifest", where=str(path / MANIFEST), fix=fix)


def _named(document: bytes, key: bytes) -> str:
    """The first value of a key, as text; "" where there is none."""
    found = re.search(rb'"%s": ?("[^"]*"|\d+)' % key, document)
    return found.group(1).decode(errors="replace").strip('"') if found else ""


def _check_version(document: bytes, *, form: str, where: Path) -> None:
    name, version = _named(document, b"format"), _named(document, b"version")
    if name != form and name in _MIXED_UP:
        what, fix = _MIXED_UP[name]
        raise StoreError(what, where=str(where.parent), fix=fix)
    if (name, version) != (form, str(VERSION)):
        raise StoreError(
            f"the store is {name or 'none'} version {version or 'none'}; this scmf reads {form} version {VERSION}",
            where=str(where),
            fix="use the scmf that wrote it, or convert the sources again with this one",
        )
