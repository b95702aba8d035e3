"""Sparse counts are the counts of the dense matrix, whatever is asked, and are never made dense."""

import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse

from unveil import feed
from unveil.data.admit import fits
from unveil.data.covariates import Covariates, Exposure, Total, infer_covariates
from unveil.data.edited import obeyed
from unveil.data.encode import digests, encode, split
from unveil.data.infer import infer
from unveil.data.read import MOST_DENSE_CELLS, Rows, read
from unveil.data.reread import reread
from unveil.data.sparse import SparseCounts
from unveil.data.stream import Mapped, Stored
from unveil.errors import InputError
from unveil.feed import to_source
from unveil.noise import generator

RNG = np.random.default_rng(0)
DENSE = RNG.negative_binomial(0.4, 0.1, size=(60, 30)) * (RNG.random((60, 30)) < 0.4)
DENSE[:, 4] = 0
FORMS: tuple[Callable[..., Any], ...] = (
    sparse.csr_array, sparse.csc_array, sparse.coo_array, sparse.csr_matrix, sparse.csc_matrix,
)  # fmt: skip


def dense_rows() -> Rows:
    return Rows(DENSE.astype(np.float64), names=read(sparse.csr_array(DENSE)).names)


# The same matrix


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint16, np.int64])
def test_every_sparse_matrix_holds_the_counts_of_the_dense_one(form: Any, dtype: Any) -> None:
    rows = read(form(DENSE.astype(dtype)))
    assert isinstance(rows.values, SparseCounts)
    assert rows.names[:2] == ("x0", "x1")
    assert (rows.values.shape, rows.values.dtype) == ((60, 30), np.int32)
    np.testing.assert_array_equal(rows.dense, DENSE)


@pytest.mark.parametrize(
    "index", [slice(3, 9), np.array([5, 5, 0]), [7], np.arange(60) % 7 == 2, slice(None, None, -1)]
)
def test_parts_of_it_are_the_parts_of_the_dense_one(index: Any) -> None:
    counts = read(sparse.csc_array(DENSE)).values
    part = counts[index]
    assert isinstance(part, SparseCounts)
    np.testing.assert_array_equal(np.asarray(part), DENSE[index])
    np.testing.assert_array_equal(np.asarray(counts[index, 3:9]), DENSE[index, 3:9])
    np.testing.assert_array_equal(np.asarray(part[:, [8, 2]]), DENSE[index][:, [8, 2]])
    np.testing.assert_array_equal(part[:, 7], DENSE[index][:, 7])
    np.testing.assert_array_equal(part.sum(axis=1, dtype=np.float64), DENSE[index].sum(1))
    for column, expected in zip(part.T, DENSE[index].T, strict=True):
        np.testing.assert_array_equal(column, expected)


def test_a_zero_that_is_written_out_is_a_count_and_no_gap() -> None:
    written = sparse.csr_array(DENSE)
    written.data[::3] = 0
    plain = sparse.csr_array(written.toarray())
    assert written.nnz > plain.nnz
    one, other = (read(matrix) for matrix in (written, plain))
    assert infer(one) == infer(other) and not infer(one).gaps
    np.testing.assert_array_equal(digests(one.values), digests(other.values))
    np.testing.assert_array_equal(encode(infer(one), one), encode(infer(other), other))


def test_cells_that_are_written_twice_are_added() -> None:
    twice = sparse.coo_array(([1, 2, 4], ([0, 0, 1], [1, 1, 0])), shape=(2, 2))
    np.testing.assert_array_equal(read(twice).dense, [[0, 3], [4, 0]])
    assert twice.nnz == 3  # what came is left as it was


def test_digests_split_and_model_units_are_bitwise_those_of_the_dense_matrix() -> None:
    rows, dense = read(sparse.csr_array(DENSE)), dense_rows()
    keys = digests(rows.values)
    np.testing.assert_array_equal(keys, digests(dense.values))
    for one, other in zip(split(keys, 0.3, 7), split(digests(dense.values), 0.3, 7), strict=True):
        np.testing.assert_array_equal(one, other)
    schema = infer(rows)
    np.testing.assert_array_equal(encode(schema, rows), encode(schema, dense))
    for covariates in (infer_covariates(r, "total") for r in (rows, dense)):
        given = covariates.encode(rows)
        np.testing.assert_array_equal(given, covariates.encode(dense))
        np.testing.assert_allclose(given[:, 0] * covariates.usual["total"], DENSE.sum(1), rtol=1e-6)


def test_batches_of_a_sparse_matrix_are_those_of_the_dense_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows, index = read(sparse.csr_array(DENSE)), torch.tensor([2, 0, 2, 9])
    schema, positions = infer(rows), np.arange(59, 20, -1)
    resident = to_source(schema, rows, positions)
    monkeypatch.setattr(feed, "LARGEST_DENSE", 0.0)
    fetched = to_source(schema, rows, positions)
    assert isinstance(resident, Stored) and isinstance(fetched, Mapped)
    expected = torch.from_numpy(encode(schema, dense_rows()))[positions[index.numpy()].copy()]
    for source in (resident, fetched):
        assert torch.equal(source.batch(index, generator(0)), expected)


def test_columns_are_named_ordered_labelled_and_dropped_as_those_of_a_table() -> None:
    names = tuple(f"g{j}" for j in range(30))
    rows = Rows(read(sparse.csr_array(DENSE)).values, names=names)
    aside = read(rows, label=["g3"], drop=["g7"], given=["g9"])
    assert isinstance(aside.values, SparseCounts)
    assert [n for n in names if n not in aside.names] == ["g3", "g7", "g9"]
    np.testing.assert_array_equal(aside.labels["g3"], DENSE[:, 3])
    np.testing.assert_array_equal(aside.given["g9"], DENSE[:, 9])
    schema = infer(rows)
    shuffled = Rows(rows.values[:, ::-1], names=names[::-1])
    np.testing.assert_array_equal(fits(schema, shuffled).dense, DENSE)


# What its columns are


def test_every_column_that_varies_counts() -> None:
    kinds = [column.kind for column in infer(read(sparse.csr_array(DENSE))).columns]
    assert kinds[4] == "constant" and set(kinds[:4] + kinds[5:]) == {"count"}


def test_zeros_and_ones_are_binary_and_have_no_total() -> None:
    rows = read(sparse.csr_array(DENSE > 0))
    assert {column.kind for column in infer(rows).columns} == {"binary", "constant"}


def test_columns_are_read_as_the_schema_or_a_likelihood_says(tmp_path: Any) -> None:
    rows = read(sparse.csr_array(DENSE[:, :3]))
    told = [{"name": "x0", "kind": "real"}, {"name": "x1", "kind": "count"}]
    path = tmp_path / "schema.json"
    path.write_text(
        json.dumps({"format_version": 2, "columns": [*told, {"name": "x2", "kind": "aside"}]})
    )
    schema = obeyed(path, rows)
    assert [column.kind for column in schema.columns] == ["real", "count"]
    kept = fits(schema, rows)
    np.testing.assert_array_equal(kept.labels["x2"], DENSE[:, 2])
    assert encode(schema, kept)[:, 0].mean() == pytest.approx(0, abs=1e-6)
    assert reread(infer(rows), rows, "count") == infer(rows)


@pytest.mark.parametrize("change", [lambda x: x / 3, lambda x: -x])
def test_other_numbers_are_made_dense(change: Callable[[Any], Any]) -> None:
    matrix = change(sparse.csr_array(DENSE.astype(float)))
    rows = read(matrix)
    assert isinstance(rows.values, np.ndarray)
    np.testing.assert_array_equal(rows.values, matrix.toarray())


def test_a_constant_that_counts_in_a_new_row_is_refused() -> None:
    rows = read(sparse.csr_array(DENSE))
    new = DENSE.copy()
    new[8, 4] = 1
    with pytest.raises(InputError, match=r"one value 0 .* in column 'x4', but row 8 .* holds 1"):
        fits(infer(rows), read(sparse.csr_array(new)))


# Memory


def test_a_large_matrix_stays_sparse() -> None:
    """200 million cells, 20,000 of them above 0; the dense matrix would take 1.6 GB."""
    rng, shape = np.random.default_rng(1), (40_000, 5_000)
    at = tuple(rng.integers(0, most, 20_000) for most in shape)
    matrix = sparse.csr_array((rng.integers(1, 9, 20_000), at), shape=shape)
    tracemalloc.start()
    rows = read(matrix)
    schema = infer(rows)
    rows = fits(schema, rows)
    keys = digests(rows.take(slice(0, 1000)).values)
    train, held_out = split(keys, 0.1, 0)
    source = to_source(schema, rows, np.arange(0, len(rows), 2))
    batch = source.batch(torch.arange(64), generator(0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(source, Mapped) and len(train) > len(held_out)
    modelled = matrix[:128:2].toarray()[:, list(schema.modelled)]
    assert torch.equal(batch, torch.from_numpy(modelled).float())
    assert peak < 2**27  # a twelfth of the dense one


# Totals


def totals_of(values: Any, **given: Any) -> Covariates:
    return infer_covariates(Rows(values, given=given), "total")


def test_a_total_is_that_of_its_row_in_multiples_of_the_geometric_mean() -> None:
    covariates = totals_of(np.array([[1.0, 1.0], [3.0, 5.0]]))
    assert isinstance(covariates.columns[0], Total)
    assert covariates.usual == {"total": pytest.approx(4.0)}
    np.testing.assert_allclose(
        covariates.encode(Rows(np.array([[1, 0], [2, 10]])))[:, 0], [0.25, 3]
    )
    assert (covariates.exposure, covariates.brought) == (0, ())
    assert covariates.condition == "conditional on each row's total"
    assert Covariates.from_document(covariates.to_document()) == covariates


def test_a_covariate_called_total_wins() -> None:
    covariates = totals_of(np.eye(2), total=np.array([2.0, 8.0]))
    assert isinstance(covariates.columns[0], Exposure) and len(covariates.columns) == 1
    assert (covariates.brought, covariates.usual, covariates.condition) == (("total",), {}, "")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ([[1.0, 2.0], [0.0, 0.0]], r"every row to count something.*row 1 .* is 0; leave the row"),
        ([[1.0, 2.0], [np.nan, 1.0]], r"a count in every cell.* one of row 1 .* is missing; fill"),
        ([[1.0, -2.0], [1.0, 1.0]], r"every row to count something.*row 0 .* is -1; leave"),
    ],
)
def test_totals_that_cannot_be_get_a_sentence(values: list[list[float]], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        totals_of(np.array(values))


# What cannot be read


def test_a_gap_in_a_sparse_matrix_is_refused() -> None:
    holed = sparse.csr_array(DENSE.astype(float))
    place = 17
    holed.data[place] = np.nan
    row = int(np.searchsorted(holed.indptr, place, side="right")) - 1
    column = holed.indices[place]
    with pytest.raises(
        InputError, match=rf"column {column} of row {row} .* is missing; fill it in"
    ):
        read(holed)


def test_too_many_fractions_to_be_made_dense_are_refused() -> None:
    size = MOST_DENSE_CELLS // 1000
    large = sparse.csr_array(([0.5], ([0], [0])), shape=(size, 2000))
    with pytest.raises(InputError, match=r"expected counts in a sparse matrix .* before they were"):
        read(large)


def test_words_are_no_counts() -> None:
    with pytest.raises(InputError, match="expected an array of numbers"):
        read(sparse.csr_array(np.array([[1 + 2j, 0]])))
