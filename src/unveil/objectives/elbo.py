"""The evidence lower bound, and the weighted one of β-VAE.

log p(x) = ELBO + KL(q(z|x) ‖ p(z|x)) ≥ ELBO = E_q[log p(x|z)] − KL(q(z|x) ‖ p(z))
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

from torch import Tensor

from unveil.latent import LatentVariableModel
from unveil.objectives.base import LowerBound, require_weight
from unveil.objectives.warmup import WarmedUp
from unveil.shapes import Given, Noise, PerRow, Rows


class WeightedRate(WarmedUp, ABC):
    """E_q[log p(x|z)] − weight · KL(q(z|x)‖p(z)), the KL exact where it has a closed form."""

    @abstractmethod
    def weight(self, step: Tensor) -> Tensor:
        """The weight of the rate at a training step, a scalar."""

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
        rate = q.kl(model.prior(given), z)
        return log_likelihood.mean(0) - self.weight(step) * rate


@final
@dataclass(frozen=True, kw_only=True)
class ELBO(WeightedRate, LowerBound):
    """E_q[log p(x|z)] − KL(q(z|x)‖p(z)) (Kingma & Welling 2014, eq. 10).

    The KL is exact where q and the prior have a closed form, and by the same draws where not. It
    is a lower bound on log p(x) once warmed up.

    >>> ELBO(num_samples=4).scheduled(1000, rows=500)
    ELBO(num_samples=4, warmup_steps=100)
    """

    def weight(self, step: Tensor) -> Tensor:
        return self.share(step)


@final
@dataclass(frozen=True, kw_only=True)
class BetaELBO(WeightedRate):
    """E_q[log p(x|z)] − β KL(q(z|x)‖p(z)) (Higgins et al. 2017, eq. 4).

    β = 1 is the ELBO; a larger β spends fewer nats on z, a smaller one more. Below 1 it bounds
    nothing, and reports show the ELBO whatever β was. Raises ValueError for a β that is negative
    or not finite.

    >>> BetaELBO(beta=4.0).beta
    4.0
    """

    beta: float

    def __post_init__(self) -> None:
        super().__post_init__()
        require_weight("beta", self.beta)

    def weight(self, step: Tensor) -> Tensor:
        return self.beta * self.share(step)


@final
@dataclass(frozen=True, kw_only=True)
class SampledELBO(WarmedUp, LowerBound):
    """E_q[log p(x|z) + log p(z) − log q(z|x)], all of it by draws: needs no closed-form KL.

    It has the ELBO's expectation, so that it is a lower bound on log p(x) once warmed up, too.

    >>> SampledELBO(warmup_steps=0).warmup
    0
    """

    def __call__(
        self,
        model: LatentVariableModel,
        x: Rows,
        noise: Noise,
        step: Tensor,
        given: Given = None,
    ) -> PerRow:
        particles = model.particles(x, noise, given)
        rate = particles.log_posterior - particles.log_prior
        return (particles.log_likelihood - self.share(step) * rate).mean(0)
