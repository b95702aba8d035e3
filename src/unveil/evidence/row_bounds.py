"""Bounds on log p(x) of each row by one method, and what they say of the mean over rows."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unveil.evidence.bound import Bound, Guarantee, Side
from unveil.evidence.weights import Weights
from unveil.shapes import PerRow


@final
@dataclass(frozen=True, kw_only=True)
class RowBounds:
    """One method's bounds on log p(x), nats, (row,), float64.

    ``variance`` (row,) is each one's variance over the draws; None where it is not known.
    ``terms`` (row,) are what a mean over rows averages of their draws, where that has tails.
    ``warnings`` are what to hold against them, a sentence each.
    """

    method: str
    side: Side
    guarantee: Guarantee
    values: PerRow
    variance: PerRow | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    terms: PerRow | None = None
    warnings: tuple[str, ...] = ()

    def mean(self, digests: NDArray[np.uint64]) -> Bound:
        """The mean over rows, which ``digests`` (row, 2) tell apart, with its standard errors."""
        return Bound(
            value=float(self.values.mean()),
            side=self.side,
            guarantee=self.guarantee,
            mc_se=draw_error(self.variance, digests),
            data_se=row_error(self.values),
            method=self.method,
            settings=self.settings,
            warnings=self.warnings,
        )

    def __getitem__(self, rows: Tensor) -> "RowBounds":
        """The bounds of some rows: their numbers, or a mask."""
        figures = {name: getattr(self, name) for name in ("values", "variance", "terms")}
        return replace(
            self, **{name: None if of is None else of[rows] for name, of in figures.items()}
        )


def lower(method: str, weights: Weights, settings: Mapping[str, Any]) -> RowBounds:
    """log (1/K) Σ w_k, at most log p(x) in expectation where E w = p(x) (Burda et al. 2016)."""
    return RowBounds(
        method=method,
        side="lower",
        guarantee="in_expectation",
        values=weights.log_mean,
        variance=weights.log_mean_variance,
        settings=settings,
    )


def upper(
    method: str, guarantee: Guarantee, weights: Weights, settings: Mapping[str, Any]
) -> RowBounds:
    """−log (1/K) Σ r_k, at least log p(x) in expectation where E r = 1/p(x) (Grosse et al.)."""
    return RowBounds(
        method=method,
        side="upper",
        guarantee=guarantee,
        values=-weights.log_mean,
        variance=weights.log_mean_variance,
        settings=settings,
    )


def tangent(method: str, log_c: PerRow, fresh: Weights, settings: Mapping[str, Any]) -> RowBounds:
    """log c + Y/c − 1, at least log p(x) in expectation where E Y = p(x) and c does not hear of Y.

    The line touches the logarithm at c (row,), a pilot's guess at p(x), and lies above it
    elsewhere; Y is the mean of fresh weights. It needs no exact draw of p(z|x), but Y may be
    heavy-tailed: a mean over few rows can then lie below what is expected of it.
    Source: Struski et al. 2022, section 3.

    >>> from unveil.evidence.weights import Tally
    >>> import torch
    >>> tally = Tally(2, 1, delta=0.05)
    >>> tally.add(torch.tensor([[-1.0], [-1.0]]))
    >>> weights = tally.result(torch.tensor([True]))
    >>> tangent("tangent", weights.log_mean, weights, {}).values.tolist()
    [-1.0]
    """
    ratio = (fresh.log_mean - log_c).exp()
    variance = fresh.log_mean_variance
    return RowBounds(
        method=method,
        side="upper",
        guarantee="in_expectation",
        values=log_c + ratio - 1,
        terms=ratio,
        variance=None if variance is None else ratio.square() * variance,
        settings=settings,
    )


def draw_error(variance: PerRow | None, digests: NDArray[np.uint64]) -> float | None:
    """Standard error of the mean over rows from the draws of z alone; None where one draw was
    taken, which cannot tell.

    Equal rows share their draws, so their errors add before they are squared.
    """
    if variance is None:
        return None
    _, which = np.unique(digests, axis=0, return_inverse=True)
    multiplicity = torch.from_numpy(np.bincount(which.reshape(-1)))[which.reshape(-1)]
    return float((variance * multiplicity).sum().sqrt() / len(digests))


def row_error(values: PerRow) -> float | None:
    """Standard error of the mean from which rows were seen; None for a single row."""
    return float(values.std() / math.sqrt(len(values))) if len(values) > 1 else None


def mean_error(values: PerRow, digests: NDArray[np.uint64]) -> float | None:
    """Standard error of the mean over rows by how much they differ, of which equal ones count as
    one; None where all are equal.

        se² = Σ_d n_d² (v_d − v̄)²/N²   over distinct rows d, of which there are n_d
    """
    _, first, number = np.unique(digests, axis=0, return_index=True, return_counts=True)
    if len(first) < 2:
        return None
    times = torch.from_numpy(number).double()
    apart = times * (values[torch.from_numpy(first)] - values.mean())
    correction = len(first) / (len(first) - 1)
    return float((correction * apart.square().sum()).sqrt() / len(digests))
