"""What is written can be read back, and what cannot be written leaves everything as it was."""

from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from unveil.data.read import Rows, read
from unveil.data.write import TABLE_SUFFIXES, replacing, require_suffix, write, write_rows
from unveil.errors import InputError

FRAMES = (".csv", ".parquet", ".feather")
COLUMNS = {
    "weight": np.array([0.1 + 0.2, np.nan, 1e-300]),
    "age": np.array([3, 1, 2]),
    "alive": np.array([True, False, True]),
    "arm": np.array(["a", "", 'say "b", c']),
}
TABLE = Rows(
    np.array([[0.1 + 0.2, 3.0], [np.nan, -1.0], [1e-300, 2.0]]),
    names=("weight", "age"),
    labels={"arm": np.array(["a", "", "é, 'b'"]), "fold": np.array([2, 0, 1])},
)


def assert_same(found: Rows, expected: Rows) -> None:
    np.testing.assert_array_equal(found.values, expected.values)
    assert found.names == expected.names
    assert list(found.labels) == list(expected.labels)
    for name, label in expected.labels.items():
        assert found.labels[name].tolist() == label.tolist()


# Tables


@pytest.mark.parametrize("suffix", FRAMES)
def test_columns_come_back_in_their_order(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"table{suffix}"
    write(path, COLUMNS)
    rows = read(path, label=["arm"])
    assert rows.names == ("weight", "age", "alive")
    expected = np.column_stack([COLUMNS[name].astype(float) for name in rows.names])
    np.testing.assert_array_equal(rows.values, expected)
    assert rows.labels["arm"].tolist() == COLUMNS["arm"].tolist()


def test_an_archive_holds_every_column(tmp_path: Path) -> None:
    path = tmp_path / "table.npz"
    columns = {**COLUMNS, "file": np.array([1, 2, 3])}  # np.savez has an argument of that name
    write(path, columns)
    with np.load(path, allow_pickle=False) as archive:
        assert archive.files == list(columns)
        for name, column in columns.items():
            assert archive[name].dtype == column.dtype
            np.testing.assert_array_equal(archive[name], column)


def test_an_array_holds_the_numbers_side_by_side(tmp_path: Path) -> None:
    path = tmp_path / "table.npy"
    write(path, {name: COLUMNS[name] for name in ("weight", "age", "alive")})
    array = np.load(path, allow_pickle=False)
    assert array.dtype == np.float64
    np.testing.assert_array_equal(array[:, 1:], [[3, 1], [1, 0], [2, 1]])


def test_a_suffix_may_be_in_capitals(tmp_path: Path) -> None:
    write(tmp_path / "TABLE.CSV", {"a": np.array([1, 2])})
    assert read(tmp_path / "TABLE.CSV").values.tolist() == [[1], [2]]


@pytest.mark.parametrize("suffix", FRAMES)
def test_gaps_in_an_only_column_keep_their_rows(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"one{suffix}"
    write(path, {"a": np.array([np.nan, 1.5, np.nan])})
    np.testing.assert_array_equal(read(path).values, [[np.nan], [1.5], [np.nan]])


def test_what_is_missing_is_an_empty_cell_or_a_null(tmp_path: Path) -> None:
    columns = {"a": np.array([np.nan, 2.0]), "b": np.array(["", "x"])}
    write(tmp_path / "gaps.csv", columns)
    write(tmp_path / "gaps.parquet", columns)
    assert (tmp_path / "gaps.csv").read_text().splitlines()[1:] == [",", '2,"x"']
    assert parquet.read_table(tmp_path / "gaps.parquet").to_pylist()[0] == {"a": None, "b": None}


# Rows


@pytest.mark.parametrize("suffix", FRAMES)
def test_a_table_comes_back_with_names_and_labels(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    write_rows(path, TABLE)
    assert_same(read(path, label=["arm", "fold"]), TABLE)


def test_whole_numbers_are_written_as_integers(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    write_rows(path, TABLE)
    types = [str(field.type) for field in parquet.read_schema(path)]
    assert types[:2] == ["double", "int64"]


def test_a_number_too_large_for_a_float_to_count_stays_a_float(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    write_rows(path, Rows(np.array([[1e300], [np.nan]]), names=("a",)))
    np.testing.assert_array_equal(read(path).values, [[1e300], [np.nan]])


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 3), (4, 2, 3, 1)])
def test_arrays_keep_their_shape_and_dtype(
    tmp_path: Path, dtype: type, shape: tuple[int, ...]
) -> None:
    values = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    for suffix in (".npy", ".npz"):
        path = tmp_path / f"rows{suffix}"
        write_rows(path, Rows(values))
        found = read(path).values
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, values)


def test_an_archive_of_rows_has_their_names_and_labels(tmp_path: Path) -> None:
    path = tmp_path / "rows.npz"
    write_rows(path, TABLE)
    np.testing.assert_array_equal(read(path).values, TABLE.values)
    with np.load(path, allow_pickle=False) as archive:
        assert archive["names"].tolist() == ["weight", "age"]
        assert archive["arm"].tolist() == TABLE.labels["arm"].tolist()


def test_a_label_called_y_comes_back_from_an_archive(tmp_path: Path) -> None:
    rows = Rows(np.zeros((2, 3, 3), np.uint8), labels={"y": np.array(["cat", "dog"])})
    write_rows(tmp_path / "rows.npz", rows)
    assert_same(read(tmp_path / "rows.npz"), rows)


@pytest.mark.parametrize("suffix", FRAMES)
def test_images_are_written_cell_by_cell(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"images{suffix}"
    values = np.arange(12.0).reshape(2, 2, 3)
    write_rows(path, Rows(values, labels={"digit": np.array([7, 1])}))
    rows = read(path, label=["digit"])
    assert rows.names[:4] == ("cell_0_0", "cell_0_1", "cell_0_2", "cell_1_0")
    assert rows.values.dtype == np.int64
    np.testing.assert_array_equal(rows.values, values.reshape(2, 6))
    assert rows.labels["digit"].tolist() == [7, 1]


def test_the_cells_of_an_image_are_of_one_type(tmp_path: Path) -> None:
    path = tmp_path / "images.parquet"
    write_rows(path, Rows(np.array([[[0.0, 0.5]], [[1.0, 0.25]]])))
    assert {str(field.type) for field in parquet.read_schema(path)} == {"double"}


@pytest.mark.parametrize("suffix", TABLE_SUFFIXES)
def test_the_same_rows_are_written_as_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    first, second = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    write_rows(first, TABLE)
    write_rows(second, TABLE)
    assert first.read_bytes() == second.read_bytes()


# What is refused, and what a failure leaves


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"a": np.zeros(2), "b": np.zeros(3)}, r"of one length .* 'a' \(2,\), 'b' \(3,\) came"),
        ({"a": np.zeros((2, 2))}, r"but those of shape 'a' \(2, 2\) came; give each one value a"),
        ({}, "expected columns of one length to write to .*, but those of shape none came"),
        ({"a": np.array([{}])}, "expected numbers or text .*, but column 'a' holds object; conv"),
        ({"a": np.array([1j])}, "but column 'a' holds complex128; convert it first"),
    ],
)
def test_columns_that_are_refused(
    tmp_path: Path, columns: dict[str, np.ndarray], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        write(tmp_path / "table.csv", columns)
    assert list(tmp_path.iterdir()) == []


def test_text_does_not_fit_into_an_array_of_numbers(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected numbers only, .* but arm came as text; write"):
        write(tmp_path / "table.npy", COLUMNS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".csv", ".npz"])
def test_a_label_called_like_the_data_is_refused(tmp_path: Path, suffix: str) -> None:
    rows = Rows(np.zeros((2, 1)), names=("x",), labels={"x": np.zeros(2)})
    with pytest.raises(InputError, match="names of their own, but x would also be written as data"):
        write_rows(tmp_path / f"rows{suffix}", rows)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("rows.xlsx", r"ends in one of \.csv, \.parquet, .*rows.xlsx came; choose one of these"),
        ("rows", r"ends in one of \.csv, .* but .*rows came"),
        ("folder.csv", "expected a file to write, but .*folder.csv is a folder; name a file in"),
        ("none/rows.csv", "a folder to write rows.csv into, but there is none at .*none; make it"),
    ],
)
def test_paths_that_are_refused(tmp_path: Path, name: str, sentence: str) -> None:
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InputError, match=sentence):
        require_suffix(tmp_path / name, TABLE_SUFFIXES)
    with pytest.raises(InputError, match=sentence):
        write(tmp_path / name, COLUMNS)
    with pytest.raises(InputError, match=sentence):
        write_rows(tmp_path / name, TABLE)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.csv"]


def test_a_bare_name_stands_in_the_folder_one_is_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("rows.csv"), {"a": np.array([1])})
    assert read("rows.csv").values.tolist() == [[1]]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_failed_write_leaves_the_old_file(tmp_path: Path, failure: type[BaseException]) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("old")
    with pytest.raises(failure), replacing(path) as file:
        file.write(b"new, but not wh")
        raise failure
    assert path.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]


def test_a_refused_table_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.npy"
    path.write_text("old")
    with pytest.raises(InputError):
        write(path, COLUMNS)
    assert path.read_text() == "old"
