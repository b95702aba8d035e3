"""From rows and columns of numbers to a file: the way out, which `read` can walk back."""

import os
import secrets
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from unveil.data.read import Rows, listed
from unveil.errors import InputError

LARGEST_INTEGER = 2.0**53  # beyond it float64 no longer tells neighbouring integers apart


def write(path: Path, columns: Mapping[str, np.ndarray]) -> None:
    """Write a table, each column (row,) of numbers or text, in the format that the suffix names.

    A missing number (NaN) and an empty text become an empty cell, or a null. An `.npz` holds one
    array for each column, an `.npy` one of float64 (row, column) without their names.

    Raises InputError for a path that cannot be written to, columns that make no table, and text
    bound for an `.npy`.

    >>> path = getfixture("tmp_path") / "people.csv"
    >>> write(path, {"height": np.array([1.7, np.nan]), "name": np.array(["Ada", "Alan"])})
    >>> path.read_text().splitlines()
    ['"height","name"', '1.7,"Ada"', ',"Alan"']
    """
    require_suffix(path, TABLE_SUFFIXES)
    _require_table(path, columns)
    with replacing(path) as file:
        _WRITERS[path.suffix.lower()](file, columns)


def write_rows(path: Path, rows: Rows) -> None:
    """Write rows in the format that the suffix names, so that `read` finds them again.

    `.csv`, `.parquet` and `.feather` take a table with the labels and the covariates as its last
    columns; the cells of an image become columns `cell_0_0`, `cell_0_1`, ..., and whole numbers
    become integers. An `.npz` holds the array `x` (row, *event) beside the names, the labels and
    the covariates, an `.npy` that array alone, both in the dtype of the values.

    Raises InputError for a path that cannot be written to, and for a label called like a column.

    >>> path = getfixture("tmp_path") / "rows.csv"
    >>> write_rows(path, Rows(np.array([[3.0, 0.5]]), ("age", "dose"), {"arm": np.array(["a"])}))
    >>> path.read_text().splitlines()
    ['"age","dose","arm"', '3,0.5,"a"']
    """
    require_suffix(path, TABLE_SUFFIXES)
    match path.suffix.lower():
        case ".npy":
            with replacing(path) as file:
                _write_array(file, rows.values)
        case ".npz":
            named = {"names": np.array(rows.names)} if rows.names else {}
            arrays = _beside({"x": rows.values, **named}, rows)
            with replacing(path) as file:
                _write_archive(file, arrays)
        case _:
            write(path, _beside(_columns(rows), rows))


def require_suffix(path: Path, allowed: Collection[str]) -> None:
    """Nothing, once `path` ends in one of the suffixes and has a folder to stand in.

    To be called before long work starts, so that nothing is lost at its end.

    Raises InputError otherwise.

    >>> require_suffix(getfixture("tmp_path") / "scores.CSV", TABLE_SUFFIXES)
    """
    if path.suffix.lower() not in allowed:
        raise InputError(
            f"expected a file to write that ends in one of {listed(allowed)}, but {path} came; "
            f"choose one of these endings"
        )
    if path.is_dir():
        raise InputError(f"expected a file to write, but {path} is a folder; name a file inside it")
    if not path.parent.is_dir():
        raise InputError(
            f"expected a folder to write {path.name} into, but there is none at {path.parent}; "
            f"make it first, or correct the path"
        )


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` once it is whole; a failure leaves the old one.

    >>> path = getfixture("tmp_path") / "greeting"
    >>> with replacing(path) as file:
    ...     _ = file.write(b"hello")
    >>> path.read_bytes()
    b'hello'
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


# Rows as columns


def _columns(rows: Rows) -> dict[str, np.ndarray]:
    """The cells of rows, column by column; those of an image are whole together or not at all."""
    if rows.names:
        return {
            name: _integers_if_whole(column)
            for name, column in zip(rows.names, rows.values.T, strict=True)
        }
    cells = _integers_if_whole(rows.values)
    return {
        "_".join(map(str, ("cell", *cell))): cells[:, *cell]
        for cell in np.ndindex(rows.event_shape)
    }


def _integers_if_whole(values: np.ndarray) -> np.ndarray:
    """The same values as integers where all of them are; a gap keeps them floats."""
    if values.dtype.kind != "f":
        return values
    # A comparison with NaN is false, so that no gap and nothing endless becomes an integer.
    whole = (np.rint(values) == values) & (np.abs(values) <= LARGEST_INTEGER)
    return values.astype(np.int64) if whole.all() else values


def _beside(columns: Mapping[str, np.ndarray], rows: Rows) -> dict[str, np.ndarray]:
    """Columns, then the rows' labels and covariates, once none is called like a column."""
    beside = {**rows.labels, **rows.given}
    both = [name for name in beside if name in columns]
    if both:
        raise InputError(
            f"expected labels with names of their own, but {listed(both)} would also be written "
            f"as data; rename them, or leave them out with --drop"
        )
    return {**columns, **beside}


# Formats


def _require_table(path: Path, columns: Mapping[str, np.ndarray]) -> None:
    shapes = {name: column.shape for name, column in columns.items()}
    if not shapes or len({*shapes.values()}) > 1 or any(len(s) != 1 for s in shapes.values()):
        found = listed([f"{name!r} {shape}" for name, shape in shapes.items()], most=4)
        raise InputError(
            f"expected columns of one length to write to {path}, but those of shape "
            f"{found or 'none'} came; give each one value a row"
        )
    strange = [name for name, column in columns.items() if column.dtype.kind not in "biufU"]
    if strange:
        raise InputError(
            f"expected numbers or text to write to {path}, but column {strange[0]!r} holds "
            f"{columns[strange[0]].dtype}; convert it first"
        )


def _arrow_table(columns: Mapping[str, np.ndarray]) -> Any:
    """The columns as an arrow table, what is missing as null."""
    import pyarrow as pa

    return pa.table(
        {
            name: pa.array(column, mask=column == "")
            if column.dtype.kind == "U"
            else pa.array(column, from_pandas=True)  # NaN is null
            for name, column in columns.items()
        }
    )


def _write_csv(file: BinaryIO, columns: Mapping[str, np.ndarray]) -> None:
    import pyarrow as pa
    from pyarrow import csv

    # In a single column an empty cell would be an empty line, which counts as no row: NaN stays.
    table = pa.table(dict(columns)) if len(columns) == 1 else _arrow_table(columns)
    csv.write_csv(table, file)


def _write_parquet(file: BinaryIO, columns: Mapping[str, np.ndarray]) -> None:
    from pyarrow import parquet

    parquet.write_table(_arrow_table(columns), file)


def _write_feather(file: BinaryIO, columns: Mapping[str, np.ndarray]) -> None:
    from pyarrow import feather

    feather.write_feather(_arrow_table(columns), file)


def _write_matrix(file: BinaryIO, columns: Mapping[str, np.ndarray]) -> None:
    text = [name for name, column in columns.items() if column.dtype.kind == "U"]
    if text:
        raise InputError(
            f"expected numbers only, as an .npy holds one array of them, but {listed(text)} came "
            f"as text; write to a .csv, .parquet, .feather or .npz"
        )
    _write_array(file, np.column_stack([np.asarray(c, np.float64) for c in columns.values()]))


def _write_archive(file: BinaryIO, arrays: Mapping[str, np.ndarray]) -> None:
    # Not np.savez: it takes the arrays as keywords, among its own, and writes the time of day.
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as entry:
                _write_array(entry, array)


def _write_array(file: Any, array: np.ndarray) -> None:
    np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)


_WRITERS: dict[str, Callable[[BinaryIO, Mapping[str, np.ndarray]], None]] = {
    ".csv": _write_csv,
    ".parquet": _write_parquet,
    ".feather": _write_feather,
    ".npz": _write_archive,
    ".npy": _write_matrix,
}
TABLE_SUFFIXES = tuple(_WRITERS)
