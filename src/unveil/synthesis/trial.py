"""Real rows and drawn ones side by side, as every judge of drawn rows sees them."""

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray

from unveil.data.encode import digests
from unveil.data.read import Rows, listed
from unveil.data.schema import BINARY, CLASSES, Column, Schema
from unveil.errors import InputError
from unveil.noise import generator

OF_CLASSES = (BINARY, *CLASSES)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Side:
    """Rows as numbers: ``cells`` (row, column) float64, and ``keys`` (row,), which equal rows of
    any side share."""

    cells: NDArray[np.float64]
    keys: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.cells)

    def take(self, index: NDArray[np.intp] | NDArray[np.bool_] | slice) -> "Side":
        """The rows at ``index``: positions, a mask or a slice."""
        return Side(cells=self.cells[index], keys=self.keys[index])


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """What a model was trained on, what was held out, and what it drew.

    Cells of classes are codes 0, 1, …; numbers are standardised by all real rows; NaN is missing.
    What is drawn by lot follows from ``seed``.
    """

    columns: tuple[Column, ...]
    training: Side
    held_out: Side
    drawn: Side
    seed: int = 0

    @property
    def of_classes(self) -> NDArray[np.bool_]:
        """Which columns hold classes, (column,)."""
        return np.array([column.kind in OF_CLASSES for column in self.columns], bool)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """How many classes each column has, (column,); 0 where it holds numbers."""
        return np.array([classes(column) for column in self.columns], np.int64)

    def place(self, name: str) -> int:
        """Where the column stands. Raises InputError for one that is not modelled."""
        names = [column.name for column in self.columns]
        if name not in names:
            raise InputError(
                f"expected one of the modelled columns {listed(names)}, but {name!r} came; correct "
                f"the name of the target"
            )
        return names.index(name)

    def number(self, purpose: str) -> int:
        """A seed for scikit-learn, which takes 32 bits of one."""
        return generator(self.seed, "synthesis", purpose).initial_seed() % 2**32

    def some(self, side: Side, most: int, purpose: str) -> Side:
        """The side itself, or ``most`` of its rows by lot, in their order."""
        if len(side) <= most:
            return side
        order = torch.randperm(
            len(side), generator=generator(self.seed, "synthesis", purpose)
        ).numpy()
        return side.take(np.sort(order[:most]))


def classes(column: Column) -> int:
    """How many classes a column has; 0 where it holds numbers.

    >>> classes(Column("sex", "binary", step=1.0, low=0.0, high=1.0)), classes(Column("a", "real"))
    (2, 0)
    """
    return int(column.high) + 1 if column.kind in OF_CLASSES else 0


def trial(schema: Schema, training: Rows, held_out: Rows, drawn: Rows, *, seed: int = 0) -> Trial:
    """Three sets of rows that fit the schema, ready to be compared.

    Raises InputError for rows that are no table, and for no row on a side.

    >>> schema = Schema((1,), (Column("a", "real"),), gaps=False)
    >>> two = Rows(np.array([[1.0], [3.0]]), names=("a",))
    >>> trial(schema, two, two, two).drawn.cells.ravel().round(9).tolist()
    [-1.0, 1.0]
    """
    if schema.shared:
        raise InputError(
            "expected the rows of a table to compare with drawn ones, but the model is of cells "
            "that are all alike; leave the report out"
        )
    _require_rows(training, "training rows of the model", "give the data that it was fitted to")
    _require_rows(held_out, "rows that the model was not trained on", "give such rows beside these")
    _require_rows(drawn, "drawn rows", "draw at least one")
    places = [place for place, column in enumerate(schema.columns) if not column.is_constant]
    columns = tuple(schema.columns[place] for place in places)
    values = np.concatenate([rows.dense[:, places] for rows in (training, held_out, drawn)])
    values, real = values.astype(np.float64), len(training) + len(held_out)
    cells = [
        _standardised(column, _coded(column, of_column), real)
        for column, of_column in zip(columns, values.T, strict=True)
    ]
    keys = np.unique(digests(values), axis=0, return_inverse=True)[1].ravel()
    everyone = Side(cells=np.stack(cells, axis=1), keys=keys)
    return Trial(
        columns=columns,
        training=everyone.take(slice(0, len(training))),
        held_out=everyone.take(slice(len(training), real)),
        drawn=everyone.take(slice(real, None)),
        seed=seed,
    )


def _require_rows(rows: Rows, what: str, way_out: str) -> None:
    if not len(rows):
        raise InputError(f"expected {what}, but none came; {way_out}")


def _coded(column: Column, cells: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values (row,) as they are, or the codes of classes."""
    return column.place(column.nearest(cells)) if column.kind in OF_CLASSES else cells


def _standardised(column: Column, cells: NDArray[np.float64], real: int) -> NDArray[np.float64]:
    """Numbers (row,) less the mean of the first ``real`` of them, over their standard deviation;
    codes as they are."""
    seen = cells[:real][~np.isnan(cells[:real])]
    if column.kind in OF_CLASSES or not seen.any():
        return cells
    largest = np.abs(seen).max()  # so that no square overflows
    return (cells / largest - (seen / largest).mean()) / ((seen / largest).std() or 1.0)
