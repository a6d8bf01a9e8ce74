"""Malformed inputs: cells and genes that are not what they are called, and several sources."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from support import zoo
from support.malformed import h5ad, registry

ANIMALS = []
animal = registry(ANIMALS)


# Cells


@animal("D023")
def empty_cells(folder):
    x = zoo.counts()
    x[[3, 9]] = 0
    return h5ad(folder, csr_matrix(x))


@animal("D023")
def empty_cells_in_mtx(folder):
    x = zoo.counts()
    x[[3, 9]] = 0
    return zoo.write_mtx(folder / "m", x)


@animal("D024")
def cells_with_three_genes(folder):
    x = zoo.counts()
    x[[3, 9], 3:] = 0
    return h5ad(folder, csr_matrix(x))


@animal("D025")
def unfiltered_droplets(folder):
    x = zoo.counts(60, 1_200)
    x[20:, 2:] = 0
    return h5ad(folder, csr_matrix(x))


@animal("D027")
def a_barcode_twice(folder):
    names = zoo.barcodes()
    names[30] = names[2]
    return h5ad(folder, obs=pd.DataFrame(index=names))


@animal("D051")
def a_cell_without_a_name(folder):
    names = zoo.barcodes()
    names[30] = ""
    return h5ad(folder, obs=pd.DataFrame(index=names))


@animal("D046")
def zero_or_one(folder):
    return h5ad(folder, csr_matrix((zoo.counts() > 0).astype(np.float32)))


@animal("D047")
def downsampled_to_one_total(folder):
    x, rng = zoo.counts(), np.random.default_rng(8)
    return h5ad(
        folder,
        np.stack([rng.multinomial(500, row.astype(np.float64) / row.sum(dtype=np.float64)) for row in x]).astype(
            np.float32
        ),
    )


@animal("D048")
def counts_added_twice(folder):
    return h5ad(folder, csr_matrix(zoo.counts() * 2))


# Genes


@animal("D010")
def unmapped_symbols(folder):
    return h5ad(folder, ids=zoo.genes()[1], symbols=False)


@animal("D030")
def symbols_in_csv(folder):
    return zoo.write_csv(folder / "a.csv", zoo.counts(), ids=zoo.genes()[1])


@animal("D030")
def symbols_in_loom(folder):
    return zoo.write_loom(folder / "a.loom", zoo.counts(), ids=zoo.genes()[1])


@animal("D031")
def entrez_numbers(folder):
    numbers = np.random.default_rng(9).permutation(9_000)[:60] + 1
    return h5ad(folder, ids=[str(n) for n in numbers], symbols=False)


@animal("D032")
def transcript_ids(folder):
    return h5ad(folder, ids=[f"{gene.replace('ENSG', 'ENST')}.2" for gene in zoo.genes()[0]], symbols=False)


@animal("D032")
def refseq_transcripts(folder):
    return h5ad(folder, ids=[f"NM_{1_000 + 7 * k:06d}.3" for k in range(60)], symbols=False)


@animal("D033")
def affymetrix_probes(folder):
    return h5ad(folder, ids=[f"{2_000 + 3 * k}_s_at" for k in range(60)], symbols=False)


@animal("D033")
def probes_of_a_10x_panel(folder):
    ids, symbols = zoo.genes()
    names = [f"{i}|{s}|{k:07x}" for k, (i, s) in enumerate(zip(ids, symbols, strict=True))]
    return h5ad(folder, ids=names, symbols=False)


@animal("D034")
def row_numbers(folder):
    return h5ad(folder, ids=[str(k) for k in range(60)], symbols=False)


@animal("D034")
def numbered_genes(folder):
    return h5ad(folder, ids=[f"gene_{k}" for k in range(60)], symbols=False)


@animal("D035")
def symbols_that_a_spreadsheet_made_dates(folder):
    symbols = list(zoo.genes()[1])
    symbols[4:6] = ["1-Mar", "2-Sep"]
    return h5ad(folder, ids=symbols, symbols=False)


@animal("D035")
def riken_symbol_that_a_spreadsheet_made_a_number(folder):
    symbols = list(zoo.genes()[1])
    symbols[4] = "2.31E+13"
    return h5ad(folder, ids=symbols, symbols=False)


@animal("D036")
def two_genomes_with_prefixes(folder):
    human, mouse = zoo.genes("human", 30)[0], zoo.genes("mouse", 30)[0]
    return h5ad(folder, ids=[*(f"GRCh38_{i}" for i in human), *(f"mm10___{i}" for i in mouse)], symbols=False)


@animal("D011", column="ensembl")
def column_that_is_not_there(folder):
    return h5ad(folder)


@animal("D011", column="length")
def column_of_numbers(folder):
    cells = zoo.cells()
    cells.var["length"] = np.arange(60)
    return zoo.write(folder / "a.h5ad", cells)


@animal("D012", species="mouse")
def mouse_wanted_of_human_cells(folder):
    return h5ad(folder)


@animal("D013")
def two_species_in_one_file(folder):
    return h5ad(folder, ids=[*zoo.genes("human", 30)[0], *zoo.genes("mouse", 30)[0]], symbols=False)


@animal("D013")
def two_species_in_two_files(folder):
    human = h5ad(folder)
    mouse = zoo.write(folder / "b.h5ad", zoo.cells(ids=zoo.genes("mouse")[0], symbols=False))
    return human, mouse


@animal("D026")
def a_gene_id_twice(folder):
    ids = list(zoo.genes()[0])
    ids[40] = ids[1]
    return h5ad(folder, ids=ids)


@animal("D028")
def genes_without_counts(folder):
    x = zoo.counts()
    x[:, 30:] = 0
    return h5ad(folder, csr_matrix(x))


@animal("D029")
def a_third_of_the_genes_without_an_id(folder):
    ids, symbols = zoo.genes()
    return h5ad(folder, ids=[*ids[:40], *symbols[40:]])


@animal("D037")
def genes_that_no_vocabulary_knows(folder):
    return h5ad(folder, ids=[f"ENSG{99_000_000_000 + k:011d}" for k in range(60)], symbols=False)


@animal("D053")
def fish(folder):
    return h5ad(folder, ids=[f"ENSDARG{k:011d}" for k in range(60)], symbols=False)


@animal("D043")
def genes_for_cells(folder):
    cells = zoo.cells().T
    return zoo.write(folder / "a.h5ad", cells)


@animal("D043")
def barcodes_for_genes(folder):
    cells = zoo.cells(ids=zoo.genes()[1], symbols=False).T
    return zoo.write(folder / "a.h5ad", cells)


@animal("D044")
def spike_ins(folder):
    return h5ad(folder, ids=[*zoo.genes()[0][:55], *(f"ERCC-{k:05d}" for k in range(2, 7))])


@animal("D045")
def antibodies(folder):
    return zoo.write_tenx_h5(folder / "a.h5", zoo.counts(), antibodies=5)


@animal("D052")
def versioned_ids(folder):
    return h5ad(folder, ids=[f"{gene}.{k % 9 + 1}" for k, gene in enumerate(zoo.genes()[0])])


# Several sources


@animal("D049")
def one_file_twice(folder):
    path = h5ad(folder)
    return path, path.parent / "." / path.name


@animal("D050")
def barcodes_in_two_files(folder):
    return h5ad(folder), zoo.write(folder / "b.h5ad", zoo.cells())
