"""Rényi's bounds against a closed form, quadrature, and the two bounds at their ends."""

import math

import pytest
import torch

import unveil
from oracles import CAUGHT, NOW, SURELY_WRONG, gauss_hermite, normal, z_score
from unveil.check.models import LogNormalWeights
from unveil.objectives.base import Objective

S = 1.2  # log w ~ N(−S²/2, S²)
WEIGHTS = LogNormalWeights(S)
ALPHAS = (0.0, 0.5, 2.0)


def make(alpha: float, num_samples: int) -> Objective:
    kind = unveil.Renyi if alpha >= 0 else unveil.NegativeRenyi
    return kind(alpha=alpha, num_samples=num_samples)


def values(objective: Objective, repeats: int) -> torch.Tensor:
    x = torch.zeros(repeats, 1, dtype=torch.float64)
    return objective(WEIGHTS, x, normal(1, objective.num_samples, repeats, 1), NOW)


@pytest.mark.parametrize("alpha", [*ALPHAS, -0.5])
def test_the_mean_over_two_draws_is_that_of_quadrature(alpha: float) -> None:
    nodes, weights = gauss_hermite(80)
    log_w = S * nodes - S**2 / 2
    r = 1 - alpha
    pairs = (torch.logaddexp(r * log_w[:, None], r * log_w) - math.log(2)) / r
    expected = float((weights[:, None] * weights * pairs).sum())
    assert z_score(values(make(alpha, 2), 50_000), expected) < SURELY_WRONG
    assert z_score(values(make(alpha + 1.7, 2), 50_000), expected) > CAUGHT


@pytest.mark.parametrize("alpha", [0.5, 2.0, -0.5])
def test_many_draws_reach_the_exact_bound(alpha: float) -> None:
    """E w^r = exp(−r S²/2 + r² S²/2), so that L_α = −α S²/2: below log p(x) = 0 iff α > 0."""
    assert values(make(alpha, 50_000), 20).mean() == pytest.approx(-alpha * S**2 / 2, abs=0.05)


def test_alpha_of_0_is_iwae_and_near_1_the_sampled_elbo() -> None:
    iwae, elbo = unveil.IWAE(num_samples=4), unveil.SampledELBO(num_samples=4)
    torch.testing.assert_close(values(make(0.0, 4), 50), values(iwae, 50))
    above, below = values(make(1 - 2e-3, 4), 50), values(make(1 + 2e-3, 4), 50)
    assert (below < values(elbo, 50)).all()
    assert (values(elbo, 50) < above).all()
    torch.testing.assert_close((above + below) / 2, values(elbo, 50), rtol=0.0, atol=1e-5)


def test_the_value_falls_as_alpha_rises_on_every_row() -> None:
    ladder = torch.stack([values(make(alpha, 4), 200) for alpha in (-2.0, *ALPHAS, 5.0)])
    assert (ladder.diff(dim=0) < 0).all()


@pytest.mark.parametrize(
    ("kind", "alpha", "sentence"),
    [
        (unveil.Renyi, -0.5, "expected alpha to be at least 0 and finite, got -0.5; below 0"),
        (unveil.Renyi, math.nan, "expected alpha to be at least 0 and finite, got nan"),
        (unveil.Renyi, 1.0, "expected alpha to differ from 1 by at least 0.001, got 1.0"),
        (unveil.NegativeRenyi, 0.0, "expected alpha to be below 0 and finite, got 0.0"),
        (unveil.NegativeRenyi, -math.inf, "expected alpha to be below 0 and finite, got -inf"),
    ],
)
def test_an_alpha_that_names_another_bound_is_refused(kind, alpha: float, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}"):
        kind(alpha=alpha)
