"""A vocabulary: which genes have which token, and their medians. In: one parquet file. Out: a frozen object.

The file is a parquet table with one row an id (`id`, `gene_id`, `token`, `median`) and a JSON header under
the schema key `scmf-vocabulary`. Special tokens have neither gene nor median; an alias row names the gene
that it stands for.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from scmf.core.errors import VocabularyError

SCHEMA = "scmf-vocabulary/1"
HEADER = b"scmf-vocabulary"
SHIPPED = Path(__file__).parent / "vocabularies"

PAD, MASK, CLS, EOS = "<pad>", "<mask>", "<cls>", "<eos>"
BARE_SPECIALS = (PAD, MASK)
FRAMED_SPECIALS = (PAD, MASK, CLS, EOS)

IntArray = npt.NDArray[np.int32]
DoubleArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Vocabulary:
    """Tokens and medians of genes; travels with every checkpoint.

    Ids are dense: the special tokens come first, then the genes in order.
    """

    name: str
    """What people call it, such as `geneformer-v1`."""
    version: str
    """Version of the content under that name."""
    specials: tuple[str, ...]
    """Special tokens in the order of their ids: <pad>, <mask>, and <cls>, <eos> where they exist."""
    gene_ids: tuple[str, ...]
    """(n_genes,) Ensembl ids without version, in the order of their tokens."""
    medians: DoubleArray
    """(n_genes,) float64 median of the non-zero counts per 10,000 of each gene over the corpus; > 0."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Other (retired) Ensembl id -> gene id; counts under both are one gene's."""
    framed: bool = False
    """Sequences begin with <cls> and end with <eos>."""
    source: str = ""
    """Where the tokens and medians come from, and under which licence."""
    fingerprint: str = field(init=False)
    """Hash of everything above except `source`; two vocabularies with one fingerprint give equal tokens."""

    def __post_init__(self) -> None:
        medians = np.array(self.medians, dtype=np.float64)
        medians.flags.writeable = False
        object.__setattr__(self, "medians", medians)
        object.__setattr__(self, "aliases", MappingProxyType(dict(self.aliases)))
        fault = _fault(self)
        if fault:
            raise VocabularyError(
                fault,
                where=f"vocabulary {self.name}",
                fix="build it again from its source; ids and medians must be whole",
            )
        object.__setattr__(self, "fingerprint", _fingerprint(self))

    def __len__(self) -> int:
        """Number of token ids, special tokens included: the model's vocabulary size."""
        return len(self.specials) + len(self.gene_ids)

    @property
    def first_gene(self) -> int:
        """Id of the first gene token; every id from here to the end is a gene."""
        return len(self.specials)

    @property
    def pad(self) -> int:
        """Id of <pad>."""
        return self.specials.index(PAD)

    @property
    def mask(self) -> int:
        """Id of <mask>."""
        return self.specials.index(MASK)

    @property
    def cls(self) -> int | None:
        """Id of <cls>, or None where the vocabulary has none."""
        return self.specials.index(CLS) if CLS in self.specials else None

    @property
    def eos(self) -> int | None:
        """Id of <eos>, or None where the vocabulary has none."""
        return self.specials.index(EOS) if EOS in self.specials else None

    @property
    def frame(self) -> int:
        """Special tokens in every sequence: 2 with <cls> and <eos>, else 0."""
        return 2 if self.framed else 0

    def tokens_of(self, gene_ids: Sequence[str]) -> IntArray:
        """Token of each gene id, aliases resolved; -1 where it has none. (len(gene_ids),) int32."""
        token = {gene: self.first_gene + i for i, gene in enumerate(self.gene_ids)}
        known = (token.get(self.aliases.get(gene, gene), -1) for gene in gene_ids)
        return np.fromiter(known, dtype=np.int32, count=len(gene_ids))

    def save(self, path: str | Path) -> None:
        """Write the one file that `load` reads; an older one is replaced as a whole or not at all."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
        try:
            with unfinished.open("wb") as file:  # opened by Python, whose errors name the file
                pq.write_table(_to_table(self), file, compression="zstd", compression_level=19)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read and check a vocabulary file.

        Raises:
            VocabularyError: the file is missing, no vocabulary, of another schema, or not as written.
        """
        table = _read_table(Path(path))
        try:
            header = json.loads((table.schema.metadata or {})[HEADER])
            vocabulary = cls(**_fields(table, header))
            recorded = header["fingerprint"]
        except (KeyError, ValueError, TypeError) as error:
            raise _damaged(path, f"it lacks what {SCHEMA} asks for ({error!r})") from error
        if vocabulary.fingerprint != recorded:
            raise _damaged(path, f"its content has fingerprint {vocabulary.fingerprint}, its header says {recorded}")
        return vocabulary


def shipped_vocabularies() -> tuple[str, ...]:
    """Names of the vocabularies that come with scmf."""
    return tuple(sorted(path.stem for path in SHIPPED.glob("*.parquet")))


def load_vocabulary(name: str) -> Vocabulary:
    """Load a shipped vocabulary by name, or any by the path of its file.

    Raises:
        VocabularyError: there is no such name or file, or it is damaged.
    """
    if name in shipped_vocabularies():
        return Vocabulary.load(SHIPPED / f"{name}.parquet")
    if not Path(name).is_file():
        raise VocabularyError(
            f"there is no vocabulary {name!r}",
            where="neither a shipped name nor the path of a file",
            fix=f"use one of {', '.join(shipped_vocabularies())}, "
            "or compute one: scmf-store vocabulary STORE --out FILE",
        )
    return Vocabulary.load(name)


def _fault(vocabulary: Vocabulary) -> str | None:
    """First reason why the fields do not make a vocabulary, or None."""
    genes = set(vocabulary.gene_ids)
    if vocabulary.specials not in (BARE_SPECIALS, FRAMED_SPECIALS):
        return f"special tokens are {vocabulary.specials}, not {BARE_SPECIALS} or {FRAMED_SPECIALS}"
    if vocabulary.framed and vocabulary.specials != FRAMED_SPECIALS:
        return "sequences are to be framed by <cls> and <eos>, which the vocabulary does not have"
    if len(vocabulary.gene_ids) < 1 or len(genes) != len(vocabulary.gene_ids):
        return f"{len(vocabulary.gene_ids):,} gene ids, of which {len(genes):,} differ"
    if vocabulary.medians.shape != (len(genes),):
        return f"{len(genes):,} genes but medians of shape {vocabulary.medians.shape}"
    if not (np.isfinite(vocabulary.medians).all() and (vocabulary.medians > 0).all()):
        return f"{int((~(vocabulary.medians > 0)).sum()):,} medians are not positive numbers"
    lost = [alias for alias, gene in vocabulary.aliases.items() if gene not in genes or alias == gene]
    return f"{len(lost):,} aliases stand for no gene of the vocabulary, the first is {lost[0]}" if lost else None


def _fingerprint(vocabulary: Vocabulary) -> str:
    digest = hashlib.sha256()
    head = [SCHEMA, vocabulary.name, vocabulary.version, vocabulary.specials, vocabulary.framed]
    digest.update(json.dumps([*head, vocabulary.gene_ids, sorted(vocabulary.aliases.items())]).encode())
    digest.update(vocabulary.medians.astype("<f8").tobytes())
    return f"sha256:{digest.hexdigest()}"


def _to_table(vocabulary: Vocabulary) -> pa.Table:
    genes, aliases = list(vocabulary.gene_ids), sorted(vocabulary.aliases.items())
    token = {gene: vocabulary.first_gene + i for i, gene in enumerate(genes)}
    specials = list(vocabulary.specials)
    header = {
        "schema": SCHEMA,
        "name": vocabulary.name,
        "version": vocabulary.version,
        "framed": vocabulary.framed,
        "source": vocabulary.source,
        "fingerprint": vocabulary.fingerprint,
    }
    columns = {
        "id": pa.array(specials + genes + [alias for alias, _ in aliases], pa.string()),
        "gene_id": pa.array([None] * len(specials) + genes + [gene for _, gene in aliases], pa.string()),
        "token": pa.array([*range(len(vocabulary)), *(token[gene] for _, gene in aliases)], pa.int32()),
        "median": pa.array([None] * len(specials) + vocabulary.medians.tolist() + [None] * len(aliases), pa.float64()),
    }
    return pa.table(columns).replace_schema_metadata({HEADER: json.dumps(header).encode()})


def _fields(table: pa.Table, header: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `Vocabulary`; KeyError, ValueError or TypeError if the file's rows and header do not fit."""
    if header["schema"] != SCHEMA:
        raise ValueError(f"schema {header['schema']}")
    ids, genes, tokens, medians = (table.column(c).to_pylist() for c in ("id", "gene_id", "token", "median"))
    specials = tuple(i for i, gene in zip(ids, genes, strict=True) if gene is None)
    gene_ids = tuple(i for i, gene in zip(ids, genes, strict=True) if gene == i)
    n = len(specials) + len(gene_ids)
    if tokens[:n] != list(range(n)):
        raise ValueError("tokens that are not 0, 1, 2, ...")
    return {
        "name": header["name"],
        "version": header["version"],
        "specials": specials,
        "gene_ids": gene_ids,
        "medians": np.array(medians[len(specials) : n], dtype=np.float64),
        "aliases": dict(zip(ids[n:], genes[n:], strict=True)),
        "framed": header["framed"],
        "source": header["source"],
    }


def _read_table(path: Path) -> pa.Table:
    if not path.is_file():
        raise VocabularyError(
            "there is no vocabulary file",
            where=str(path),
            fix="check the path, or compute one: scmf-store vocabulary",
        )
    try:
        return pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, f"parquet cannot read it ({str(error).splitlines()[0]})") from error


def _damaged(path: str | Path, reason: str) -> VocabularyError:
    return VocabularyError(
        f"this is not an intact vocabulary: {reason}",
        where=str(path),
        fix="copy the file again from where it was made, or use a shipped one: " + ", ".join(shipped_vocabularies()),
    )
