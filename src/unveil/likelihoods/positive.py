"""Cells that are positive, as a density per unit of the data."""

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Generator, Tensor
from torch.distributions import Normal

from unveil.distributions import Plain, draw
from unveil.likelihoods.real import LocationScaleDensity


@final
class LogNormal(LocationScaleDensity):
    """Positive cells: log x_j ~ N(μ_j, σ_j²), as a density per unit of the data.

        log p(value) = log N(log x; μ, σ²) − log x − log unit,   x = value/unit

    The network's location and the spread, ``scale`` and ``floor`` included, are those of log x;
    ``unit`` is that of ``Gaussian``. A value that is not above 0 has density 0. Source: the change
    of variables x = e^y.

    >>> from unveil import FixedScale
    >>> family = LogNormal(1, FixedScale(1.0), unit=10.0)
    >>> density = family(torch.zeros(1, 1)).log_prob(torch.ones(1, 1)).exp()
    >>> round(float(density), 5)                             # 1/(10 √2π) at value = 10
    0.03989
    """

    def density(self, loc: Tensor, scale: Tensor) -> "LogNormalDensity":
        return LogNormalDensity(loc, scale)

    def nearest(self, x: Tensor) -> Tensor:
        return torch.log(x)

    def start_at(self, x: Tensor) -> Tensor:
        # A column that these rows never show starts at its unit.
        return self.start(x.nanmean(0).nan_to_num(nan=1.0))

    def start(self, mean: Tensor) -> Tensor:
        """Raises ValueError where a mean is not above 0."""
        if not bool((mean > 0).all()):
            raise ValueError(
                f"expected positive means for positive cells, got {float(mean.min()):g}; leave out "
                "the values at or below 0, or use Gaussian or StudentT"
            )
        spread = self.scale([torch.zeros_like(mean)], self.floor.to(mean.dtype))
        return super().start(torch.log(mean) - spread.detach().square() / 2)


@final
class LogNormalDensity(Plain):
    """The density of e^y, y ~ N(loc, scale²); torch's own is an infinity where e^y overflows.

    >>> LogNormalDensity(torch.zeros(1), torch.ones(1)).log_prob(torch.zeros(1))
    tensor([-inf])
    """

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        self.log = Normal(loc, scale, validate_args=False)
        super().__init__(loc.shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        return _exp(self.log.loc + self.log.scale.square() / 2)

    def log_prob(self, value: Tensor) -> Tensor:
        # Where there is no logarithm it is not taken, so that no gradient is NaN: a gap reads as 0.
        inside = value > 0
        log_value = torch.log(torch.where(inside, value, 1.0))
        return torch.where(inside, self.log.log_prob(log_value) - log_value, -math.inf)

    def cdf(self, value: Tensor) -> Tensor:
        inside = value > 0
        return torch.where(inside, self.log.cdf(torch.log(torch.where(inside, value, 1.0))), 0.0)


@draw.register
def _(distribution: LogNormalDensity, shape: Sequence[int], generator: Generator) -> Tensor:
    return _exp(draw(distribution.log, shape, generator))


def _exp(value: Tensor) -> Tensor:
    """e^value, kept among the positive numbers of its precision."""
    limits = torch.finfo(value.dtype)
    return torch.exp(value.clamp(math.log(limits.tiny) + 1, math.log(limits.max) - 1))
