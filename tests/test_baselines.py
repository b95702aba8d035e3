"""The baselines are right too: each against a closed form or brute force."""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal, norm

from unveil.baselines import Baselines, Grid, dequantise, fit_baselines, ppca_log_evidence
from unveil.data.encode import encode
from unveil.data.infer import infer
from unveil.data.read import Rows
from unveil.data.schema import Schema

RNG = np.random.default_rng(0)


def flat(schema: Schema, rows: Rows) -> torch.Tensor:
    return torch.from_numpy(encode(schema, rows)).double().flatten(1)


def baselines_of(rows: Rows, schema: Schema, latents: int = 1) -> Baselines:
    x = flat(schema, rows)
    return fit_baselines(x, x, schema, latents, seed=0)


def test_counted_columns_have_one_added_to_each_count() -> None:
    rows = Rows(np.array([[0.0]] * 6 + [[1.0]] * 4), names=("coin",))
    schema = infer(rows)
    log_p = baselines_of(rows, schema).independent.log_evidence(flat(schema, rows), Grid.of(schema))
    assert log_p.exp().tolist() == pytest.approx([7 / 12] * 6 + [5 / 12] * 4)


def test_a_binarized_cell_is_a_coin_whatever_its_grey_levels() -> None:
    """Probabilities of 0 and 1 sum to one, and are the mean grey level with one added to each."""
    levels = RNG.integers(0, 17, size=(40, 2, 2)).astype(np.uint8)
    rows = Rows(levels)
    schema = infer(rows).binarized()
    independent = baselines_of(rows, schema).independent
    cases = torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * 4)
    p = independent.log_evidence(cases, Grid.of(schema)).exp()
    assert float(p.sum()) == pytest.approx(1.0)
    ones = (levels.reshape(40, 4) / 16).sum(0)
    assert float(p[-1]) == pytest.approx(np.prod((ones + 1) / 42))


def test_real_columns_have_a_normal_density_in_their_own_units() -> None:
    values = RNG.normal(5.0, 3.0, size=(50, 2)) * [1.0, 100.0]
    rows = Rows(values, names=("a", "b"))
    schema = infer(rows)
    log_p = baselines_of(rows, schema).independent.log_evidence(flat(schema, rows), Grid.of(schema))
    expected = norm.logpdf(values, values.mean(0), values.std(0)).sum(1)
    assert log_p.numpy() == pytest.approx(expected, abs=1e-4)


def test_whole_numbers_have_the_mass_of_a_normal_that_sums_to_one() -> None:
    values = RNG.integers(-20, 2000, size=(60, 1)).astype(float)
    rows = Rows(values, names=("n",))
    schema = infer(rows)
    independent, grid = baselines_of(rows, schema).independent, Grid.of(schema)
    everything = Rows(np.arange(-6000.0, 9000.0)[:, None], names=("n",))
    log_p = independent.log_evidence(flat(schema, everything), grid)
    assert float(log_p.exp().sum()) == pytest.approx(1.0, abs=1e-6)
    assert bool(torch.isfinite(log_p).all())  # also forty standard deviations away


def test_a_missing_cell_counts_nothing() -> None:
    values = RNG.normal(size=(50, 2))
    rows = Rows(values, names=("a", "b"))
    schema = infer(rows)
    independent, grid = baselines_of(rows, schema).independent, Grid.of(schema)
    holes = flat(schema, rows)
    holes[:, 1] = float("nan")
    expected = norm.logpdf(values[:, 0], values[:, 0].mean(), values[:, 0].std())
    assert independent.log_evidence(holes, grid).numpy() == pytest.approx(expected, abs=1e-4)


def test_ppca_is_the_gaussian_that_it_stands_for() -> None:
    """With every direction but one kept, it is the sample covariance itself."""
    values = (RNG.normal(size=(80, 3)) @ RNG.normal(size=(3, 3))) * [1.0, 10.0, 0.1]
    rows = Rows(values, names=("a", "b", "c"))
    schema = infer(rows)
    ppca = baselines_of(rows, schema, latents=2).ppca
    assert ppca is not None
    log_p = ppca_log_evidence(ppca, flat(schema, rows), Grid.of(schema), seed=0)
    expected = multivariate_normal.logpdf(values, values.mean(0), np.cov(values.T, ddof=0))
    assert log_p.numpy() == pytest.approx(expected, abs=1e-3)


def test_dequantised_ppca_bounds_the_mass_from_below() -> None:
    """E log of the dequantised density is at most the log of its mean, the mass on the cell."""
    values = np.round(RNG.normal(0, 2, size=(2000, 1)))
    rows = Rows(np.column_stack([values, np.round(RNG.normal(0, 3, size=2000))]), names=("a", "b"))
    schema = infer(rows)
    ppca, grid, x = baselines_of(rows, schema).ppca, Grid.of(schema), flat(schema, rows)
    assert ppca is not None
    mean_log = ppca_log_evidence(ppca, x, grid, seed=0).mean()
    draws = torch.stack([ppca_log_evidence(ppca, x, grid, seed=s) for s in range(300)])
    mass = (draws.logsumexp(0) - np.log(300)).mean()
    entropy = norm.entropy(0, 2) + norm.entropy(0, 3)
    assert float(mass) == pytest.approx(-entropy, abs=0.1)
    assert mean_log < mass
    # The mutant: a density per standard deviation, its units forgotten, is far from the mass.
    assert abs(float(mean_log - grid.step.log().sum()) + entropy) > 1


def test_dequantising_adds_up_to_half_a_step_either_way() -> None:
    rows = Rows(np.arange(0.0, 400.0, 2.0)[:, None], names=("n",))
    schema = infer(rows)
    moved = dequantise(flat(schema, rows), Grid.of(schema), seed=0) - flat(schema, rows)
    steps = moved / Grid.of(schema).step
    assert -0.5 <= float(steps.min()) < -0.4
    assert 0.4 < float(steps.max()) <= 0.5


def test_baselines_come_back_from_their_tensors() -> None:
    rows = Rows(RNG.normal(size=(30, 3)), names=("a", "b", "c"))
    schema = infer(rows)
    first = baselines_of(rows, schema)
    again = Baselines.from_tensors(first.tensors())
    for name, tensor in first.tensors().items():
        assert torch.equal(tensor, again.tensors()[name])
