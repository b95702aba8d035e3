"""Cells between two ends, as a density per unit of the data."""

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Generator, Tensor

from unveil.distributions import Cells, Plain, draw
from unveil.families import split_parameters
from unveil.likelihoods.bounded import BoundedDensity
from unveil.likelihoods.start import solve


@final
class ContinuousBernoulli(BoundedDensity):
    """Cells in [0, 1]: p(x) ∝ λˣ (1 − λ)¹⁻ˣ, as a density per unit of the data.

        log p(x) = η x − log ∫₀¹ e^{ηt} dt,   η = log λ/(1 − λ) = raw/√(1 + (floor · raw)²)

    Near an end the density is that of an exponential with mean 1/|η|, which ``floor`` keeps from 0:
    without it the density of a cell at 0 or 1 is unbounded (Mattei & Frellsen 2018). ``unit``
    (broadcasting to the event) is that of value = low + unit · x, and its Jacobian −log unit is
    part of log p. A value outside [0, 1] has density 0. Source: Loaiza-Ganem & Cunningham 2019,
    eq. 5–7.

    >>> family = ContinuousBernoulli(2, unit=100.0)          # percentages; raw zeros are uniform
    >>> round(float(family(torch.zeros(1, 2)).log_prob(torch.tensor([[0.0, 0.3]])).exp()), 7)
    0.0001
    """

    NUMBERS = 1

    def forward(self, raw: Tensor) -> Cells:
        (free,) = split_parameters(raw, self.event_shape)
        base = ContinuousBernoulliDensity(free / torch.sqrt(1 + (self.floor * free).square()))
        return self.cells(base, raw.dtype)

    def log_supremum(self, x: Tensor) -> Tensor:
        """The density at an end, where the mean is as near to it as the floor lets it be."""
        steepest = ContinuousBernoulliDensity(torch.full_like(x, -1 / self.floor))
        cells = self.cells(steepest, x.dtype)
        return cells.log_prob(torch.where(torch.isnan(x), x, 0.0))

    def start(self, mean: Tensor) -> Tensor:
        # The floor keeps the mean that far from an end; twice as far is reached with a gradient.
        within = mean.flatten().clamp(2 * self.floor, 1 - 2 * self.floor)
        return solve(lambda raw: self(raw).mean.flatten(), within)


@final
class ContinuousBernoulliDensity(Plain):
    """A continuous Bernoulli by its logit η.

        log p(x) = η (x − ½) − log (sinh h)/h,   E x = ½ + (coth h − 1/h)/2,   h = η/2

    >>> logits = torch.tensor([0.0, 100.0])                  # uniform; and 1/|η| short of 1
    >>> ContinuousBernoulliDensity(logits).mean
    tensor([0.5000, 0.9900])
    """

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        return 0.5 + 0.5 * _coth_less_inverse(self.logits / 2)

    def log_prob(self, value: Tensor) -> Tensor:
        log_density = self.logits * (value - 0.5) - _log_sinhc(self.logits / 2)
        return torch.where((value >= 0) & (value <= 1), log_density, -math.inf)

    def cdf(self, value: Tensor) -> Tensor:
        """F(x) = (e^{ηx} − 1)/(e^η − 1) for η < 0; for η > 0, 1 − F(1 − x) of the other sign."""
        x, rising = value.clamp(0, 1), self.logits > 0
        falling = -self.logits.abs().clamp(min=torch.finfo(self.logits.dtype).eps)
        share = torch.expm1(falling * torch.where(rising, 1 - x, x)) / torch.expm1(falling)
        return torch.where(rising, 1 - share, share)


@draw.register
def _(
    distribution: ContinuousBernoulliDensity, shape: Sequence[int], generator: Generator
) -> Tensor:
    """x = F⁻¹(u) = log(1 + u (e^η − 1))/η for η < 0; for η > 0, 1 − x of the other sign."""
    logits = distribution.logits.detach()
    size = (*shape, *logits.shape)
    u = torch.rand(size, generator=generator, device=logits.device, dtype=logits.dtype)
    falling = -logits.abs().clamp(min=torch.finfo(logits.dtype).eps)
    x = torch.log1p(u * torch.expm1(falling)) / falling
    return torch.where(logits > 0, 1 - x, x)


# Below this the series is exact to float64's rounding; above it the closed form is.
_SERIES_BELOW = 0.1


def _log_sinhc(h: Tensor) -> Tensor:
    """log (sinh h)/h, even and smooth: 0 at 0, and near |h| − log 2|h| far from it.

    >>> _log_sinhc(torch.tensor([0.0, 100.0]))               # 100 − log 200
    tensor([ 0.0000, 94.7017])
    """
    near = h.abs() < _SERIES_BELOW
    s = torch.where(near, h, 0.0).square()
    series = s / 6 - s**2 / 180 + s**3 / 2835 - s**4 / 37800
    far = torch.where(near, 1.0, h.abs())
    return torch.where(near, series, far + torch.log(-torch.expm1(-2 * far) / (2 * far)))


def _coth_less_inverse(h: Tensor) -> Tensor:
    """coth h − 1/h, the derivative of ``_log_sinhc``: odd, from −1 to 1.

    >>> _coth_less_inverse(torch.tensor([0.0, 100.0]))
    tensor([0.0000, 0.9900])
    """
    near = h.abs() < _SERIES_BELOW
    s = torch.where(near, h, 0.0)
    series = s / 3 - s**3 / 45 + 2 * s**5 / 945 - s**7 / 4725
    far = torch.where(near, 1.0, h)
    return torch.where(near, series, 1 / torch.tanh(far) - 1 / far)
