"""Cells that are any number, as a density per unit of the data."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import final

import torch
from scipy import special
from torch import Generator, Tensor, nn
from torch.distributions import Distribution, Normal

from unveil.distributions import Cells, Plain, by_scipy, draw
from unveil.families import positive, raw_of
from unveil.likelihoods.scale import LocationScale, Scale
from unveil.noise import standard_gamma

# Tails heavy enough to forgive an outlier, and light enough to start near the Gaussian.
FREEDOM_AT_START = 8.0


class LocationScaleDensity(LocationScale, ABC):
    """Cells with a location and a spread, whose density is one per unit of the data.

    ``unit`` (broadcasting to the event) is the column's unit in x = (value − shift)/unit, whose
    Jacobian −log unit is part of log p.
    """

    log_unit: Tensor

    def __init__(
        self,
        event_shape: int | tuple[int, ...],
        scale: Scale | None = None,
        *,
        unit: Tensor | float = 1.0,
        floor: float = 0.01,
    ) -> None:
        super().__init__(event_shape, scale, floor)
        self.register_buffer("log_unit", torch.as_tensor(unit, dtype=torch.float64).log())

    @abstractmethod
    def density(self, loc: Tensor, scale: Tensor) -> Distribution:
        """One density per cell, in model units; loc and scale have the same shape."""

    def cells(self, loc: Tensor, scale: Tensor) -> Cells:
        base = self.density(loc, scale.expand_as(loc))
        log_unit = self.log_unit.to(loc.dtype)
        return Cells(base, event_dims=len(self.event_shape), log_unit=log_unit)

    def nearest(self, x: Tensor) -> Tensor:
        """The location that gives each cell of x its highest density, at any spread."""
        return x

    def log_supremum(self, x: Tensor) -> Tensor:
        """The density at the best location and the smallest spread that the family can have."""
        with torch.no_grad():
            return self.cells(self.nearest(x), self.smallest_scale.to(x.dtype)).log_prob(x)


@final
class Gaussian(LocationScaleDensity):
    """Real cells: x_j ~ N(μ_j, σ_j²), as a density per unit of the data.

    ``unit`` (broadcasting to the event) is the column's unit in x = (value − shift)/unit, whose
    Jacobian −log unit is part of log p. ``scale`` is a FixedScale, a ColumnScale (default) or a
    CellScale.

    >>> from unveil import FixedScale
    >>> family = Gaussian(1, FixedScale(1.0), unit=10.0)     # x = 0 stands for value = shift
    >>> density = family(torch.zeros(1, 1)).log_prob(torch.zeros(1, 1)).exp()
    >>> round(float(density), 5)                             # 1/(10 √2π)
    0.03989
    """

    def density(self, loc: Tensor, scale: Tensor) -> Normal:
        return Normal(loc, scale, validate_args=False)


@final
class StudentT(LocationScaleDensity):
    """Real cells with heavy tails: x_j ~ t_ν(μ_j, σ_j), as a density per unit of the data.

        log p(x) = log Γ((ν+1)/2) − log Γ(ν/2) − ½ log πν − log σ − (ν+1)/2 · log(1 + y²/ν),
        y = (x − μ)/σ

    An outlier costs log y, not y². The degrees of freedom ν_j > 1 are learned, one per column;
    above 1 the mean exists, and is μ. ``scale``, ``unit`` and ``floor`` are those of ``Gaussian``.
    Source: Lange, Little & Taylor 1989, section 2.

    >>> family = StudentT(2)
    >>> [round(v, 3) for v in family.freedom.tolist()]
    [8.0, 8.0]
    >>> family(torch.zeros(5, 2)).log_prob(torch.zeros(5, 2)).shape
    torch.Size([5])
    """

    def __init__(
        self,
        event_shape: int | tuple[int, ...],
        scale: Scale | None = None,
        *,
        unit: Tensor | float = 1.0,
        floor: float = 0.01,
    ) -> None:
        super().__init__(event_shape, scale, unit=unit, floor=floor)
        at_start = raw_of(torch.tensor(FREEDOM_AT_START - 1))
        self.raw_freedom = nn.Parameter(torch.full(self.event_shape, float(at_start)))

    @property
    def freedom(self) -> Tensor:
        """The degrees of freedom ν of each column, (*event), above 1."""
        return 1 + positive(self.raw_freedom)

    def density(self, loc: Tensor, scale: Tensor) -> "StudentTDensity":
        return StudentTDensity(loc, scale, self.freedom)


@final
class StudentTDensity(Plain):
    """Student's t with location, scale and degrees of freedom, which broadcast to the location.

    >>> t = StudentTDensity(torch.zeros(1), torch.ones(1), torch.ones(1))    # Cauchy: 1/π at 0
    >>> round(float(t.log_prob(torch.zeros(1)).exp()), 5)
    0.31831
    """

    def __init__(self, loc: Tensor, scale: Tensor, freedom: Tensor) -> None:
        self.loc, self.scale, self.freedom = loc, scale, freedom
        super().__init__(loc.shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.loc

    def log_prob(self, value: Tensor) -> Tensor:
        standard = (value - self.loc) / self.scale
        # The difference of two large log Γ would lose float32's digits; there is one per column.
        half = self.freedom.double() / 2
        log_mass = (
            torch.lgamma(half + 0.5) - torch.lgamma(half) - 0.5 * torch.log(2 * math.pi * half)
        )
        tail = (self.freedom + 1) / 2 * torch.log1p(standard.square() / self.freedom)
        return log_mass.to(value.dtype) - torch.log(self.scale) - tail

    def cdf(self, value: Tensor) -> Tensor:
        return by_scipy(special.stdtr, self.freedom, (value - self.loc) / self.scale)


@draw.register
def _(distribution: StudentTDensity, shape: Sequence[int], generator: Generator) -> Tensor:
    """t = ε/√(g/(ν/2)), ε ~ N(0, 1), g ~ Gamma(ν/2, 1)."""
    loc, scale = distribution.loc.detach(), distribution.scale.detach()
    half = distribution.freedom.detach().to(loc.dtype).expand(*shape, *loc.shape) / 2
    standard = Normal(torch.zeros_like(loc), torch.ones_like(loc), validate_args=False)
    gamma = standard_gamma(half, generator)
    return loc + scale * draw(standard, shape, generator) * torch.sqrt(half / gamma)
