"""The vocabulary of characters: text to ids and back, as a file, and what it refuses."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scmf.core.errors import VocabularyError
from scmf.data.any_vocabulary import read_vocabulary, roles_of
from scmf.data.characters import CharVocabulary
from scmf.data.config_tokenizer import CharTokenizerConfig
from scmf.data.vocabulary import load_vocabulary

TEXT = "To be, or not to be: that is the question.\nÉté 猫 🧬"


@settings(max_examples=50, deadline=None)
@given(st.text(min_size=1, alphabet=st.characters(exclude_categories=["Cs"])))
def test_any_text_comes_back_from_its_tokens(text):
    vocabulary = CharVocabulary.of(text)
    ids = vocabulary.encode(text)
    assert vocabulary.decode(ids) == text
    assert ids.dtype == np.int32
    assert (ids >= vocabulary.first).all()
    assert len(vocabulary) == len(set(text)) + 3


def test_ids_follow_the_code_points_behind_the_special_tokens():
    vocabulary = CharVocabulary.of("cab")
    assert vocabulary.encode("abc").tolist() == [3, 4, 5]
    assert (vocabulary.pad, vocabulary.mask, vocabulary.bos, vocabulary.first) == (0, 1, 2, 3)
    assert vocabulary.decode([vocabulary.bos, 5, vocabulary.pad, 3]) == "ca"
    assert vocabulary.name == "char-3"
    assert CharTokenizerConfig(seq_length=8, characters=3).vocabulary_size == len(vocabulary)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("ab€", "character '€' (U+20AC EURO SIGN) at offset 2 has no token"),
        ("a\u0007b", "character '\\x07' (U+0007) at offset 1 has no token"),
        ("🧬", "character '🧬' (U+1F9EC DNA DOUBLE HELIX) at offset 0"),
        ("A", "character 'A' (U+0041 LATIN CAPITAL LETTER A) at offset 0"),
        ("ab\udcff", "character '\\udcff' (U+DCFF) at offset 2"),  # a byte of the command line that is no UTF-8
    ],
)
def test_a_character_without_a_token_is_named_with_its_offset(text, what):
    with pytest.raises(VocabularyError) as error:
        CharVocabulary.of("ab").encode(text)
    assert what in error.value.what
    assert len(str(error.value).splitlines()) == 3


@pytest.mark.parametrize("ids", [[3, 99], [-1], [5]])
def test_an_id_outside_the_vocabulary_is_refused(ids):
    with pytest.raises(VocabularyError, match="outside the vocabulary's 5 ids"):
        CharVocabulary.of("ab").decode(ids)


def test_the_file_brings_the_same_vocabulary_back(tmp_path):
    vocabulary = CharVocabulary.of(TEXT)
    vocabulary.save(tmp_path / "v.parquet")
    for read in (CharVocabulary.load, read_vocabulary):
        again = read(tmp_path / "v.parquet")
        assert again == vocabulary
        assert again.fingerprint == vocabulary.fingerprint
    assert CharVocabulary.of("ab").fingerprint != CharVocabulary.of("abc").fingerprint


def test_a_vocabulary_of_genes_is_read_by_the_same_function(tmp_path):
    genes = load_vocabulary("geneformer-v1")
    genes.save(tmp_path / "v.parquet")
    assert read_vocabulary(tmp_path / "v.parquet").fingerprint == genes.fingerprint
    assert roles_of(genes).bos is None
    assert roles_of(genes).size == len(genes)


def test_a_file_that_was_changed_is_refused(tmp_path):
    path = tmp_path / "v.parquet"
    CharVocabulary.of("abc").save(path)
    table = pq.read_table(path)
    pq.write_table(table.slice(0, 5).replace_schema_metadata(table.schema.metadata), path)
    with pytest.raises(VocabularyError, match="has fingerprint") as error:
        read_vocabulary(path)
    assert "convert the text again" in error.value.fix
    path.write_bytes(b"PAR1 no parquet")
    with pytest.raises(VocabularyError):
        read_vocabulary(path)
    with pytest.raises(VocabularyError, match="no vocabulary file"):
        read_vocabulary(tmp_path / "none.parquet")


@pytest.mark.parametrize("characters", ["", "ba", "aa"])
def test_characters_that_do_not_rise_make_no_vocabulary(characters):
    with pytest.raises(VocabularyError, match="do not rise"):
        CharVocabulary(characters)
