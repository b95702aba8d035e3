"""Importance sampling against evidence that is known."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import unveil
from oracles import (
    CAUGHT,
    SURELY_WRONG,
    a_linear_gaussian,
    gauss_hermite,
    linear_vae,
    log_mean_weight,
    nonlinear_vae,
    normal,
    z_score,
)
from unveil.check.models import LogNormalWeights
from unveil.evidence.importance import importance
from unveil.evidence.weights import markov_slack
from unveil.tiles import FLOATS_PER_CHUNK, ROWS_PER_TILE, Tile, chunks, row_digests

NAN = math.nan

# E log (1/K) Σ w_k for log w ~ N(−s²/2, s²): the table of Monte Carlo figures, to its digits.
TABLE = {(1.0, 64): (-0.0123, 0.0003), (2.0, 64): (-0.157, 0.002)}


def distinct_rows(number: int) -> Tensor:
    """Rows whose only purpose is to have noise of their own."""
    return torch.arange(number, dtype=torch.float64)[:, None]


# ---- log-normal weights ------------------------------------------------------------------------


@pytest.mark.parametrize("s", [1.0, 2.0])
def test_log_normal_weights_have_their_known_bounds(s: float) -> None:
    result = importance(LogNormalWeights(s), distinct_rows(6000), num_samples=64)
    known, digits = TABLE[s, 64]
    error = result.log_evidence.mean() - known
    assert abs(error) < SURELY_WRONG * result.log_evidence.std() / math.sqrt(6000) + digits
    by_numpy = log_mean_weight(s, 64, seed=1, repeats=20_000)
    assert z_difference(result.log_evidence, by_numpy) < SURELY_WRONG
    assert z_score(result.elbo, -(s**2) / 2) < SURELY_WRONG
    mutants = {
        "log K forgotten": result.log_evidence + math.log(64),
        "averaged over rows instead of draws": result.elbo,
    }
    for mutant in mutants.values():
        assert z_difference(mutant, by_numpy) > CAUGHT


def z_difference(a: Tensor, b: Tensor) -> float:
    error = a.mean() - b.mean()
    return float(error.abs() / (a.var() / len(a) + b.var() / len(b)).sqrt())


def test_the_effective_sample_size_is_that_of_the_weights() -> None:
    """K/(1 + χ²) with χ² = e^{s²} − 1, to first order in 1/K."""
    ess = importance(LogNormalWeights(0.5), distinct_rows(500), num_samples=2000).ess
    assert (ess >= 1).all()
    assert (ess <= 2000).all()
    assert float(ess.mean()) == pytest.approx(2000 / math.exp(0.25), rel=0.02)


def test_the_variance_over_draws_is_the_one_that_is_seen() -> None:
    result = importance(LogNormalWeights(0.5), distinct_rows(3000), num_samples=200)
    stated, seen = result.log_evidence_variance.mean(), result.log_evidence.var()
    assert float(stated) == pytest.approx(float(seen), rel=0.1)


def wrongly_certified(repeats: int) -> float:
    """How far the share of data sets, a tile each, that are certified above log p(x) = 0 exceeds
    δ = 0.05, in standard errors."""
    x = distinct_rows(repeats * ROWS_PER_TILE)
    means = importance(LogNormalWeights(1.0), x, num_samples=16).log_evidence.view(repeats, -1)
    slack = markov_slack(row_digests(x[:ROWS_PER_TILE]), 0.05)
    share = float((means.mean(1) - slack > 0).double().mean())
    return (share - 0.05) / math.sqrt(0.05 * 0.95 / repeats)


def test_a_data_set_is_certified_only_with_noise_of_each_row_s_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Noise that rows share makes a certificate at 5 % fail more often than one time in three."""
    own = Tile.noise

    def broadcast(tile: Tile, seed: int, purpose: str, num_latents: int):
        noise = own(tile, seed, purpose, num_latents)
        return lambda number: noise(number)[:, :1].expand(-1, len(tile.x), -1)

    assert wrongly_certified(40) < 0
    monkeypatch.setattr(Tile, "noise", broadcast)
    assert wrongly_certified(40) > SURELY_WRONG


def test_every_row_is_certified_and_judged_by_its_weights() -> None:
    x = distinct_rows(2000)
    result = importance(LogNormalWeights(1.0), x, num_samples=64, delta=0.2)
    weights = result.weights
    assert (weights.num_samples, weights.delta) == (result.num_samples, 0.2) == (64, 0.2)
    assert torch.equal(weights.log_mean, result.log_evidence)
    assert torch.equal(weights.ess, result.ess)
    assert (weights.certified < weights.log_mean).all()
    assert float((weights.certified > 0).double().mean()) < 0.2
    looser = importance(LogNormalWeights(1.0), x[:9], num_samples=64, delta=0.01).weights
    assert (looser.certified < weights.certified[:9]).all()
    assert float(weights.log_sd.mean()) == pytest.approx(1.0, abs=0.02)
    assert weights.khat.isfinite().all()


# ---- a posterior that is exact, and one that is not ---------------------------------------------


def test_with_the_exact_posterior_one_draw_is_the_evidence() -> None:
    model = a_linear_gaussian()
    x = 2 * normal(50, 300, 6)
    result = importance(linear_vae(model, model.exact_posterior()), x, num_samples=1)
    torch.testing.assert_close(result.log_evidence, model.log_evidence(x), rtol=0.0, atol=1e-10)
    torch.testing.assert_close(result.elbo, model.log_evidence(x), rtol=0.0, atol=1e-10)
    assert result.rate_per_unit is None
    torch.testing.assert_close(result.ess, torch.ones(300).double())


def test_with_a_mean_field_posterior_many_draws_approach_the_evidence_from_below() -> None:
    model = a_linear_gaussian()
    x = normal(51, 200, 6)
    vae = linear_vae(model, model.mean_field_posterior())
    exact = model.log_evidence(x)
    few, many = (importance(vae, x, num_samples=k).log_evidence - exact for k in (5, 500))
    assert few.mean() < many.mean() < 3 * many.std() / math.sqrt(200)
    assert many.mean() > -0.02


def test_the_elbo_is_the_closed_form_in_expectation() -> None:
    model = a_linear_gaussian()
    q = model.mean_field_posterior()
    x = normal(52, 2000, 6)
    result = importance(linear_vae(model, q), x, num_samples=1)
    assert z_score(result.elbo - model.elbo(x, q), 0.0) < SURELY_WRONG
    assert z_score(result.elbo + result.rate / 2 - model.elbo(x, q), 0.0) > CAUGHT


def test_the_evidence_of_a_row_with_gaps_is_that_of_what_was_observed() -> None:
    """Against quadrature over the one latent, for a decoder that is not linear."""
    vae = nonlinear_vae(unveil.Bernoulli(4), latents=1).double()
    x = torch.tensor([[1.0, 0.0, NAN, 1.0], [NAN, NAN, 0.0, NAN]], dtype=torch.float64)
    nodes, weights = gauss_hermite(100)
    log_p = vae.likelihood(nodes[:, None, None].expand(-1, 2, 1)).log_prob(x)
    exact = (weights[:, None] * log_p.exp()).sum(0).log()
    result = importance(vae, x, num_samples=4000)
    error = (result.log_evidence - exact) / result.log_evidence_variance.sqrt()
    assert error.abs().max() < SURELY_WRONG


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_evidence_of_a_row_with_nothing_observed_is_exactly_zero(dtype: torch.dtype) -> None:
    vae = nonlinear_vae(unveil.Gaussian(3)).to(dtype)
    x = torch.full((3, 3), NAN, dtype=dtype)
    x[1] = 0.5
    result = importance(vae, x, num_samples=50)
    for figure in (result.log_evidence, result.distortion, result.rate, result.elbo):
        assert figure[[0, 2]].tolist() == [0.0, 0.0]
    assert result.log_evidence[1] != 0.0


# ---- how it is asked ---------------------------------------------------------------------------


def test_importance_is_a_function_of_its_seed_and_moves_no_global_state() -> None:
    vae, x = nonlinear_vae(unveil.Gaussian(3)), normal(53, 20, 3).float()
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    a, b, other = (importance(vae, x, num_samples=7, seed=s).log_evidence for s in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, other)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()


def test_the_rate_is_split_over_latents() -> None:
    result = importance(nonlinear_vae(unveil.Gaussian(3)), normal(54, 20, 3).float(), num_samples=3)
    assert result.rate_per_unit is not None
    torch.testing.assert_close(result.rate_per_unit.sum(-1), result.rate)


def test_less_than_one_draw_and_no_confidence_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^expected at least 1 draw per row, got 0$"):
        importance(LogNormalWeights(1.0), distinct_rows(1), num_samples=0)
    with pytest.raises(ValueError, match=r"^expected delta between 0 and 1, got 1.0"):
        importance(LogNormalWeights(1.0), distinct_rows(1), num_samples=1, delta=1.0)


class Overflowing(unveil.LatentVariableModel):
    """Log-weights of one value at every row whose number is 3 or more."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.num_latents, self.value, self.inner = 1, value, LogNormalWeights(1.0)

    def prior(self, given=None):
        return self.inner.prior(given)

    def likelihood(self, z, given=None):
        return _Value(z, self.value)

    def posterior(self, x, given=None):
        return self.inner.posterior(x, given)


class _Value(torch.distributions.Distribution):
    def __init__(self, z: Tensor, value: float) -> None:
        self.value = value
        super().__init__(z.shape[:-1], torch.Size([1]), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        plain = torch.zeros(self.batch_shape, dtype=value.dtype)
        return torch.where(value[:, 0] >= 3, self.value, plain)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_weight_that_is_no_number_is_refused_with_its_row(value: float) -> None:
    with pytest.raises(ArithmeticError, match=rf"log-weights, got {value} in row 3"):
        importance(Overflowing(value), distinct_rows(6), num_samples=4)


def test_a_row_that_no_draw_can_have_made_has_evidence_zero() -> None:
    result = importance(Overflowing(-math.inf), distinct_rows(6), num_samples=4)
    assert result.log_evidence.tolist() == [0.0] * 3 + [-math.inf] * 3
    assert not result.ess.isnan().any()
    assert not result.log_evidence_variance.isnan().any()
    assert result.weights.certified[3:].tolist() == [-math.inf] * 3


def test_chunks_cover_the_draws_once_and_stay_small() -> None:
    for floats in (1, 1000, FLOATS_PER_CHUNK, 10 * FLOATS_PER_CHUNK):
        sizes = list(chunks(37, floats))
        assert sum(sizes) == 37
        assert all(size * floats <= max(floats, FLOATS_PER_CHUNK) for size in sizes)


def test_progress_ends_at_one() -> None:
    heard: list[float] = []
    importance(LogNormalWeights(1.0), distinct_rows(600), num_samples=2, on_tile=heard.append)
    assert heard == sorted(heard)
    assert heard[-1] == 1.0
