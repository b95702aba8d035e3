"""InfoVAE: the codes of all rows together held to the prior, rather than each row's by itself."""

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.distributions import Distribution

from unveil.distributions import DiagonalNormal
from unveil.latent import LatentVariableModel
from unveil.objectives.base import BatchObjective, require_weight
from unveil.shapes import Given, Latents, Noise, PerDraw, PerRow, Rows


def mmd(z: Latents, p: DiagonalNormal, bandwidth: float) -> PerDraw:
    """MMD²(q(z), p(z)) shared out over the draws z (sample, row, latent), one of each row.

        E k(z, z') − 2 E k(z, y) + E k(y, y'),    z, z' ~ q(z),  y, y' ~ p = N(m, diag s²)
        k(z, y) = exp(−‖z − y‖²/(2ℓ²)),    ℓ² = bandwidth² Σ_u s_u²

    The first expectation is a mean over pairs of different rows; the other two are known in closed
    form, so nothing is drawn from the prior. The mean over rows is an unbiased estimate, which may
    be below 0. Source: Gretton et al. 2012, lemma 6.

    >>> z = torch.randn(1, 2000, 2, generator=torch.Generator().manual_seed(0))
    >>> p = DiagonalNormal(torch.zeros(2), torch.ones(2))
    >>> bool(mmd(z, p, 1.0).mean().abs() < 1e-3 < 1e-2 < mmd(z + 1, p, 1.0).mean())
    True
    """
    variance = p.scale.square()
    # A learned prior could otherwise buy a smaller value with a wider kernel.
    length = bandwidth**2 * variance.detach().sum()
    within = torch.exp(-(z[:, :, None] - z[:, None]).square().sum(-1) / (2 * length))
    among_codes = (within.sum(-1) - 1) / (z.shape[1] - 1)  # k(z, z) = 1
    between = _expected_kernel(z - p.loc, variance, length)
    among_prior = _expected_kernel(torch.zeros_like(p.loc), 2 * variance, length)
    return among_codes - 2 * between + among_prior


def _expected_kernel(offset: Tensor, variance: Tensor, length: Tensor) -> Tensor:
    """E exp(−‖offset + e‖²/(2ℓ²)) for e ~ N(0, diag variance)."""
    wide = length + variance
    return torch.exp(-0.5 * (offset.square() / wide + torch.log(wide / length)).sum(-1))


@final
@dataclass(frozen=True, kw_only=True)
class InfoVAE(BatchObjective):
    """E_q[log p(x|z)] − (1 − α) KL(q(z|x)‖p(z)) − (α + λ − 1) MMD²(q(z), p(z)).

    ``scaling`` is λ; α = 0 and λ = 1 is the ELBO, α = 1 the MMD-VAE, which leaves each row's code
    as narrow as it likes. ``bandwidth`` is the kernel's, in units of the prior's spread. It is no
    bound on log p(x). Needs a prior N(m, diag s²), the same for every row (raises TypeError), and
    batches of at least 2 rows; raises ValueError for an α above 1 or an α + λ below 1. Source:
    Zhao, Song & Ermon 2019 (InfoVAE).

    >>> InfoVAE(alpha=0.5, scaling=100.0).bandwidth
    1.0
    """

    alpha: float = 0.0
    scaling: float = 1000.0
    bandwidth: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_weight("1 − alpha", 1 - self.alpha)
        require_weight("alpha + scaling − 1", self.alpha + self.scaling - 1)
        if not (math.isfinite(self.bandwidth) and self.bandwidth > 0):
            raise ValueError(f"expected a bandwidth above 0 and finite, got {self.bandwidth}")

    def __call__(
        self,
        model: LatentVariableModel,
        x: Rows,
        noise: Noise,
        step: Tensor,
        given: Given = None,
    ) -> PerRow:
        self.require_company(x)
        q, p = model.posterior(x, given), model.prior(given)
        z = q.push(noise)
        log_likelihood = model.likelihood(z, given).log_prob(x).mean(0)
        distance = mmd(z, _one_gaussian(p), self.bandwidth).mean(0)
        return (
            log_likelihood
            - (1 - self.alpha) * q.kl(p, z)
            - (self.alpha + self.scaling - 1) * distance
        )


def _one_gaussian(p: Distribution) -> DiagonalNormal:
    """The prior itself; raises TypeError unless it is one Gaussian of independent latents."""
    if isinstance(p, DiagonalNormal) and not p.batch_shape:
        return p
    raise TypeError(
        f"expected a prior N(m, diag s²) that is the same for every row, got {type(p).__name__} "
        f"of shape {tuple(p.batch_shape)}; take StandardNormal, whose kernel has a closed form"
    )
