"""A hierarchical prior: levels of latents, each one predicted from those above it."""

from collections.abc import Sequence
from functools import partial
from typing import cast, final

from torch import nn

from unveil.chain import Chain
from unveil.families import Conditional
from unveil.priors.base import Prior
from unveil.shapes import Given


@final
class TopDownPrior(Prior):
    """p(z|c) = p(z₁|c) Π_l p(z_l|z_<l, c) over one concatenated z = [z₁ … z_L].

    ``top`` is any prior over z₁. Each of ``below`` is a Conditional whose network takes the levels
    above side by side, (*sample, row, latents above), and covariates where there are any.
    Source: Rezende, Mohamed & Wierstra 2014; Sønderby et al. 2016.

    >>> import torch
    >>> from unveil.posteriors.diagonal import DiagonalGaussian
    >>> from unveil.priors.standard import StandardNormal
    >>> below = Conditional(nn.Linear(2, 6), DiagonalGaussian(3))
    >>> TopDownPrior(StandardNormal(2), [below])().log_prob(torch.zeros(4, 5)).shape
    torch.Size([4])
    """

    def __init__(self, top: Prior, below: Sequence[Conditional]) -> None:
        super().__init__()
        self.top, self.below = top, nn.ModuleList(below)
        self.sizes = (top.num_latents, *(level.family.event_shape[0] for level in below))
        self.num_latents = sum(self.sizes)

    def forward(self, given: Given = None) -> Chain:
        below = [partial(cast(Conditional, level), given=given) for level in self.below]
        return Chain(self.sizes, self.top(given), below)
