"""Cells that are 0 more often than their counts would have it."""

import math
from collections.abc import Sequence
from typing import cast, final

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.distributions import Distribution

from unveil.distributions import Cells, Plain, draw
from unveil.families import Family, MassFamily


@final
class WithExtraZeros(Plain):
    """A mass p with extra zeros: P(0) = π + (1 − π) p(0) and P(x) = (1 − π) p(x), π = σ(logit).

    ``logits`` has the batch shape of ``base``, a mass of which 0 is one of the values.

    >>> from unveil.distributions import Binary
    >>> half = WithExtraZeros(Binary(torch.zeros(2)), torch.zeros(2))
    >>> half.log_prob(torch.tensor([0.0, 1.0])).exp()
    tensor([0.7500, 0.2500])
    """

    def __init__(self, base: Distribution, logits: Tensor) -> None:
        self.base, self.logits = base, logits
        super().__init__(base.batch_shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        return torch.sigmoid(-self.logits) * self.base.mean

    def log_prob(self, value: Tensor) -> Tensor:
        extra, counted = F.logsigmoid(self.logits), F.logsigmoid(-self.logits)
        log_p = counted + self.base.log_prob(value)
        return torch.where(value == 0, torch.logaddexp(extra, log_p), log_p)

    def cdf(self, value: Tensor) -> Tensor:
        extra = torch.sigmoid(self.logits)
        return torch.where(value >= 0, extra, 0.0) + (1 - extra) * self.base.cdf(value)


@draw.register
def _(distribution: WithExtraZeros, shape: Sequence[int], generator: Generator) -> Tensor:
    counts = draw(distribution.base, shape, generator)
    extra = torch.sigmoid(distribution.logits.detach())
    u = torch.rand(counts.shape, generator=generator, device=counts.device, dtype=extra.dtype)
    return torch.where(u < extra, 0.0, counts)


@final
class ZeroInflated(MassFamily):
    """Cells of another family, with extra zeros: P(0) = π + (1 − π) p(0), P(x) = (1 − π) p(x).

    ``family`` is any that gives cells a mass and has 0 among its values, in model units: a Poisson,
    a NegativeBinomial, a DiscretizedLogistic on a grid through 0. raw (..., num_parameters) holds
    the numbers of ``family`` and then a logit of π for each cell. Raises ValueError where cells
    have a density: a mass at 0 and a density elsewhere do not add up.

    Source: Lambert 1992.

    >>> from unveil.likelihoods.counts import Poisson
    >>> ZeroInflated(Poisson(1))(torch.zeros(1, 2)).log_prob(torch.zeros(1, 1)).exp()  # ½ + ½ e⁻¹
    tensor([0.6839])
    """

    def __init__(self, family: Family) -> None:
        super().__init__()
        example = family(torch.zeros(family.num_parameters))
        if not isinstance(example, Cells) or example.log_unit is not None:
            raise ValueError(
                f"expected a family that gives each cell a mass, got {type(family).__name__}; "
                "inflate a Poisson, a NegativeBinomial or a DiscretizedLogistic, and join it to "
                "columns of other kinds afterwards"
            )
        self.family, self.event_shape = family, family.event_shape
        self.num_parameters = family.num_parameters + math.prod(family.event_shape)

    def forward(self, raw: Tensor) -> Cells:
        counted, logits = raw.tensor_split([self.family.num_parameters], dim=-1)
        base = cast(Cells, self.family(counted)).base
        extra = WithExtraZeros(base, logits.unflatten(-1, self.event_shape))
        return Cells(extra, event_dims=len(self.event_shape))

    def start(self, mean: Tensor) -> Tensor:
        # Half the zeros are extra at the start, so what is counted has twice the mean.
        return torch.cat([self.family.start(2 * mean), mean.new_zeros(mean.numel())])
