"""Variational inference of any log-density, against posteriors and constants that are known."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

import unveil
from oracles import CAUGHT, SURELY_WRONG, normal, seeded, z_score
from posteriordb import FARTHEST_LOG_SD, FARTHEST_MEAN, POSTERIORS, distances, target
from unveil import tiles
from unveil.distributions import draw
from unveil.evidence.importance import importance
from unveil.inference import LARGEST_KHAT
from unveil.log_density import ONE_ROW, LogDensity, approximate

MEAN = torch.tensor([1.0, -20.0, 3.0]).double()
COVARIANCE = torch.tensor([[4.0, 0.9, 0.0], [0.9, 0.25, 0.1], [0.0, 0.1, 9.0]]).double()
LOG_Z = 2.5
# Moves that go far, and few of them.
FEW = {"num_leapfrog": 10, "num_temperatures": 10, "warm_up": 30}


@pytest.fixture(autouse=True)
def one_row_to_a_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log-density has one row, and its copies beside it would only cost time."""
    monkeypatch.setattr(tiles, "ROWS_PER_TILE", 1)


def gaussian(z: Tensor) -> Tensor:
    return MultivariateNormal(MEAN, COVARIANCE).log_prob(z) + LOG_Z


def banana(z: Tensor) -> Tensor:
    """z₀ ~ N(0, 1), z₁ ~ N(z₀², ¼), times e^2.5."""
    log_p = -0.5 * (z[..., 0].square() + 4 * (z[..., 1] - z[..., 0].square()).square())
    return log_p - math.log(2 * math.pi * 0.5) + LOG_Z


# ---- reference posteriors ----------------------------------------------------------------------


@pytest.mark.parametrize("name", POSTERIORS)
def test_a_full_gaussian_is_near_posteriordb_s_reference(name: str) -> None:
    posterior = target(name)
    inference = approximate(posterior.log_density, posterior.dim, steps=300)
    draws = posterior.parameters(inference.draw(4000)[:, 0])
    means, log_sds = distances(draws, posterior.reference)
    assert means.max() < FARTHEST_MEAN
    assert log_sds.max() < FARTHEST_LOG_SD


@pytest.mark.parametrize("name", POSTERIORS)
def test_a_mean_field_gaussian_is_near_the_reference_or_says_that_it_is_not(name: str) -> None:
    posterior = target(name)
    inference = approximate(
        posterior.log_density, posterior.dim, unveil.DiagonalGaussian(posterior.dim), steps=300
    )
    draws = posterior.parameters(inference.draw(4000)[:, 0])
    means, log_sds = distances(draws, posterior.reference)
    near = bool(means.max() < FARTHEST_MEAN and log_sds.max() < FARTHEST_LOG_SD)
    assert near or float(inference.khat) > LARGEST_KHAT
    assert near == (name in {"eight_schools_noncentered", "gp_regr"})


def test_hmc_corrects_a_mean_field_gaussian() -> None:
    posterior = target("kidscore_momiq")
    mean_field = unveil.DiagonalGaussian(posterior.dim)
    inference = approximate(posterior.log_density, posterior.dim, mean_field, steps=200)
    hmc = inference.draw_hmc(1200, num_chains=24, thin=1, **FEW)
    means, log_sds = distances(posterior.parameters(hmc.z[:, 0]), posterior.reference)
    assert means.max() < FARTHEST_MEAN / 2
    assert log_sds.max() < FARTHEST_LOG_SD / 2
    assert hmc.rhat.max() < 1.15


# ---- constants that are known ------------------------------------------------------------------


def test_the_family_that_holds_the_density_finds_it_and_its_constant() -> None:
    inference = approximate(gaussian, 3, steps=600)
    torch.testing.assert_close(inference.means[0], MEAN, atol=0.02, rtol=0.0)
    torch.testing.assert_close(inference.sds[0], COVARIANCE.diagonal().sqrt(), atol=0.0, rtol=0.02)
    evidence = inference.evidence(500, num_temperatures=5)
    assert abs(float(evidence.elbo) - LOG_Z) < 0.01
    assert abs(float(evidence.iwae) - LOG_Z) < 0.01
    assert LOG_Z - 0.05 < float(evidence.certified) < LOG_Z + 1e-3
    assert float(inference.khat) < LARGEST_KHAT


def test_the_bounds_of_a_banana_s_constant_hold_where_no_family_does() -> None:
    inference = approximate(banana, 2, steps=300)
    evidence = inference.evidence(2000, num_temperatures=20)
    assert float(evidence.elbo) < LOG_Z - 0.1
    assert float(evidence.certified) < LOG_Z
    assert float(evidence.upper) > LOG_Z - 0.1
    assert abs(float(evidence.annealed) - LOG_Z) < 0.2


def test_a_flow_bends_into_a_banana() -> None:
    flow = unveil.FlowPosterior(2, transforms=2, width=16, generator=seeded(1))
    before = [p.clone() for p in flow.parameters()]
    bent = approximate(banana, 2, flow, steps=150, learning_rate=0.05)
    straight = approximate(banana, 2, steps=200)
    elbos = [importance(i.model, ONE_ROW, num_samples=500).elbo for i in (bent, straight)]
    assert LOG_Z - 0.4 < float(elbos[0]) < LOG_Z + 0.05
    assert elbos[0] > elbos[1] + 0.1
    assert all(
        torch.equal(p.double(), b.double()) for p, b in zip(flow.parameters(), before, strict=True)
    )


def test_the_same_seed_gives_the_same_draws_and_moves_no_global_state() -> None:
    state = torch.get_rng_state()
    a, b, other = (approximate(banana, 2, steps=5, seed=s).draw(3) for s in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, other)
    assert torch.equal(torch.get_rng_state(), state)


# ---- the one row -------------------------------------------------------------------------------


def test_copies_of_the_row_are_asked_once_and_have_the_gradient_of_each() -> None:
    asked = []

    def counted(z: Tensor) -> Tensor:
        asked.append(z.shape)
        return banana(z)

    model = approximate(counted, 2, steps=1).model
    z = normal(3, 4, 1, 2)
    (expected,) = torch.autograd.grad(banana(one := z.clone().requires_grad_()).sum(), [one])
    asked.clear()
    copies = z.expand(4, 8, 2).clone().requires_grad_()
    rows = ONE_ROW.expand(8, 1)
    value = model.log_joint(rows, copies)
    (gradient,) = torch.autograd.grad(value.sum(), [copies])
    assert asked == [(4, 1, 2)]
    torch.testing.assert_close(value, banana(z).expand(4, 8))
    torch.testing.assert_close(gradient, expected.expand(4, 8, 2))
    different = normal(4, 4, 8, 2)
    torch.testing.assert_close(model.log_joint(rows, different), banana(different))


def test_the_second_start_is_q_twice_as_wide() -> None:
    inference = approximate(gaussian, 3, steps=300)
    assert isinstance(inference.model, LogDensity)
    prior = inference.model.prior()
    z = draw(prior, (20_000,), seeded(5))
    squares = (z - inference.means[0]).square()
    assert z_score(z, inference.means[0]) < SURELY_WRONG
    assert z_score(squares, 4 * inference.sds[0].square()) < SURELY_WRONG
    assert z_score(squares, inference.sds[0].square()) > CAUGHT
    wide = MultivariateNormal(inference.means[0], 4 * COVARIANCE)
    assert (prior.log_prob(z[:100]) - wide.log_prob(z[:100])).abs().max() < 0.5


# ---- what it refuses ---------------------------------------------------------------------------


def through_numpy(z: Tensor) -> Tensor:
    return torch.from_numpy(-np.square(z.numpy()).sum(-1))


@pytest.mark.parametrize(
    ("log_density", "error", "words"),
    [
        (lambda z: -z.detach().square().sum(-1), ValueError, "torch can differentiate"),
        (through_numpy, ValueError, "and no numpy"),
        (lambda z: -z.square(), ValueError, r"expected one number .* got \(8, 1, 2\)"),
        (lambda z: -z.square().sum(), ValueError, r"expected one number .* got \(\)"),
        (lambda z: 1.0, ValueError, r"expected one number .* got float"),
        (lambda z: -z.to(torch.complex64).square().sum(-1), ValueError, "is a real number, got"),
        ({}.__getitem__, ValueError, "got an error for z of shape"),
        (lambda z: (-z.square().sum(-1)).sqrt(), ArithmeticError, "finite or −∞, got nan"),
        (lambda z: z.square().sum(-1) / 0, ArithmeticError, "finite or −∞, got inf"),
        (lambda z: z.sum(-1) * 0 - math.inf, ArithmeticError, "−∞ at every point"),
    ],
)
def test_what_is_no_log_density_is_refused(
    log_density: Callable[[Tensor], Tensor], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        approximate(log_density, 2)


@pytest.mark.parametrize("log_density", [lambda z: -z.abs().sum(-1), lambda z: 0 * z.sum(-1)])
def test_a_density_without_curvature_at_its_mode_is_approximated_all_the_same(
    log_density: Callable[[Tensor], Tensor],
) -> None:
    assert approximate(log_density, 2, steps=5).means.shape == (1, 2)


def test_a_family_over_other_latents_is_refused() -> None:
    with pytest.raises(ValueError, match=r"over 2 latents, got one over \(3,\)"):
        approximate(banana, 2, unveil.FullGaussian(3))


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan")])
def test_a_learning_rate_that_climbs_nowhere_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="expected a learning rate above 0"):
        approximate(banana, 2, learning_rate=rate)


def test_a_density_of_another_number_of_latents_is_refused_in_a_sentence() -> None:
    def of_three(z: Tensor) -> Tensor:
        a, b, c = z.unbind(-1)
        return -(a**2 + b**2 + c**2)

    with pytest.raises(ValueError, match="got an error for z of shape"):
        approximate(of_three, 2)
