"""How each column is measured: what values it can take, and the units a model sees it in."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from math import inf, isfinite, isqrt, nan, prod
from typing import Any, final

import numpy as np

from unveil.data.native import DATE, DATETIME, INTEGER, NUMBER, TYPES, WORDED, native
from unveil.data.read import ARRAY, listed
from unveil.errors import InputError

(
    REAL,
    GRID,
    BINARY,
    BINARIZED,
    CONSTANT,
    COUNT,
    POSITIVE,
    AMOUNT,
    ANGLE,
    PROPORTION,
    CATEGORY,
    ORDINAL,
) = KINDS = (
    "real",  # any number
    "grid",  # values a step apart: integers, grey levels, rounded decimals
    "binary",  # 0 or 1, or one of two words
    "binarized",  # grey levels, read as probabilities of a 1
    "constant",  # one value; put back when decoding, never modelled
    "count",  # how many there were
    "positive",  # a number above 0, measured by its ratio to the geometric mean
    "amount",  # nothing at all, exactly 0, or a number above 0, on a grid or not; measured likewise
    "angle",  # a direction, the same again after a period
    "proportion",  # a number between two ends
    "category",  # one of a few values, in no order
    "ordinal",  # one of a few values, in order
)
ASIDE = "aside"  # stands in the place of a kind where a column is not modelled at all
DENSITIES = (REAL, POSITIVE, ANGLE, PROPORTION)  # without a true probability of one value
CLASSES = (CATEGORY, ORDINAL)  # x is the code of a value among the levels
OF_WORDS = (BINARY, CONSTANT, *CLASSES)  # the kinds that a column of words can have
MOST_DECIMALS = 6
FORMAT_VERSION = 2


@final
@dataclass(frozen=True)
class Column:
    """How one column (or every cell of an image) is measured: x = (value - shift) / unit.

    A grid passes through `low` where that is finite, through `shift` otherwise. The value of a
    category or an ordinal is measured by its code, its place 0, 1, ... among the `levels`. A word
    is its place among the `words`, and so are then the levels.

    >>> age = Column("age", "grid", shift=40.0, unit=12.5, step=1.0)
    >>> age.nearest(np.array([39.2, np.nan])).tolist()
    [39.0, nan]
    """

    name: str
    kind: str  # one of KINDS
    shift: float = 0.0
    unit: float = 1.0
    step: float = 0.0  # spacing of the grid in the data's own units; 0 for real
    low: float = -inf  # smallest and largest value (or code) that it admits
    high: float = inf
    levels: tuple[float, ...] = ()  # the values that codes stand for, in order; () without codes
    type: str = NUMBER  # what its cells hold outside the model, one of `native.TYPES`
    words: tuple[str, ...] = ()  # of a worded type: the words that values 0, 1, ... stand for
    dtype: str = ""  # what a frame stores it as, see `native.dtype_named`; "" where none does

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(
                f"expected the kind of column {self.name!r} to be one of {listed(KINDS)}, but "
                f"{self.kind!r} came; correct it in the schema"
            )
        if not (isfinite(self.shift) and isfinite(self.unit) and self.unit > 0):
            raise InputError(
                f"expected a finite shift and a positive unit for column {self.name!r}, but "
                f"{self.shift} and {self.unit} came; correct them in the schema"
            )
        if not (isfinite(self.step) and self.step >= 0 and self.low <= self.high):
            raise InputError(
                f"expected a step of 0 or more and low <= high for column {self.name!r}, but step "
                f"{self.step}, low {self.low} and high {self.high} came; correct them in the schema"
            )
        if self.kind not in (*DENSITIES, AMOUNT, CONSTANT) and self.step == 0:
            raise InputError(
                f"expected column {self.name!r} of kind {self.kind} to have a step, but 0 came; "
                f"give it one, or make it real"
            )
        if self.kind in CLASSES and not self._has_codes:
            raise InputError(
                f"expected column {self.name!r} of kind {self.kind} to have two or more rising "
                f"levels, with codes from 0 on in steps of 1, but "
                f"{listed([f'{level:.9g}' for level in self.levels], 5) or 'no level'} came with "
                f"codes from {self.low} to {self.high}; correct them in the schema"
            )
        if self.type not in TYPES or (self.words and not self._is_of_words):
            raise InputError(
                f"expected column {self.name!r} to hold one of {listed(TYPES)}, and words only "
                f"where it is of kind {' or '.join(OF_WORDS)} and each is another, but it is "
                f"{self.kind} of type {self.type!r} with the words "
                f"{listed(self.words, 5) or 'none'}; correct it in the schema"
            )

    def holding(self, other: "Column") -> "Column":
        """The column, whose cells outside the model are what another's are.

        >>> Column("a", "real").holding(Column("a", "grid", step=1.0, type="integer")).type
        'integer'
        """
        return replace(self, type=other.type, words=other.words, dtype=other.dtype)

    @property
    def is_constant(self) -> bool:
        """Whether there is nothing to model."""
        return self.kind == CONSTANT

    @property
    def is_placed(self) -> bool:
        """Whether a value has a place of its own to be measured at, such as its code."""
        return self.kind in _PLACED

    @property
    def spacing(self) -> float:
        """Between neighbouring values in model units; 0 for real.

        A binarized cell is drawn as 0 or 1, whatever grey levels it came from.
        """
        return 1.0 if self.kind == BINARIZED else self.step / self.unit

    @property
    def is_bounded(self) -> bool:
        """Whether the grid has both ends."""
        return isfinite(self.low) and isfinite(self.high)

    def written(self, value: float) -> str:
        """A value of the column as a person writes it: a word, a date, a number of nine digits.

        >>> Column("day", "grid", shift=19000.0, step=7.0, type="date").written(19007.0)
        '2022-01-15'
        """
        return native(self.type, self.words).tell(value)

    def understood(self, asked: Any) -> float:
        """The value that a person wrote: the way back from `written`.

        Raises InputError for what the column cannot hold.

        >>> Column("day", "grid", shift=19000.0, step=7.0, type="date").understood("2022-01-15")
        19007.0
        """
        try:
            value = native(self.type, self.words).understand(asked)
        except (TypeError, ValueError, OverflowError):
            value = nan
        if not (isfinite(value) and self.admits(np.array([value])).all()):
            raise InputError(
                f"expected {self.expected} in column {self.name!r}, but {str(asked)!r} came; "
                f"correct it"
            )
        return value

    @property
    def expected(self) -> str:
        """What a value must be, in words."""
        if self.is_constant:
            return f"the one value {self.written(self.shift)} that it always had"
        if self.kind in CLASSES:
            return f"one of {listed([self.written(level) for level in self.levels])}"
        if self.low + self.step >= self.high:
            return f"{self.written(self.low)} or {self.written(self.high)}"
        if self.step == 0 and self.is_bounded:
            return f"a number from {self.low:.9g} to {self.high:.9g}"
        if self.step == 0:
            return _OF_ANY_STEP.get(self.kind, "a finite number")
        grid = f"a value on the grid of step {self.step:.9g}"
        if self.is_bounded:
            return f"{grid} from {self.written(self.low)} to {self.written(self.high)}"
        if isfinite(self.low):
            return f"{grid} from {self.written(self.low)} on"
        return f"{grid} through {self.written(self._origin)}"

    @property
    def reason(self) -> str:
        """What made it be of its kind, in a few words.

        >>> Column("age", "grid", shift=40.0, unit=12.5, step=1.0, type="integer").reason
        'whole numbers'
        """
        return _REASONS[self.kind](self)

    def nearest(self, values: np.ndarray) -> np.ndarray:
        """The nearest values that the column can take, float64, in the data's units; NaN stays.

        >>> Column("grey", "grid", 8.0, 8.0, step=1.0, low=0.0, high=16.0).nearest(
        ...     np.array([-3.0, 2.4, 99.0])
        ... ).tolist()
        [0.0, 2.0, 16.0]
        """
        values = np.asarray(values, np.float64)
        if self.is_constant:
            return np.full_like(values, self.shift)
        if self.kind in CLASSES:
            return self._level(self._code(values))
        if self.step > 0:
            values = self._origin + self.step * np.rint((values - self._origin) / self.step)
            decimals = _decimals(self.step, self._origin)
            if decimals is not None:  # 0.3, not 0.30000000000000004
                values = np.rint(values * 10.0**decimals) / 10.0**decimals
        elif self.type == INTEGER:  # too many for a grid
            values = np.rint(values)
        return np.clip(values, self.low, self.high)

    def admits(self, values: np.ndarray) -> np.ndarray:
        """Which values the column can take, as booleans; a missing one always.

        A value may be off by a ten-thousandth of a step, and by what writing it in float32 or
        with six digits does to it, though never by more than a hundredth of a step.

        >>> Column("sex", "binary", step=1.0, low=0.0, high=1.0).admits(np.array([0, 1, 2]))
        array([ True,  True, False])
        """
        values = np.asarray(values, np.float64)
        written = np.abs(values) * 2.0**-23
        if self.is_bounded:
            written = np.maximum(written, 1e-6 * (self.high - self.low))
        if self.step > 0:
            gap = min(np.diff(self.levels), default=self.step)
            written = np.clip(written, 1e-4 * gap, 1e-2 * gap)
        with np.errstate(invalid="ignore"):  # an infinite value is compared as NaN: not admitted
            return (np.abs(values - self.nearest(values)) <= written) | np.isnan(values)

    def place(self, values: np.ndarray) -> np.ndarray:
        """What shift and unit measure: the values, or their codes; a proportion within its ends.

        >>> Column("size", "ordinal", step=1.0, low=0.0, high=2.0, levels=(1.0, 2.0, 5.0)).place(
        ...     np.array([5.0, 1.0, np.nan])
        ... ).tolist()
        [2.0, 0.0, nan]
        """
        return _PLACED.get(self.kind, _as_it_is)(self, values)

    def settle(self, places: np.ndarray) -> np.ndarray:
        """Decoded cells as they can occur: grids rounded, constants put back, codes as the values
        that they stand for, angles in the period that the data were written in.

        Binary cells, counts and amounts are left as they are, for they may hold probabilities and
        means; an amount that float32 moved a little off its grid is put back.

        >>> from math import tau
        >>> Column("wind", "angle", unit=360.0 / tau, low=0.0, high=360.0).settle(
        ...     np.array([-90.0, 370.0])
        ... ).tolist()
        [270.0, 10.0]
        """
        return _SETTLED.get(self.kind, _as_it_is)(self, places)

    def binarized(self) -> "Column":
        """The column with its values read as probabilities of a 1.

        x = (value - low) / (high - low), and low + x * (high - low) on the way back.

        Raises InputError when its values do not lie on a grid with two ends.
        """
        if self.kind in (BINARY, BINARIZED, CONSTANT):
            return self
        if not (self.kind == GRID and self.is_bounded):
            raise InputError(
                f"expected values between two known ends to read as probabilities, but column "
                f"{self.name!r} is {self.kind} without ends; choose a likelihood for {self.kind} "
                f"values, or give low and high in the schema"
            )
        return replace(self, kind=BINARIZED, shift=self.low, unit=self.high - self.low)

    @property
    def _origin(self) -> float:
        """A point of the grid."""
        return self.low if isfinite(self.low) else self.shift

    @property
    def _has_codes(self) -> bool:
        """Whether there are levels, in order, and a grid of their codes."""
        rising = all(a < b for a, b in pairwise(self.levels))
        codes = (self.step, self.low, self.high) == (1.0, 0.0, len(self.levels) - 1.0)
        return len(self.levels) > 1 and rising and codes

    @property
    def _is_of_words(self) -> bool:
        """Whether there are words, each another, of a kind and a type that has them."""
        ends = (self.shift, self.shift) if self.is_constant else (self.low, self.high)
        places = (0.0, len(self.words) - 1.0)
        distinct = len(set(self.words)) == len(self.words)
        return self.kind in OF_WORDS and self.type in WORDED and distinct and ends == places

    def _code(self, values: np.ndarray) -> np.ndarray:
        """The places among the levels of those nearest to the values; NaN stays."""
        levels = np.array(self.levels)
        codes = np.searchsorted((levels[1:] + levels[:-1]) / 2, values)
        return np.where(np.isnan(values), np.nan, codes)

    def _level(self, codes: np.ndarray) -> np.ndarray:
        """The levels of the nearest codes; NaN stays."""
        nearest = np.clip(np.rint(codes), self.low, self.high)
        missing = np.isnan(nearest)
        places = np.where(missing, 0, nearest).astype(np.int64)
        return np.where(missing, np.nan, np.array(self.levels)[places])

    def _on_grid(self, values: np.ndarray) -> np.ndarray:
        """The grid's value where it is all but that."""
        return np.where(self.admits(values), self.nearest(values), values)

    def _turned(self, values: np.ndarray) -> np.ndarray:
        """The same directions between low and high."""
        return self.low + (values - self.low) % (self.high - self.low)


def _as_it_is(column: Column, values: np.ndarray) -> np.ndarray:
    return values


def count(name: str) -> Column:
    """A column of counts: x is the count itself.

    >>> count("visits").expected
    'a value on the grid of step 1 from 0 on'
    """
    return Column(name, COUNT, step=1.0, low=0.0)


# Where the cells of a kind are more than measured: on the way in, and on the way out.
_PLACED: Mapping[str, Callable[[Column, np.ndarray], np.ndarray]] = {
    PROPORTION: Column.nearest,
    CATEGORY: Column._code,
    ORDINAL: Column._code,
}
_SETTLED: Mapping[str, Callable[[Column, np.ndarray], np.ndarray]] = {
    REAL: Column.nearest,
    GRID: Column.nearest,
    CONSTANT: Column.nearest,
    POSITIVE: Column.nearest,
    AMOUNT: Column._on_grid,
    ANGLE: Column._turned,
    PROPORTION: Column.nearest,
    CATEGORY: Column._level,
    ORDINAL: Column._level,
}
# What a number without a step must be, where it is not any.
_OF_ANY_STEP: Mapping[str, str] = {
    POSITIVE: "a number above 0",
    AMOUNT: "0 or a number above 0",
}


_STEPS: Mapping[str, str] = {DATE: "days", DATETIME: "seconds"}


def _values(column: Column) -> str:
    return f"{len(column.levels or (0, 1))} values, {column.type}"


def _grid(column: Column) -> str:
    if column.type in _STEPS:
        return f"{column.step:.9g} {_STEPS[column.type]} apart"
    if column.low + column.step >= column.high:
        return "2 values"
    return "whole numbers" if column.step == 1 else f"a step of {column.step:.9g}"


_REASONS: Mapping[str, Callable[[Column], str]] = {
    REAL: lambda column: "numbers of any size",
    GRID: _grid,
    BINARY: _values,
    BINARIZED: lambda column: "grey levels as probabilities",
    CONSTANT: lambda column: f"one value, {column.written(column.shift)}",
    COUNT: lambda column: "whole numbers from 0, a long tail",
    POSITIVE: lambda column: "above 0, a long tail",
    AMOUNT: lambda column: "often exactly 0, else a long tail",
    ANGLE: lambda column: f"the same again after {column.high - column.low:.9g}",
    PROPORTION: lambda column: f"from {column.low:.9g} to {column.high:.9g}",
    CATEGORY: _values,
    ORDINAL: lambda column: f"{len(column.levels)} values in order",
}


@final
@dataclass(frozen=True)
class Aside:
    """A column that rides along and is not modelled, and why not."""

    name: str
    why: str


@final
@dataclass(frozen=True)
class Schema:
    """How rows are measured: one column per column of a table, or one for all cells of an image.

    >>> grey = Column("cell", "grid", shift=8.0, unit=8.0, step=1.0, low=0.0, high=16.0)
    >>> schema = Schema(event_shape=(8, 8), columns=(grey,), gaps=False)
    >>> schema.shared, schema.dims, schema.picture_shape
    (True, 64, (8, 8))
    """

    event_shape: tuple[int, ...]
    columns: tuple[Column, ...]
    gaps: bool  # whether the training rows had missing cells
    aside: tuple[Aside, ...] = ()  # columns of a table that are not modelled
    form: str = ARRAY  # what the training rows came as, see `Rows`

    def __post_init__(self) -> None:
        if not self.shared and self.event_shape != (len(self.columns),):
            raise InputError(
                f"expected one column for all cells or one for each of a table, but "
                f"{len(self.columns)} came for rows of shape {self.event_shape}; correct the schema"
            )
        if not self.modelled:
            raise InputError(
                f"expected a column that varies, but each of {listed(self.names)} holds one value "
                f"only; there is nothing to model, so give data that vary"
            )

    @property
    def shared(self) -> bool:
        """Whether the single column describes every cell."""
        return len(self.columns) == 1 and self.event_shape != (1,)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(column.name for column in self.columns)

    @property
    def modelled(self) -> tuple[int, ...]:
        """The positions of the columns that are not constant."""
        return tuple(i for i, column in enumerate(self.columns) if not column.is_constant)

    @property
    def dims(self) -> int:
        """The number of modelled cells in a row."""
        return prod(self.event_shape) if self.shared else len(self.modelled)

    @property
    def picture_shape(self) -> tuple[int, ...] | None:
        """(h, w) or (h, w, c) when a row can be drawn as a picture, None otherwise."""
        if len(self.event_shape) in (2, 3):
            return self.event_shape
        side = isqrt(prod(self.event_shape))
        return (side, side) if self.shared and self.event_shape == (side * side,) else None

    @property
    def is_image(self) -> bool:
        """Whether a row can be drawn as a picture."""
        return self.picture_shape is not None

    @property
    def draws_cells(self) -> bool:
        """Whether cells are probabilities of a 1, so that a row in model units is a draw."""
        return any(column.kind == BINARIZED for column in self.columns)

    @property
    def has_masses_only(self) -> bool:
        """Whether every modelled cell has true probabilities rather than a density."""
        return all(self.columns[i].step > 0 for i in self.modelled)

    def binarized(self) -> "Schema":
        """The schema with grey levels read as probabilities of a 1.

        Raises InputError for a column whose values do not lie on a grid with two ends.
        """
        return replace(self, columns=tuple(column.binarized() for column in self.columns))

    def to_document(self) -> dict[str, Any]:
        """The schema as plain JSON, an infinite end as null."""
        return {
            "format_version": FORMAT_VERSION,
            "event_shape": list(self.event_shape),
            "gaps": self.gaps,
            "form": self.form,
            "columns": [_column_to_document(column) for column in self.columns],
            "aside": [asdict(column) for column in self.aside],
        }

    @classmethod
    def from_document(cls, document: Any) -> "Schema":
        """The schema that `to_document` wrote.

        Raises InputError, in one sentence, when the document is anything else.
        """
        version = entry(document, "format_version", int)
        if version != FORMAT_VERSION:
            raise InputError(
                f"expected a schema of format_version {FORMAT_VERSION}, but {version} came; use "
                f"the unveil that wrote it"
            )
        shape = entry(document, "event_shape", list)
        if not shape or not all(type(axis) is int and axis > 0 for axis in shape):
            raise InputError(
                f"expected event_shape to be a list of positive integers, but {shape} came; "
                f"correct it in the schema"
            )
        return cls(
            event_shape=tuple(shape),
            columns=tuple(map(_column_from_document, entry(document, "columns", list))),
            gaps=entry(document, "gaps", bool),
            form=entry(document, "form", str),
            aside=tuple(map(_aside_from_document, entry(document, "aside", list))),
        )


def _decimals(*numbers: float) -> int | None:
    """How many decimals write all the numbers, up to MOST_DECIMALS; None if these do not."""
    for decimals in range(MOST_DECIMALS + 1):
        scaled = np.array(numbers) * 10.0**decimals
        if (np.abs(scaled - np.rint(scaled)) <= 2.0**-46 * np.abs(scaled)).all():
            return decimals
    return None


# Documents


def _column_to_document(column: Column) -> dict[str, Any]:
    left_out = ("levels", "words")
    entries = {key: value for key, value in asdict(column).items() if key not in left_out}
    plain = {key: None if value in (-inf, inf) else value for key, value in entries.items()}
    levels = column.words or column.levels
    return plain | ({"levels": list(levels)} if levels else {})


def _column_from_document(document: Any) -> Column:
    low = entry(document, "low", int | float | None)
    high = entry(document, "high", int | float | None)
    levels = entry(document, "levels", list) if "levels" in document else []
    kind, words = entry(document, "kind", str), words_of(levels)
    return Column(
        name=entry(document, "name", str),
        kind=kind,
        shift=float(entry(document, "shift", int | float)),
        unit=float(entry(document, "unit", int | float)),
        step=float(entry(document, "step", int | float)),
        low=-inf if low is None else float(low),
        high=inf if high is None else float(high),
        levels=levels_of(kind, words) if words else tuple(numbers(levels, "levels")),
        type=entry(document, "type", str),
        words=words,
        dtype=entry(document, "dtype", str) if "dtype" in document else "",
    )


def _aside_from_document(document: Any) -> Aside:
    return Aside(entry(document, "name", str), entry(document, "why", str))


def words_of(levels: Sequence[Any]) -> tuple[str, ...]:
    """The levels that a document lists, where they are words; () where they are numbers.

    >>> words_of(["no", "yes"]), words_of([1.0, 2.0])
    (('no', 'yes'), ())
    """
    return tuple(levels) if all(isinstance(level, str) for level in levels) else ()


def levels_of(kind: str, words: Sequence[str]) -> tuple[float, ...]:
    """The levels of a column of words: their places, where its kind has levels.

    >>> levels_of("category", ("a", "b")), levels_of("binary", ("a", "b"))
    ((0.0, 1.0), ())
    """
    return tuple(map(float, range(len(words)))) if kind in CLASSES else ()


def numbers(values: Sequence[Any], key: str) -> Iterator[float]:
    """The numbers that a document lists under `key`, once they are finite.

    Raises InputError otherwise.

    >>> list(numbers([1, 2.5], "levels"))
    [1.0, 2.5]
    """
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
            raise InputError(
                f"expected {key!r} in the schema to be finite numbers, but {value!r} came; write "
                f"them as unveil writes schema.json"
            )
        yield float(value)


def entry(document: Any, key: str, kind: Any) -> Any:
    """One entry of a document, once it is there and of its kind.

    Raises InputError otherwise.

    >>> entry({"step": 1.0}, "step", float)
    1.0
    """
    if not isinstance(document, dict) or key not in document:
        raise InputError(
            f"expected an object with {key!r} in the schema, but {str(document)[:80]} came; write "
            f"it as unveil writes schema.json"
        )
    value = document[key]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise InputError(
            f"expected {key!r} in the schema to be {getattr(kind, '__name__', kind)}, but "
            f"{value!r} came; write it as unveil writes schema.json"
        )
    return value
