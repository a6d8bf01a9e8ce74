"""The table of everything that can be found in a source. In: a number. Out: its severity, meaning and fix.

It is the only one: the code, `scmf-store check` and docs/doctor.md take numbers and texts from it. Numbers are stable
and never given twice: scripts and search engines may rely on them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Severity = Literal["error", "warning", "note"]
"""An error refuses the source. A warning converts, but somebody should look. A note says what conversion does."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One row of the table."""

    severity: Severity
    meaning: str
    fix: str
    """What mends it in general. A finding gives the exact command where there is one."""


FINDINGS: Final[dict[str, Kind]] = {
    "D001": Kind(
        "error",
        "The source is missing, or is nothing that convert reads.",
        "Check the path; `file NAME` says what a file is.",
    ),
    "D002": Kind(
        "error",
        "The format is known, but something that it must have is missing, or obs or var cannot be read.",
        "Read it with the program that made it and write it again, for example with `write_h5ad` of anndata.",
    ),
    "D003": Kind(
        "error",
        "A matrix is not CSR, CSC or dense numbers, or does not fit obs and var.",
        "Read the file with anndata, check it, and write it again.",
    ),
    "D004": Kind("error", "The matrix has no cells, no genes or no counts.", "Leave the file out."),
    "D005": Kind(
        "error",
        "The element that `--counts` names is not in the file.",
        "Name one of the elements that the message lists.",
    ),
    "D006": Kind(
        "error", "Negative values: scaled, centred or corrected data.", "Name the element with raw counts: `--counts`."
    ),
    "D007": Kind(
        "error",
        "Values that are not finite.",
        "Name another element with `--counts`, or mend the file at its origin.",
    ),
    "D008": Kind(
        "error",
        "Values that are not integers: normalised, logarithmic or corrected data.",
        "Name the element with raw counts: `--counts`.",
    ),
    "D009": Kind(
        "error",
        "No element of the file holds raw counts.",
        "Get the file with raw counts from its origin; normalised values cannot be turned back.",
    ),
    "D010": Kind(
        "error",
        "No column of var holds Ensembl gene ids.",
        "Map symbols with `--gene-ids map`, name a column of Ensembl ids with `--gene-column`, or keep the names with "
        "`--gene-ids symbols`.",
    ),
    "D011": Kind(
        "error",
        "The column that `--gene-column` names is missing or does not hold gene ids.",
        "Name one of the columns that the message lists.",
    ),
    "D012": Kind(
        "error",
        "No gene of the file can be kept.",
        "Name the right `--gene-column` or `--species`, or leave the file out.",
    ),
    "D013": Kind(
        "error",
        "Genes of more than one species.",
        "Say which to keep with `--species`; the others are dropped and counted.",
    ),
    "D014": Kind(
        "error",
        "A count above 4,294,967,295.",
        "Such a value is no count of molecules: mend the file at its origin.",
    ),
    "D015": Kind(
        "error",
        "A sparse matrix points outside its genes or values.",
        "The file is damaged: get it again from its origin.",
    ),
    "D016": Kind(
        "error",
        "The file is cut short or damaged: part of it cannot be read.",
        "Get the file again from its origin.",
    ),
    "D017": Kind(
        "note",
        "X is not raw; the counts are in another element, which is taken.",
        "Nothing to do; `--counts` names another element.",
    ),
    "D018": Kind(
        "note",
        "The values are log(1 + count): every one is the logarithm of an integer.",
        "Take the element with the counts, or undo the logarithm with the command of the finding.",
    ),
    "D019": Kind(
        "note",
        "The values are counts times one factor a cell: normalised to a total (CPM, TPM, counts per 10,000).",
        "Get the counts from the file's origin.",
    ),
    "D020": Kind(
        "note",
        "The values are log(1 + count times one factor a cell): normalised, then logarithmic.",
        "Get the counts from the file's origin.",
    ),
    "D021": Kind(
        "note",
        "The values are fractional counts: many are integers or lie just below one, as after removal of ambient RNA "
        "or in expected counts.",
        "Run the correction with rounding, or take the counts from before it.",
    ),
    "D022": Kind(
        "note",
        "Values within float noise of an integer.",
        "Nothing to do: they are rounded.",
    ),
    "D023": Kind(
        "warning",
        "Cells without any count.",
        "Leave them out, or nothing: they are kept in the store, and training passes over them.",
    ),
    "D024": Kind(
        "warning",
        "Cells with fewer than 7 expressed genes, which Geneformer's corpus leaves out.",
        "Leave them out before conversion.",
    ),
    "D025": Kind(
        "warning",
        "Most barcodes hold next to nothing: unfiltered droplets, no cells.",
        "Convert the filtered matrix of the same run (`filtered_feature_bc_matrix`).",
    ),
    "D026": Kind(
        "warning",
        "Columns that repeat a gene id.",
        "Nothing to do if they are parts of one gene: their counts are added up. Else mend the ids.",
    ),
    "D027": Kind(
        "warning",
        "Cells that share a name (barcode) within one file.",
        "Make the names unique if you look cells up by name; conversion keeps all of them.",
    ),
    "D028": Kind(
        "note",
        "Genes without any count.",
        "Nothing to do: they cost nothing in the store.",
    ),
    "D029": Kind(
        "warning",
        "A good part of the molecules is in columns without a gene id, or of another species, which are dropped.",
        "Name the column with the ids of all genes with `--gene-column`, or mend the ids.",
    ),
    "D030": Kind(
        "note",
        "The names of the genes are symbols.",
        "Map them to Ensembl ids with `--gene-ids map`, or keep them with `--gene-ids symbols`.",
    ),
    "D031": Kind(
        "note",
        "The names of the genes are NCBI gene ids (Entrez).",
        "Add a column of Ensembl ids to var.",
    ),
    "D032": Kind(
        "note",
        "The names are ids of transcripts or proteins, not of genes.",
        "Sum the transcripts of each gene before conversion.",
    ),
    "D033": Kind(
        "note",
        "The names are ids of probes.",
        "Sum the probes of each gene, with the table of the panel, before conversion.",
    ),
    "D034": Kind(
        "note",
        "The names of the genes are row numbers: the real names were lost when the file was written.",
        "Add the names from the file's origin to var.",
    ),
    "D035": Kind(
        "warning",
        "Gene symbols that a spreadsheet turned into dates or numbers (MARCH1 to 1-Mar).",
        "Take the symbols from a file that no spreadsheet has saved.",
    ),
    "D036": Kind(
        "note",
        "Gene ids carry the name of a genome (GRCh38_, mm10___): an experiment with two species.",
        "Map them with `--gene-ids map`, and say which species to keep with `--species`.",
    ),
    "D037": Kind(
        "warning",
        "The shipped vocabularies know few of the molecules, though the genes are human.",
        "Check the gene ids, or compute a vocabulary of your own: `scmf-store vocabulary`.",
    ),
    "D038": Kind(
        "note",
        "Gene indices of a cell are not in rising order.",
        "Nothing to do: they are sorted.",
    ),
    "D039": Kind(
        "warning",
        "A cell has several entries for one gene.",
        "Nothing to do if they are parts of one count: they are added up. Else write the file again.",
    ),
    "D040": Kind(
        "note",
        "Zeros are stored as values.",
        "Nothing to do: they are left out.",
    ),
    "D041": Kind(
        "warning",
        "Counts reach the limit up to which the file's number type keeps integers exactly.",
        "Write the file from its origin in a wider type, such as int32 or float64.",
    ),
    "D042": Kind(
        "warning",
        "Counts stop at the highest value of a narrow type (127, 255, 32,767 or 65,535): cut off.",
        "Write the file from its origin in a wider type.",
    ),
    "D043": Kind(
        "error",
        "The matrix is transposed: its cells are genes and its genes are cells.",
        "Transpose it, then convert.",
    ),
    "D044": Kind(
        "note",
        "Spike-ins (ERCC) among the genes.",
        "Nothing to do: they have no gene id and are dropped.",
    ),
    "D045": Kind(
        "note",
        "Features that are no genes: antibodies, guides, hashtags.",
        "Nothing to do: they are dropped.",
    ),
    "D046": Kind(
        "warning",
        "Every value is 0 or 1: expressed or not, instead of counts.",
        "Take the counts from before the values were made binary.",
    ),
    "D047": Kind(
        "warning",
        "Every cell has the same total: rounded after normalisation, or downsampled.",
        "Take the counts from before, unless the cells were downsampled on purpose.",
    ),
    "D048": Kind(
        "warning",
        "Every count is a multiple of the same number: counts were multiplied or added twice.",
        "Take the counts from before.",
    ),
    "D049": Kind(
        "warning",
        "One source is named twice: its cells will be in the store twice.",
        "Name it once.",
    ),
    "D050": Kind(
        "note",
        "Cells of different files share names (barcodes).",
        "Nothing to do: the column scmf_source of obs tells them apart.",
    ),
    "D051": Kind(
        "warning",
        "Cells without a name in obs.",
        "Name them if you look cells up by name; conversion keeps all of them.",
    ),
    "D052": Kind(
        "note",
        "Gene ids carry versions (ENSG00000141510.16).",
        "Nothing to do: versions are stripped.",
    ),
    "D053": Kind(
        "note",
        "Genes of a species that no shipped vocabulary knows.",
        "Compute a vocabulary from the store: `scmf-store vocabulary`; for genes of mouse also `--orthologs human`.",
    ),
    "D054": Kind(
        "error",
        "Several layers hold counts (spliced and unspliced, for example), and nothing tells which to take.",
        "Name one with `--counts`; where the counts are their sum, write the sum to X first.",
    ),
    "D060": Kind(
        "error",
        "A table of ready tokens where counts are asked for.",
        "Convert it by itself, to a store of sequences: `scmf-store convert FILE --vocabulary NAME --dest DIR`.",
    ),
    "D061": Kind(
        "error",
        "Nothing tells whether the rows of a table are cells or genes.",
        "Say where the cells are: `--cells-in rows` or `--cells-in columns`.",
    ),
    "D062": Kind(
        "error",
        "Several matrices in one folder.",
        "Name one of them.",
    ),
    "D063": Kind(
        "error",
        "A BioNeMo SCDL folder whose parts do not fit together, as its known faults leave it.",
        "Make the folder again from its h5ad files, or convert those files.",
    ),
    "D064": Kind(
        "error",
        "A TileDB-SOMA experiment, and the package that reads it is not installed.",
        "`pip install 'scmf-data[soma]'`",
    ),
    "D065": Kind(
        "error",
        "An array that `--obsm` names is missing, or does not fit the cells.",
        "Name one of the arrays that the message lists, or leave out `--obsm`.",
    ),
    "D066": Kind(
        "error",
        "Text that is not valid UTF-8.",
        "Convert it from the encoding that it has: `iconv -f LATIN1 -t UTF-8 FILE`.",
    ),
    "D067": Kind("error", "Text without a character.", "Leave the file out."),
    "D068": Kind(
        "error",
        "A table of ready tokens that does not fit its vocabulary, or whose rows are padded, hidden or damaged.",
        "Name the vocabulary that made the ids: `--vocabulary`; write the rows as they are, without padding.",
    ),
    "D069": Kind(
        "error",
        "Sources of several kinds: text, tables of ready tokens, counts of cells.",
        "Make a store of each kind.",
    ),
}
"""Number: severity, what it means, and what mends it in general."""
