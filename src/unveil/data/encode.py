"""Between rows in the data's own units and arrays in model units, and which row is which."""

import hashlib
from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np

from unveil.data.read import Rows, blocks
from unveil.data.schema import Column, Schema
from unveil.data.sparse import Matrix, SparseCounts
from unveil.errors import InputError

# In model units; its square is far from float32's end.
FARTHEST = 1e18


def encode(schema: Schema, rows: Rows) -> np.ndarray:
    """Rows that fit, in model units: x = (value - shift) / unit, or so for a value's code.

    Returns float32, (row, *event) for shared cells and (row, modelled column) for a table, whose
    constant columns are left out; NaN = missing.

    Raises InputError for a cell farther away than FARTHEST.

    >>> schema = Schema((2,), (Column("a", "real", shift=3.0, unit=2.0), Column("b", "constant")),
    ...                 gaps=False)
    >>> encode(schema, Rows(np.array([[7.0, 0.0]])))
    array([[2.]], dtype=float32)
    """
    shift, unit = _shift_and_unit(schema)
    x = np.empty((len(rows), *_encoded_shape(schema)), np.float32)
    for block in blocks(rows.values):
        cells = np.array(rows.values[block], np.float64)
        for column, view in columns_of(schema, cells):
            if column.is_placed:
                view[...] = column.place(view)
        seen = cells[_modelled(schema)]
        in_units = (seen - shift) / unit
        _require_near(in_units, seen, schema, rows.source, block.start)
        x[block] = in_units
    return x


def _require_near(
    in_units: np.ndarray, seen: np.ndarray, schema: Schema, source: str, first: int
) -> None:
    """Raises InputError for a cell so far away that float32 cannot hold its square."""
    far = (np.abs(in_units) > FARTHEST).reshape(len(seen), -1)
    if far.any():
        row, cell = (int(places[0]) for places in far.nonzero())
        column = schema.columns[0 if schema.shared else schema.modelled[cell]]
        raise InputError(
            f"expected cells within {FARTHEST:g} units of the others, but row {first + row} of "
            f"{source}, counted from 0, holds {seen.reshape(len(seen), -1)[row, cell]:g} in column "
            f"{column.name!r}; correct it, or leave it empty"
        )


def decode(schema: Schema, x: np.ndarray) -> np.ndarray:
    """Arrays in model units back in the data's own: value = x * unit + shift.

    Takes (..., *event) or (..., modelled column) and returns float64, (..., *event), with grids
    rounded to their nearest value, codes exchanged for their values, angles turned into their
    period and constant columns put back. A binary or binarized cell may hold a probability and a
    count a rate: they are not rounded.

    Raises InputError when the last axes of x are not those that `encode` gives.

    >>> schema = Schema((2,), (Column("a", "real", shift=3.0, unit=2.0), Column("b", "constant")),
    ...                 gaps=False)
    >>> decode(schema, np.array([[2.0]]))
    array([[7., 0.]])
    """
    x, shape = np.asarray(x), _encoded_shape(schema)
    if x.shape[max(0, x.ndim - len(shape)) :] != shape:
        raise InputError(
            f"expected encoded rows of shape {shape}, but an array of shape {x.shape} came; give "
            f"it with its last axes as encode returns them"
        )
    shift, unit = _shift_and_unit(schema)
    rows = x.reshape(-1, *shape)
    values = np.zeros((len(rows), *schema.event_shape))
    for block in blocks(values):
        cells = values[block]  # a view
        cells[_modelled(schema)] = rows[block].astype(np.float64) * unit + shift
        for column, view in columns_of(schema, cells):
            view[...] = column.settle(view)
    return values.reshape(*x.shape[: x.ndim - len(shape)], *schema.event_shape)


def digests(values: Matrix, given: np.ndarray | None = None) -> np.ndarray:
    """What tells rows apart: a hash of each row's numbers, uint64 (row, 2).

    It depends on the numbers alone, as float64, and on how many they are: not on their dtype, the
    order of the rows or the other rows, nor on whether they are sparse. All NaN are one number, and
    so are 0.0 and -0.0. Rows of equal numbers with other covariates `given` (row, covariate) are
    other rows.

    >>> a, b = digests(np.array([[0.0, np.nan], [-0.0, np.nan]]))
    >>> bool((a == b).all())
    True
    """
    length = prod(values.shape[1:]).to_bytes(8, "little")
    beside = np.empty((len(values), 0)) if given is None else given
    hashed = bytearray()
    for block in blocks(values):
        for row, c in zip(
            _numbers(np.asarray(values[block])), _numbers(beside[block]), strict=True
        ):
            hashed += hashlib.blake2b(length + row + c, digest_size=16).digest()
    return np.frombuffer(bytes(hashed), "<u8").reshape(-1, 2).astype(np.uint64)


def among(keys: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Which of the digests ``keys`` (row, 2) are among those ``seen`` (row, 2): bool (row,).

    >>> a, b = digests(np.array([[1.0], [2.0]]))
    >>> among(np.array([b, a, b]), np.array([a]))
    array([False,  True, False])
    """
    known = {tuple(key) for key in seen.tolist()}
    return np.array([tuple(key) in known for key in keys.tolist()], bool)


def _numbers(values: np.ndarray) -> Iterator[bytes]:
    """Each row's numbers as float64, with one zero and one NaN."""
    numbers = values.reshape(len(values), -1).astype("<f8") + 0.0  # -0.0 + 0.0 is 0.0
    numbers[np.isnan(numbers)] = np.nan
    return (row.tobytes() for row in numbers)


def split(digests: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the rows to train on and of those held out, each in order.

    About `fraction` of the distinct rows are held out, at least one on each side, and equal rows
    fall on the same side. Which ones depends on the seed and the set of distinct rows only.

    Raises InputError for a fraction outside (0, 1) and for rows that are all equal.

    >>> train, held_out = split(digests(np.arange(10.0)[:, None]), fraction=0.2, seed=0)
    >>> len(train), len(held_out)
    (8, 2)
    """
    if not 0 < fraction < 1:
        raise InputError(
            f"expected a fraction of rows between 0 and 1 to hold out, but {fraction} came; 0.1 "
            f"is usual"
        )
    distinct, which = np.unique(digests, axis=0, return_inverse=True)
    if len(distinct) < 2:
        raise InputError(
            f"expected at least two different rows to split, but all {len(digests)} are equal; "
            f"give data that vary"
        )
    order = sorted(range(len(distinct)), key=lambda i: _lot(distinct[i], seed))
    held_out = np.zeros(len(distinct), bool)
    held_out[order[: min(max(1, round(fraction * len(distinct))), len(distinct) - 1)]] = True
    side = held_out[which.reshape(-1)]
    return np.flatnonzero(~side), np.flatnonzero(side)


def _lot(digest: np.ndarray, seed: int) -> bytes:
    """The number that a row draws: its own, whatever the other rows."""
    return hashlib.blake2b(digest.astype("<u8").tobytes(), key=str(seed).encode()[:64]).digest()


def columns_of(schema: Schema, values: Matrix) -> Iterator[tuple[Column, np.ndarray]]:
    """Each column with its cells in rows (row, *event): a view of them, unless they are sparse.

    >>> schema = Schema((2,), (Column("a", "real"), Column("b", "real")), gaps=False)
    >>> [(column.name, cells.tolist()) for column, cells in columns_of(schema, np.eye(2))]
    [('a', [1.0, 0.0]), ('b', [0.0, 1.0])]
    """
    if isinstance(values, SparseCounts):
        yield from zip(schema.columns, values.T, strict=True)
    elif schema.shared:
        yield schema.columns[0], values
    else:
        yield from zip(schema.columns, np.moveaxis(values, -1, 0), strict=True)


def _modelled(schema: Schema) -> tuple[Any, ...]:
    """The index of the modelled cells in an array (row, *event)."""
    return (...,) if schema.shared else (..., list(schema.modelled))


def _encoded_shape(schema: Schema) -> tuple[int, ...]:
    return schema.event_shape if schema.shared else (schema.dims,)


def _shift_and_unit(schema: Schema) -> tuple[np.ndarray, np.ndarray]:
    """Of the modelled columns, to be broadcast over the last axis."""
    columns = [schema.columns[position] for position in schema.modelled]
    return np.array([c.shift for c in columns]), np.array([c.unit for c in columns])
