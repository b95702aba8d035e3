"""What every prior and every posterior promises, over the examples of ``instances``."""

from functools import partial

import pytest
import torch

import unveil
from instances import ONE_LEVEL_POSTERIORS, POSTERIORS, PRIORS
from oracles import CAUGHT, SURELY_WRONG, normal, seeded, z_score
from unveil.distributions import DiagonalNormal, FullNormal, draw
from unveil.families import Family
from unveil.priors.base import Prior

DTYPES = (torch.float32, torch.float64)

on_one_level = pytest.mark.parametrize(
    "family", ONE_LEVEL_POSTERIORS, ids=lambda f: type(f).__name__
)
every_posterior = pytest.mark.parametrize("family", POSTERIORS, ids=lambda f: type(f).__name__)
every_prior = pytest.mark.parametrize("prior", PRIORS, ids=lambda p: type(p).__name__)


@every_prior
def test_draws_follow_the_prior(prior: Prior) -> None:
    """E_p h(z) by p's own draws is E_r h(z) p(z)/r(z) by those of a wider normal r, for h = 1, z
    and z²; a mutant that draws a quarter too far out is noticed by the last."""
    p = prior.double()()
    z = draw(p, (20_000,), seeded(0))
    assert z.shape == (20_000, prior.num_latents)
    r = DiagonalNormal(z.mean(0), 1.5 * z.std(0))
    elsewhere = draw(r, (20_000,), seeded(1))
    weights = (p.log_prob(elsewhere) - r.log_prob(elsewhere)).exp()[:, None]
    assert z_score(weights, 1.0) < SURELY_WRONG
    assert z_score(z - weights * elsewhere, 0.0) < SURELY_WRONG
    square, squares = (z - r.loc).square(), weights * (elsewhere - r.loc).square()
    assert z_score(square - squares, 0.0) < SURELY_WRONG
    assert z_score(1.25**2 * square - squares, 0.0) > CAUGHT


@on_one_level
@pytest.mark.parametrize("dtype", DTYPES)
def test_raw_zeros_are_the_standard_normal(family: Family, dtype: torch.dtype) -> None:
    """To the last bit for a normal posterior; a flow of strength 0 still counts its splines' bins,
    and rounds."""
    q = family.to(dtype)(torch.zeros(5, family.num_parameters, dtype=dtype))
    noise = normal(0, 2, 5, 3).to(dtype)
    p = unveil.StandardNormal(3).to(dtype)()
    rounding = 0.0 if isinstance(q, DiagonalNormal | FullNormal) else 20 * torch.finfo(dtype).eps
    near = partial(torch.testing.assert_close, rtol=rounding, atol=rounding)
    z = q.push(noise)
    near(z, noise)
    near(q.log_prob(z), p.log_prob(noise))
    near(q.kl(p, z), torch.zeros(5, dtype=dtype))


@every_posterior
def test_pushed_noise_is_weighed_by_the_posterior_s_own_density(family: Family) -> None:
    """log q(push(ε)) = log N(ε; 0, I) − log |∂z/∂ε|, the change of variables."""
    family, raw = family.double(), normal(0, 1, family.num_parameters)
    noise = normal(1, 1, 1, 3)
    z = family(raw).push(noise)
    jacobian = torch.autograd.functional.jacobian(lambda e: family(raw).push(e), noise)
    standard = unveil.StandardNormal(3).double()().log_prob(noise)
    torch.testing.assert_close(
        family(raw).log_prob(z), standard - torch.linalg.slogdet(jacobian.view(3, 3)).logabsdet
    )


@every_posterior
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [-1e4, 1e4])
def test_a_posterior_stays_finite_at_extremes(
    family: Family, dtype: torch.dtype, size: float
) -> None:
    raw = torch.full((2, family.num_parameters), size, dtype=dtype).requires_grad_()
    q = family.to(dtype)(raw)
    value = q.log_prob(q.push(normal(0, 4, 2, 3).to(dtype))).sum()
    (gradient,) = torch.autograd.grad(value, [raw])
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()


@every_posterior
def test_what_was_just_pushed_is_weighed_like_any_other_value(family: Family) -> None:
    """The density and its total derivative, with the noise at hand and without."""
    family = family.double()
    raw, noise = normal(2, 4, family.num_parameters).requires_grad_(), normal(3, 5, 4, 3)
    q = family(raw)
    z = q.push(noise)
    weighed, again = q.log_prob(z), family(raw).log_prob(z)
    torch.testing.assert_close(weighed, again)
    by_noise, by_value = (
        torch.autograd.grad(log_q.sum(), [raw], retain_graph=True)[0] for log_q in (weighed, again)
    )
    torch.testing.assert_close(by_noise, by_value)


@every_posterior
def test_a_value_pushed_without_gradient_is_a_constant_to_the_density(family: Family) -> None:
    family = family.double()
    raw, noise = normal(2, 4, family.num_parameters).requires_grad_(), normal(3, 5, 4, 3)
    q = family(raw)
    with torch.no_grad():
        z = q.push(noise)
        unmoved = q.log_prob(z)
    (of_it,) = torch.autograd.grad(q.log_prob(z).sum(), [raw])
    (of_other,) = torch.autograd.grad(family(raw).log_prob(z.clone()).sum(), [raw])
    torch.testing.assert_close(unmoved, q.log_prob(z).detach())
    torch.testing.assert_close(of_it, of_other)
    assert (of_it != 0).any()


@on_one_level
def test_networks_in_half_precision_leave_the_posterior_in_full(family: Family) -> None:
    family = family.float()
    raw, noise = normal(4, 4, family.num_parameters).float(), normal(5, 2, 4, 3).float()
    z, log_q = family(raw).push(noise), family(raw).log_prob(noise)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(family(raw).push(noise), z)
        assert torch.equal(family(raw).log_prob(noise), log_q)


@every_posterior
def test_draws_are_the_generator_s_and_have_the_posterior_s_moments(family: Family) -> None:
    q = family.double()(normal(6, 1, family.num_parameters).requires_grad_())
    z = draw(q, (10_000,), seeded(7))
    assert not z.requires_grad
    assert torch.equal(z, draw(q, (10_000,), seeded(7)))
    mean, sd = q.moments(lambda n: normal(8, 50 * n, 1, 3))
    standard = (z - mean) / sd
    # A mean over draws of its own has an error too.
    assert z_score(standard[:, 0], 0.0) < 2 * SURELY_WRONG
    assert z_score(standard[:, 0].square(), 1.0) < 2 * SURELY_WRONG
    assert z_score(1.5 * standard[:, 0].square(), 1.0) > CAUGHT
