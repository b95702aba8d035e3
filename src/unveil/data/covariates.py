"""Covariates: the columns that a model is conditioned on, as the numbers that its networks see."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, final

import numpy as np

from unveil.data.observed import distinct, moments
from unveil.data.read import TOTAL, Rows, listed
from unveil.data.schema import entry, numbers
from unveil.errors import InputError

FEW = 10  # whole numbers of no more than these values are classes, not amounts
MOST_CATEGORIES = 1000
T = TypeVar("T", str, float)


class Covariate(ABC):
    """One column that is conditioned on, and how its cells become numbers."""

    name: str

    @property
    @abstractmethod
    def inputs(self) -> tuple[str, ...]:
        """What to call the numbers, in their order."""

    def cells(self, rows: Rows) -> np.ndarray:
        """What the rows say of it, (row,), none missing. Raises InputError where they do not."""
        return _complete(self.name, rows)

    @abstractmethod
    def encode(self, cells: np.ndarray, source: str) -> np.ndarray:
        """Cells (row,), none of them missing, as numbers (row, input), float32.

        Raises InputError, naming the row in `source`, for a value that the covariate cannot have.
        """

    @abstractmethod
    def to_document(self) -> dict[str, Any]:
        """The covariate as plain JSON."""


@final
@dataclass(frozen=True)
class Amount(Covariate):
    """A number, in standard deviations from its mean: c = (value - shift) / unit.

    >>> Amount("age", shift=40.0, unit=10.0).encode(np.array([45, 20]), "the data").ravel().tolist()
    [0.5, -2.0]
    """

    name: str
    shift: float
    unit: float

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.name,)

    def encode(self, cells: np.ndarray, source: str) -> np.ndarray:
        standard = (_as_numbers(self.name, cells, source) - self.shift) / self.unit
        return standard.astype(np.float32)[:, None]

    def to_document(self) -> dict[str, Any]:
        return {"name": self.name, "shift": self.shift, "unit": self.unit}


@final
@dataclass(frozen=True)
class Exposure(Covariate):
    """What counts are proportional to (depth, area, time at risk): c = value / unit, above 0.

    >>> Exposure("depth", unit=200.0).encode(np.array([100, 400]), "the data").ravel().tolist()
    [0.5, 2.0]
    """

    name: str
    unit: float

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.name,)

    def encode(self, cells: np.ndarray, source: str) -> np.ndarray:
        values = _as_numbers(self.name, cells, source)
        if (values <= 0).any():
            row = int(np.argmax(values <= 0))
            raise InputError(
                f"expected exposures above 0 in {self.name!r}, but row {row} (counted from 0) of "
                f"{source} holds {values[row]:.9g}; leave out the rows that were not exposed"
            )
        return (values / self.unit).astype(np.float32)[:, None]

    def to_document(self) -> dict[str, Any]:
        return {"name": self.name, "exposure": self.unit}


@final
@dataclass(frozen=True)
class Total(Covariate):
    """What a row counts in all, to which each of its counts is proportional: c = total / unit.

    >>> total = Total(unit=4.0)
    >>> total.encode(total.cells(Rows(np.array([[1, 7], [0, 2]]))), "the data").ravel().tolist()
    [2.0, 0.5]
    """

    unit: float
    name: str = TOTAL

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.name,)

    def cells(self, rows: Rows) -> np.ndarray:
        """The totals of the rows, or what stands in their place where rows are yet to be made."""
        return _complete(self.name, rows) if self.name in rows.given else _totals(rows)

    def encode(self, cells: np.ndarray, source: str) -> np.ndarray:
        totals = _as_numbers(self.name, cells, source)
        if (totals <= 0).any():
            row = int(np.argmax(totals <= 0))
            raise InputError(
                f"expected every row to count something, as its counts are proportional to its "
                f"total, but that of row {row} (counted from 0) of {source} is {totals[row]:.9g}; "
                f"leave the row out, or fit with --exposure none"
            )
        return (totals / self.unit).astype(np.float32)[:, None]

    def to_document(self) -> dict[str, Any]:
        return {"name": self.name, "total": self.unit}


@final
@dataclass(frozen=True)
class Class(Covariate, Generic[T]):
    """One of the categories that were seen, text or numbers: 1 for the one that it is, else 0.

    >>> Class("site", ("Bern", "Oslo")).encode(np.array(["Oslo", "Bern"]), "the data").tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """

    name: str
    categories: tuple[T, ...]

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(f"{self.name}={_written(category)}" for category in self.categories)

    def encode(self, cells: np.ndarray, source: str) -> np.ndarray:
        known = {_written(category): place for place, category in enumerate(self.categories)}
        if not isinstance(self.categories[0], str):
            cells = _as_numbers(self.name, cells, source)  # 1 and 1.0 are one category
        values, which = np.unique(cells, return_inverse=True)
        places = np.array([known.get(_written(value), -1) for value in values], int)
        places = places[which.reshape(-1)]
        if (places < 0).any():
            row = int(np.argmax(places < 0))
            raise InputError(
                f"expected covariate {self.name!r} to be one of {listed(known)}, but row {row} "
                f"(counted from 0) of {source} holds {_written(cells[row])!r}, which the model "
                f"has never seen; leave the row out, or fit again with rows like it"
            )
        return np.eye(len(known), dtype=np.float32)[places]

    def to_document(self) -> dict[str, Any]:
        return {"name": self.name, "categories": list(self.categories)}


@final
@dataclass(frozen=True)
class Covariates:
    """The covariates of a model, one beside the other.

    >>> rows = Rows(np.eye(2), given={"site": np.array(["b", "a"]), "age": np.array([20.5, 30.5])})
    >>> covariates = infer_covariates(rows)
    >>> covariates.inputs, covariates.encode(rows).tolist()
    (('site=a', 'site=b', 'age'), [[0.0, 1.0, -1.0], [1.0, 0.0, 1.0]])
    """

    columns: tuple[Covariate, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the covariates."""
        return tuple(column.name for column in self.columns)

    @property
    def brought(self) -> tuple[str, ...]:
        """Those that are columns of the data, as `read` takes them for `given`."""
        return tuple(column.name for column in self.columns if not isinstance(column, Total))

    @property
    def usual(self) -> dict[str, float]:
        """What is taken for rows that are yet to be made, where nothing else is said."""
        return {column.name: column.unit for column in self.columns if isinstance(column, Total)}

    @property
    def condition(self) -> str:
        """What figures are conditional on, and must say so; "" where that is nothing.

        >>> Covariates((Total(unit=4.0),)).condition
        "conditional on each row's total"
        """
        return "conditional on each row's total" if self.usual else ""

    @property
    def inputs(self) -> tuple[str, ...]:
        """What to call the encoded numbers, in their order; as many as a network has covariates."""
        return tuple(name for column in self.columns for name in column.inputs)

    @property
    def exposure(self) -> int | None:
        """Which of the encoded numbers is an exposure; None where none is."""
        kinds = Exposure | Total
        exposures = [column.name for column in self.columns if isinstance(column, kinds)]
        return self.inputs.index(exposures[0]) if exposures else None

    def encode(self, rows: Rows) -> np.ndarray:
        """The rows' covariates as float32 (row, covariate).

        Raises InputError naming the column and the row for a covariate that is missing or has a
        value that the model has never seen.
        """
        encoded = [column.encode(column.cells(rows), rows.source) for column in self.columns]
        return np.concatenate([np.empty((len(rows), 0), np.float32), *encoded], axis=1)

    def to_document(self) -> list[dict[str, Any]]:
        """The covariates as plain JSON."""
        return [column.to_document() for column in self.columns]

    @classmethod
    def from_document(cls, document: Any) -> "Covariates":
        """The covariates that `to_document` wrote.

        Raises InputError, in one sentence, when the document is anything else.
        """
        if not isinstance(document, list):
            raise InputError(
                f"expected a list of covariates, but {str(document)[:80]} came; write it as unveil "
                f"writes it"
            )
        return cls(tuple(map(_covariate_from_document, document)))


def infer_covariates(rows: Rows, exposure: str | None = None) -> Covariates:
    """How the covariates of training rows are to be encoded; none without any.

    The one named ``exposure`` is measured in multiples of its geometric mean; "total" is each
    row's own, unless a covariate is called so.

    Text, booleans and whole numbers of at most FEW values, each seen twice on average, are
    classes; other numbers are amounts.

    Raises InputError for a covariate that is missing somewhere, never varies or has too many
    categories.

    >>> infer_covariates(Rows(np.eye(4), given={"arm": np.array([0, 1, 1, 0])})).inputs
    ('arm=0', 'arm=1')
    """
    columns = [
        _exposure(name, rows) if name == exposure else _inferred(name, _complete(name, rows))
        for name in rows.given
    ]
    own = None if exposure is None or exposure in rows.given else _OWN.get(exposure)
    return Covariates(tuple(columns) if own is None else (*columns, own(rows)))


def _exposure(name: str, rows: Rows) -> Exposure:
    return Exposure(name, unit=_geometric_mean(Exposure(name, unit=1.0), rows))


def _total(rows: Rows) -> Total:
    return Total(unit=_geometric_mean(Total(unit=1.0), rows))


# Exposures that are no column of the data, and are made of the rows themselves.
_OWN: Mapping[str, Callable[[Rows], Covariate]] = {TOTAL: _total}


def _geometric_mean(exposure: Covariate, rows: Rows) -> float:
    values = exposure.encode(exposure.cells(rows), rows.source)
    return float(np.exp(np.log(values.astype(np.float64)).mean()))


def _totals(rows: Rows) -> np.ndarray:
    """The sum of each row, (row,) float64."""
    totals = rows.values.sum(axis=1, dtype=np.float64)
    if np.isnan(totals).any():
        raise InputError(
            f"expected a count in every cell to take each row's total, but one of row "
            f"{int(np.argmax(np.isnan(totals)))} (counted from 0) of {rows.source} is missing; "
            f"fill it in, leave the row out, or fit with --exposure none"
        )
    return totals


def _inferred(name: str, cells: np.ndarray) -> Covariate:
    if cells.dtype.kind == "U":
        return Class(name, _few(name, np.unique(cells).tolist()))
    levels = distinct(name, cells)
    if len(levels) <= min(FEW, len(cells) // 2) and (levels == np.rint(levels)).all():
        return Class(name, _few(name, levels.tolist()))
    _few(name, levels[:2].tolist())
    mean, sd, _ = moments(name, cells)
    return Amount(name, mean, sd)


def _few(name: str, categories: Sequence[T]) -> tuple[T, ...]:
    """The same categories, once they are more than one and few enough."""
    if len(categories) < 2:
        raise InputError(
            f"expected covariate {name!r} to vary, but every row holds "
            f"{_written(categories[0])!r}; leave it out of --given"
        )
    if len(categories) > MOST_CATEGORIES:
        raise InputError(
            f"expected at most {MOST_CATEGORIES} categories of covariate {name!r}, but it has "
            f"{len(categories)}; leave it out of --given, or make it a number"
        )
    return tuple(categories)


def _complete(name: str, rows: Rows) -> np.ndarray:
    """The cells of a covariate, once there is one for every row."""
    if name not in rows.given:
        raise InputError(
            f"expected the covariate {name!r} that the model is conditioned on, but {rows.source} "
            f"lacks it; add the column"
        )
    cells = rows.given[name]
    missing = cells == "" if cells.dtype.kind == "U" else np.isnan(cells)
    if missing.any():
        raise InputError(
            f"expected a value of covariate {name!r} in every row, but row "
            f"{int(np.argmax(missing))} (counted from 0) of {rows.source} has none; fill it in, or "
            f"leave the row out"
        )
    return cells


def _as_numbers(name: str, cells: np.ndarray, source: str) -> np.ndarray:
    try:
        values = cells.astype(np.float64)
    except ValueError as error:
        raise InputError(
            f"expected numbers for covariate {name!r}, but {source} holds text "
            f"({cells[0]!r} in row 0); correct the column"
        ) from error
    if np.isnan(values).any():
        raise InputError(
            f"expected a number for covariate {name!r} in every row, but row "
            f"{int(np.argmax(np.isnan(values)))} (counted from 0) of {source} has none; give one"
        )
    if np.isinf(values).any():
        raise InputError(
            f"expected finite numbers for covariate {name!r}, but row "
            f"{int(np.argmax(np.isinf(values)))} (counted from 0) of {source} holds "
            f"{values[np.isinf(values)][0]}; correct the cell"
        )
    return values


def _written(value: Any) -> str:
    """A category as text, alike for a number and its digits.

    >>> _written("3"), _written(3), _written(np.float64(3))
    ('3', '3', '3')
    """
    return str(value) if isinstance(value, str) else f"{float(value):.15g}"


def _covariate_from_document(document: Any) -> Covariate:
    name = entry(document, "name", str)
    if "exposure" in document:
        return Exposure(name, float(entry(document, "exposure", int | float)))
    if "total" in document:
        return Total(float(entry(document, "total", int | float)), name)
    if "categories" not in document:
        shift, unit = (float(entry(document, key, int | float)) for key in ("shift", "unit"))
        return Amount(name, shift, unit)
    categories = entry(document, "categories", list)
    if all(isinstance(category, str) for category in categories):
        return Class(name, tuple(categories))
    return Class(name, tuple(numbers(categories, "categories")))
