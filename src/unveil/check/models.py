"""Models whose answers are known: linear-Gaussian, with two modes, discrete, and of known weights.

Each is built of the package's own parts, in float64, so that the estimators meet what they meet
elsewhere.
"""

import math
from collections.abc import Mapping
from typing import final

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.distributions import Distribution, MultivariateNormal

from unveil.distributions import DiagonalNormal, Plain, Pushforward
from unveil.evidence.linear_gaussian import GaussianPosterior, LinearGaussian
from unveil.families import Conditional, Family, raw_of
from unveil.latent import VAE, LatentVariableModel
from unveil.likelihoods.binary import Bernoulli
from unveil.likelihoods.real import Gaussian
from unveil.likelihoods.scale import FixedScale
from unveil.networks.mlp import linear
from unveil.posteriors.diagonal import DiagonalGaussian
from unveil.priors.base import Prior
from unveil.priors.mixture import GaussianMixture
from unveil.priors.standard import StandardNormal
from unveil.shapes import Given, Latents, PerRow, Rows

CELLS, LATENTS = 6, 2
NOISE_VARIANCE = 0.25


# ---- linear decoders ---------------------------------------------------------------------------


def factorising() -> LinearGaussian:
    """One whose posterior factorises: the mean-field family holds the exact answer."""
    basis, _ = torch.linalg.qr(torch.vander(torch.linspace(-1, 1, CELLS).double(), LATENTS + 1))
    return _linear_gaussian(basis[:, :LATENTS] * torch.tensor([2.0, 1.0], dtype=torch.float64))


def rotated() -> LinearGaussian:
    """The same model with its latents rotated: its posterior no longer factorises."""
    angle = torch.tensor(0.6, dtype=torch.float64)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()]).reshape(2, 2)
    return _linear_gaussian(factorising().weight @ turn)


def _linear_gaussian(weight: Tensor) -> LinearGaussian:
    mean = torch.linspace(-1, 1, CELLS, dtype=torch.float64)
    return LinearGaussian(weight=weight, mean=mean, noise_variance=NOISE_VARIANCE)


def posteriors(model: LinearGaussian) -> Mapping[str, GaussianPosterior]:
    """The exact q, the best factorised one, and one that is wrong in mean and spread."""
    best = model.mean_field_posterior()
    return {
        "exact q": model.exact_posterior(),
        "mean-field q": best,
        "poor q": GaussianPosterior(gain=0.5 * best.gain, covariance=2 * best.covariance),
    }


def linear_vae(model: LinearGaussian, q: GaussianPosterior) -> VAE:
    """The linear-Gaussian model with a factorised q, built of the package's own parts, float64."""
    latents = model.weight.shape[1]
    return _linear_decoder(model, StandardNormal(latents), q, -q.gain @ model.mean)


def _linear_decoder(
    model: LinearGaussian, prior: Prior, q: GaussianPosterior, shift: Tensor
) -> VAE:
    """p(x|z) of the model under any prior, and q(z|x) = N(Ax + shift, S)."""
    cells, latents = model.weight.shape
    decoder, encoder = linear(latents, cells).double(), linear(cells, 2 * latents).double()
    spread = raw_of(q.covariance.diagonal().sqrt())
    with torch.no_grad():
        decoder.weight.copy_(model.weight)
        decoder.bias.copy_(model.mean)
        encoder.weight.copy_(torch.cat([q.gain, torch.zeros_like(q.gain)]))
        encoder.bias.copy_(torch.cat([shift, spread]))
    scale = FixedScale(math.sqrt(model.noise_variance))
    return VAE(
        prior=prior,
        likelihood=Conditional(decoder, Gaussian(cells, scale)),
        posterior=Conditional(encoder, DiagonalGaussian(latents)),
    ).double()


# ---- two modes ---------------------------------------------------------------------------------

# Half of p(z) is at either of the places ±PLACE, with these standard deviations.
PLACE, SPREAD = (0.0, 2.0), (1.0, 0.5)
# Of how many sds of the noise the second latent moves a cell: rows say little of which place.
FAINT = 0.1


def two_modes() -> VAE:
    """A linear decoder under two normals, p(z|x) with a mode for each, and q(z|x) that sees one.

    q is the exact posterior under the first normal alone.
    """
    model = _with_two_modes()
    prior = GaussianMixture(LATENTS, 2, Generator()).double()
    place, spread = (torch.tensor(t, dtype=torch.float64) for t in (PLACE, SPREAD))
    with torch.no_grad():
        prior.loc.copy_(torch.stack([place, -place]))
        prior.raw_scale.copy_(raw_of(spread).expand(2, -1))
    precision = model.weight.T @ model.weight / NOISE_VARIANCE + torch.diag(spread**-2)
    covariance = torch.linalg.inv(precision)
    gain = covariance @ model.weight.T / NOISE_VARIANCE
    shift = place - gain @ (model.weight @ place + model.mean)
    return _linear_decoder(model, prior, GaussianPosterior(gain=gain, covariance=covariance), shift)


def evidence_of_two_modes(x: Rows) -> PerRow:
    """log ½ Σ_± N(x; ±Wm + μ, W S Wᵀ + s² I), nats, (row,)."""
    model = _with_two_modes()
    place, spread = (torch.tensor(t, dtype=torch.float64) for t in (PLACE, SPREAD))
    covariance = model.weight @ torch.diag(spread**2) @ model.weight.T
    covariance += NOISE_VARIANCE * torch.eye(CELLS, dtype=torch.float64)
    log_p = [
        MultivariateNormal(model.mean + model.weight @ m, covariance).log_prob(x)
        for m in (place, -place)
    ]
    return torch.stack(log_p).logsumexp(0) - math.log(2)


def _with_two_modes() -> LinearGaussian:
    return _linear_gaussian(factorising().weight * torch.tensor([1.0, FAINT]).double())


# ---- discrete latents --------------------------------------------------------------------------


@final
class OneOf(Pushforward):
    """One of K things, as a vector of zeros and a single one: P(k) ∝ exp(logits_k).

    z = onehot argmax_k [logits_k − log(−log Φ(ε_k))],   ε ~ N(0, I)   (Gumbel's way)

    >>> OneOf(torch.tensor([0.0, 0.0, 9.0])).push(torch.zeros(3))
    tensor([0., 0., 1.])
    """

    has_enumerate_support = True

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits.log_softmax(-1)
        super().__init__(logits.shape[:-1], logits.shape[-1:], validate_args=False)

    def push(self, noise: Tensor) -> Tensor:
        gumbel = -torch.log(-torch.special.log_ndtr(noise))
        best = (self.logits + gumbel).argmax(-1)
        return F.one_hot(best, self.event_shape[0]).to(noise)

    def log_prob(self, value: Tensor) -> Tensor:
        return (value * self.logits).sum(-1)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        return torch.eye(self.event_shape[0]).to(self.logits)


@final
class _Choice(Family):
    """The family of ``OneOf``: its parameters are the logits."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.event_shape, self.num_parameters = (number,), number

    def forward(self, raw: Tensor) -> OneOf:
        return OneOf(raw)


@final
class _Odds(Prior):
    """p(z): fixed odds of each of K things."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.num_latents = len(logits)
        self.register_buffer("logits", logits)

    def forward(self, given: Given = None) -> OneOf:
        return OneOf(self.get_buffer("logits"))


# Each of three things turns four switches on with these log-odds.
ODDS = (0.5, 0.0, -1.0)
SWITCHES = ((2.0, -1.0, 0.5, 0.0), (-2.0, 0.5, 1.0, -0.5), (0.0, 1.5, -1.0, 1.0))


def one_of_three() -> VAE:
    """z is one of three things, x are four switches, and q(z|x) is half way from p(z) to p(z|x)."""
    odds, switches = (torch.tensor(t, dtype=torch.float64) for t in (ODDS, SWITCHES))
    number, cells = switches.shape
    decoder, encoder = linear(number, cells).double(), linear(cells, number).double()
    with torch.no_grad():
        decoder.weight.copy_(switches.T)
        decoder.bias.zero_()
        encoder.weight.copy_(0.5 * switches)
        encoder.bias.copy_(odds - 0.5 * F.softplus(switches).sum(-1))
    return VAE(
        prior=_Odds(odds),
        likelihood=Conditional(decoder, Bernoulli(cells)),
        posterior=Conditional(encoder, _Choice(number)),
    ).double()


def every_switch() -> Rows:
    """All rows that four switches can make."""
    return torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * len(SWITCHES[0]))


def evidence_of_three(x: Rows) -> PerRow:
    """log Σ_k P(k) Π_j P(x_j|k), nats, (row,)."""
    odds, switches = (torch.tensor(t, dtype=torch.float64) for t in (ODDS, SWITCHES))
    on = torch.sigmoid(switches)
    each = torch.where(x[:, None] > 0, on, 1 - on).prod(-1)
    return (each @ odds.softmax(0)).log()


# ---- weights of a known law --------------------------------------------------------------------


@final
class LogNormalWeights(LatentVariableModel):
    """q = p(z) = N(0, 1) and log p(x|z) = s z − s²/2, so that log w ~ N(−s²/2, s²).

    Then log p(x) = 0, ELBO = −s²/2 and χ² = e^{s²} − 1 for every row.
    """

    def __init__(self, s: float) -> None:
        super().__init__()
        self.s, self.num_latents = s, 1
        self.p_z = StandardNormal(1).double()

    def prior(self, given: Given = None) -> Distribution:
        return self.p_z(given)

    def likelihood(self, z: Latents, given: Given = None) -> Distribution:
        return _LogLikelihoodOf(z, self.s)

    def posterior(self, x: Rows, given: Given = None) -> Pushforward:
        zero = torch.zeros(len(x), 1, dtype=x.dtype)
        return DiagonalNormal(zero, torch.ones_like(zero))


@final
class _LogLikelihoodOf(Plain):
    """log p(x|z) = s z − s²/2, whatever x is."""

    def __init__(self, z: Tensor, s: float) -> None:
        self.z, self.s = z, s
        super().__init__(z.shape[:-1], torch.Size([1]), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.s * self.z[..., 0] - self.s**2 / 2
