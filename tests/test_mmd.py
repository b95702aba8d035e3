"""InfoVAE: an unbiased distance between all rows' codes and the prior, drawing nothing itself."""

import math

import pytest
import torch
from torch import Tensor

import unveil
from oracles import CAUGHT, NOW, SURELY_WRONG, gauss_hermite, nonlinear_vae, normal, z_score
from unveil.distributions import DiagonalNormal
from unveil.objectives.mmd import mmd

P = DiagonalNormal(normal(1, 2), normal(2, 2).exp())
BANDWIDTH = 0.7
LENGTH = float(BANDWIDTH**2 * P.scale.square().sum())
REPEATS, ROWS = 4000, 4


def kernel(a: Tensor, b: Tensor) -> Tensor:
    return torch.exp(-(a - b).square().sum(-1) / (2 * LENGTH))


def exact(shift: float, stretch: float) -> float:
    """MMD² between N(m + shift·s, (stretch·s)²) and the prior by quadrature, unit by unit."""
    nodes, weights = gauss_hermite(60)
    kinds = {"q": (shift, stretch), "p": (0.0, 1.0)}

    def mean(a: str, b: str) -> float:
        product = 1.0
        for m, s in zip(P.loc, P.scale, strict=True):
            left, right = (m + s * (kinds[k][0] + kinds[k][1] * nodes) for k in (a, b))
            values = torch.exp(-(left[:, None] - right).square() / (2 * LENGTH))
            product *= float((weights[:, None] * weights * values).sum())
        return product

    return mean("q", "q") - 2 * mean("q", "p") + mean("p", "p")


@pytest.mark.parametrize(("shift", "stretch"), [(0.0, 1.0), (0.8, 0.5)])
def test_the_distance_is_unbiased_in_small_batches(shift: float, stretch: float) -> None:
    """Four rows at a time; with each row's kernel to itself counted it is noticed."""
    z = P.loc + P.scale * (shift + stretch * normal(3, REPEATS, ROWS, 2))
    estimates = mmd(z, P, BANDWIDTH).mean(-1)
    assert z_score(estimates, exact(shift, stretch)) < SURELY_WRONG
    pairs = kernel(z[:, :, None], z[:, None])
    others = (pairs.sum((1, 2)) - ROWS) / (ROWS * (ROWS - 1))
    assert z_score(estimates - others + pairs.mean((1, 2)), exact(shift, stretch)) > CAUGHT


def test_alpha_of_0_and_scaling_of_1_is_the_elbo() -> None:
    vae = nonlinear_vae(unveil.Gaussian(3)).double()
    x, noise = normal(4, 5, 3), normal(5, 2, 5, 2)
    elbo = unveil.ELBO(num_samples=2, warmup_steps=0)(vae, x, noise, NOW)
    info = unveil.InfoVAE(alpha=0.0, scaling=1.0, num_samples=2)
    torch.testing.assert_close(info(vae, x, noise, NOW), elbo)
    more = unveil.InfoVAE(alpha=0.4, scaling=3.0, num_samples=2)
    q = vae.posterior(x)
    distance = mmd(q.push(noise), vae.prior(), 1.0).mean(0)
    expected = elbo + 0.4 * q.kl(vae.prior(), q.push(noise)) - 2.4 * distance
    torch.testing.assert_close(more(vae, x, noise, NOW), expected)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"alpha": 1.5}, "expected 1 − alpha to be at least 0 and finite, got -0.5"),
        ({"alpha": 0.5, "scaling": 0.25}, "expected alpha [+] scaling − 1 to be at least 0"),
        ({"bandwidth": 0.0}, "expected a bandwidth above 0 and finite, got 0.0"),
        ({"bandwidth": math.inf}, "expected a bandwidth above 0 and finite, got inf"),
    ],
)
def test_weights_that_would_drive_codes_from_the_prior_are_refused(options, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}"):
        unveil.InfoVAE(**options)


class PriorPerRow(unveil.LatentVariableModel):
    """A prior that differs between rows."""

    num_latents = 2

    def prior(self, given=None):
        return DiagonalNormal(torch.zeros(3, 2), torch.ones(3, 2))

    def likelihood(self, z, given=None):
        return DiagonalNormal(z, torch.ones_like(z))

    def posterior(self, x, given=None):
        return DiagonalNormal(x, torch.ones_like(x))


def test_a_prior_that_is_not_one_gaussian_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^expected a prior N\(m, diag s²\) that is the same for"):
        unveil.InfoVAE()(PriorPerRow(), torch.zeros(3, 2), torch.zeros(1, 3, 2), NOW)
