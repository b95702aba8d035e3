"""Cells that are angles, as a density per unit of the data."""

import math
from collections.abc import Sequence
from typing import final

import torch
from scipy import stats
from torch import Generator, Tensor

from unveil.distributions import Cells, Plain, by_scipy, draw
from unveil.families import split_parameters
from unveil.likelihoods.bounded import BoundedDensity

# Added to a squared length, whose root has no gradient at 0.
HAIR = 1e-24


@final
class VonMises(BoundedDensity):
    """Angles x_j in radians, taken modulo 2π, as a density per unit of the data.

        log p(x) = v·(cos x, sin x) − log 2π I₀(κ),   κ = |v|,   v = r/√(1 + (floor² |r|)²)

    The network gives two numbers r per cell. They are the natural parameters, up to the cap:
    their direction is the mean's and their length the concentration, so that no angle is a seam,
    raw zeros are the uniform distribution, and a cell that z says nothing of shrinks to it. κ stays
    below 1/floor², a spread of ``floor`` radians: without a cap the density is unbounded (Mattei &
    Frellsen 2018). ``unit`` (broadcasting to the event) is the unit in x = (value − shift)/unit,
    180/π for degrees, and its Jacobian −log unit is part of log p. ``mean`` is the direction of the
    mean, in [−π, π]. Source: Mardia & Jupp 2000, section 3.5.4.

    >>> family = VonMises(1, unit=180 / math.pi)
    >>> density = family(torch.zeros(1, 2)).log_prob(torch.ones(1, 1)).exp()
    >>> round(float(1 / density))                            # uniform over 360 degrees
    360
    """

    NUMBERS = 2

    def forward(self, raw: Tensor) -> Cells:
        cosine, sine = split_parameters(raw, self.event_shape)
        length = torch.sqrt(cosine.square() + sine.square() + HAIR)
        base = VonMisesDensity(
            cosine / length, sine / length, length / torch.sqrt(1 + (self.floor**2 * length) ** 2)
        )
        return self.cells(base, raw.dtype)

    def log_supremum(self, x: Tensor) -> Tensor:
        """The density at the mean, at the highest concentration."""
        top = VonMisesDensity(torch.cos(x), torch.sin(x), torch.full_like(x, self.floor**-2))
        return self.cells(top, x.dtype).log_prob(x)

    def start_at(self, x: Tensor) -> Tensor:
        """The mean direction: that of the mean point, which has no seam."""
        points = torch.stack([torch.cos(x), torch.sin(x)], dim=1)
        return points.nanmean(0).nan_to_num(nan=0.0).flatten()


@final
class VonMisesDensity(Plain):
    """A von Mises density: N(m, I/κ) in the plane, looked at on the unit circle alone.

        log p(x) = −κ/2 · |(cos x, sin x) − m|² − log 2π I₀(κ)e^{−κ}

    m = (``cosine``, ``sine``) has length 1. Written by the chord, a high concentration subtracts no
    two large numbers, as κ cos − log I₀ would; and the scaled I₀(κ)e^{−κ} never overflows.

    >>> one, zero = torch.ones(1), torch.zeros(1)
    >>> round(float(VonMisesDensity(one, zero, 1e4 * one).log_prob(zero)), 3)    # log √(κ/2π)
    3.686
    """

    def __init__(self, cosine: Tensor, sine: Tensor, concentration: Tensor) -> None:
        self.cosine, self.sine, self.concentration = cosine, sine, concentration
        super().__init__(concentration.shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        return torch.atan2(self.sine, self.cosine)

    def log_prob(self, value: Tensor) -> Tensor:
        chord = (torch.cos(value) - self.cosine).square() + (torch.sin(value) - self.sine).square()
        log_mass = torch.log(2 * math.pi * torch.special.i0e(self.concentration))
        return -0.5 * self.concentration * chord - log_mass

    def cdf(self, value: Tensor) -> Tensor:
        """The mass from half a turn before the mean up to ``value``, 1 more for each turn further:
        what lies between two angles is the difference of theirs."""
        return by_scipy(stats.vonmises.cdf, value - self.mean, self.concentration)


@draw.register
def _(distribution: VonMisesDensity, shape: Sequence[int], generator: Generator) -> Tensor:
    """By rejection from the nearest wrapped Cauchy (Best & Fisher 1979), angles in [−π, π).

        θ = 2 atan((1−ρ)/(1+ρ) tan πu),  accepted with probability q e^{1−q},
        q = w (1−ρ)² + 2κ sin²(θ/2),  ρ = κ/2w,  w = (τ + √2τ)/4,  τ = 1 + √(1 + 4κ²)

    Two proposals in three are accepted at the least. The paper's forms divide by κ.
    """
    mean, k = distribution.mean.detach(), distribution.concentration.detach()

    def uniform() -> Tensor:
        size = (*shape, *k.shape)
        return torch.rand(size, generator=generator, device=k.device, dtype=k.dtype)

    tau = 1 + torch.sqrt(1 + 4 * k.square())
    w = (tau + torch.sqrt(2 * tau)) / 4
    rho = k / (2 * w)
    offset = torch.full((*shape, *k.shape), math.nan, device=k.device, dtype=k.dtype)
    while bool(torch.isnan(offset).any()):
        tangent = (1 - rho) / (1 + rho) * torch.tan(math.pi * (uniform() - 0.5))
        squared_sine = tangent.square() / (1 + tangent.square())
        q = w * (1 - rho).square() + 2 * k * squared_sine
        accepted = torch.log(uniform()) <= torch.log(q) + 1 - q
        wanted = torch.isnan(offset) & accepted
        offset = torch.where(wanted, 2 * torch.atan(tangent), offset)
    return torch.remainder(mean + offset + math.pi, 2 * math.pi) - math.pi
