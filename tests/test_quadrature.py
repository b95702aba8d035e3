"""Quadrature against closed forms, finer grids, sums over all rows, and models it must refuse."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import unveil
from oracles import (
    a_linear_gaussian,
    linear_vae,
    nonlinear_vae,
    normal,
    seeded,
    shake,
    with_gaps,
)
from unveil.evidence import quadrature as module
from unveil.evidence.closed_form import exact_evidence
from unveil.evidence.linear_gaussian import LinearGaussian
from unveil.evidence.quadrature import CannotResolve, quadrature
from unveil.families import Family
from unveil.networks.mlp import Decoder, Encoder, FillsGaps
from unveil.priors.base import Prior

NAN = math.nan


def moments_of(model: LinearGaussian, x: Tensor) -> tuple[Tensor, Tensor]:
    """What refining would find."""
    q = model.mean_field_posterior()
    return (x - model.mean) @ q.gain.T, q.covariance.diagonal().sqrt().expand(len(x), -1)


def said(rows: int, latents: int, sd: float) -> tuple[Tensor, Tensor]:
    """Means of 0 and one sd for all."""
    zeros = torch.zeros(rows, latents, dtype=torch.float64)
    return zeros, zeros + sd


# ---- against closed forms ----------------------------------------------------------------------


@pytest.mark.parametrize("latents", [1, 2, 3])
def test_a_linear_decoder_s_evidence_is_the_closed_form(latents: int) -> None:
    model = a_linear_gaussian(6, latents)
    x = 2 * normal(20, 8, 6)
    vae = linear_vae(model, model.exact_posterior())
    result = quadrature(vae, x, moments=moments_of(model, x))
    torch.testing.assert_close(result.log_evidence, model.log_evidence(x), rtol=0, atol=1e-9)
    assert (result.error < module.TOLERANCE).all()
    assert (result.outside < module.LARGEST_OUTSIDE).all()


def test_rows_with_gaps_and_the_moments_that_refining_finds() -> None:
    model = a_linear_gaussian(6, 2)
    x = with_gaps(2 * normal(21, 8, 6), seed=22, share=0.5)
    x[3] = NAN
    vae = linear_vae(model, model.exact_posterior())
    vae.q_z_given_x = nonlinear_vae(unveil.Gaussian(6)).double().q_z_given_x
    result = quadrature(vae, x)
    torch.testing.assert_close(result.log_evidence, exact_evidence(vae, x), rtol=0, atol=1e-9)
    assert float(result.log_evidence[3]) == float(result.error[3]) == 0.0


def with_prior(prior: Prior, family: Family, *, width: int = 13) -> unveil.VAE:
    vae = nonlinear_vae(family, latents=prior.num_latents, width=width)
    shake(prior, seed=23)
    return unveil.VAE(prior=prior, likelihood=vae.p_x_given_z, posterior=vae.q_z_given_x).double()


def test_a_mixture_of_far_modes_is_found_whatever_the_moments_say() -> None:
    """The moments are those of one mode of two; the box and the blocks come from the prior."""
    model = a_linear_gaussian(2, 1)
    narrow = LinearGaussian(weight=model.weight, mean=model.mean, noise_variance=0.01)
    vae = linear_vae(narrow, narrow.exact_posterior())
    prior = unveil.GaussianMixture(1, 2, seeded(24)).double()
    with torch.no_grad():
        prior.loc.copy_(torch.tensor([[-6.0], [6.0]]))
    vae.p_z = prior
    x = model.mean + 0.3 * normal(25, 5, 2)
    mean, sd = moments_of(narrow, x)
    result = quadrature(vae, x, moments=(mean, sd))
    torch.testing.assert_close(result.log_evidence, exact_evidence(vae, x), rtol=0, atol=1e-8)


# ---- any likelihood, any prior -----------------------------------------------------------------


def every(cells: int) -> Tensor:
    return ((torch.arange(2**cells)[:, None] >> torch.arange(cells)) & 1).double()


PRIORS: dict[str, Callable[[], Prior]] = {
    "N(0, I)": lambda: unveil.StandardNormal(2),
    "mixture": lambda: unveil.GaussianMixture(2, 3, seeded(26)),
}


@pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)
def test_all_binary_rows_have_probability_1(prior: Callable[[], Prior]) -> None:
    vae = with_prior(prior(), unveil.Bernoulli(4))
    total = quadrature(vae, every(4), moments=said(16, 2, 0.5)).log_evidence.exp().sum()
    assert float(total) == pytest.approx(1, abs=1e-10)


FAMILIES: dict[str, tuple[Callable[[], Family], Callable[[Tensor], Tensor]]] = {
    "Gaussian": (lambda: unveil.Gaussian(3, unveil.CellScale()), lambda x: x),
    "Poisson": (lambda: unveil.Poisson(3), lambda x: (2 * x).abs().round()),
    "columns": (
        lambda: unveil.Columns([((0, 2), unveil.Gaussian(2)), ((1,), unveil.Bernoulli(1))]),
        lambda x: torch.cat([x[:, :1], (x[:, 1:2] > 0).double(), x[:, 2:]], dim=1),
    ),
}


def by_brute_force(vae: unveil.VAE, x: Tensor) -> Tensor:
    """The sum over 361 × 361 nodes from −9 to 9."""
    axis = torch.linspace(-9, 9, 361, dtype=torch.float64)
    z = torch.cartesian_prod(axis, axis)[:, None]
    with torch.no_grad():
        log_p = vae.prior().log_prob(z) + vae.likelihood(z).log_prob(x)
    return log_p.logsumexp(0) + 2 * (axis[1] - axis[0]).log()


@pytest.mark.parametrize(("family", "rows"), FAMILIES.values(), ids=FAMILIES)
def test_brute_force_and_a_grid_twice_as_fine_agree(family, rows, monkeypatch) -> None:
    vae = with_prior(unveil.StandardNormal(2), family())
    x = torch.where(normal(28, 6, 3) > 1, NAN, rows(normal(27, 6, 3)))
    assert x.isnan().any() and not x.isnan().all(1).any()
    result = quadrature(vae, x, moments=said(6, 2, 0.5))
    torch.testing.assert_close(result.log_evidence, by_brute_force(vae, x), rtol=0, atol=1e-8)
    monkeypatch.setattr(module, "STEPS_PER_SD", 2 * module.STEPS_PER_SD)
    finer = quadrature(vae, x, moments=said(6, 2, 0.5))
    assert (finer.step < result.step).all()
    assert ((finer.log_evidence - result.log_evidence).abs() <= result.error + 1e-12).all()


def covariate_vae() -> unveil.VAE:
    sizes = {"covariates": 1, "width": 8, "depth": 1, "generator": seeded(29)}
    vae = unveil.VAE(
        prior=unveil.StandardNormal(1),
        likelihood=unveil.Conditional(Decoder(1, outputs=3, **sizes), unveil.Bernoulli(3)),
        posterior=unveil.Conditional(
            Encoder((3,), outputs=2, gaps=FillsGaps(), **sizes), unveil.DiagonalGaussian(1)
        ),
    )
    shake(vae, seed=30)
    return vae.double()


def test_covariates_are_each_row_s_own() -> None:
    vae, x = covariate_vae(), every(3)
    for c in (-2.0, 3.0):
        given = torch.full((8, 1), c, dtype=torch.float64)
        total = quadrature(vae, x, given, moments=said(8, 1, 0.5)).log_evidence.exp().sum()
        assert float(total) == pytest.approx(1, abs=1e-10)
    given = normal(31, 8, 1)
    together = quadrature(vae, x, given, moments=said(8, 1, 0.5)).log_evidence
    alone = [
        quadrature(vae, x[[i]], given[[i]], moments=said(1, 1, 0.5)).log_evidence for i in range(8)
    ]
    assert torch.equal(together, torch.cat(alone))


def test_evidence_is_bitwise_the_row_s_own() -> None:
    vae = nonlinear_vae(unveil.Bernoulli((3, 5)), latents=2, gaps=False)
    x = (normal(32, 70, 3, 5) > 0).float()
    moments = normal(33, 70, 2).float(), torch.rand(70, 2, generator=seeded(34)) + 0.3
    whole = quadrature(vae, x, moments=moments)
    for index in (torch.arange(69, -1, -1), torch.tensor([68, 3, 3, 9])):
        part = quadrature(vae, x[index], moments=tuple(t[index] for t in moments))
        assert torch.equal(whole.log_evidence[index], part.log_evidence)
        assert torch.equal(whole.error[index], part.error)


# ---- what it refuses ---------------------------------------------------------------------------

MODEL = a_linear_gaussian(6, 2)
X = 2 * normal(20, 8, 6)
VAE = linear_vae(MODEL, MODEL.exact_posterior())


def test_four_latents_are_refused() -> None:
    vae = nonlinear_vae(unveil.Bernoulli(3), latents=4)
    with pytest.raises(CannotResolve, match=r"one to three latents to integrate over, got 4"):
        quadrature(vae, torch.ones(1, 3))


def test_a_posterior_too_narrow_for_the_finest_grid_is_refused() -> None:
    mean, sd = moments_of(MODEL, X)
    sd = sd.clone()
    sd[5, 1] = 1e-3
    words = r"got a step of 0\.0\d+ over latent 1 of row 5, whose sd is 0\.001, with 1024 steps"
    with pytest.raises(CannotResolve, match=words):
        quadrature(VAE, X, moments=(mean, sd))


def test_moments_that_are_far_too_wide_cost_nothing_but_time() -> None:
    mean, sd = moments_of(MODEL, X)
    result = quadrature(VAE, X, moments=(mean, 5 * sd))
    torch.testing.assert_close(result.log_evidence, MODEL.log_evidence(X), rtol=0, atol=1e-6)


def test_a_grid_that_does_not_converge_is_refused(monkeypatch) -> None:
    """The posterior is narrower than it is said to be, and no finer grid is allowed."""
    mean, sd = moments_of(MODEL, X)
    monkeypatch.setattr(module, "MOST_INTERVALS", {2: 32})
    with pytest.raises(CannotResolve, match=r"got a change of .* nats from leaving out the others"):
        quadrature(VAE, X, moments=(mean, 5 * sd))


def small_box(prior: torch.distributions.Distribution) -> tuple[Tensor, Tensor]:
    """The mutant: a box that holds little of the prior."""
    return torch.full((2,), -0.5).double(), torch.full((2,), 0.5).double()


def test_a_box_too_small_grows_or_is_refused(monkeypatch) -> None:
    x = X[:2]
    mean, sd = moments_of(MODEL, x)
    narrow = 0 * mean, 0.05 * sd  # so that the box is the prior's alone
    truth = MODEL.log_evidence(x)
    monkeypatch.setattr(module, "extent", small_box)
    grown = quadrature(VAE, x, moments=narrow)
    torch.testing.assert_close(grown.log_evidence, truth, rtol=0, atol=1e-6)
    monkeypatch.setattr(module, "MOST_GROWTHS", 0)
    with pytest.raises(CannotResolve, match=r"to vanish at the faces of the box, got a share of"):
        quadrature(VAE, x, moments=narrow)
    # What refusing it is for: without a look at the shell, the answer would be wrong.
    monkeypatch.setattr(module, "LARGEST_SHARE_IN_SHELL", 1.0)
    monkeypatch.setattr(module, "LARGEST_OUTSIDE", math.inf)
    mutant = quadrature(VAE, x, moments=narrow)
    assert ((mutant.log_evidence - truth).abs() > 0.01).any()


def test_what_is_said_to_lie_outside_bounds_what_does(monkeypatch) -> None:
    """A box from −2 to 2 under N(0, 1) leaves out 4.6 % of the prior."""
    vae = with_prior(unveil.StandardNormal(1), unveil.Bernoulli(4))
    moments = said(16, 1, 0.2)
    truth = quadrature(vae, every(4), moments=moments).log_evidence.exp()
    monkeypatch.setattr(module, "REACH", 2.0)
    monkeypatch.setattr(module, "LARGEST_SHARE_IN_SHELL", 1.0)
    monkeypatch.setattr(module, "LARGEST_OUTSIDE", math.inf)
    cut = quadrature(vae, every(4), moments=moments)
    missing = (truth - cut.log_evidence.exp()) / cut.log_evidence.exp()
    assert (missing > 1e-5).all()
    assert (missing < cut.outside).all()


def test_blocks_that_are_left_out_hold_next_to_nothing(monkeypatch) -> None:
    mean, sd = moments_of(MODEL, X)
    truth = MODEL.log_evidence(X)
    few = quadrature(VAE, X, moments=(mean, sd)).log_evidence
    monkeypatch.setattr(module, "FAR_BELOW", math.inf)
    all_ = quadrature(VAE, X, moments=(mean, sd)).log_evidence
    torch.testing.assert_close(few, all_, rtol=0, atol=1e-10)
    monkeypatch.setattr(module, "FAR_BELOW", 1.0)
    mutant = quadrature(VAE, X, moments=(mean, sd)).log_evidence
    assert ((mutant - truth).abs() > 1e-3).any()


def test_a_row_that_no_z_can_make_has_evidence_0_and_a_nan_is_refused() -> None:
    vae = with_prior(unveil.StandardNormal(1), unveil.Poisson(2))
    x = torch.tensor([[1.0, 2.0], [0.5, 1.0]], dtype=torch.float64)
    moments = said(2, 1, 1.0)
    result = quadrature(vae, x, moments=moments)
    assert result.log_evidence[0] > -math.inf
    assert float(result.log_evidence[1]) == -math.inf
    with torch.no_grad():
        vae.p_x_given_z.network.body.leave.bias.fill_(NAN)
    with pytest.raises(ArithmeticError, match=r"finite log-evidence, got nan in row 0"):
        quadrature(vae, x, moments=moments)
