"""p(z): what latent variables look like before any data."""

from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from unveil.distributions import DiagonalNormal
from unveil.shapes import Given


class Prior(nn.Module, ABC):
    """A prior over ``num_latents`` latent variables; calling it is conditioning on covariates."""

    num_latents: int

    @abstractmethod
    def forward(self, given: Given = None) -> Distribution:
        """p(z|c), with event shape (num_latents,)."""


@final
class StandardNormal(Prior):
    """p(z) = N(0, I).

    >>> StandardNormal(2)().log_prob(torch.zeros(2))     # −log 2π
    tensor(-1.8379)
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, num_latents: int) -> None:
        super().__init__()
        self.num_latents = num_latents
        self.register_buffer("loc", torch.zeros(num_latents), persistent=False)
        self.register_buffer("scale", torch.ones(num_latents), persistent=False)

    def forward(self, given: Given = None) -> DiagonalNormal:
        return DiagonalNormal(self.loc, self.scale)
