"""Cells that count: 0, 1, 2, … without an upper end, as true probabilities."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import final

import torch
import torch.nn.functional as F
from scipy import special
from torch import Generator, Tensor

from unveil.distributions import Cells, Plain, by_scipy, draw
from unveil.families import MassFamily, as_shape, split_parameters
from unveil.likelihoods.scale import LocationScale, Scale
from unveil.noise import standard_gamma

# Above 2²⁴ float32 no longer holds every whole number, so no count is up there, and a mean that
# went on rising exponentially would only overflow.
LARGEST_LOG_MEAN = 24 * math.log(2)
# A column that was never more than 0 may still count something in a new row.
SMALLEST_START = 1e-4
# At 10⁻⁶ the spread of a count with mean 1000 is a Poisson's but for one part in 2000; further
# down r = 1/α is so large that the difference of two log Γ loses the digits that r is learned from.
SMALLEST_DISPERSION = 1e-6
# At 10³ a cell with mean 1 is above 0 once in 145 rows. Further up a gradient has nothing to say,
# and draws are a long row of zeros and then a number out of all proportion.
LARGEST_DISPERSION = 1e3


class Counts(Plain, ABC):
    """Whole numbers from 0 on: Poisson counts whose rate has mean μ, and may itself be random.

    ``log_mean`` has the batch shape. Up to 2²⁴ the mean is μ = exp(log_mean), and from there on it
    rises in a straight line, so that it stays finite and keeps a gradient. A value that no count
    can have (a fraction, a negative number) has mass 0, log −∞.
    """

    def __init__(self, log_mean: Tensor) -> None:
        above = F.relu(log_mean - LARGEST_LOG_MEAN)
        self.log_mean = log_mean.clamp(max=LARGEST_LOG_MEAN) + torch.log1p(above)
        super().__init__(log_mean.shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        return torch.exp(self.log_mean)

    @abstractmethod
    def log_mass(self, count: Tensor, log_mean: Tensor) -> Tensor:
        """log P(count), all float64, for whole numbers from 0 on."""

    @abstractmethod
    def mass_up_to(self, count: Tensor, log_mean: Tensor) -> Tensor:
        """P(X ≤ count), all float64, for whole numbers from 0 on."""

    @abstractmethod
    def rates(self, shape: Sequence[int], generator: Generator) -> Tensor:
        """Rates (*shape, *batch) of the Poisson counts that make draws, float64."""

    def log_prob(self, value: Tensor) -> Tensor:
        # log Γ of a million is ten million, which float32 would round by half a nat.
        count = value.double()
        log_mass = self.log_mass(count.clamp(min=0.0), self.log_mean.double())
        possible = (count >= 0) & (count == count.floor())
        return torch.where(possible, log_mass, -math.inf).to(self.log_mean.dtype)

    def cdf(self, value: Tensor) -> Tensor:
        count = value.double().floor()
        up_to = self.mass_up_to(count.clamp(min=0.0), self.log_mean.double())
        return torch.where(count >= 0, up_to, 0.0).to(self.log_mean.dtype)


@draw.register
def _(distribution: Counts, shape: Sequence[int], generator: Generator) -> Tensor:
    counts = torch.poisson(distribution.rates(shape, generator), generator=generator)
    return counts.to(distribution.log_mean.dtype)


@final
class PoissonCounts(Counts):
    """Counts whose rate is known: log P(x) = x log μ − μ − log x!.

    >>> PoissonCounts(torch.zeros(3)).log_prob(torch.tensor([0.0, 1.0, 1.5]))
    tensor([-1., -1., -inf])
    """

    def log_mass(self, count: Tensor, log_mean: Tensor) -> Tensor:
        return count * log_mean - torch.exp(log_mean) - torch.lgamma(count + 1)

    def mass_up_to(self, count: Tensor, log_mean: Tensor) -> Tensor:
        return by_scipy(special.gammaincc, count + 1, torch.exp(log_mean))

    def rates(self, shape: Sequence[int], generator: Generator) -> Tensor:
        mean = self.mean.detach().double()
        return mean.expand(*shape, *mean.shape)


@final
class GammaPoissonCounts(Counts):
    """Counts whose rate is gamma distributed with mean μ and variance αμ², α = ``dispersion``.

        log P(x) = log Γ(x + r) − log Γ(r) − log x! + r log σ(−a) + x log σ(a)
        r = 1/α,   a = log μ − log r

    so that μ/(r + μ) = σ(a) is never formed. ``dispersion`` broadcasts to ``log_mean``.

    >>> GammaPoissonCounts(torch.zeros(2), torch.ones(())).log_prob(torch.arange(2.0)).exp()
    tensor([0.5000, 0.2500])
    """

    def __init__(self, log_mean: Tensor, dispersion: Tensor) -> None:
        super().__init__(log_mean)
        self.dispersion = dispersion

    @property
    def variance(self) -> Tensor:
        return self.mean + self.dispersion * self.mean.square()

    def log_mass(self, count: Tensor, log_mean: Tensor) -> Tensor:
        dispersion = self.dispersion.double()
        r, a = 1 / dispersion, log_mean + torch.log(dispersion)
        ways = torch.lgamma(count + r) - torch.lgamma(r) - torch.lgamma(count + 1)
        return ways + r * F.logsigmoid(-a) + count * F.logsigmoid(a)

    def mass_up_to(self, count: Tensor, log_mean: Tensor) -> Tensor:
        dispersion = self.dispersion.double()
        none = torch.sigmoid(-log_mean - torch.log(dispersion))
        return by_scipy(special.betainc, 1 / dispersion, count + 1, none)

    def rates(self, shape: Sequence[int], generator: Generator) -> Tensor:
        mean, dispersion = self.mean.detach().double(), self.dispersion.detach().double()
        r = (1 / dispersion).expand(*shape, *mean.shape)
        return mean * dispersion * standard_gamma(r, generator)


def log_start(mean: Tensor) -> Tensor:
    """The log means (cells,) at which counts with these means (*event) start."""
    return torch.log(mean.flatten().clamp(min=SMALLEST_START))


@final
class Poisson(MassFamily):
    """Counts whose variance is their mean: log P(x|z) = x log μ − μ − log x!, log μ = raw.

    raw (..., cells) holds a log mean per cell, so that a log exposure adds to it (see
    ``WithOffset``). Values are the counts themselves; anything else has log P = −∞.

    >>> Poisson(2)(torch.zeros(1, 2)).log_prob(torch.tensor([[0.0, 1.0]]))
    tensor([-2.])
    """

    def __init__(self, event_shape: int | tuple[int, ...]) -> None:
        super().__init__()
        self.event_shape = as_shape(event_shape)
        self.num_parameters = math.prod(self.event_shape)

    def forward(self, raw: Tensor) -> Cells:
        (log_mean,) = split_parameters(raw, self.event_shape)
        return Cells(PoissonCounts(log_mean), event_dims=len(self.event_shape))

    def start(self, mean: Tensor) -> Tensor:
        return log_start(mean)


@final
class NegativeBinomial(MassFamily, LocationScale):
    """Counts that vary more than a Poisson's: mean μ, variance μ + αμ², log μ = raw.

        log P(x|z) = log Γ(x + r) − log Γ(r) − log x! + r log r/(r + μ) + x log μ/(r + μ),  r = 1/α

    raw (..., cells) holds a log mean per cell, and as many numbers again where ``dispersion`` is a
    CellScale. ``dispersion`` makes α: a FixedScale, a ColumnScale (default) or a CellScale. It is α
    that is learned, and not r, because data close to a Poisson want r in the thousands, which small
    steps never reach, while α goes to 0 exponentially. α stays between 10⁻⁶ and 10³. Values are the
    counts themselves; anything else has log P = −∞.

    Source: Hilbe 2011, Negative Binomial Regression, NB2.

    >>> from unveil import FixedScale
    >>> family = NegativeBinomial(1, FixedScale(0.5))
    >>> family(torch.zeros(1, 1)).base.variance               # 1 + 1²/2
    tensor([[1.5000]])
    """

    def __init__(self, event_shape: int | tuple[int, ...], dispersion: Scale | None = None) -> None:
        super().__init__(event_shape, dispersion, floor=SMALLEST_DISPERSION)

    def cells(self, loc: Tensor, scale: Tensor) -> Cells:
        dispersion = scale.clamp(max=LARGEST_DISPERSION)
        return Cells(GammaPoissonCounts(loc, dispersion), event_dims=len(self.event_shape))

    def start(self, mean: Tensor) -> Tensor:
        return super().start(log_start(mean))
