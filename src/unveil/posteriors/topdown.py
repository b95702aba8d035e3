"""A hierarchical posterior: levels of latents, each one inferred from x and the levels above it."""

from collections.abc import Sequence
from functools import partial
from typing import cast, final

import torch
from torch import Tensor, nn

from unveil.chain import PushedChain
from unveil.distributions import DiagonalNormal
from unveil.families import Conditional, Family
from unveil.posteriors.diagonal import DiagonalGaussian


@final
class TopDownGaussian(Family):
    """q(z|x) = q(z₁|x) Π_l q(z_l|z_<l, x), every factor a diagonal Gaussian.

    The encoder's numbers are the parameters of q(z₁|x) and then, for each level below, that many
    ``features`` of x. Each of ``networks`` takes the latents above its level and the level's
    features side by side, (*sample, row, above + features), to the 2·size numbers of its Gaussian.
    ``sizes`` are the latents of each level, the top one first.
    Source: Sønderby et al. 2016; Tomczak & Welling 2018, section 4.

    >>> q = TopDownGaussian((2, 3), features=[4], networks=[nn.Linear(2 + 4, 6)])
    >>> q.num_parameters, q(torch.zeros(5, 8)).push(torch.zeros(7, 5, 5)).shape
    (8, torch.Size([7, 5, 5]))
    """

    def __init__(
        self, sizes: Sequence[int], *, features: Sequence[int], networks: Sequence[nn.Module]
    ) -> None:
        super().__init__()
        if not len(sizes) - 1 == len(features) == len(networks):
            raise ValueError(
                f"expected features and a network for each of the {len(sizes) - 1} levels below "
                f"the top, got {len(features)} and {len(networks)}; give one of each"
            )
        self.sizes, self.features = tuple(sizes), tuple(features)
        self.top = DiagonalGaussian(sizes[0])
        self.below = nn.ModuleList(
            Conditional(network, DiagonalGaussian(size))
            for network, size in zip(networks, sizes[1:], strict=True)
        )
        self.event_shape = (sum(sizes),)
        self.num_parameters = self.top.num_parameters + sum(features)

    def forward(self, raw: Tensor) -> PushedChain:
        top, *features = torch.split(raw, [self.top.num_parameters, *self.features], dim=-1)
        below = [
            partial(_level, cast(Conditional, level), seen)
            for level, seen in zip(self.below, features, strict=True)
        ]
        return PushedChain(self.sizes, self.top(top), below)


def _level(conditional: Conditional, features: Tensor, above: Tensor) -> DiagonalNormal:
    """q(z_l|z_<l, x): the features of x repeat over the draws of the levels above."""
    seen = features.expand(*above.shape[:-1], features.shape[-1])
    return cast(DiagonalNormal, conditional(torch.cat([above, seen], dim=-1)))
