"""The self-test: every estimator beside the closed form that it estimates."""

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Generator, Tensor

from unveil.evidence.annealing import Schedule, anneal, anneal_back
from unveil.evidence.closed_form import exact_evidence
from unveil.evidence.importance import importance
from unveil.evidence.linear_gaussian import GaussianPosterior, LinearGaussian
from unveil.evidence.quadrature import quadrature
from unveil.evidence.row_bounds import draw_error, lower, tangent, upper
from unveil.evidence.simulated import simulate
from unveil.evidence.starts import FromPosterior, FromPrior
from unveil.evidence.tuning import tune
from unveil.families import Conditional, raw_of
from unveil.latent import VAE
from unveil.likelihoods.real import Gaussian
from unveil.likelihoods.scale import FixedScale
from unveil.networks.mlp import linear
from unveil.noise import generator
from unveil.objectives.elbo import ELBO, SampledELBO
from unveil.posteriors.diagonal import DiagonalGaussian
from unveil.priors.standard import StandardNormal
from unveil.tiles import row_digests

# More standard errors than this do not happen by chance.
FARTHEST = 5.0
# What float64 rounding may leave of an identity that holds exactly.
ROUNDING = 1e-9
ROWS, CELLS, LATENTS = 200, 6, 2
DRAWS = 1000


@final
@dataclass(frozen=True, kw_only=True)
class Identity:
    """log p(x) = ELBO + KL(q‖p(z|x)) for one q, nats per row: three numbers found apart."""

    q: str
    log_evidence: float
    elbo: float
    kl: float

    @property
    def holds(self) -> bool:
        """Whether the two terms add up, as far as rounding allows."""
        return abs(self.elbo + self.kl - self.log_evidence) <= ROUNDING


@final
@dataclass(frozen=True, kw_only=True)
class Estimate:
    """One quantity, nats per row: what it is exactly, what was estimated, its standard error."""

    quantity: str
    exact: float
    estimate: float
    error: float

    @property
    def holds(self) -> bool:
        """Whether the estimate is the exact value, as far as chance and rounding allow."""
        return abs(self.estimate - self.exact) <= FARTHEST * self.error + ROUNDING


def self_test(seed: int = 0) -> tuple[list[Identity], list[Estimate]]:
    """Run models whose answers are known through the package's own estimators.

    >>> identities, estimates = self_test()
    >>> all(line.holds for line in [*identities, *estimates])
    True
    """
    identities, estimates = [], []
    for title, weight in (("orthogonal W, ", _orthogonal()), ("rotated W, ", _rotated())):
        mean = torch.linspace(-1, 1, CELLS, dtype=torch.float64)
        model = LinearGaussian(weight=weight, mean=mean, noise_variance=0.25)
        x = _draw_rows(model, generator(seed, "check"))
        identities += [
            Identity(
                q=f"{title}{name}",
                log_evidence=float(model.log_evidence(x).mean()),
                elbo=float(model.elbo(x, q).mean()),
                kl=float(model.kl_to_exact(x, q).mean()),
            )
            for name, q in _posteriors(model).items()
        ]
        estimates += _estimates(f"{title}mean-field q", model, x, seed)
    return identities, estimates


def _posteriors(model: LinearGaussian) -> dict[str, GaussianPosterior]:
    """The exact q, the best factorised one, and one that is wrong in mean and spread."""
    best = model.mean_field_posterior()
    return {
        "exact q": model.exact_posterior(),
        "mean-field q": best,
        "poor q": GaussianPosterior(gain=0.5 * best.gain, covariance=2 * best.covariance),
    }


def _draw_rows(model: LinearGaussian, randomness: Generator) -> Tensor:
    """Rows of the model: z ~ N(0, I), x = Wz + μ + s ε."""
    z, noise = (
        torch.randn(ROWS, size, generator=randomness, dtype=torch.float64)
        for size in (LATENTS, CELLS)
    )
    return z @ model.weight.T + model.mean + math.sqrt(model.noise_variance) * noise


def _estimates(title: str, model: LinearGaussian, x: Tensor, seed: int) -> list[Estimate]:
    """Every objective and the importance-weighted evidence beside the closed forms."""
    q = model.mean_field_posterior()
    vae, elbo = linear_vae(model, q), model.elbo(x, q)
    shape = (DRAWS, len(x), vae.num_latents)
    noise = torch.randn(shape, generator=generator(seed, "estimate"), dtype=torch.float64)
    clock = torch.ones((), dtype=torch.float64)
    lines = []
    for objective in (ELBO(num_samples=DRAWS), SampledELBO(num_samples=DRAWS)):
        with torch.no_grad():
            error = objective.scheduled(1, ROWS)(vae, x, noise, clock) - elbo
        lines.append(
            Estimate(
                quantity=f"{type(objective).__name__}, {DRAWS} draws ({title})",
                exact=float(elbo.mean()),
                estimate=float((elbo + error).mean()),
                error=float(error.std() / math.sqrt(len(x))),
            )
        )
    result = importance(vae, x, num_samples=DRAWS, seed=seed)
    evidence = Estimate(
        quantity=f"log p(x) by IWAE, {DRAWS} draws ({title})",
        exact=float(model.log_evidence(x).mean()),
        estimate=float(result.log_evidence.mean()),
        error=draw_error(result.log_evidence_variance, row_digests(x)) or 0.0,
    )
    return [
        *lines,
        evidence,
        *_by_annealing(title, model, vae, seed),
        *_known(title, model, vae, x),
    ]


def _by_annealing(title: str, model: LinearGaussian, vae: VAE, seed: int) -> list[Estimate]:
    """log p(x) of simulated rows by annealing there and back, and by the tangent."""
    x, z = simulate(vae, torch.zeros(ROWS, CELLS, dtype=torch.float64), seed=seed)
    near, far = (
        Schedule(start=start, sizes=tune(vae, start, x, seed=seed), num_temperatures=temperatures)
        for start, temperatures in ((FromPosterior(), 40), (FromPrior(), 100))
    )
    there, from_prior = (anneal(vae, x, way, seed=seed).weights for way in (near, far))
    back = anneal_back(vae, x, z, near, seed=seed).weights
    bounds = (
        lower(near.start.method, there, {}),
        lower(far.start.method, from_prior, {}),
        upper(f"{near.start.method}, back", "in_expectation", back, {}),
        tangent(f"tangent to {far.start.method}", there, from_prior, {}),
    )
    exact, digests = float(model.log_evidence(x).mean()), row_digests(x)
    return [
        Estimate(
            quantity=f"log p(x) by {rows.method} ({title})",
            exact=exact,
            estimate=float(rows.values.mean()),
            error=draw_error(rows.variance, digests) or 0.0,
        )
        for rows in bounds
    ]


def _known(title: str, model: LinearGaussian, vae: VAE, x: Tensor) -> list[Estimate]:
    """log p(x) as the model's own form has it, and by quadrature, whose error is no chance."""
    form, grid = exact_evidence(vae, x), quadrature(vae, x)
    assert form is not None
    return [
        Estimate(
            quantity=f"log p(x) by {name} ({title})",
            exact=float(model.log_evidence(x).mean()),
            estimate=float(values.mean()),
            error=error,
        )
        for name, values, error in (
            ("its closed form", form, 0.0),
            ("quadrature", grid.log_evidence, float(grid.error.max())),
        )
    ]


def linear_vae(model: LinearGaussian, q: GaussianPosterior) -> VAE:
    """The linear-Gaussian model with a factorised q, built of the package's own parts, float64."""
    cells, latents = model.weight.shape
    decoder, encoder = linear(latents, cells).double(), linear(cells, 2 * latents).double()
    spread = raw_of(q.covariance.diagonal().sqrt())
    with torch.no_grad():
        decoder.weight.copy_(model.weight)
        decoder.bias.copy_(model.mean)
        encoder.weight.copy_(torch.cat([q.gain, torch.zeros_like(q.gain)]))
        encoder.bias.copy_(torch.cat([-q.gain @ model.mean, spread]))
    scale = FixedScale(math.sqrt(model.noise_variance))
    return VAE(
        prior=StandardNormal(latents),
        likelihood=Conditional(decoder, Gaussian(cells, scale)),
        posterior=Conditional(encoder, DiagonalGaussian(latents)),
    ).double()


def _orthogonal() -> Tensor:
    """A weight whose posterior factorises: the mean-field family holds the exact answer."""
    basis, _ = torch.linalg.qr(torch.vander(torch.linspace(-1, 1, CELLS).double(), LATENTS + 1))
    return basis[:, :LATENTS] * torch.tensor([2.0, 1.0], dtype=torch.float64)


def _rotated() -> Tensor:
    """The same model with its latents rotated: its posterior no longer factorises."""
    angle = torch.tensor(0.6, dtype=torch.float64)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()]).reshape(2, 2)
    return _orthogonal() @ turn
