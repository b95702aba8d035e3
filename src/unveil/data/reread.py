"""Columns read as another kind than the one inferred, from the values that they hold."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from inspect import signature
from math import exp, inf, isfinite, tau

import numpy as np

from unveil.data.admit import require_admitted
from unveil.data.encode import columns_of
from unveil.data.observed import distinct, moments, observed
from unveil.data.read import Rows, listed
from unveil.data.schema import (
    AMOUNT,
    ANGLE,
    CATEGORY,
    CLASSES,
    COUNT,
    GRID,
    ORDINAL,
    POSITIVE,
    PROPORTION,
    REAL,
    Column,
    Schema,
    count,
)
from unveil.errors import InputError

MOST_LEVELS = 1000  # more classes are identifiers, or numbers


def reread(
    schema: Schema,
    rows: Rows,
    kind: str,
    columns: Collection[str] | None = None,
    **options: int | float,
) -> Schema:
    """The schema of training rows with columns, all unless named, read as another kind.

    `kind` is one of READINGS: a count; any number; a grid with its `step`; a positive number; an
    amount; an angle with its `period`; a proportion, between `low` and `high` if given; a category
    or an ordinal. A column that holds one value only stays constant, and the single column of
    shared cells stands for all of them.

    Raises InputError for a kind or an option that there is not, a column that the schema has not,
    and a value that the kind cannot have, as no words can be counted.

    >>> from unveil.data.infer import infer
    >>> rows = Rows(np.arange(24.0).reshape(12, 2) % 9 + 1, names=("stars", "price"))
    >>> [column.kind for column in reread(infer(rows), rows, "ordinal", ["stars"]).columns]
    ['ordinal', 'grid']
    """
    if kind not in READINGS:
        raise InputError(
            f"expected a kind to read columns as among {listed(READINGS)}, but {kind!r} came; "
            f"choose one of these"
        )
    _require_options(kind, options)
    reading = partial(READINGS[kind], **{name: float(value) for name, value in options.items()})
    names = schema.names if columns is None else columns
    unknown = [name for name in names if name not in schema.names]
    if unknown:
        raise InputError(
            f"expected columns of {rows.source} to read as {kind}, but {listed(unknown)} came; "
            f"choose among {listed(schema.names)}"
        )
    return replace(
        schema,
        columns=tuple(
            column
            if column.is_constant or column.name not in names
            else _suiting(column, reading(column, cells), cells, rows)
            for column, cells in columns_of(schema, rows.values)
        ),
    )


def counted(column: Column, cells: np.ndarray) -> Column:
    """The column read as counts: x is the count itself.

    >>> counted(Column("visits", "grid", 3.0, 2.0, 1.0), np.array([0, 7])).kind
    'count'
    """
    return count(column.name)


def real(column: Column, cells: np.ndarray) -> Column:
    """The column read as any number: x in standard deviations from the mean.

    >>> real(Column("price", "count", step=1.0, low=0.0), np.array([1.0, 3.0])).shift
    2.0
    """
    mean, sd, _ = moments(column.name, cells)
    return Column(column.name, REAL, mean, sd)


def gridded(column: Column, cells: np.ndarray, *, step: float = 1.0) -> Column:
    """The column read as values a step apart, one of which is the first observed.

    Raises InputError for a step that is not above 0.

    >>> gridded(Column("price", "real"), np.array([0.25, 1.25, 1.5]), step=0.25).shift
    1.0
    """
    if not (isfinite(step) and step > 0):
        raise InputError(
            f"expected a step above 0 for column {column.name!r}, but {step} came; give how far "
            f"its values are apart"
        )
    mean, sd, _ = moments(column.name, cells)
    point = next(float(values[0]) for values in observed(cells) if values.size)
    grid = Column(column.name, GRID, point, sd, step)
    return replace(grid, shift=float(grid.nearest(np.array([mean]))[0]))


def positive(column: Column, cells: np.ndarray) -> Column:
    """The column read as numbers above 0: x = value / unit, unit their geometric mean.

    >>> round(positive(Column("income", "real"), np.array([1.0, 100.0])).unit, 9)
    10.0
    """
    logs = [np.log(values[values > 0].astype(np.float64)) for values in observed(cells)]
    size = sum(log.size for log in logs)
    unit = exp(sum(log.sum() for log in logs) / size) if size else 1.0
    smallest = float(np.finfo(np.float32).tiny) * unit  # the least x that float32 holds in full
    return Column(column.name, POSITIVE, unit=unit, low=smallest)


def amount(column: Column, cells: np.ndarray) -> Column:
    """The column read as 0 or a number above it: x = value / unit, unit the geometric mean of what
    is above 0; on the column's own grid where that goes through 0.

    >>> amount(Column("gain", "grid", 3.0, 9.0, step=1.0), np.array([0.0, 0.0, 1.0, 100.0])).step
    1.0
    """
    unit = positive(column, cells[cells > 0]).unit
    through_zero = replace(column, kind=AMOUNT, shift=0.0, unit=unit, low=0.0, high=inf, levels=())
    on_grid = all(through_zero.admits(values).all() for values in observed(cells))
    return through_zero if on_grid else replace(through_zero, step=0.0)


def angular(column: Column, cells: np.ndarray, *, period: float) -> Column:
    """The column read as directions: x in radians, 2π a period.

    Values lie between 0 and the period, or within half a period of 0 where some are negative.

    Raises InputError for a period that is not above 0.

    >>> wind = angular(Column("wind", "grid", 180.0, 90.0, 1.0), np.array([0, 270]), period=360.0)
    >>> wind.place(np.array([270.0])) / wind.unit
    array([4.71238898])
    """
    if not (isfinite(period) and period > 0):
        raise InputError(
            f"expected a period above 0 for column {column.name!r}, but {period} came; degrees "
            f"have 360, hours of a day 24"
        )
    negative = any((values < 0).any() for values in observed(cells))
    low = -period / 2 if negative else 0.0
    return Column(column.name, ANGLE, unit=period / tau, low=low, high=low + period)


def proportional(
    column: Column, cells: np.ndarray, *, low: float | None = None, high: float | None = None
) -> Column:
    """The column read as parts of a whole: x = (value - low) / (high - low), from 0 to 1.

    Where no ends are given they are those that the column has, else 0 and 1, or 0 and 100 for
    values above 1.

    Raises InputError for ends that are not in order.

    >>> proportional(Column("humidity", "real"), np.array([3.0, 62.5])).high
    100.0
    """
    largest = max((values.max() for values in observed(cells) if values.size), default=1.0)
    usual = (column.low, column.high) if column.is_bounded else (0.0, 1.0 if largest <= 1 else 1e2)
    low, high = (float(u if e is None else e) for e, u in zip((low, high), usual, strict=True))
    if not (-inf < low < high < inf):
        raise InputError(
            f"expected low < high for the proportions of column {column.name!r}, but {low:.9g} and "
            f"{high:.9g} came; give the values of nothing and of the whole"
        )
    return Column(column.name, PROPORTION, low, high - low, low=low, high=high)


def categorical(column: Column, cells: np.ndarray) -> Column:
    """The column read as one of the values seen, in no order: x is the value's code, from 0.

    Raises InputError for a column of more than MOST_LEVELS values.

    >>> categorical(Column("blood", "grid", 2.0, 1.0, 1.0), np.array([4, 1, 2, 1])).levels
    (1.0, 2.0, 4.0)
    """
    return _classed(column, CATEGORY, cells)


def ordinal(column: Column, cells: np.ndarray) -> Column:
    """The column read as one of the values seen, in their order: x is the value's rank, from 0.

    Raises InputError for a column of more than MOST_LEVELS values.

    >>> ordinal(Column("stars", "grid", 3.0, 1.0, 1.0), np.array([5, 1, 3])).high
    2.0
    """
    return _classed(column, ORDINAL, cells)


READINGS: Mapping[str, Callable[..., Column]] = {
    COUNT: counted,
    REAL: real,
    GRID: gridded,
    POSITIVE: positive,
    AMOUNT: amount,
    ANGLE: angular,
    PROPORTION: proportional,
    CATEGORY: categorical,
    ORDINAL: ordinal,
}


def _classed(column: Column, kind: str, cells: np.ndarray) -> Column:
    levels = distinct(column.name, cells)
    if len(levels) > MOST_LEVELS:
        raise InputError(
            f"expected at most {MOST_LEVELS} different values to read column {column.name!r} as "
            f"{kind}, but it holds {len(levels)} or more; read it as another kind, or leave it out "
            f"with --drop {column.name!r}"
        )
    last = len(levels) - 1.0
    return Column(column.name, kind, step=1.0, low=0.0, high=last, levels=tuple(levels.tolist()))


def _suiting(column: Column, read: Column, cells: np.ndarray, rows: Rows) -> Column:
    """What a column was read as, once its cells can be that."""
    if column.words and read.kind not in CLASSES:
        raise InputError(
            f"expected numbers in column {column.name!r} to read it as {read.kind}, but it holds "
            f"{column.expected}; leave it out with --drop {column.name!r}, or choose --likelihood "
            f"auto, which suits each column"
        )
    column = read.holding(column)
    way_out = f"correct the cell, or read the column as another kind than {column.kind}"
    require_admitted(column, cells, rows, way_out)
    return column


def _require_options(kind: str, options: Collection[str]) -> None:
    """Raises InputError unless the options are those that the kind has."""
    known = [p for p in signature(READINGS[kind]).parameters.values() if p.kind is p.KEYWORD_ONLY]
    needed = [p.name for p in known if p.default is p.empty and p.name not in options]
    extra = [name for name in options if name not in [p.name for p in known]]
    if needed or extra:
        raise InputError(
            f"expected the options of {kind} to be {listed([p.name for p in known]) or 'none'}, "
            f"but {listed(extra or needed)} {'came' if extra else 'is lacking'}; "
            f"{'leave it out' if extra else 'give it'}"
        )
