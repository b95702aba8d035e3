"""Rows as frames: new ones in the form that the training rows had, and filled ones as they came."""

from collections.abc import Mapping, Sequence
from datetime import UTC
from typing import Any, cast
from zoneinfo import ZoneInfo

import narwhals as nw
import numpy as np

from unveil.data.native import (
    CATEGORY,
    DATETIME,
    NUMBER,
    ORDERED,
    dtype_named,
    in_unit,
    native,
)
from unveil.data.omics import ANNOTATED, annotated
from unveil.data.read import ARRAY, Rows
from unveil.data.schema import Column, Schema


def measured(
    schema: Schema,
    values: np.ndarray,
    labels: Mapping[str, np.ndarray] | None = None,
    given: Mapping[str, np.ndarray] | None = None,
) -> Rows:
    """Values (row, *event) in the data's own units as rows of the schema, ready to be a frame.

    >>> sex = Column("sex", "binary", step=1.0, low=0.0, high=1.0, type="text", words=("f", "m"))
    >>> measured(Schema((1,), (sex,), gaps=False), np.array([[1.0]])).words
    {'sex': ('f', 'm')}
    """
    columns = () if schema.shared else schema.columns
    return Rows(
        values,
        names=tuple(column.name for column in columns),
        labels=labels or {},
        given=given or {},
        types={column.name: column.type for column in columns},
        words={column.name: column.words for column in columns if column.words},
        dtypes={column.name: column.dtype for column in columns if column.dtype},
        form=schema.form,
    )


def as_it_came(rows: Rows) -> Any:
    """The values of rows in their own form: a frame of their columns, AnnData, or the array itself.

    >>> as_it_came(Rows(np.array([[1.0]]), ("sex",), words={"sex": ("f", "m")}, form="pyarrow"))
    pyarrow.Table
    sex: string
    ----
    sex: [["m"]]
    """
    if rows.form == ARRAY or not rows.names:
        return rows.values
    return annotated(rows) if rows.form == ANNOTATED else frame(rows, rows.form)


def frame(rows: Rows, form: str) -> Any:
    """The columns of a table as a frame of this form, every cell as what the column holds.

    A category stays one. A missing cell is a null, and in pandas whatever stands for one.

    >>> frame(Rows(np.array([[19000.0]]), ("day",), types={"day": "date"}), "pyarrow").to_pydict()
    {'day': [datetime.date(2022, 1, 8)]}
    """
    columns = zip(rows.names, rows.dense.T, strict=True)
    return nw.from_dict(
        {name: _series(rows, name, values, form) for name, values in columns}
    ).to_native()


def completed(schema: Schema, rows: Rows, values: np.ndarray) -> Any:
    """Rows as they came, in their own form, with the missing cells of their columns filled.

    `values` (row, *event) are in the data's own units. Nothing else changes: not a bit of an
    observed cell, nor a type, an index, the order of the columns or one that is not modelled. What
    fills a cell is the nearest value that its column can take.

    >>> import pyarrow as pa
    >>> from unveil.data.admit import fits
    >>> from unveil.data.read import read
    >>> age = Column("age", "grid", shift=40.0, unit=9.0, step=1.0, type="integer")
    >>> rows = read(pa.table({"id": ["x", "y"], "age": [30, None]}), label=["id"])
    >>> schema = Schema((1,), (age,), gaps=True)
    >>> completed(schema, fits(schema, rows), np.array([[1.0], [35.2]])).to_pydict()
    {'id': ['x', 'y'], 'age': [30, 35]}
    """
    if rows.frame is None:
        missing = np.isnan(rows.values)
        return np.where(missing, _possible(schema, values), rows.values).astype(rows.values.dtype)
    source, filled = rows.frame, _possible(schema, values)
    for place, column in enumerate(schema.columns):
        gaps = np.isnan(rows.values[:, place]) & ~np.isnan(filled[:, place])
        missing = np.flatnonzero(gaps)
        if len(missing) and column.name in source.columns:
            source = _with_filled(source, column, missing, filled[missing, place])
    return source.to_native()


def _possible(schema: Schema, values: np.ndarray) -> np.ndarray:
    """The nearest values that the columns can take."""
    if schema.shared:
        return schema.columns[0].nearest(values)
    columns = zip(schema.columns, np.moveaxis(values, -1, 0), strict=True)
    return np.stack([column.nearest(cells) for column, cells in columns], axis=-1)


# New columns


def _series(rows: Rows, name: str, values: np.ndarray, form: str) -> nw.Series[Any]:
    kind, words = rows.type_of(name), rows.words.get(name, ())
    dtype = dtype_named(rows.dtypes.get(name, ""))
    if kind == NUMBER and not words and not np.isnan(values).any():  # spares a list of them
        numbers = nw.new_series(name, np.ascontiguousarray(values), backend=cast(Any, form))
        return _stored(numbers, dtype)
    cells = native(kind, words).restore(values)
    if kind == DATETIME:
        cells = in_unit(cells, getattr(dtype, "time_unit", "us"))
    elif form == "pandas" and None in cells and not words:
        cells = [np.nan if cell is None else cell for cell in cells]
    series = nw.new_series(name, cells, backend=cast(Any, form))
    return _stored(_of_type(series, kind, words), dtype)


def _of_type(series: nw.Series[Any], kind: str, words: Sequence[str]) -> nw.Series[Any]:
    """A column of words as the categories that it came as."""
    if kind == ORDERED and words and series.implementation.value != "pyarrow":
        return series.cast(nw.Enum(words))
    return series.cast(nw.Categorical) if kind in (ORDERED, CATEGORY) and words else series


def _stored(series: nw.Series[Any], dtype: Any) -> nw.Series[Any]:
    """The column as a frame stores it, in the same bytes, unit and time zone, where that can hold
    it."""
    own = series.dtype
    if own == nw.Datetime and dtype == nw.Datetime:
        return (_in_zone(series, dtype.time_zone) if dtype.time_zone else series).cast(dtype)
    if dtype is None:
        return series
    floats = own.is_float() and dtype.is_float()
    integers = own.is_integer() and dtype.is_integer()
    return series.cast(dtype) if floats or (integers and _holds(dtype, series)) else series


def _in_zone(series: nw.Series[Any], zone: str) -> nw.Series[Any]:
    """Moments in UTC as those of a time zone."""
    return series.dt.replace_time_zone("UTC").dt.convert_time_zone(zone)


def _holds(dtype: Any, series: nw.Series[Any]) -> bool:
    """Whether a type of integers has room for those of a column."""
    low, high = _ends(dtype)
    return len(series) > 0 and bool(low <= series.min() and series.max() <= high)


def _ends(dtype: Any) -> tuple[int, int]:
    """The least and the largest number of a type of integers."""
    ends = np.iinfo(str(dtype).lower())
    return int(ends.min), int(ends.max)


# Filled columns


def _with_filled(
    source: nw.DataFrame[Any], column: Column, places: np.ndarray, values: np.ndarray
) -> nw.DataFrame[Any]:
    """The frame with these cells of a column replaced."""
    before = source.get_column(column.name)
    cells = _like(before, native(column.type, column.words).cells(values))
    if before.dtype == nw.Unknown:  # a column that has no cell, and so no type
        return source.with_columns(
            nw.new_series(column.name, cells, backend=cast(Any, source.implementation))
        )
    wide = _wide_enough(before, cells)
    if not source.implementation.is_pandas_like():
        return source.with_columns(wide.scatter(places.tolist(), cells))
    # By place, for an index may repeat itself.
    whole = source.to_native().copy(deep=False)
    filled = wide.to_native().copy()
    filled.iloc[places] = cells
    whole.isetitem(list(source.columns).index(column.name), filled)
    return nw.from_native(whole, eager_only=True)


def _like(series: nw.Series[Any], cells: list[Any]) -> list[Any]:
    """Cells as those of the column are: numbers within its type, moments in its unit and its time
    zone, categories that are no text."""
    if series.dtype.is_numeric():
        numbers = np.array(cells, np.float64).tolist()
        if not series.dtype.is_integer() or not all(map(float.is_integer, numbers)):
            return numbers
        low, high = _ends(series.dtype)
        return [min(max(int(number), low), high) for number in numbers]
    if series.dtype == nw.Date:
        return [moment.date() for moment in in_unit(cells, "us")]
    if series.dtype == nw.Datetime:
        dtype = cast(nw.Datetime, series.dtype)
        moments, zone = in_unit(cells, dtype.time_unit), dtype.time_zone
        return [m.replace(tzinfo=UTC).astimezone(ZoneInfo(zone)) if zone else m for m in moments]
    if series.dtype in (nw.Categorical, nw.Enum):
        own = {str(category): category for category in _categories(series)}
        return [own.get(cell, cell) for cell in cells]
    return cells


def _wide_enough(series: nw.Series[Any], cells: list[Any]) -> nw.Series[Any]:
    """The column with room for cells that its type would not hold: fractions among integers, a
    category that is not among its own."""
    if series.dtype.is_integer() and any(isinstance(cell, float) for cell in cells):
        return series.cast(nw.Float64)
    if series.dtype not in (nw.Categorical, nw.Enum):
        return series
    there = _categories(series)
    new = [cell for cell in dict.fromkeys(cells) if cell not in there]
    if new and series.implementation.is_pandas_like():
        return nw.from_native(series.to_native().cat.add_categories(new), series_only=True)
    return series.cast(nw.Enum([*there, *new])) if new and series.dtype == nw.Enum else series


def _categories(series: nw.Series[Any]) -> list[Any]:
    """The categories that the column's type has, where a type has its own."""
    if series.implementation.is_pandas_like():
        return series.to_native().cat.categories.tolist()
    return list(getattr(series.dtype, "categories", ()))
