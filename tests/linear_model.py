"""The linear-Gaussian model with covariates, and q(z|x) exact for any pattern of missing cells."""

import math
from typing import final

import torch
from torch import Tensor
from torch.distributions import Normal

import unveil
from oracles import a_linear_gaussian, normal
from unveil.distributions import Cells, FullNormal
from unveil.evidence.linear_gaussian import LinearGaussian


@final
class LinearModel(unveil.LatentVariableModel):
    """p(z) = N(0, I), p(x|z, c) = N(Wz + μ + Bc, s²I), q(z|x, c) = N(gain · m, width² S).

    With ``gain`` and ``width`` 1, q is p(z|x_observed, c). ``spread`` multiplies the s of p(x|z)
    alone, so that q and the model part.
    """

    def __init__(
        self,
        model: LinearGaussian | None = None,
        *,
        gain: float = 1.0,
        width: float = 1.0,
        spread: float = 1.0,
    ) -> None:
        super().__init__()
        self.model = a_linear_gaussian() if model is None else model
        self.gain, self.width, self.spread = gain, width, spread
        cells, self.num_latents = self.model.weight.shape
        self.of_given = normal(21, cells, 1)
        self.p_z = unveil.StandardNormal(self.num_latents).double()

    def _mean(self, given: Tensor | None) -> Tensor:
        mean = self.model.mean
        return mean if given is None else mean + given @ self.of_given.T

    def prior(self, given=None):
        return self.p_z(given)

    def likelihood(self, z, given=None):
        loc = z @ self.model.weight.T + self._mean(given)
        sd = torch.full_like(loc, self.spread * math.sqrt(self.model.noise_variance))
        return Cells(Normal(loc, sd, validate_args=False), event_dims=1)

    def posterior(self, x, given=None):
        s2, eye = self.model.noise_variance, torch.eye(self.num_latents, dtype=torch.float64)
        residual = x - self._mean(given)
        seen = ~torch.isnan(x)
        shown = seen[:, :, None] * self.model.weight
        precision = eye + shown.mT @ shown / s2
        right = (shown.mT @ torch.where(seen, residual, 0.0)[:, :, None])[..., 0] / s2
        covariance = torch.linalg.inv(precision)
        lower = torch.linalg.cholesky(covariance)
        scale = lower.diagonal(dim1=-2, dim2=-1)
        mean = (covariance @ right[:, :, None])[..., 0]
        return FullNormal(self.gain * mean, self.width * scale, lower.tril(-1) / scale[:, :, None])
