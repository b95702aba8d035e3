"""How each column is measured: what values it can take, and the units a model sees it in."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from math import inf, isfinite, isqrt, prod
from typing import Any, final

import numpy as np

from unveil.data.read import Rows, blocks, listed, numbered
from unveil.errors import InputError

(
    REAL,
    GRID,
    BINARY,
    BINARIZED,
    CONSTANT,
    COUNT,
    POSITIVE,
    ANGLE,
    PROPORTION,
    CATEGORY,
    ORDINAL,
) = KINDS = (
    "real",  # any number
    "grid",  # values a step apart: integers, grey levels, rounded decimals
    "binary",  # 0 or 1
    "binarized",  # grey levels, read as probabilities of a 1
    "constant",  # one value; put back when decoding, never modelled
    # How many there were. Inferred for a column of whole numbers, three or more of them and 0 the
    # smallest, with a long thin tail: the variance is no less than nine tenths of the mean, the
    # skewness is above 1, and the largest value is held by at most one cell in a hundred. In a
    # table each column is judged by itself. Columns without names are alike: all are counts where
    # most of them look so and the others could be, else none. A shared column is never one for
    # pictures, nor where its largest value is the depth of an image.
    "count",
    # The rest is never inferred: `unveil.data.reread.reread` reads a column so.
    "positive",  # a number above 0, measured by its ratio to the geometric mean
    "angle",  # a direction, the same again after a period
    "proportion",  # a number between two ends
    "category",  # one of a few values, in no order
    "ordinal",  # one of a few values, in order
)
DENSITIES = (REAL, POSITIVE, ANGLE, PROPORTION)  # without a true probability of one value
CLASSES = (CATEGORY, ORDINAL)  # x is the code of a value among the levels
DEPTHS = (1, 3, 7, 15, 16, 31, 63, 127, 255, 511, 1023, 4095, 16383, 65535)  # 16: digits
FEWEST_ROWS = 10  # fewer say nothing about a scale, let alone a grid
MOST_STEPS = 100_000  # a finer grid is as good as the real line
MOST_DECIMALS = 6
LEAST_DISPERSION = 0.9  # of counts: variance over mean, 1 for Poisson, with room for chance
LEAST_SKEWNESS = 1.0
RARE = 0.01  # the share of cells that hold the largest count, at most
FORMAT_VERSION = 1


@final
@dataclass(frozen=True)
class Column:
    """How one column (or every cell of an image) is measured: x = (value - shift) / unit.

    A grid passes through `low` where that is finite, through `shift` otherwise. The value of a
    category or an ordinal is measured by its code, its place 0, 1, ... among the `levels`.

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
        if self.kind not in (*DENSITIES, CONSTANT) and self.step == 0:
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

    @property
    def expected(self) -> str:
        """What a value must be, in words."""
        if self.is_constant:
            return f"the one value {self.shift:.9g} that it always had"
        if self.kind in CLASSES:
            return f"one of {listed([f'{level:.9g}' for level in self.levels])}"
        if self.step == 0 and self.is_bounded:
            return f"a number from {self.low:.9g} to {self.high:.9g}"
        if self.step == 0:
            return "a number above 0" if isfinite(self.low) else "a finite number"
        if self.low + self.step >= self.high:
            return f"{self.low:.9g} or {self.high:.9g}"
        grid = f"a value on the grid of step {self.step:.9g}"
        if self.is_bounded:
            return f"{grid} from {self.low:.9g} to {self.high:.9g}"
        if isfinite(self.low):
            return f"{grid} from {self.low:.9g} on"
        return f"{grid} through {self._origin:.9g}"

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

        Binary cells and counts are left as they are, for they may hold probabilities and rates.

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

    def _turned(self, values: np.ndarray) -> np.ndarray:
        """The same directions between low and high."""
        return self.low + (values - self.low) % (self.high - self.low)


def _as_it_is(column: Column, values: np.ndarray) -> np.ndarray:
    return values


# Where the cells of a kind are more than measured: on the way in, and on the way out.
_PLACED: Mapping[str, Callable[[Column, np.ndarray], np.ndarray]] = {
    PROPORTION: Column.nearest,
    CATEGORY: Column._code,
    ORDINAL: Column._code,
}
_SETTLED: Mapping[str, Callable[[Column, np.ndarray], np.ndarray]] = {
    GRID: Column.nearest,
    CONSTANT: Column.nearest,
    POSITIVE: Column.nearest,
    ANGLE: Column._turned,
    PROPORTION: Column.nearest,
    CATEGORY: Column._level,
    ORDINAL: Column._level,
}


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
        return all(self.columns[i].kind not in DENSITIES for i in self.modelled)

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
            "columns": [_column_to_document(column) for column in self.columns],
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
        )


def infer(rows: Rows) -> Schema:
    """The schema of training rows, from their observed cells.

    Cells of images and pixel arrays share one column; a table has one for each of its own. Scales
    are a mean and a standard deviation, or half the depth of an image, so that x is about 1.
    Steps are as large as the data allow. Counts are told by their long tail, as KINDS says.

    Raises InputError for fewer than ten rows, a column without a value, no column that varies,
    and values whose scale floating point cannot hold.

    >>> rows = Rows(np.arange(12.0)[:, None] * [10.0, 0.5], names=("price", "weight"))
    >>> [(column.kind, column.step) for column in infer(rows).columns]
    [('grid', 10.0), ('grid', 0.5)]
    """
    if len(rows) < FEWEST_ROWS:
        raise InputError(
            f"expected at least {FEWEST_ROWS} rows to learn from, but {rows.source} has "
            f"{len(rows)}; add rows"
        )
    if rows.names:
        columns = tuple(
            _column(name, cells, distinct(name, cells))
            for name, cells in zip(rows.names, rows.values.T, strict=True)
        )
        columns = _with_counts(columns, rows)
    else:
        columns = (_shared_column(rows.values),)
    gaps = any(np.isnan(rows.values[block]).any() for block in blocks(rows.values))
    return Schema(rows.event_shape, columns, gaps=gaps)


# One column


def _shared_column(values: np.ndarray) -> Column:
    """Every cell of an image: 0 and 1, grey levels from 0 to a depth, or as a column of a table."""
    levels = distinct("cell", values)
    if np.isin(levels, (0, 1)).all() and len(levels) == 2:
        return _binary("cell")
    column = _column("cell", values, levels)
    if values.ndim == 2 and levels[-1] not in DEPTHS and _looks_counted(column, values):
        return count("cell")
    grids = [(1.0, float(depth)) for depth in DEPTHS] + [(1 / depth, 1.0) for depth in DEPTHS]
    for step, high in grids:
        if _are_grey_levels(levels, step, high):
            return Column("cell", GRID, high / 2, high / 2, step, low=0.0, high=high)
    return column


def _are_grey_levels(levels: np.ndarray, step: float, high: float) -> bool:
    """Whether the levels lie on 0, step, ..., high, no two of them on the same point."""
    if len(levels) < 2 or levels[0] < 0 or levels[-1] > high * (1 + 1e-6):
        return False
    points = np.rint(levels / step)
    close = np.abs(levels - step * points) <= min(1e-6 * high, 1e-2 * step)
    return bool(close.all() and (np.diff(points) > 0).all())


def _column(name: str, values: np.ndarray, levels: np.ndarray) -> Column:
    """The column of a table whose cells take these levels."""
    if len(levels) == 1:
        return Column(name, CONSTANT, shift=float(levels[0]))
    if levels.tolist() == [0.0, 1.0]:
        return _binary(name)
    mean, sd, count = moments(name, values)
    if len(levels) == 2 and count >= FEWEST_ROWS:
        low, high = map(float, levels)
        return Column(name, GRID, mean, sd, step=high - low, low=low, high=high)
    grid = _decimal_grid(levels)
    if grid is None:
        return Column(name, REAL, mean, sd)
    # The shift is the grid point nearest the mean, so that a grid without ends knows its place.
    step, origin = grid
    middle = Column(name, GRID, origin, sd, step).nearest(np.array([mean]))
    return Column(name, GRID, float(middle[0]), sd, step)


def _binary(name: str) -> Column:
    return Column(name, BINARY, step=1.0, low=0.0, high=1.0)


def count(name: str) -> Column:
    """A column of counts: x is the count itself.

    >>> count("visits").expected
    'a value on the grid of step 1 from 0 on'
    """
    return Column(name, COUNT, step=1.0, low=0.0)


def _with_counts(columns: tuple[Column, ...], rows: Rows) -> tuple[Column, ...]:
    """The columns of a table, counts among them: each by itself, or all alike without names."""
    cells = rows.values.T
    counted = [_looks_counted(*pair) for pair in zip(columns, cells, strict=True)]
    if rows.names == numbered(len(columns)):
        varying = [i for i, column in enumerate(columns) if not column.is_constant]
        most = 2 * sum(counted) > len(varying)
        counted = [most and all(_could_be_counts(cells[i]) for i in varying)] * len(columns)
    return tuple(
        count(column.name) if counts and not column.is_constant else column
        for column, counts in zip(columns, counted, strict=True)
    )


def _could_be_counts(values: np.ndarray) -> bool:
    return all(count("").admits(cells).all() for cells in observed(values))


def _looks_counted(column: Column, values: np.ndarray) -> bool:
    """Whether cells on a grid have the long thin tail of counts; KINDS says how it is told."""
    if column.kind != GRID or column.step != 1 or column.is_bounded:
        return False
    if min(cells.min() for cells in observed(values) if cells.size) != 0:
        return False
    mean, sd, size = moments(column.name, values)
    largest = max(cells.max() for cells in observed(values) if cells.size)
    top = sum(np.count_nonzero(cells == largest) for cells in observed(values))
    cubes = sum(((cells.astype(np.float64) - mean) ** 3).sum() for cells in observed(values))
    return bool(
        sd**2 >= LEAST_DISPERSION * mean
        and cubes / size > LEAST_SKEWNESS * sd**3
        and top <= RARE * size
    )


def _decimal_grid(levels: np.ndarray) -> tuple[float, float] | None:
    """The widest step, and a point, of a decimal grid that holds the levels; None without one.

    The values are the floats nearest to decimals: float32 if all of them are exact in float32.
    """
    if len(levels) > MOST_STEPS + 1:
        return None
    with np.errstate(over="ignore"):
        single = bool((levels.astype(np.float32) == levels).all())
    largest = np.abs(levels).max()
    slack = np.abs(levels) * (2.0**-24 if single else 2.0**-50) + largest * 2.0**-50
    for decimals in range(MOST_DECIMALS + 1):
        tens = 10.0**decimals
        if largest >= 2.0**53 / tens:  # past the integers that float64 tells apart
            return None
        whole = np.rint(levels * tens)
        if (np.abs(levels - whole / tens) <= np.minimum(slack, 1e-2 / tens)).all():
            step = int(np.gcd.reduce(np.diff(whole).astype(np.int64)))
            if step == 0 or (whole[-1] - whole[0]) / step > MOST_STEPS:
                return None
            return step / tens, float(whole[0] / tens)
    return None


def _decimals(*numbers: float) -> int | None:
    """How many decimals write all the numbers, up to MOST_DECIMALS; None if these do not."""
    for decimals in range(MOST_DECIMALS + 1):
        scaled = np.array(numbers) * 10.0**decimals
        if (np.abs(scaled - np.rint(scaled)) <= 2.0**-46 * np.abs(scaled)).all():
            return decimals
    return None


def observed(values: np.ndarray) -> Iterator[np.ndarray]:
    """The observed cells, block by block, (cell,).

    >>> [cells.tolist() for cells in observed(np.array([1.0, np.nan]))]
    [[1.0]]
    """
    for block in blocks(values):
        cells = values[block]
        yield cells[~np.isnan(cells)]


def distinct(name: str, values: np.ndarray) -> np.ndarray:
    """Distinct observed values in order, float64; cut short once they are too many for a grid.

    Raises InputError for a column without any.

    >>> distinct("a", np.array([2, 1, 2])).tolist()
    [1.0, 2.0]
    """
    levels = np.empty(0)
    for cells in observed(values):
        levels = np.union1d(levels, np.unique(cells).astype(np.float64))
        if len(levels) > MOST_STEPS + 1:
            break
    if len(levels) == 0:
        raise InputError(
            f"expected an observed value in column {name!r}, but every one is missing; leave the "
            f"column out with --drop {name!r}"
        )
    return levels


def moments(name: str, values: np.ndarray) -> tuple[float, float, int]:
    """Mean, standard deviation and number of the observed cells, in float64.

    Raises InputError for a spread that floating point cannot hold, or none.

    >>> moments("a", np.array([1.0, 3.0, np.nan]))
    (2.0, 1.0, 2)
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        count = sum(cells.size for cells in observed(values))
        mean = sum(cells.sum(dtype=np.float64) for cells in observed(values)) / count
        squares = (np.square(cells.astype(np.float64) - mean).sum() for cells in observed(values))
        sd = np.sqrt(sum(squares) / count)
    if not (np.isfinite(mean) and np.isfinite(sd) and sd > 0):
        raise InputError(
            f"expected values of one scale in column {name!r}, but they lie between "
            f"{np.nanmin(values):.3g} and {np.nanmax(values):.3g}, whose spread floating point "
            f"cannot hold; rescale the column, or leave it out with --drop {name!r}"
        )
    return float(mean), float(sd), count


# Documents


def _column_to_document(column: Column) -> dict[str, Any]:
    entries = {key: value for key, value in asdict(column).items() if key != "levels"}
    plain = {key: None if value in (-inf, inf) else value for key, value in entries.items()}
    return plain | ({"levels": list(column.levels)} if column.levels else {})


def _column_from_document(document: Any) -> Column:
    low = entry(document, "low", int | float | None)
    high = entry(document, "high", int | float | None)
    levels = entry(document, "levels", list) if "levels" in document else []
    return Column(
        name=entry(document, "name", str),
        kind=entry(document, "kind", str),
        shift=float(entry(document, "shift", int | float)),
        unit=float(entry(document, "unit", int | float)),
        step=float(entry(document, "step", int | float)),
        low=-inf if low is None else float(low),
        high=inf if high is None else float(high),
        levels=tuple(numbers(levels, "levels")),
    )


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
