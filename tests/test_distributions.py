"""Each density against an independent one, and drawing against the density."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import Normal, Poisson, kl_divergence

from oracles import CAUGHT, SURELY_WRONG, chi_square_z, normal, seeded, z_score
from unveil.distributions import (
    Binary,
    Cells,
    DiagonalNormal,
    DiscretizedLogistic,
    Joined,
    draw,
    kl_per_unit,
)

NAN = math.nan


def doubles(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def masses(p: DiscretizedLogistic, values: Tensor) -> Tensor:
    return p.log_prob(values).exp()


def naive_mass(x: Tensor, loc: float, scale: float, step: float, low: float, high: float) -> Tensor:
    """P(x) = F(x + step/2) − F(x − step/2), and the ends take their tails, by SciPy."""
    above = np.where(x >= high, np.inf, x + step / 2)
    below = np.where(x <= low, -np.inf, x - step / 2)
    cdf = stats.logistic(loc, scale).cdf
    return torch.from_numpy(cdf(above) - cdf(below))


# ---- Gaussian ----------------------------------------------------------------------------------


def test_a_diagonal_normal_is_scipy_s() -> None:
    loc, scale, z = normal(0, 4, 3), normal(1, 4, 3).exp(), normal(2, 5, 4, 3)
    expected = stats.norm(loc.numpy(), scale.numpy()).logpdf(z.numpy()).sum(-1)
    torch.testing.assert_close(DiagonalNormal(loc, scale).log_prob(z), torch.from_numpy(expected))


def test_a_diagonal_normal_pushes_noise_to_its_own_mean_and_spread() -> None:
    loc, scale = doubles(1.0, -2.0), doubles(0.5, 3.0)
    q = DiagonalNormal(loc, scale)
    z = q.push(normal(3, 20_000, 2))
    assert z_score(z, q.mean) < SURELY_WRONG
    assert z_score((z - q.mean).square(), q.stddev.square()) < SURELY_WRONG
    mutant = DiagonalNormal(loc, scale.square())  # σ² where σ belongs
    assert z_score((mutant.push(normal(3, 20_000, 2)) - loc).square(), scale.square()) > CAUGHT


def test_the_kl_per_unit_sums_to_torch_s() -> None:
    q = DiagonalNormal(normal(0, 4, 3), normal(1, 4, 3).exp())
    p = DiagonalNormal(normal(2, 3), normal(3, 3).exp())
    torch_s = kl_divergence(Normal(q.loc, q.scale), Normal(p.loc, p.scale))
    torch.testing.assert_close(kl_per_unit(q, p), torch_s)
    torch.testing.assert_close(kl_divergence(q, p), torch_s.sum(-1))


# ---- the discretised logistic ------------------------------------------------------------------


@pytest.mark.parametrize("loc", [-30.0, 0.2, 7.9, 50.0])
@pytest.mark.parametrize("scale", [0.1, 1.0, 8.0])
def test_a_bounded_grid_has_scipy_s_masses(loc: float, scale: float) -> None:
    x = torch.arange(17, dtype=torch.float64)
    p = DiscretizedLogistic(doubles(loc), doubles(scale), step=1.0, low=0.0, high=16.0)
    expected = naive_mass(x, loc, scale, 1.0, 0.0, 16.0)
    torch.testing.assert_close(masses(p, x), expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(masses(p, x).sum(), torch.ones(()).double())


def test_without_their_tails_the_ends_would_lose_mass() -> None:
    x = torch.arange(17, dtype=torch.float64)
    without = DiscretizedLogistic(doubles(0.2), doubles(1.0), step=1.0)
    assert masses(without, x).sum() < 0.7


@pytest.mark.parametrize("step", [1e-12, 1e-6, 1e-2])
def test_a_fine_grid_tends_to_the_density(step: float) -> None:
    x = doubles(-20.0, -1.0, 0.0, 0.7, 20.0)
    p = DiscretizedLogistic(doubles(0.3), doubles(1.0), step=step)
    density = torch.from_numpy(stats.logistic(0.3, 1.0).logpdf(x.numpy()))
    torch.testing.assert_close(p.log_prob(x) - math.log(step), density, atol=1e-4, rtol=0.0)


def test_a_coarse_grid_puts_all_its_mass_on_the_nearest_value() -> None:
    p = DiscretizedLogistic(doubles(2.2), doubles(0.001), step=1.0, low=0.0, high=4.0)
    torch.testing.assert_close(masses(p, torch.arange(5.0).double()), doubles(0, 0, 1, 0, 0))


@pytest.mark.parametrize("loc", [-9.0, 0.3, 2.5, 40.0])
@pytest.mark.parametrize("scale", [0.02, 0.7, 5.0])
@pytest.mark.parametrize(("low", "high"), [(0, 16), (None, 16), (0, None), (None, None)])
def test_the_mean_is_within_half_a_step_of_the_exact_one(
    loc: float, scale: float, low: int | None, high: int | None
) -> None:
    ends = {
        "low": -math.inf if low is None else float(low),
        "high": math.inf if high is None else float(high),
    }
    p = DiscretizedLogistic(doubles(loc), doubles(scale), step=1.0, **ends)
    x = torch.arange(-400 if low is None else low, 401 if high is None else high + 1).double()
    exact = (masses(p, x) * x).sum()
    assert (p.mean - exact).abs() <= 0.5


def test_the_draws_of_a_bounded_grid_have_its_masses() -> None:
    x = torch.arange(17, dtype=torch.float64)

    def score(drawn: DiscretizedLogistic) -> float:
        values = draw(drawn, (20_000,), seeded(0)).flatten()
        counts = torch.bincount(values.clamp(-1, 17).long() + 1, minlength=19).double()
        p = DiscretizedLogistic(doubles(3.3), doubles(2.0), step=1.0, low=0.0, high=16.0)
        return chi_square_z(counts, torch.cat([doubles(0.0), masses(p, x), doubles(0.0)]))

    def grid(loc: float, scale: float, **ends: float) -> DiscretizedLogistic:
        return DiscretizedLogistic(doubles(loc), doubles(scale), step=1.0, **ends)

    assert score(grid(3.3, 2.0, low=0.0, high=16.0)) < SURELY_WRONG
    assert score(grid(3.3, 2.3, low=0.0, high=16.0)) > CAUGHT / 2  # a spread 15 % off
    assert score(grid(3.8, 2.0, low=0.0, high=16.0)) > CAUGHT / 2  # rounded down, not to nearest
    assert score(grid(3.3, 2.0)) == math.inf  # the tails not brought back to the ends


def test_no_uniform_makes_a_draw_that_could_not_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """A uniform of 0 comes up once in 2²⁴ float32 numbers: it must not stand for e⁻⁸⁷."""

    def zeros(shape, *, generator, device, dtype):
        return torch.zeros(shape, device=device, dtype=dtype)

    monkeypatch.setattr(torch, "rand", zeros)
    p = DiscretizedLogistic(torch.tensor(0.0), torch.tensor(1.0), step=0.1)
    value = float(draw(p, (), seeded(0)))
    assert stats.logistic.cdf(value) > 2**-24 / 1000


# ---- cells and columns -------------------------------------------------------------------------


def test_a_missing_cell_is_left_out_and_its_gradient_is_zero() -> None:
    loc = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    row = doubles(1.0, NAN, 2.0).requires_grad_()
    log_p = Cells(Normal(loc, torch.ones(3).double()), event_dims=1).log_prob(row)
    expected = stats.norm.logpdf([1.0, 2.0]).sum()
    assert float(log_p.detach()) == pytest.approx(expected)
    of_loc, of_row = torch.autograd.grad(log_p, [loc, row])
    torch.testing.assert_close(of_loc, doubles(1.0, 0.0, 2.0))
    torch.testing.assert_close(of_row, doubles(-1.0, 0.0, -2.0))


def test_a_row_with_nothing_observed_has_log_probability_exactly_zero() -> None:
    row = torch.full((2,), NAN)
    gaussian = Cells(
        Normal(torch.zeros(2), torch.ones(2)), event_dims=1, log_unit=torch.tensor(3.0)
    )
    assert gaussian.log_prob(row).item() == 0.0


def test_joined_columns_keep_their_places() -> None:
    a = Cells(Normal(doubles(1.0, 3.0), doubles(0.1, 0.2)), event_dims=1)
    b = Cells(Binary(doubles(0.25).logit()), event_dims=1)
    joined = Joined([(torch.tensor([2, 0]), a), (torch.tensor([1]), b)])
    torch.testing.assert_close(joined.mean, doubles(3.0, 0.25, 1.0))
    row = doubles(3.1, 1.0, 0.9)
    torch.testing.assert_close(
        joined.log_prob(row), a.log_prob(doubles(0.9, 3.1)) + b.log_prob(doubles(1.0))
    )
    drawn = draw(joined, (2000,), seeded(0))
    assert z_score(drawn, joined.mean) < SURELY_WRONG


# ---- drawing -----------------------------------------------------------------------------------

DRAWABLE = {
    "normal": Normal(torch.zeros(3), torch.ones(3)),
    "binary": Binary(torch.zeros(3)),
    "diagonal": DiagonalNormal(torch.zeros(3), torch.ones(3)),
    "logistic": DiscretizedLogistic(torch.zeros(3), torch.ones(3), step=0.5),
}


@pytest.mark.parametrize("p", DRAWABLE.values(), ids=DRAWABLE)
def test_a_draw_is_a_function_of_its_generator_alone(p: torch.distributions.Distribution) -> None:
    before = torch.get_rng_state()
    a, b, other = (draw(p, (50,), seeded(seed)) for seed in (1, 1, 2))
    assert a.shape == (50, 3)
    assert torch.equal(a, b)
    assert not torch.equal(a, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_distribution_that_cannot_draw_says_how_to_teach_it() -> None:
    with pytest.raises(
        TypeError, match=r"got Poisson; register a function for it with .*draw\.register"
    ):
        draw(Poisson(torch.ones(2)), (3,), seeded(0))
