"""The evidence lower bound.

log p(x) = ELBO + KL(q(z|x) ‖ p(z|x)) ≥ ELBO = E_q[log p(x|z)] − KL(q(z|x) ‖ p(z))
"""

import math
from abc import ABC
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from unveil.latent import LatentVariableModel
from unveil.objectives.base import Objective, require_count
from unveil.shapes import Given, Noise, PerRow, Rows


@dataclass(frozen=True, kw_only=True)
class WeightedRate(Objective, ABC):
    """−distortion − β·rate, β rising linearly from 0 over the first ``warmup_steps``.

    ``warmup_steps`` of None means a tenth of the run; a run limited by the clock alone is counted
    as 10,000 steps. β = 1 is the ELBO; any other β (Higgins et
    al. 2017) trains something that is not a bound when β < 1, and reports still show β = 1.
    """

    beta: float = 1.0
    warmup_steps: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.beta) and self.beta >= 0):
            raise ValueError(f"expected beta to be at least 0 and finite, got {self.beta}")
        if self.warmup_steps is not None:
            require_count("warmup_steps", self.warmup_steps, least=0)

    @property
    def warmup(self) -> int:
        return self.warmup_steps or 0

    def scheduled(self, total_steps: int) -> Objective:
        if self.warmup_steps is not None and self.warmup_steps >= total_steps:
            raise ValueError(
                f"expected warmup_steps below the {total_steps} steps of the run, got "
                f"{self.warmup_steps}; warm up for fewer, or train longer"
            )
        if self.warmup_steps is not None:
            return self
        return replace(self, warmup_steps=total_steps // 10)

    def weight(self, step: Tensor) -> Tensor:
        """β at a training step."""
        return self.beta * torch.clamp((step + 1) / (self.warmup + 1), max=1.0)


@final
@dataclass(frozen=True, kw_only=True)
class ELBO(WeightedRate):
    """E_q[log p(x|z)] − β KL(q(z|x)‖p(z)) (Kingma & Welling 2014, eq. 10).

    The KL is exact where q and the prior have a closed form, and by the same draws where not.

    >>> ELBO(beta=4.0).num_samples
    1
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
        rate = q.kl(model.prior(given), z)
        return log_likelihood.mean(0) - self.weight(step) * rate


@final
@dataclass(frozen=True, kw_only=True)
class SampledELBO(WeightedRate):
    """E_q[log p(x|z) − β (log q(z|x) − log p(z))], all of it by draws: needs no closed-form KL."""

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
        return (particles.log_likelihood - self.weight(step) * rate).mean(0)
