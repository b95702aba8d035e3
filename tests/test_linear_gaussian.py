"""The model whose every answer is known, and the VAE that is built, or trained, to be it."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

import unveil
from oracles import (
    CAUGHT,
    NOW,
    SURELY_WRONG,
    a_linear_gaussian,
    a_poor_posterior,
    linear_vae,
    normal,
    seeded,
    z_score,
)
from unveil.distributions import draw
from unveil.evidence.linear_gaussian import GaussianPosterior, LinearGaussian, fit_ppca
from unveil.likelihoods.scale import Scale
from unveil.units import active_units, posterior_moments

MODEL = a_linear_gaussian()
X = 2 * normal(20, 5, 6)
EYE = torch.eye(6, dtype=torch.float64)
POSTERIORS = {
    "exact": MODEL.exact_posterior(),
    "mean-field": MODEL.mean_field_posterior(),
    "poor": a_poor_posterior(MODEL),
}
every_posterior = pytest.mark.parametrize("q", POSTERIORS.values(), ids=POSTERIORS)


# ---- the closed forms --------------------------------------------------------------------------


def test_the_evidence_is_that_of_the_marginal_normal() -> None:
    covariance = MODEL.weight @ MODEL.weight.T + MODEL.noise_variance * EYE
    brute_force = MultivariateNormal(MODEL.mean, covariance).log_prob(X)
    torch.testing.assert_close(MODEL.log_evidence(X), brute_force, rtol=1e-12, atol=1e-12)


@every_posterior
def test_evidence_is_elbo_plus_kl_to_the_exact_posterior(q: GaussianPosterior) -> None:
    sum_ = MODEL.elbo(X, q) + MODEL.kl_to_exact(X, q)
    torch.testing.assert_close(MODEL.log_evidence(X), sum_, rtol=1e-12, atol=1e-11)


def test_the_mean_field_gap_is_half_the_log_determinants_difference() -> None:
    m = MODEL.weight.T @ MODEL.weight + MODEL.noise_variance * torch.eye(3).double()
    gap = 0.5 * (m.diagonal().log().sum() - torch.logdet(m))
    measured = MODEL.log_evidence(X) - MODEL.elbo(X, MODEL.mean_field_posterior())
    assert gap > 0.1
    torch.testing.assert_close(measured, gap.expand(5), rtol=1e-10, atol=1e-10)


def test_no_other_variances_are_better_than_the_mean_field_ones() -> None:
    best = MODEL.mean_field_posterior()
    at_best = MODEL.elbo(X, best)
    for factor in (0.9, 1.1):
        other = GaussianPosterior(gain=best.gain, covariance=factor * best.covariance)
        assert (MODEL.elbo(X, other) < at_best).all()


def test_ppca_maximises_the_likelihood_in_closed_form() -> None:
    x = normal(30, 200, 5) @ normal(31, 5, 5)
    best = fit_ppca(x, 2)
    eigenvalues = torch.linalg.eigvalsh(torch.cov(x.T, correction=0)).flip(0)
    noise = eigenvalues[2:].mean()
    logs = eigenvalues[:2].log().sum() + 3 * noise.log() + 5 * math.log(2 * math.pi) + 5
    torch.testing.assert_close(best.log_evidence(x).mean(), -0.5 * logs)
    for factor in (0.98, 1.02):
        other = LinearGaussian(
            weight=factor * best.weight, mean=best.mean, noise_variance=best.noise_variance
        )
        assert other.log_evidence(x).mean() < best.log_evidence(x).mean()


# ---- the same model as a VAE -------------------------------------------------------------------


def test_with_the_exact_posterior_every_weight_is_the_evidence() -> None:
    vae = linear_vae(MODEL, MODEL.exact_posterior())
    noise = 3 * normal(21, 50, 5, 3)
    expected = MODEL.log_evidence(X)
    close = {"rtol": 0.0, "atol": 1e-10}
    weights = vae.particles(X, noise).log_weights
    torch.testing.assert_close(weights, expected.expand(50, -1), **close)
    for objective in (unveil.SampledELBO(num_samples=50), unveil.IWAE(num_samples=50)):
        torch.testing.assert_close(objective(vae, X, noise, NOW), expected, **close)


@pytest.mark.parametrize("name", ["mean-field", "factorised and poor"])
def test_the_elbo_is_the_closed_form_in_expectation(name: str) -> None:
    q = MODEL.mean_field_posterior()
    if name != "mean-field":
        q = GaussianPosterior(gain=0.5 * q.gain, covariance=4 * q.covariance)
    vae, x, repeats = linear_vae(MODEL, q), X[:1], 50_000
    rows, noise = x.expand(repeats, -1), normal(22, 1, repeats, 3)
    expected = MODEL.elbo(x, q)[0]
    assert z_score(unveil.ELBO()(vae, rows, noise, NOW), expected) < SURELY_WRONG
    assert z_score(unveil.SampledELBO()(vae, rows, noise, NOW), expected) < SURELY_WRONG
    halved = unveil.BetaELBO(beta=0.5, warmup_steps=0)  # the KL counted by half
    assert z_score(halved(vae, rows, noise, NOW), expected) > CAUGHT


def test_the_bounds_rise_with_the_number_of_draws_towards_the_evidence() -> None:
    """ELBO < IWAE₂ < IWAE₈ < log p(x), paired: the same eight draws make all three."""
    vae, repeats = linear_vae(MODEL, MODEL.mean_field_posterior()), 5000
    log_w = vae.particles(X[:1].expand(repeats, -1), normal(23, 8, repeats, 3)).log_weights
    elbo = log_w.mean(0)
    two = (log_w.unflatten(0, (4, 2)).logsumexp(1) - math.log(2)).mean(0)
    eight = log_w.logsumexp(0) - math.log(8)
    evidence = MODEL.log_evidence(X[:1])
    rises = [two - elbo, eight - two, evidence - eight]
    for rise in rises:
        assert rise.mean() > SURELY_WRONG * rise.std() / math.sqrt(repeats)
    without_log_k = evidence - log_w.logsumexp(0)
    assert without_log_k.mean() < -CAUGHT * without_log_k.std() / math.sqrt(repeats)


def test_what_the_model_draws_has_the_marginal_s_mean_and_covariance() -> None:
    vae = linear_vae(MODEL, MODEL.exact_posterior())
    z = draw(vae.prior(), (60_000,), seeded(0))
    x = draw(vae.likelihood(z), (), seeded(1))
    covariance = MODEL.weight @ MODEL.weight.T + MODEL.noise_variance * EYE
    centred = x - MODEL.mean
    assert z_score(x, MODEL.mean) < SURELY_WRONG
    products = centred[:, :, None] * centred[:, None, :]
    assert z_score(products, covariance) < SURELY_WRONG
    assert z_score(products, covariance - MODEL.noise_variance * EYE) > CAUGHT


# ---- trained to it -----------------------------------------------------------------------------


class SharedScale(Scale):
    """One learned spread for all cells: the noise of probabilistic PCA."""

    outputs_per_cell = 0

    def __init__(self) -> None:
        super().__init__()
        self.log_sd = nn.Parameter(torch.zeros(()))

    def forward(self, predicted: Sequence[Tensor], floor: Tensor) -> Tensor:
        return self.log_sd.exp()


def data_with(eigenvalues: Sequence[float], rows: int = 500) -> Tensor:
    """Rows whose sample covariance has exactly these eigenvalues, in a turned basis; float64."""
    cells = len(eigenvalues)
    white = normal(40, rows, cells)
    white = white - white.mean(0)
    root = torch.linalg.cholesky(white.T @ white / rows)
    white = white @ torch.linalg.inv(root).T
    basis = torch.linalg.qr(normal(41, cells, cells)).Q
    return white * torch.tensor(eigenvalues, dtype=torch.float64).sqrt() @ basis.T


def train_linear(x: Tensor, latents: int, scale: Scale, beta: float, steps: int) -> unveil.VAE:
    """Full batches, a decaying step, many draws: near the optimum in seconds."""
    cells = x.shape[1]
    encoder, decoder = nn.Linear(cells, 2 * latents), nn.Linear(latents, cells)
    generator = seeded(6)
    with torch.no_grad():
        for p in (*encoder.parameters(), *decoder.parameters()):
            p.copy_(0.1 * torch.randn(p.shape, generator=generator))
    vae = unveil.VAE(
        prior=unveil.StandardNormal(latents),
        likelihood=unveil.Conditional(decoder, unveil.Gaussian(cells, scale)),
        posterior=unveil.Conditional(encoder, unveil.DiagonalGaussian(latents)),
    )
    unveil.train(
        vae,
        x.float(),
        objective=unveil.BetaELBO(num_samples=4, beta=beta, warmup_steps=0),
        recipe=unveil.Recipe(
            batch_size=len(x), learning_rate=0.05, learning_rate_warmup=1, weight_decay=0.0
        ),
        epochs=steps,
    )
    return vae


def test_a_trained_linear_vae_reaches_the_optimum_of_ppca() -> None:
    """Within 0.01 nats of the best likelihood, and with no gap left (Lucas et al. 2019)."""
    x = data_with([6.0, 3.0, 1.5, 0.4, 0.3, 0.2])
    vae = train_linear(x, 2, SharedScale(), beta=1.0, steps=800)
    decoder = vae.p_x_given_z.network
    learned = LinearGaussian(
        weight=decoder.weight.detach().double(),
        mean=decoder.bias.detach().double(),
        noise_variance=float(vae.p_x_given_z.family.scale.log_sd.detach().exp()) ** 2,
    )
    optimum = float(fit_ppca(x, 2).log_evidence(x).mean())
    reached = float(learned.log_evidence(x).mean())
    assert optimum - 0.01 < reached <= optimum
    m = learned.weight.T @ learned.weight + learned.noise_variance * torch.eye(2)
    assert 0.5 * (m.diagonal().log().sum() - torch.logdet(m)) < 0.01
    elbo = -exact_loss(vae, x)
    assert abs(optimum - elbo) < 0.02


def exact_loss(vae: unveil.VAE, x: Tensor) -> float:
    """Distortion plus rate in closed form: E over q of a quadratic, and the KL of two normals."""
    mean, sd = (t.double() for t in posterior_moments(vae, x.float()))
    decoder = vae.p_x_given_z.network
    weight, bias = decoder.weight.detach().double(), decoder.bias.detach().double()
    variance = float(vae.p_x_given_z.family.scale.log_sd.detach().exp()) ** 2
    misfit = (x - mean @ weight.T - bias).square().sum(-1)
    spread = (sd.square() * weight.square().sum(0)).sum(-1)
    cells = x.shape[1]
    distortion = 0.5 * cells * math.log(2 * math.pi * variance) + (misfit + spread) / (2 * variance)
    rate = 0.5 * (sd.square() + mean.square() - 1 - 2 * sd.log()).sum(-1)
    return float((distortion + rate).mean())


@pytest.mark.parametrize(("beta", "expected"), [(1.0, 3), (6.0, 2)])
def test_a_latent_is_active_where_its_eigenvalue_exceeds_beta_times_the_noise(
    beta: float, expected: int
) -> None:
    """With s² = 0.5: ‖w_i‖² = max(λ_i − βs², 0), and Var_x E[z_i|x] = max(1 − βs²/λ_i, 0)."""
    eigenvalues = [9.0, 6.0, 2.0, 0.1, 0.1, 0.1]
    vae = train_linear(
        data_with(eigenvalues), 4, unveil.FixedScale(math.sqrt(0.5)), beta, steps=800
    )
    mean, _ = posterior_moments(vae, data_with(eigenvalues).float())
    statistic = mean.double().var(0, correction=0).sort(descending=True).values
    used = [max(1 - beta * 0.5 / value, 0.0) for value in eigenvalues[:4]]
    assert sum(value > 0 for value in used) == expected
    assert int(active_units(mean).sum()) == expected
    torch.testing.assert_close(statistic, torch.tensor(used).double(), atol=0.02, rtol=0.0)
