"""What weights say of log p(x), against weights whose law is known: log-normal and Pareto."""

import math

import numpy as np
import pytest
import torch
from scipy import optimize, stats
from torch import Tensor

from oracles import CAUGHT, SURELY_WRONG, log_mean_weight, normal, z_score
from unveil.evidence import weights as module
from unveil.evidence.weights import (
    Tally,
    Weights,
    betting_bound,
    markov_slack,
    pareto_khat,
    tail_size,
)
from unveil.tiles import ROWS_PER_TILE, RowsAlike, row_digests

DELTA = 0.05
FIGURES = ("log_mean", "ess", "log_sd", "khat", "certified")


def log_normal(s: float, num_samples: int, rows: int, *, seed: int = 0) -> Tensor:
    """log w ~ N(−s²/2, s²), (draw, row): E w = 1."""
    return s * normal(seed, num_samples, rows) - s**2 / 2


def weighed(log_w: Tensor, *, chunk: int = 10**9, delta: float = DELTA) -> Weights:
    tally = Tally(len(log_w), log_w.shape[1], delta)
    for part in log_w.split(min(chunk, len(log_w))):
        tally.add(part)
    return tally.result(torch.ones(log_w.shape[1], dtype=torch.bool))


def miscoverage_z(lower_bounds: Tensor) -> float:
    """How far the share of bounds above log E w = 0 exceeds δ, in standard errors."""
    share = float((lower_bounds > 0).double().mean())
    return (share - DELTA) / math.sqrt(DELTA * (1 - DELTA) / len(lower_bounds))


# ---- figures that are sums ---------------------------------------------------------------------

# E log (1/K) Σ w_k for log-normal weights, to the digits that Monte Carlo gave.
TABLE = {
    (1.0, 64): (-0.0123, 0.0003),
    (2.0, 64): (-0.157, 0.002),
    (2.0, 1024): (-0.015, 0.002),
    (3.0, 64): (-0.794, 0.005),
    (3.0, 1024): (-0.232, 0.005),
}


@pytest.mark.parametrize(("s", "num_samples"), TABLE)
def test_the_mean_of_log_normal_weights_is_the_known_bound(s: float, num_samples: int) -> None:
    known, digits = TABLE[s, num_samples]
    rows = 250_000 // num_samples
    ours = weighed(log_normal(s, num_samples, rows)).log_mean
    se = ours.std() / math.sqrt(rows)
    assert abs(ours.mean() - known) < SURELY_WRONG * se + digits
    by_numpy = log_mean_weight(s, num_samples, seed=1, repeats=rows)
    assert abs(ours.mean() - by_numpy.mean()) < SURELY_WRONG * math.sqrt(2) * se


@pytest.mark.parametrize("num_samples", [1, 2, 24, 25, 700, 1024, 3000])
def test_the_sums_are_those_of_brute_force(num_samples: int) -> None:
    log_w = log_normal(1.0, num_samples, 5)
    got, w = weighed(log_w, chunk=77), np.exp(log_w.numpy())
    np.testing.assert_allclose(got.log_mean, np.log(w.mean(0)), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(got.ess, w.sum(0) ** 2 / (w**2).sum(0), rtol=1e-12)
    sd = log_w.numpy().std(0, ddof=1) if num_samples > 1 else np.zeros(5)
    np.testing.assert_allclose(got.log_sd, sd, rtol=1e-12)
    variance = got.log_mean_variance
    if num_samples == 1:
        assert variance is None
    else:
        relative = w.var(0, ddof=1) / w.mean(0) ** 2 / num_samples
        np.testing.assert_allclose(variance, relative, rtol=1e-9)


@pytest.mark.parametrize("shift", [-1e4, 1e4])
def test_weights_of_any_size_are_safe(shift: float) -> None:
    log_w = log_normal(2.0, 300, 4)
    plain, moved = weighed(log_w), weighed(log_w + shift)
    moves = {"log_mean": shift, "certified": shift}
    for name in FIGURES:
        torch.testing.assert_close(
            getattr(moved, name), getattr(plain, name) + moves.get(name, 0), rtol=1e-9, atol=1e-7
        )


def test_a_wide_range_of_weights_is_safe() -> None:
    got = weighed(1e4 * normal(3, 500, 6))
    assert all(getattr(got, name).isfinite().all() for name in FIGURES)
    torch.testing.assert_close(got.ess, torch.ones(6).double())
    assert (got.khat > 5).all()
    assert (got.certified < got.log_mean).all()


@pytest.mark.parametrize("num_samples", [1, 10, 2000])
def test_weights_that_are_all_zero_are_one_draw_s_worth(num_samples: int) -> None:
    got = weighed(torch.full((num_samples, 2), -math.inf))
    assert got.log_mean.tolist() == got.certified.tolist() == [-math.inf] * 2
    assert got.ess.tolist() == [1.0, 1.0]
    assert got.log_sd.tolist() == [0.0, 0.0]
    assert got.khat.isnan().all()


def test_weights_that_are_zero_now_and_then_are_legal() -> None:
    log_w = log_normal(0.5, 400, 3)
    log_w[::2] = -math.inf
    got = weighed(log_w, chunk=7)
    torch.testing.assert_close(got.log_mean, weighed(log_w[1::2]).log_mean - math.log(2))
    torch.testing.assert_close(got.log_sd, log_w[1::2].std(0))
    assert all(getattr(got, name).isfinite().all() for name in FIGURES)
    # A few that are not zero are a heavy tail indeed.
    log_w[5:] = -math.inf
    assert (weighed(log_w).khat > 1).all()


@pytest.mark.parametrize("num_samples", [1, 30, 1000])
def test_equal_weights_are_as_many_as_they_are(num_samples: int) -> None:
    """Rounding of a float32 density included, which makes no tail."""
    rounding = torch.where(normal(4, num_samples, 3) > 0, 1e-6, 0.0)
    for log_w in (torch.full((num_samples, 3), -84.0), -84.0 + rounding):
        got = weighed(log_w)
        torch.testing.assert_close(got.log_mean, torch.full((3,), -84.0).double())
        torch.testing.assert_close(got.ess, torch.full((3,), float(num_samples)).double())
        assert (got.log_sd < 1e-5).all()
        assert not (got.khat > 0.5).any()


def test_a_row_with_nothing_observed_is_known_exactly() -> None:
    tally = Tally(50, 2, DELTA)
    tally.add(log_normal(1.0, 50, 2))
    got = tally.result(torch.tensor([False, True]))
    assert [float(getattr(got, name)[0]) for name in FIGURES if name != "khat"] == [0, 50, 0, 0]
    assert got.khat.isnan().tolist() == [True, False]
    assert got.log_mean_variance is not None and got.log_mean_variance[0] == 0
    assert got.log_mean[1] != 0


# ---- draws by the way, rows by themselves ------------------------------------------------------


@pytest.mark.parametrize("num_samples", [40, 900, 3000])
def test_how_draws_are_split_changes_nothing(num_samples: int) -> None:
    log_w = log_normal(2.0, num_samples, 6)
    whole = weighed(log_w)
    for chunk in (1, 7, 512, 1024, 2500):
        parts = weighed(log_w, chunk=chunk)
        assert all(torch.equal(getattr(parts, n), getattr(whole, n)) for n in FIGURES)


@pytest.mark.parametrize(("num_samples", "block"), [(1000, 1), (5000, 8), (1_200_000, 2048)])
def test_many_draws_are_bet_on_in_blocks(num_samples: int, block: int) -> None:
    log_w = log_normal(1.0, num_samples, 1)
    means = torch.stack([part.exp().mean(0).log() for part in log_w.split(block)])
    got = weighed(log_w, chunk=99_999)
    torch.testing.assert_close(got.certified, betting_bound(means, DELTA), rtol=0, atol=1e-8)
    torch.testing.assert_close(got.log_mean, log_w.logsumexp(0) - math.log(num_samples))


def test_memory_is_bounded_whatever_the_draws() -> None:
    held = vars(Tally(1_000_000, 1, DELTA)).values()
    assert sum(t.numel() for t in held if isinstance(t, Tensor)) < 6000


def differing_rows(threads: int) -> int:
    """Rows whose figures depend on where among others they stand."""
    log_w = log_normal(2.0, 1500, ROWS_PER_TILE)
    order = torch.randperm(ROWS_PER_TILE, generator=torch.Generator().manual_seed(1))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with RowsAlike():
            here, there = weighed(log_w, chunk=100), weighed(log_w[:, order], chunk=100)
    finally:
        torch.set_num_threads(before)
    pairs = [(getattr(here, name)[order], getattr(there, name)) for name in FIGURES]
    return int(torch.stack([a != b for a, b in pairs]).any(0).sum())


@pytest.mark.parametrize("threads", [1, 3])
def test_a_row_s_figures_are_bitwise_its_own(threads: int) -> None:
    assert differing_rows(threads) == 0


def test_a_step_that_all_rows_share_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    own = module._newton_step
    monkeypatch.setattr(module, "_newton_step", lambda *args: own(*args) * (1 + args[1][0] / 1e3))
    assert differing_rows(1) > 50


def test_parts_are_joined_in_their_order_and_rows_are_taken_out() -> None:
    log_w = log_normal(1.0, 60, 7)
    whole = weighed(log_w)
    joined = Weights.joined([weighed(log_w[:, :3]), weighed(log_w[:, 3:])])
    some = torch.tensor([6, 2])
    for name in FIGURES:
        torch.testing.assert_close(getattr(joined, name), getattr(whole, name))
        assert torch.equal(getattr(whole[some], name), getattr(whole, name)[some])
        assert torch.equal(getattr(whole[:4], name), getattr(whole, name)[:4])
    assert (joined.num_samples, joined.delta) == (60, DELTA)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("draw", [0, 1999])
def test_a_weight_that_is_no_number_is_refused_with_its_row(value: float, draw: int) -> None:
    log_w = log_normal(1.0, 2000, 5)
    log_w[draw, 3] = value
    parts = [weighed(log_w[:, :2]), weighed(log_w[:, 2:])]
    with pytest.raises(
        ArithmeticError, match=rf"^expected finite .* got {value} in row 3 of the 5 looked"
    ):
        Weights.joined(parts)


def test_what_is_no_tally_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^expected at least 1 draw per row, got 0$"):
        Tally(0, 1, DELTA)
    tally = Tally(5, 1, DELTA)
    tally.add(torch.zeros(4, 1))
    with pytest.raises(ValueError, match=r"^expected 5 draws, got 4; add what is missing"):
        tally.result(torch.tensor([True]))
    with pytest.raises(ValueError, match=r"^expected 5 draws, got 6; announce all"):
        tally.add(torch.zeros(2, 1))
    with pytest.raises(ValueError, match=r"^expected weights of one number of draws .* got none"):
        Weights.joined([])
    with pytest.raises(ValueError, match=r"^expected weights of one number of draws and one delta"):
        Weights.joined([weighed(torch.zeros(3, 1)), weighed(torch.zeros(4, 1))])
    for delta in (0.0, 1.0, math.nan):
        for use in (
            lambda delta=delta: Tally(5, 1, delta),
            lambda delta=delta: betting_bound(torch.zeros(5, 1), delta),
            lambda delta=delta: markov_slack(row_digests(torch.zeros(1, 1)), delta),
        ):
            with pytest.raises(ValueError, match=r"^expected delta between 0 and 1, got"):
                use()
    with pytest.raises(ValueError, match=r"^expected at least one row, got none"):
        markov_slack(row_digests(torch.zeros(0, 1)), DELTA)


# ---- the tail ----------------------------------------------------------------------------------


def pareto_tail(k: float, num_samples: int, rows: int, *, seed: int) -> Tensor:
    """The largest of exact generalised Pareto weights ((1 − u)^−k − 1)/k, (draw, row), log."""
    u = torch.from_numpy(np.random.default_rng(seed).random((num_samples, rows)))
    log_w = (torch.expm1(-k * torch.log1p(-u)) / k).log()
    return log_w.sort(0, descending=True).values[: tail_size(num_samples) + 1]


@pytest.mark.parametrize("k", [0.2, 0.5, 0.7, 1.2])
def test_the_index_of_pareto_weights_is_found(k: float) -> None:
    largest = pareto_tail(k, 4000, 400, seed=10)
    tail = len(largest) - 1
    khat = pareto_khat(largest)
    # The prior's ten observations at ½, and the error of a maximum-likelihood fit, (1 + k)/√M.
    expected, shrunk = (tail * k + 5) / (tail + 10), tail / (tail + 10)
    assert abs(float(khat.mean()) - expected) < 0.03
    assert float(khat.std()) == pytest.approx(shrunk * (1 + k) / math.sqrt(tail), rel=0.2)
    # The mutant: log-weights taken for weights.
    assert z_score(pareto_khat((largest - largest.min() + 1e-9).log()), expected) > CAUGHT


def test_the_index_is_that_of_the_greatest_likelihood() -> None:
    for k in (0.3, 0.9):
        largest = pareto_tail(k, 100_000, 3, seed=11)
        tail = len(largest) - 1
        for row, khat in enumerate(pareto_khat(largest)):
            w = largest[:, row].exp().numpy()
            y = w[:-1] - w[-1]

            def misfit(θ: float, y: np.ndarray = y) -> float:
                index = np.log1p(θ * y).mean()
                return -np.log(θ / index) + index

            best = optimize.minimize_scalar(
                lambda t: misfit(math.exp(t)), bounds=(-12, 6), method="bounded"
            )
            θ = math.exp(best.x)
            index = np.log1p(θ * y).mean()
            log_density = stats.genpareto.logpdf(y, index, scale=index / θ).mean()
            assert log_density == pytest.approx(-misfit(θ) - 1, abs=1e-9)
            assert float(khat) == pytest.approx((tail * index + 5) / (tail + 10), abs=0.01)


def test_a_short_tail_is_no_tail() -> None:
    assert weighed(log_normal(1.0, 24, 2)).khat.isnan().all()
    assert weighed(log_normal(1.0, 25, 2)).khat.isfinite().all()


# ---- betting -----------------------------------------------------------------------------------


def log_capital(log_w: np.ndarray, log_m: float) -> float:
    """log e(m), by its definition."""
    w = np.exp(log_w - log_m)
    return math.log(np.mean([np.prod(1 - λ + λ * w) for λ in (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)]))


@pytest.mark.parametrize("delta", [0.5, 0.05, 1e-6])
@pytest.mark.parametrize(("s", "num_samples"), [(0.0, 10), (1.0, 1), (1.0, 64), (3.0, 300)])
def test_the_bet_is_won_at_the_bound_and_at_no_higher_price(
    s: float, num_samples: int, delta: float
) -> None:
    log_w = log_normal(s, num_samples, 5, seed=20)
    for row, log_m in enumerate(betting_bound(log_w, delta).tolist()):
        column = log_w[:, row].numpy()
        assert log_capital(column, log_m) == pytest.approx(-math.log(delta), abs=1e-5)
        assert log_capital(column, log_m + 0.01) < -math.log(delta)
        assert log_capital(column, log_m + 3) < -math.log(delta)


# Mean slack at δ = 0.05, nats.
SLACKS = {(1.0, 64): 0.42, (1.0, 1024): 0.11, (2.0, 64): 1.09, (2.0, 1024): 0.39}


@pytest.mark.parametrize(("s", "num_samples"), SLACKS)
def test_a_row_is_certified_at_the_known_price(s: float, num_samples: int) -> None:
    rows = 500_000 // num_samples
    certified = weighed(log_normal(s, num_samples, rows, seed=21)).certified
    assert -float(certified.mean()) == pytest.approx(SLACKS[s, num_samples], rel=0.1)
    assert float((certified > 0).double().mean()) < 0.01


@pytest.mark.parametrize("s", [1.0, 2.0])
def test_a_certified_row_fails_at_most_as_often_as_it_says(s: float) -> None:
    log_w = log_normal(s, 32, 4000, seed=22)
    assert miscoverage_z(betting_bound(log_w, DELTA)) < 0
    assert miscoverage_z(betting_bound(log_normal(s, 1, 4000, seed=23), DELTA)) < 0
    mutants = {
        "the sample's mean for the price": weighed(log_w).log_mean,
        "squared weights": betting_bound(2 * log_w, DELTA) / 2,
        "every draw counted twenty times": betting_bound(log_w.repeat(20, 1), DELTA),
    }
    for mutant in mutants.values():
        assert miscoverage_z(mutant) > CAUGHT


# ---- a set of rows -----------------------------------------------------------------------------


def test_a_data_set_is_certified_at_most_as_often_wrongly_as_it_says() -> None:
    rows, repeats = 100, 2000
    slack = markov_slack(row_digests(torch.arange(100.0)[:, None]), DELTA)
    assert slack == pytest.approx(math.log(20) / 100)
    for num_samples in (1, 64):
        per_row = log_mean_weight(1.0, num_samples, seed=30, repeats=rows * repeats)
        means = per_row.view(repeats, rows).mean(1)
        assert miscoverage_z(means - slack) < 0
    # The mutant: the same draws for all rows.
    shared = log_mean_weight(1.0, 64, seed=31, repeats=repeats)
    assert 0.35 < float((shared > slack).double().mean()) < 0.44
    assert miscoverage_z(shared - slack) > CAUGHT


def test_rows_that_share_their_draws_are_certified_as_what_they_are() -> None:
    """Fifty rows of a hundred are one and the same."""
    which = torch.arange(100).clamp(min=49)
    digests = row_digests(which.double()[:, None])
    per_row = log_mean_weight(1.0, 8, seed=32, repeats=100 * 4000).view(4000, 100)
    means = per_row[:, which].mean(1)
    slack = markov_slack(digests, DELTA)
    assert slack == pytest.approx(50 * math.log(20) / 100)
    assert miscoverage_z(means - slack) < 0
    # The mutant: as if all hundred had draws of their own.
    assert miscoverage_z(means - math.log(20) / 100) > CAUGHT
