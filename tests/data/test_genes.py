"""Gene tables: what a name means, of which species names are, and how often mapped symbols are the true ids."""

from __future__ import annotations

import gzip
from pathlib import Path

import anndata
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scmf.core.errors import VocabularyError
from scmf.data.artefact import HEADER
from scmf.data.gene_names import HOWS
from scmf.data.gene_species import survey_names
from scmf.data.genes import SHIPPED, Gene, GeneTable, load_gene_table
from scmf.data.orthologs import OrthologPair, Orthologs, load_orthologs

DATA = Path(__file__).parents[2].parent / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the shared data are not here")

TP53, MATR3 = "ENSG00000141510", "ENSG00000015479"


@pytest.fixture(scope="module")
def human():
    return load_gene_table("human")


@pytest.fixture(scope="module")
def mouse():
    return load_gene_table("mouse")


CASES = [
    ("TP53", TP53, "exact"),
    (" TP53 ", TP53, "exact"),
    (TP53, TP53, "exact"),
    (f"{TP53}.16", TP53, "version-stripped"),
    ("ENSG00000182378.14_PAR_Y", "ENSG00000182378", "version-stripped"),
    ("ENSG00000112096", "ENSG00000291237", "retired"),  # SOD2
    ("ENSG00000112096.18", "ENSG00000291237", "retired"),
    ("ENSG99999999999", "ENSG99999999999", "not-listed"),
    ("TXNIP_ENSG00000265972", "ENSG00000265972", "embedded-id"),
    ("ENSG00000265972.6|TXNIP", "ENSG00000265972", "embedded-id"),
    ("GRCh38_ENSG00000141510", TP53, "exact"),
    ("GRCh38___TP53", TP53, "exact"),
    ("tp53", TP53, "case"),
    ("p53", TP53, "alias"),
    ("FAM46C", "ENSG00000183508", "alias"),
    ("SEPT2", "ENSG00000168385", "alias"),
    ("MARC1", "ENSG00000186205", "alias"),
    ("MARCH1", "ENSG00000145416", "alias"),
    ("QARS", "ENSG00000172053", "alias"),
    ("MATR3", MATR3, "ambiguous-chosen"),
    ("Y_RNA", "", "ambiguous-dropped"),
    ("1-Mar", "", "spreadsheet-date"),
    ("Sep-02", "", "spreadsheet-date"),
    ("1-MAR", "", "spreadsheet-date"),
    ("2001-03-01", "", "spreadsheet-date"),
    ("7157", "", "number"),
    ("mm10___Trp53", "", "other-species"),
    ("ENSMUSG00000059552", "", "other-species"),
    ("", "", "empty"),
    ("nan", "", "empty"),
    ("Trp53", "ENSG00000141510", "alias"),  # an alias of the human gene, too; why the species is found first
    ("CH507-42P11.5", "", "not-found"),
    ("ERCC-00002", "", "not-found"),
    ("NKX2-1", "ENSG00000136352", "exact"),
    ("HLA.DRB1", "ENSG00000196126", "dots"),
    ("MT.CO1", "ENSG00000198804", "dots"),
]


@pytest.mark.parametrize(("name", "gene", "how"), CASES, ids=[repr(c[0]) for c in CASES])
def test_a_human_name_leads_to_its_gene_and_says_how(human, name, gene, how):
    match = human.map([name]).matches[0]
    assert (match.id, match.how) == (gene, how)


@pytest.mark.parametrize(
    ("name", "symbol", "how"),
    [
        ("Trp53", "Trp53", "exact"),
        ("mt-Nd1", "mt-Nd1", "exact"),
        ("mt.Nd1", "mt-Nd1", "dots"),
        ("TRP53", "Trp53", "case"),
        ("Sept2", "Septin2", "alias"),
        ("Marc2", "Mtarc2", "alias"),
        ("March7", "Marchf7", "alias"),
        ("Dars", "Dars1", "alias"),
        ("mm10___Trp53", "Trp53", "exact"),
        ("TP53", None, "not-found"),
        ("GRCh38_TP53", None, "other-species"),
    ],
)
def test_a_mouse_name_leads_to_its_gene_and_says_how(mouse, name, symbol, how):
    match = mouse.map([name]).matches[0]
    assert match.how == how
    assert (mouse[match.id].symbol if match.id else None) == symbol


def test_a_suffix_is_taken_for_a_repeat_only_where_the_bare_name_is_there(human):
    assert human.map(["MATR3", "MATR3.1", "MATR3-2"]).how == ("ambiguous-chosen", "repeat", "repeat")
    assert human.map(["MATR3", "MATR3.1", "MATR3-2"]).ids == (MATR3,) * 3
    assert human.map(["MATR3.1", "TP53"]).how == ("not-found", "exact")
    assert human.map(["Y_RNA", "Y_RNA.1"]).how == ("ambiguous-dropped", "ambiguous-dropped")


def test_of_several_ids_of_a_symbol_the_oldest_is_taken_and_all_are_listed(human):
    match = human.map(["SIGLEC5"]).matches[0]
    assert match.id == "ENSG00000105501" == min(match.candidates)
    assert set(match.candidates) == {gene.id for gene in human.genes if gene.symbol == "SIGLEC5"}


def test_an_alias_of_several_genes_is_dropped_with_its_genes():
    match = toy().map(["x"]).matches[0]
    assert (match.id, match.how) == ("", "ambiguous-dropped")
    assert match.candidates == ("ENSG00000000001", "ENSG00000000002")


def test_a_mapping_counts_what_it_did_and_says_so_in_one_line(human):
    mapping = human.map(["TP53", "p53", "TBCE", "nonsense", ""])
    assert mapping.kept == 3
    assert mapping.counts == {"exact": 2, "alias": 1, "not-found": 1, "empty": 1}
    assert str(mapping).startswith("3 of 5 names (60.0%) have an Ensembl id: exact 2, ")


@settings(deadline=None, max_examples=200)
@given(names=st.lists(st.text(max_size=20) | st.sampled_from([c[0] for c in CASES]), max_size=8))
def test_any_text_gets_exactly_one_known_way_and_only_known_ids(names):
    human = load_gene_table("human")
    mapping = human.map(names)
    assert len(mapping.matches) == len(names)
    for match in mapping.matches:
        assert match.how in HOWS
        assert match.id == "" or match.id in human or match.how in {"not-listed", "embedded-id"}


@needs_data
@pytest.mark.parametrize("species", ["human", "mouse"])
def test_every_current_symbol_of_one_id_gives_that_id_back(species):
    table = load_gene_table(species)
    single = [(symbol, ids[0]) for symbol, ids in table.by_symbol.items() if len(ids) == 1]
    mapping = table.map([symbol for symbol, _ in single])
    assert set(mapping.how) == {"exact"}
    assert list(mapping.ids) == [gene for _, gene in single]
    assert set(table.map([gene.id for gene in table.genes]).how) == {"exact"}


def truth_of_10x():
    with gzip.open(DATA / "tenx_formats" / "v3_mtx" / "features.tsv.gz", "rt") as file:
        rows = [line.split("\t") for line in file]
    return [row[1] for row in rows], [row[0] for row in rows]


def truth_of(path):
    var = anndata.read_h5ad(DATA / path).var
    return list(var.index), list(var["ensembl_id"])


def judge(table, names, truth):
    """(names with a true id, those mapped, those mapped to it or to the id that replaced it, the others' names)."""
    pairs = [(n, t.split(".")[0], m.id) for n, t, m in zip(names, truth, table.map(names).matches, strict=True) if t]
    mapped = [(n, t, i) for n, t, i in pairs if i]
    wrong = [n for n, t, i in mapped if i not in (t, table.retired.get(t))]
    return len(pairs), len(mapped), len(mapped) - len(wrong), wrong


@needs_data
def test_symbols_of_10x_s_own_annotation_give_10x_s_ids_and_names_of_clones_none(human):
    names, truth = truth_of_10x()
    assert judge(human, names, truth) == (507, 286, 286, [])


@needs_data
def test_symbols_of_a_published_experiment_give_its_own_ids(human):
    names, truth = truth_of("sc_kang_ifnb/kang_muscat_counts.h5ad")
    n, mapped, right, wrong = judge(human, names, truth)
    assert (n, mapped, right) == (1267, 1262, 1257)
    # Four ids are retired without a successor in the dictionaries; MIR142 was the host gene's name.
    assert wrong == ["MARCKS", "CCL3", "CCL4", "PSMB3", "MIR142"]


@needs_data
@pytest.mark.parametrize(
    ("path", "counts"),
    [
        ("sc_pbmc4k/pbmc4k_raw.h5ad", (21034, 20961, 20941)),
        ("sc_kang_ifnb/kang_harmony_counts.h5ad", (8220, 8217, 8214)),
        ("sc_perturb_mcfaline/mcfaline23_hvg500_recovered_counts.h5ad", (500, 497, 497)),
        ("sc_perturb_papalexi/papalexi_eccite_counts.h5ad", (255, 255, 255)),
    ],
    ids=["pbmc4k", "kang", "mcfaline", "papalexi"],
)
def test_symbols_of_real_files_give_the_ids_that_geneformer_s_dictionary_gave(human, path, counts):
    assert judge(human, *truth_of(path))[:3] == counts


@needs_data
@pytest.mark.parametrize(
    ("path", "species"),
    [
        ("sc_mouse_bone_marrow/tapseq_bm_counts.h5ad", "mouse"),
        ("sc_tcells_wu2020/wu2020_200cells_14patients.h5ad", "human"),
        ("sc_pbmc4k/pbmc4k_raw.h5ad", "human"),
        ("sc_cite_pbmc_2batch/pbmc_10k_protein_v3_200cells.h5ad", "human"),
        ("awkward/counts_in_layer_X_lognorm.h5ad", "human"),
        ("awkward/derived_no_gene_ids.h5ad", None),
    ],
)
@pytest.mark.filterwarnings(
    "ignore:.*very old version", "ignore:Element", "ignore:.*not unique", "ignore::FutureWarning"
)
def test_the_species_of_real_names_is_found(path, species):
    assert survey_names(list(anndata.read_h5ad(DATA / path, backed="r").var_names)).species == species


@needs_data
def test_mouse_names_in_upper_case_are_not_taken_for_human():
    names = anndata.read_h5ad(DATA / "sc_mouse_bone_marrow/tapseq_bm_counts.h5ad", backed="r").var_names
    survey = survey_names([name.upper() for name in names])
    assert survey.species == "upper-case mouse"
    assert survey.human > 8_000


@pytest.mark.parametrize(
    ("names", "species"),
    [
        (["TP53", "GAPDH", "Trp53", "Gapdh"], "mixed"),
        (["GRCh38_TP53", "mm10___Trp53"], "mixed"),
        (["tp53", "gapdh", "actb"], None),
        (["1", "2", "3"], None),
        ([], None),
        (["ENSG00000141510.3"], "human"),
        (["ENSMUSG00000059552"], "mouse"),
    ],
)
def test_names_of_two_species_or_of_none_are_called_so(names, species):
    assert survey_names(names).species == species


def test_the_shipped_tables_are_whole_and_say_where_they_come_from(human, mouse):
    assert (len(human), len(human.aliases), len(human.retired)) == (78_894, 60_579, 6_414)
    assert (len(mouse), len(mouse.aliases), len(mouse.retired)) == (78_317, 44, 0)
    assert human[TP53] == Gene(TP53, "TP53", human[TP53].version, human[TP53].length, "protein_coding")
    for table in (human, mouse, load_orthologs()):
        assert "MIT" in table.source
    assert "believed to be Apache-2.0" in human.source
    assert sum(path.stat().st_size for path in SHIPPED.glob("*.parquet")) < 2_000_000


@needs_data
def test_the_shipped_tables_are_what_the_script_builds(human, mouse, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
    import build_gene_tables as script

    built = (
        script.build_human(DATA / "gene_tables", DATA / "geneformer_dicts"),
        script.build_mouse(DATA / "gene_tables"),
    )
    assert [table.fingerprint for table in built] == [human.fingerprint, mouse.fingerprint]
    assert [table.source for table in built] == [human.source, mouse.source]
    orthologs = script.build_orthologs(DATA / "gene_tables" / "Ensembl105_Human2Mouse_symbols.csv", *built)
    assert orthologs.fingerprint == load_orthologs().fingerprint


def test_an_unknown_species_names_the_known_ones():
    with pytest.raises(VocabularyError, match="zebrafish") as caught:
        load_gene_table("zebrafish")
    assert "human, mouse" in caught.value.fix


def toy(**changes):
    fields = {
        "species": "human",
        "version": "1",
        "genes": (Gene("ENSG00000000001", "A", 1, 10, "lncRNA"), Gene("ENSG00000000002", "", 2, 20, "miRNA")),
        "aliases": {"OLD A": ("ENSG00000000001",), "X": ("ENSG00000000001", "ENSG00000000002")},
        "retired": {"ENSG00000000009": "ENSG00000000002"},
        "source": "made up",
    }
    return GeneTable(**{**fields, **changes})


def test_a_saved_table_loads_as_it_was(tmp_path):
    toy().save(tmp_path / "t.parquet")
    read = GeneTable.load(tmp_path / "t.parquet")
    for name in ("species", "version", "genes", "aliases", "retired", "source", "fingerprint"):
        assert getattr(read, name) == getattr(toy(), name), name
    assert list(tmp_path.iterdir()) == [tmp_path / "t.parquet"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"genes": ()}, "0 gene ids"),
        ({"genes": toy().genes[::-1]}, "sorted"),
        ({"species": "mouse"}, "no Ensembl ids of mouse"),
        ({"aliases": {"B": ("ENSG00000000009",)}}, "the first is B"),
        ({"aliases": {"b": ("ENSG00000000001",)}}, "the first is b"),
        ({"retired": {"ENSG00000000001": "ENSG00000000002"}}, "the first is ENSG00000000001"),
    ],
)
def test_fields_that_make_no_table_are_refused(changes, sentence):
    with pytest.raises(VocabularyError, match=sentence):
        toy(**changes)


def _cut(path):
    path.write_bytes(path.read_bytes()[:-40])


def _rename_a_gene(path):
    table = pq.read_table(path)
    symbols = ["B", *table.column("symbol").to_pylist()[1:]]
    place = table.column_names.index("symbol")
    pq.write_table(table.set_column(place, "symbol", pa.array(symbols)), path)


def _other_schema(path):
    table = pq.read_table(path)
    header = table.schema.metadata[HEADER].replace(b"scmf-genes/1", b"scmf-genes/9")
    pq.write_table(table.replace_schema_metadata({HEADER: header}), path)


@pytest.mark.parametrize("damage", [_cut, _rename_a_gene, _other_schema, Path.unlink])
def test_a_damaged_table_is_refused_with_its_path_and_the_way_out(tmp_path, damage):
    path = tmp_path / "t.parquet"
    toy().save(path)
    damage(path)
    with pytest.raises(VocabularyError, match="not intact") as caught:
        GeneTable.load(path)
    assert caught.value.where == str(path)
    assert "pip install" in caught.value.fix
    assert len(str(caught.value).splitlines()) == 3


def test_orthologs_are_one_to_one_in_both_directions_and_nothing_else_is_used():
    orthologs = load_orthologs()
    assert len(orthologs.pairs) == 22_787
    assert len(orthologs.one_to_one) == len(set(orthologs.one_to_one.values())) == 16_065
    mouse, human = load_gene_table("mouse"), load_gene_table("human")
    trp53, gapdh, prdx1 = mouse.map(["Trp53", "Gapdh", "Serpinb3d"]).ids
    assert orthologs.to_human([trp53, prdx1, ""]) == (TP53, "", "")
    assert gapdh not in orthologs.one_to_one or human[orthologs.one_to_one[gapdh]].symbol == "GAPDH"
    assert {pair.human for pair in orthologs.pairs} <= set(human.by_id)
    assert {pair.mouse for pair in orthologs.pairs} <= set(mouse.by_id)


@pytest.mark.parametrize(
    "pairs",
    [
        [("ENSG1", "ENSMUSG1", True), ("ENSG1", "ENSMUSG2", True)],
        [("ENSG1", "ENSMUSG1", True), ("ENSG2", "ENSMUSG1", False)],
        [("ENSG1", "ENSMUSG1", True), ("ENSG1", "ENSMUSG2", False)],
    ],
)
def test_a_pair_that_is_called_one_to_one_and_is_not_is_refused(pairs):
    with pytest.raises(VocabularyError, match="another partner"):
        Orthologs(version="1", pairs=tuple(OrthologPair(*pair) for pair in pairs))
