"""Free bits: a rate that costs nothing until it exceeds an allowance, so that latents stay in use.

Since max(λ, KL) ≥ KL, an allowance only ever takes from the ELBO: what is left is a lower bound.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from unveil.distributions import DiagonalNormal, Pushforward, kl_per_unit
from unveil.latent import LatentVariableModel
from unveil.objectives.base import BatchObjective, LowerBound, require_weight
from unveil.shapes import Given, Latents, Noise, PerRow, Rows

# One rate per latent where the divergence splits over them, else one for the whole row.
Rates = Float[Tensor, "row group"]


def rates(q: Pushforward, p: Distribution, z: Latents) -> Rates:
    """KL(q‖p) in as many parts as it splits into: one per latent, or one for the row, nats."""
    if isinstance(q, DiagonalNormal) and isinstance(p, DiagonalNormal):
        return kl_per_unit(q, p)
    return q.kl(p, z)[:, None]


@dataclass(frozen=True, kw_only=True)
class FreeBits(LowerBound, ABC):
    """ELBO − what the allowance of ``free_nats`` per latent leaves unspent.

    Where KL(q‖p) does not split over latents, the row's whole rate has ``free_nats`` · latents.
    """

    free_nats: float

    def __post_init__(self) -> None:
        super().__post_init__()
        require_weight("free_nats", self.free_nats)

    @abstractmethod
    def unspent(self, rate: Rates, allowance: float) -> Rates:
        """By how much each rate stays below its allowance, nats, and 0 where it does not."""

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
        rate = rates(q, model.prior(given), z)
        allowance = self.free_nats * z.shape[-1] / rate.shape[-1]
        return log_likelihood.mean(0) - (rate + self.unspent(rate, allowance)).sum(-1)


@final
@dataclass(frozen=True, kw_only=True)
class FreeBitsPerRow(FreeBits):
    """E_q[log p(x|z)] − Σ_u max(λ, KL_u), for every row and latent by itself.

    ``free_nats`` is λ. It is a lower bound on log p(x). A row whose KL_u is below λ feels no pull
    towards the prior. Source: Kingma et al. 2016, eq. 15, without its mean over the batch.

    >>> FreeBitsPerRow(free_nats=0.5).free_nats
    0.5
    """

    def unspent(self, rate: Rates, allowance: float) -> Rates:
        return torch.relu(allowance - rate)


@final
@dataclass(frozen=True, kw_only=True)
class FreeBitsPerBatch(FreeBits, BatchObjective):
    """E_q[log p(x|z)] − Σ_u max(λ, mean over the batch of KL_u) (Kingma et al. 2016, eq. 15).

    ``free_nats`` is λ. Each row is charged its own KL_u and an equal part of what the batch left
    unspent: the mean over rows is the formula, and every row's value a lower bound on its log p(x).

    >>> FreeBitsPerBatch(free_nats=0.5).free_nats
    0.5
    """

    def unspent(self, rate: Rates, allowance: float) -> Rates:
        return torch.relu(allowance - rate.mean(0)).expand_as(rate)
