"""What kind of column each is, told from the values that its training rows hold."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from scipy import stats

from unveil.data.native import INTEGER, NUMBER, ORDERED
from unveil.data.observed import MOST_STEPS, distinct, moments, observed, skewness
from unveil.data.read import Rows, blocks, listed, numbered
from unveil.data.reread import MOST_LEVELS, amount, positive
from unveil.data.schema import (
    BINARY,
    CATEGORY,
    CONSTANT,
    GRID,
    MOST_DECIMALS,
    ORDINAL,
    REAL,
    Aside,
    Column,
    Schema,
    count,
    levels_of,
)
from unveil.data.sparse import SparseCounts
from unveil.errors import InputError

DEPTHS = (1, 3, 7, 15, 16, 31, 63, 127, 255, 511, 1023, 4095, 16383, 65535)  # 16: digits
FEWEST_ROWS = 10  # fewer say nothing about a scale, let alone a grid
LEAST_DISPERSION = 0.9  # of counts: variance over mean, 1 for Poisson, with room for chance
LEAST_SKEWNESS = 1.0
RARE = 0.01  # the share of cells that hold the largest count, at most
# An amount is 0 in so large a share of cells at least, and its other values are more than FEW.
LEAST_ZEROS = 0.05
FEW = 20
# A count's variance is at most so many means, unless counts are the more probable all the same.
MOST_DISPERSION = 20.0
SHAPES = np.geomspace(1e-3, 1e3, 61)  # of negative binomials that are tried
# Words of which more than this share, and more than FEW, are different name rows, not classes.
MOST_DISTINCT = 0.5
LONG = 40  # characters of a usual text that is written freely

Cells: TypeAlias = np.ndarray


def infer(rows: Rows) -> Schema:
    """The schema of training rows, from their observed cells.

    Cells of images and pixel arrays share one column; a table has one for each of its own. Scales
    are a mean and a standard deviation, or half the depth of an image, so that x is about 1.
    Steps are as large as the data allow.

    A count is a column of whole numbers, three or more of them and 0 the smallest, with a long thin
    tail: its variance is no less than nine tenths of its mean, its skewness is above 1, and its
    largest value is held by at most one cell in a hundred. In a table with names each column is
    judged by itself. Columns without names are alike: all are counts where most of them look so
    and the others could be, else none. A shared column is never one for pictures, nor where its
    largest value is the depth of an image.

    Columns with names are looked at more closely. A positive one has a skewness above 1 that its
    logarithms lower, and lies on no grid; an amount is exactly 0 in a twentieth of the cells or
    more, and the others are such numbers, or counts that a log-normal suits better. Words are
    classes, in an order where their type has one. Set aside are a column without a value, words of
    which most are different or more than MOST_LEVELS, and integers that number the rows: all
    different, and evenly apart.

    Sparse counts are counts in every column that varies, or 0 and 1 where none is above 1.

    Raises InputError for fewer than ten rows, no column that varies, values whose scale floating
    point cannot hold, and numbers among which a few cells hold something else.

    >>> rows = Rows(np.arange(12.0)[:, None] * [10.0, 0.5], names=("price", "weight"))
    >>> [(column.kind, column.step) for column in infer(rows).columns]
    [('grid', 10.0), ('grid', 0.5)]
    """
    if len(rows) < FEWEST_ROWS:
        raise InputError(
            f"expected at least {FEWEST_ROWS} rows to learn from, but {rows.source} has "
            f"{len(rows)}; add rows"
        )
    if isinstance(rows.values, SparseCounts):
        return _counted(rows, rows.values)
    gaps = any(np.isnan(rows.values[block]).any() for block in blocks(rows.values))
    if not rows.names:
        return Schema(rows.event_shape, (_shared_column(rows.values),), gaps=gaps)
    cells = dict(zip(rows.names, rows.values.T, strict=True))
    why = {name: _why_aside(rows, name, values) for name, values in cells.items()}
    aside = tuple(Aside(name, told) for name, told in why.items() if told)
    kept = [name for name in rows.names if not why[name]]
    if not kept:
        told = [f"{column.name} ({column.why})" for column in aside]
        raise InputError(
            f"expected a column to model, but each of {rows.source} is set aside: {listed(told)}; "
            f"give it columns that rows have in common"
        )
    if rows.names == numbered(len(rows.names)):
        alike = [_column_of(rows, name, cells[name]) for name in kept]
        columns = _counts_together(alike, [cells[name] for name in kept])
    else:
        columns = [infer_column(rows, name) for name in kept]
    gaps = any(np.isnan(cells[name]).any() for name in kept)
    return Schema((len(columns),), tuple(columns), gaps=gaps, aside=aside, form=rows.form)


def infer_column(rows: Rows, name: str) -> Column:
    """The column of a table with names, whether or not it would be set aside.

    Raises InputError for a column without a value.

    >>> infer_column(Rows(np.arange(12.0)[:, None], ("price",)), "price").kind
    'grid'
    """
    values = rows.values[:, rows.names.index(name)]
    return _tailed(_column_of(rows, name, values), values)


# Columns that are not modelled


def _why_aside(rows: Rows, name: str, values: Cells) -> str:
    """Why a column is set aside, or "" for one that is modelled."""
    size = sum(cells.size for cells in observed(values))
    if size == 0:
        return "every cell is missing"
    if rows.type_of(name) == INTEGER and rows.names != numbered(len(rows.names)):
        return _why_numbering(values, size)
    words = rows.words.get(name, ())
    return _why_naming(rows, name, values, size) if len(words) > FEW else ""


def _why_numbering(values: Cells, size: int) -> str:
    levels = distinct("", values)
    steps = np.diff(levels)
    counts_rows = size == len(values) == len(levels) and bool((steps == steps[0]).all())
    return "all different and evenly apart: it numbers the rows" if counts_rows else ""


def _why_naming(rows: Rows, name: str, values: Cells, size: int) -> str:
    """Of words that are many: whether they name the rows."""
    words = rows.words[name]
    _require_no_numbers(rows, name, values)
    for mark, written in _ALMOST_NUMBERS.items():
        if any(mark in word for word in words) and _are_numbers_without(mark, words):
            return f"numbers written with {written}, as {words[0]}; only plain ones are modelled"
    if len(words) > MOST_DISTINCT * size:
        usual = np.median([len(word) for word in words])
        return "free text" if usual > LONG else "most words are different: they name the rows"
    if len(words) > MOST_LEVELS:
        return f"{len(words)} different words, and at most {MOST_LEVELS} can be modelled"
    return ""


# What numbers are written with that are not read as such.
_ALMOST_NUMBERS = {",": "a comma", "%": "a percent sign"}


def _are_numbers_without(mark: str, words: Sequence[str]) -> bool:
    return all(_is_number(word.replace(mark, "")) for word in words)


def _require_no_numbers(rows: Rows, name: str, values: Cells) -> None:
    """Raises InputError for words most of which are numbers, and some are not."""
    words = rows.words[name]
    numeric = np.array([_is_number(word) for word in words])
    there = ~np.isnan(values)
    is_number = numeric[np.where(there, values, 0).astype(np.int64)]
    if numeric.all() or is_number[there].mean() <= MOST_DISTINCT:
        return
    row = int(np.argmax(there & ~is_number))
    raise InputError(
        f"expected numbers in column {name!r}, as most of its cells are, but row {row} (counted "
        f"from 0) of {rows.source} holds {words[int(values[row])]!r}; leave the cell empty if it "
        f"is missing, or keep the column as a label with --label {name!r}, or leave it out with "
        f"--drop {name!r}"
    )


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


# Columns with names


def _column_of(rows: Rows, name: str, values: Cells) -> Column:
    """The column of a table, before its tail is looked at."""
    levels = distinct(name, values)
    words = rows.words.get(name, ())
    if words:
        seen = tuple(words[int(place)] for place in levels)
        return _worded(name, rows.type_of(name), seen)
    kind, dtype = rows.type_of(name), rows.dtypes.get(name, "")
    return replace(_column(name, values, levels), type=kind, dtype=dtype)


def _worded(name: str, kind: str, words: tuple[str, ...]) -> Column:
    """The column whose cells hold these words, in their order."""
    if len(words) == 1:
        return Column(name, CONSTANT, type=kind, words=words)
    classes = ORDINAL if kind == ORDERED else CATEGORY
    of = BINARY if len(words) == 2 else classes
    return Column(
        name, of, step=1.0, low=0.0, high=len(words) - 1.0, levels=levels_of(of, words),
        type=kind, words=words,
    )  # fmt: skip


def _tailed(column: Column, values: Cells) -> Column:
    """The column read as counts, as amounts or as positive numbers where its tail says so."""
    told = (_looks_like_amounts, amount), (_looks_counted, _as_counts), (_looks_positive, positive)
    reading = next((reading for looks, reading in told if looks(column, values)), None)
    return column if reading is None else reading(column, values).holding(column)


def _as_counts(column: Column, values: Cells) -> Column:
    return count(column.name)


def _looks_like_amounts(column: Column, values: Cells) -> bool:
    if column.kind not in (REAL, GRID) or column.type not in (NUMBER, INTEGER):
        return False
    size = sum(cells.size for cells in observed(values))
    zeros = sum(np.count_nonzero(cells == 0) for cells in observed(values))
    above = values[values > 0]
    if zeros < LEAST_ZEROS * size or zeros + above.size < size or _are_few(above):
        return False
    if _looks_counted(column, values):
        return _more_probable_as_amounts(column.name, values)
    return _has_tail(above)


def _more_probable_as_amounts(name: str, values: Cells) -> bool:
    """Whether whole numbers of large variance suit a log-normal with a spike at 0 better than any
    negative binomial of their mean: the one's largest log-likelihood against the other's."""
    mean, sd, _ = moments(name, values)
    if sd**2 <= MOST_DISPERSION * mean:
        return False
    levels, times = np.unique(np.concatenate(list(observed(values))), return_counts=True)
    above, often = levels[levels > 0].astype(np.float64), times[levels > 0]
    counted = max(times @ stats.nbinom.logpmf(levels, r, r / (r + mean)) for r in SHAPES)
    middle = np.average(np.log(above), weights=often)
    spread = np.sqrt(np.average((np.log(above) - middle) ** 2, weights=often))
    ends = (np.log(above[:, None] + [-0.5, 0.5]) - middle) / spread
    masses = np.diff(stats.norm.cdf(-np.abs(ends) * np.sign(ends.sum(1, keepdims=True))), axis=1)
    shares = np.array([1 - often.sum() / times.sum(), often.sum() / times.sum()])
    spiked = np.append(times[levels == 0], often.sum()) @ np.log(shares)
    return bool(spiked + often @ np.log(np.abs(masses[:, 0]) + 1e-300) > counted)


def _looks_positive(column: Column, values: Cells) -> bool:
    if column.kind != REAL or column.type not in (NUMBER, INTEGER):
        return False
    above = min(cells.min() for cells in observed(values) if cells.size) > 0
    return bool(above) and _has_tail(values)


def _has_tail(values: Cells) -> bool:
    """Whether positive values, more than a few, are skewed, and their logarithms less so."""
    if _are_few(values):
        return False
    skew = skewness(values)
    return skew > LEAST_SKEWNESS and abs(skewness(values, np.log)) < skew


def _are_few(values: Cells) -> bool:
    return values.size == 0 or len(distinct("", values)) <= FEW


# Columns without names


def _counts_together(columns: list[Column], cells: list[Cells]) -> list[Column]:
    """Columns that are alike: all of them counts, or none."""
    varying = [pair for pair in zip(columns, cells, strict=True) if not pair[0].is_constant]
    counted = sum(_looks_counted(*pair) for pair in varying)
    if 2 * counted <= len(varying) or not all(_could_be_counts(values) for _, values in varying):
        return columns
    return [column if column.is_constant else count(column.name) for column in columns]


def _counted(rows: Rows, counts: SparseCounts) -> Schema:
    """Sparse counts as what they are."""
    low, high = counts.ends
    of = count if high.max() > 1 else _binary
    columns = tuple(
        Column(name, CONSTANT, shift=float(least)) if least == most else of(name)
        for name, least, most in zip(rows.names, low, high, strict=True)
    )
    return Schema((len(columns),), columns, gaps=False, form=rows.form)


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
