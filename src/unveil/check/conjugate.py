"""Conjugate pairs, whose evidence is a ratio of normalisers: Beta and Bernoulli, Gamma and Poisson.

The latent is the parameter of every cell as the likelihood takes it, a log-odds or a log-rate, and
q(z|x) is the normal with the mean and the variance of the exact posterior.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import final

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from unveil.distributions import Plain, draw
from unveil.families import Conditional, Family, raw_of
from unveil.latent import VAE
from unveil.likelihoods.binary import Bernoulli
from unveil.likelihoods.counts import Poisson
from unveil.noise import standard_gamma
from unveil.posteriors.diagonal import DiagonalGaussian
from unveil.priors.base import Prior
from unveil.shapes import Given, PerRow, Rows

# The prior's a and b, and how many cells a row has.
A, B = 3.0, 2.0
CELLS = 4
# Rows of counts reach this far.
MOST = 3


class Conjugate(Prior, ABC):
    """A prior of one latent with the parameters a and b, whose posteriors are of its own kind."""

    def __init__(self, a: float = A, b: float = B) -> None:
        super().__init__()
        self.a, self.b = torch.tensor([a, b], dtype=torch.float64)
        self.num_latents = 1

    @abstractmethod
    def log_density(self, z: Tensor) -> Tensor:
        """log p(z), nats."""

    @abstractmethod
    def moments(self, x: Rows) -> tuple[PerRow, PerRow]:
        """The mean and the variance of p(z|x), (row,) each."""

    @abstractmethod
    def log_evidence(self, x: Rows) -> PerRow:
        """log p(x), nats, (row,)."""

    @abstractmethod
    def draws(self, shape: torch.Size, generator: Generator) -> Tensor:
        """z ~ p(z) of this shape."""

    def forward(self, given: Given = None) -> "_OneLatent":
        return _OneLatent(self)


@final
class LogitBeta(Conjugate):
    """σ(z) ~ Beta(a, b): log p(z) = a log σ(z) + b log σ(−z) − log B(a, b).

    >>> prior = LogitBeta(1.0, 1.0)  # of n switches each number that are on is as likely: 1/(n + 1)
    >>> prior.log_evidence(torch.zeros(1, 4).double()).exp()
    tensor([0.2000], dtype=torch.float64)
    """

    def log_density(self, z: Tensor) -> Tensor:
        return self.a * F.logsigmoid(z) + self.b * F.logsigmoid(-z) - _log_beta(self.a, self.b)

    def moments(self, x: Rows) -> tuple[PerRow, PerRow]:
        """ψ(α) − ψ(β) and ψ'(α) + ψ'(β), with α = a + Σ x and β = b + n − Σ x."""
        on, off = self._posterior(x)
        mean = torch.digamma(on) - torch.digamma(off)
        return mean, torch.polygamma(1, on) + torch.polygamma(1, off)

    def draws(self, shape: torch.Size, generator: Generator) -> Tensor:
        """log G_a − log G_b of two gammas."""
        on, off = (standard_gamma(p.expand(shape), generator) for p in (self.a, self.b))
        return on.log() - off.log()

    def log_evidence(self, x: Rows) -> PerRow:
        """log B(a + Σ x, b + n − Σ x) − log B(a, b)."""
        return _log_beta(*self._posterior(x)) - _log_beta(self.a, self.b)

    def _posterior(self, x: Rows) -> tuple[PerRow, PerRow]:
        on = x.sum(-1)
        return self.a + on, self.b + x.shape[-1] - on


@final
class LogGamma(Conjugate):
    """eᶻ ~ Gamma(a, rate b): log p(z) = a z − b eᶻ + a log b − log Γ(a).

    >>> prior = LogGamma(1.0, 1.0)  # a single count is geometric: P(0) = ½, P(1) = ¼
    >>> prior.log_evidence(torch.tensor([[0.0], [1.0]]).double()).exp()
    tensor([0.5000, 0.2500], dtype=torch.float64)
    """

    def log_density(self, z: Tensor) -> Tensor:
        return self.a * z - self.b * z.exp() + self.a * self.b.log() - torch.lgamma(self.a)

    def moments(self, x: Rows) -> tuple[PerRow, PerRow]:
        """ψ(a + Σ x) − log(b + n) and ψ'(a + Σ x)."""
        shape, rate = self._posterior(x)
        return torch.digamma(shape) - rate.log(), torch.polygamma(1, shape)

    def draws(self, shape: torch.Size, generator: Generator) -> Tensor:
        return standard_gamma(self.a.expand(shape), generator).log() - self.b.log()

    def log_evidence(self, x: Rows) -> PerRow:
        """log Γ(a + Σ x)/Γ(a) + a log b − (a + Σ x) log(b + n) − Σ log x!."""
        shape, rate = self._posterior(x)
        ratio = torch.lgamma(shape) - torch.lgamma(self.a) + self.a * self.b.log()
        return ratio - shape * rate.log() - torch.lgamma(x + 1).sum(-1)

    def _posterior(self, x: Rows) -> tuple[PerRow, Tensor]:
        return self.a + x.sum(-1), self.b + x.shape[-1]


def conjugate_vae(prior: Conjugate, likelihood: Callable[[int], Family], cells: int = CELLS) -> VAE:
    """z ~ the prior, each cell ~ the likelihood of parameter z, q(z|x) of p(z|x)'s moments."""
    return VAE(
        prior=prior,
        likelihood=Conditional(EveryCell(cells), likelihood(cells)),
        posterior=Conditional(_Moments(prior), DiagonalGaussian(1)),
    ).double()


def switches() -> tuple[VAE, Rows, PerRow]:
    """Beta and Bernoulli: a model, every row there is, and log p(x) of each."""
    prior, ends = LogitBeta(), torch.tensor([0.0, 1.0]).double()
    x = torch.cartesian_prod(*[ends] * CELLS)
    return conjugate_vae(prior, Bernoulli), x, prior.log_evidence(x)


def counts() -> tuple[VAE, Rows, PerRow]:
    """Gamma and Poisson: a model, rows of small counts, and log p(x) of each."""
    prior, small = LogGamma(), torch.arange(MOST + 1).double()
    x = torch.cartesian_prod(*[small] * CELLS)
    return conjugate_vae(prior, Poisson), x, prior.log_evidence(x)


@final
class EveryCell(nn.Module):
    """Every cell's parameter is z itself."""

    def __init__(self, cells: int) -> None:
        super().__init__()
        self.cells = cells

    def forward(self, z: Tensor) -> Tensor:
        return z.expand(*z.shape[:-1], self.cells)


@final
class _Moments(nn.Module):
    """The raw parameters of the normal with the moments of p(z|x)."""

    def __init__(self, prior: Conjugate) -> None:
        super().__init__()
        self._moments = prior.moments

    def forward(self, x: Tensor) -> Tensor:
        mean, variance = self._moments(x)
        return torch.stack([mean, raw_of(variance.sqrt())], -1)


@final
class _OneLatent(Plain):
    """A prior of one latent, as a distribution."""

    def __init__(self, prior: Conjugate) -> None:
        self.prior = prior
        super().__init__(torch.Size([]), torch.Size([1]), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.prior.log_density(value[..., 0])


@draw.register
def _(distribution: _OneLatent, shape: Sequence[int], generator: Generator) -> Tensor:
    return distribution.prior.draws(torch.Size(shape), generator)[..., None]


def _log_beta(a: Tensor, b: Tensor) -> Tensor:
    return torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)
