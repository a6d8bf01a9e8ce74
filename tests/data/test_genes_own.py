"""A user's own table of names: what it maps, and what is said when it cannot be used."""

from __future__ import annotations

import pytest

from scmf.core.errors import InputError
from scmf.data.ingest.genes import GeneWishes
from support.gene_files import COMMAND, GAPDH, TP53, all_counts, cells, find, to_store


def table_of_names(tmp_path, text, name="names.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_names_of_ones_own_come_before_every_rule_and_are_kept_in_the_manifest(tmp_path):
    path = table_of_names(tmp_path, f"id,name\n{TP53}.16,1-Mar\n,GAPDH\n")
    cells([[1, 2, 4]], ["1-Mar", "GAPDH", "MALAT1"]).write_h5ad(tmp_path / "a.h5ad")
    store, lines = to_store(tmp_path / "a.h5ad", tmp_path / "s", genes=GeneWishes(map_names=True, table=path))
    assert store.gene_ids == (TP53, "ENSG00000251562")
    source = store.manifest.sources[0]
    assert source.genes_found == {"own-table": 2, "exact": 1}
    assert "; names.csv sha256:" in source.gene_table
    assert any("mapped by the names of human: own-table 2, exact 1" in line for line in lines)


def test_ncbi_numbers_and_other_species_convert_with_a_table_of_names(tmp_path):
    path = table_of_names(tmp_path, f"name\tid\n7157\t{TP53}\n2597\t{GAPDH}\n", "ncbi.tsv")
    genes = find("g1", "g2", "g3", columns={"ncbi": ["7157", "2597", "1"]}, table=path)
    assert (genes.column, genes.ids, genes.species) == ("ncbi", (TP53, GAPDH, ""), {"human"})
    path = table_of_names(tmp_path, "name,id\nactb1,ENSDARG00000037746\n")
    genes = find("actb1", "ENSDARG00000043457", "unknown", table=path)
    assert genes.ids == ("ENSDARG00000037746", "ENSDARG00000043457", "")
    assert [o.how for o in genes.origins] == ["own-table", "not-listed", "not-found"]
    assert genes.species == {"other"}


def test_a_table_of_names_that_changes_starts_an_interrupted_conversion_anew(tmp_path, monkeypatch):
    other = "ENSG00000251562"
    path = table_of_names(tmp_path, f"name,id\nA,{TP53}\nB,{GAPDH}\nC,{other}\nD,{TP53}\n")
    cells([[1, 2, 4, 8]], ["A", "B", "C", "D"]).write_h5ad(tmp_path / "a.h5ad")
    wishes = GeneWishes(map_names=True, species="human", table=path)
    with monkeypatch.context() as patch:
        patch.setattr("scmf.data.ingest.convert.describe", interrupt)
        with pytest.raises(KeyboardInterrupt):
            to_store(tmp_path / "a.h5ad", tmp_path / "s", genes=wishes)
    # The same ids in the same order: only the columns under them have moved.
    table_of_names(tmp_path, f"name,id\nA,{TP53}\nB,{GAPDH}\nC,{other}\nD,{GAPDH}\n")
    store, lines = to_store(tmp_path / "a.h5ad", tmp_path / "s", genes=wishes)
    assert any("an unfinished conversion to the same place was removed" in line for line in lines)
    assert store.gene_ids == (TP53, GAPDH, other)
    assert all_counts(store).toarray().tolist() == [[1, 10, 4]]


def interrupt(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "no such file"),
        ("", "its columns are none"),
        ("symbol,id\nA,B\n", "its columns are symbol, id"),
        ("name,id\n", "it has no names"),
        ("name,id\nTP53,7157\n", "line 2: '7157' is no Ensembl gene id"),
        (f"name,id\nA,{TP53}\nA,{GAPDH}\n", f"line 3: 'A' means {GAPDH} here and {TP53} above"),
        ("name,id\nTP53\n", "a line has 1 field: TP53"),
        (b"name,id\n\xff,\n", "byte 8 is no UTF-8"),
    ],
)
def test_a_table_of_names_with_a_fault_is_refused_with_its_place(tmp_path, text, sentence):
    path = tmp_path / "none.csv" if text is None else table_of_names(tmp_path, text)
    with pytest.raises(InputError, match=sentence) as caught:
        find("TP53", table=path)
    assert caught.value.where == str(path)
    assert len(str(caught.value).splitlines()) == 3


def test_a_table_of_names_without_mapping_is_refused_and_not_ignored(tmp_path):
    with pytest.raises(InputError, match="for names that are mapped") as caught:
        find(TP53, map_names=False, table=table_of_names(tmp_path, f"name,id\nA,{TP53}\n"))
    assert caught.value.fix == f"{COMMAND} --gene-ids map"
