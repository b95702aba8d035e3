"""Calibration: silent where q(z|x) is p(z|x), and loud where it is not."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Generator, Tensor

import unveil
from linear_model import LinearModel
from oracles import CAUGHT, SURELY_WRONG, chi_square_z, linear_vae, normal, with_gaps
from unveil.diagnostics.calibration import Calibration, Sampler, calibrate, encoder_draws
from unveil.diagnostics.uniformity import (
    Words,
    ecdf_band,
    holm,
    uniformities,
    uniformity_pvalue,
)
from unveil.evidence.linear_gaussian import GaussianPosterior
from unveil.noise import RowStreams
from unveil.tiles import row_digests

LIKE = torch.zeros(1, 6, dtype=torch.float64)


def unevenness(u: Tensor, bins: int = 20) -> float:
    """Pearson's chi-square of u over equal bins, as a normal score."""
    counts = torch.histc(u.double(), bins, 0.0, 1.0)
    return chi_square_z(counts, torch.full_like(counts, 1 / bins))


def worst(found: Calibration) -> float:
    return max(unevenness(test.u) for test in found.tests.values())


# ---- values that should be uniform --------------------------------------------------------------


def test_p_values_are_uniform_where_values_are() -> None:
    """And those of raw ranks, or of a two-sample test against a grid, are not."""
    random = np.random.default_rng(0)
    u = random.random((3000, 500))
    p = torch.tensor([uniformity_pvalue(torch.from_numpy(row)) for row in u])
    assert abs(unevenness(p, 50)) < SURELY_WRONG
    ranks = random.integers(0, 21, (300, 500)) / 20
    grid = np.linspace(0, 1, 500)
    mutants = {
        "ranks without randomising": [stats.kstest(row, "uniform")[1] for row in ranks],
        "two samples": [stats.ks_2samp(row, grid, method="asymp")[1] for row in u[:300]],
    }
    for p_values in mutants.values():
        assert unevenness(torch.tensor(p_values)) > CAUGHT


def test_a_p_value_is_that_of_four_moments_by_hand() -> None:
    u = torch.rand(50, generator=Generator().manual_seed(3), dtype=torch.float64)
    x = 2 * u - 1
    legendre = [x, (3 * x**2 - 1) / 2, (5 * x**3 - 3 * x) / 2, (35 * x**4 - 30 * x**2 + 3) / 8]
    statistic = sum((2 * j + 3) * float(p.sum()) ** 2 / 50 for j, p in enumerate(legendre))
    assert uniformity_pvalue(u) == pytest.approx(float(stats.chi2.sf(statistic, 4)))


@pytest.mark.parametrize("values", [[], [1.5], [math.nan, 0.5]])
def test_what_is_no_share_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match=r"^expected values from 0 to 1"):
        uniformity_pvalue(torch.tensor(values))


def test_the_ecdf_counts_values_up_to_each_place() -> None:
    u = torch.cat([torch.rand(200, generator=Generator().manual_seed(4)).double(), torch.ones(1)])
    u[0] = 0.5  # a value that stands at a place is counted there
    test = uniformities({"z": u})["z"]
    assert test.ecdf == tuple(float((u <= k / 50).double().mean()) for k in range(1, 50))
    assert test.document()["ecdf"] == list(test.ecdf)
    assert test.document()["rows"] == 201


@pytest.mark.parametrize("width", [0.5, 0.85, 1.0, 2.0])
def test_the_width_is_that_of_normal_draws(width: float) -> None:
    truth = normal(60, 100_000)
    test = uniformities({"z": torch.special.ndtr(truth / width)})["z"]
    assert test.width == pytest.approx(width, rel=0.02)
    assert test.shift == pytest.approx(0.0, abs=0.03)
    expected = math.erf(width * 1.6448536 / math.sqrt(2))
    assert test.intervals_hold(0.9) == pytest.approx(expected, abs=0.01)


def test_the_shift_is_that_of_normal_draws() -> None:
    test = uniformities({"z": torch.special.ndtr(normal(61, 100_000) + 0.3)})["z"]
    assert test.shift == pytest.approx(0.3, abs=0.03)


def test_the_excess_is_what_chance_leaves_unexplained() -> None:
    """Draws half as wide: sup |Φ(2t) − Φ(t)| ≈ 0.16 for endlessly many rows."""
    t = torch.linspace(-4, 4, 8001, dtype=torch.float64)
    known = float((torch.special.ndtr(2 * t) - torch.special.ndtr(t)).max())
    random = normal(62, 200, 400)
    excess = [uniformities({"z": torch.special.ndtr(2 * row)})["z"].excess for row in random]
    above = np.mean(np.array(excess) > known)
    assert above < 0.05 + SURELY_WRONG * math.sqrt(0.05 * 0.95 / 200)
    assert np.mean(excess) > known / 2


def test_holm_is_the_step_down_procedure() -> None:
    """An adjusted p-value is the smallest level at which the procedure rejects its test."""
    pvalues = [0.004, 0.2, 0.011, 0.04, 0.011]
    order = sorted(range(5), key=pvalues.__getitem__)
    for level in (0.01, 0.03, 0.045, 0.06, 0.1, 0.3):
        rejected = set()
        for rank, index in enumerate(order):
            if pvalues[index] > level / (5 - rank):
                break
            rejected.add(index)
        assert {i for i, p in enumerate(holm(pvalues)) if p <= level} == rejected


@pytest.mark.parametrize(("number", "points"), [(50, 10), (400, 50)])
def test_the_band_holds_whole_paths_as_often_as_it_says(number: int, points: int) -> None:
    low, high = ecdf_band(number, 0.9, num_points=points).numpy()
    random = np.random.default_rng(4).multinomial(number, [1 / points] * points, size=20_000)
    ecdf = random.cumsum(1)[:, :-1] / number
    inside = ((ecdf >= low - 1e-12) & (ecdf <= high + 1e-12)).all(1).mean()
    error = math.sqrt(0.09 / 20_000)
    # Counts come in steps, so that the level is kept and not quite met.
    assert 0.9 - SURELY_WRONG * error < inside < 0.95
    share = np.arange(1, points) / points
    narrow, wide = (stats.binom.ppf(q, number, share) / number for q in (0.05, 0.95))
    each_point = ((ecdf >= narrow) & (ecdf <= wide)).all(1).mean()
    assert (0.9 - each_point) / error > CAUGHT


def test_words_follow_the_larger_fault() -> None:
    words = Words(
        too_low="low", too_high="high", too_narrow="narrow", too_wide="wide", otherwise="other"
    )
    t = normal(63, 2000)
    told = [
        uniformities({"z": torch.special.ndtr(z)})["z"].in_words(words)
        for z in (t + 0.5, t - 0.5, t / 0.8, t / 1.3, t)
    ]
    assert told == ["low", "high", "narrow", "wide", "other"]


# ---- q(z|x) that is exact -----------------------------------------------------------------------


def test_every_quantity_is_uniform_where_q_is_exact() -> None:
    found = calibrate(LinearModel(), LIKE, num_simulations=10_000, num_draws=9)
    assert worst(found) < SURELY_WRONG
    for level, share in found.coverage.items():
        assert abs(share - level) < SURELY_WRONG * math.sqrt(level * (1 - level) / 10_000)


def test_p_values_of_an_exact_q_are_uniform_over_repetitions() -> None:
    p = [
        [t.pvalue for t in calibrate(LinearModel(), LIKE, num_simulations=100, num_draws=9,
                                     seed=s).tests.values()]
        for s in range(100)
    ]  # fmt: skip
    for of_one in torch.tensor(p).unbind(1):
        assert abs(unevenness(of_one, 10)) < SURELY_WRONG


def test_gaps_and_covariates_are_those_of_real_rows() -> None:
    like, given = with_gaps(normal(64, 300, 6), seed=1, share=0.4), normal(65, 300, 1)
    found = calibrate(LinearModel(), like, given, num_simulations=3000, num_draws=19)
    assert worst(found) < SURELY_WRONG

    def deaf(x: Tensor, c: Tensor | None, num_draws: int, randomness: Generator) -> Tensor:
        return encoder_draws(LinearModel())(x, None, num_draws, randomness)

    mutant = calibrate(LinearModel(), like, given, sampler=deaf, num_simulations=3000, num_draws=19)
    assert worst(mutant) > CAUGHT


# ---- q(z|x) that is not -------------------------------------------------------------------------


@pytest.mark.parametrize(("gain", "width"), [(1.0, 0.85), (1.0, 2.0), (0.9, 1.0)])
def test_a_wrong_q_is_rejected_every_time(gain: float, width: float) -> None:
    model = LinearModel(gain=gain, width=width)
    assert all(calibrate(model, LIKE, seed=seed).rejected for seed in range(5))


def collapsed() -> unveil.VAE:
    model = LinearModel().model
    gain = torch.zeros_like(model.weight.T)
    return linear_vae(model, GaussianPosterior(gain=gain, covariance=torch.eye(3).double()))


def test_a_collapsed_q_is_seen_by_what_depends_on_the_row_and_by_nothing_else() -> None:
    found = calibrate(collapsed(), LIKE)
    assert not any(test.rejected for test in found.latents)
    assert {"log p(x|z)", "log p(x, z)", "distance to a point"} <= set(found.rejected)
    assert found.sentences[0] == "draws of q(z|x) explain their rows worse than the truth does"


def test_a_fault_is_told_in_words_and_in_json() -> None:
    found = calibrate(LinearModel(width=0.7), LIKE)
    assert "q(z|x) is too narrow in latent 0: its 90% intervals hold" in found.sentences[0]
    assert "simulated from the model" in found.sentences[-1]
    assert found.latents[0].width == pytest.approx(0.7, abs=0.1)
    assert 0.55 < found.coverage[0.9] < 0.8
    document = found.document()
    assert document["coverage"]["0.9"] == found.coverage[0.9]
    assert document["tests"]["latent 0"]["rejected"] is True
    fine = calibrate(LinearModel(), LIKE)
    assert fine.sentences[0].startswith("no fault of q(z|x) was seen: its 90% regions hold")


# ---- draws that are not the encoder's -----------------------------------------------------------


def test_other_draws_are_judged_instead_of_the_encoder_s() -> None:
    poor, exact = LinearModel(gain=0.5, width=2.0), encoder_draws(LinearModel())
    assert calibrate(poor, LIKE).rejected
    assert worst(calibrate(poor, LIKE, sampler=exact, num_simulations=2000)) < SURELY_WRONG


def test_noise_that_rows_share_is_caught() -> None:
    def shared(x: Tensor, given: Tensor | None, num_draws: int, randomness: Generator) -> Tensor:
        one = torch.randn(num_draws, 1, 3, generator=Generator().manual_seed(5), dtype=x.dtype)
        return LinearModel().posterior(x, given).push(one.expand(-1, len(x), -1))

    assert worst(calibrate(LinearModel(), LIKE, sampler=shared, num_draws=19)) > CAUGHT


# ---- rows of which many are equal ---------------------------------------------------------------


def binary_vae(weight: Tensor) -> unveil.VAE:
    """One latent, binary cells: p(x_j = 1|z) = σ(w_j z)."""
    vae = unveil.VAE(
        prior=unveil.StandardNormal(1),
        likelihood=unveil.Conditional(
            torch.nn.Linear(1, len(weight)), unveil.Bernoulli(len(weight))
        ),
        posterior=unveil.Conditional(torch.nn.Linear(len(weight), 2), unveil.DiagonalGaussian(1)),
    ).double()
    with torch.no_grad():
        for p in vae.parameters():
            p.zero_()
        vae.p_x_given_z.network.weight.copy_(weight[:, None])
    return vae


def by_grid(vae: unveil.VAE, x: Tensor, u: Tensor) -> Tensor:
    """z of p(z|x) by its distribution function on a grid, from u (sample, row, 1)."""
    grid = torch.linspace(-7, 7, 1401, dtype=torch.float64)
    log_p = vae.log_joint(x, grid[:, None, None].expand(-1, len(x), 1))
    up_to = log_p.softmax(0).cumsum(0).T.contiguous()
    which = torch.searchsorted(up_to, u[..., 0].T.contiguous()).clamp(max=1400)
    within = 0.01 * (u * 1e6 % 1 - 0.5)
    return grid[which].T[..., None] + within


def own(vae: unveil.VAE) -> Sampler:
    def sampler(x: Tensor, given: Tensor | None, num_draws: int, randomness: Generator) -> Tensor:
        u = torch.rand(num_draws, len(x), 1, generator=randomness, dtype=torch.float64)
        return by_grid(vae, x, u)

    return sampler


def streams(vae: unveil.VAE) -> Sampler:
    def sampler(x: Tensor, given: Tensor | None, num_draws: int, randomness: Generator) -> Tensor:
        return by_grid(vae, x, RowStreams(0, "mutant", row_digests(x)).uniform(num_draws, 1))

    return sampler


def test_equal_rows_have_noise_of_their_own() -> None:
    vae, like = binary_vae(torch.tensor([2.0, -1.0, 0.5])), torch.zeros(1, 3, dtype=torch.float64)
    ask = partial(calibrate, vae, like, num_simulations=4000, num_draws=19)
    assert worst(ask(sampler=own(vae))) < SURELY_WRONG
    assert worst(ask(sampler=streams(vae))) > CAUGHT


def test_quantities_that_tie_are_ranked_at_random() -> None:
    """A decoder that ignores z makes log p(x|z) one number: every rank is a tie."""
    vae, like = binary_vae(torch.zeros(3)), torch.zeros(1, 3, dtype=torch.float64)
    found = calibrate(vae, like, num_simulations=4000, num_draws=4)
    assert unevenness(found.log_likelihood.u) < SURELY_WRONG
    assert worst(found) < SURELY_WRONG
    below = replace(found.log_likelihood, u=found.log_likelihood.u / 5)  # ties counted as above
    assert unevenness(below.u) > CAUGHT


# ---- how it is asked ----------------------------------------------------------------------------


def test_calibration_is_a_function_of_its_seed_and_moves_no_global_state() -> None:
    state = torch.get_rng_state()
    a, b, other = (calibrate(LinearModel(), LIKE, num_simulations=300, seed=s) for s in (0, 0, 1))
    assert torch.equal(a.distance.u, b.distance.u)
    assert not torch.equal(a.distance.u, other.distance.u)
    assert torch.equal(torch.get_rng_state(), state)
    assert a.num_simulations == 300


def test_what_cannot_be_simulated_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^expected at least 1 draw, got 0$"):
        calibrate(LinearModel(), LIKE, num_draws=0)
    with pytest.raises(ValueError, match=r"^expected at least 1 simulated row, got 0$"):
        calibrate(LinearModel(), LIKE, num_simulations=0)
    with pytest.raises(ValueError, match=r"^expected a row with something observed, got none"):
        calibrate(LinearModel(), torch.full_like(LIKE, math.nan))
    with pytest.raises(
        ArithmeticError, match=r"^expected log-densities of simulated rows, got NaN"
    ):
        calibrate(LinearModel(width=math.nan), LIKE)
