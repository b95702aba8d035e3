"""The importance-weighted bound with a gradient whose signal does not fade as draws are added."""

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from unveil.latent import LatentVariableModel
from unveil.objectives.base import LowerBound
from unveil.objectives.sticking import log_prob_along_path
from unveil.shapes import Given, Noise, PerRow, Rows


@final
@dataclass(frozen=True, kw_only=True)
class DReG(LowerBound):
    """log (1/K) Σ_k w_k with the doubly reparameterised gradient.

        ∇_φ = Σ_k w̃_k² (∂ log w_k/∂z_k) ∂z_k/∂φ,    ∇_θ = Σ_k w̃_k ∇_θ log w_k,    w̃ = w/Σ w

    Its value is IWAE's, a lower bound on log p(x), and so is its expected gradient. The weights
    are found first, by a pass of the decoder without gradient; then a draw that hands on only the
    share w̃_k of its gradient turns w̃_k of the logarithm into w̃_k². Source: Tucker et al. 2019
    (doubly reparameterized gradient estimators), IWAE-DReG.

    >>> DReG(num_samples=50).num_samples
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
        q, p = model.posterior(x, given), model.prior(given)
        z = q.push(noise)
        stopped = z.detach()
        with torch.no_grad():
            log_weights = model.log_joint(x, stopped, given) - q.log_prob(stopped)
            share = log_weights.softmax(0)[..., None]
        z = stopped + share * (z - stopped)
        log_likelihood = model.likelihood(z, given).log_prob(x)
        log_weights = p.log_prob(z) + log_likelihood - log_prob_along_path(q, z)
        return torch.logsumexp(log_weights, dim=0) - math.log(self.num_samples)
