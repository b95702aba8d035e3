"""The standard normal prior."""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from unveil.distributions import DiagonalNormal
from unveil.priors.base import Prior
from unveil.shapes import Given, Latent


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

    def path(self, start: Latent, end: Latent, steps: int) -> Float[Tensor, "step latent"]:
        """Points on the arc between the two, whose distance from the centre is that of its ends.

            z(t) = [sin((1 − t)ω) start + sin(tω) end] / sin ω,   ω the angle between the two

        A straight line comes nearer to the centre than both its ends, where N(0, I) has next to
        no mass in many dimensions (White 2016). Where the angle leaves no one arc, it is taken.

        >>> StandardNormal(2).path(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), 3)[1]
        tensor([0.7071, 0.7071])
        """
        cosine = torch.nn.functional.cosine_similarity(start, end, dim=0).clamp(-1, 1)
        angle = torch.arccos(cosine)
        if torch.sin(angle) < 1e-3:
            return super().path(start, end, steps)
        t = torch.linspace(0, 1, steps).to(start)[:, None]
        return (torch.sin((1 - t) * angle) * start + torch.sin(t * angle) * end) / angle.sin()
