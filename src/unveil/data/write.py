"""From rows and columns of numbers to a file: the way out, which `read` can walk back."""

import os
import secrets
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from unveil.data import omics
from unveil.data.frames import frame
from unveil.data.native import INTEGER, NUMBER, whole
from unveil.data.read import Rows, listed
from unveil.errors import InputError

FORM = "pyarrow"  # of what is written


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
    if path.suffix.lower() in FRAME_SUFFIXES:
        return write_frame(path, _arrow_table(columns))
    with replacing(path) as file:
        _ARRAY_WRITERS[path.suffix.lower()](file, columns)


def write_rows(path: Path, rows: Rows) -> None:
    """Write rows in the format that the suffix names, so that `read` finds them again.

    `.csv`, `.parquet` and `.feather` take a table with the labels and the covariates as its last
    columns, words as words and dates as dates; the cells of an image become columns `cell_0_0`,
    `cell_0_1`, ..., and whole numbers become integers. An `.npz` holds the array `x` (row, *event)
    beside the names, the labels and the covariates, an `.npy` that array alone, both in the dtype
    of the values, an `.h5ad` the columns as X and all else as obs.

    Raises InputError for a path that cannot be written to, for a label called like a column, and
    for words bound for an array.

    >>> path = getfixture("tmp_path") / "rows.csv"
    >>> write_rows(path, Rows(np.array([[3.0, 0.5]]), ("age", "dose"), {"arm": np.array(["a"])}))
    >>> path.read_text().splitlines()
    ['"age","dose","arm"', '3,0.5,"a"']
    """
    require_suffix(path, ROW_SUFFIXES)
    match path.suffix.lower():
        case omics.SUFFIX:
            with replacing(path) as file:
                omics.write_h5ad(Path(file.name), rows)
        case ".npy":
            _require_numbers(path, rows)
            with replacing(path) as file:
                _write_array(file, rows.dense)
        case ".npz":
            _require_numbers(path, rows)
            named = {"names": np.array(rows.names)} if rows.names else {}
            arrays = _beside({"x": rows.dense, **named}, rows)
            with replacing(path) as file:
                _write_archive(file, arrays)
        case _ if rows.names:
            write_frame(path, _beside_frame(_in_file(rows), rows))
        case _:
            write(path, _beside(_cells(rows), rows))


def write_embedded(path: Path, source: Path, mean: np.ndarray, sd: np.ndarray) -> None:
    """Write a copy of an `.h5ad`, with posterior means (row, latent) and their spreads in obsm.

    Raises InputError for a path that cannot be written to.
    """
    require_suffix(path, (omics.SUFFIX,))
    named = {omics.EMBEDDING: mean, f"{omics.EMBEDDING}_sd": sd}
    with replacing(path) as file:
        omics.write_copy(Path(file.name), source, named)


def write_frame(path: Path, table: Any) -> None:
    """Write a pyarrow table in the format that the suffix names, `.csv`, `.parquet` or `.feather`.

    >>> import pyarrow as pa
    >>> path = getfixture("tmp_path") / "days.csv"
    >>> write_frame(path, pa.table({"open": [True, None], "day": ["Monday", "Sunday"]}))
    >>> path.read_text().splitlines()
    ['"open","day"', 'true,"Monday"', ',"Sunday"']
    """
    require_suffix(path, FRAME_SUFFIXES)
    with replacing(path) as file:
        _FRAME_WRITERS[path.suffix.lower()](file, table)


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


def require_apart(path: Path, *sources: str | Path) -> None:
    """Nothing, once writing `path` leaves what is read as it is: files, and folders with all that
    is in them.

    Raises InputError otherwise.

    >>> require_apart(Path("filled.csv"), "survey.csv", "runs/survey", "digits")
    """
    for source in map(Path, sources):
        inside = source.is_dir() and path.resolve().is_relative_to(source.resolve())
        if inside or (path.exists() and source.exists() and path.samefile(source)):
            found = f"lies in {source}" if inside else "is the one that is read"
            raise InputError(
                f"expected a file to write apart from what is read, but {path} {found}; name "
                "another"
            )


def require_own_names(beside: Collection[str], columns: Collection[str]) -> None:
    """Nothing, once no label or covariate is called like a column that is written before it.

    Raises InputError otherwise.

    >>> require_own_names(["batch"], ["z0_mean", "z0_sd"])
    """
    both = [name for name in beside if name in columns]
    if both:
        raise InputError(
            f"expected labels with names of their own, but {listed(both)} would also be written "
            f"as data; rename them, or leave them out with --drop"
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


def _cells(rows: Rows) -> dict[str, np.ndarray]:
    """The cells of images as columns, whole together or not at all."""
    cells = whole(rows.dense)
    return {
        "_".join(map(str, ("cell", *cell))): cells[:, *cell]
        for cell in np.ndindex(rows.event_shape)
    }


def _in_file(rows: Rows) -> Any:
    """A table as a file holds it: plain numbers that are whole as integers."""
    plain = [name for name in rows.names if rows.type_of(name) == NUMBER]
    are_whole = {
        name
        for name, cells in zip(rows.names, rows.dense.T, strict=True)
        if name in plain and whole(cells).dtype.kind != "f"
    }
    types = {**rows.types, **dict.fromkeys(are_whole, INTEGER)}
    return frame(replace(rows, types=types), FORM)


def _beside_frame(table: Any, rows: Rows) -> Any:
    """The table, and the rows' labels and covariates as its last columns."""
    _beside(dict.fromkeys(table.column_names), rows)  # that none is called like a column
    beside = _arrow_table({**rows.labels, **rows.given})
    for name in beside.column_names:
        table = table.append_column(name, beside.column(name))
    return table


def _require_numbers(path: Path, rows: Rows) -> None:
    if rows.words:
        raise InputError(
            f"expected numbers only, as {path.name} holds an array of them, but "
            f"{listed(rows.words)} came as text; write to a .csv, .parquet or .feather"
        )


def _beside(columns: Mapping[str, Any], rows: Rows) -> dict[str, Any]:
    """Columns, then the rows' labels and covariates, once none is called like a column."""
    beside = {**rows.labels, **rows.given}
    require_own_names(beside, columns)
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


def _write_csv(file: BinaryIO, table: Any) -> None:
    from pyarrow import csv

    plain = [_as_csv_has_it(table.column(name)) for name in table.column_names]
    # In a single column an empty cell would be an empty line, which counts as no row.
    columns = [_marked(plain[0])] if len(plain) == 1 else plain
    csv.write_csv(type(table).from_arrays(columns, names=table.column_names), file)


def _as_csv_has_it(column: Any) -> Any:
    """Categories as their words, and what never had a cell as text."""
    from pyarrow import string, types

    if types.is_dictionary(column.type):
        return column.cast(column.type.value_type)
    return column.cast(string()) if types.is_null(column.type) else column


def _marked(column: Any) -> Any:
    """The column with a sign in place of nothing: NaN among numbers, an empty text elsewhere."""
    from pyarrow import float64, string, types

    if not column.null_count:
        return column
    if types.is_integer(column.type) or types.is_floating(column.type):
        return column.cast(float64()).fill_null(np.nan)
    return column.cast(string()).fill_null("")


def _write_parquet(file: BinaryIO, table: Any) -> None:
    from pyarrow import parquet

    parquet.write_table(table, file)


def _write_feather(file: BinaryIO, table: Any) -> None:
    from pyarrow import feather

    feather.write_feather(table, file)


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


_FRAME_WRITERS: dict[str, Callable[[BinaryIO, Any], None]] = {
    ".csv": _write_csv,
    ".parquet": _write_parquet,
    ".feather": _write_feather,
}
_ARRAY_WRITERS: dict[str, Callable[[BinaryIO, Mapping[str, np.ndarray]], None]] = {
    ".npz": _write_archive,
    ".npy": _write_matrix,
}
FRAME_SUFFIXES = tuple(_FRAME_WRITERS)
TABLE_SUFFIXES = (*FRAME_SUFFIXES, *_ARRAY_WRITERS)
ROW_SUFFIXES = (*TABLE_SUFFIXES, omics.SUFFIX)
