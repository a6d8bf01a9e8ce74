"""The vocabulary artefact: what is shipped, what a file must be, and what is said when it is not."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scmf.core.errors import VocabularyError
from scmf.data.config import SHIPPED_VOCABULARIES
from scmf.data.vocabulary import (
    BARE_SPECIALS,
    FRAMED_SPECIALS,
    HEADER,
    Vocabulary,
    load_vocabulary,
    shipped_vocabularies,
)

DICTS = Path(__file__).parents[2].parent / "shared" / "data" / "geneformer_dicts"

needs_data = pytest.mark.skipif(not DICTS.is_dir(), reason="the shared data are not here")


def _vocabulary(**changes):
    fields = {
        "name": "toy",
        "version": "3",
        "specials": FRAMED_SPECIALS,
        "gene_ids": ("ENSG1", "ENSG2"),
        "medians": np.array([0.5, 2.0]),
        "aliases": {"ENSG0": "ENSG2"},
        "framed": True,
        "source": "made up",
    }
    return Vocabulary(**{**fields, **changes})


@pytest.mark.parametrize(("name", "size"), [("geneformer-v1", 25_426), ("geneformer-v2", 20_275)])
def test_the_shipped_vocabularies_have_the_published_size(name, size):
    vocabulary = load_vocabulary(name)
    assert len(vocabulary) == size
    assert vocabulary.name == name
    assert (vocabulary.pad, vocabulary.mask) == (0, 1)
    assert vocabulary.framed == (vocabulary.cls == 2) == (vocabulary.eos == 3) == (name == "geneformer-v2")


def test_the_config_knows_the_sizes_of_what_is_shipped():
    assert {name: len(load_vocabulary(name)) for name in shipped_vocabularies()} == SHIPPED_VOCABULARIES


@needs_data
@pytest.mark.parametrize(("model", "corpus"), [("V1", "gc30M"), ("V2", "gc104M")])
def test_the_shipped_vocabularies_say_what_geneformers_dictionaries_say(model, corpus):
    vocabulary = load_vocabulary(f"geneformer-{model.lower()}")
    token = json.loads((DICTS / model / f"token_dictionary_{corpus}.json").read_text())
    keys, values = pq.read_table(DICTS / model / f"gene_median_dictionary_{corpus}.parquet").columns
    median = dict(zip(keys.to_pylist(), values.to_pylist(), strict=True))
    assert [token[s] for s in vocabulary.specials] == list(range(vocabulary.first_gene))
    genes = [name for name in token if name not in vocabulary.specials]
    assert vocabulary.tokens_of(genes).tolist() == [token[gene] for gene in genes]
    assert vocabulary.medians.tolist() == [median[gene] for gene in vocabulary.gene_ids]
    keys, values = pq.read_table(DICTS / model / f"ensembl_mapping_dict_{corpus}.parquet").columns
    mapping = dict(zip(keys.to_pylist(), values.to_pylist(), strict=True))
    known = [old for old, gene in mapping.items() if old.startswith("ENS") and gene in token]
    assert vocabulary.tokens_of(known).tolist() == [token[mapping[old]] for old in known]


def test_a_saved_vocabulary_loads_as_it_was(tmp_path):
    written = _vocabulary()
    written.save(tmp_path / "v.parquet")
    read = load_vocabulary(str(tmp_path / "v.parquet"))
    for field in dataclasses.fields(Vocabulary):
        assert np.array_equal(getattr(read, field.name), getattr(written, field.name)), field.name
    assert list(tmp_path.iterdir()) == [tmp_path / "v.parquet"]


def test_an_alias_has_the_token_of_its_gene_and_a_stranger_has_none():
    assert _vocabulary().tokens_of(["ENSG2", "ENSG0", "ENSG9", "ENSG1"]).tolist() == [5, 5, -1, 4]


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"},
        {"version": "4"},
        {"specials": BARE_SPECIALS, "framed": False},
        {"framed": False},
        {"gene_ids": ("ENSG2", "ENSG1")},
        {"medians": np.array([0.5, np.nextafter(2.0, 3.0)])},
        {"aliases": {}},
    ],
    ids=lambda c: next(iter(c)),
)
def test_the_fingerprint_changes_with_everything_that_changes_tokens(changes):
    assert _vocabulary(**changes).fingerprint != _vocabulary().fingerprint
    assert _vocabulary(source="elsewhere").fingerprint == _vocabulary().fingerprint


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"specials": ("<mask>", "<pad>")}, "special tokens are"),
        ({"specials": BARE_SPECIALS}, "framed by <cls> and <eos>"),
        ({"gene_ids": ("ENSG1", "ENSG1")}, "2 gene ids, of which 1 differ"),
        ({"medians": np.array([0.5])}, "shape"),
        ({"medians": np.array([0.5, 0.0])}, "1 medians are not positive"),
        ({"medians": np.array([0.5, np.nan])}, "1 medians are not positive|not positive"),
        ({"aliases": {"ENSG0": "ENSG9"}}, "the first is ENSG0"),
    ],
)
def test_fields_that_make_no_vocabulary_are_refused(changes, sentence):
    with pytest.raises(VocabularyError, match=sentence):
        _vocabulary(**changes)


def test_an_unknown_name_lists_the_shipped_ones():
    with pytest.raises(VocabularyError, match="geneformer-v9") as caught:
        load_vocabulary("geneformer-v9")
    assert all(name in caught.value.fix for name in shipped_vocabularies())
    assert len(str(caught.value).splitlines()) == 3


def _cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def _change_a_median(path):
    table = pq.read_table(path)
    medians = table.column("median").to_pylist()
    medians[-2] = 2.5
    pq.write_table(table.set_column(3, "median", pa.array(medians)), path)


def _strip_the_header(path):
    pq.write_table(pq.read_table(path).replace_schema_metadata({}), path)


def _raise_the_schema(path):
    table = pq.read_table(path)
    header = table.schema.metadata[HEADER].replace(b"vocabulary/1", b"vocabulary/9")
    pq.write_table(table.replace_schema_metadata({HEADER: header}), path)


@pytest.mark.parametrize("damage", [_cut, _change_a_median, _strip_the_header, _raise_the_schema])
def test_a_damaged_file_is_refused_with_its_path(tmp_path, damage):
    path = tmp_path / "v.parquet"
    _vocabulary().save(path)
    damage(path)
    with pytest.raises(VocabularyError, match="not an intact vocabulary") as caught:
        load_vocabulary(str(path))
    assert caught.value.where == str(path)
    assert len(str(caught.value).splitlines()) == 3
