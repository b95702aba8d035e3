"""Rényi's bounds: a family that holds the ELBO and the evidence itself.

L_α = (1/(1 − α)) log E_q[w^(1 − α)] falls as α rises: it is log p(x) at α = 0 and the ELBO in the
limit α → 1.
"""

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from unveil.latent import LatentVariableModel
from unveil.objectives.base import LowerBound, Objective
from unveil.shapes import Given, Noise, PerDraw, PerRow, Rows

# In float32 a power mean nearer to the geometric one loses its digits.
NEAREST_TO_ONE = 1e-3


def log_power_mean(log_weights: PerDraw, power: float) -> PerRow:
    """(1/r) log (1/K) Σ_k w_k^r: the logarithm of the power mean over draws, nats, (row).

    >>> log_power_mean(torch.tensor([[1.0], [3.0]]).log(), -1.0).exp()    # the harmonic mean
    tensor([1.5000])
    """
    return (torch.logsumexp(power * log_weights, dim=0) - math.log(len(log_weights))) / power


@final
@dataclass(frozen=True, kw_only=True)
class Renyi(LowerBound):
    """(1/(1 − α)) log (1/K) Σ_k w_k^(1 − α) for α ≥ 0 (Li & Turner 2016, the VR bound).

    α = 0 is IWAE. A power mean with exponent 1 − α ≤ 1 is at most the arithmetic one, so the value
    is never above IWAE's on the same draws: a lower bound on log p(x) in expectation, for every
    number of draws. Raises ValueError for a negative α, and for an α within 0.001 of 1.

    >>> Renyi(alpha=0.5).num_samples
    5
    """

    alpha: float
    num_samples: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.alpha) and self.alpha >= 0):
            raise ValueError(
                f"expected alpha to be at least 0 and finite, got {self.alpha}; below 0 it is no "
                "lower bound: take NegativeRenyi"
            )
        if abs(1 - self.alpha) < NEAREST_TO_ONE:
            raise ValueError(
                f"expected alpha to differ from 1 by at least {NEAREST_TO_ONE}, got {self.alpha}; "
                "its limit at 1 is the ELBO: take SampledELBO"
            )

    def __call__(
        self,
        model: LatentVariableModel,
        x: Rows,
        noise: Noise,
        step: Tensor,
        given: Given = None,
    ) -> PerRow:
        return log_power_mean(model.particles(x, noise, given).log_weights, 1 - self.alpha)


@final
@dataclass(frozen=True, kw_only=True)
class NegativeRenyi(Objective):
    """(1/(1 − α)) log (1/K) Σ_k w_k^(1 − α) for α < 0 (Li & Turner 2016, the VR bound).

    With endless draws it would be an upper bound on log p(x); with K of them it lies between IWAE's
    value and that bound, on either side of log p(x), and bounds nothing. Raises ValueError for an
    α that is not below 0.

    >>> NegativeRenyi(alpha=-1.0, num_samples=10).alpha
    -1.0
    """

    alpha: float
    num_samples: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.alpha) and self.alpha < 0):
            raise ValueError(
                f"expected alpha to be below 0 and finite, got {self.alpha}; from 0 on take Renyi"
            )

    def __call__(
        self,
        model: LatentVariableModel,
        x: Rows,
        noise: Noise,
        step: Tensor,
        given: Given = None,
    ) -> PerRow:
        return log_power_mean(model.particles(x, noise, given).log_weights, 1 - self.alpha)
