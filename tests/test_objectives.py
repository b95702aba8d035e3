"""Objectives: one honest number per row, and the words with which they refuse."""

import math

import pytest
import torch
from torch.distributions import kl_divergence

import unveil
from instances import OBJECTIVES
from oracles import (
    CAUGHT,
    NOW,
    SURELY_WRONG,
    nonlinear_vae,
    normal,
    z_score,
)
from unveil.objectives.base import Objective
from unveil.objectives.elbo import ELBO, SampledELBO, WeightedRate
from unveil.objectives.importance import IWAE

every_objective = pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)


@pytest.fixture
def vae() -> unveil.VAE:
    return nonlinear_vae(unveil.Gaussian(3)).double()


X = normal(100, 4, 3)


@every_objective
def test_an_objective_gives_one_finite_number_per_row(vae, objective: Objective) -> None:
    value = objective(vae, X, normal(0, objective.num_samples, 4, 2), NOW)
    assert value.shape == (4,)
    assert torch.isfinite(value).all()


@every_objective
def test_an_objective_of_a_row_does_not_know_the_other_rows(vae, objective: Objective) -> None:
    noise = normal(0, objective.num_samples, 4, 2)
    whole, part = objective(vae, X, noise, NOW), objective(vae, X[2:], noise[:, 2:], NOW)
    torch.testing.assert_close(whole[2:], part)


def test_the_elbo_is_minus_distortion_minus_rate(vae) -> None:
    noise = normal(0, 3, 4, 2)
    q = vae.posterior(X)
    distortion = -vae.likelihood(q.push(noise)).log_prob(X).mean(0)
    rate = kl_divergence(q, vae.prior())
    torch.testing.assert_close(ELBO(num_samples=3)(vae, X, noise, NOW), -(distortion + rate))


def test_beta_weighs_the_rate_alone(vae) -> None:
    noise = normal(0, 1, 4, 2)
    one, four = (ELBO(beta=b, warmup_steps=0)(vae, X, noise, NOW) for b in (1.0, 4.0))
    torch.testing.assert_close(one - four, 3 * kl_divergence(vae.posterior(X), vae.prior()))


def test_the_sampled_elbo_agrees_with_the_closed_form_in_expectation(vae) -> None:
    x, draws = X[:1].expand(40_000, -1), normal(0, 1, 40_000, 2)
    closed = ELBO()(vae, x, normal(1, 1, 40_000, 2), NOW)
    sampled = SampledELBO()(vae, x, draws, NOW)
    assert z_score(sampled - closed, 0.0) < SURELY_WRONG
    halved = SampledELBO(beta=0.5)(vae, x, draws, NOW)
    assert z_score(halved - closed, 0.0) > CAUGHT


def test_one_sample_of_iwae_is_the_sampled_elbo(vae) -> None:
    noise = normal(0, 1, 4, 2)
    torch.testing.assert_close(
        IWAE(num_samples=1)(vae, X, noise, NOW), SampledELBO()(vae, X, noise, NOW)
    )


def test_iwae_is_the_log_of_the_mean_weight(vae) -> None:
    noise = normal(0, 6, 4, 2)
    mean_weight = vae.particles(X, noise).log_weights.exp().mean(0)
    torch.testing.assert_close(IWAE(num_samples=6)(vae, X, noise, NOW), mean_weight.log())


# ---- β and its schedule ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [ELBO, SampledELBO])
def test_beta_rises_in_a_line_and_stays(kind: type[WeightedRate]) -> None:
    weights = kind(beta=2.0, warmup_steps=3).weight(torch.arange(6.0))
    torch.testing.assert_close(weights, torch.tensor([0.5, 1.0, 1.5, 2.0, 2.0, 2.0]))


def test_the_warm_up_ends_at_the_step_that_says_so() -> None:
    objective = ELBO(beta=2.0, warmup_steps=7)
    before, after = objective.weight(torch.tensor([6.0, 7.0])).tolist()
    assert objective.warmup == 7
    assert before < 2.0 == after


def test_without_warm_up_beta_is_there_from_the_first_step() -> None:
    assert ELBO(beta=2.0, warmup_steps=0).weight(NOW) == 2.0


def test_a_warm_up_left_open_is_a_tenth_of_the_run() -> None:
    assert ELBO(beta=2.0).scheduled(1000) == ELBO(beta=2.0, warmup_steps=100)


@every_objective
def test_scheduling_settles_what_is_open_and_nothing_else(objective: Objective) -> None:
    settled = objective.scheduled(1000)
    assert settled.scheduled(500) == settled
    assert settled.num_samples == objective.num_samples
    if objective.warmup:
        assert settled == objective


# ---- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [ELBO, SampledELBO, IWAE])
def test_less_than_one_draw_is_refused(kind: type[Objective]) -> None:
    sentence = r"^expected num_samples of at least 1, a whole number, got 0$"
    with pytest.raises(ValueError, match=sentence):
        kind(num_samples=0)


@pytest.mark.parametrize("beta", [-0.1, math.inf, math.nan])
def test_a_beta_that_is_no_weight_is_refused(beta: float) -> None:
    with pytest.raises(
        ValueError, match=rf"^expected beta to be at least 0 and finite, got {beta}$"
    ):
        ELBO(beta=beta)


def test_a_warm_up_below_zero_is_refused() -> None:
    sentence = r"^expected warmup_steps of at least 0, a whole number, got -1$"
    with pytest.raises(ValueError, match=sentence):
        SampledELBO(warmup_steps=-1)


def test_an_objective_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        ELBO().beta = 2.0  # type: ignore[misc]
