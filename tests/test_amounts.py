"""Amounts: their masses and densities against SciPy's, their zeros, and where they start."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor
from torch.distributions import Distribution

import unveil
from oracles import CAUGHT, SURELY_WRONG, chi_square_z, normal, seeded
from unveil.distributions import draw
from unveil.likelihoods.amounts import LogNormalSteps

LOCS = torch.tensor([-30.0, -2.0, 0.0, 1.5, 6.0]).double()
SCALES = (0.01, 0.4, 1.3, 8.0)
NO_STEP, ONE = torch.zeros(()), torch.ones(())
LOG_TEN = torch.tensor(10.0).double().log()


def steps(loc: Tensor, scale: float, step: float) -> LogNormalSteps:
    spread = torch.full_like(loc, scale)
    return LogNormalSteps(loc, spread, torch.tensor(step).double(), torch.zeros(()))


def tail(end: np.ndarray, loc: np.ndarray, scale: float) -> np.ndarray:
    return scipy.stats.lognorm.logsf(end, scale, scale=np.exp(loc))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("step", [0.25, 1.0])
def test_a_mass_is_what_scipy_s_log_normal_puts_around_a_point(scale: float, step: float) -> None:
    points = np.array([1, 2, 3, 40, 1000])[:, None]
    x, loc = torch.from_numpy(points * step), LOCS[2:]
    low, high, first = (
        tail(end, loc.numpy(), scale)
        for end in ((points - 0.5) * step, (points + 0.5) * step, step / 2)
    )
    mass = np.exp(low - first) - np.exp(high - first)
    found = steps(loc, scale, step).log_prob(x).exp()
    torch.testing.assert_close(found, torch.from_numpy(mass), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("scale", SCALES)
def test_a_far_tail_keeps_its_digits(scale: float) -> None:
    """Where both ends have all but the same tail, in logarithms of large numbers."""
    point, loc = 2_000.0, torch.tensor([0.0]).double()
    with_mp = scipy.stats.norm.logpdf(math.log(point) / scale) - math.log(scale * point)
    found = steps(loc, scale, 1.0).log_prob(torch.tensor([point]).double())
    first = float(tail(np.array(0.5), np.zeros(()), scale))
    slope = abs(math.log(point)) / scale**2 / point  # a mass is nearly a density, to its curvature
    assert float(found) == pytest.approx(float(with_mp - first), abs=1e-6 + slope**2)


def test_float32_tells_neighbouring_points_of_a_fine_grid_apart() -> None:
    x = torch.tensor([99_999.0, 100_000.0])
    fine = LogNormalSteps(torch.full((2,), 11.5), torch.full((2,), 0.01), ONE, NO_STEP)
    exact = steps(torch.full((2,), 11.5).double(), float(torch.tensor(0.01)), 1.0)
    torch.testing.assert_close(
        fine.log_prob(x).double(), exact.log_prob(x.double()), rtol=1e-6, atol=1e-6
    )
    ends = (torch.log(x + 0.5) - 11.5) / 0.01, (torch.log(x - 0.5) - 11.5) / 0.01
    in_float32 = torch.log(torch.special.ndtr(ends[0]) - torch.special.ndtr(ends[1]))
    assert (in_float32 - exact.log_prob(x.double())).abs().max() > 1e-3


@pytest.mark.parametrize("step", [0.0, 0.5])
@pytest.mark.parametrize("scale", SCALES)
def test_a_distribution_function_is_the_sum_of_what_is_below(scale: float, step: float) -> None:
    p = steps(LOCS, scale, step)
    x = torch.tensor([0.5, 1.0, 20.0]).double()[:, None]
    if step == 0.0:
        expected = scipy.stats.lognorm.cdf(x.numpy(), scale, scale=np.exp(LOCS.numpy()))
        torch.testing.assert_close(p.cdf(x), torch.from_numpy(expected), rtol=1e-9, atol=1e-12)
        return
    points = torch.arange(1, 41).double()[:, None] * step
    total = p.log_prob(points).exp().cumsum(0)
    torch.testing.assert_close(p.cdf(x), total[[0, 1, 39]], rtol=1e-7, atol=1e-12)


def test_zeros_and_the_rest_have_the_shares_that_the_logit_says() -> None:
    family = unveil.SpikedLogNormal(1, unveil.FixedScale(0.7), unit=10.0).double()
    raw = torch.tensor([[0.3, -1.2]]).double()
    x = torch.tensor([0.0, 0.3, 7.0]).double()[:, None]
    none = float(torch.sigmoid(raw[0, 1]))
    density = scipy.stats.lognorm.pdf(10 * x[1:, 0].numpy(), 0.7, scale=10 * math.exp(0.3))
    expected = torch.from_numpy(np.append(none, (1 - none) * density))
    found = family(raw).log_prob(x).exp()
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=0.0)  # of 0.7 in float32
    with_unit_everywhere = torch.exp(found.log() - LOG_TEN * (x[:, 0] == 0))
    assert not torch.allclose(with_unit_everywhere, expected)


@pytest.mark.parametrize(
    ("step", "value"), [(0.0, -1.0), (1.0, -1.0), (1.0, 0.5), (1.0, 2.25), (0.1, 0.25)]
)
def test_what_is_no_amount_is_impossible(step: float, value: float) -> None:
    family = unveil.SpikedLogNormal(1, step=step)
    p = family(torch.zeros(1, family.num_parameters))
    assert p.log_prob(torch.tensor([[value]])).item() == -math.inf


@pytest.mark.parametrize("step", [1 / 7, 1.0, 3.0])
def test_a_multiple_of_a_step_rounded_to_float32_is_on_its_grid(step: float) -> None:
    family = unveil.SpikedLogNormal(1, unveil.FixedScale(3.0), step=step)
    p = family(torch.tensor([[8.0, 0.0]]))
    x = (torch.arange(0, 100_000, 37).double() * step).float()[:, None]
    assert torch.isfinite(p.log_prob(x)).all()


def score(drawn: Distribution, judged: Distribution) -> float:
    """The chi-square score of one distribution's draws under another's, in few bins."""
    values = draw(drawn, (40_000,), seeded(4)).flatten()
    edges = torch.tensor([0.0, 1.0, 2.0, 3.0, 5.0, 9.0, 20.0]).double()
    up_to = judged.cdf_cells(edges[:, None, None]).flatten()
    expected = torch.cat([up_to[:1], up_to.diff(), 1 - up_to[-1:]])
    counts = torch.bincount(torch.bucketize(values, edges), minlength=len(edges) + 1).double()
    return chi_square_z(counts, expected)


@pytest.mark.parametrize("step", [0.0, 1.0])
def test_draws_follow_the_amounts_and_not_nearly_the_same(step: float) -> None:
    def p(scale: float, logit: float = -0.4) -> Distribution:
        family = unveil.SpikedLogNormal(1, unveil.FixedScale(scale), step=step).double()
        return family(torch.tensor([[0.8, logit]]).double())

    assert score(p(1.0), p(1.0)) < SURELY_WRONG
    assert score(p(1.1), p(1.0)) > CAUGHT / 2
    assert score(p(1.0, logit=-0.2), p(1.0)) > CAUGHT / 2


def test_a_log_normal_all_below_its_grid_is_drawn_at_the_first_step() -> None:
    p = steps(torch.tensor([-1e4]).double(), 0.01, 1.0)
    assert torch.equal(draw(p, (50,), seeded(0)), torch.ones(50, 1).double())
    assert float(p.log_prob(torch.ones(1).double())) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("step", [0.0, 1.0])
def test_a_column_starts_at_its_zeros_and_its_mean(step: float) -> None:
    x = torch.exp(normal(3, 4000, 2) + 4).round()
    x[:1000, 0], x[2000:, 1] = 0.0, math.nan
    family = unveil.SpikedLogNormal(2, unveil.CellScale(), step=step).double()
    p = family(family.start_at(x))
    torch.testing.assert_close(p.mean, x.nanmean(0), rtol=0.02, atol=0.0)
    none = p.log_prob_cells(torch.zeros(2).double()).exp()
    torch.testing.assert_close(none, torch.tensor([0.25, 1e-3]).double(), rtol=1e-6, atol=0.0)


def test_no_z_makes_an_amount_more_probable_than_its_bound() -> None:
    step = torch.tensor([0.0, 1.0, 0.0])
    family = unveil.SpikedLogNormal(3, unveil.CellScale(), step=step, unit=4.0).double()
    x = torch.tensor([[0.2, 3.0, 0.0], [7.0, 0.0, math.nan], [math.nan] * 3]).double()
    bound = family.log_supremum(x)
    raw = torch.cat([3 * normal(7, 500, 9), torch.zeros(1, 9).double()])
    raw[-1] = torch.tensor([math.log(0.2), math.log(3), 0.0, -1e4, -1e4, -1e4, -1e4, -1e4, 1e4])
    reached = family(raw[:, None]).log_prob(x).amax(0)
    assert (reached <= bound + 1e-9).all()
    assert float(reached[0]) == pytest.approx(float(bound[0]), abs=1e-3)
    assert float(bound[2]) == 0.0
