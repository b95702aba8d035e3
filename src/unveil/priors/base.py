"""What every prior is."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from unveil.shapes import Given, Latent


class Prior(nn.Module, ABC):
    """A prior over ``num_latents`` latent variables; calling it is conditioning on covariates."""

    num_latents: int

    @abstractmethod
    def forward(self, given: Given = None) -> Distribution:
        """p(z|c), with event shape (num_latents,)."""

    def path(self, start: Latent, end: Latent, steps: int) -> Float[Tensor, "step latent"]:
        """``steps`` points from ``start`` to ``end``, ends included: a straight line."""
        t = torch.linspace(0, 1, steps).to(start)[:, None]
        return (1 - t) * start + t * end
