"""Sticking the landing: an ELBO whose gradient is quiet where q is right."""

from dataclasses import dataclass
from typing import final

from torch import Tensor

from unveil.distributions import Pushforward
from unveil.latent import LatentVariableModel
from unveil.objectives.base import LowerBound
from unveil.objectives.warmup import WarmedUp
from unveil.shapes import Given, Latents, Noise, PerDraw, PerRow, Rows


def log_prob_along_path(q: Pushforward, z: Latents) -> PerDraw:
    """log q_φ(z) to the last bit, with a gradient that reaches φ through z alone.

        log q(z) − log q(stopped z) + stopped log q(stopped z)

    The total derivative less the score ∂ log q_φ(z)/∂φ, whose expectation under q is 0. z
    (sample, row, latent) gives nats, (sample, row).

    >>> import torch
    >>> from unveil.distributions import DiagonalNormal
    >>> loc = torch.zeros(1, 2, requires_grad=True)
    >>> q = DiagonalNormal(loc, torch.ones(1, 2))
    >>> log_prob_along_path(q, q.push(torch.ones(1, 1, 2))).sum().backward()
    >>> loc.grad                                      # ∂ log q/∂z = −(z − μ)/σ²
    tensor([[-1., -1.]])
    """
    at_stopped = q.log_prob(z.detach())
    return q.log_prob(z) - at_stopped + at_stopped.detach()


@final
@dataclass(frozen=True, kw_only=True)
class StickingTheLanding(WarmedUp, LowerBound):
    """E_q[log p(x|z) + log p(z) − log q(z|x)] with the path gradient.

    Its value is the sampled ELBO's, a lower bound on log p(x) once warmed up, and so is its
    expected gradient. The score of q, which is noise around 0, is left out: where q is p(z|x) the
    gradient is 0 for every draw. Source: Roeder, Wu & Duvenaud 2017.

    >>> StickingTheLanding(num_samples=2).num_samples
    2
    """

    def __call__(
        self,
        model: LatentVariableModel,
        x: Rows,
        noise: Noise,
        step: Tensor,
        given: Given = None,
    ) -> PerRow:
        q = model.posterior(x, given)
        z = q.push(noise)
        log_likelihood = model.likelihood(z, given).log_prob(x)
        rate = log_prob_along_path(q, z) - model.prior(given).log_prob(z)
        return (log_likelihood - self.share(step) * rate).mean(0)
