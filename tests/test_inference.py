"""p(z|x) as something to work with, against posteriors that are known, and chains that are."""

import math
from functools import cache

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
from unveil import inference as module
from unveil import tiles
from unveil.diagnostics.mixing import effective_draws, split_rhat
from unveil.distributions import DiagonalNormal
from unveil.evidence.hmc import Bridge, Point
from unveil.evidence.importance import importance
from unveil.evidence.tuning import Sizes
from unveil.evidence.weights import Tally, Weights
from unveil.inference import FEWEST_EFFECTIVE_OF_CHAINS, LARGEST_RHAT, Inference, stands
from unveil.networks.mlp import Decoder, Encoder, FillsGaps

MODEL = a_linear_gaussian()
EXACT = MODEL.exact_posterior()
X = 2 * normal(20, 12, 6)
LOG_P = MODEL.log_evidence(X)


# A move is as many operations for many chains as for a few, so the chains are many and short.
SHORT = {"num_chains": 16, "warm_up": 20, "thin": 2, "num_temperatures": 10}


@cache
def refined() -> Inference:
    return poor().refine(unveil.FullGaussian(3))


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few rows, and no more beside them than show that there are several tiles."""
    monkeypatch.setattr(tiles, "ROWS_PER_TILE", 12)


@cache
def poor() -> Inference:
    return Inference(linear_vae(MODEL, MODEL.mean_field_posterior()), X)


def standardised(z: Tensor) -> Tensor:
    """Draws (sample, row, latent) that are N(0, I) where they are of p(z|x)."""
    chol = torch.linalg.cholesky(EXACT.covariance)
    centred = z.double() - (X - MODEL.mean) @ EXACT.gain.T
    return torch.linalg.solve_triangular(chol, centred[..., None], upper=False)[..., 0]


def worst_z(z: Tensor, effective: float) -> float:
    """The largest |z| of means and covariances over rows together, for so many effective draws."""
    s = standardised(z)
    outer = s[..., :, None] * s[..., None, :] - torch.eye(3).double()
    scores = [t.mean((0, 1)) / t.flatten(0, 1).std(0) for t in (s, outer)]
    return max(float(score.abs().max()) for score in scores) * math.sqrt(effective)


# ---- q and what corrects it --------------------------------------------------------------------


def test_draws_of_a_refined_full_posterior_are_those_of_p_z_x() -> None:
    assert worst_z(refined().draw(1000), 12_000) < SURELY_WRONG
    assert worst_z(poor().draw(1000), 12_000) > CAUGHT
    means = (X - MODEL.mean) @ EXACT.gain.T
    torch.testing.assert_close(refined().means, means, atol=0.02, rtol=0.0)
    assert (refined().khat < poor().khat).all()
    assert "k̂ is below 0.7 in every row" in repr(refined())


def test_hmc_draws_are_those_of_p_z_x_and_its_chains_agree(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hmc = poor().draw_hmc(1280, **SHORT)
    effective = float(hmc.ess.mean()) * len(X)
    assert hmc.z.shape == (1280, 12, 3)
    assert worst_z(hmc.z, effective) < SURELY_WRONG
    assert hmc.rhat.max() < 1.1
    assert (hmc.acceptance > 0.5).all()
    assert (hmc.acceptance < 1).all()

    def without_acceptance(bridge: Bridge, point: Point, **settings) -> tuple[Point, Tensor]:
        noise = settings["noise"].clone()
        noise[..., -1] = -40.0  # luck of 0 accepts everything
        # (A size at which some moves deserve to be turned down.)
        return real(bridge, point, **{**settings, "noise": noise, "size": 1.2 * settings["size"]})

    real = module.hmc
    monkeypatch.setattr(module, "hmc", without_acceptance)
    wrong = poor().draw_hmc(1280, **SHORT)
    assert worst_z(wrong.z, effective) > CAUGHT


def test_the_evidence_of_each_row_stands_between_its_bounds() -> None:
    evidence = poor().evidence(1000, num_temperatures=20, delta=1e-6)
    assert (evidence.certified < LOG_P).all()
    assert (evidence.elbo < LOG_P).all()
    assert z_score((evidence.iwae - LOG_P).exp(), 1.0) < SURELY_WRONG
    assert z_score((evidence.annealed - LOG_P).exp(), 1.0) < SURELY_WRONG
    stands = ~evidence.upper.isnan()
    assert stands.sum() > 8
    assert float((evidence.upper - LOG_P)[stands].mean()) > -0.05
    assert z_score((evidence.iwae - LOG_P + 1).exp(), 1.0) > CAUGHT


@pytest.mark.parametrize("delta", [0.0, 1.0, 1.5])
def test_evidence_that_may_fail_for_certain_is_refused(delta: float) -> None:
    with pytest.raises(ValueError, match=r"expected delta between 0 and 1, got"):
        poor().evidence(10, delta=delta)


def test_a_q_that_is_exact_leaves_every_lower_bound_at_the_evidence() -> None:
    sizes = Sizes(from_posterior=torch.ones(2, 3) / 2, from_prior=torch.ones(2, 3) / 2)
    inference = Inference(linear_vae(MODEL, EXACT), X[:3], sizes=sizes)
    evidence = inference.evidence(100, num_temperatures=5)
    for bound in (evidence.iwae, evidence.annealed):
        torch.testing.assert_close(bound, LOG_P[:3], atol=1e-6, rtol=0.0)


def test_a_poor_q_is_called_poor() -> None:
    narrow = a_poor_posterior(MODEL)
    narrow = type(narrow)(gain=narrow.gain, covariance=EXACT.covariance / 16)
    inference = Inference(linear_vae(MODEL, narrow), X)
    assert (inference.khat > 0.7).any()
    assert "q misses a part of p(z|x)" in repr(inference)


# ---- two modes, q on one -----------------------------------------------------------------------


class TwoModes(unveil.LatentVariableModel):
    """p(z) = N(0, 3²), p(x|z) of one number that knows only |z|; q sees the upper mode alone."""

    num_latents = 1

    def prior(self, given=None):
        return DiagonalNormal(torch.zeros(1).double(), torch.full((1,), 3.0).double())

    def likelihood(self, z, given=None):
        return DiagonalNormal(z.abs(), torch.full_like(z, 0.25))

    def posterior(self, x, given=None):
        return DiagonalNormal(x, torch.full_like(x, 0.25))


def test_what_q_does_not_see_is_heard_of_from_the_prior() -> None:
    x = torch.full((1, 1), 4.0).double()
    inference = Inference(TwoModes(), x)
    # Draws of q cannot tell.
    assert float(inference.khat) < 0.7
    hmc = inference.draw_hmc(512, **SHORT)
    assert (hmc.z > 0).any()
    assert (hmc.z < 0).any()
    assert float(hmc.rhat) > 1.2
    assert any("have not mixed" in sentence for sentence in hmc.warnings)
    assert any("worth fewer than" in sentence for sentence in hmc.warnings)


# ---- a result belongs to its row ---------------------------------------------------------------


def figures(inference: Inference) -> list[Tensor]:
    """Everything that is said of a row, rows first."""
    sized = Inference(inference.model, inference.x, inference.given, SIZES)
    evidence = sized.evidence(30, num_temperatures=2, num_chains=2)
    hmc = sized.draw_hmc(40, num_temperatures=2, warm_up=1, thin=1)
    per_row = (evidence.elbo, evidence.iwae, evidence.annealed, evidence.certified, sized.khat)
    draws = (sized.draw(3), hmc.z)
    return [*per_row, sized.means, hmc.rhat, hmc.ess, *(z.transpose(0, 1) for z in draws)]


SIZES = Sizes(from_posterior=torch.full((9, 2), 0.3), from_prior=torch.full((9, 2), 0.3))
ORDER = torch.tensor([17, 3, 11, 0, 5, 3])


def test_rows_keep_their_own_results_under_order_and_subset(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Rows are alike in tiles of whole vectors.
    monkeypatch.setattr(tiles, "ROWS_PER_TILE", 64)
    vae = nonlinear_vae(unveil.Gaussian(5))
    x = with_gaps(normal(40, 20, 5).float(), seed=41)
    x[5] = math.nan
    for steps in (0, 3):
        whole, some = Inference(vae, x), Inference(vae, x[ORDER])
        if steps:
            whole, some = whole.refine(steps=steps), some.refine(steps=steps)
        for all_rows, few_rows in zip(figures(whole), figures(some), strict=True):
            torch.testing.assert_close(
                all_rows[ORDER], few_rows, rtol=0.0, atol=0.0, equal_nan=True
            )


def test_a_row_that_shows_nothing_has_an_evidence_of_zero() -> None:
    vae = nonlinear_vae(unveil.Gaussian(5))
    x = torch.stack([torch.full((5,), math.nan), torch.ones(5)])
    evidence = Inference(vae, x, sizes=SIZES).evidence(30, num_temperatures=2, num_chains=2)
    for bound in (evidence.elbo, evidence.iwae, evidence.annealed, evidence.certified):
        assert float(bound[0]) == 0.0
        assert float(bound[1]) != 0.0
    assert float(evidence.upper[0]) == 0.0


def test_covariates_reach_every_answer() -> None:
    sizes = {"covariates": 1, "width": 8, "depth": 1, "generator": seeded(50)}
    vae = unveil.VAE(
        prior=unveil.StandardNormal(2),
        likelihood=unveil.Conditional(Decoder(2, outputs=3, **sizes), unveil.Gaussian(3)),
        posterior=unveil.Conditional(
            Encoder((3,), outputs=4, gaps=FillsGaps(), **sizes), unveil.DiagonalGaussian(2)
        ),
    )
    x, given = normal(51, 9, 3).float(), normal(52, 9, 1).float()
    inference = Inference(vae, x, given).refine(steps=3)
    # Simulated rows have covariates and posteriors of their own.
    assert inference.evidence(10, num_temperatures=2, num_chains=2).iwae.shape == (9,)
    there, back = figures(inference), figures(Inference(vae, x, -given).refine(steps=3))
    moved = [
        (a != b).flatten(1).any(1) if a.dim() > 1 else a != b
        for a, b in zip(there, back, strict=True)
    ]
    assert all(m.all() for m in moved)


def test_importance_of_a_refined_model_weighs_with_the_refined_q() -> None:
    result = importance(refined().model, X, num_samples=100)
    assert float((LOG_P - result.elbo).abs().max()) < 0.02
    assert float((LOG_P - result.log_evidence).abs().max()) < 0.01
    assert float((LOG_P - importance(poor().model, X, num_samples=100).elbo).mean()) > 0.2


# ---- what stands -------------------------------------------------------------------------------


def as_weights(log_w: Tensor) -> Weights:
    """Weights of draws (sample, row)."""
    tally = Tally(len(log_w), log_w.shape[1], delta=0.05)
    tally.add(log_w)
    return Weights.joined([tally.result(torch.ones(log_w.shape[1], dtype=torch.bool))])


def test_an_upper_bound_stands_unless_one_of_three_rules_says_otherwise() -> None:
    """In each row but the first one rule alone is broken."""
    even = 0.1 * normal(80, 32, 4)
    fresh, pilot = even.clone(), even.clone()
    fresh[0, 1] += 6.0  # one chain counts for all others
    pilot[:, 1] = fresh[:, 1].logsumexp(0) - math.log(32)
    pilot[:, 2] -= 3.0  # the two disagree
    upper = torch.full((4,), 1.0).double()
    certified = torch.tensor([0.0, 0.0, 0.0, 1.5]).double()
    shown = stands(as_weights(fresh), as_weights(pilot), upper, certified)
    assert shown.tolist() == [True, False, False, False]


def test_methods_of_which_the_better_is_shown_share_the_chance_of_failing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def watched(of):
        def asks(*arguments, delta: float, **settings):
            asked.append(delta)
            return of(*arguments, delta=delta, **settings)

        return asks

    for name in ("importance", "anneal"):
        monkeypatch.setattr(module, name, watched(getattr(module, name)))
    found = poor().evidence(50, delta=0.1, num_temperatures=4, num_chains=4)
    assert (found.delta, asked) == (0.1, [0.05, 0.05, 0.05])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"n": 0}, "expected n of at least 1"),
        ({"n": 9, "num_chains": 3}, "expected an even number of chains, got 3"),
        ({"n": 9, "thin": 0}, "expected thin of at least 1"),
        ({"n": 9, "warm_up": -1}, "expected warm_up of at least 0"),
    ],
)
def test_settings_that_make_no_chains_are_refused(settings: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        poor().draw_hmc(**settings)


# ---- R̂ and effective draws --------------------------------------------------------------------


def auto_regressive(correlation: float, draws: int, chains: int, events: int) -> Tensor:
    """Stationary chains with corr(z_t, z_t+1) = correlation, (draw, chain, event)."""
    noise = normal(60, draws, chains, events)
    states = [noise[0]]
    for one in noise[1:]:
        states.append(correlation * states[-1] + math.sqrt(1 - correlation**2) * one)
    return torch.stack(states)


@pytest.mark.parametrize("correlation", [-0.3, 0.0, 0.5, 0.9])
def test_effective_draws_of_a_chain_are_what_its_correlation_leaves(correlation: float) -> None:
    """S (1 − ρ)/(1 + ρ) for the mean; the tails of an antithetic chain are worth less."""
    effective = effective_draws(auto_regressive(correlation, 2000, 4, 20)).mean()
    known = 8000 * (1 - correlation) / (1 + correlation)
    assert float(effective) == pytest.approx(min(known, 8000.0), rel=0.15)


def test_split_rhat_is_one_for_chains_that_agree_and_sees_three_ways_of_disagreeing() -> None:
    alike = normal(61, 1000, 4, 1)
    first = torch.tensor([1.0, 0.0, 0.0, 0.0]).double()[None, :, None]
    assert float(split_rhat(alike)) < LARGEST_RHAT
    trend = torch.linspace(-1, 1, 1000).double()[:, None, None]
    for apart in (alike + first, alike * (1 + 2 * first), alike + trend):
        assert float(split_rhat(apart)) > 1.05
    assert float(split_rhat(torch.zeros(100, 4, 1))) == math.inf
    assert float(effective_draws(torch.zeros(100, 4, 1))) < FEWEST_EFFECTIVE_OF_CHAINS
    heavy = torch.tan(math.pi * (torch.special.ndtr(alike) - 0.5))  # Cauchy, without a mean
    assert float(split_rhat(heavy)) < LARGEST_RHAT


def test_split_rhat_of_normal_scores_is_the_formula() -> None:
    """Of two halves whose ranks are known: 1, 2 | 3, 4 … by hand from the ranks."""
    chains = torch.arange(16.0).double().reshape(2, 8).T[..., None]
    scores = torch.special.ndtri((torch.arange(1.0, 17.0).double() - 0.375) / 16.25)
    halves = scores.reshape(4, 4)
    within, between = halves.var(1).mean(), halves.mean(1).var()
    expected = ((3 / 4 * within + between) / within).sqrt()
    assert float(split_rhat(chains)) == pytest.approx(float(expected))


def test_too_few_draws_for_chains_are_refused() -> None:
    with pytest.raises(ValueError, match="expected at least 8 draws of each chain, got 7"):
        split_rhat(torch.zeros(7, 2))
