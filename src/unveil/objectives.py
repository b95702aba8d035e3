"""Objectives: what training maximises, one honest number per row.

An objective is called with (model, x, noise, step) and returns its value for each row in nats.
All of these are lower bounds on log p(x) when β = 1:

    log p(x) = ELBO + KL(q(z|x) ‖ p(z|x)) ≥ ELBO = E_q[log p(x|z)] − KL(q(z|x) ‖ p(z))
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor
from torch.distributions import kl_divergence

from unveil.latent import LatentVariableModel
from unveil.shapes import Given, Noise, PerRow, Rows


def _require_count(name: str, value: object, *, least: int) -> None:
    """Raises ValueError unless the value is a whole number of at least ``least``."""
    if not isinstance(value, int) or value < least:
        raise ValueError(f"expected {name} of at least {least}, a whole number, got {value}")


@dataclass(frozen=True, kw_only=True)
class Objective(ABC):
    """``num_samples`` draws of z per row, turned into one value per row."""

    num_samples: int = 1

    def __post_init__(self) -> None:
        _require_count("num_samples", self.num_samples, least=1)

    @abstractmethod
    def __call__(
        self,
        model: LatentVariableModel,
        x: Rows,
        noise: Noise,
        step: Tensor,
        given: Given = None,
    ) -> PerRow:
        """The value per row at a training step (a scalar tensor), differentiable."""

    @property
    def warmup(self) -> int:
        """The first step at which the objective has its final settings."""
        return 0

    def scheduled(self, total_steps: int) -> "Objective":
        """This objective with what it leaves open settled for a run of ``total_steps``."""
        return self


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
            _require_count("warmup_steps", self.warmup_steps, least=0)

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
    """E_q[log p(x|z)] − β KL(q(z|x)‖p(z)), the KL in closed form (Kingma & Welling 2014, eq. 10).

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
        log_likelihood = model.likelihood(q.push(noise), given).log_prob(x)
        rate = kl_divergence(q, model.prior(given))
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


@final
@dataclass(frozen=True, kw_only=True)
class IWAE(Objective):
    """E log (1/K) Σ_k w_k, a lower bound that tightens with K (Burda et al. 2016, eq. 8).

    >>> IWAE(num_samples=50).num_samples
    50
    """

    num_samples: int = 5

    def __call__(
        self,
        model: LatentVariableModel,
        x: Rows,
        noise: Noise,
        step: Tensor,
        given: Given = None,
    ) -> PerRow:
        log_weights = model.particles(x, noise, given).log_weights
        return torch.logsumexp(log_weights, dim=0) - math.log(self.num_samples)
