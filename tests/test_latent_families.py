"""What every prior and every posterior promises, over the examples of ``instances``."""

import pytest
import torch

import unveil
from instances import POSTERIORS, PRIORS
from oracles import CAUGHT, SURELY_WRONG, normal, seeded, z_score
from unveil.distributions import draw, kl_per_unit
from unveil.families import Family
from unveil.priors.base import Prior

DTYPES = (torch.float32, torch.float64)

every_posterior = pytest.mark.parametrize("family", POSTERIORS, ids=lambda f: type(f).__name__)
every_prior = pytest.mark.parametrize("prior", PRIORS, ids=lambda p: type(p).__name__)


@every_prior
def test_draws_follow_the_prior(prior: Prior) -> None:
    p = prior.double()()
    z = draw(p, (40_000,), seeded(0))
    assert z.shape == (40_000, prior.num_latents)
    assert z_score(z, p.mean) < SURELY_WRONG
    assert z_score((z - p.mean).square(), p.stddev.square()) < SURELY_WRONG
    assert z_score((1.1 * z - p.mean).square(), p.stddev.square()) > CAUGHT


@every_posterior
@pytest.mark.parametrize("dtype", DTYPES)
def test_raw_zeros_are_the_standard_normal_exactly(family: Family, dtype: torch.dtype) -> None:
    q = family(torch.zeros(5, family.num_parameters, dtype=dtype))
    noise = normal(0, 2, 5, 3).to(dtype)
    assert torch.equal(q.push(noise), noise)
    p = unveil.StandardNormal(3).to(dtype)()
    assert torch.equal(q.log_prob(noise), p.log_prob(noise))
    assert torch.equal(kl_per_unit(q, p), torch.zeros(5, 3, dtype=dtype))


@every_posterior
def test_pushed_noise_is_weighed_by_the_posterior_s_own_density(family: Family) -> None:
    """log q(push(ε)) = log N(ε; 0, I) − log |∂z/∂ε|, the change of variables."""
    raw = normal(0, family.num_parameters)
    noise = normal(1, 3)
    z = family(raw).push(noise)
    jacobian = torch.autograd.functional.jacobian(lambda e: family(raw).push(e), noise)
    standard = unveil.StandardNormal(3).double()().log_prob(noise)
    torch.testing.assert_close(
        family(raw).log_prob(z), standard - torch.linalg.slogdet(jacobian).logabsdet
    )


@every_posterior
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [-1e4, 1e4])
def test_a_posterior_stays_finite_at_extremes(
    family: Family, dtype: torch.dtype, size: float
) -> None:
    raw = torch.full((2, family.num_parameters), size, dtype=dtype).requires_grad_()
    q = family(raw)
    value = q.log_prob(q.push(normal(0, 4, 2, 3).to(dtype))).sum()
    (gradient,) = torch.autograd.grad(value, [raw])
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()
