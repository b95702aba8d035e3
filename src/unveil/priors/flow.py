"""The prior that a normalizing flow makes, learned with the rest of the model."""

from typing import final

import torch
from torch import Generator, Tensor, nn

from unveil.distributions import Flowed
from unveil.families import positive
from unveil.networks.flow import SplineFlow
from unveil.priors.base import Prior
from unveil.shapes import Given


@final
class FlowPrior(Prior):
    """What becomes noise when splines bend it: p(z|c) = N(h(s; c); 0, I) |∂h/∂z|, s = (z − μ)/σ.

    μ, σ and h are learned, and h starts as the identity: an untrained prior is N(0, I) up to
    rounding. ``covariates`` is how many numbers c the prior is conditioned on; a prior without any
    leaves ``given`` unread. A density takes one pass, a draw as many as there are latents. Calling
    it raises ValueError when ``given`` does not have ``covariates`` numbers per row.
    Source: Chen et al. 2017 (a flow as prior); Papamakarios et al. 2017; Durkan et al. 2019.

    >>> prior = FlowPrior(2, generator=Generator().manual_seed(0))
    >>> prior().log_prob(torch.zeros(2)).detach()        # −log 2π
    tensor(-1.8379)
    """

    def __init__(
        self,
        num_latents: int,
        *,
        covariates: int = 0,
        transforms: int = 3,
        bins: int = 8,
        width: int = 64,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        self.num_latents, self.covariates = num_latents, covariates
        self.loc = nn.Parameter(torch.zeros(num_latents))
        self.raw_scale = nn.Parameter(torch.zeros(num_latents))
        self.strength = nn.Parameter(torch.zeros(1))
        self.flow = SplineFlow(
            num_latents,
            context=covariates + 1,
            transforms=transforms,
            bins=bins,
            width=width,
            generator=generator,
        )

    def forward(self, given: Given = None) -> Flowed:
        context = self._context(given)
        rows = context.shape[:-1]
        return Flowed(
            self.loc.expand(*rows, -1),
            positive(self.raw_scale).expand(*rows, -1),
            bending=lambda noise: self.flow.inverse(noise, context),
            straightening=lambda bent: self.flow(bent, context),
        )

    def _context(self, given: Given) -> Tensor:
        """The covariates of each row, (row, covariates + 1), with the strength of the flow last."""
        if self.covariates == 0:
            return self.strength
        if given is None or given.shape[-1] != self.covariates:
            got = "none" if given is None else f"{given.shape[-1]}"
            raise ValueError(
                f"expected {self.covariates} covariates per row, got {got}; give the prior the "
                "number that the data have"
            )
        return torch.cat([given, self.strength.expand(len(given), 1)], dim=-1)
