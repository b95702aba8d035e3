"""Every way in gives the same rows, and every way to fail is one sentence."""

import gzip
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from pyarrow import feather, parquet

from unveil.data.admit import fits
from unveil.data.encode import decode, encode
from unveil.data.infer import infer
from unveil.data.read import Rows, read
from unveil.data.schema import Column
from unveil.errors import InputError

TABLE = {"a": [1, 2, None], "b": [0.5, 1.5, 2.5], "c": ["x", "y", None]}
NUMBERS = np.array([[1, 0.5], [2, 1.5], [np.nan, 2.5]])


def write_csv(path: Path) -> None:
    path.write_text("a,b,c\n1,0.5,x\n2,1.5,y\n,2.5,\n", encoding="utf-8")


def write_parquet(path: Path) -> None:
    parquet.write_table(pa.table(TABLE), path)


def write_feather(path: Path) -> None:
    feather.write_feather(pa.table(TABLE), path)


def idx(array: np.ndarray) -> bytes:
    """An IDX file of bytes, as the makers of MNIST defined it."""
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


# What is read


def test_words_are_places_among_their_own_in_the_order_of_the_alphabet() -> None:
    rows = read(pl.DataFrame(TABLE))
    assert (rows.types, rows.words) == (
        {"a": "integer", "b": "number", "c": "text"},
        {"c": ("x", "y")},
    )
    np.testing.assert_array_equal(rows.values[:, 2], [0, 1, np.nan])
    assert rows.beside("c").tolist() == ["x", "y", ""]


def test_a_csv_has_gaps_among_words_as_among_numbers(tmp_path: Path) -> None:
    path = tmp_path / "gaps.csv"
    path.write_text('n,w,d\n1,NA,2020-01-02\nNA,"NA",\n,b,2020-01-01\n', encoding="utf-8")
    rows = read(path)
    assert rows.types == {"n": "integer", "w": "text", "d": "date"}
    assert rows.beside("w").tolist() == ["", "NA", "b"]
    assert rows.beside("d").tolist() == ["2020-01-02", "", "2020-01-01"]


@pytest.mark.parametrize("form", ["numpy", "pandas", "polars", "pyarrow"])
def test_rows_know_what_they_came_as(form: str) -> None:
    table = {"a": [1.0, 2.0], "b": [3.0, 4.0]}
    sources = {"numpy": np.eye(2), "pandas": pd.DataFrame(table), "polars": pl.DataFrame(table),
               "pyarrow": pa.table(table)}  # fmt: skip
    rows = read(sources[form])
    assert rows.form == form
    assert (rows.frame is None) == (form == "numpy")
    assert rows.take([0]).frame is None


@pytest.mark.parametrize(
    ("name", "shape", "label"),
    [
        ("digits", (1797, 8, 8), "digit"),
        ("wine", (178, 13), "target"),
        ("breast_cancer", (569, 30), "target"),
        ("diabetes", (442, 10), "target"),
        ("iris", (150, 4), "target"),
    ],
)
def test_built_ins(name: str, shape: tuple[int, ...], label: str) -> None:
    rows = read(name)
    assert rows.values.shape == shape
    assert rows.labels[label].shape == shape[:1]
    assert rows.source == name


def test_digits_are_bytes_from_0_to_16() -> None:
    rows = read("digits")
    assert rows.values.dtype == np.uint8
    assert (rows.values.min(), rows.values.max(), rows.names) == (0, 16, ())


@pytest.mark.parametrize(
    ("suffix", "write"),
    [(".csv", write_csv), (".parquet", write_parquet), (".feather", write_feather)],
)
def test_files_of_tables(tmp_path: Path, suffix: str, write: Callable[[Path], None]) -> None:
    path = tmp_path / f"rows{suffix}"
    write(path)
    rows = read(path, label=["c"])
    np.testing.assert_array_equal(rows.values, NUMBERS)
    assert rows.names == ("a", "b")
    assert rows.labels["c"].tolist() == ["x", "y", ""]
    assert rows.source == str(path)


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame, pa.table])
def test_frames(frame: Callable[[Any], Any]) -> None:
    rows = read(frame(TABLE), label=["c"])
    np.testing.assert_array_equal(rows.values, NUMBERS)
    assert rows.names == ("a", "b")
    assert rows.labels["c"].tolist() == ["x", "y", ""]


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame, pa.table])
def test_booleans_become_0_and_1(frame: Callable[[Any], Any]) -> None:
    rows = read(frame({"a": [True, False], "b": [False, False]}))
    assert rows.values.dtype == np.uint8
    assert rows.values.tolist() == [[1, 0], [0, 0]]


def test_a_frame_of_one_dtype_keeps_it() -> None:
    rows = read(pd.DataFrame({"a": [1, 2], "b": [3, 4]}, dtype="int16"))
    assert rows.values.dtype == np.int16


def test_numbers_and_gaps_kept_as_objects_are_numbers() -> None:
    rows = read(pd.DataFrame({"a": [1, None, 2.5]}, dtype=object))
    np.testing.assert_array_equal(rows.values, [[1], [np.nan], [2.5]])


def test_digits_that_name_things_are_words(tmp_path: Path) -> None:
    path, far = tmp_path / "ids.csv", 10**20
    path.write_text(f"zip,id,n,large\n07803,{far + 7},0,1e20\n12345,,10,3\n00000,{far},-5,0.5\n")
    rows = read(path)
    assert [rows.type_of(name) for name in rows.names] == ["text", "text", "integer", "number"]
    assert rows.beside("zip").tolist() == ["07803", "12345", "00000"]
    assert rows.beside("id").tolist() == [str(far + 7), "", str(far)]
    assert read(path, label=["id"]).labels["id"].tolist() == [str(far + 7), "", str(far)]


def test_a_csv_column_may_turn_from_integers_to_decimals_late(tmp_path: Path) -> None:
    path = tmp_path / "late.csv"
    path.write_text("a,b\n" + "100000,200000\n" * 100_000 + "0.5,\n", encoding="utf-8")
    assert read(path).values[-1, 0] == 0.5


def test_a_csv_header_may_be_numbers_in_order(tmp_path: Path) -> None:
    path = tmp_path / "spectrum.csv"
    path.write_text("400,410.5,420,430,440\n1,2,3,4,5\n", encoding="utf-8")
    assert read(path).names == ("400", "410.5", "420", "430", "440")


@pytest.mark.parametrize(
    ("array", "names"),
    [
        (np.zeros((2, 3), np.uint8), ()),
        (np.zeros((2, 3), bool), ()),
        (np.zeros((2, 3)), ("x0", "x1", "x2")),
        (np.zeros((2, 3), np.int64), ("x0", "x1", "x2")),
        (np.zeros((2, 3, 3), np.float32), ()),
        (np.zeros((2, 3, 3, 1), np.uint16), ()),
    ],
)
def test_arrays(array: np.ndarray, names: tuple[str, ...]) -> None:
    rows = read(array)
    assert rows.names == names
    assert rows.values.dtype == (np.uint8 if array.dtype == bool else array.dtype)
    assert rows.event_shape == array.shape[1:]


def test_tensors_are_arrays() -> None:
    tensor = torch.arange(6.0, requires_grad=True).reshape(3, 2)
    np.testing.assert_array_equal(read(tensor).values, [[0, 1], [2, 3], [4, 5]])


def test_masked_cells_are_missing() -> None:
    masked = np.ma.masked_array([[1, 2], [3, 4]], [[False, True], [False, False]])
    np.testing.assert_array_equal(read(masked).values, [[1, np.nan], [3, 4]])


def test_byte_order_is_forgotten() -> None:
    assert read(np.array([[1, 2]], ">i4")).values.dtype == np.int32


def test_npy(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.eye(3))
    np.testing.assert_array_equal(read(tmp_path / "a.npy").values, np.eye(3))


def test_npz(tmp_path: Path) -> None:
    x, y, path = np.eye(3), np.array([2, 0, 1]), tmp_path / "a.npz"
    np.savez(path, whatever=x)
    np.testing.assert_array_equal(read(path).values, x)
    np.savez(path, X=x, y=y, more=y)
    np.testing.assert_array_equal(read(path).labels["y"], y)
    np.savez(path, X=x, y=y[:2])
    assert read(path).labels == {}
    np.savez(path, a=x, b=2 * x)
    np.testing.assert_array_equal(read(f"{path}:b").values, 2 * x)


@pytest.mark.parametrize("name", ["images-idx3-ubyte", "images-idx3-ubyte.gz"])
def test_idx(tmp_path: Path, name: str) -> None:
    images = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    path = tmp_path / name
    path.write_bytes(gzip.compress(idx(images)) if path.suffix == ".gz" else idx(images))
    rows = read(path)
    np.testing.assert_array_equal(rows.values, images)
    assert rows.values.dtype == np.uint8


def test_rows_pass_as_they_are() -> None:
    rows = read("iris")
    assert read(rows) is rows


def test_labels_and_drops_of_rows_and_arrays() -> None:
    rows = read(read("iris"), label=["petal width (cm)"], drop=["target", "sepal width (cm)"])
    assert rows.names == ("sepal length (cm)", "petal length (cm)")
    assert list(rows.labels) == ["petal width (cm)"]
    assert read(np.eye(3), label=["x1"]).labels["x1"].tolist() == [0, 1, 0]


def test_take_keeps_labels_beside_their_rows() -> None:
    rows = Rows(np.arange(6).reshape(3, 2), labels={"y": np.array(["a", "b", "c"])})
    taken = rows.take(np.array([2, 0]))
    assert taken.values.tolist() == [[4, 5], [0, 1]]
    assert taken.labels["y"].tolist() == ["c", "a"]


# What is refused


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (np.zeros(3), r"two axes or more, but the data has shape \(3,\); reshape it to"),
        (np.zeros((3, 2), complex), "expected an array of numbers, but the data has dtype complex"),
        (np.zeros((3, 2), object), "has dtype object; convert it"),
        (np.zeros((0, 2)), "expected at least one row, but the data has none"),
        (np.zeros((2, 0)), "expected at least one column to model, but the data has none left"),
        (np.array([[1, 2], [3, -np.inf]]), r"column 'x1' of row 1 \(counted from 0\).* is -inf"),
        (np.full((1, 2, 2), np.inf), r"cell \(0, 0\) of row 0 .* is inf; leave the cell empty"),
        (torch.zeros(2, 2, dtype=torch.bfloat16), "torch.bfloat16 came .*; convert it with"),
        ([[1, 2]], "or a pandas, polars or pyarrow frame in memory, but list came"),
        (pl.LazyFrame({"a": [1]}), "frame in memory, but LazyFrame came"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "a name of its own, but .*'a'.*; rename them"),
        (pa.table([[1], [2]], names=["a", "a"]), "but some repeat in the data .*'a'.*; rename"),
        (pl.DataFrame({"": [1], "a": [2]}), "but column 0 .* has none; write the file without"),
        (
            pd.DataFrame({"a": [1, "high"]}),
            "one of these alone, but row 1 .* holds 'high'; turn them",
        ),
        (pd.DataFrame({1: [1], "1": [2]}), "but more than one of the data is called 1; rename"),
        (pd.DataFrame({"a": [1j, 2.0]}, dtype=object), "in column 'a', .* row 0 .* holds '1j'"),
        (pl.DataFrame({"a": [[1, 2]]}), "words, booleans or dates in column 'a', .* row 0 .*1, 2"),
        ("digitz", "no file 'digitz' and no built-in of that name; the built-ins are digits, wine"),
        ("nowhere/wine.csv", "expected a file, but there is none at nowhere.wine.csv"),
    ],
)
def test_sources_that_are_refused(source: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        read(source)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("empty.csv", b"", "expected rows of data, but .*empty.csv is empty"),
        ("rows.xlsx", b"PK", r"ending in one of \.csv, \.parquet, .* but .*rows.xlsx came"),
        ("ragged.csv", b"a,b\n1,2\n3\n", "as many cells as its header .*got 1: 3.*; mend that"),
        ("header.csv", b"a,b\n", "expected at least one row, but .*header.csv has none"),
        ("twice.csv", b"a,a,b\n1,2,3\n", "but some repeat in .*twice.csv .*'a'.*; rename them"),
        ("latin.csv", "a,b\n1,é\n".encode("latin-1"), "expected text in UTF-8, but .*latin.csv"),
        ("latin.csv", "é,b\n1,2\n".encode("latin-1"), "expected text in UTF-8, but .*latin.csv"),
        ("wide.csv", "a,b\n1,2\n".encode("utf-16"), "expected text in UTF-8, but .*wide.csv"),
        ("bare.csv", b"7.4,0.7,0\n7.8,0.9,0\n", "names in the first line .*only numbers .*on top"),
        ("semi.csv", b"a;b\n1;2\n", "separated by commas, but .*semi.csv separates them by ';'"),
        ("euro.csv", b"a;b\n1,5;2\n2;3,5\n", "separated by commas, but .*euro.csv .* by ';'"),
        ("inf.csv", b"a,b\n1,2\n3,inf\n", "column 'b' of row 1 .* of .*inf.csv is inf"),
        ("cut.npy", b"\x93NUMPY\x01\x00", "expected a whole .npy file, but .* cannot be read"),
        ("cut.npz", b"PK\x03\x04", "expected a whole .npz file, but .*; it may be truncated"),
        ("cut.parquet", b"PAR1", "expected a whole .parquet file, but .*; it may be truncated"),
        ("cut-ubyte", idx(np.zeros((2, 2)))[:-1], "expected 4 bytes of cells .* but 3 came"),
        ("long-ubyte", idx(np.zeros((2, 2))) + b"0", "expected 4 bytes of cells .* but more came"),
        ("head-ubyte", b"\x00\x00\x08", "expected a whole IDX file, but .*; it may be truncated"),
        ("other-ubyte", b"hello, world", "expected an IDX file, but .* does not begin as one"),
        ("labels-ubyte", idx(np.zeros(5)), "expected images, but .* as a file of labels does"),
        (
            "cut-ubyte.gz",
            gzip.compress(idx(np.eye(9)), mtime=0)[:-9],
            "it may be truncated or damaged",
        ),
    ],
)
def test_files_that_are_refused(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=sentence):
        read(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder; name a file inside it"):
        read(tmp_path)


def test_objects_in_npy_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([[{}]]))
    with pytest.raises(InputError, match="allow_pickle=False"):
        read(tmp_path / "objects.npy")


def test_an_archive_is_asked_for_a_key(tmp_path: Path) -> None:
    path = tmp_path / "several.npz"
    np.savez(path, a=np.eye(2), b=np.eye(2))
    with pytest.raises(InputError, match=r"called X, x or data, but .* holds a, b; name one as"):
        read(path)
    with pytest.raises(InputError, match=r"an array called 'c' in .* but it holds a, b; name one"):
        read(f"{path}:c")


def test_arrays_and_archives_under_each_others_suffix(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.eye(2))
    np.savez(tmp_path / "b.npz", np.eye(2))
    (tmp_path / "a.npy").rename(tmp_path / "a.npz")
    (tmp_path / "b.npz").rename(tmp_path / "b.npy")
    with pytest.raises(InputError, match=r"is one array; rename it to end in \.npy"):
        read(tmp_path / "a.npz")
    with pytest.raises(InputError, match=r"is an archive; rename it to end in \.npz"):
        read(tmp_path / "b.npy")


@pytest.mark.parametrize("role", ["label", "drop"])
def test_unknown_columns_are_named_beside_those_there_are(role: str) -> None:
    with pytest.raises(InputError, match=r"expected 'z' to be a column of the data, .* are a, b;"):
        read(pl.DataFrame({"a": [1], "b": [2]}), **{role: ["z"]})
    with pytest.raises(InputError, match="but its columns have no names"):
        read(np.zeros((2, 2), np.uint8), **{role: ["z"]})


def test_nothing_left_to_model_is_refused() -> None:
    with pytest.raises(InputError, match="at least one column to model, but the data has none"):
        read(pl.DataFrame({"a": [1]}), drop=["a"])


# Colours, and large files


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_colours_are_rows_of_three_levels(tmp_path: Path, suffix: str) -> None:
    colours = np.arange(120, dtype=np.uint8).reshape(10, 2, 2, 3)
    path = tmp_path / f"colours.{suffix}"
    np.save(path, colours) if suffix == "npy" else np.savez(path, x=colours)
    rows = read(path)
    schema = infer(rows)
    assert (rows.values.dtype, schema.event_shape, schema.shared) == (np.uint8, (2, 2, 3), True)
    assert (schema.picture_shape, schema.dims) == ((2, 2, 3), 12)
    assert schema.columns == (Column("cell", "grid", 63.5, 63.5, 1.0, 0.0, 127.0),)
    np.testing.assert_array_equal(decode(schema, encode(schema, fits(schema, rows))), colours)


def test_a_large_array_stays_in_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unveil.data.read.LARGEST_READ", 100)
    np.save(tmp_path / "a.npy", np.eye(9))
    rows = read(tmp_path / "a.npy", label=["x8"], drop=["x0"])
    assert isinstance(rows.values, np.memmap)
    assert np.shares_memory(rows.values, rows.labels["x8"].base)
    np.testing.assert_array_equal(rows.values, np.eye(9)[:, 1:8])
    path = tmp_path / "cut.npy"
    path.write_bytes((tmp_path / "a.npy").read_bytes()[:-8])
    with pytest.raises(InputError, match=r"a whole \.npy file, but .*; it may be truncated"):
        read(path)
