"""The store of sequences: text and ready tokens become one, every byte is checked, and what does not fit is refused."""

from __future__ import annotations

import errno
import gzip
import json
import pickle
import shutil
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

from scmf.core.errors import InputError, StoreError
from scmf.data.sequences import convert as conversion
from scmf.data.sequences import text as text_module
from scmf.data.sequences.convert import SequenceWishes, convert_text, convert_tokens
from scmf.data.sequences.manifest import ids_dtype
from scmf.data.sequences.store import SequenceStore
from scmf.data.shard import ShardWriter
from scmf.data.store import CellStore
from scmf.data.verify import verify_store
from scmf.data.vocabulary import load_vocabulary

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
SHAKESPEARE = SHARED / "text" / "tinyshakespeare.txt"
CORPUS = SHARED / "geneformer_corpus_v1" / "genecorpus_500_samples.parquet"
CSV = "cell,ENSG00000141510\nc1,3\nc2,4\n"


def quiet(_):
    """No line for people."""


def store_of(folder, *texts, **wishes):
    paths = [folder / f"{number}.txt" for number in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    convert_text(paths, folder / "store", SequenceWishes(**wishes), log=quiet)
    return SequenceStore.open(folder / "store")


def table_of(folder, rows, **columns):
    path = folder / "t.parquet"
    pq.write_table(pa.table({"input_ids": pa.array(rows, pa.list_(pa.int32())), **columns}), path)
    return path


def text_of(store, number=0):
    return store.vocabulary.decode(store.fetch([number]).ids)


def three_lines(err):
    lines = err.splitlines()
    assert [line.split(":")[0].strip() for line in lines] == ["error", "where", "fix"], err
    return [line.split(":", 1)[1].strip() for line in lines]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Three texts in two parts. Read only."""
    return store_of(tmp_path_factory.mktemp("texts"), "First text.", "zweiter, größer", "x", tokens_a_part=12)


def test_texts_come_back_character_by_character(store):
    assert [text_of(store, number) for number in range(3)] == ["First text.", "zweiter, größer", "x"]
    assert len(store) == 3
    assert store.n_tokens == 27
    assert store.contents == "3 sequences of 27 tokens"
    assert store.places.tolist() == [0, 11, 26, 27]
    assert store.lengths([2, 0]).tolist() == [1, 11]
    assert store.vocabulary.decode(store.read(6, 15)) == "text.zwei"
    assert [p.record.n_sequences for p in store.parts] == [2, 1]
    assert store.manifest.longest == 15
    assert store.manifest.sources[1].first_sequence == 1


def test_a_store_that_travels_to_a_worker_is_mapped_anew(store):
    again = pickle.loads(pickle.dumps(store))
    assert again.fingerprint == store.fingerprint
    assert text_of(again, 1) == text_of(store, 1)


@pytest.mark.parametrize("ask", [lambda s: s.read(0, 28), lambda s: s.lengths([3]), lambda s: s.fetch([-1])])
def test_what_lies_outside_the_store_is_refused(store, ask):
    with pytest.raises(IndexError):
        ask(store)


def test_a_type_holds_the_highest_id():
    assert [ids_dtype(size) for size in (256, 257, 65_536, 65_537)] == ["uint8", "uint16", "uint16", "uint32"]


@pytest.mark.parametrize(("different", "dtype"), [(253, "uint8"), (254, "uint16"), (65_534, "uint32")])
def test_ids_have_the_narrowest_type_that_holds_the_vocabulary(tmp_path, different, dtype):
    codes = [code for code in range(0x20, 0x20 + different + 0x800) if not 0xD800 <= code < 0xE000]
    text = "".join(map(chr, codes[:different]))
    found = store_of(tmp_path, text)
    assert found.manifest.ids_dtype == dtype
    assert text_of(found) == text


def test_every_array_is_a_zarr_array_and_a_memory_map(store):
    for part in store.parts:
        group = zarr.open_group(part.path, mode="r")
        for name in ("ids", "indptr", "hashes"):
            assert np.array_equal(group[f"tokens/{name}"][:], getattr(part, name))
        assert not part.ids.flags.writeable
        assert not part.ids.flags.owndata


def test_equal_sequences_have_equal_hashes_wherever_they_lie(tmp_path):
    found = store_of(tmp_path, "abc", "abd", "abc", tokens_a_part=1)
    assert len(found.parts) == 3
    assert found.hashes[0] == found.hashes[2] != found.hashes[1]


def test_characters_that_reach_over_blocks_are_whole(tmp_path, monkeypatch):
    text = "añ猫🧬" * 50
    monkeypatch.setattr(text_module, "BLOCK", 7)
    assert text_of(store_of(tmp_path, text)) == text


def test_progress_of_the_first_reading_ends_at_the_size_of_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(text_module, "BLOCK", 7)
    noted = []
    progress = SimpleNamespace(advance=noted.append)
    for number, raw in enumerate(("größer" * 9, gzip.compress(b"a" * 999))):
        path = tmp_path / f"{number}.txt"
        path.write_bytes(raw if isinstance(raw, bytes) else raw.encode())
        noted.clear()
        conversion._look_at(path, progress)
        assert sum(noted) == path.stat().st_size
        assert len(noted) > 3


def test_a_gzip_file_and_a_byte_order_mark_are_read(tmp_path):
    marked = b"\xef\xbb\xbfabc\r\n"
    found = store_of(tmp_path, gzip.compress(b"hello"), marked)
    assert [text_of(found, k) for k in range(2)] == ["hello", "abc\r\n"]
    assert [source.byte_order_mark for source in found.manifest.sources] == [False, True]


@pytest.mark.parametrize("block", [3, 1 << 22])
@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (b"good \xff bad", "byte 0xff at offset 5 (invalid start byte)"),
        (b"caf\xe9 au lait", "byte 0xe9 at offset 3"),
        (b"cut short \xe7\x8c", "byte 0xe7 at offset 10 (unexpected end of data)"),
        (b"\xed\xa0\x80", "byte 0xed at offset 0"),
    ],
)
def test_a_byte_that_is_no_utf8_is_refused_with_its_offset(tmp_path, monkeypatch, raw, found, block):
    monkeypatch.setattr(text_module, "BLOCK", block)
    with pytest.raises(InputError) as error:
        store_of(tmp_path, "fine", raw)
    assert error.value.what.startswith(f"SCMF-D066: the text is not valid UTF-8: {found}")
    assert error.value.where.endswith("1.txt")
    assert error.value.fix.startswith("iconv -f LATIN1 -t UTF-8 ")
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["0.txt", "1.txt"]


def test_utf16_is_named(tmp_path):
    with pytest.raises(InputError, match="it is UTF-16") as error:
        store_of(tmp_path, "words".encode("utf-16"))
    assert error.value.fix.startswith("iconv -f UTF-16 -t UTF-8 ")


@pytest.mark.parametrize("raw", [b"", b"\xef\xbb\xbf"])
def test_a_text_without_characters_is_refused(tmp_path, raw):
    with pytest.raises(InputError, match="SCMF-D067: the text has no characters"):
        store_of(tmp_path, raw)


@pytest.mark.parametrize("later", ["other tekst", "text this."])
def test_a_file_that_changes_between_the_two_readings_makes_no_store(tmp_path, monkeypatch, later):
    (tmp_path / "a.txt").write_text("this text.")
    survey = conversion.survey_text

    def survey_then_change(path, **more):
        found = survey(path, **more)
        path.write_text(later)
        return found

    monkeypatch.setattr(conversion, "survey_text", survey_then_change)
    with pytest.raises(StoreError, match="was written to while it was read"):
        convert_text([tmp_path / "a.txt"], tmp_path / "store", log=quiet)
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, monkeypatch):
    def write(self, view):
        raise OSError(errno.ENOSPC, "No space left on device", str(self.folder))

    monkeypatch.setattr(ShardWriter, "_write", write)
    with pytest.raises(StoreError, match="could not be written: No space left") as error:
        store_of(tmp_path, "text")
    assert ".partial" not in error.value.where
    assert [p.name for p in tmp_path.iterdir()] == ["0.txt"]


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(conversion.shutil, "disk_usage", lambda _: SimpleNamespace(free=1))
    with pytest.raises(StoreError, match=r"the store takes about .* MB are free"):
        store_of(tmp_path, "text")
    assert text_of(store_of(tmp_path, "text", skip_space_check=True)) == "text"


def test_memory_does_not_grow_with_the_text(tmp_path, monkeypatch):
    monkeypatch.setattr(text_module, "BLOCK", 1 << 16)
    peaks = []
    for number, copies in enumerate((120_000, 600_000)):
        path = tmp_path / f"{number}.txt"
        path.write_text("forty characters of text, and a new line" * copies)
        tracemalloc.start()
        convert_text([path], tmp_path / f"store{number}", log=quiet)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0], peaks  # 5 and 24 million characters


def test_every_flipped_byte_of_a_store_of_sequences_is_found(store, capsys, monkeypatch):
    """The script that flips 1,000: here every file once, and some more."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
    from flip_bytes import main

    n_files = sum(1 for p in store.path.rglob("*") if p.is_file())
    assert main([str(store.path), "--flips", str(n_files + 40)]) == 0
    assert f"verify found {n_files + 40}\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda s: (s / "vocabulary.parquet").unlink(), "vocabulary.parquet: missing"),
        (lambda s: shutil.rmtree(s / "part-00001"), "part-00001: missing, with its 1 sequences"),
        (lambda s: (s / "part-00000" / "more").touch(), "part-00000/more: not part of the store"),
        (lambda s: (s / "more").touch(), "more: not part of the store"),
        (lambda s: (s / "part-00000" / "tokens" / "ids" / "c" / "0").write_bytes(b"1"), "ids/c/0: 1 bytes, should be"),
    ],
)
def test_what_is_missing_or_too_much_is_named(store, tmp_path, damage, said):
    copy = shutil.copytree(store.path, tmp_path / "store")
    assert list(verify_store(copy)) == []
    damage(copy)
    assert any(said in line for line in verify_store(copy)), list(verify_store(copy))


def test_a_store_with_another_stores_vocabulary_does_not_open(store, tmp_path):
    copy = shutil.copytree(store.path, tmp_path / "copy")
    other = store_of(tmp_path, "other characters")
    shutil.copy(other.path / "vocabulary.parquet", copy)
    with pytest.raises(StoreError, match="this is another vocabulary than the manifest's"):
        SequenceStore.open(copy)


def test_a_store_cut_short_does_not_open(store, tmp_path):
    copy = shutil.copytree(store.path, tmp_path / "copy")
    path = copy / "part-00000" / "tokens" / "ids" / "c" / "0"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(StoreError, match="bytes and should have") as error:
        SequenceStore.open(copy)
    assert error.value.fix.startswith(f"scmf-store verify {copy};")


@pytest.fixture(scope="module")
def genes():
    """The vocabulary of Geneformer V1."""
    return load_vocabulary("geneformer-v1")


@pytest.mark.parametrize("array", ["indptr", "hashes"])
def test_a_flipped_bit_in_what_divides_the_tokens_is_found_when_the_store_is_opened(store, tmp_path, array):
    copy = shutil.copytree(store.path, tmp_path / "copy")
    path = copy / "part-00000" / "tokens" / array / "c" / "0"
    raw = bytearray(path.read_bytes())
    raw[8 if array == "indptr" else 0] ^= 1
    path.write_bytes(raw)
    with pytest.raises(StoreError, match="do not give the manifest's checksum") as caught:
        SequenceStore.open(copy)
    assert caught.value.where == str(path)


def test_rows_of_ready_tokens_come_back(tmp_path, genes):
    rows = [[9, 3, 25_425], [2], [7, 7]]
    table = table_of(tmp_path, rows, length=pa.array([3, 1, 2]), cell_id=pa.array([5, 6, 7]))
    said = []
    convert_tokens([table, table], tmp_path / "store", genes, log=said.append)
    store = SequenceStore.open(tmp_path / "store")
    found = store.fetch([0, 2, 4])
    assert found.ids.tolist() == [9, 3, 25_425, 7, 7, 2]
    assert found.offsets.tolist() == [0, 3, 5, 6]
    assert store.manifest.content == "tokens"
    assert store.hashes[0] == store.hashes[3]
    assert said[0].endswith("3 rows, column input_ids; not kept: cell_id")


@pytest.mark.skipif(not CORPUS.is_file(), reason="the shared data are not here")
def test_the_real_corpus_of_ready_tokens_is_the_parquets(tmp_path, genes):
    convert_tokens([CORPUS], tmp_path / "store", genes, log=quiet)
    store = SequenceStore.open(tmp_path / "store")
    rows = pq.read_table(CORPUS)["input_ids"]
    found = store.fetch(np.arange(500))
    assert np.array_equal(found.ids, rows.combine_chunks().flatten().to_numpy())
    assert np.diff(found.offsets).tolist() == [len(row) for row in rows.to_pylist()]
    assert store.manifest.ids_dtype == "uint16"


@pytest.mark.parametrize(
    ("rows", "columns", "what"),
    [
        pytest.param([[5], [6, 25_426]], {}, "id 25426 in row 1 is outside the 25,426 ids", id="outside"),
        pytest.param([[5], [-1]], {}, "id -1 in row 1 is outside", id="negative"),
        pytest.param([[5, 6], [6, 0]], {}, "id 0 in row 1 is <pad>: the rows are padded", id="padded"),
        pytest.param([[5, 1]], {}, "id 1 in row 0 is <mask>: the tokens are hidden already", id="hidden"),
        pytest.param([[5], []], {}, "row 1 has no tokens", id="empty"),
        pytest.param([[5], None], {}, "has missing values between rows 0 and", id="missing row"),
        pytest.param([[5, None]], {}, "has missing values between rows 0 and", id="missing token"),
        pytest.param([[5, 6]], {"length": [3]}, "row 0 has 2 tokens, and column length says 3", id="length"),
    ],
)
def test_tokens_that_cannot_be_are_refused_with_their_row(tmp_path, genes, rows, columns, what):
    table = table_of(tmp_path, rows, **{name: pa.array(values) for name, values in columns.items()})
    with pytest.raises(InputError) as error:
        convert_tokens([table], tmp_path / "store", genes, log=quiet)
    assert error.value.what.startswith("SCMF-D068: ")
    assert what in error.value.what
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("columns", "what"),
    [
        ({"input_ids": pa.array([1, 2])}, "column input_ids is int64, not a list of integers"),
        ({"input_ids": pa.array([[0.5]])}, "column input_ids is list<"),
        ({"x": pa.array([1])}, "no column input_ids or tokens; the table has x"),
    ],
)
def test_a_table_without_lists_of_ids_is_refused(tmp_path, genes, columns, what):
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    with pytest.raises(InputError) as error:
        convert_tokens([tmp_path / "t.parquet"], tmp_path / "s", genes, log=quiet)
    assert error.value.what.startswith(f"SCMF-D068: {what}")


def test_a_parquet_file_cut_short_is_refused(tmp_path, run, genes):
    table = table_of(tmp_path, [[5, 6]])
    table.write_bytes(table.read_bytes()[:-9])
    assert "SCMF-D016: the parquet file cannot be read" in run("convert", table, "--dest", tmp_path / "s")[2]
    with pytest.raises(InputError, match="SCMF-D016"):
        convert_tokens([table], tmp_path / "s", genes, log=quiet)


# The command


def test_the_command_makes_a_store_of_text_and_says_what_it_holds(tmp_path, run):
    (tmp_path / "a.txt").write_text("To be, or not to be\n")
    code, out, err = run("convert", tmp_path / "a.txt", "--dest", tmp_path / "s")
    assert (code, err) == (0, "")
    assert "text, 20 characters, 10 different" in out
    assert out.splitlines()[-1].startswith(f"{tmp_path}/s: 1 sequence of 20 tokens in ")
    assert run("verify", tmp_path / "s")[:2] == (0, f"{tmp_path}/s: sound\n")
    out = run("info", tmp_path / "s")[1]
    assert "vocabulary   char-10: 13 ids" in out
    assert "characters   '\\n ,Tbenort'" in out
    facts = json.loads(run("info", tmp_path / "s", "--json")[1])
    assert (facts["content"], facts["n_tokens"], facts["vocabulary"]["size"]) == ("text", 20, 13)
    assert facts["fingerprint"] == SequenceStore.open(tmp_path / "s").fingerprint
    assert "pages are made of stores of cells only" in run("info", tmp_path / "s", "--html", "p.html")[2]


@pytest.mark.skipif(not SHAKESPEARE.is_file(), reason="the shared data are not here")
def test_tiny_shakespeare_is_recognised_and_comes_back(tmp_path, run):
    assert run("convert", SHAKESPEARE, "--dest", tmp_path / "s")[0] == 0
    store = SequenceStore.open(tmp_path / "s")
    assert len(store.vocabulary.characters) == 65
    assert text_of(store) == SHAKESPEARE.read_text()


def test_a_second_conversion_replaces_a_store_only_when_asked(tmp_path, run):
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.txt").write_text("two")
    assert run("convert", tmp_path / "a.txt", "--dest", tmp_path / "s")[0] == 0
    what, _, fix = three_lines(run("convert", tmp_path / "b.txt", "--dest", tmp_path / "s")[2])
    assert what == "the destination is a store already"
    assert "--overwrite" in fix
    assert run("convert", tmp_path / "b.txt", "--dest", tmp_path / "s", "--overwrite")[0] == 0
    assert text_of(SequenceStore.open(tmp_path / "s")) == "two"


def test_ready_tokens_need_the_name_of_their_vocabulary(tmp_path, run):
    table = table_of(tmp_path, [[5, 6], [7]])
    what, _, fix = three_lines(run("convert", table, "--dest", tmp_path / "s")[2])
    assert "the vocabulary that made them is needed" in what
    command = fix.split(", or ")[0]
    assert run(*command.split()[1:])[0] == 0
    assert "vocabulary   geneformer-v1: 25,426 ids" in run("info", tmp_path / "s")[1]


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a.txt", "Title\n\nOne, two; three.\nFour\n", True),
        ("a.md", "# Title, with a comma\nwords\n", True),
        ("a.txt", CSV, False),
        ("a.txt", CSV.replace(",", "\t"), False),
        ("a.csv", "words and no table\n", False),
        ("a.txt", "%%MatrixMarket matrix\n", False),
        ("a.txt", "", False),
        ("a.txt", "a\x00b\n", False),
    ],
)
def test_text_is_recognised_by_its_name_and_by_not_being_a_table(tmp_path, name, content, text):
    from scmf.data.sequences.recognise import sort_of

    (tmp_path / name).write_text(content)
    assert sort_of([tmp_path / name], as_text=False) == ("text" if text else "cells")
    assert sort_of([tmp_path / name], as_text=True) == "text"


@pytest.mark.parametrize(
    ("names", "flags", "what"),
    [
        (["a.txt"], ["--counts", "raw.X"], "--counts says nothing about text"),
        (["a.txt"], ["--vocabulary", "geneformer-v1"], "--vocabulary says nothing about text"),
        (["a.txt"], ["--gene-ids", "map"], "--gene-ids says nothing about text"),
        (["a.txt"], ["--memory", "2GB"], "--memory says nothing about text"),
        (["t.parquet"], ["--workers", "3"], "--workers says nothing about ready tokens"),
        (["a.csv"], ["--vocabulary", "geneformer-v1"], "--vocabulary says nothing about counts of cells"),
        (["a.csv", "a.txt"], [], "SCMF-D069: sources of several kinds: a.csv is counts of cells, a.txt is text"),
        (["a.txt", "t.parquet"], [], "SCMF-D069: sources of several kinds: a.txt is text, t.parquet is a table of"),
        (["t.parquet"], ["--tokenizer", "char"], "SCMF-D066: the text is not valid UTF-8"),
        (["folder"], ["--tokenizer", "char"], "SCMF-D001: a folder is no text"),
        (["none.txt"], [], "SCMF-D001: there is no such file"),
    ],
)
def test_what_does_not_belong_together_is_refused_in_three_lines(tmp_path, run, names, flags, what):
    (tmp_path / "a.txt").write_text("words\n")
    (tmp_path / "a.csv").write_text(CSV)
    (tmp_path / "folder").mkdir()
    table_of(tmp_path, [[5, 6]])
    code, _, err = run("convert", *(tmp_path / name for name in names), "--dest", tmp_path / "s", *flags)
    assert code == 1
    assert three_lines(err)[0].startswith(what)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("bench",),
        ("tokens", "--vocabulary", "geneformer-v1", "--out", "t.parquet"),
        ("vocabulary", "--out", "v.parquet"),
        ("coverage", "--vocabulary", "geneformer-v1"),
        ("rank-order", "--vocabulary", "geneformer-v1", "--dest", "r"),
        ("shuffle-quality", "--by", "a"),
        ("ledger",),
        ("subset", "--where", "a=b", "--dest", "c"),
        ("split", "--by", "a", "--dest", "c"),
        ("name-split", "n", "--train", "a=b"),
        ("add", "a.csv"),
        ("merge", "--dest", "m"),
        ("seen", "--ledger", "l"),
    ],
    ids=lambda words: words[0],
)
def test_commands_of_cells_say_what_the_store_is(store, tmp_path, run, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text(CSV)
    code, _, err = run(words[0], store.path, *words[1:])
    assert code == 1
    what, _, fix = three_lines(err)
    if words[0] != "seen":  # asks for its ledger first
        assert what.startswith("this is a store of sequences (text, or ready tokens)")
        assert "data.kind: sequences" in fix


def test_a_store_of_cells_is_no_store_of_sequences(demo_store):
    with pytest.raises(StoreError, match="this is a store of cells, and a store of sequences") as error:
        SequenceStore.open(demo_store.path)
    assert "data.kind: cells" in error.value.fix
    assert CellStore.open(demo_store.path).contents == "210 cells"
