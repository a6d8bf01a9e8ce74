"""Gene ids while sources are read: symbols mapped, orthologs, reports, and what a refusal advises."""

from __future__ import annotations

import csv
import json
import shlex
from importlib import import_module
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from scmf.core.errors import InputError
from scmf.data.coverage import REASONS, measure_coverage, missing_genes
from scmf.data.gene_names import HOWS
from scmf.data.genes import load_gene_table
from scmf.data.ingest.budget import MAPPED_BYTES, worker_budget
from scmf.data.ingest.genes import GeneWishes
from scmf.data.ingest.plan import ConvertOptions, Plan
from scmf.data.ingest.source_genes import ColumnOrigin
from scmf.data.vocabulary import load_vocabulary
from support.gene_files import COMMAND, GAPDH, TP53, all_counts, cells, find, to_store

DATA = Path(__file__).parents[2].parent / "shared" / "data"
MARROW = DATA / "sc_mouse_bone_marrow" / "tapseq_bm_counts.h5ad"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the shared data are not here")


@pytest.fixture(scope="module")
def marrow(tmp_path_factory):
    """Mouse marrow as a store of its own ids, and the lines that conversion printed."""
    if not MARROW.is_file():
        pytest.skip("the shared data are not here")
    return to_store(MARROW, tmp_path_factory.mktemp("marrow") / "s", genes=GeneWishes(map_names=True))


def test_columns_that_lead_to_one_gene_are_added_up(tmp_path):
    names = ["TP53", "P53", "GAPDH", "no gene", f"{TP53}.16"]
    cells([[1, 2, 4, 8, 16], [0, 0, 1, 0, 1]], names).write_h5ad(tmp_path / "a.h5ad")
    store, lines = to_store(tmp_path / "a.h5ad", tmp_path / "s", genes=GeneWishes(map_names=True))
    assert store.gene_ids == (TP53, GAPDH)
    assert all_counts(store).toarray().tolist() == [[19, 4], [1, 1]]
    source = store.manifest.sources[0]
    assert store.manifest.id_space == "ensembl"
    assert store.manifest.species == "human"
    assert (source.repeated_columns, source.genes_without_id) == (2, 1)
    assert source.genes_found == {"exact": 2, "alias": 1, "not-found": 1, "version-stripped": 1}
    assert source.gene_table == f"human {load_gene_table('human').fingerprint}"
    assert any("mapped by the names of human: exact 2, alias 1" in line for line in lines)


def test_gene_tables_are_in_memory_while_a_conversion_is_planned_and_not_later(tmp_path, monkeypatch):
    cells([[1, 2]], ["TP53", "GAPDH"]).write_h5ad(tmp_path / "a.h5ad")
    held = {}
    for name in ("source_genes", "worker_budget"):  # before and after the end of planning
        place = "inspection" if name == "source_genes" else "convert"
        real = getattr(import_module(f"scmf.data.ingest.{place}"), name)

        def spy(*arguments, real=real, name=name):
            result = real(*arguments)
            held[name] = load_gene_table.cache_info().currsize
            return result

        monkeypatch.setattr(f"scmf.data.ingest.{place}.{name}", spy)
    to_store(tmp_path / "a.h5ad", tmp_path / "s", genes=GeneWishes(map_names=True))
    assert held == {"source_genes": 2, "worker_budget": 0}


def test_what_mapping_leaves_in_memory_is_taken_from_the_budget():
    plan = Plan(sources=(), gene_numbers={}, species=None, command="")
    budgets = [worker_budget(plan, ConvertOptions(genes=GeneWishes(map_names=said))) for said in (False, True)]
    assert budgets[0] - budgets[1] == MAPPED_BYTES


@needs_data
def test_mapped_symbols_of_a_real_file_hold_the_counts_that_anndata_reads(marrow):
    store, lines = marrow
    source = anndata.read_h5ad(MARROW)
    mapping = load_gene_table("mouse").map(list(source.var_names))
    kept = np.array([bool(i) for i in mapping.ids])
    frame = pd.DataFrame(source.X.toarray()[:, kept].T, index=[i for i in mapping.ids if i]).groupby(level=0).sum()
    np.testing.assert_array_equal(all_counts(store).toarray().T, frame.loc[list(store.gene_ids)].to_numpy())
    assert store.manifest.species == "mouse"
    assert (len(mapping.given), mapping.kept, store.n_genes) == (9_891, 9_302, 9_300)
    assert any("94.93% of all molecules" in line for line in lines)


def test_ids_come_first_and_names_fill_in_for_columns_without_one():
    ids = [f"{TP53}.3", "ENSG00000251562", "", ""]
    genes = find("x1", "x2", "GAPDH", "nonsense", columns={"id": ids, "chromosome": ["17", "11", "12", "1"]})
    assert genes.ids == (TP53, "ENSG00000251562", GAPDH, "")
    assert genes.column == "id, index"
    assert [o.how for o in genes.origins] == ["version-stripped", "exact", "exact", "not-found"]


def test_the_column_with_most_symbols_is_taken_for_names():
    genes = find("g1", "g2", columns={"chromosome": ["17", "12"], "symbol": ["TP53", "GAPDH"]})
    assert (genes.column, genes.ids) == ("symbol", (TP53, GAPDH))


def test_the_file_s_own_ids_are_left_as_they_are_unless_mapping_is_asked_for():
    retired, current = "ENSG00000112096", "ENSG00000291237"
    assert find(retired, TP53, map_names=False).ids == (retired, TP53)
    assert find(retired, TP53, map_names=True).ids == (current, TP53)


MIXED = ["GRCh38_TP53", "GRCh38_GAPDH", "mm10___Trp53", "mm10___Gapdh"]


def test_a_mixture_of_two_species_is_refused_with_the_flag_that_keeps_one():
    with pytest.raises(InputError, match=r"^SCMF-D013: .*two species \(50.0% human, 50.0% mouse\)") as caught:
        find(*MIXED)
    assert caught.value.fix == f"{COMMAND} --species human"
    genes = find(*MIXED, species="human")
    assert genes.ids == (TP53, GAPDH, "", "")
    assert (genes.other_species, genes.without_id, genes.species) == (2, 0, {"human"})


def test_upper_case_mouse_names_are_refused_until_the_species_is_said():
    mouse, human = load_gene_table("mouse"), load_gene_table("human")
    only = [s.upper() for s in mouse.by_symbol if s.upper() not in human.by_upper_symbol and s.startswith("Gm1")][:3]
    names = ["ACTB", "GAPDH", "CD4", "CD8A", "PTPRC", "LYZ1", *only]
    with pytest.raises(InputError, match=r"^SCMF-D010: .*mouse symbols in upper case") as caught:
        find(*names)
    assert caught.value.fix == f"{COMMAND} --species mouse"
    genes = find(*names, species="mouse")
    assert genes.ids[0] == mouse.by_symbol["Actb"][0]
    assert genes.found == {"case": len(names)}


def test_small_letters_are_mapped_once_the_species_is_said():
    names = ["actb", "gapdh", "cd4", "ptprc"]
    for how in ({}, {"map_names": False}):
        with pytest.raises(InputError, match=r"^SCMF-D010: .*no species writes so \(100.0%") as caught:
            find(*names, **how)
        assert caught.value.fix.endswith(" --species mouse")
    mouse = find(*names, species="mouse")
    assert (mouse.ids[0], mouse.found) == (load_gene_table("mouse").by_symbol["Actb"][0], {"case": 4})


@pytest.mark.parametrize(
    ("names", "sentence", "fix"),
    [
        (["a1", "b2", "c3"], "no species that scmf has a table of", f"{COMMAND} --species human, if they are human"),
        (["ENSDARG00000035559", "ENSDARG00000043457"], "Ensembl ids of a species", COMMAND),
    ],
    ids=["unknown names", "zebrafish ids"],
)
def test_names_that_no_table_knows_are_refused_by_mapping(names, sentence, fix):
    with pytest.raises(InputError, match=f"^SCMF-D010: .*{sentence}") as caught:
        find(*names, command=f"{COMMAND} --gene-ids map" if names[0].startswith("ENS") else COMMAND)
    assert caught.value.fix == fix


@needs_data
@pytest.mark.parametrize(
    ("path", "share", "flags"),
    [
        ("sc_mouse_bone_marrow/tapseq_bm_counts.h5ad", "94.0% of the names in index are names of mouse", ""),
        ("sc_tcells_wu2020/wu2020_200cells_14patients.h5ad", "80.2% of the names in index are names of human", ""),
        ("awkward/derived_no_gene_ids.h5ad", None, None),
    ],
    ids=["mouse symbols", "entrez and symbols", "row numbers"],
)
def test_a_file_without_ids_is_told_how_much_mapping_finds_and_the_command_for_it(path, share, flags, tmp_path):
    with pytest.raises(InputError, match=r"^SCMF-D010: no column of var holds Ensembl gene ids") as caught:
        to_store(DATA / path, tmp_path / "s", genes=GeneWishes())
    if share is None:
        assert "--gene-ids map" not in caught.value.fix
    else:
        assert share in caught.value.what
        wanted = ["scmf-store", "convert", str(DATA / path), "--dest", str(tmp_path / "s"), "--gene-ids", "map"]
        assert shlex.split(caught.value.fix) == wanted


def test_the_advice_after_naming_a_column_without_ids_keeps_that_column():
    with pytest.raises(InputError, match=r"^SCMF-D011: .*100.0% of the names in symbol") as caught:
        find("g1", "g2", columns={"symbol": ["TP53", "GAPDH"]}, column="symbol", map_names=False)
    assert caught.value.fix == f"{COMMAND} --gene-ids map"


@needs_data
def test_mouse_cells_with_human_orthologs_keep_their_counts_under_human_ids(marrow, tmp_path):
    own, _ = marrow
    wishes = GeneWishes(map_names=True, orthologs="human")
    store, lines = to_store(MARROW, tmp_path / "s", genes=wishes)
    assert store.manifest.species == "human"
    assert store.n_genes == 8_148
    record = store.manifest.sources[0]
    assert record.genes_found["no-ortholog"] == 1_154
    assert record.orthologs is not None
    assert record.orthologs.startswith("mouse to human, one-to-one, Ensembl 105, sha256:")
    assert any("1,154 genes without exactly one ortholog dropped" in line for line in lines)
    mouse, human = load_gene_table("mouse"), load_gene_table("human")
    for theirs, ours in (("Actb", "ACTB"), ("Ptprc", "PTPRC"), ("Mpo", "MPO")):
        there = own.gene_ids.index(mouse.by_symbol[theirs][0])
        here = store.gene_ids.index(human.by_symbol[ours][0])
        assert (all_counts(own)[:, [there]] != all_counts(store)[:, [here]]).nnz == 0
        assert all_counts(store)[:, [here]].sum() > 0


def test_orthologs_of_human_genes_are_themselves_and_of_other_species_refused():
    assert find(TP53, GAPDH, map_names=False, orthologs="human").ids == (TP53, GAPDH)
    with pytest.raises(InputError, match=r"^SCMF-D013") as caught:
        find(TP53, "ENSMUSG00000059552", map_names=False, orthologs="human")
    assert caught.value.fix == f"{COMMAND} --species mouse"
    with pytest.raises(InputError, match=r"^SCMF-D012"):
        find("ENSDARG00000035559", map_names=False, orthologs="human")
    command = f"{COMMAND} --gene-ids symbols --orthologs human"
    with pytest.raises(InputError, match=r"^SCMF-D010") as caught:
        find("Trp53", map_names=False, id_space="symbols", orthologs="human", command=command)
    assert caught.value.fix == f"{COMMAND} --gene-ids map --orthologs human"


def test_columns_that_are_no_genes_keep_their_place():
    genes = find("TP53", "GAPDH").among(np.array([True, False, True]))
    assert genes.ids == (TP53, "", GAPDH)
    assert genes.origins[1] == ColumnOrigin("", "no-gene")
    assert (genes.other_features, genes.without_id) == (1, 0)


def test_the_report_says_of_every_column_what_became_of_it(run, tmp_path):
    names = ["TP53", "MATR3", "1-Mar", "Y_RNA", "GAPDH"]
    cells([[1, 2, 4, 8, 16]], names).write_h5ad(tmp_path / "a.h5ad")
    flags = ("--gene-ids", "map", "--gene-report", tmp_path / "new" / "genes.csv")
    code, out, err = run("convert", tmp_path / "a.h5ad", "--dest", tmp_path / "s", *flags)
    assert (code, err.count("error")) == (0, 0), err
    assert "1 symbol of several ids: the oldest is taken" in out
    with (tmp_path / "new" / "genes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["given"], r["how"]) for r in rows] == [
        ("TP53", "exact"),
        ("MATR3", "ambiguous-chosen"),
        ("1-Mar", "spreadsheet-date"),
        ("Y_RNA", "ambiguous-dropped"),
        ("GAPDH", "exact"),
    ]
    assert rows[1]["candidates"] == "ENSG00000015479;ENSG00000280987"
    assert rows[1]["id"] == "ENSG00000015479"
    assert len(rows[3]["candidates"].split(";")) == 10
    assert {r["how"] for r in rows} <= set(HOWS)
    assert [r["column"] for r in rows] == ["0", "1", "2", "3", "4"]


def test_coverage_weighs_genes_by_molecules_and_names_what_is_missing(run, tmp_path):
    names = ["TP53", "GAPDH", "MALAT1"]
    cells([[1, 3, 6], [0, 0, 10]], names).write_h5ad(tmp_path / "a.h5ad")
    store, _ = to_store(tmp_path / "a.h5ad", tmp_path / "s", genes=GeneWishes(map_names=True))
    vocabulary = load_vocabulary("geneformer-v1")
    found = measure_coverage(vocabulary, store)
    assert (found.known_genes, found.counts, found.known_counts, found.cells_without_tokens) == (2, 20, 4, 1)
    assert [tuple(gene) for gene in missing_genes(vocabulary, store, found)] == [
        ("ENSG00000251562", "MALAT1", 0.8, "not in the vocabulary")
    ]
    code, out, _ = run("coverage", store.path, "--vocabulary", "geneformer-v1")
    assert code == 0
    assert out.startswith("geneformer-v1: 2 of 3 genes (66.7%) and 20.0% of the counts of 2 cells have tokens")
    assert "ENSG00000251562      MALAT1            80.00%  not in the vocabulary" in out
    facts = json.loads(run("coverage", store.path, "--vocabulary", "geneformer-v1", "--json", "--top", 0)[1])
    assert facts["missing"] == {"not in the vocabulary": {"genes": 1, "share_of_counts": 0.8}}
    assert facts["top"] == []
    code, _, err = run("coverage", store.path, "--vocabulary", "geneformer-v1", "--cells", 0)
    assert (code, len(err.splitlines())) == (1, 3)


def test_coverage_tells_a_gene_that_is_unknown_from_one_known_by_another_id(tmp_path):
    table, vocabulary = load_gene_table("human"), load_vocabulary("geneformer-v1")
    known = set(vocabulary.gene_ids)
    newer = next(new for old, new in table.retired.items() if old in known and new not in known)
    retired = next(old for old, new in table.retired.items() if old not in known and new in known)
    names = [newer, retired, "ENSG00000251562", TP53]
    cells([[4, 3, 2, 1]], names).write_h5ad(tmp_path / "a.h5ad")
    store, _ = to_store(tmp_path / "a.h5ad", tmp_path / "s")
    missing = missing_genes(vocabulary, store, measure_coverage(vocabulary, store))
    assert [gene.reason for gene in missing] == ["newer id", "retired id", "not in the vocabulary"]
    assert all(gene.reason in REASONS for gene in missing)


@needs_data
def test_coverage_of_mouse_cells_says_what_orthologs_would_give(marrow):
    store, _ = marrow
    vocabulary = load_vocabulary("geneformer-v1")
    found = measure_coverage(vocabulary, store)
    missing = missing_genes(vocabulary, store, found)
    share = {reason: sum(gene.share for gene in missing if gene.reason == reason) for reason in REASONS}
    assert found.known_genes == 0
    assert share["ortholog"] == pytest.approx(0.8178, abs=1e-4)
    assert sum(share.values()) == pytest.approx(1.0)


def test_check_writes_the_same_report_without_converting(run, tmp_path):
    cells([[1, 2]], ["TP53", "GAPDH"]).write_h5ad(tmp_path / "a.h5ad")
    code, _, _ = run("check", tmp_path / "a.h5ad", "--gene-ids", "map", "--gene-report", tmp_path / "g.csv")
    assert code == 0
    with (tmp_path / "g.csv").open(newline="") as file:
        assert [row["id"] for row in csv.DictReader(file)] == [TP53, GAPDH]


def test_the_page_explains_every_way_of_finding_an_id():
    page = (Path(__file__).parents[2] / "docs" / "genes.md").read_text()
    for how, meaning in HOWS.items():
        assert f"| `{how}` | {meaning} |" in page
