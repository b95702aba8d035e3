"""The model whose every answer is known: a linear decoder with Gaussian noise.

    p(z) = N(0, I),   p(x|z) = N(Wz + μ, s² I)

Its evidence, posterior and every gap are closed forms (Tipping & Bishop 1999; Lucas et al. 2019),
so it proves estimators right, and as probabilistic PCA it is the baseline that a nonlinear model
has to beat.
"""

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import MultivariateNormal

from unveil.distributions import LOG_2PI


@final
@dataclass(frozen=True, kw_only=True)
class GaussianPosterior:
    """q(z|x) = N(A(x − μ), S): any posterior that is linear in x, one covariance for all rows."""

    gain: Float[Tensor, "latent cell"]
    covariance: Float[Tensor, "latent latent"]


@final
@dataclass(frozen=True, kw_only=True)
class LinearGaussian:
    """p(z) = N(0, I), p(x|z) = N(Wz + μ, s² I); all tensors float64.

    >>> model = LinearGaussian(
    ...     weight=torch.ones(2, 1, dtype=torch.float64),
    ...     mean=torch.zeros(2, dtype=torch.float64),
    ...     noise_variance=1.0,
    ... )
    >>> x = torch.zeros(1, 2, dtype=torch.float64)
    >>> q = model.exact_posterior()
    >>> round(float(model.log_evidence(x) - model.elbo(x, q)), 12)
    0.0
    """

    weight: Float[Tensor, "cell latent"]
    mean: Float[Tensor, " cell"]
    noise_variance: float

    @property
    def _precision(self) -> Tensor:
        """M = WᵀW + s² I, the posterior precision times s²."""
        latents = self.weight.shape[1]
        return self.weight.T @ self.weight + self.noise_variance * torch.eye(latents).to(
            self.weight
        )

    def log_evidence(self, x: Float[Tensor, "row cell"]) -> Float[Tensor, " row"]:
        """log p(x) = log N(x; μ, WWᵀ + s² I), nats per row.

        By the matrix-inversion and determinant lemmas, so that it costs what the latents cost.
        """
        cells, latents = self.weight.shape
        residual = x - self.mean
        chol = torch.linalg.cholesky(self._precision)
        explained = torch.linalg.solve_triangular(chol, (residual @ self.weight).T, upper=False)
        square = (residual.square().sum(-1) - explained.square().sum(0)) / self.noise_variance
        log_det = 2 * chol.diagonal().log().sum() + (cells - latents) * math.log(
            self.noise_variance
        )
        return -0.5 * (cells * LOG_2PI + log_det + square)

    def exact_posterior(self) -> GaussianPosterior:
        """p(z|x) = N(M⁻¹Wᵀ(x − μ), s² M⁻¹)."""
        inverse = torch.linalg.inv(self._precision)
        return GaussianPosterior(
            gain=inverse @ self.weight.T, covariance=self.noise_variance * inverse
        )

    def mean_field_posterior(self) -> GaussianPosterior:
        """The best factorised q: the exact mean, variances s²/diag(M) (Lucas et al. 2019)."""
        exact = self.exact_posterior()
        variances = self.noise_variance / self._precision.diagonal()
        return GaussianPosterior(gain=exact.gain, covariance=torch.diag(variances))

    def elbo(self, x: Float[Tensor, "row cell"], q: GaussianPosterior) -> Float[Tensor, " row"]:
        """E_q[log p(x|z)] − KL(q‖p(z)), nats per row."""
        residual = x - self.mean
        z = residual @ q.gain.T
        spread = (self.weight @ q.covariance @ self.weight.T).trace()
        misfit = (z @ self.weight.T - residual).square().sum(-1)
        cells = len(self.mean)
        distortion = 0.5 * cells * (LOG_2PI + math.log(self.noise_variance)) + (spread + misfit) / (
            2 * self.noise_variance
        )
        rate = 0.5 * (
            -torch.logdet(q.covariance) + z.square().sum(-1) + q.covariance.trace() - z.shape[-1]
        )
        return -(distortion + rate)

    def kl_to_exact(self, x: Float[Tensor, "row cell"], q: GaussianPosterior) -> Tensor:
        """KL(q(z|x) ‖ p(z|x)), nats per row, from the two Gaussians alone."""
        exact = self.exact_posterior()
        residual = x - self.mean
        ours = MultivariateNormal(residual @ q.gain.T, q.covariance.expand(len(x), -1, -1))
        theirs = MultivariateNormal(
            residual @ exact.gain.T, exact.covariance.expand(len(x), -1, -1)
        )
        return torch.distributions.kl_divergence(ours, theirs)


def fit_ppca(x: Float[Tensor, "row cell"], num_latents: int) -> LinearGaussian:
    """Probabilistic PCA by maximum likelihood (Tipping & Bishop 1999, eqs. 7 and 8).

    W = U_k (Λ_k − s² I)^½, s² the mean of the eigenvalues left out. ``num_latents`` is lowered to
    leave at least one. A vanishing s² is floored at a billionth of the total variance.

    >>> x = torch.tensor([[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]]).double()
    >>> round(fit_ppca(x, 1).noise_variance, 6)
    1.0
    """
    mean = x.mean(0)
    centred = x - mean
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(x))
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    k = max(0, min(num_latents, x.shape[1] - 1))
    noise = max(float(values[k:].mean()), 1e-9 * max(float(values.sum()), 1e-300))
    weight = vectors[:, :k] * (values[:k] - noise).clamp(min=0).sqrt()
    return LinearGaussian(weight=weight, mean=mean, noise_variance=noise)
