"""Every prior and posterior."""

import torch

import unveil
from unveil.families import Family
from unveil.networks.mlp import Encoder, FillsGaps, ResidualMLP
from unveil.priors.base import Prior

WEIGHTS = torch.Generator().manual_seed(0)
ENCODER = unveil.Conditional(
    Encoder((4,), covariates=0, outputs=6, width=8, depth=1, gaps=FillsGaps(), generator=WEIGHTS),
    unveil.DiagonalGaussian(3),
).double()


def bent(prior: unveil.FlowPrior) -> unveil.FlowPrior:
    """One that is no longer the standard normal that it starts as."""
    torch.nn.init.ones_(prior.strength)
    torch.nn.init.constant_(prior.loc, 0.5)
    return prior


def between(inputs: int, outputs: int) -> ResidualMLP:
    return ResidualMLP(inputs=inputs, outputs=outputs, width=8, depth=1, generator=WEIGHTS)


PRIORS: tuple[Prior, ...] = (
    unveil.StandardNormal(3),
    bent(unveil.FlowPrior(3, transforms=2, width=8, generator=WEIGHTS)),
    unveil.GaussianMixture(3, 4, WEIGHTS),
    unveil.VampPrior(ENCODER, 9 * torch.randn(5, 4, generator=WEIGHTS)),
    unveil.TopDownPrior(
        unveil.GaussianMixture(1, 2, WEIGHTS),
        [unveil.Conditional(between(1, 4), unveil.DiagonalGaussian(2))],
    ),
)
# Priors that answer only when they are told 2 covariates.
CONDITIONED_PRIORS: tuple[Prior, ...] = (
    bent(unveil.FlowPrior(3, covariates=2, transforms=2, width=8, generator=WEIGHTS)),
    unveil.ConditionedPrior(
        between(2, 6),
        unveil.DiagonalGaussian(3),
    ),
)
ONE_LEVEL_POSTERIORS: tuple[Family, ...] = (
    unveil.DiagonalGaussian(3),
    unveil.FullGaussian(3),
    unveil.FlowPosterior(3, context=2, width=8, generator=WEIGHTS),
)
# Families with networks of their own, which see the levels above.
LEVELLED_POSTERIORS: tuple[Family, ...] = (
    unveil.TopDownGaussian((1, 2), features=[2], networks=[between(1 + 2, 4)]),
)
POSTERIORS = (*ONE_LEVEL_POSTERIORS, *LEVELLED_POSTERIORS)
