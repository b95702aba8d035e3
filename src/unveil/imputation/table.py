"""A table with its gaps filled, in the data's own units."""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, final

import narwhals as nw
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unveil.data.encode import columns_of, decode
from unveil.data.frames import completed, frame
from unveil.data.read import Rows, listed
from unveil.data.schema import (
    ANGLE,
    BINARIZED,
    BINARY,
    CATEGORY,
    CONSTANT,
    ORDINAL,
    Column,
    Schema,
)
from unveil.errors import InputError
from unveil.imputation.intervals import Intervals, Measures, reach
from unveil.imputation.missing import (
    NUM_SAMPLES,
    DrawCells,
    Expected,
    anywhere,
    completions,
    expected,
)
from unveil.latent import LatentVariableModel
from unveil.shapes import Given

ASSUMPTION = (
    "cells are taken to be missing at random: whether one is missing may depend on what the row "
    "shows, and not on the value that is not there"
)
HELD_FIXED = (
    "draws hold the fitted parameters fixed: completed tables differ by what each row leaves open, "
    "and not by what the training rows do"
)
# With fewer effective draws, what fills a row is left to chance.
FEWEST_EFFECTIVE_TO_IMPUTE = 10.0
# The column that tells completed tables apart.
DRAW = "draw"
# Neither a distance nor a direction of more is known between their values.
NO_NUMBERS = {CATEGORY, ORDINAL, BINARY, BINARIZED, ANGLE, CONSTANT}


@final
@dataclass(frozen=True, kw_only=True)
class Imputation:
    """Rows with their gaps filled, (row, *event) each, in the data's own units.

        values         the rows; observed cells as they came, bit for bit
        missing        which cells were filled
        low, high      ends of the intervals at ``level``, NaN where a cell was observed or has no
                       order; None where none were asked for
        draws          (draw, row, *event), the rows completed time and again, or None
        probabilities  of each column of classes, (row, class): P(class | observed cells), NaN
                       where the cell was observed
        ess            (row,), how many of ``num_samples`` draws count; all where nothing is missing

    The parameters of the model are held fixed: draws differ by what a row leaves open, and not by
    what the training rows left open, which those of ``bootstrap.bootstrapped`` do as well.
    """

    schema: Schema
    rows: Rows
    values: NDArray[np.floating] | NDArray[np.integer]
    missing: NDArray[np.bool_]
    low: NDArray[np.float64] | None
    high: NDArray[np.float64] | None
    draws: NDArray[np.float64] | None
    probabilities: Mapping[str, NDArray[np.float64]]
    ess: NDArray[np.float64]
    level: float | None
    warnings: tuple[str, ...]

    @property
    def filled(self) -> dict[str, int]:
        """How many cells were filled in each column that had gaps."""
        counts = self.missing.reshape(len(self.missing), -1).sum(0)
        names = self.rows.names or tuple(f"cell {i}" for i in range(len(counts)))
        return {n: int(c) for n, c in zip(names, counts, strict=True) if c}

    def ends(self) -> Rows:
        """COL_lo and COL_hi of each column of a table that had gaps and has an order."""
        low, high = self.low, self.high
        if low is None or high is None:
            return replace(self.rows, values=np.zeros((len(self.values), 0)), names=(), frame=None)
        shown = [
            (f"{name}_{end}", name, values[:, j])
            for j, name in enumerate(self.rows.names)
            if not np.isnan(low[:, j]).all()
            for end, values in (("lo", low), ("hi", high))
        ]
        return replace(
            self.rows,
            values=np.array([column for _, _, column in shown])
            .reshape(len(shown), len(self.values))
            .T,
            names=tuple(end for end, _, _ in shown),
            types={end: self.rows.type_of(name) for end, name, _ in shown},
            words={end: w for end, name, _ in shown if (w := self.rows.words.get(name))},
            dtypes={end: d for end, name, _ in shown if (d := self.rows.dtypes.get(name))},
            frame=None,
        )

    def table(self) -> Rows:
        """All of a table as rows to write: the columns and their ends, or the draws of them below
        one another, told apart by ``draw`` 1, 2, …; labels and covariates beside.

        Raises InputError where a column is called as one that is added.
        """
        ends, number, size = self.ends(), len(self._tables), len(self.values)
        self._require_free({*self.rows.names, *self.rows.labels, *self.rows.given})
        first = () if self.draws is None else (DRAW,)
        columns = [
            *(np.repeat(np.arange(1.0, number + 1), size)[:, None] for _ in first),
            self._tables.reshape(-1, self._tables.shape[-1]),
            np.tile(ends.values, (number, 1)),
        ]
        return replace(
            self.rows.take(np.tile(np.arange(size), number)),
            values=np.concatenate(columns, axis=1),
            names=(*first, *self.rows.names, *ends.names),
            types={**self.rows.types, **ends.types},
            words={**self.rows.words, **ends.words},
            dtypes={**self.rows.dtypes, **ends.dtypes},
        )

    def as_they_came(self) -> Any:
        """The rows as the kind of frame or array that they were: see ``Fitted.impute``.

        Raises InputError for intervals of rows without a frame, and where a column of theirs is
        called as one that is added.
        """
        if self.rows.frame is None and self.low is not None:
            raise InputError(
                "expected a frame with named columns to write the ends of intervals beside, but "
                "an array came; take low and high of Fitted.imputation instead"
            )
        filled = [completed(self.schema, self.rows, each) for each in self._tables]
        if self.rows.frame is None:
            return filled[0] if self.draws is None else np.stack(filled)
        self._require_free({*self.rows.frame.columns})
        ends = self.ends()
        added = list(nw.from_native(frame(ends, ends.form)).iter_columns()) if ends.names else []
        tables = [nw.from_native(each).with_columns(*added) for each in filled]
        if self.draws is None:
            return tables[0].to_native()
        return nw.concat([_numbered(each, m) for m, each in enumerate(tables, start=1)]).to_native()

    @property
    def _tables(self) -> NDArray[Any]:
        """The completed tables (draw, row, *event), or the one of values."""
        return self.values[None] if self.draws is None else self.draws

    def _require_free(self, there: Collection[str]) -> None:
        """Raises InputError where a column is called as one that is added."""
        added = (*(() if self.draws is None else (DRAW,)), *self.ends().names)
        both = [name for name in added if name in there]
        if both:
            raise InputError(
                f"expected no column called {listed(both)}, which is the name of one that is "
                "added; rename it"
            )


def _numbered(table: nw.DataFrame[Any], number: int) -> nw.DataFrame[Any]:
    """A table with its number as its first column."""
    counter = nw.new_series(DRAW, np.full(len(table), number), backend=table.implementation)
    return table.with_columns(counter).select(DRAW, *table.columns)


@final
@dataclass(frozen=True, kw_only=True)
class Within:
    """Where what fills gaps may lie: how its cells are drawn, and the ends of every column in the
    data's own units, (column,) or one for all."""

    drawn: DrawCells = anywhere
    low: NDArray[np.float64] | float = -math.inf
    high: NDArray[np.float64] | float = math.inf


ANYWHERE = Within()


def impute(
    model: LatentVariableModel,
    schema: Schema,
    rows: Rows,
    x: Tensor,
    given: Given,
    hidden_cells: Intervals,
    *,
    within: Within = ANYWHERE,
    draws: int | None = None,
    level: float | None = None,
    shift: float | Mapping[str, float] = 0.0,
    num_samples: int = NUM_SAMPLES,
    seed: int = 0,
    on_part: Callable[[float], None] = lambda fraction: None,
) -> Imputation:
    """Fill the gaps of rows, which the model sees as x, by what their observed cells say.

    ``draws`` completed tables and intervals at ``level`` come with the values where they are asked
    for. ``shift`` moves what fills gaps of number columns by so many standard deviations of the
    column's observed cells, for all or by name: an analysis of data not missing at random. All
    else lies ``within`` what was seen. Raises InputError for less than one draw, a level outside
    (0, 1), and shifts of columns that there are not, that hold no numbers, or whose spread these
    rows do not show.
    """
    _require(draws, level)
    gapped = _Gapped.of(schema, rows, x, given, within, shift)
    some, c = gapped.some, gapped.some_given
    found = expected(model, some, num_samples=num_samples, seed=seed, given=c, on_tile=on_part)
    missing = np.isnan(rows.values)
    values = rows.dense.copy()
    values[missing] = gapped.filled(found.values)[missing]
    tables = low = high = None
    if draws is not None:
        tables = gapped.completed(model, draws, num_samples, seed)
    if level is not None:
        measures = Measures.of(schema)
        own = reach(model, some, measures, seed=seed, given=c)
        inside = missing & _ordered(schema, measures)
        low, high = (
            np.where(inside, gapped.filled(end.view(some.shape)), np.nan)
            for end in own.ends(hidden_cells.stretch(schema.dims, level))
        )
    place = gapped.gaps.cpu().numpy()
    ess = np.full(len(rows), float(num_samples))
    ess[place] = found.ess.numpy()
    return Imputation(
        schema=schema,
        rows=rows,
        values=values,
        missing=missing,
        low=low,
        high=high,
        draws=tables,
        probabilities=_probabilities(schema, found, place, missing),
        ess=ess,
        level=level,
        warnings=_warnings(x, ess, num_samples, hidden_cells, level),
    )


def complete(
    model: LatentVariableModel,
    schema: Schema,
    rows: Rows,
    x: Tensor,
    given: Given,
    draws: int,
    *,
    within: Within = ANYWHERE,
    shift: float | Mapping[str, float] = 0.0,
    num_samples: int = NUM_SAMPLES,
    seed: int = 0,
) -> NDArray[np.float64]:
    """The ``draws`` of ``impute`` alone, (draw, row, *event); InputError as there."""
    _require(draws, None)
    gapped = _Gapped.of(schema, rows, x, given, within, shift)
    return gapped.completed(model, draws, num_samples, seed)


@final
@dataclass(frozen=True, kw_only=True)
class _Gapped:
    """Rows in the data's units, which the model sees as x; some have ``gaps``. What fills them lies
    ``within`` what was seen, and is then ``moved`` by a shift in the data's units."""

    schema: Schema
    rows: Rows
    x: Tensor
    given: Given
    gaps: Tensor
    within: Within
    moved: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        schema: Schema,
        rows: Rows,
        x: Tensor,
        given: Given,
        within: Within,
        shift: float | Mapping[str, float],
    ) -> "_Gapped":
        """Those of rows; ``shift`` as ``impute`` takes it."""
        gaps, moved = torch.isnan(x).flatten(1).any(1), _shifts(schema, rows, shift)
        return cls(
            schema=schema, rows=rows, x=x, given=given, gaps=gaps, within=within, moved=moved
        )

    @property
    def some(self) -> Tensor:
        """The rows of x that have gaps."""
        return self.x[self.gaps]

    @property
    def some_given(self) -> Given:
        """Their covariates."""
        return None if self.given is None else self.given[self.gaps]

    def completed(
        self, model: LatentVariableModel, draws: int, num_samples: int, seed: int
    ) -> NDArray[np.float64]:
        """The rows completed time and again, (draw, row, *event)."""
        some = self.some
        parts = completions(
            model, some, draws, num_samples=num_samples, seed=seed, given=self.some_given,
            drawn=self.within.drawn,
        )  # fmt: skip
        made = torch.cat([some.new_zeros(draws, 0, *some.shape[1:]), *parts], dim=1)
        return np.where(np.isnan(self.rows.values), self.filled(made), self.rows.values)

    def filled(self, cells: Tensor) -> NDArray[np.float64]:
        """All rows (..., row, *event) in the data's units, those with gaps being ``cells``; every
        value is one that its column can take."""
        before = cells.shape[: cells.dim() - self.x.dim()]
        whole = self.x.double().expand(*before, *self.x.shape).clone()
        whole[(slice(None),) * len(before) + (self.gaps,)] = cells.to(whole)
        values = decode(self.schema, whole.cpu().numpy())
        values = np.clip(values, self.within.low, self.within.high) + self.moved
        possible = values.reshape(-1, *self.schema.event_shape)
        for column, view in columns_of(self.schema, possible):
            view[...] = column.nearest(view)
        return possible.reshape(values.shape)


def _ordered(schema: Schema, measures: Measures) -> NDArray[np.bool_]:
    """Which cells of a row (*event) have an order to lie in an interval by."""
    if schema.shared:
        return measures.ordered.numpy().reshape(schema.event_shape)
    ordered = np.zeros(schema.event_shape, bool)
    ordered[list(schema.modelled)] = measures.ordered.numpy()
    return ordered


def _probabilities(
    schema: Schema, found: Expected, place: NDArray[np.bool_], missing: NDArray[np.bool_]
) -> dict[str, NDArray[np.float64]]:
    """P(class | observed cells) of a table's missing classes, (row, class), NaN elsewhere."""
    if schema.shared:
        return {}
    result = {}
    for cell, j in enumerate(schema.modelled):
        masses = _masses(schema.columns[j], found, cell)
        if masses is not None:
            whole = np.full((len(place), masses.shape[1]), np.nan)
            whole[place] = masses
            whole[~missing[:, j]] = np.nan
            result[schema.columns[j].name] = whole
    return result


def _masses(column: Column, found: Expected, cell: int) -> NDArray[np.float64] | None:
    """Of one column, where it holds classes: those of 0 and 1 by the mean."""
    if column.kind == BINARY:
        of_one = found.values.flatten(1)[:, cell].cpu().double().numpy()
        return np.stack([1 - of_one, of_one], axis=1)
    return found.masses[cell].numpy()[:, : len(column.levels)] if cell in found.masses else None


# ---- what was asked for, and what is to be said ------------------------------------------------


def _require(draws: int | None, level: float | None) -> None:
    if draws is not None and draws < 1:
        raise InputError(f"expected at least 1 draw of each gap, but {draws} came; give more")
    if level is not None and not 0 < level < 1:
        raise InputError(
            f"expected intervals at a level between 0 and 1, but {level:g} came; 0.9 is usual"
        )


def _shifts(schema: Schema, rows: Rows, shift: float | Mapping[str, float]) -> NDArray[np.float64]:
    """By how much what fills each column is moved, in the data's units, broadcasting to *event."""
    numbers = [c.name for c in schema.columns if c.kind not in NO_NUMBERS]
    asked = dict(shift) if isinstance(shift, Mapping) else dict.fromkeys(numbers, shift)
    strange = [name for name in asked if name not in numbers]
    if strange:
        raise InputError(
            f"expected shifts of columns that hold numbers ({listed(numbers) or 'none'}), but "
            f"{listed(strange)} came; leave it out, or correct its name"
        )
    moved = np.zeros(() if schema.shared else schema.event_shape)
    for j, (column, cells) in enumerate(columns_of(schema, rows.values)):
        by = asked.get(column.name, 0.0)
        if not math.isfinite(by):
            raise InputError(
                f"expected a finite shift of column {column.name!r}, but {by} came; 0.5 moves what "
                "fills its gaps half a standard deviation up"
            )
        if by != 0:
            moved[() if schema.shared else j] = by * _spread(column, cells)
    return moved


def _spread(column: Column, cells: np.ndarray) -> float:
    observed = cells[~np.isnan(cells)]
    if len(observed) < 2:
        raise InputError(
            f"expected two observed cells or more in column {column.name!r} to shift by their "
            f"standard deviation, but {len(observed)} came; give more rows, or leave it unshifted"
        )
    return float(observed.astype(np.float64).std())


def _warnings(
    x: Tensor,
    ess: NDArray[np.float64],
    num_samples: int,
    hidden_cells: Intervals,
    level: float | None,
) -> tuple[str, ...]:
    """What to hold against the filling, a sentence each."""
    few = int((ess < min(FEWEST_EFFECTIVE_TO_IMPUTE, num_samples)).sum())
    empty = int(torch.isnan(x).flatten(1).all(1).sum())
    told = () if level is None or hidden_cells.says(level) else (hidden_cells.sentence(level),)
    return (
        *_if(
            few > 0,
            f"in {few} of {len(ess)} rows fewer than {FEWEST_EFFECTIVE_TO_IMPUTE:g} of "
            f"{num_samples} draws count (down to {ess.min(initial=np.inf):.1f}): what fills them "
            "is left to chance; the rows may be unlike those that the model was fitted to",
        ),
        *_if(
            empty > 0,
            f"{empty} of {len(ess)} rows show nothing, and are filled by what is usual",
        ),
        *told,
    )


def _if(said: bool, sentence: str) -> tuple[str, ...]:
    return (sentence,) if said else ()
