"""The Gaussian posterior whose latents may depend on one another."""

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from unveil.distributions import FullNormal
from unveil.families import Family
from unveil.posteriors.diagonal import spread


@final
class FullGaussian(Family):
    """The Gaussian with any covariance, q(z|x) = N(μ, LLᵀ); raw zeros give N(0, I).

        L = diag(σ)(I + R),   σ = softplus(raw + log(e − 1)),   R strictly lower triangular

    The network delivers μ, the raw σ and the d(d − 1)/2 numbers of R for each row, R row by row.
    Source: Titsias & Lázaro-Gredilla 2014 (doubly stochastic variational Bayes).

    >>> q = FullGaussian(2)(torch.tensor([[0.0, 0.0, 0.0, 0.0, 0.5]]))
    >>> q.push(torch.tensor([[1.0, 1.0]]))
    tensor([[1.0000, 1.5000]])
    """

    place: Tensor

    def __init__(self, num_latents: int) -> None:
        super().__init__()
        self.event_shape = (num_latents,)
        below = num_latents * (num_latents - 1) // 2
        self.num_parameters = 2 * num_latents + below
        # Which number stands where in R; number 0 is a zero.
        place = torch.zeros(num_latents, num_latents, dtype=torch.long)
        i, j = torch.tril_indices(num_latents, num_latents, -1)
        place[i, j] = torch.arange(1, below + 1)
        self.register_buffer("place", place, persistent=False)

    def forward(self, raw: Tensor) -> FullNormal:
        (latents,) = self.event_shape
        loc, raw_scale, below = raw.split([latents, latents, raw.shape[-1] - 2 * latents], dim=-1)
        return FullNormal(loc, spread(raw_scale), F.pad(below, (1, 0))[..., self.place])
