"""The mean-field Gaussian posterior."""

from typing import final

from torch import Tensor

from unveil.distributions import DiagonalNormal
from unveil.families import Family, positive, split_parameters

# Keeps log σ finite in float32; far below any posterior that data can make.
SMALLEST_SD = 1e-6


def spread(raw: Tensor) -> Tensor:
    """The standard deviation of a latent from an unconstrained number; 0 gives 1.

    >>> import torch
    >>> float(spread(torch.tensor(0.0)))
    1.0
    """
    return positive(raw).clamp_min(SMALLEST_SD)


@final
class DiagonalGaussian(Family):
    """The mean-field Gaussian q(z|x) = N(μ(x), diag σ(x)²); raw zeros give N(0, I).

    >>> import torch
    >>> q = DiagonalGaussian(2)(torch.zeros(3, 4))
    >>> q.push(torch.ones(5, 3, 2)).shape
    torch.Size([5, 3, 2])
    """

    def __init__(self, num_latents: int) -> None:
        super().__init__()
        self.event_shape = (num_latents,)
        self.num_parameters = 2 * num_latents

    def forward(self, raw: Tensor) -> DiagonalNormal:
        loc, raw_scale = split_parameters(raw, self.event_shape)
        return DiagonalNormal(loc, spread(raw_scale))
