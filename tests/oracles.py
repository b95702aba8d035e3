"""What the tests hold the library to: closed forms, quadrature, and statistics with a margin."""

import math
from typing import final

import numpy as np
import torch
from torch import Generator, Tensor, nn

import unveil
from unveil.distributions import LOG_2PI, DiagonalNormal, Pushforward
from unveil.evidence.linear_gaussian import GaussianPosterior, LinearGaussian
from unveil.families import Family
from unveil.networks.mlp import Decoder, Encoder, FillsGaps, MarksGaps

# A statistical claim is refused beyond 5 standard errors: by chance once in two million tests.
SURELY_WRONG = 5.0
# What a mutant must exceed, so that the test is known to notice it by a wide margin.
CAUGHT = 20.0

NOW = torch.tensor(0.0)  # the step at which an objective without a schedule is asked


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def normal(seed: int, *shape: int) -> Tensor:
    """Standard normal numbers, float64."""
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


# ---- statistics --------------------------------------------------------------------------------


def z_score(draws: Tensor, oracle: Tensor | float) -> float:
    """z = (mean − oracle)/(sd/√n) over the first axis: the largest |z| over the others."""
    draws = draws.detach().double()
    error = draws.mean(0) - oracle
    return float((error / (draws.std(0) / math.sqrt(len(draws)))).abs().max())


def chi_square_z(counts: Tensor, probabilities: Tensor) -> float:
    """Pearson's Σ (O − E)²/E as a normal score (Wilson & Hilferty's cube root).

    Bins where fewer than 10 are expected are pooled; an impossible draw scores infinity.
    """
    expected = probabilities * counts.sum()
    small = expected < 10
    rest, of_rest = counts[small].sum(), expected[small].sum()
    if rest > 0 and of_rest < 1e-6:
        return math.inf
    observed, expected = counts[~small], expected[~small]
    if of_rest >= 10:
        observed, expected = torch.cat([observed, rest[None]]), torch.cat([expected, of_rest[None]])
    statistic = float(((observed - expected).square() / expected).sum())
    v = 2 / (9 * (len(observed) - 1))
    return ((statistic / (len(observed) - 1)) ** (1 / 3) - (1 - v)) / math.sqrt(v)


# ---- quadrature --------------------------------------------------------------------------------


def gauss_hermite(nodes: int) -> tuple[Tensor, Tensor]:
    """Nodes ε_i and weights w_i with Σ w_i f(ε_i) = E f(ε), ε ~ N(0, 1)."""
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    return torch.from_numpy(points), torch.from_numpy(weights / weights.sum())


def log_mean_weight(s: float, num_samples: int, *, seed: int, repeats: int) -> Tensor:
    """``repeats`` draws of log (1/K) Σ_k w_k, log w_k ~ N(−s²/2, s²): numpy, on its own."""
    log_w = np.random.default_rng(seed).normal(-(s**2) / 2, s, size=(repeats, num_samples))
    top = log_w.max(1, keepdims=True)
    return torch.from_numpy(top[:, 0] + np.log(np.exp(log_w - top).mean(1)))


# ---- the linear-Gaussian model as a VAE --------------------------------------------------------


@final
class FullNormal(Pushforward):
    """N(μ, LLᵀ): z = μ + Lε."""

    def __init__(self, loc: Tensor, cholesky: Tensor) -> None:
        self.loc, self.cholesky = loc, cholesky
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def stddev(self) -> Tensor:
        return self.cholesky.square().sum(-1).sqrt().expand_as(self.loc)

    def push(self, noise: Tensor) -> Tensor:
        return self.loc + noise @ self.cholesky.T

    def log_prob(self, value: Tensor) -> Tensor:
        standard = (value - self.loc) @ torch.linalg.inv(self.cholesky).T
        log_det = self.cholesky.diagonal().log().sum()
        return -0.5 * (standard.square() + LOG_2PI).sum(-1) - log_det


@final
class OneCovariance(Family):
    """N(raw, S), the covariance the same for every row."""

    def __init__(self, covariance: Tensor) -> None:
        super().__init__()
        self.event_shape = (len(covariance),)
        self.num_parameters = len(covariance)
        self.register_buffer("cholesky", torch.linalg.cholesky(covariance))

    def forward(self, raw: Tensor) -> FullNormal:
        return FullNormal(raw, self.get_buffer("cholesky"))


def raw_of(sd: Tensor) -> Tensor:
    """The raw number that ``positive(raw)`` makes into sd: softplus⁻¹(sd) − softplus⁻¹(1)."""
    return torch.log(torch.expm1(sd)) - math.log(math.expm1(1))


def affine(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return layer


def linear_vae(model: LinearGaussian, q: GaussianPosterior) -> unveil.VAE:
    """p(z) = N(0, I), p(x|z) = N(Wz + μ, s²I), q(z|x) = N(A(x − μ), S), out of unveil's pieces.

    A diagonal S is the library's DiagonalGaussian, any other one a family of this file's.
    """
    cells, latents = model.weight.shape
    shift = -q.gain @ model.mean
    if torch.equal(q.covariance, torch.diag(q.covariance.diagonal())):
        sd = q.covariance.diagonal().sqrt()
        network = affine(
            torch.cat([q.gain, torch.zeros_like(q.gain)]), torch.cat([shift, raw_of(sd)])
        )
        family: Family = unveil.DiagonalGaussian(latents)
    else:
        network, family = affine(q.gain, shift), OneCovariance(q.covariance)
    sd = unveil.FixedScale(math.sqrt(model.noise_variance))
    return unveil.VAE(
        prior=unveil.StandardNormal(latents).double(),
        likelihood=unveil.Conditional(affine(model.weight, model.mean), unveil.Gaussian(cells, sd)),
        posterior=unveil.Conditional(network, family),
    ).double()


def a_linear_gaussian(cells: int = 6, latents: int = 3) -> LinearGaussian:
    """One whose columns are not orthogonal, so that a mean-field q leaves a gap."""
    return LinearGaussian(
        weight=normal(11, cells, latents), mean=normal(12, cells), noise_variance=0.49
    )


def a_poor_posterior(model: LinearGaussian) -> GaussianPosterior:
    """Mean halved, spread doubled: legal, and far from p(z|x)."""
    exact = model.exact_posterior()
    return GaussianPosterior(gain=0.5 * exact.gain, covariance=4 * exact.covariance)


# ---- ordinary models ---------------------------------------------------------------------------


def nonlinear_vae(
    family: Family, *, latents: int = 2, width: int = 13, depth: int = 1, gaps: bool = True
) -> unveil.VAE:
    """A VAE whose weights are far from where they start, so that nothing is zero by luck."""
    event_shape = family.event_shape
    vae = unveil.VAE(
        prior=unveil.StandardNormal(latents),
        likelihood=unveil.Conditional(
            Decoder(latents, covariates=0, outputs=family.num_parameters, width=width, depth=depth),
            family,
        ),
        posterior=unveil.Conditional(
            Encoder(
                event_shape,
                covariates=0,
                outputs=2 * latents,
                width=width,
                depth=depth,
                gaps=MarksGaps() if gaps else FillsGaps(),
            ),
            unveil.DiagonalGaussian(latents),
        ),
    )
    shake(vae, seed=5)
    return vae


def shake(module: nn.Module, *, seed: int, sd: float = 0.3) -> None:
    """Set every parameter to N(0, sd²) numbers of the seed's choosing."""
    generator = seeded(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(sd * torch.randn(p.shape, generator=generator))


def with_gaps(x: Tensor, *, seed: int, share: float = 0.25) -> Tensor:
    """x with a share of its cells missing."""
    gone = torch.rand(x.shape, generator=seeded(seed)) < share
    return torch.where(gone, torch.nan, x)


# ---- a posterior with two modes, and a q that sees one -----------------------------------------


@final
class TwoModes(unveil.LatentVariableModel):
    """p(z) = N(0, 1), p(x|z) = N(z², 0.3²), and q(z|x) = N(√x, 0.1²): by symmetry, q sees half."""

    def __init__(self) -> None:
        super().__init__()
        self.num_latents = 1
        self.p_z = unveil.StandardNormal(1).double()

    def prior(self, given=None):
        return self.p_z(given)

    def likelihood(self, z, given=None):
        return DiagonalNormal(z.square(), torch.full_like(z, 0.3))

    def posterior(self, x, given=None):
        return DiagonalNormal(x.sqrt(), torch.full_like(x, 0.1))

    def log_evidence(self, x: Tensor) -> Tensor:
        """By the trapezoid rule, to rounding."""
        z = torch.linspace(-8, 8, 20_001, dtype=torch.float64)[:, None, None]
        log_joint = self.log_joint(x, z.expand(-1, len(x), 1))
        return log_joint.logsumexp(0) + math.log(16 / 20_000)
