"""Covariates ride beside their rows, become numbers as training rows say, and never a gap."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from unveil.data.covariates import Amount, Class, Covariates, infer_covariates
from unveil.data.encode import digests
from unveil.data.read import Rows, read, read_again
from unveil.data.write import write_rows
from unveil.errors import InputError

FRAME = pl.DataFrame(
    {
        "x": [0.5 * i for i in range(12)],
        "site": ["Bern", "Oslo", "Rome"] * 4,
        "age": [20.5 + i for i in range(12)],
        "treated": [True, False] * 6,
        "grade": [1, 2, 3, 3] * 3,
        "year": list(range(2000, 2012)),
    }
)
GIVEN = ["site", "age", "treated", "grade", "year"]
ROWS = read(FRAME, given=GIVEN)
COVARIATES = infer_covariates(ROWS)


def with_given(**given: list[Any]) -> Rows:
    cells = {name: np.array(values) for name, values in given.items()}
    size = len(next(iter(cells.values())))
    return Rows(np.zeros((size, 1)), names=("x",), given=cells)


# Beside their rows


def test_covariates_are_columns_apart() -> None:
    assert (ROWS.names, list(ROWS.given), ROWS.labels) == (("x",), GIVEN, {})
    assert ROWS.given["site"][:3].tolist() == ["Bern", "Oslo", "Rome"]
    assert ROWS.take([2, 0]).given["age"].tolist() == [22.5, 20.5]


def test_a_covariate_may_be_a_label_too() -> None:
    both = read(FRAME.select("x", "site"), label=["site"], given=["site"])
    assert (list(both.labels), list(both.given)) == (["site"], ["site"])
    alone = read("iris", given=["target"])
    assert (list(alone.labels), list(alone.given)) == ([], ["target"])


def test_rows_that_were_read_keep_their_covariates() -> None:
    assert read(ROWS).given == ROWS.given
    assert list(read_again(ROWS, given=["site"]).given) == ["site"]
    assert list(read_again(FRAME, label=["gone"], drop=["age"], given=["site"]).given) == ["site"]


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".feather"])
def test_covariates_are_written_beside_their_rows(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    write_rows(path, ROWS)
    again = read(path, given=GIVEN)
    for name in GIVEN:
        assert again.given[name].tolist() == ROWS.given[name].tolist()


def test_unknown_and_forgotten_covariates_are_refused() -> None:
    with pytest.raises(InputError, match=r"expected 'z' to be a column .*; add the covariate, or"):
        read(FRAME.drop("site"), given=["z"])
    with pytest.raises(InputError, match=r"expected 'z' to be a column .*; add the covariate, or"):
        read_again(FRAME.drop("site"), given=["z"])
    with pytest.raises(InputError, match="but site came in --given and --drop; leave it out of"):
        read(FRAME, given=["site"], drop=["site"])


# As numbers


def test_classes_and_amounts_are_told_apart() -> None:
    kinds = {column.name: type(column) for column in COVARIATES.columns}
    assert kinds == {"site": Class, "age": Amount, "treated": Class, "grade": Class, "year": Amount}
    assert COVARIATES.names == tuple(GIVEN)
    assert COVARIATES.inputs == (
        "site=Bern", "site=Oslo", "site=Rome", "age", "treated=0", "treated=1",
        "grade=1", "grade=2", "grade=3", "year",
    )  # fmt: skip


def test_encoded_covariates() -> None:
    c = COVARIATES.encode(ROWS)
    assert (c.dtype, c.shape) == (np.float32, (12, 10))
    np.testing.assert_array_equal(c[1, :3], [0, 1, 0])
    np.testing.assert_array_equal(c[:2, 4:6], [[0, 1], [1, 0]])
    np.testing.assert_array_equal(c[:4, 6:9], np.eye(3)[[0, 1, 2, 2]])
    np.testing.assert_allclose(c[:, [3, 9]].mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(c[:, [3, 9]].std(axis=0), 1, atol=1e-6)
    np.testing.assert_array_equal(COVARIATES.encode(ROWS.take([5, 1])), c[[5, 1]])


def test_a_number_and_its_digits_are_one_category() -> None:
    covariates = infer_covariates(with_given(arm=["1", "2", "A", "2"]))
    np.testing.assert_array_equal(covariates.encode(with_given(arm=[2, 1])), np.eye(3)[[1, 0]])


def test_no_covariates_are_no_numbers() -> None:
    none = infer_covariates(Rows(np.eye(3)))
    assert (none.names, none.inputs, none.encode(Rows(np.eye(3))).shape) == ((), (), (3, 0))


def test_covariates_survive_a_file() -> None:
    text = json.dumps(COVARIATES.to_document(), allow_nan=False)
    assert Covariates.from_document(json.loads(text)) == COVARIATES


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ({}, r"expected a list of covariates, but \{\} came"),
        ([7], "expected an object with 'name' in the schema, but 7 came"),
        ([{"name": "a"}], "expected an object with 'shift'"),
        (
            [{"name": "a", "categories": [1, "b"]}],
            "'categories' in the schema to be finite numbers",
        ),
    ],
)
def test_documents_that_are_refused(document: object, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        Covariates.from_document(document)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"site": ["Bern", "Paris"]}, "one of Bern, Oslo, Rome, but row 1 .* holds 'Paris', which"),
        ({"site": ["", "Bern"]}, r"covariate 'site' in every row, but row 0 \(counted from 0\) of"),
        ({"age": [1.0, np.nan]}, "covariate 'age' in every row, but row 1 .* has none; fill it in"),
        ({"age": ["1.5", "old"]}, "expected numbers for covariate 'age', but the data holds text"),
        ({"age": [1.0, np.inf]}, "finite numbers for covariate 'age', but row 1 .* holds inf"),
        ({"grade": [1, 4]}, r"'grade' to be one of 1, 2, 3, but row 1 .* holds '4', which the"),
        ({"treated": []}, "the covariate 'site' that the model .* lacks it; add the column"),
    ],
)
def test_covariates_that_cannot_be_encoded(given: dict[str, list[Any]], sentence: str) -> None:
    usual = ROWS.take(slice(0, 2)).given if next(iter(given.values())) else {}
    cells = {name: np.array(values) for name, values in given.items()}
    with pytest.raises(InputError, match=sentence):
        COVARIATES.encode(Rows(np.zeros((2, 1)), given={**usual, **cells}))


@pytest.mark.parametrize(
    ("cells", "sentence"),
    [
        (["a", "", "b"], "a value of covariate 'c' in every row, but row 1"),
        (
            ["a", "a", "a"],
            "covariate 'c' to vary, but every row holds 'a'; leave it out of --given",
        ),
        ([2.5, 2.5, 2.5], "covariate 'c' to vary, but every row holds '2.5'; leave it out"),
        (
            [str(i) for i in range(1001)],
            "at most 1000 categories of covariate 'c', but it has 1001",
        ),
    ],
)
def test_covariates_that_say_nothing(cells: list[Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        infer_covariates(with_given(c=cells))


# Which row is which


def test_rows_of_other_covariates_are_other_rows() -> None:
    x = np.array([[1.0, 2.0]] * 3)
    keys = digests(x, np.array([[0.0], [1.0], [-0.0]], np.float32))
    assert (keys[0] == keys[2]).all()
    assert (keys[0] != keys[1]).any()
    assert (keys[0] != digests(x)[0]).any()
    np.testing.assert_array_equal(digests(x, np.empty((3, 0))), digests(x))


def test_a_cell_is_not_taken_for_a_covariate() -> None:
    cells, beside = digests(np.array([[1.0, 2.0]])), digests(np.array([[1.0]]), np.array([[2.0]]))
    assert (cells != beside).any()
