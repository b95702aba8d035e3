"""The gap taken apart: closed forms where there are any, and starts that must not be missed."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import unveil
from oracles import (
    CAUGHT,
    SURELY_WRONG,
    a_linear_gaussian,
    a_poor_posterior,
    linear_vae,
    nonlinear_vae,
    normal,
    seeded,
    with_gaps,
    z_score,
)
from unveil import refining
from unveil.check.models import LogNormalWeights
from unveil.diagnostics import gap as gaps
from unveil.diagnostics.gap import Gap, encoder_gap, family_of, gap, laplace, prior_moments
from unveil.diagnostics.means import Mean
from unveil.distributions import DiagonalNormal
from unveil.evidence.linear_gaussian import GaussianPosterior, LinearGaussian
from unveil.refining import cosine, refine
from unveil.tiles import tiles

MODEL = a_linear_gaussian()
BEST = MODEL.mean_field_posterior()
X = 2 * normal(60, 250, 6)


def mean_field_gap(model: LinearGaussian) -> float:
    """½ [Σ_u log M_uu − log|M|], the same for every row; 0 where the columns of W are orthogonal.

    Source: Lucas et al. 2019.
    """
    latents = model.weight.shape[1]
    m = model.weight.T @ model.weight + model.noise_variance * torch.eye(latents).double()
    return float(0.5 * (m.diagonal().log().sum() - torch.logdet(m)))


# ---- closed forms ------------------------------------------------------------------------------


def test_at_the_optimum_only_the_mean_field_gap_is_left() -> None:
    found = gap(linear_vae(MODEL, BEST), X, steps=20)
    assert found.elbo.dtype == found.refined_elbo.dtype == torch.float64
    assert found.amortisation.abs().mean() < 0.02
    approximation = found.approximation(MODEL.log_evidence(X))
    assert z_score(approximation, mean_field_gap(MODEL)) < SURELY_WRONG
    assert z_score(approximation, 0.0) > CAUGHT  # as if nothing were lost
    assert z_score(approximation, 2 * mean_field_gap(MODEL)) > CAUGHT  # the ½ forgotten


def test_a_poor_encoder_s_loss_is_found_and_never_overstated() -> None:
    poor = a_poor_posterior(MODEL)
    found = gap(linear_vae(MODEL, poor), X, steps=80)
    exact = MODEL.kl_to_exact(X, poor) - MODEL.kl_to_exact(X, BEST)
    assert (exact > 1).all()
    assert z_score(found.amortisation - exact, 0.0) < SURELY_WRONG
    # What is missed by the climb is subtracted from one gap and added to the other.
    missed = found.refined_elbo - MODEL.elbo(X, BEST)
    assert abs(missed.mean()) < 0.05
    assert z_score(found.amortisation - 0.8 * exact, 0.0) > CAUGHT
    torch.testing.assert_close(
        found.amortisation + found.approximation(MODEL.log_evidence(X)),
        MODEL.log_evidence(X) - found.elbo,
    )


def test_orthogonal_columns_leave_a_mean_field_posterior_nothing_to_miss() -> None:
    weight = torch.linalg.qr(MODEL.weight).Q * torch.tensor([3.0, 2.0, 1.0]).double()
    model = LinearGaussian(weight=weight, mean=MODEL.mean, noise_variance=0.49)
    found = gap(linear_vae(model, model.mean_field_posterior()), X, steps=5)
    assert found.approximation(model.log_evidence(X)).abs().mean() < 5e-3
    assert abs(mean_field_gap(model)) < 1e-12
    assert mean_field_gap(MODEL) > 0.1


def test_a_full_covariance_closes_what_mean_field_leaves() -> None:
    found = gap(linear_vae(MODEL, BEST), X, family=unveil.FullGaussian(3), steps=100)
    assert found.approximation(MODEL.log_evidence(X)).abs().max() < 0.01
    exact = torch.full_like(found.amortisation, mean_field_gap(MODEL))
    assert z_score(found.amortisation - exact, 0.0) < SURELY_WRONG


def test_the_climb_is_over_the_kind_of_the_encoder_s_posterior() -> None:
    raw = torch.zeros(4, 9)
    assert type(family_of(unveil.FullGaussian(3)(raw), 3)) is unveil.FullGaussian
    assert type(family_of(unveil.DiagonalGaussian(3)(raw[:, :6]), 3)) is unveil.DiagonalGaussian
    flow = unveil.FlowPosterior(3, context=3)
    assert type(family_of(flow(raw), 3)) is unveil.DiagonalGaussian


def test_an_encoder_that_is_exact_is_kept_over_any_climb() -> None:
    """Its family is none that is climbed over, and nothing in that one is as good."""
    found = gap(linear_vae(MODEL, MODEL.exact_posterior()), X, steps=20)
    assert torch.equal(found.amortisation, torch.zeros(250).double())
    torch.testing.assert_close(found.elbo, MODEL.log_evidence(X))


def test_draws_that_chose_do_not_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """A climb that ends beside the best posterior gains nothing; by the draws that choose between
    the two it would."""

    def beside(model, family, tile, q, *settings) -> DiagonalNormal:
        return DiagonalNormal(q.mean + 0.005 * normal(61, *q.mean.shape), q.stddev)

    def by_the_same(model, tile, posteriors, seed: int, purpose: str) -> Tensor:
        return refining.paired_elbos(model, tile, posteriors, seed, "gap, judge")

    def gained() -> float:
        found = gap(linear_vae(MODEL, BEST), X).amortisation
        return float(found.mean() / (found.std() / math.sqrt(len(X))))

    monkeypatch.setattr(gaps, "_top", beside)
    assert gained() < SURELY_WRONG
    monkeypatch.setattr(gaps, "paired_elbos", by_the_same)
    assert gained() > SURELY_WRONG


def test_held_out_rows_are_compared_with_training_rows() -> None:
    """An encoder that is right about some rows and wrong about others."""
    poor = a_poor_posterior(MODEL)
    right, wrong = (
        gap(linear_vae(MODEL, q), rows, steps=40) for q, rows in ((BEST, X[:125]), (poor, X[125:]))
    )
    difference = encoder_gap(wrong, right)
    exact = MODEL.kl_to_exact(X[125:], poor) - MODEL.kl_to_exact(X[125:], BEST)
    assert difference.error is not None
    assert difference.error == pytest.approx(float(exact.std()) / math.sqrt(125), rel=0.1)
    assert difference.value == pytest.approx(float(exact.mean()), abs=0.1)
    assert encoder_gap(right, wrong) == Mean(value=-difference.value, error=difference.error)
    alone = Gap(elbo=torch.zeros(1).double(), refined_elbo=torch.ones(1).double())
    assert encoder_gap(alone, right).error is None


# ---- starts ------------------------------------------------------------------------------------


class Peaks(torch.distributions.Distribution):
    """log p(x|z) with a peak of sd 0.2 at z = x and one at z = 0, of the given log-heights."""

    def __init__(self, z: Tensor, heights: tuple[float, float]) -> None:
        self.z, self.heights = z, heights
        super().__init__(z.shape[:-1], torch.Size([1]), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        peaks = (
            height - 0.5 * ((self.z - place) / 0.2).square().sum(-1)
            for height, place in zip(self.heights, (value, 0.0), strict=True)
        )
        return torch.logaddexp(*peaks)


class TwoPeaks(unveil.LatentVariableModel):
    """p(z) = N(0, 1), two peaks in p(x|z), and an encoder that looks at the far one."""

    def __init__(self, far: float, near: float) -> None:
        super().__init__()
        self.num_latents, self.heights = 1, (far, near)
        self.p_z = unveil.StandardNormal(1).double()

    def prior(self, given=None):
        return self.p_z(given)

    def likelihood(self, z, given=None):
        return Peaks(z, self.heights)

    def posterior(self, x, given=None):
        return DiagonalNormal(x, torch.full_like(x, 0.4))

    def log_evidence(self, x: Tensor) -> Tensor:
        """By the trapezium rule, whose error vanishes for peaks that are so many steps wide."""
        z = torch.linspace(-8, 8, 4001).double()[:, None, None].expand(-1, len(x), -1)
        return self.log_joint(x, z).logsumexp(0) + math.log(16 / 4000)


FAR = 3 + 0.01 * torch.arange(20).double()[:, None]


def test_a_climb_from_zero_alone_ends_below_an_encoder_that_ours_never_does() -> None:
    model = TwoPeaks(far=0.0, near=-12.0)
    found = gap(model, FAR, steps=60)
    start = torch.zeros_like(FAR), torch.full_like(FAR, 0.1)
    from_zero = refine(model, FAR, start=start, steps=60).after
    assert (from_zero < found.elbo - 1).all()
    assert (found.amortisation > 0.1).all()
    assert found.approximation(model.log_evidence(FAR)).abs().max() < 0.02


def test_a_climb_from_the_encoder_alone_stays_at_a_peak_that_ours_leaves() -> None:
    model = TwoPeaks(far=-12.0, near=0.0)
    found = gap(model, FAR, steps=60)
    from_encoder = refine(model, FAR, steps=60).after
    assert (from_encoder < found.refined_elbo - 1).all()
    assert found.approximation(model.log_evidence(FAR)).abs().max() < 0.02


def test_the_mode_is_the_higher_of_two() -> None:
    (tile,) = tiles(FAR)
    zero, one = torch.zeros_like(tile.x), torch.ones_like(tile.x)
    for far, near, place in ((0.0, -12.0, tile.x / (1 + 0.04)), (-12.0, 0.0, zero)):
        mode, sd = laplace(TwoPeaks(far, near), tile, (tile.x, one), (zero, one), cosine(100))
        torch.testing.assert_close(mode, place, rtol=0.0, atol=1e-3)
        # −∂² log p(x, z) = 1/0.2² + 1
        torch.testing.assert_close(sd, one / math.sqrt(26), rtol=1e-4, atol=0.0)


def test_the_laplace_start_is_the_exact_mean_with_the_conditional_sds() -> None:
    far = GaussianPosterior(gain=-BEST.gain, covariance=9 * BEST.covariance)
    vae = linear_vae(MODEL, far)
    (tile,) = tiles(X)
    with torch.no_grad():
        q = vae.posterior(tile.x)
        mode, sd = laplace(vae, tile, (q.mean, q.stddev), prior_moments(vae, tile, 0), cosine(300))
    exact = (X - MODEL.mean) @ BEST.gain.T
    conditional = BEST.covariance.diagonal().sqrt()
    error = ((mode[:250] - exact) / conditional).abs().max()
    assert error < 1e-3
    torch.testing.assert_close(sd[:250], conditional.expand(250, 3))
    marginal = MODEL.exact_posterior().covariance.diagonal().sqrt()  # the mutant
    assert ((sd[:250] - marginal).abs() / conditional > 0.05).any()


def test_the_laplace_start_is_no_wider_than_the_prior_where_nothing_curves() -> None:
    model = LogNormalWeights(1.0)  # log p(x, z) = −½ (z − 1)² + c
    (tile,) = tiles(torch.zeros(2, 1).double())
    one = torch.ones(256, 1).double()
    mode, sd = laplace(model, tile, (one, one), (0 * one, 0.5 * one), cosine(300))
    torch.testing.assert_close(mode, one, atol=1e-3, rtol=0.0)
    torch.testing.assert_close(sd, 0.5 * one)


def test_a_prior_without_closed_moments_is_summed_up_by_draws() -> None:
    vae = nonlinear_vae(unveil.Gaussian(3)).double()
    vae.p_z = unveil.GaussianMixture(2, 3, seeded(65)).double()
    with torch.no_grad():
        vae.p_z.loc.copy_(torch.tensor([4.0, -1.0]).expand(3, 2))
    (tile,) = tiles(normal(61, 256, 3))
    with torch.no_grad():
        mean, sd = prior_moments(vae, tile, 0)
        exact = vae.prior().mean
    assert z_score(mean, exact) < SURELY_WRONG
    assert z_score(mean, 0.0) > CAUGHT
    assert float((sd / sd.mean(0) - 1).abs().max()) < 0.5


# ---- a result belongs to its row ---------------------------------------------------------------

ROWS = 290  # one whole tile and a padded one
CASES: dict[str, tuple[Callable[[], unveil.VAE], Callable[[], Tensor]]] = {
    "width 13": (
        lambda: nonlinear_vae(unveil.Gaussian(5, unveil.CellScale()), latents=3, width=13),
        lambda: with_gaps(normal(62, ROWS, 5).float(), seed=63),
    ),
    "width 64, images": (
        lambda: nonlinear_vae(unveil.Bernoulli((4, 5)), latents=7, width=64, gaps=False),
        lambda: (normal(64, ROWS, 4, 5) > 0).float(),
    ),
}


@pytest.mark.parametrize(("make", "rows"), CASES.values(), ids=CASES)
def test_a_gap_is_bitwise_the_row_s_own(
    monkeypatch: pytest.MonkeyPatch, make: Callable[[], unveil.VAE], rows: Callable[[], Tensor]
) -> None:
    monkeypatch.setattr(refining, "JUDGING_DRAWS", 8)
    vae, x = make(), rows()
    whole = gap(vae, x, steps=4)
    for index in (torch.arange(ROWS - 1, -1, -1), torch.tensor([280, 3, 77, 5])):
        part = gap(vae, x[index], steps=4)
        assert torch.equal(part.elbo, whole.elbo[index])
        assert torch.equal(part.refined_elbo, whole.refined_elbo[index])
    assert not torch.equal(gap(vae, x[:9], steps=4, seed=1).elbo, whole.elbo[:9])


def test_a_row_that_shows_nothing_has_no_gap() -> None:
    vae = nonlinear_vae(unveil.Gaussian(3)).double()
    found = gap(vae, torch.full((1, 3), torch.nan).double(), steps=20)
    assert torch.equal(found.elbo, torch.zeros(1).double())
    assert found.amortisation.abs().max() < 1e-3


# ---- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"steps": 0}, r"expected steps of at least 1"),
        ({"num_samples": 0}, r"expected num_samples of at least 1"),
        ({"family": unveil.FlowPosterior(3, context=2)}, r"got FlowPosterior with parameters that"),
    ],
)
def test_settings_that_make_no_climb_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        gap(linear_vae(MODEL, BEST), X, **settings)


def test_an_elbo_that_is_no_number_is_refused_with_its_row() -> None:
    vae, x = linear_vae(MODEL, BEST), X[:5].clone()
    x[3] = math.inf
    with pytest.raises(ArithmeticError, match=r"log-densities, got nan in row 3"):
        gap(vae, x, steps=2)
