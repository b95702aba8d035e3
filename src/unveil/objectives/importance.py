"""Bounds by importance weights: many draws, and a logarithm of their mean weight."""

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from unveil.latent import LatentVariableModel
from unveil.objectives.base import LowerBound
from unveil.shapes import Given, Noise, PerRow, Rows


@final
@dataclass(frozen=True, kw_only=True)
class IWAE(LowerBound):
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
