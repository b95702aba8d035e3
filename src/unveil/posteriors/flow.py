"""The posterior that a normalizing flow makes, of any shape."""

from typing import final

from torch import Generator, Tensor

from unveil.distributions import Flowed
from unveil.families import Family
from unveil.networks.flow import SplineFlow
from unveil.posteriors.diagonal import spread


@final
class FlowPosterior(Family):
    """Noise bent by splines, spread and moved: q(z|x) is the law of z = μ + σ ⊙ h(ε; c).

    The network delivers μ, σ and ``context`` numbers c of each row, the last of which is the
    strength of h: where it is zero q(z|x) is N(μ, diag σ²), so that raw zeros give N(0, I) up to
    rounding however the flow is trained, and a row without a cell keeps its prior. Pushing noise
    and weighing what was just pushed take one pass; weighing any other z takes as many passes as
    there are latents. Raises ValueError for a context below 1.
    Source: Kingma et al. 2016 (inverse autoregressive flow); Durkan et al. 2019 (the splines).

    >>> import torch
    >>> family = FlowPosterior(2, context=3, generator=Generator().manual_seed(0))
    >>> q = family(torch.zeros(4, family.num_parameters))
    >>> q.push(torch.ones(5, 4, 2)).shape, q.log_prob(torch.zeros(5, 4, 2)).shape
    (torch.Size([5, 4, 2]), torch.Size([5, 4]))
    """

    def __init__(
        self,
        num_latents: int,
        *,
        context: int = 8,
        transforms: int = 3,
        bins: int = 8,
        width: int = 64,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        if context < 1:
            raise ValueError(
                f"expected a context of at least 1 number per row, got {context}; one says how "
                "strongly the flow bends"
            )
        self.event_shape = (num_latents,)
        self.num_parameters = 2 * num_latents + context
        self.flow = SplineFlow(
            num_latents,
            context=context,
            transforms=transforms,
            bins=bins,
            width=width,
            generator=generator,
        )

    def forward(self, raw: Tensor) -> Flowed:
        (latents,) = self.event_shape
        loc, raw_scale, context = raw.split([latents, latents, raw.shape[-1] - 2 * latents], dim=-1)
        return Flowed(
            loc,
            spread(raw_scale),
            bending=lambda noise: self.flow(noise, context),
            straightening=lambda bent: self.flow.inverse(bent, context),
        )
