"""Gradients by draws against exact ones by quadrature.

One latent and one binary cell: z = m + σε, x|z ~ Bernoulli(sigmoid(a z + b)). The exact objective
is an integral over one or two standard normals, which 120 Gauss-Hermite nodes a side give to
machine precision, and autograd through the sum gives its exact gradient. The log-weights of the
oracle are written out here, away from the library's.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import unveil
from oracles import (
    CAUGHT,
    NOW,
    SURELY_WRONG,
    a_linear_gaussian,
    gauss_hermite,
    linear_vae,
    normal,
    z_score,
)
from unveil.distributions import DiagonalNormal, Pushforward
from unveil.families import Family, positive
from unveil.objectives.base import Objective
from unveil.objectives.sticking import log_prob_along_path

REPEATS = 200_000

# Encoder mean and raw spread, decoder slope and offset: two points away from any optimum.
POINTS = {
    "near the prior": torch.tensor([0.4, -0.3, 1.5, -0.5], dtype=torch.float64),
    "far from it": torch.tensor([-0.8, 0.5, -2.0, 1.0], dtype=torch.float64),
}
every_point = pytest.mark.parametrize("point", POINTS.values(), ids=POINTS)


# ---- exact -------------------------------------------------------------------------------------


def log_weight(p: Tensor, noise: Tensor) -> Tensor:
    """log N(z; 0, 1) + log Bernoulli(1; sigmoid(a z + b)) − log N(z; m, σ²) at z = m + σε."""
    mean, raw, slope, offset = p
    sd = F.softplus(raw + math.log(math.e - 1))
    z = mean + sd * noise
    log_ratio = -z.square() / 2 + noise.square() / 2 + torch.log(sd)
    return log_ratio + F.logsigmoid(slope * z + offset)


def exact_gradient(point: Tensor, num_samples: int, power: float = 1.0) -> Tensor:
    """∇ E (1/r) log (1/K) Σ_k w_k^r for K of 1 (the ELBO) or 2, r being ``power``."""
    nodes, weights = gauss_hermite(120)
    p = point.clone().requires_grad_()
    log_w = log_weight(p, nodes)
    if num_samples == 1:
        value = (weights * log_w).sum()
    else:
        powers = power * log_w
        pairs = (torch.logaddexp(powers[:, None], powers[None, :]) - math.log(2)) / power
        value = (weights[:, None] * weights[None, :] * pairs).sum()
    return torch.autograd.grad(value, p)[0]


@every_point
def test_the_oracle_s_gradient_is_that_of_finite_differences(point: Tensor) -> None:
    nodes, weights = gauss_hermite(120)
    for i in range(4):
        ahead, behind = point.clone(), point.clone()
        ahead[i] += 1e-5
        behind[i] -= 1e-5
        slope = (weights * (log_weight(ahead, nodes) - log_weight(behind, nodes))).sum() / 2e-5
        torch.testing.assert_close(slope, exact_gradient(point, 1)[i], rtol=1e-7, atol=1e-8)


# ---- by draws ----------------------------------------------------------------------------------


class PerRow(nn.Module):
    """A network whose outputs are parameters, one copy per row, so that rows do not mix."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(values.expand(REPEATS, -1).clone())


class Raw(PerRow):
    def forward(self, x: Tensor) -> Tensor:
        return self.values


class Line(PerRow):
    def forward(self, z: Tensor) -> Tensor:
        return self.values[:, :1] * z + self.values[:, 1:]


def gradients(objective: Objective, point: Tensor, family: Family | None = None) -> Tensor:
    """One independent gradient for each of many rows, (row, parameter)."""
    encoder, decoder = Raw(point[:2]), Line(point[2:])
    vae = unveil.VAE(
        prior=unveil.StandardNormal(1).double(),
        likelihood=unveil.Conditional(decoder, unveil.Bernoulli(1)),
        posterior=unveil.Conditional(encoder, family or unveil.DiagonalGaussian(1)),
    )
    x = torch.ones(REPEATS, 1, dtype=torch.float64)
    noise = normal(1, objective.num_samples, REPEATS, 1)
    value = objective(vae, x, noise, NOW).sum()
    return torch.cat(torch.autograd.grad(value, [encoder.values, decoder.values]), -1)


def worst(
    objective: Objective, point: Tensor, family: Family | None = None, power: float = 1.0
) -> float:
    exact = exact_gradient(point, objective.num_samples, power)
    return z_score(gradients(objective, point, family), exact)


@every_point
@pytest.mark.parametrize(
    "objective",
    [
        unveil.ELBO(),
        unveil.SampledELBO(),
        unveil.StickingTheLanding(),
        unveil.IWAE(num_samples=2),
        unveil.DReG(num_samples=2),
    ],
    ids=lambda o: type(o).__name__,
)
def test_the_gradient_is_unbiased(objective: Objective, point: Tensor) -> None:
    assert worst(objective, point) < SURELY_WRONG


@every_point
@pytest.mark.parametrize(
    "objective",
    [unveil.Renyi(alpha=0.5, num_samples=2), unveil.NegativeRenyi(alpha=-1.0, num_samples=2)],
    ids=repr,
)
def test_the_gradient_of_renyi_s_bound_is_unbiased(objective, point: Tensor) -> None:
    assert worst(objective, point, power=1 - objective.alpha) < SURELY_WRONG
    assert worst(objective, point) > CAUGHT  # IWAE's is another


@every_point
def test_dreg_and_iwae_have_one_gradient_in_expectation(point: Tensor) -> None:
    """And the decoder's is the same draw by draw."""
    iwae, dreg = (gradients(kind(num_samples=2), point) for kind in (unveil.IWAE, unveil.DReG))
    assert z_score((iwae - dreg)[:, :2], 0.0) < SURELY_WRONG
    torch.testing.assert_close(iwae[:, 2:], dreg[:, 2:])
    assert not torch.isclose(iwae[:, :2], dreg[:, :2]).any(0).all()


@pytest.mark.parametrize(
    ("quiet", "noisy"),
    [
        (unveil.StickingTheLanding(warmup_steps=0), unveil.SampledELBO(warmup_steps=0)),
        (unveil.DReG(num_samples=4), unveil.IWAE(num_samples=4)),
    ],
    ids=lambda o: type(o).__name__,
)
def test_at_the_exact_posterior_every_draw_s_gradient_is_zero(quiet, noisy) -> None:
    """Of the encoder's parameters, whose optimum it is; with the score it is so on average only."""
    model = a_linear_gaussian()
    vae, x = linear_vae(model, model.exact_posterior()), normal(2, 5, 6)
    encoder = list(vae.q_z_given_x.parameters())
    sizes = []
    for objective in (quiet, noisy):
        value = objective(vae, x, normal(3, objective.num_samples, 5, 3), NOW).sum()
        gradient = torch.autograd.grad(value, encoder)
        sizes.append(max(float(g.abs().max()) for g in gradient))
    assert sizes[0] < 1e-10 < 1e-2 < sizes[1]


# ---- mutants -----------------------------------------------------------------------------------


class _StoppedNormal(Pushforward):
    """z = stop_gradient(μ + σε): the reparameterisation forgotten."""

    def __init__(self, q: DiagonalNormal) -> None:
        self.q = q
        super().__init__(q.batch_shape, q.event_shape, validate_args=False)

    def push(self, noise: Tensor) -> Tensor:
        return self.q.push(noise).detach()

    def log_prob(self, value: Tensor) -> Tensor:
        return self.q.log_prob(value)


class Stopped(Family):
    event_shape, num_parameters = (1,), 2

    def forward(self, raw: Tensor) -> _StoppedNormal:
        return _StoppedNormal(unveil.DiagonalGaussian(1)(raw))


class Squared(Family):
    """σ² where σ belongs."""

    event_shape, num_parameters = (1,), 2

    def forward(self, raw: Tensor) -> DiagonalNormal:
        return DiagonalNormal(raw[..., :1], positive(raw[..., 1:]).square())


class MeanLogWeight(Objective):
    """Σ_k softmax(log w)_k log w_k, which is not log (1/K) Σ_k w_k (Pythae 2024 returns it)."""

    def __call__(self, model, x, noise, step, given=None) -> Tensor:
        log_weights = model.particles(x, noise, given).log_weights
        return (log_weights.softmax(0) * log_weights).sum(0)


@every_point
def test_a_draw_without_its_gradient_is_noticed(point: Tensor) -> None:
    assert worst(unveil.SampledELBO(), point, Stopped()) > CAUGHT
    assert worst(unveil.IWAE(num_samples=2), point, Stopped()) > CAUGHT


@every_point
def test_a_spread_squared_is_noticed(point: Tensor) -> None:
    assert worst(unveil.ELBO(), point, Squared()) > CAUGHT


@every_point
def test_a_softmax_weighted_mean_of_log_weights_is_noticed(point: Tensor) -> None:
    assert worst(MeanLogWeight(num_samples=2), point) > CAUGHT


class PathOfIWAE(Objective):
    """IWAE with the score left out, which has no mean of 0 under the logarithm of a mean."""

    def share(self, log_weights: Tensor) -> Tensor:
        return torch.ones_like(log_weights)

    def __call__(self, model, x, noise, step, given=None) -> Tensor:
        q = model.posterior(x)
        z = q.push(noise)
        stopped = z.detach()
        log_weights = (model.log_joint(x, stopped) - q.log_prob(stopped)).detach()
        z = stopped + self.share(log_weights)[..., None] * (z - stopped)
        log_weights = model.log_joint(x, z) - log_prob_along_path(q, z)
        return log_weights.logsumexp(0) - math.log(self.num_samples)


class CubedDReG(PathOfIWAE):
    """w̃³ where w̃² belongs."""

    def share(self, log_weights: Tensor) -> Tensor:
        return log_weights.softmax(0).square()


@every_point
def test_a_path_with_the_wrong_power_of_the_weights_is_noticed(point: Tensor) -> None:
    assert worst(PathOfIWAE(num_samples=2), point) > CAUGHT  # w̃ for w̃²
    assert worst(CubedDReG(num_samples=2), point) > CAUGHT
