"""From a file, a frame or an array to rows of numbers in the data's own units."""

import gzip
import itertools
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, final

import narwhals as nw
import numpy as np
from scipy.sparse import issparse

from unveil.data.native import (
    BOOLEAN,
    INTEGER,
    NUMBER,
    dtype_named,
    exact,
    is_gap,
    measure,
    native,
    plain,
)
from unveil.data.sparse import Matrix, SparseCounts, counts_of
from unveil.errors import InputError

CELLS_PER_BLOCK = 2**20  # 8 MiB as float64: large enough for numpy, small beside any data
# A larger array stays in its file. A smaller one is read, so that nothing can change beneath it.
LARGEST_READ = 2**27
# A sparse matrix of other numbers than counts is made dense, unless it has more cells than these.
MOST_DENSE_CELLS = 2**30
ARRAY = "numpy"  # the form of rows that came as an array, or are bundled
# Exposures that are no column, unless one is called so: each row's own total, and none at all.
TOTAL = "total"
NO_COLUMN = (TOTAL, "none")
_NUMBERS = (NUMBER, INTEGER, BOOLEAN)  # what rides along as numbers


@final
@dataclass(frozen=True, eq=False)
class Rows:
    """Rows as they were read: numbers in the file's own units, before any model has seen them.

    >>> rows = Rows(np.array([[1.0, 2.0], [3.0, np.nan]]), names=("height", "weight"))
    >>> len(rows), rows.event_shape
    (2, (2,))
    """

    # (row, *event), in its compact dtype, perhaps still in its file; NaN = missing; a table:
    # (row, column), counts perhaps sparse.
    values: Matrix
    names: tuple[str, ...] = ()  # of a table's columns; () for images and arrays of pixels
    labels: Mapping[str, np.ndarray] = field(default_factory=dict)  # never modelled: name -> (row,)
    source: str = "the data"  # what to call these rows in a sentence
    # Conditioned on and never modelled: name -> (row,) of numbers or text; NaN or "" = missing.
    given: Mapping[str, np.ndarray] = field(default_factory=dict)
    # What a table's columns hold, one of `native.TYPES`; numbers where nothing else is said. The
    # values of a worded one are places among its words.
    types: Mapping[str, str] = field(default_factory=dict)
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    # What a frame stores its columns of numbers and moments as, see `native.dtype_named`.
    dtypes: Mapping[str, str] = field(default_factory=dict)
    form: str = ARRAY  # what rows come as: an array, or the library whose frame they were
    frame: Any = None  # that frame, of all the rows and columns as they came; None without one

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of one row."""
        return self.values.shape[1:]

    def __len__(self) -> int:
        return len(self.values)

    def type_of(self, name: str) -> str:
        """What the column holds."""
        return self.types.get(name, NUMBER)

    @property
    def dense(self) -> np.ndarray:
        """The values as an array."""
        return np.asarray(self.values)

    def take(self, index: np.ndarray | slice | Sequence[int]) -> "Rows":
        """The rows at `index` (positions, a mask or a slice), with their labels and covariates.

        >>> Rows(np.array([[1], [2], [3]])).take([2, 0]).values.ravel().tolist()
        [3, 1]
        """
        labels = {name: label[index] for name, label in self.labels.items()}
        given = {name: covariate[index] for name, covariate in self.given.items()}
        return replace(self, values=self.values[index], labels=labels, given=given, frame=None)

    def beside(self, name: str) -> np.ndarray:
        """The cells of a column as they ride along, (row,): numbers, or text, "" where missing.

        >>> Rows(np.array([[1.0]]), ("size",), words={"size": ("S", "M")}).beside("size").tolist()
        ['M']
        """
        values = self.values[:, self.names.index(name)]
        return carried(values, self.type_of(name), self.words.get(name, ()))


def read(
    source: Any,
    *,
    label: Sequence[str] = (),
    drop: Sequence[str] = (),
    given: Sequence[str] = (),
    exposure: str | None = None,
) -> Rows:
    """Rows of numbers from a built-in name, a file, a folder of images, an array or a frame.

    `label` names the columns that ride along without being modelled, `drop` those to forget and
    `given` those to condition on, which may be labels too: a label that the data bring along is
    one no more where only `given` names it. An `exposure` is given too, unless it is one of
    NO_COLUMN and no column is called so. Values keep their units and their dtype; missing cells
    become NaN. Words, booleans and dates are measured as `native.measure` says. A text label or
    covariate is read as text, with an empty string where it is missing. A large `.npy` stays in its
    file, and its values are a memory map. Counts of a SciPy sparse matrix, AnnData or an `.h5ad`
    stay sparse; the columns of obs are labels.

    Raises InputError, in one sentence, when the source cannot be read or a column that is to be
    modelled holds anything else.

    >>> rows = read("iris", drop=["sepal width (cm)"])
    >>> rows.values.shape, sorted(rows.labels)
    ((150, 3), ['target'])
    """
    contents, name = _open(source)
    exposures = () if exposure is None else (exposure,)
    rows = _rows(contents, name, {*label, *drop, *given, *exposures})
    there = {*rows.names, *rows.labels, *rows.given}
    columns = [name for name in exposures if name in there or name not in NO_COLUMN]
    return _checked(_set_aside(rows, label, drop, (*given, *columns)))


def read_again(
    source: Any,
    *,
    label: Sequence[str] = (),
    drop: Sequence[str] = (),
    given: Sequence[str] = (),
) -> Rows:
    """As `read`, for a model that was fitted so: columns of `label` and `drop` may be absent.

    >>> read_again("iris", drop=["left out when fitting"]).event_shape
    (4,)
    """
    contents, name = _open(source)
    rows = _rows(contents, name, {*label, *drop, *given})
    there = {*rows.names, *rows.labels}
    label, drop = ([n for n in names if n in there] for names in (label, drop))
    return _checked(_set_aside(rows, label, drop, given))


def blocks(values: Matrix) -> Iterator[slice]:
    """Consecutive slices of rows, each of about CELLS_PER_BLOCK cells, that together cover values.

    >>> list(blocks(np.zeros((3, 2**20))))
    [slice(0, 1, None), slice(1, 2, None), slice(2, 3, None)]
    """
    size = max(1, CELLS_PER_BLOCK // max(1, prod(values.shape[1:])))
    for start in range(0, len(values), size):
        yield slice(start, min(start + size, len(values)))


def numbered(width: int) -> tuple[str, ...]:
    """The names given to the columns of an array that has none.

    >>> numbered(3)
    ('x0', 'x1', 'x2')
    """
    return tuple(f"x{column}" for column in range(width))


def listed(names: Collection[str], most: int = 20) -> str:
    """Names as they stand in a sentence, the first `most` of them.

    >>> listed(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    shown = ", ".join(itertools.islice(names, most))
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def carried(values: np.ndarray, kind: str, words: Sequence[str] = ()) -> np.ndarray:
    """A column (row,) as it rides along: numbers, or what is no number as text, "" where missing.

    >>> carried(np.array([19000.0, np.nan]), "date").tolist()
    ['2022-01-08', '']
    """
    if kind in _NUMBERS and not words:
        return values
    one = native(kind, words)
    return np.array(["" if np.isnan(value) else one.tell(value) for value in values], np.str_)


# From anything to rows


def _open(source: Any) -> tuple[Any, str]:
    """The contents of a source, and what to call it in a sentence."""
    if not isinstance(source, str | Path):
        return source, "the data"
    name = str(source)
    return (_BUILT_INS[name]() if name in _BUILT_INS else _load(name)), name


def _rows(contents: Any, source: str, aside: Collection[str]) -> Rows:
    """Rows of whatever was found; a frame's columns in `aside` may hold anything."""
    if isinstance(contents, Rows):
        return contents if source == "the data" else replace(contents, source=source)
    if hasattr(contents, "detach"):
        return _from_array(_from_tensor(contents), source)
    if isinstance(contents, np.ndarray):
        return _from_array(contents, source)
    if issparse(contents):
        return of_matrix(contents, source)
    if hasattr(contents, "obs_names"):
        return _from_annotated(contents, source)
    return _from_frame(_frame(contents, source), source, aside)


def _from_array(array: np.ndarray, source: str) -> Rows:
    values = plain(array, source)
    if values.ndim < 2:
        raise InputError(
            f"expected an array of rows with two axes or more, but {source} has shape "
            f"{values.shape}; reshape it to (rows, columns)"
        )
    is_table = values.ndim == 2 and values.dtype != np.uint8
    return Rows(values, names=numbered(values.shape[1]) if is_table else (), source=source)


def of_matrix(matrix: Any, source: str) -> Rows:
    """The rows of a matrix, sparse or not: counts are held sparse, other numbers dense.

    Raises InputError for a gap in a sparse matrix, and for one too large to be made dense.

    >>> of_matrix(np.array([[0.0, 2.0]]), "the data").values.shape
    (1, 2)
    """
    counts = counts_of(matrix, source)
    if counts is not None:
        return Rows(counts, names=numbered(counts.shape[1]), source=source)
    if not issparse(matrix):
        return _from_array(np.asarray(matrix), source)
    if prod(matrix.shape) > MOST_DENSE_CELLS:
        raise InputError(
            f"expected counts in a sparse matrix of {matrix.shape[0]} rows and {matrix.shape[1]} "
            f"columns, for other numbers are made dense, but {source} holds fractions or negative "
            f"numbers; give the counts as they were before they were scaled, or fewer columns"
        )
    return _from_array(matrix.toarray(), source)


def _from_annotated(contents: Any, source: str) -> Rows:
    from unveil.data.omics import annotated_rows

    held = contents.to_memory() if contents.isbacked else contents
    return annotated_rows(held.X, held.obs, held.var, source)


def _from_tensor(tensor: Any) -> np.ndarray:
    try:
        return tensor.detach().cpu().numpy()
    except TypeError as error:
        raise InputError(
            f"expected a dense tensor of a dtype that numpy has, but {tensor.dtype} came "
            f"({_in_one_line(error)}); convert it with .to_dense() or .float() first"
        ) from error


def _frame(contents: Any, source: str) -> nw.DataFrame[Any]:
    try:
        return nw.from_native(contents, eager_only=True)
    except TypeError as error:
        raise InputError(
            f"expected the name of a built-in, a path, an array, a tensor, a sparse matrix, "
            f"AnnData, or a pandas, polars or pyarrow frame in memory, but "
            f"{type(contents).__name__} came; convert it to one of these first"
        ) from error
    except nw.exceptions.DuplicateError as error:
        raise InputError(
            f"expected every column to have a name of its own, but some repeat in {source} "
            f"({_in_one_line(error)}); rename them"
        ) from error


def _from_frame(frame: nw.DataFrame[Any], source: str, aside: Collection[str]) -> Rows:
    _require_told_apart(frame.columns, source)
    series = [(str(name), frame.get_column(name)) for name in frame.columns]
    labels = {name: label_cells(cells) for name, cells in series if name in aside}
    columns = {name: measure(cells, name) for name, cells in series if name not in aside}
    return Rows(
        values=_stacked([values for values, _, _ in columns.values()], len(frame)),
        names=tuple(columns),
        labels=labels,
        source=source,
        types={name: kind for name, (_, kind, _) in columns.items()},
        words={name: words for name, (_, _, words) in columns.items() if words},
        dtypes={name: str(cells.dtype) for name, cells in series if dtype_named(str(cells.dtype))},
        form=frame.implementation.value,
        frame=frame,
    )


def _require_told_apart(names: Sequence[Any], source: str) -> None:
    """Raises InputError for columns of one name in text, as 1 and "1" have."""
    told = [str(name) for name in names]
    twice = [name for name in dict.fromkeys(told) if told.count(name) > 1]
    if twice:
        raise InputError(
            f"expected every column to have a name of its own, but more than one of {source} is "
            f"called {listed(twice)}; rename them"
        )


def _stacked(columns: list[np.ndarray], rows: int) -> np.ndarray:
    """Columns side by side, in their common dtype when they have one and in float64 otherwise."""
    dtypes = {column.dtype for column in columns}
    values = np.empty((rows, len(columns)), dtypes.pop() if len(dtypes) == 1 else np.float64)
    for position, column in enumerate(columns):
        values[:, position] = column
    return values


def label_cells(series: nw.Series[Any]) -> np.ndarray:
    """A column that is only carried along: numbers where it has them, text otherwise.

    >>> import pyarrow as pa
    >>> label_cells(nw.from_native(pa.chunked_array([["b", None]]), series_only=True)).tolist()
    ['b', '']
    """
    if (series.dtype.is_numeric() and exact(series)) or series.dtype == nw.Boolean:
        return measure(series, series.name)[0]
    return np.array(["" if is_gap(cell) else str(cell) for cell in series.to_list()], np.str_)


def _set_aside(rows: Rows, label: Sequence[str], drop: Sequence[str], given: Sequence[str]) -> Rows:
    """The rows without the columns that are not modelled: labels and covariates beside them."""
    aside = {*label, *drop, *given}
    if not aside:
        return rows
    _require_columns(rows, label, drop, given)
    split_off = {name: rows.beside(name) for name in rows.names if name in aside}
    beside = {**split_off, **rows.labels}
    forgotten = {*drop, *given} - {*label}
    labels = {name: cells for name, cells in beside.items() if name not in forgotten}
    covariates = {name: {**rows.given, **beside}[name] for name in given} or rows.given
    kept = [position for position, name in enumerate(rows.names) if name not in aside]
    return replace(
        rows,
        values=rows.values if len(kept) == len(rows.names) else _columns_at(rows.values, kept),
        names=tuple(rows.names[position] for position in kept),
        labels=labels,
        given=covariates,
    )


def _require_columns(
    rows: Rows, label: Sequence[str], drop: Sequence[str], given: Sequence[str]
) -> None:
    """Raises InputError for a name that is no column, or a covariate to be forgotten."""
    there = [*rows.labels, *rows.names]  # a matrix has few labels, and names without number
    for name in (*label, *drop, *(name for name in given if name not in rows.given)):
        if name not in there:
            raise InputError(
                f"expected {name!r} to be a column of {rows.source}, but "
                + (f"its columns are {listed(there)}" if there else "its columns have no names")
                + (
                    "; add the covariate, or correct its name in --given"
                    if name in given
                    else "; correct the name or leave it out of --label and --drop"
                )
            )
    both = [name for name in given if name in drop]
    if both:
        raise InputError(
            f"expected a column either to be conditioned on or to be forgotten, but {listed(both)} "
            f"came in --given and --drop; leave it out of one of them"
        )


def _columns_at(values: Matrix, kept: Sequence[int]) -> Matrix:
    """The columns at these positions: a view where they are neighbours, as large files need."""
    if kept and len(kept) == kept[-1] - kept[0] + 1:
        return values[:, kept[0] : kept[-1] + 1]
    return values[:, kept]


def _checked(rows: Rows) -> Rows:
    """The same rows, once they are known to be some, to be named and to be finite."""
    if len(rows) == 0:
        raise InputError(
            f"expected at least one row, but {rows.source} has none; give it rows of data"
        )
    if prod(rows.event_shape) == 0:
        raise InputError(
            f"expected at least one column to model, but {rows.source} has none left; give it "
            f"columns, or name fewer with --label and --drop"
        )
    if "" in rows.names:
        raise InputError(
            f"expected every column of {rows.source} to have a name, but column "
            f"{rows.names.index('')} (counted from 0) has none; write the file without its row "
            f"index, or leave the column out with --drop ''"
        )
    if not isinstance(rows.values, SparseCounts):
        _require_finite(rows, rows.values)
    return rows


def _require_finite(rows: Rows, values: np.ndarray) -> None:
    for block in blocks(values):
        endless = np.isinf(values[block])
        if endless.any():
            row, *cell = (int(axis) for axis in np.argwhere(endless)[0])
            raise InputError(
                f"expected finite numbers, but {cell_named(rows.names, cell)} of row "
                f"{row + block.start} (counted from 0) of {rows.source} is "
                f"{values[block][row][tuple(cell)]}; leave the cell empty if it is missing"
            )


def cell_named(names: Sequence[str], cell: Sequence[int]) -> str:
    """What to call one cell of a row in a sentence.

    >>> cell_named(["height", "weight"], [1]), cell_named([], [3, 4])
    ("column 'weight'", 'cell (3, 4)')
    """
    return f"column {names[cell[0]]!r}" if names else f"cell ({', '.join(map(str, cell))})"


def _reads_as_number(text: Any) -> bool:
    try:
        float(text)
    except (TypeError, ValueError):
        return False
    return True


def _in_one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".")


# Files


def _load(name: str) -> Any:
    """What a file holds: an array, an arrow table, or rows."""
    path, reader = _reader(name)
    if path.is_dir():
        return _read_images(path)
    _require_file(path)
    try:
        return reader(path)
    except InputError:
        raise
    except UnicodeDecodeError as error:
        raise _not_utf8(path) from error
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, struct.error) as error:
        raise InputError(
            f"expected a whole {path.suffix or 'IDX'} file, but {path} cannot be read "
            f"({_in_one_line(error)}); it may be truncated or damaged, so write or fetch it again"
        ) from error


def _reader(name: str) -> tuple[Path, Callable[[Path], Any]]:
    """The file that a name points at and the function that reads it."""
    keyed = re.fullmatch(r"(.+\.npz):(.+)", name)
    if keyed:
        return Path(keyed[1]), partial(_read_npz_key, key=keyed[2])
    readers = (reader for suffix, reader in _READERS.items() if name.lower().endswith(suffix))
    return Path(name), next(readers, _refuse_suffix)


def _refuse_suffix(path: Path) -> Any:
    raise InputError(
        f"expected a file ending in one of {listed(_READERS)}, but {path} came; convert it to one "
        f"of these"
    )


def _require_file(path: Path) -> None:
    if not path.exists():
        if path.suffix or len(path.parts) > 1:
            raise InputError(f"expected a file, but there is none at {path}; correct the path")
        raise InputError(
            f"no file {str(path)!r} and no built-in of that name; the built-ins are "
            f"{listed(_BUILT_INS)}"
        )
    if path.stat().st_size == 0:
        raise InputError(f"expected rows of data, but {path} is empty; write or fetch it again")


def _not_utf8(path: Path) -> InputError:
    return InputError(
        f"expected text in UTF-8, but {path} is in another encoding; save it again as UTF-8"
    )


def _read_images(path: Path) -> Rows:
    from unveil.data.images import read_folder

    return read_folder(path)


def _read_csv(path: Path) -> Any:
    from pyarrow import ArrowInvalid, csv, string, types

    with path.open("rb") as file:
        header = file.readline()
    if header[:2] in (b"\xff\xfe", b"\xfe\xff"):  # UTF-16 parses, as nonsense
        raise _not_utf8(path)
    _refuse_other_separators(header.decode(errors="replace").split(","), path)
    # One block for the whole file: a column's type is inferred from its first block alone.
    whole = csv.ReadOptions(block_size=min(path.stat().st_size + 1, 2**31 - 1))
    # What stands for a gap among numbers does so among words, unless it is quoted.
    gaps = csv.ConvertOptions(strings_can_be_null=True, quoted_strings_can_be_null=False)
    try:
        table = csv.read_csv(path, read_options=whole, convert_options=gaps)
    except ArrowInvalid as error:
        if "columns, got" not in str(error):
            raise
        raise InputError(
            f"expected every line of {path} to have as many cells as its header "
            f"({_in_one_line(error)}); mend that line"
        ) from error
    if any(types.is_binary(column) for column in table.schema.types):
        raise _not_utf8(path)
    _refuse_headerless(table.column_names, path)
    frame = _frame(table, str(path))
    digits = [name for name in frame.columns if _may_be_digits(frame[name])]
    if not digits:
        return table
    gaps.include_columns, gaps.column_types = digits, dict.fromkeys(digits, string())
    as_text = csv.read_csv(path, read_options=whole, convert_options=gaps)
    named = [cells for cells in _frame(as_text, str(path)).iter_columns() if _names_things(cells)]
    return frame.with_columns(*named).to_native()


def _may_be_digits(numbers: nw.Series[Any]) -> bool:
    """Whether cells that were read as numbers may be digits alone: integers, and larger floats."""
    largest = numbers.abs().max() if numbers.dtype.is_float() else None
    return numbers.dtype.is_integer() or (largest is not None and largest >= 2.0**63)


def _names_things(text: nw.Series[Any]) -> bool:
    """Whether digits name things, and count none: with a 0 in front, or with more of them than an
    integer has."""
    named = text.str.contains(r"^[+-]?(0[0-9]+|[0-9]{20,})$").any()
    return named and text.drop_nulls().str.contains(r"^[+-]?[0-9]+$").all()


def _refuse_headerless(names: Sequence[str], path: Path) -> None:
    """Column names that are all numbers are a first row of data, unless they count or are ordered.

    Five numbers or more in order may be a header: positions, or the wavelengths of a spectrum.
    """
    if not all(_reads_as_number(name) for name in names):
        return
    steps = np.diff([float(name) for name in names])
    if len(names) >= 5 and (np.all(steps > 0) or np.all(steps < 0)):
        return
    if list(names) == [str(position) for position in range(len(names))]:
        return
    raise InputError(
        f"expected column names in the first line of {path}, but it holds only numbers "
        f"({listed(names, 4)}); put a line of names on top"
    )


def _refuse_other_separators(names: Sequence[str], path: Path) -> None:
    separator = next((mark for mark in ";\t|" if mark in names[0]), None)
    if len(names) == 1 and separator:
        raise InputError(
            f"expected columns separated by commas, but {path} separates them by {separator!r}; "
            f"save it again with commas"
        )


def _read_h5ad(path: Path) -> Rows:
    from unveil.data.omics import read_h5ad

    return read_h5ad(path)


def _read_parquet(path: Path) -> Any:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:  # this file alone: no columns made of folder names
        return file.read()


def _read_feather(path: Path) -> Any:
    from pyarrow import feather

    return feather.read_table(path)


def _read_npy(path: Path) -> np.ndarray:
    if path.stat().st_size > LARGEST_READ:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    with path.open("rb") as file:  # numpy would leave its own open if the file is damaged
        array = np.load(file, allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise InputError(f"expected one array, but {path} is an archive; rename it to end in .npz")
    return array


@contextmanager
def _open_npz(path: Path) -> Iterator[np.lib.npyio.NpzFile]:
    with path.open("rb") as file:
        archive = np.load(file, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise InputError(
                f"expected an archive, but {path} is one array; rename it to end in .npy"
            )
        yield archive


def _read_npz(path: Path) -> np.ndarray | Rows:
    """The only array of an archive, or the one called X, x or data with y as its label."""
    with _open_npz(path) as archive:
        keys = archive.files
        named = [key for key in keys if key in ("X", "x", "data")]
        chosen = named if len(keys) > 1 else keys
        if len(chosen) != 1:
            raise InputError(
                f"expected one array, or one called X, x or data, but {path} holds "
                f"{listed(keys) or 'none'}; name one as {path}:KEY"
            )
        rows = _from_array(archive[chosen[0]], str(path))
        y = archive["y"] if "y" in keys and chosen != ["y"] else np.empty(0)
    return replace(rows, labels={"y": y.reshape(-1)}) if y.size == len(rows) > 0 else rows


def _read_npz_key(path: Path, key: str) -> np.ndarray:
    with _open_npz(path) as archive:
        if key not in archive.files:
            raise InputError(
                f"expected an array called {key!r} in {path}, but it holds "
                f"{listed(archive.files)}; name one of these"
            )
        return archive[key]


_IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def _read_idx(path: Path) -> np.ndarray:
    """The array of an IDX file: two zeros, type, number of axes, big-endian lengths, cells."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        zeros, code, axes = struct.unpack(">HBB", file.read(4))
        if zeros or code not in _IDX_TYPES:
            raise InputError(
                f"expected an IDX file, but {path} does not begin as one; convert it to one of "
                f"{listed(_READERS)}"
            )
        shape = struct.unpack(f">{axes}I", file.read(4 * axes))
        size = prod(shape) * np.dtype(_IDX_TYPES[code]).itemsize
        cells = file.read(size + 1)
    if len(cells) != size:
        came = f"{len(cells)} came" if len(cells) < size else "more came"
        raise InputError(
            f"expected {size} bytes of cells in {path}, as its header says, but {came}; it may be "
            f"truncated or damaged, so write or fetch it again"
        )
    if axes < 2:
        raise InputError(
            f"expected images, but {path} holds one number a row, as a file of labels does; name "
            f"the file of images"
        )
    return np.frombuffer(cells, _IDX_TYPES[code]).reshape(shape)


_READERS: dict[str, Callable[[Path], Any]] = {
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".feather": _read_feather,
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".h5ad": _read_h5ad,
    "-ubyte": _read_idx,
    "-ubyte.gz": _read_idx,
}


# Built-ins


def _digits() -> Rows:
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    return Rows(bunch.images.astype(np.uint8), labels={"digit": bunch.target})


def _bundled(loader: str, **options: Any) -> Rows:
    from sklearn import datasets

    bunch: Any = getattr(datasets, loader)(**options)
    return Rows(bunch.data, tuple(map(str, bunch.feature_names)), {"target": bunch.target})


_BUILT_INS: dict[str, Callable[[], Rows]] = {
    "digits": _digits,
    "wine": partial(_bundled, "load_wine"),
    "breast_cancer": partial(_bundled, "load_breast_cancer"),
    "diabetes": partial(_bundled, "load_diabetes", scaled=False),  # in the clinic's own units
    "iris": partial(_bundled, "load_iris"),
}
