"""β-TCVAE: weights without bias, checked over every minibatch, and parts that add up."""

import math
from collections.abc import Callable
from itertools import combinations

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

import unveil
from oracles import NOW, a_linear_gaussian, a_poor_posterior, linear_vae, nonlinear_vae, normal
from unveil.objectives.total_correlation import log_stratified_weights

Weights = Callable[[int, int], Tensor]
SIZES = [(2, 2), (2, 5), (3, 5), (4, 6), (6, 6)]


def right(batch: int, rows: int) -> Tensor:
    return log_stratified_weights(batch, rows, torch.zeros((), dtype=torch.float64)).exp()


def weighted(batch: int, rows: int) -> Tensor:
    """Minibatch-weighted sampling: every row of the batch alike (Chen et al. 2018, eq. 5)."""
    return torch.full((batch, batch), 1 / batch, dtype=torch.float64)


def strided(batch: int, rows: int) -> Tensor:
    """As published: a stride of M + 1 over a matrix of M + 1 columns fills columns, no diagonal."""
    m = batch - 1
    rest = (rows - m) / (rows * m)
    w = torch.full((batch, batch), 1 / m, dtype=torch.float64)
    w.view(-1)[:: m + 1] = 1 / rows
    w.view(-1)[1 :: m + 1] = rest
    w[m - 1, 0] = rest
    return w


def bias(weights: Weights, batch: int, rows: int) -> float:
    """The largest error of E[Σ_j W_ij q(z_i|x_j)] over all minibatches that hold row i."""
    density = normal(0, rows, rows).exp()  # q(z_i|x_j), any positive numbers
    w, worst = weights(batch, rows), 0.0
    for i in range(rows):
        estimates = []
        for place in range(batch):  # row i may stand anywhere in its batch
            for others in combinations([j for j in range(rows) if j != i], batch - 1):
                members = [*others[:place], i, *others[place:]]
                estimates.append(float((w[place] * density[i, members]).sum()))
        exact = float(density[i].mean())
        worst = max(worst, abs(sum(estimates) / len(estimates) - exact) / exact)
    return worst


@pytest.mark.parametrize(("batch", "rows"), SIZES)
def test_the_aggregate_posterior_is_estimated_without_bias(batch: int, rows: int) -> None:
    assert bias(right, batch, rows) < 1e-12


@pytest.mark.parametrize(("batch", "rows"), [(3, 5), (4, 6)])
def test_equal_weights_and_a_wrong_stride_are_noticed(batch: int, rows: int) -> None:
    assert bias(weighted, batch, rows) > 0.05
    assert bias(strided, batch, rows) > 0.05


# ---- the objective -----------------------------------------------------------------------------

X = normal(100, 5, 3)
NOISE = normal(0, 2, 5, 2)


def values(**weights: float) -> Tensor:
    vae = nonlinear_vae(unveil.Gaussian(3)).double().requires_grad_(False)
    objective = unveil.TotalCorrelation(**weights, num_samples=2, rows=5)
    return objective(vae, X, NOISE, NOW)


def test_with_equal_weights_the_parts_are_the_whole_rate() -> None:
    vae = nonlinear_vae(unveil.Gaussian(3)).double().requires_grad_(False)
    elbo = unveil.SampledELBO(num_samples=2, warmup_steps=0)(vae, X, NOISE, NOW)
    torch.testing.assert_close(values(alpha=1.0, beta=1.0, gamma=1.0), elbo)


def test_each_weight_weighs_its_own_part() -> None:
    """All five rows are the data, so that q(z) is known: a mixture of five Gaussians."""
    vae = nonlinear_vae(unveil.Gaussian(3)).double().requires_grad_(False)
    q = vae.posterior(X)
    z = q.push(NOISE)
    units = Normal(q.loc, q.scale).log_prob(z[:, :, None])  # (sample, row of z, row of x, latent)
    aggregate = units.sum(-1).exp().mean(-1).log()
    marginals = units.exp().mean(-2).log().sum(-1)
    parts = {
        "alpha": q.log_prob(z) - aggregate,
        "beta": aggregate - marginals,
        "gamma": marginals - vae.prior().log_prob(z),
    }
    once = {"alpha": 1.0, "beta": 1.0, "gamma": 1.0}
    for name, part in parts.items():
        charged = values(**once) - values(**(once | {name: 3.0}))
        torch.testing.assert_close(charged, 2 * part.mean(0))


# ---- refusals ----------------------------------------------------------------------------------


def test_a_posterior_whose_latents_hang_together_is_refused() -> None:
    model = a_linear_gaussian()
    vae = linear_vae(model, a_poor_posterior(model))
    with pytest.raises(TypeError, match=r"^expected a posterior of independent Gaussian latents"):
        unveil.TotalCorrelation(beta=2.0, rows=9)(vae, normal(1, 4, 6), normal(2, 1, 4, 3), NOW)


def test_without_the_number_of_rows_no_value_is_made_up() -> None:
    vae = nonlinear_vae(unveil.Gaussian(3)).double()
    with pytest.raises(ValueError, match=r"^expected the number of training rows that a batch is"):
        unveil.TotalCorrelation(beta=2.0)(vae, X, NOISE[:1], NOW)


@pytest.mark.parametrize("name", ["alpha", "beta", "gamma"])
@pytest.mark.parametrize("value", [-1.0, math.inf])
def test_a_weight_below_zero_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^expected {name} to be at least 0 and finite, got"):
        unveil.TotalCorrelation(**{"beta": 1.0, name: value})


def test_one_training_row_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^expected rows of at least 2, a whole number, got 1$"):
        unveil.TotalCorrelation(beta=1.0).scheduled(100, rows=1)
