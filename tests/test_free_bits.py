"""Free bits: max(λ, KL) row by row or over the batch, and never more than the ELBO."""

import pytest
import torch

import unveil
from oracles import (
    NOW,
    a_linear_gaussian,
    a_poor_posterior,
    linear_vae,
    nonlinear_vae,
    normal,
)
from unveil.distributions import kl_per_unit

X = normal(100, 6, 3)
NOISE = normal(0, 2, 6, 2)
ELBO = unveil.ELBO(num_samples=2, warmup_steps=0)


@pytest.fixture
def vae() -> unveil.VAE:
    return nonlinear_vae(unveil.Gaussian(3)).double().requires_grad_(False)


def parts(vae: unveil.VAE) -> tuple[torch.Tensor, torch.Tensor, float]:
    """log p(x|z), the rates, and an allowance between their means over the batch."""
    q = vae.posterior(X)
    rate = kl_per_unit(q, vae.prior())
    log_likelihood = vae.likelihood(q.push(NOISE)).log_prob(X).mean(0)
    return log_likelihood, rate, float(rate.mean(0).mean())


def test_per_row_every_rate_is_at_least_its_allowance(vae) -> None:
    log_likelihood, rate, free = parts(vae)
    value = unveil.FreeBitsPerRow(free_nats=free, num_samples=2)(vae, X, NOISE, NOW)
    torch.testing.assert_close(value, log_likelihood - rate.clamp_min(free).sum(-1))
    assert 0 < (rate < free).sum() < rate.numel()


def test_per_batch_every_mean_rate_is_at_least_its_allowance(vae) -> None:
    log_likelihood, rate, free = parts(vae)
    value = unveil.FreeBitsPerBatch(free_nats=free, num_samples=2)(vae, X, NOISE, NOW)
    mean = rate.mean(0)
    torch.testing.assert_close(value.mean(), log_likelihood.mean() - mean.clamp_min(free).sum(-1))
    assert (mean < free).sum() == 1


def test_the_mean_of_maxima_is_the_larger_charge(vae) -> None:
    _, rate, _ = parts(vae)
    free = float(rate.median(0).values.max())  # some rows above it, some below
    per_row, per_batch = (
        kind(free_nats=free, num_samples=2)(vae, X, NOISE, NOW).mean()
        for kind in (unveil.FreeBitsPerRow, unveil.FreeBitsPerBatch)
    )
    assert per_row < per_batch


@pytest.mark.parametrize("kind", [unveil.FreeBitsPerRow, unveil.FreeBitsPerBatch])
def test_an_allowance_only_takes_from_the_elbo(vae, kind) -> None:
    elbo = ELBO(vae, X, NOISE, NOW)
    torch.testing.assert_close(kind(free_nats=0.0, num_samples=2)(vae, X, NOISE, NOW), elbo)
    assert (kind(free_nats=5.0, num_samples=2)(vae, X, NOISE, NOW) < elbo).all()


@pytest.mark.parametrize("kind", [unveil.FreeBitsPerRow, unveil.FreeBitsPerBatch])
def test_a_rate_within_its_allowance_pulls_at_nothing(kind) -> None:
    rate = normal(3, 5, 2).exp().requires_grad_()
    for allowance, pull in ((100.0, 0.0), (1e-6, 1.0)):
        charge = rate + kind(free_nats=1.0).unspent(rate, allowance)
        (gradient,) = torch.autograd.grad(charge.sum(), rate)
        torch.testing.assert_close(gradient, torch.full_like(rate, pull))


def test_a_rate_that_does_not_split_has_the_allowance_of_all_its_latents() -> None:
    model = a_linear_gaussian()
    vae = linear_vae(model, a_poor_posterior(model))
    x, noise = normal(1, 4, 6), normal(2, 8, 4, 3)
    q = vae.posterior(x)
    z = q.push(noise)
    log_likelihood = vae.likelihood(z).log_prob(x).mean(0)
    value = unveil.FreeBitsPerRow(free_nats=7.0, num_samples=8)(vae, x, noise, NOW)
    rate = q.kl(vae.prior(), z)
    assert (rate < 3 * 7.0).any()
    torch.testing.assert_close(value, log_likelihood - rate.clamp_min(3 * 7.0))


@pytest.mark.parametrize("kind", [unveil.FreeBitsPerRow, unveil.FreeBitsPerBatch])
def test_an_allowance_below_zero_is_refused(kind) -> None:
    with pytest.raises(ValueError, match=r"^expected free_nats to be at least 0 and finite"):
        kind(free_nats=-1.0)
