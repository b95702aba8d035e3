"""Evidence in closed form, against SciPy, sums over everything, and models of what was observed."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from torch import Tensor, nn
from torch.distributions import OneHotCategorical

import unveil
from oracles import (
    CAUGHT,
    SURELY_WRONG,
    a_linear_gaussian,
    affine,
    linear_vae,
    nonlinear_vae,
    normal,
    seeded,
    with_gaps,
    z_score,
)
from unveil.distributions import Plain, draw
from unveil.evidence import closed_form as module
from unveil.evidence.closed_form import LinearMixture, closed_form, exact_evidence
from unveil.priors.base import Prior

NAN = math.nan
CELLS, LATENTS = 5, 2
UNIT = torch.tensor([1.0, 2.0, 0.5, 10.0, 3.0], dtype=torch.float64)


def factor_analysis(prior: Prior | None = None, *, layers: Sequence[int] = ()) -> unveil.VAE:
    """A linear decoder with a spread of each column, units, and a prior of any kind."""
    sizes = [LATENTS, *layers, CELLS]
    linear = [
        affine(normal(60 + i, after, before), normal(70 + i, after))
        for i, (before, after) in enumerate(pairwise(sizes))
    ]
    vae = unveil.VAE(
        prior=unveil.StandardNormal(LATENTS) if prior is None else prior,
        likelihood=unveil.Conditional(
            linear[0] if len(linear) == 1 else nn.Sequential(*linear),
            unveil.Gaussian(CELLS, unit=UNIT),
        ),
        posterior=unveil.Conditional(
            affine(normal(62, 2 * LATENTS, CELLS), normal(63, 2 * LATENTS)),
            unveil.DiagonalGaussian(LATENTS),
        ),
    ).double()
    with torch.no_grad():
        vae.p_x_given_z.family.scale.raw.copy_(normal(64, CELLS))
    return vae


def a_mixture() -> Prior:
    prior = unveil.GaussianMixture(LATENTS, 3, seeded(65)).double()
    with torch.no_grad():
        prior.logits.copy_(torch.tensor([0.5, -0.5, 0.0]))
        prior.loc.mul_(10)
        prior.raw_scale.add_(normal(66, 3, LATENTS))
    return prior


def by_scipy(vae: unveil.VAE, x: Tensor) -> Tensor:
    """The marginal of every row's observed cells, built in full."""
    with torch.no_grad():
        prior = vae.prior()
        zero, eye = torch.zeros(1, LATENTS).double(), torch.eye(LATENTS).double()
        b = vae.p_x_given_z.network(zero)[0]
        w = (vae.p_x_given_z.network(eye) - b).T.numpy()
        sd = vae.likelihood(zero).base.scale[0].numpy()
        if hasattr(prior, "log_weights"):
            weights, loc, scale = prior.weights.numpy(), prior.loc.numpy(), prior.scale.numpy()
        else:
            weights, loc, scale = np.ones(1), prior.loc[None].numpy(), prior.scale[None].numpy()
    values = []
    for row in x.numpy():
        o = ~np.isnan(row)
        p = sum(
            weight
            * multivariate_normal.pdf(
                row[o],
                (w @ m + b.numpy())[o],
                (w @ np.diag(s**2) @ w.T + np.diag(sd**2))[np.ix_(o, o)],
            )
            for weight, m, s in zip(weights, loc, scale, strict=True)
        )
        values.append(np.log(p) - np.log(UNIT.numpy()[o]).sum())
    return torch.tensor(values, dtype=torch.float64)


MODELS = {
    "one normal": lambda: factor_analysis(),
    "a deep linear decoder": lambda: factor_analysis(layers=(4, 3)),
    "a mixture": lambda: factor_analysis(a_mixture()),
}
X = 3 * normal(67, 40, CELLS)


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_the_evidence_is_that_of_the_marginal_normals(make) -> None:
    x = with_gaps(X, seed=68, share=0.3)
    torch.testing.assert_close(exact_evidence(make(), x), by_scipy(make(), x), rtol=0, atol=1e-10)


def test_it_is_the_linear_gaussian_s() -> None:
    model = a_linear_gaussian()
    x = 2 * normal(69, 30, 6)
    vae = linear_vae(model, model.exact_posterior())
    torch.testing.assert_close(exact_evidence(vae, x), model.log_evidence(x), rtol=0, atol=1e-11)
    form, exact = closed_form(vae), model.exact_posterior()
    assert isinstance(form, LinearMixture)
    posterior = form.posterior(x)
    torch.testing.assert_close(posterior.mean, (x - model.mean) @ exact.gain.T)
    torch.testing.assert_close(posterior.covariance[:, 0], exact.covariance.expand(30, -1, -1))


def test_a_row_with_nothing_observed_has_evidence_0() -> None:
    x = torch.full((1, CELLS), NAN, dtype=torch.float64)
    assert exact_evidence(factor_analysis(a_mixture()), x).tolist() == [0.0]


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_bayes_rule_holds_with_the_posterior_at_any_z(make) -> None:
    """log p(z|x) = log p(x, z) − log p(x)."""
    vae, x = make(), with_gaps(X, seed=71)
    form, z = closed_form(vae), normal(72, 7, 40, LATENTS)
    with torch.no_grad():
        expected = vae.log_joint(x, z) - form.log_evidence(x)
    torch.testing.assert_close(form.posterior(x).log_prob(z), expected, rtol=0, atol=1e-9)


def test_draws_of_the_posterior_have_its_moments() -> None:
    posterior = closed_form(factor_analysis(a_mixture())).posterior(X[:4])
    z = draw(posterior, (20_000,), seeded(73))
    assert z_score(z, posterior.mean) < SURELY_WRONG
    assert z_score((z - posterior.mean).square(), posterior.variance) < SURELY_WRONG
    largest = posterior.loc[torch.arange(4), posterior.log_weights.argmax(1)]
    assert z_score(z, largest) > CAUGHT


@pytest.mark.parametrize("cells", [5, 65])
def test_evidence_is_bitwise_the_row_s_own(cells: int) -> None:
    model = a_linear_gaussian(cells, 3)
    vae, x = linear_vae(model, model.exact_posterior()), with_gaps(normal(74, 290, cells), seed=75)
    whole = exact_evidence(vae, x)
    for index in (torch.arange(289, -1, -1), torch.tensor([280, 3, 77]), torch.arange(100, 200)):
        assert torch.equal(whole[index], exact_evidence(vae, x[index]))


@pytest.mark.parametrize(
    "vae",
    [
        nonlinear_vae(unveil.Gaussian(5)),
        unveil.VAE(
            prior=unveil.StandardNormal(2),
            likelihood=unveil.Conditional(nn.Linear(2, 5), unveil.Bernoulli(5)),
            posterior=unveil.Conditional(nn.Linear(5, 4), unveil.DiagonalGaussian(2)),
        ),
        unveil.VAE(
            prior=unveil.StandardNormal(2),
            likelihood=unveil.Conditional(nn.Linear(2, 10), unveil.Gaussian(5, unveil.CellScale())),
            posterior=unveil.Conditional(nn.Linear(5, 4), unveil.DiagonalGaussian(2)),
        ),
    ],
    ids=["a curved decoder", "another family", "a spread that z predicts"],
)
def test_what_is_not_linear_and_gaussian_has_no_closed_form(vae: unveil.VAE) -> None:
    assert exact_evidence(vae, torch.ones(3, 5)) is None


# ---- discrete latents --------------------------------------------------------------------------


class Bits(Plain):
    """Independent bits with P(1) = ¼, which can all be listed."""

    has_enumerate_support = True

    def __init__(self, number: int) -> None:
        super().__init__(event_shape=torch.Size([number]), validate_args=False)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        values = torch.arange(2 ** self.event_shape[0])[:, None]
        return ((values >> torch.arange(self.event_shape[0])) & 1).double()

    def log_prob(self, value: Tensor) -> Tensor:
        return (math.log(0.75) - value * math.log(3)).sum(-1)


class Discrete(unveil.LatentVariableModel):
    """z from a finite set, and a Bernoulli decoder that is not linear."""

    def __init__(self, prior: torch.distributions.Distribution) -> None:
        super().__init__()
        (self.num_latents,) = prior.event_shape
        self.p_z, self.weight = prior, normal(80, 4, self.num_latents)

    def prior(self, given=None):
        return self.p_z

    def likelihood(self, z, given=None):
        return unveil.Bernoulli(4)(torch.sin(3 * z @ self.weight.T))

    def posterior(self, x, given=None):
        raise NotImplementedError


PRIORS = {
    "bits": (lambda: Bits(3), [[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)]),
    "one of three": (
        lambda: OneHotCategorical(torch.tensor([0.2, 0.5, 0.3]).double()),
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    ),
}


@pytest.mark.parametrize(("prior", "values"), PRIORS.values(), ids=PRIORS)
def test_discrete_latents_are_summed_over(prior, values) -> None:
    model, x = Discrete(prior()), (normal(81, 20, 4) > 0).double()
    x[0, 2] = NAN
    brute_force = torch.zeros(20).double()
    for value in values:
        z = torch.tensor(value).double()
        log_p = model.likelihood(z).log_prob(x)
        brute_force += (prior().log_prob(z) + log_p).exp()
    torch.testing.assert_close(exact_evidence(model, x), brute_force.log(), rtol=0, atol=1e-12)


def test_all_rows_there_are_have_probability_1() -> None:
    every = Bits(4).enumerate_support()
    total = exact_evidence(Discrete(Bits(3)), every).exp().sum()
    assert float(total) == pytest.approx(1, abs=1e-12)


def test_chunks_change_nothing_and_of_a_large_support_no_closed_form_is_known(monkeypatch) -> None:
    x = torch.ones(3, 4).double()
    whole = exact_evidence(Discrete(Bits(6)), x)
    monkeypatch.setattr("unveil.tiles.FLOATS_PER_CHUNK", 7 * 256 * 6)
    torch.testing.assert_close(exact_evidence(Discrete(Bits(6)), x), whole, rtol=0, atol=1e-13)
    monkeypatch.setattr(module, "LARGEST_SUPPORT", 63)
    assert exact_evidence(Discrete(Bits(6)), x) is None
    assert exact_evidence(Discrete(Bits(5)), x) is not None


def test_densities_that_overflow_name_their_row() -> None:
    x = X.clone()
    x[7] = math.inf
    with pytest.raises(
        ArithmeticError, match=r"finite log-evidence, got .* in row 7 of the 40 looked"
    ):
        exact_evidence(factor_analysis(), x)
