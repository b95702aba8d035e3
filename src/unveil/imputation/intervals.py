"""Intervals for missing cells, as wide as cells that were hidden from the model say they must be.

The model says where a missing cell lies and how uncertain that is: its median m, and how far down
and up its own 80 % reach, b and a. Cells of rows that it was not trained on, hidden and then looked
at, tell how many times as far the truth lies:

    r = (m − x)/b or (x − m)/a,   interval at level p:  [m − c_p b, m + c_p a],
    c_p = the least c with Σ_n (the share of row n's cells that have r ≤ c) ≥ (N + 1) p

which holds a new row's cell with probability p at least, whatever the model got wrong, where the
row is exchangeable with the N whose cells were hidden: cells of one row err together, so that rows
count, and not cells (Lee, Barber & Willett 2023, hierarchical conformal prediction).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from unveil.data.schema import ANGLE, BINARIZED, BINARY, CATEGORY, Schema
from unveil.imputation.missing import completions
from unveil.latent import LatentVariableModel
from unveil.noise import generator
from unveil.shapes import Given

# The quantiles by which the model's own uncertainty is told: the middle, and the ends of its 80 %.
QUANTILES = (0.1, 0.5, 0.9)
# How far those ends lie from the middle of a normal distribution, in standard deviations.
NORMAL_REACH = 1.2815515655446004
# Draws of each missing cell, and draws of q that they are picked among.
NUM_DRAWS, NUM_SAMPLES = 400, 500
# A column with hidden cells in fewer rows is calibrated together with all others.
ENOUGH_IN_A_COLUMN = 50
# Rows are hidden from time and again, in other patterns, but not oftener, nor more of them.
MOST_ROUNDS, MOST_ROWS = 5, 1000
# The shares of cells that are hidden where a table has no gaps to tell a pattern by.
LEAST_SHARE, LARGEST_SHARE = 0.1, 0.3
# Where the model knows no doubt at all, distances are measured in this, in model units.
LEAST_REACH = 1e-6
# Every so many rows intervals calibrated on all other rows are looked at.
FOLDS = 10
# A sum of shares may round this much below what it is.
HAIR = 1e-9
# The levels whose coverage is saved, and the one that people are told of, here as elsewhere.
LEVELS = (0.5, 0.8, 0.9, 0.95)
TOLD_LEVEL = 0.9

Flat = Float[Tensor, "row cell"]
Patterns = Bool[Tensor, "pattern cell"]


@final
@dataclass(frozen=True, kw_only=True)
class Measures:
    """What the modelled cells of a row are, in model units, (cell,) each.

    ``ordered`` tells those with an order, which can lie in an interval; ``step`` is what their
    values are apart, 0 for reals; ``period`` that of an angle, 0 for others.
    """

    ordered: Bool[Tensor, " cell"]
    step: Float[Tensor, " cell"]
    period: Float[Tensor, " cell"]

    @classmethod
    def of(cls, schema: Schema) -> "Measures":
        """Those of a schema's modelled cells, one after the other.

        >>> from unveil.data.schema import Column
        >>> age = Column("age", "grid", unit=10.0, step=1.0)
        >>> Measures.of(Schema((1,), (age,), gaps=True)).step
        tensor([0.1000])
        """
        columns = [schema.columns[i] for i in schema.modelled]
        each = schema.dims // len(columns)
        unordered = {CATEGORY, BINARY, BINARIZED}
        return cls(
            ordered=torch.tensor([c.kind not in unordered for c in columns]).repeat(each),
            step=torch.tensor([c.spacing for c in columns]).repeat(each),
            period=torch.tensor([math.tau * (c.kind == ANGLE) for c in columns]).repeat(each),
        )

    def apart(self, x: Tensor, origin: Tensor) -> Tensor:
        """x − origin, and for angles the shorter way around, (..., cell)."""
        turn = torch.where(self.period > 0, self.period, 1.0).to(x)
        difference = x - origin
        return torch.where(
            self.period.to(x) > 0, difference - turn * torch.round(difference / turn), difference
        )


# ---- the model's own uncertainty ---------------------------------------------------------------


@final
@dataclass(frozen=True, kw_only=True)
class Reach:
    """Where missing cells lie, in model units, (row, cell): a middle, and how far down and up of
    it the model's own 80 % reach. What is said of observed cells and of classes means nothing."""

    middle: Flat
    below: Flat
    above: Flat

    def ends(self, stretch: Float[Tensor, " cell"]) -> tuple[Flat, Flat]:
        """[m − c b, m + c a] for factors c (cell,)."""
        return self.middle - stretch * self.below, self.middle + stretch * self.above

    def distances(self, x: Flat, measures: Measures) -> Flat:
        """How far cells x lie from the middle, as multiples of the reach on that side.

        On a grid an end is rounded to the nearest value, and so holds what is half a step away.
        """
        off = measures.apart(x, self.middle)
        reach = torch.where(off < 0, self.below, self.above)
        return (off.abs() - measures.step.to(off) / 2).clamp(min=0.0) / reach


def reach(
    model: LatentVariableModel,
    x: Float[Tensor, "row *event"],
    measures: Measures,
    *,
    seed: int = 0,
    given: Given = None,
) -> Reach:
    """The median and the ends of the central 80 % of p(x_j|x_obs), by draws of it.

    Takes rows x (row, *event) in model units, NaN where a cell is missing. Raises ArithmeticError
    for a weight that is NaN or +∞.

    >>> import unveil
    >>> from torch import nn
    >>> from unveil.networks.mlp import Encoder, MarksGaps
    >>> gaps = MarksGaps()
    >>> encoder = Encoder((2,), covariates=0, outputs=2, width=8, depth=1, gaps=gaps)
    >>> vae = unveil.VAE(
    ...     prior=unveil.StandardNormal(1),
    ...     likelihood=unveil.Conditional(nn.Linear(1, 2), unveil.Gaussian(2)),
    ...     posterior=unveil.Conditional(encoder, unveil.DiagonalGaussian(1)),
    ... )
    >>> two = torch.zeros(2)
    >>> reals = Measures(ordered=two == 0, step=two, period=two)
    >>> found = reach(vae, torch.tensor([[float("nan"), 0.5]]), reals)
    >>> bool((found.below[:, 0] > 0.5).all())
    True
    """
    drawn = completions(model, x, NUM_DRAWS, num_samples=NUM_SAMPLES, seed=seed, given=given)
    parts = [_reach(draws.flatten(2).cpu().double(), measures) for draws in drawn]
    middle, below, above = (
        torch.cat([part[i] for part in parts]) if parts else x.flatten(1).double() for i in range(3)
    )
    return Reach(middle=middle, below=below, above=above)


def _reach(draws: Tensor, measures: Measures) -> tuple[Tensor, Tensor, Tensor]:
    """Middle, below and above, (row, cell) each, of draws (draw, row, cell)."""
    # The quantiles of an angle are those around its mean direction.
    direction = torch.atan2(draws.sin().mean(0), draws.cos().mean(0))
    origin = torch.where(measures.period > 0, direction, 0.0)
    levels = torch.tensor(QUANTILES, dtype=draws.dtype)
    low, middle, high = torch.quantile(measures.apart(draws, origin), levels, dim=0)
    least = (measures.step / 2).clamp(min=LEAST_REACH).to(draws)
    return origin + middle, torch.maximum(middle - low, least), torch.maximum(high - middle, least)


# ---- calibration -------------------------------------------------------------------------------


@final
@dataclass(frozen=True, kw_only=True)
class Intervals:
    """How far hidden cells lay from where they were expected, as multiples of the model's reach.

    ``cells`` tells which cell each of the ``distances`` is of, and ``rows`` of which row.
    """

    cells: Int[Tensor, " hidden"]
    distances: Float[Tensor, " hidden"]
    rows: Int[Tensor, " hidden"]

    @classmethod
    def none(cls) -> "Intervals":
        """Of no hidden cells."""
        nothing = torch.zeros(0, dtype=torch.int64)
        return cls(cells=nothing, distances=nothing.double(), rows=nothing)

    def stretch(self, num_cells: int, level: float) -> Float[Tensor, " cell"]:
        """c_p for each of so many cells of a row, float64; a normal distribution's where cells of
        too few rows were hidden to tell."""
        together = _conformal(self.distances, self.rows, level)
        factors = torch.full((num_cells,), together, dtype=torch.float64)
        for cell in self.cells.unique().tolist():
            there = self._of(self.cells == cell)
            if there.num_rows >= ENOUGH_IN_A_COLUMN and there.says(level):
                factors[cell] = _conformal(there.distances, there.rows, level)
        return factors

    @property
    def num_rows(self) -> int:
        """How many rows cells were hidden of."""
        return len(self.rows.unique())

    def says(self, level: float) -> bool:
        """Whether cells of enough rows were hidden for intervals at this level: of 9, for 0.9.

        >>> Intervals.none().says(0.9)
        False
        """
        return _enough(self.num_rows, level)

    def coverage(self, level: float) -> float:
        """The share of hidden cells that intervals hold, calibrated on nine tenths of the rows that
        do not have them; NaN where no cell was hidden."""
        if not len(self.cells):
            return math.nan
        held = 0
        for fold in range(FOLDS):
            theirs = self.rows % FOLDS == fold
            factors = self._of(~theirs).stretch(1 + int(self.cells.max()), level)
            held += int((self.distances <= factors[self.cells])[theirs].sum())
        return held / len(self.cells)

    def sentence(self, level: float) -> str:
        """What is known of intervals at a level, in words.

        >>> Intervals.none().sentence(0.9)
        '90% intervals are not calibrated: only 0 rows had cells to hide; fit to more rows'
        """
        if not self.says(level):
            return (
                f"{level:.0%} intervals are not calibrated: only {self.num_rows} rows had cells to "
                "hide; fit to more rows"
            )
        return (
            f"{level:.0%} intervals hold {self.coverage(level):.1%} of {len(self.cells)} cells "
            f"that were hidden in {self.num_rows} rows, each calibrated on other rows than its own"
        )

    def tensors(self) -> dict[str, Tensor]:
        """The calibration as tensors to save, with the coverage measured at ``LEVELS``."""
        coverage = [self.coverage(level) for level in LEVELS]
        return {
            "interval_cells": self.cells,
            "interval_distances": self.distances,
            "interval_rows": self.rows,
            "interval_levels": torch.tensor(LEVELS, dtype=torch.float64),
            "interval_coverage": torch.tensor(coverage, dtype=torch.float64),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "Intervals":
        """The calibration that ``tensors`` made, among others perhaps."""
        return cls(
            cells=tensors["interval_cells"],
            distances=tensors["interval_distances"],
            rows=tensors["interval_rows"],
        )

    def _of(self, which: Tensor) -> "Intervals":
        return Intervals(
            cells=self.cells[which], distances=self.distances[which], rows=self.rows[which]
        )


def _conformal(distances: Tensor, rows: Tensor, level: float) -> float:
    """The least distance that holds a share p (N + 1)/N of N rows' cells, or that of a normal
    distribution's ends.

    >>> _conformal(torch.arange(1.0, 10.0), torch.arange(9), 0.9)
    9.0
    >>> _conformal(torch.arange(1.0, 10.0), torch.arange(9) // 3, 0.7)      # 0.7 · 4/3 of three
    9.0
    >>> _conformal(torch.zeros(0), torch.zeros(0), 0.8)
    1.0
    """
    _, row, cells_of = rows.unique(return_inverse=True, return_counts=True)
    if not _enough(len(cells_of), level):
        half = torch.tensor((1 + level) / 2, dtype=torch.float64)
        return float(torch.special.ndtri(half)) / NORMAL_REACH
    order = distances.argsort()
    held = cells_of.double().reciprocal()[row[order]].cumsum(0)
    return float(distances[order][int((held < (len(cells_of) + 1) * level - HAIR).sum())])


def _enough(rows: int, level: float) -> bool:
    return rows > 0 and (rows + 1) * level <= rows + HAIR


def calibrate(
    model: LatentVariableModel,
    x: Flat,
    patterns: Patterns,
    measures: Measures,
    *,
    given: Given = None,
    seed: int = 0,
) -> Intervals:
    """Hide cells of rows x that the model was not trained on, and see where they lie.

    ``patterns`` are the missing cells of the training rows, which say how cells go missing; see
    ``hide``. Raises ArithmeticError for a weight that is NaN or +∞.

    >>> import unveil
    >>> from torch import nn
    >>> from unveil.networks.mlp import Encoder, MarksGaps
    >>> gaps = MarksGaps()
    >>> encoder = Encoder((3,), covariates=0, outputs=2, width=8, depth=1, gaps=gaps)
    >>> vae = unveil.VAE(
    ...     prior=unveil.StandardNormal(1),
    ...     likelihood=unveil.Conditional(nn.Linear(1, 3), unveil.Gaussian(3)),
    ...     posterior=unveil.Conditional(encoder, unveil.DiagonalGaussian(1)),
    ... )
    >>> three = torch.zeros(3)
    >>> reals = Measures(ordered=three == 0, step=three, period=three)
    >>> x = torch.randn(20, 3, generator=generator(0, "demo"))
    >>> calibrate(vae, x, torch.isnan(x), reals).says(0.9)
    True
    """
    rounds = max(1, min(MOST_ROUNDS, MOST_ROWS // max(1, len(x))))
    rows = torch.arange(min(len(x), MOST_ROWS), device=x.device).repeat(rounds)
    hidden = hide(x[rows], patterns, generator(seed, "hide", device=x.device))
    some = hidden.any(1)
    rows, hidden = rows[some], hidden[some]
    truth = x[rows]
    shown = torch.where(hidden, torch.nan, truth)
    found = reach(model, shown, measures, seed=seed, given=None if given is None else given[rows])
    row, cell = (hidden.cpu() & measures.ordered).nonzero().unbind(1)
    distances = found.distances(truth.cpu().double(), measures)[row, cell]
    return Intervals(cells=cell, distances=distances, rows=rows.cpu()[row])


def hide(x: Flat, patterns: Patterns, randomness: Generator) -> Bool[Tensor, "row cell"]:
    """Which cells of rows x to hide, as cells of the table go missing.

    Each row takes the gaps of a random pattern that has any, and hides so many of them, picked at
    random, that it shows as many cells as the pattern does: at least one, and never its last. No
    pattern tells of columns that have no gaps: every other row, and every one where no column has
    any, hides 10 to 30 % of their cells instead.

    >>> x, gaps = torch.zeros(2, 3), torch.tensor([[True, True, True], [False, True, True]])
    >>> hide(x, gaps, generator(0, "demo"))
    tensor([[False,  True,  True],
            [False,  True,  True]])
    """

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=randomness, device=x.device, dtype=torch.float64)

    patterns = patterns[~patterns.all(1)]
    complete = ~patterns.any(0)
    share = LEAST_SHARE + (LARGEST_SHARE - LEAST_SHARE) * uniform(len(x), 1)
    gone = (uniform(*x.shape) < share) & complete
    with_gaps = patterns[patterns.any(1)]
    if len(with_gaps):
        chosen = (uniform(len(x)) * len(with_gaps)).long()
        follows = (uniform(len(x), 1) < 0.5) | ~complete.any()
        gone = torch.where(follows, with_gaps[chosen], gone)
    seen = ~torch.isnan(x)
    shown = seen.sum(1)
    number = torch.minimum((shown - (~gone).sum(1)).clamp(min=1), shown - 1)
    lots = torch.where(gone & seen, uniform(*x.shape), torch.inf)
    return (lots.argsort(1).argsort(1) < number[:, None]) & gone & seen
