"""What every likelihood promises, over the examples of ``instances``."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution

import unveil
from instances import LIKELIHOODS, Likelihood
from oracles import CAUGHT, SURELY_WRONG, chi_square_z, nonlinear_vae, normal, seeded
from unveil.distributions import draw
from unveil.families import Family

NAN = math.nan
DTYPES = (torch.float32, torch.float64)

every_likelihood = pytest.mark.parametrize("example", LIKELIHOODS, ids=lambda e: e.name)


def column_probabilities(p: Distribution, example: Likelihood, j: int) -> Tensor:
    """measure(v) p(x_j = v | z) for every value v of cell j, the other cells missing."""
    cell = example.cells[j]
    rows = torch.full((len(cell.values), 1, len(example.cells)), NAN, dtype=torch.float64)
    rows[:, 0, j] = cell.values
    return cell.measure * p.log_prob(rows.unflatten(-1, p.event_shape)).exp()[:, 0]


@every_likelihood
def test_a_likelihood_sums_to_one_over_the_values_of_the_data(example: Likelihood) -> None:
    p = example.family()(example.raw(1))
    for j in range(len(example.cells)):
        total = column_probabilities(p, example, j).sum()
        torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-6, atol=0.0)


def test_a_density_without_its_unit_would_not_integrate_to_one() -> None:
    in_tens = next(e for e in LIKELIHOODS if "units of 10" in e.name)
    forgets = replace(in_tens, make=lambda: unveil.Gaussian(2, unveil.FixedScale(0.5)))
    total = column_probabilities(forgets.family()(in_tens.raw(1)), in_tens, 0).sum()
    assert float(total.detach()) == pytest.approx(10.0)


def disagreement(p: Distribution, drawn_from: Distribution, example: Likelihood) -> float:
    """The worst chi-square score over cells of draws from one distribution under another."""
    rows = draw(drawn_from, (20_000,), seeded(7))[:, 0].flatten(1).double()
    scores = []
    for j, cell in enumerate(example.cells):
        probabilities = column_probabilities(p, example, j).detach()
        middles = (cell.values[1:] + cell.values[:-1]) / 2
        nearest = torch.bucketize(rows[:, j].contiguous(), middles)
        if cell.counted and (cell.values[nearest] - rows[:, j]).abs().max() > 1e-6:
            return math.inf
        # Twelve bins of equal probability, or every value where there are few.
        bins = (probabilities.cumsum(0) * 12).clamp(max=11.999).long()
        if len(cell.values) <= 20:
            bins = torch.arange(len(cell.values))
        number = int(bins.max()) + 1
        expected = torch.zeros(number).double().index_add(0, bins, probabilities)
        counts = torch.bincount(bins[nearest], minlength=number).double()
        scores.append(chi_square_z(counts, expected))
    return max(scores)


@every_likelihood
def test_draws_follow_the_likelihood_and_not_one_that_is_nearly_it(example: Likelihood) -> None:
    family, raw = example.family(), example.raw(1, seed=3)
    p = family(raw)
    assert disagreement(p, p, example) < SURELY_WRONG
    assert disagreement(p, family(raw + 0.8), example) > CAUGHT / 2


@pytest.mark.parametrize("name", ["Gaussian", "DiscretizedLogistic"])
def test_draws_with_a_spread_ten_percent_off_are_noticed(name: str) -> None:
    def family(spread: float) -> Family:
        scale = unveil.FixedScale(spread)
        if name == "Gaussian":
            return unveil.Gaussian(2, scale, unit=10.0)
        return unveil.DiscretizedLogistic(2, scale, step=0.3)

    wanted = "units of 10" if name == "Gaussian" else "without ends"
    example = next(e for e in LIKELIHOODS if wanted in e.name)
    cells = example.cells[:1] * 2
    example = replace(example, make=lambda: family(2.0), cells=cells)
    raw = torch.zeros(1, 2, dtype=torch.float64)
    p = family(2.0)(raw)
    assert disagreement(p, p, example) < SURELY_WRONG
    assert disagreement(p, family(2.2)(raw), example) > CAUGHT / 2


@every_likelihood
def test_a_gap_equals_integrating_the_cell_out(example: Likelihood) -> None:
    """p(x_observed | z) = Σ_v measure(v) p(x_observed, x_j = v | z), cell by cell."""
    p = example.family()(example.raw(1))
    row = example.rows(1)
    for j, cell in enumerate(example.cells):
        with_gap = row.flatten(1).clone()
        with_gap[:, j] = NAN
        filled = with_gap.expand(len(cell.values), -1).clone()
        filled[:, j] = cell.values
        filled = filled.unflatten(-1, p.event_shape)[:, None]
        summed = (cell.measure * p.log_prob(filled)[:, 0].exp()).sum()
        left_out = p.log_prob(with_gap.unflatten(-1, p.event_shape))[0].exp()
        torch.testing.assert_close(summed, left_out, rtol=1e-6, atol=0.0)


@every_likelihood
def test_a_gap_has_a_gradient_of_exactly_zero(example: Likelihood) -> None:
    raw = example.raw(1).requires_grad_()
    row = example.rows(1).flatten(1)
    row[:, 0] = NAN
    row.requires_grad_()
    p = example.family()(raw)
    (of_row,) = torch.autograd.grad(p.log_prob(row.unflatten(-1, p.event_shape)).sum(), [row])
    assert of_row[0, 0] == 0.0
    assert torch.isfinite(of_row).all()


@every_likelihood
def test_an_empty_row_has_likelihood_exactly_one_and_no_gradient(example: Likelihood) -> None:
    for dtype in DTYPES:
        raw = example.raw(2, dtype=dtype).requires_grad_()
        p = example.family(dtype)(raw)
        log_p = p.log_prob(torch.full_like(example.rows(2, dtype=dtype), NAN))
        assert torch.equal(log_p, torch.zeros(2, dtype=dtype))
        (gradient,) = torch.autograd.grad(log_p.sum(), [raw])
        assert torch.equal(gradient, torch.zeros_like(raw))


@every_likelihood
def test_gradients_reach_every_parameter(example: Likelihood) -> None:
    family, raw = example.family(), example.raw(50).requires_grad_()
    leaves = [raw, *family.parameters()]
    gradients = torch.autograd.grad(family(raw).log_prob(example.rows(50)).sum(), leaves)
    for gradient in gradients:
        assert (gradient != 0).flatten(1 if gradient is gradients[0] else 0).any(0).all()


@every_likelihood
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [-1e4, 1e4])
def test_values_and_gradients_stay_finite_at_extremes(
    example: Likelihood, dtype: torch.dtype, size: float
) -> None:
    family = example.family(dtype)
    raw = torch.full((3, family.num_parameters), size, dtype=dtype).requires_grad_()
    ends = [[cell.values[i] for cell in example.cells] for i in (0, -1)]
    far = [cell.values[-1] if cell.counted else 1e4 for cell in example.cells]
    rows = torch.tensor([*ends, far], dtype=dtype).unflatten(-1, family.event_shape)
    log_p = family(raw).log_prob(rows)
    assert torch.isfinite(log_p).all()
    gradients = torch.autograd.grad(log_p.sum(), [raw, *family.parameters()])
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


@every_likelihood
def test_float32_and_float64_agree(example: Likelihood) -> None:
    low, high = (
        example.family(dtype)(example.raw(40, dtype=dtype))
        .log_prob(example.rows(40, dtype=dtype))
        .double()
        for dtype in DTYPES
    )
    torch.testing.assert_close(low, high, rtol=1e-3, atol=1e-3)


@every_likelihood
def test_a_likelihood_broadcasts_over_draws(example: Likelihood) -> None:
    raw, rows = example.raw(10).unflatten(0, (2, 5)), example.rows(5)
    family = example.family()
    log_p = family(raw).log_prob(rows)
    assert log_p.shape == (2, 5)
    torch.testing.assert_close(log_p[1], family(raw[1]).log_prob(rows))


@every_likelihood
def test_the_mean_is_that_of_the_draws(example: Likelihood) -> None:
    """Within half a step, which is what rounding may move a discretised mean by."""
    p = example.family()(example.raw(1, seed=3))
    for j, cell in enumerate(example.cells):
        exact = (cell.values * column_probabilities(p, example, j)).sum()
        step = float(cell.values[1] - cell.values[0])
        tolerance = step / 2 if cell.counted else 1e-6
        assert (p.mean[0].flatten()[j] - exact).abs() <= tolerance


# ---- the empty row through a whole model -------------------------------------------------------


@every_likelihood
@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_observed_leaves_the_prior_and_weighs_nothing(
    example: Likelihood, dtype: torch.dtype
) -> None:
    vae = nonlinear_vae(example.make()).to(dtype)
    x = torch.full_like(example.rows(4, dtype=dtype), NAN)
    q = vae.posterior(x)
    assert torch.equal(q.mean, torch.zeros(4, 2, dtype=dtype))
    assert torch.equal(q.stddev, torch.ones(4, 2, dtype=dtype))
    weights = vae.particles(x, normal(0, 9, 4, 2).to(dtype)).log_weights
    assert torch.equal(weights, torch.zeros(9, 4, dtype=dtype))
