"""Malformed inputs: values that are no counts, and sparse arrays that are not in order."""

from __future__ import annotations

import itertools

import h5py
import numpy as np
from scipy.sparse import csc_matrix, csr_matrix

from support import zoo
from support.malformed import h5ad, registry

ANIMALS = []
animal = registry(ANIMALS)


# Values that are no counts, and counts of which there are too many


@animal("D054")
def layers_of_rna_velocity(folder):
    cells = zoo.cells(csr_matrix(zoo.lognormal(zoo.counts())))
    cells.layers["spliced"], cells.layers["unspliced"] = csr_matrix(zoo.counts()), csr_matrix(zoo.counts(seed=2))
    return zoo.write(folder / "a.h5ad", cells)


@animal("D006")
def scaled_and_centred(folder):
    x = zoo.lognormal(zoo.counts())
    return h5ad(folder, ((x - x.mean(axis=0)) / x.std(axis=0)).astype(np.float32))


@animal("D006")
def one_negative_count_in_a_sparse_matrix(folder):
    x = zoo.counts()
    x[17, 3] = -2
    return h5ad(folder, csr_matrix(x))


@animal("D006")
def negative_count_in_loom(folder):
    x = zoo.counts()
    x[17, 3] = -2
    return zoo.write_loom(folder / "a.loom", x)


@animal("D007")
def not_a_number(folder):
    x = zoo.counts()
    x[20, 5] = np.nan
    return h5ad(folder, x)


@animal("D007")
def infinite(folder):
    x = zoo.counts()
    x[20, 5] = np.inf
    return h5ad(folder, csr_matrix(x))


@animal("D007")
def not_a_number_in_csc(folder):
    x = zoo.counts()
    x[20, 5] = np.nan
    return h5ad(folder, csc_matrix(x))


@animal("D007")
def missing_value_in_csv(folder):
    x = zoo.counts()
    x[20, 5] = np.nan
    return zoo.write_csv(folder / "a.csv", x)


@animal("D008")
def square_roots(folder):
    return h5ad(folder, np.sqrt(zoo.counts()))


@animal("D018")
def log1p_of_counts(folder):
    return h5ad(folder, csr_matrix(np.log1p(zoo.counts())))


@animal("D018")
def log2_of_counts(folder):
    return h5ad(folder, np.log2(1 + zoo.counts()))


@animal("D018")
def log10_of_counts_in_csc(folder):
    return h5ad(folder, csc_matrix(np.log10(1 + zoo.counts())))


@animal("D019")
def counts_per_ten_thousand(folder):
    return h5ad(folder, csr_matrix(zoo.scaled(zoo.counts())))


@animal("D019")
def counts_per_million_of_some_genes(folder):
    return h5ad(folder, csr_matrix(zoo.scaled(zoo.counts(n_genes=80), 1e6)[:, :60]))


@animal("D019")
def transcripts_per_million(folder):
    lengths = np.random.default_rng(5).lognormal(7, 0.7, 60)
    return h5ad(folder, zoo.scaled(zoo.counts() / lengths, 1e6))


@animal("D019")
def counts_per_million_in_loom(folder):
    return zoo.write_loom(folder / "a.loom", zoo.scaled(zoo.counts(), 1e6))


@animal("D020")
def scanpy_log_normal(folder):
    return h5ad(folder, csr_matrix(zoo.lognormal(zoo.counts())))


@animal("D020")
def log2_of_counts_per_million(folder):
    return h5ad(folder, np.log2(1 + zoo.scaled(zoo.counts(), 1e6)))


@animal("D020")
def log_normal_of_some_genes_in_zarr(folder):
    x = zoo.lognormal(zoo.counts(n_genes=80))[:, :60]
    return zoo.write(folder / "a.zarr", zoo.cells(csr_matrix(x)))


@animal("D020")
def log_normal_in_mtx(folder):
    return zoo.write_mtx(folder / "m", zoo.lognormal(zoo.counts()))


@animal("D020")
def log_normal_in_csv(folder):
    return zoo.write_csv(folder / "a.csv", zoo.lognormal(zoo.counts()))


@animal("D020")
def log_normal_in_10x_h5(folder):
    return zoo.write_tenx_h5(folder / "a.h5", zoo.lognormal(zoo.counts()))


@animal("D021")
def ambient_rna_removed(folder):
    return h5ad(folder, csr_matrix(zoo.ambient_removed(zoo.counts())))


@animal("D021")
def expected_counts_of_multimapping_reads(folder):
    x, rng = zoo.counts(), np.random.default_rng(6)
    return h5ad(folder, np.where(rng.random(x.shape) < 0.2, x * rng.random(x.shape), x).astype(np.float32))


@animal("D022")
def float_noise(folder):
    return h5ad(folder, zoo.counts().astype(np.float64) + 1e-11)


@animal("D009")
def scaled_x_and_log_normal_raw(folder):
    x = zoo.lognormal(zoo.counts())
    cells = zoo.cells(csr_matrix(x))
    cells.raw = cells
    cells.X = x - x.mean(axis=0)
    return zoo.write(folder / "a.h5ad", cells)


@animal("D014")
def count_beyond_32_bits(folder):
    x = zoo.counts().astype(np.float64)
    x[3, 4] = 5e9
    return h5ad(folder, x)


@animal("D017")
def counts_in_a_layer(folder):
    cells = zoo.cells(csr_matrix(zoo.lognormal(zoo.counts())))
    cells.layers["counts"] = csr_matrix(zoo.counts())
    return zoo.write(folder / "a.h5ad", cells)


@animal("D017")
def counts_in_raw(folder):
    cells = zoo.cells()
    cells.raw = cells
    cells.X = csr_matrix(zoo.lognormal(zoo.counts()))
    return zoo.write(folder / "a.zarr", cells)


# Sparse arrays


@animal("D015")
def gene_index_beyond_the_genes(folder):
    path = h5ad(folder)
    _, indices, _ = zoo.sparse_parts(path)
    indices[100] = 60
    return zoo.change(path, X__indices=indices)


@animal("D015")
def negative_gene_index(folder):
    path = h5ad(folder)
    _, indices, _ = zoo.sparse_parts(path)
    indices[100] = -1
    return zoo.change(path, X__indices=indices)


@animal("D015")
def cell_index_beyond_the_cells_in_csc(folder):
    path = h5ad(folder, csc_matrix(zoo.counts()))
    _, indices, _ = zoo.sparse_parts(path)
    indices[100] = 40
    return zoo.change(path, X__indices=indices)


@animal("D015")
def indptr_that_falls(folder):
    path = h5ad(folder)
    _, _, indptr = zoo.sparse_parts(path)
    indptr[5] = indptr[7]
    return zoo.change(path, X__indptr=indptr)


@animal("D015")
def indptr_beyond_the_values(folder):
    path = h5ad(folder)
    _, _, indptr = zoo.sparse_parts(path)
    indptr[-1] += 10
    return zoo.change(path, X__indptr=indptr)


@animal("D015")
def fewer_indices_than_values(folder):
    path = h5ad(folder)
    _, indices, _ = zoo.sparse_parts(path)
    return zoo.change(path, X__indices=indices[:-1])


@animal("D015")
def gene_index_beyond_the_genes_in_10x_h5(folder):
    path = zoo.write_tenx_h5(folder / "a.h5", zoo.counts())
    with h5py.File(path, "r+") as file:
        file["matrix/indices"][5] = 60
    return path


@animal("D038")
def unsorted_genes(folder):
    path = h5ad(folder)
    data, indices, indptr = zoo.sparse_parts(path)
    for a, b in itertools.pairwise(indptr):
        indices[a:b], data[a:b] = indices[a:b][::-1].copy(), data[a:b][::-1].copy()
    return zoo.change(path, X__indices=indices, X__data=data)


@animal("D039")
def a_gene_twice_in_a_cell(folder):
    path = h5ad(folder)
    _, indices, _ = zoo.sparse_parts(path)
    indices[1] = indices[0]
    return zoo.change(path, X__indices=indices)


@animal("D040")
def explicit_zeros(folder):
    path = h5ad(folder)
    data, _, _ = zoo.sparse_parts(path)
    data[::7] = 0
    return zoo.change(path, X__data=data)


@animal("D041")
def half_floats(folder):
    x = zoo.counts() * 300
    x[0, 0] = 2_047
    return zoo.change(h5ad(folder, x), X=(x + (x > 0)).astype(np.float16))


@animal("D042")
def bytes_that_overflowed(folder):
    return h5ad(folder, np.minimum(zoo.counts() * 37 + 1, 255).astype(np.uint8))
