"""What every likelihood promises, over the examples of ``instances``."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import Tensor
from torch.distributions import Distribution

import unveil
from instances import LIKELIHOODS, Likelihood
from oracles import CAUGHT, SURELY_WRONG, chi_square_z, nonlinear_vae, normal, seeded
from unveil.distributions import DiscretizedLogistic, draw
from unveil.families import Family, positive, raw_of
from unveil.likelihoods.angles import VonMisesDensity
from unveil.likelihoods.positive import LogNormalDensity

NAN = math.nan
DTYPES = (torch.float32, torch.float64)

every_likelihood = pytest.mark.parametrize("example", LIKELIHOODS, ids=lambda e: e.name)
every_likelihood_with_a_mean = pytest.mark.parametrize(
    "example", [e for e in LIKELIHOODS if e.have_mean], ids=lambda e: e.name
)


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
    assert disagreement(p, family(raw + example.nudge), example) > CAUGHT / 2


TEN_PERCENT_OFF = {
    "gaussian, a known spread": lambda s: unveil.Gaussian(2, unveil.FixedScale(2 * s), unit=10.0),
    "discretized logistic without ends": lambda s: unveil.DiscretizedLogistic(
        2, unveil.FixedScale(2 * s), step=0.3
    ),
    "student t image": lambda s: unveil.StudentT(2, unveil.FixedScale(2 * s), unit=10.0),
    "log-normal, a spread per column": lambda s: unveil.LogNormal(
        2, unveil.FixedScale(0.5 * s), unit=10.0
    ),
}


@pytest.mark.parametrize("name", TEN_PERCENT_OFF)
def test_draws_with_a_spread_ten_percent_off_are_noticed(name: str) -> None:
    family = TEN_PERCENT_OFF[name]
    example = next(e for e in LIKELIHOODS if e.name.startswith(name))
    cells = example.cells[:1] * 2
    example = replace(example, make=lambda: family(1.0), cells=cells)
    raw = torch.zeros(1, 2, dtype=torch.float64)
    p = family(1.0)(raw)
    assert disagreement(p, p, example) < SURELY_WRONG
    assert disagreement(p, family(1.1)(raw), example) > CAUGHT / 2


@pytest.mark.parametrize("length", [1e-9, 0.8, 30.0, 2000.0])
def test_angles_with_a_spread_ten_percent_off_are_noticed(length: float) -> None:
    """Over all concentrations, as a rejection sampler may fail at one of them alone."""
    example = next(e for e in LIKELIHOODS if "von Mises" in e.name)
    family = unveil.VonMises(1, unit=180 / math.pi).double()
    example = replace(example, cells=example.cells[:1])
    raw = length * torch.tensor([[-1.0, 0.3]], dtype=torch.float64)
    p = family(raw)
    assert disagreement(p, p, example) < SURELY_WRONG
    flatter = family(raw / 1.21 + (0.3 if length < 1e-3 else 0.0))
    assert disagreement(p, flatter, example) > CAUGHT / 2


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
    log_p = p.log_prob(row.unflatten(-1, p.event_shape)).sum()
    (of_row,) = torch.autograd.grad(log_p, [row], materialize_grads=True)  # a class has none
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
    far = [cell.far for cell in example.cells]
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


@pytest.mark.parametrize(
    "example", [e for e in LIKELIHOODS if "columns" not in e.name], ids=lambda e: e.name
)
def test_parameters_come_as_groups_of_one_number_per_cell(example: Likelihood) -> None:
    """Number j of every group is of cell j: a network that draws images draws each group as one."""
    family, rows, cells = example.family(), example.rows(1), len(example.cells)
    jacobian = torch.autograd.functional.jacobian(
        lambda raw: family(raw[None]).log_prob_cells(rows).flatten(), example.raw(1)[0]
    )
    of_group = jacobian.unflatten(-1, (-1, cells)).abs().sum(1)
    assert torch.equal(of_group, of_group.diagonal().diag())
    assert (of_group.diagonal() > 0).all()


@every_likelihood
def test_a_likelihood_broadcasts_over_draws(example: Likelihood) -> None:
    raw, rows = example.raw(10).unflatten(0, (2, 5)), example.rows(5)
    family = example.family()
    log_p = family(raw).log_prob(rows)
    assert log_p.shape == (2, 5)
    torch.testing.assert_close(log_p[1], family(raw[1]).log_prob(rows))


@every_likelihood_with_a_mean
def test_the_mean_is_that_of_the_draws(example: Likelihood) -> None:
    """Within half a step, which is what rounding may move a discretised mean by."""
    p = example.family()(example.raw(1, seed=3))
    for j, cell in enumerate(example.cells):
        exact = cell.mean(cell.values, column_probabilities(p, example, j))
        step = float(cell.values[1] - cell.values[0])
        tolerance = step / 2 if cell.counted else 1e-6
        assert (p.mean[0].flatten()[j] - exact).abs() <= tolerance


# ---- densities beside SciPy's, and what raw numbers mean ---------------------------------------


def beside(family: Family, raw: Tensor, x: Tensor, peer: object) -> None:
    """log p(x) of one column, x (row), is the peer's to float64's rounding."""
    log_p = family.double()(raw.expand(len(x), -1)).log_prob(x[:, None])
    torch.testing.assert_close(log_p.detach(), torch.as_tensor(peer), rtol=1e-11, atol=1e-11)


def test_student_s_t_is_scipy_s() -> None:
    x = torch.tensor([-1e12, -50.0, 0.0, 0.3, 7.0, 1e6], dtype=torch.float64)
    for freedom in (1.001, 2.5, 8.0, 1e3):
        family = unveil.StudentT(1, unveil.FixedScale(0.7), unit=10.0)
        with torch.no_grad():
            family.raw_freedom.copy_(raw_of(torch.tensor([freedom - 1])))
        nu = family.double().freedom.item()
        assert nu == pytest.approx(freedom, rel=1e-4)
        peer = stats.t.logpdf(10 * x.numpy(), nu, loc=3.0, scale=7.0)
        beside(family, torch.tensor([[0.3]], dtype=torch.float64), x, peer)


def test_student_s_t_keeps_its_digits_in_float32_where_log_gamma_is_large() -> None:
    family = unveil.StudentT(1, unveil.FixedScale(1.0))
    with torch.no_grad():
        family.raw_freedom.fill_(3e4)
    zero = torch.zeros(1, 1)
    nu, log_p = family.freedom.item(), family(zero).log_prob(zero).item()
    assert log_p == pytest.approx(stats.t.logpdf(0.0, nu), abs=1e-6)


def test_the_log_normal_is_scipy_s() -> None:
    x = torch.tensor([1e-200, 1e-9, 0.3, 1.0, 7.0, 1e100], dtype=torch.float64)
    peer = stats.lognorm.logpdf(10 * x.numpy(), 0.7, scale=10 * math.exp(0.3))
    family = unveil.LogNormal(1, unveil.FixedScale(0.7), unit=10.0)
    beside(family, torch.tensor([[0.3]], dtype=torch.float64), x, peer)


@pytest.mark.parametrize("length", [1e-9, 0.5, 8.0, 1e3])
def test_the_von_mises_density_and_its_gradient_are_scipy_s(length: float) -> None:
    """∂ log p/∂κ = cos(x − μ) − I₁(κ)/I₀(κ)."""
    x = torch.linspace(-9.0, 9.0, 7, dtype=torch.float64)
    direction = torch.tensor([2.0], dtype=torch.float64)
    raw = length * torch.cat([direction.cos(), direction.sin()])[None]
    k = length / math.sqrt(1 + (length * 1e-4) ** 2)
    beside(unveil.VonMises(1), raw, x, stats.vonmises.logpdf(x.numpy(), k, loc=2.0))
    k = torch.full_like(x, k).requires_grad_()
    p = VonMisesDensity(direction.cos().expand(7), direction.sin().expand(7), k)
    (gradient,) = torch.autograd.grad(p.log_prob(x).sum(), [k])
    concentration = k.detach().numpy()
    ratio = torch.from_numpy(special.i1e(concentration) / special.i0e(concentration))
    torch.testing.assert_close(gradient, (x - direction).cos() - ratio, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("raw", [-80.0, -3.0, -0.25, -0.15, -1e-3, 1e-12, 0.0, 0.19, 0.21, 60.0])
def test_the_continuous_bernoulli_is_normalised_by_quadrature(raw: float) -> None:
    x = torch.tensor([0.0, 1e-9, 0.4, 1.0], dtype=torch.float64)
    eta = raw / math.sqrt(1 + (0.01 * raw) ** 2)
    nodes, weights = np.polynomial.legendre.leggauss(80)
    log_total = math.log((weights / 2 * np.exp(eta * (nodes + 1) / 2)).sum())
    family, at = unveil.ContinuousBernoulli(1), torch.tensor([[raw]], dtype=torch.float64)
    beside(family, at, x, eta * x - log_total)
    mean = (weights / 2 * (nodes + 1) / 2 * np.exp(eta * (nodes + 1) / 2 - log_total)).sum()
    assert float(family(at).mean) == pytest.approx(mean, rel=1e-12)


def test_a_mixture_is_the_weighted_sum_of_its_components() -> None:
    family = unveil.DiscretizedLogisticMixture(2, 3, step=0.5, low=-2.0, high=1.0).double()
    raw = normal(4, 5, family.num_parameters)
    numbers = raw.reshape(5, 9, 2).movedim(1, -1) + family.apart
    weights, moved, spreads = numbers.chunk(3, dim=-1)
    x = torch.tensor([-2.0, 0.5]).double()
    alone = DiscretizedLogistic(moved, 0.01 + positive(spreads), step=0.5, low=-2.0, high=1.0)
    mass = (weights.softmax(-1) * alone.log_prob(x[:, None]).exp()).sum(-1)
    torch.testing.assert_close(family(raw).log_prob(x), mass.log().sum(-1), rtol=1e-7, atol=0.0)


def test_components_of_a_mixture_are_told_apart_from_the_start() -> None:
    """Where all start alike, each has the same gradient and they never part."""

    def gradients(family: Family) -> Tensor:
        raw = torch.zeros(1, family.num_parameters).requires_grad_()
        log_p = family(raw).log_prob(torch.full((1, 1), 3.0)).sum()
        return torch.autograd.grad(log_p, [raw])[0].reshape(3, 5)

    family = unveil.DiscretizedLogisticMixture(1, 5, step=1.0, low=0.0, high=16.0)
    assert all(len(kind.unique()) == 5 for kind in gradients(family))
    family.apart.zero_()
    assert all(len(kind.unique()) == 1 for kind in gradients(family))


@pytest.mark.parametrize(
    ("family", "value"),
    [
        (unveil.LogNormal(1), 0.0),
        (unveil.LogNormal(1), -1.0),
        (unveil.ContinuousBernoulli(1), -0.01),
        (unveil.ContinuousBernoulli(1), 1.01),
    ],
)
def test_an_impossible_value_has_density_zero(family: Family, value: float) -> None:
    raw = torch.zeros(1, family.num_parameters)
    assert family(raw).log_prob(torch.tensor([[value]])).item() == -math.inf


def test_a_log_normal_without_its_jacobian_would_not_integrate_to_one() -> None:
    """Without −log x the total is E x."""
    cell = next(e for e in LIKELIHOODS if e.name.startswith("log-normal image")).cells[0]
    p = LogNormalDensity(*torch.tensor([0.4, 0.5], dtype=torch.float64))
    with_jacobian = p.log_prob(cell.values)
    assert float((cell.measure * with_jacobian.exp()).sum()) == pytest.approx(1.0)
    forgets = with_jacobian + cell.values.log()
    assert float((cell.measure * forgets.exp()).sum()) == pytest.approx(float(p.mean))


@pytest.mark.parametrize(
    "family",
    [
        unveil.Gaussian(4, unveil.CellScale()),
        unveil.StudentT(4),
        unveil.LogNormal(4),
        unveil.LogNormal(4, unveil.CellScale()),
        unveil.LogNormal((2, 2), unveil.FixedScale(0.3)),
        unveil.VonMises(4),
        unveil.ContinuousBernoulli((2, 2)),
        unveil.DiscretizedLogisticMixture((2, 2), 5, step=1 / 16, low=0.0, high=1.0),
        unveil.DiscretizedLogisticMixture(4, 3, step=0.1),
    ],
    ids=lambda family: type(family).__name__,
)
def test_a_family_starts_with_its_mean_where_it_is_told(family: Family) -> None:
    for dtype in DTYPES:
        mean = torch.tensor([0.03, 0.3, 0.5, 0.9], dtype=dtype).reshape(family.event_shape)
        family = family.to(dtype)
        torch.testing.assert_close(family(family.start_at(mean[None])).mean.detach(), mean)


def test_a_positive_column_cannot_start_at_a_negative_mean() -> None:
    with pytest.raises(ValueError, match=r"expected positive means for positive cells, got -1; "):
        unveil.LogNormal(2).start(torch.tensor([1.0, -1.0]))


@every_likelihood
def test_draws_move_no_global_state_and_are_their_generator_s(example: Likelihood) -> None:
    p, before = example.family()(example.raw(2)), torch.get_rng_state()
    a, b, other = (draw(p, (50,), seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, other)
    assert torch.equal(torch.get_rng_state(), before)


@every_likelihood
def test_a_density_is_in_the_data_s_precision_where_networks_run_in_bfloat16(
    example: Likelihood,
) -> None:
    family, raw = example.family(torch.float32), example.raw(9, dtype=torch.float32)
    rows = example.rows(9, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        lowered = family(raw).log_prob(rows)
    assert torch.equal(lowered, family(raw).log_prob(rows))


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
