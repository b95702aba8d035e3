"""What the observed cells of a column say: which values they take, and how these are spread."""

from collections.abc import Callable, Iterator

import numpy as np

from unveil.data.read import blocks
from unveil.errors import InputError

MOST_STEPS = 100_000  # a finer grid is as good as the real line


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


def skewness(values: np.ndarray, of: Callable[[np.ndarray], np.ndarray] = np.asarray) -> float:
    """E[((y - E y)/sd y)³] over the observed cells, y = of(value); 0 where all are alike.

    >>> round(skewness(np.array([0.0, 0.0, np.nan, 3.0])), 9)
    0.707106781
    >>> bool(abs(skewness(np.array([1.0, 10.0, 100.0]), np.log)) < 1e-9)
    True
    """
    size = sum(cells.size for cells in observed(values))
    mean = sum(of(cells).sum(dtype=np.float64) for cells in observed(values)) / size
    apart = [of(cells).astype(np.float64) - mean for cells in observed(values)]
    sd = np.sqrt(sum((y**2).sum() for y in apart) / size)
    return float(sum(((y / sd) ** 3).sum() for y in apart) / size) if sd > 0 else 0.0
