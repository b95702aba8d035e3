"""A prior that is told the covariates."""

from typing import final

from torch import nn
from torch.distributions import Distribution

from unveil.families import Conditional, Family
from unveil.priors.base import Prior
from unveil.shapes import Given


@final
class ConditionedPrior(Prior):
    """p(z|c) = family(network(c)), one distribution of z for each row's covariates.

    ``network`` makes covariates (row, covariate) into ``family.num_parameters`` numbers a row. What
    comes back has batch shape (row,) and event shape (latent,). Raises ValueError when it is asked
    without covariates. Source: Sohn, Lee & Yan 2015 (the conditional prior network).

    >>> import torch
    >>> from unveil import DiagonalGaussian
    >>> from unveil.networks.mlp import ResidualMLP
    >>> network = ResidualMLP(
    ...     inputs=3, outputs=4, width=8, depth=1, generator=torch.Generator().manual_seed(0)
    ... )
    >>> ConditionedPrior(network, DiagonalGaussian(2))(torch.ones(5, 3)).batch_shape
    torch.Size([5])
    """

    def __init__(self, network: nn.Module, family: Family) -> None:
        super().__init__()
        (self.num_latents,) = family.event_shape
        self.conditional = Conditional(network, family)

    def forward(self, given: Given = None) -> Distribution:
        if given is None:
            raise ValueError(
                "expected covariates for a prior that is conditioned on them, got none; pass "
                "given, or take a prior that needs none, such as StandardNormal"
            )
        return self.conditional(given)
