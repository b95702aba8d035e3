"""Columns of any type as numbers, and numbers as what the column holds: words, dates, booleans."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from numbers import Number as AnyNumber
from numbers import Real
from typing import Any, TypeAlias, cast, final

import narwhals as nw
import numpy as np

from unveil.errors import InputError

NUMBER, INTEGER, BOOLEAN, TEXT, CATEGORY, ORDERED, DATE, DATETIME = TYPES = (
    "number",
    "integer",
    "boolean",
    "text",
    "category",  # words of a categorical type
    "ordered",  # the same, in an order of its own
    "date",  # measured in days since 1970
    "datetime",  # measured in seconds since 1970, UTC
)
WORDED = (TEXT, CATEGORY, ORDERED)  # a cell is measured by the place of its word among the words
LARGEST_INTEGER = 2.0**53  # beyond it float64 no longer tells neighbouring integers apart
EPOCH = date(1970, 1, 1)
_MISSING = ("NAType", "NaTType")  # of pandas, which is not imported for their sake
# The numbers of a column (row,), NaN where it is missing; its type; and the words of a worded one.
Measured: TypeAlias = tuple[np.ndarray, str, tuple[str, ...]]


class Native(ABC):
    """What the numbers of a column stand for outside the model."""

    @abstractmethod
    def cells(self, values: np.ndarray) -> list[Any]:
        """Numbers (row,), none missing, as the cells of a frame."""

    @abstractmethod
    def tell(self, value: float) -> str:
        """A value as a person writes it."""

    @abstractmethod
    def understand(self, asked: Any) -> float:
        """The number of what a person wrote. Raises ValueError for what is no such value."""

    def restore(self, values: np.ndarray) -> list[Any]:
        """Numbers (row,) as the cells of a frame, None where they are missing.

        >>> Boolean().restore(np.array([0.0, np.nan, 0.9]))
        [False, None, True]
        """
        missing = np.isnan(values)
        cells = iter(self.cells(values[~missing]))
        return [None if gap else next(cells) for gap in missing]


@final
@dataclass(frozen=True)
class Number(Native):
    """A number: itself.

    >>> Number().tell(0.30000000000000004), Number().understand("0.5")
    ('0.3', 0.5)
    """

    def cells(self, values: np.ndarray) -> list[Any]:
        return values.astype(np.float64).tolist()

    def tell(self, value: float) -> str:
        return f"{value:.9g}"

    def understand(self, asked: Any) -> float:
        return float(asked)


@final
@dataclass(frozen=True)
class Integer(Native):
    """A whole number; a float where one of the numbers is none, as an expected value may be.

    >>> Integer().cells(np.array([2.0, 3.0])), Integer().cells(np.array([2.0, 3.5]))
    ([2, 3], [2.0, 3.5])
    """

    def cells(self, values: np.ndarray) -> list[Any]:
        return whole(values).tolist()

    def tell(self, value: float) -> str:
        return f"{value:.9g}"

    def understand(self, asked: Any) -> float:
        return float(asked)


@final
@dataclass(frozen=True)
class Boolean(Native):
    """True for 1 and False for 0, or whichever is nearer.

    >>> Boolean().tell(1.0), Boolean().understand("false")
    ('True', 0.0)
    """

    def cells(self, values: np.ndarray) -> list[Any]:
        return (values > 0.5).tolist()

    def tell(self, value: float) -> str:
        return str(value > 0.5)

    def understand(self, asked: Any) -> float:
        if str(asked).lower() in ("true", "false"):
            return float(str(asked).lower() == "true")
        return float(asked)


@final
@dataclass(frozen=True)
class Word(Native):
    """The word at a place, or at the one that is nearest.

    >>> Word(("no", "yes")).tell(1.0), Word(("no", "yes")).understand("no")
    ('yes', 0.0)
    """

    words: tuple[str, ...]

    def cells(self, values: np.ndarray) -> list[Any]:
        return [self.tell(value) for value in values.tolist()]

    def tell(self, value: float) -> str:
        return self.words[round(value)]

    def understand(self, asked: Any) -> float:
        return float(self.words.index(str(asked)))


@final
@dataclass(frozen=True)
class Date(Native):
    """A day, by how many have passed since 1970.

    >>> Date().tell(19000.0), Date().understand("2022-01-08")
    ('2022-01-08', 19000.0)
    """

    def cells(self, values: np.ndarray) -> list[Any]:
        return np.rint(values).astype(np.int64).astype("datetime64[D]").tolist()

    def tell(self, value: float) -> str:
        return str(self.cells(np.array([value]))[0])

    def understand(self, asked: Any) -> float:
        day = asked if isinstance(asked, date) else date.fromisoformat(str(asked))
        return float((day - EPOCH).days)


@final
@dataclass(frozen=True)
class DateTime(Native):
    """A moment, by how many seconds have passed since 1970; without a time zone, in UTC.

    >>> DateTime().tell(86400.5), DateTime().understand("1970-01-02")
    ('1970-01-02 00:00:00.500000', 86400.0)
    """

    def cells(self, values: np.ndarray) -> list[Any]:
        return np.rint(values * 1e6).astype(np.int64).astype("datetime64[us]").tolist()

    def tell(self, value: float) -> str:
        return str(self.cells(np.array([value]))[0])

    def understand(self, asked: Any) -> float:
        moment = asked if isinstance(asked, datetime) else datetime.fromisoformat(str(asked))
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def native(kind: str, words: Sequence[str] = ()) -> Native:
    """What the numbers of a column of this type stand for.

    >>> native("ordered", ("low", "high")).cells(np.array([1.0]))
    ['high']
    """
    return Word(tuple(words)) if words else _NATIVE[kind]


_NATIVE: Mapping[str, Native] = {
    **dict.fromkeys((NUMBER, *WORDED), Number()),  # a worded column without a word is all missing
    INTEGER: Integer(),
    BOOLEAN: Boolean(),
    DATE: Date(),
    DATETIME: DateTime(),
}


def whole(values: np.ndarray) -> np.ndarray:
    """The same values as integers where all of them are; a gap keeps them floats.

    >>> whole(np.array([1.0, 2.0])).dtype.kind, whole(np.array([1.0, np.nan])).dtype.kind
    ('i', 'f')
    """
    if values.dtype.kind != "f":
        return values
    # A comparison with NaN is false, so that no gap and nothing endless becomes an integer.
    exact = (np.rint(values) == values) & (np.abs(values) <= LARGEST_INTEGER)
    return values.astype(np.int64) if exact.all() else values


# A frame's own types


def dtype_named(name: str) -> Any:
    """The type of a frame's column that `str` of it names, of numbers or moments; None for others.

    >>> dtype_named("Int8"), dtype_named(str(nw.Datetime("ms", "Asia/Tokyo"))), dtype_named("List")
    (Int8, Datetime(time_unit='ms', time_zone='Asia/Tokyo'), None)
    """
    moment = _MOMENT.fullmatch(name)
    if moment:
        return nw.Datetime(cast(Any, moment["unit"]), moment["zone"])
    return getattr(nw, name)() if _NUMERIC.fullmatch(name) else None


_MOMENT = re.compile(
    r"Datetime\(time_unit='(?P<unit>s|ms|us|ns)', time_zone=(None|'(?P<zone>.+)')\)"
)
_NUMERIC = re.compile(r"U?Int(8|16|32|64)|Float(32|64)")
# Of the units that are coarser than microseconds, half of one.
_HALF = {"s": np.timedelta64(500, "ms"), "ms": np.timedelta64(500, "us")}


def in_unit(moments: Sequence[date | None], unit: str) -> list[Any]:
    """Moments, or days, rounded to a unit that a column of a frame counts in; None stays.

    >>> in_unit([datetime(1970, 1, 1, 0, 0, 0, 700_000), date(1970, 1, 2)], "s")
    [datetime.datetime(1970, 1, 1, 0, 0, 1), datetime.datetime(1970, 1, 2, 0, 0)]
    """
    exact = np.array(moments, "datetime64[us]")
    if unit in _HALF:
        exact = (exact + _HALF[unit]).astype(f"datetime64[{unit}]").astype("datetime64[us]")
    return exact.tolist()


# From a frame's column to numbers


def measure(series: nw.Series[Any], name: str) -> Measured:
    """The cells of a column of a frame as numbers.

    A word is measured by its place among the words that there are: in their order where the column
    has one, else in that of the alphabet. An empty text is a missing one.

    Raises InputError for a column of another type, or of several.

    >>> import pyarrow as pa
    >>> words = nw.from_native(pa.chunked_array([["b", None, "a"]]), series_only=True)
    >>> measure(words, "size")
    (array([ 1., nan,  0.]), 'text', ('a', 'b'))
    """
    if series.dtype == nw.Boolean and series.null_count():
        return _of_objects(series.to_list(), name)
    if series.dtype == nw.Boolean or series.dtype.is_numeric():
        return _numbers(series, name), _numeric_type(series.dtype), ()
    if series.dtype == nw.Datetime:
        microseconds = series.dt.timestamp("us").cast(nw.Float64).to_numpy()
        return microseconds.astype(np.float64) / 1e6, DATETIME, ()
    if series.dtype == nw.Enum:
        order = tuple(map(str, cast(nw.Enum, series.dtype).categories))
        return _of_words(_as_text(series.to_list()), ORDERED, order)
    if series.dtype == nw.Categorical:
        return _of_words(_as_text(series.to_list()), CATEGORY)
    return _of_objects(series.to_list(), name)


def plain(array: np.ndarray, source: str) -> np.ndarray:
    """The array in a native dtype of at most eight bytes, booleans as 0 and 1.

    Raises InputError for anything but numbers.

    >>> plain(np.array([True, False]), "the data")
    array([1, 0], dtype=uint8)
    """
    if array.dtype.kind not in "biuf":
        raise InputError(
            f"expected an array of numbers, but {source} has dtype {array.dtype}; "
            f"convert it to integers or floats first"
        )
    if isinstance(array, np.ma.MaskedArray):
        return np.ma.filled(array.astype(np.float64), np.nan)
    if array.dtype == np.bool_:
        return array.view(np.uint8)
    if array.dtype.itemsize > 8:  # long double
        return array.astype(np.float64)
    if isinstance(array, np.memmap):  # left in its file, in its own byte order
        return array
    return np.asarray(array, dtype=array.dtype.newbyteorder("="))


def _numeric_type(dtype: Any) -> str:
    if dtype == nw.Boolean:
        return BOOLEAN
    return INTEGER if dtype.is_integer() else NUMBER


def _numbers(series: nw.Series[Any], name: str) -> np.ndarray:
    if not exact(series):
        # One by one, for frames refuse to make floats of integers that these do not tell apart.
        cells = [np.nan if is_gap(cell) else float(cell) for cell in series.to_list()]
        return np.array(cells, np.float64)
    if series.null_count() or series.dtype.is_decimal():
        series = series.cast(nw.Float64)
    return plain(series.to_numpy(), f"column {name!r}")


def exact(series: nw.Series[Any]) -> bool:
    """Whether its numbers are told apart as `measure` has them: no integer with gaps beside it is
    beyond what float64 holds.

    >>> import pyarrow as pa
    >>> exact(nw.from_native(pa.chunked_array([[2**60, None]]), series_only=True))
    False
    """
    if not (series.dtype.is_integer() and series.null_count()):
        return True
    ends = [abs(int(end)) for end in (series.min(), series.max()) if not is_gap(end)]
    return max(ends, default=0) <= LARGEST_INTEGER


def is_gap(cell: Any) -> bool:
    """Whether a cell of a frame is missing.

    >>> [is_gap(cell) for cell in (None, float("nan"), "", 0)]
    [True, True, True, False]
    """
    if isinstance(cell, AnyNumber):
        return bool(cell != cell)
    return cell is None or type(cell).__name__ in _MISSING or (isinstance(cell, str) and not cell)


def _as_text(cells: list[Any]) -> list[str | None]:
    return [None if is_gap(cell) else str(cell) for cell in cells]


def _of_words(cells: list[str | None], kind: str, order: Sequence[str] | None = None) -> Measured:
    there = {cell for cell in cells if cell is not None}
    words = sorted(there) if order is None else [word for word in order if word in there]
    place: dict[str | None, float] = {word: float(code) for code, word in enumerate(words)}
    return np.array([place.get(cell, np.nan) for cell in cells], np.float64), kind, tuple(words)


def _of_objects(cells: list[Any], name: str) -> Measured:
    """Cells of which each says what it is."""
    there = [cell for cell in cells if not is_gap(cell)]
    kind = next((kind for kind, is_one in _TOLD_BY if all(map(is_one, there))), None)
    if kind is None:
        raise _of_several_types(cells, name)
    if kind == TEXT:
        return _of_words(_as_text(cells), TEXT)
    number = _NATIVE[kind].understand
    numbers = [np.nan if is_gap(cell) else number(cell) for cell in cells]
    return np.array(numbers, np.float64), kind, ()


def _of_several_types(cells: list[Any], name: str) -> InputError:
    number = (row for row, cell in enumerate(cells) if not is_gap(cell))
    row = next((row for row in number if not isinstance(cells[row], AnyNumber)), 0)
    return InputError(
        f"expected numbers, words, booleans or dates in column {name!r}, and one of these alone, "
        f"but row {row} (counted from 0) holds {str(cells[row])!r}; turn them into one of these, "
        f"keep the column as a label with --label {name!r}, or leave it out with --drop {name!r}"
    )


def _is_boolean(cell: Any) -> bool:
    return isinstance(cell, bool | np.bool_)


def _is_number(cell: Any) -> bool:
    return isinstance(cell, Real | Decimal) and not _is_boolean(cell)


def _is_text(cell: Any) -> bool:
    return isinstance(cell, str)


def _is_moment(cell: Any) -> bool:
    return isinstance(cell, datetime)


def _is_day(cell: Any) -> bool:
    return isinstance(cell, date) and not isinstance(cell, datetime)


# What a column holds whose cells are all alike; one without any cell holds numbers.
_TOLD_BY: tuple[tuple[str, Callable[[Any], bool]], ...] = (
    (NUMBER, _is_number),
    (BOOLEAN, _is_boolean),
    (TEXT, _is_text),
    (DATE, _is_day),
    (DATETIME, _is_moment),
)
