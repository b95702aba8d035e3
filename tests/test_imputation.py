"""Missing cells from the observed ones: exact conditionals, draws, and whole tables."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

import unveil
from instances import LIKELIHOODS, Likelihood
from linear_model import LinearModel
from oracles import (
    CAUGHT,
    SURELY_WRONG,
    a_linear_gaussian,
    chi_square_z,
    nonlinear_vae,
    normal,
    seeded,
    with_gaps,
    z_score,
)
from unveil import tiles
from unveil.cli.main import run
from unveil.data.read import read
from unveil.distributions import Cells
from unveil.errors import InputError
from unveil.evidence.simulated import simulate
from unveil.imputation import missing as core
from unveil.imputation.missing import completions, expected
from unveil.imputation.table import ANYWHERE, Imputation
from unveil.likelihoods.classes import Classes
from unveil.noise import generator

NAN = float("nan")


def completed(model: unveil.LatentVariableModel, x: Tensor, number: int, **asked) -> Tensor:
    """All draws of all rows, (draw, row, *event)."""
    return torch.cat(list(completions(model, x, number, **asked)), dim=1)


def exact_conditional(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each missing cell given the observed ones, of p(x) = N(μ, WWᵀ + s²I)."""
    model = a_linear_gaussian()
    covariance = model.weight @ model.weight.T + model.noise_variance * torch.eye(x.shape[1])
    mean, variance = x.clone(), torch.zeros_like(x)
    for row in range(len(x)):
        m = torch.isnan(x[row])
        o = ~m
        gain = torch.linalg.solve(covariance[o][:, o], covariance[o][:, m]).mT
        mean[row, m] = model.mean[m] + gain @ (x[row, o] - model.mean[o])
        variance[row, m] = (covariance[m][:, m] - gain @ covariance[o][:, m]).diagonal()
    return mean, variance


def linear_rows(number: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Rows of the linear-Gaussian model, and the same with gaps."""
    whole, _ = simulate(LinearModel(), torch.zeros(number, 6, dtype=torch.float64), seed=seed)
    return whole, with_gaps(whole, seed=seed + 1, share=0.5)


# ---- against what is exact ----------------------------------------------------------------------


@pytest.mark.parametrize("q", [{}, {"gain": 0.5, "width": 1.5}], ids=["exact q", "wrong q"])
def test_values_are_the_exact_conditional_means(q: dict[str, float]) -> None:
    _, x = linear_rows(20)
    mean, _ = exact_conditional(x)
    values = torch.stack(
        [expected(LinearModel(**q), x, num_samples=500, seed=s).values for s in range(16)]
    )
    gone = torch.isnan(x)
    assert z_score(values[:, gone], mean[gone]) < SURELY_WRONG * 1.5  # the largest of 60, of t₁₅


def test_draws_have_the_exact_conditional_moments_even_of_a_wrong_q() -> None:
    _, x = linear_rows(6)
    mean, variance = exact_conditional(x)
    gone = torch.isnan(x)
    model = LinearModel(gain=0.7, width=1.5)
    draws = torch.cat([completed(model, x, 1000, num_samples=4000, seed=s) for s in range(6)])
    standard = ((draws - mean) / variance.sqrt())[:, gone]
    # Draws that share a pool of q's are worth fewer than there are.
    assert z_score(standard[::4], 0.0) < SURELY_WRONG
    assert z_score(standard[::4].square(), 1.0) < SURELY_WRONG


def coverage_z(draw_all: Callable[[Tensor], Tensor], rows: int = 2000) -> float:
    """How far from 90 % the coverage of central 90 % intervals is, in standard errors of rows."""
    whole, x = linear_rows(rows)
    draws = draw_all(x)
    low, high = torch.quantile(draws, torch.tensor([0.05, 0.95]).double(), dim=0)
    gone = torch.isnan(x)
    held = ((low <= whole) & (whole <= high) & gone).sum(1).double() - 0.9 * gone.sum(1)
    return float(held.mean() / (held.std() / math.sqrt(len(held))))


def test_draws_of_the_exact_posterior_cover_as_they_say() -> None:
    draws = partial(completed, LinearModel(), number=300, num_samples=300)
    # The central 90 % of 300 draws hold one more with probability 0.9 but for 1/300.
    assert abs(coverage_z(lambda x: draws(x=x))) < SURELY_WRONG


def test_forgetting_the_noise_of_the_cells_is_caught(monkeypatch) -> None:
    monkeypatch.setattr(core, "draw", lambda likelihood, shape, randomness: likelihood.mean)
    draws = partial(completed, LinearModel(), number=200, num_samples=200)
    assert coverage_z(lambda x: draws(x=x), rows=4000) < -CAUGHT


def test_forgetting_the_weights_is_caught(monkeypatch) -> None:
    right = partial(completed, LinearModel(gain=0.8, width=1.8), number=300, num_samples=1000)
    assert abs(coverage_z(lambda x: right(x=x))) < SURELY_WRONG
    weighed = core._weighed

    def unweighed(*arguments):
        for likelihood, z, log_w in weighed(*arguments):
            yield likelihood, z, torch.zeros_like(log_w)

    monkeypatch.setattr(core, "_weighed", unweighed)
    assert abs(coverage_z(lambda x: right(x=x))) > CAUGHT


class _Three(unveil.LatentVariableModel):
    """z ∈ {−, +} by the sign of a standard normal; two cells of three classes given its sign."""

    def __init__(self) -> None:
        super().__init__()
        self.num_latents = 1
        self.p_z = unveil.StandardNormal(1).double()
        table = torch.tensor(
            [[[0.7, 0.2, 0.1], [0.6, 0.3, 0.1]], [[0.1, 0.3, 0.6], [0.1, 0.1, 0.8]]]
        )
        self.table = table.double()

    def prior(self, given=None):
        return self.p_z(given)

    def likelihood(self, z, given=None):
        return Cells(Classes(self.table[(z[..., 0] > 0).long()].log()), event_dims=1)

    def posterior(self, x, given=None):
        return unveil.DiagonalGaussian(1)(torch.full((len(x), 2), 0.2).double())

    def exact(self, observed: int) -> Tensor:
        """P(second cell | first cell)."""
        joint = (self.table[:, 0, observed, None] * self.table[:, 1]).sum(0) / 2
        return joint / joint.sum()


def test_classes_have_the_probabilities_of_the_enumerated_model() -> None:
    model = _Three()
    x = torch.tensor([[0.0, NAN], [2.0, NAN]]).double()
    exact = torch.stack([model.exact(0), model.exact(2)])
    found = [expected(model, x, num_samples=2000, seed=seed) for seed in range(20)]
    assert z_score(torch.stack([f.masses[1] for f in found]), exact) < SURELY_WRONG
    assert torch.equal(found[0].values[:, 1], exact.argmax(1).double())
    # Rows with a pool of draws of their own, so that counts are independent.
    draws = completed(model, x.repeat(3000, 1), 1, num_samples=200)[0, :, 1].view(-1, 2)
    for row in (0, 1):
        counts = torch.bincount(draws[:, row].long(), minlength=3)
        assert chi_square_z(counts, exact[row]) < SURELY_WRONG
        assert chi_square_z(counts, exact[1 - row]) > CAUGHT


def test_the_mean_of_an_angle_is_a_direction() -> None:
    vae = nonlinear_vae(unveil.VonMises(2))
    x = torch.tensor([[NAN, 3.0]] * 3)
    value = expected(vae, x, num_samples=2000).values[0, 0].double()
    draws = completed(vae, x, 4000)[..., 0].flatten().double()
    # About its mean direction, an angle's sine is 0 on average.
    assert z_score((draws - value).sin()[::2], 0.0) < SURELY_WRONG
    assert float((draws - value).cos().mean()) > 0


# ---- rows, seeds, memory -------------------------------------------------------------------------


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=lambda each: each.name)
def test_every_kind_of_cell_is_filled_with_what_it_can_be(likelihood: Likelihood) -> None:
    vae = nonlinear_vae(likelihood.family(torch.float32))
    x = with_gaps(likelihood.rows(30, dtype=torch.float32), seed=3, share=0.5)
    found = expected(vae, x, num_samples=40)
    draws = completed(vae, x, 3, num_samples=40)
    seen = ~torch.isnan(x)
    assert torch.equal(found.values[seen], x[seen])
    assert torch.equal(draws[:, seen], x[seen].expand(3, -1))
    assert bool(found.values.isfinite().all())
    assert bool(vae.likelihood(torch.zeros(30, 2)).log_prob(draws).isfinite().all())
    assert bool(((found.ess >= 1) & (found.ess <= 40 * (1 + 1e-9))).all())


@pytest.mark.parametrize(
    "family",
    [unveil.Gaussian(5), unveil.Categorical(5, 3), unveil.VonMises(5)],
    ids=["numbers", "classes", "angles"],
)
def test_values_belong_to_their_row(family: unveil.Family) -> None:
    vae = nonlinear_vae(family)
    x = with_gaps((normal(4, 300, 5) > 0).float(), seed=5)
    order = torch.randperm(300, generator=seeded(6))
    found, shuffled = expected(vae, x, num_samples=30), expected(vae, x[order], num_samples=30)
    few = expected(vae, x[order[:7]], num_samples=30)
    for attribute in ("values", "ess"):
        whole = getattr(found, attribute)
        assert torch.equal(whole[order], getattr(shuffled, attribute))
        assert torch.equal(whole[order[:7]], getattr(few, attribute))
    assert all(torch.equal(found.masses[j][order], shuffled.masses[j]) for j in found.masses)


def test_equal_rows_share_a_value_and_not_their_draws() -> None:
    _, x = linear_rows(1)
    twice = torch.cat([x, x])
    found = expected(LinearModel(), twice)
    assert torch.equal(found.values[0], found.values[1])
    draws = completed(LinearModel(), twice, 500)
    gone = torch.isnan(x[0])
    assert not (draws[:, 0, gone] == draws[:, 1, gone]).any()
    standard = draws[..., gone] - draws[..., gone].mean(0)
    products = standard[:, 0] * standard[:, 1]
    assert z_score(products, 0.0) < SURELY_WRONG
    assert z_score(standard[:, 0].square(), 0.0) > 10


def test_columns_may_stand_in_any_order() -> None:
    model = a_linear_gaussian()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    other = type(model)(
        weight=model.weight[order], mean=model.mean[order], noise_variance=model.noise_variance
    )
    _, x = linear_rows(10)
    values = expected(LinearModel(model), x, num_samples=3000).values
    swapped = expected(LinearModel(other), x[:, order], num_samples=3000).values
    assert torch.allclose(values[:, order], swapped, atol=0.12)


def test_seeds_decide() -> None:
    _, x = linear_rows(5)
    for ask in (lambda s: expected(LinearModel(), x, num_samples=9, seed=s).values,
                lambda s: completed(LinearModel(), x, 2, num_samples=9, seed=s)):  # fmt: skip
        assert torch.equal(ask(0), ask(0))
        assert not torch.equal(ask(0), ask(1))


def test_memory_is_bounded_and_chunks_change_nothing_but_rounding(monkeypatch) -> None:
    _, x = linear_rows(40)
    whole = expected(LinearModel(), x, num_samples=100).values
    largest = 0
    likelihood = LinearModel.likelihood

    def watched(self, z, given=None):
        nonlocal largest
        largest = max(largest, z.numel())
        return likelihood(self, z, given)

    monkeypatch.setattr(LinearModel, "likelihood", watched)
    monkeypatch.setattr(tiles, "FLOATS_PER_CHUNK", 256 * 6 * 7)
    monkeypatch.setattr(core, "FLOATS_PER_CHUNK", 256 * 6 * 7)
    assert torch.allclose(expected(LinearModel(), x, num_samples=100).values, whole)
    assert completed(LinearModel(), x, 300, num_samples=100).shape == (300, 40, 6)
    assert largest <= 256 * 7 * 3


def test_what_is_picked_follows_the_weights_however_they_come() -> None:
    """Weights 1 … 20 in chunks of three: draws are picked in proportion."""
    log_w = torch.arange(1.0, 21.0).double().log()

    def weighed(model, tile, num_samples, noise):
        z = torch.arange(20.0).view(20, 1, 1).expand(20, len(tile.x), 1)
        for few in range(0, 20, 3):
            some = slice(few, few + 3)
            yield None, z[some], log_w[some, None].expand(-1, len(tile.x))

    tile = next(tiles.tiles(torch.zeros(1, 1)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core, "_weighed", weighed)
        model = nonlinear_vae(unveil.Gaussian(1), latents=1)
        picked = core._resampled(model, tile, 200, 20, generator(0, "test")).flatten()
    counts = torch.bincount(picked.long(), minlength=20)
    assert chi_square_z(counts, log_w.exp() / log_w.exp().sum()) < SURELY_WRONG
    assert chi_square_z(counts, torch.full((20,), 0.05)) > CAUGHT


def test_a_row_that_shows_nothing_is_drawn_from_the_prior() -> None:
    model = a_linear_gaussian()
    x = torch.full((1, 6), NAN).double()
    draws = completed(LinearModel(), x.expand(2000, 6), 1, num_samples=20)[0]
    variance = model.weight.square().sum(1) + model.noise_variance
    standard = (draws - model.mean) / variance.sqrt()
    assert z_score(standard, 0.0) < SURELY_WRONG
    assert z_score(standard.square(), 1.0) < SURELY_WRONG
    assert float(expected(LinearModel(), x, num_samples=100).ess) == pytest.approx(100)


def test_far_rows_are_filled_with_finite_numbers() -> None:
    vae = nonlinear_vae(unveil.Gaussian(3))
    x = torch.tensor([[1e6, NAN, -1e6], [1e-30, NAN, NAN], [3e18, NAN, 0.0]])
    found = expected(vae, x, num_samples=50)
    assert bool(found.values.isfinite().all())
    assert bool((found.ess >= 1).all())


def test_rows_that_no_draw_can_have_made_are_filled_all_the_same() -> None:
    vae = nonlinear_vae(unveil.Poisson(2))
    x = torch.tensor([[0.5, NAN]])  # half a count
    assert bool(expected(vae, x, num_samples=20).values.isfinite().all())
    assert bool(completed(vae, x, 3, num_samples=20).isfinite().all())


def test_weights_that_overflow_are_refused() -> None:
    class Broken(LinearModel):
        def likelihood(self, z, given=None):
            return Cells(Normal(z @ self.model.weight.T * NAN, 1.0, validate_args=False),
                         event_dims=1)  # fmt: skip

    with pytest.raises(ArithmeticError, match="expected finite log-weights"):
        expected(Broken(), linear_rows(2)[1])


@pytest.mark.parametrize("number", [0, -1])
def test_less_than_one_draw_is_refused(number: int) -> None:
    _, x = linear_rows(2)
    with pytest.raises(ValueError, match="at least 1 draw"):
        expected(LinearModel(), x, num_samples=number)
    with pytest.raises(ValueError, match="at least 1 draw"):
        next(completions(LinearModel(), x, number))
    with pytest.raises(ValueError, match="at least 1 draw"):
        next(completions(LinearModel(), x, 1, num_samples=number))


# ---- tables --------------------------------------------------------------------------------------

RNG = np.random.default_rng(0)
SIZE = 150
FACTOR = RNG.normal(size=SIZE)
COLUMNS = {
    "real": FACTOR + 0.3 * RNG.normal(size=SIZE),
    "tenths": np.round(2 * FACTOR + 0.3 * RNG.normal(size=SIZE), 1),
    "count": RNG.poisson(np.exp(FACTOR)).astype(float),
    "yes": (FACTOR + 0.5 * RNG.normal(size=SIZE) > 0).astype(float),
    "same": np.full(SIZE, 7.0),
}
HOLED = {name: np.where(RNG.random(SIZE) < 0.2, np.nan, column) for name, column in COLUMNS.items()}
HOLED["label"] = np.arange(SIZE) % 3 * 1.0


@pytest.fixture(scope="module")
def fitted() -> unveil.Fitted:
    return unveil.fit(pa.table(HOLED), label=("label",), latent=2, epochs=3)


def cells(frame: object, name: str) -> np.ndarray:
    column = frame[name]
    return np.asarray(column.to_numpy() if not isinstance(column, pa.ChunkedArray) else column)


@pytest.mark.parametrize("kind", [pa.table, pd.DataFrame, pl.DataFrame])
def test_the_same_kind_of_frame_comes_back_with_its_gaps_filled(
    fitted: unveil.Fitted, kind: Callable
) -> None:
    frame = kind({"label": HOLED["label"]} | HOLED)
    if kind is pa.table:
        frame = pa.table({n: pa.array(HOLED[n], from_pandas=True) for n in ("label", *COLUMNS)})
    filled = fitted.impute(frame)
    assert type(filled) is type(frame)
    for name in COLUMNS:
        before, after = HOLED[name], cells(filled, name)
        seen = ~np.isnan(before)
        assert np.array_equal(after[seen], before[seen])
        assert np.isfinite(after).all()
    assert set(cells(filled, "yes")) == {0.0, 1.0}
    assert set(cells(filled, "same")) == {7.0}
    assert (cells(filled, "count") == np.rint(cells(filled, "count"))).all()
    assert np.allclose(cells(filled, "tenths") * 10, np.rint(cells(filled, "tenths") * 10))
    assert np.array_equal(cells(filled, "label"), HOLED["label"])


def test_integers_with_gaps_stay_integers_and_an_index_stays(fitted: unveil.Fitted) -> None:
    frame = pd.DataFrame(HOLED, index=[f"row {i}" for i in range(SIZE)])
    frame["count"] = frame["count"].astype("Int64")
    filled = fitted.impute(frame)
    assert filled["count"].dtype == "Int64"
    assert not filled["count"].isna().any()
    assert list(filled.index) == list(frame.index)
    assert list(filled.columns) == list(frame.columns)
    beside = fitted.impute(frame, intervals=0.9)
    gone = np.isnan(HOLED["real"])
    assert list(beside.index) == list(frame.index)
    assert np.array_equal(beside["real_lo"].notna(), gone)
    assert (beside["real_lo"][gone] < beside["real_hi"][gone]).all()


def test_words_and_days_are_filled_and_unseen_words_are_gaps_where_asked() -> None:
    rng = np.random.default_rng(2)
    sex = np.array(["f", "m"])[rng.integers(2, size=80)].astype(object)
    frame = pd.DataFrame(
        {
            "sex": sex,
            "height": np.where(sex == "f", 1.6, 1.8) + 0.05 * rng.normal(size=80),
            "born": pd.date_range("1990-01-01", periods=80, freq="17D"),
            "name": [f"person number {i}" for i in range(80)],
        }
    )
    model = unveil.fit(frame, latent=1, epochs=2)
    holed = frame.copy()
    holed.loc[3:8, "sex"] = None
    holed.loc[5:9, "height"] = np.nan
    holed.loc[1:3, "born"] = pd.NaT
    filled = model.impute(holed, intervals=0.9)
    assert set(filled["sex"]) == {"f", "m"}
    assert filled["name"].tolist() == frame["name"].tolist()
    assert filled["born"].dtype == frame["born"].dtype
    assert not filled[list(frame.columns)].isna().any().any()
    assert (filled["height_lo"][5:10] < filled["height_hi"][5:10]).all()
    strange = frame.assign(sex=["x", *sex[1:]])
    with pytest.raises(InputError, match="x"):
        model.impute(strange)
    assert model.impute(strange, unseen="missing")["sex"].tolist()[1:] == list(sex[1:])


def test_where_nothing_is_missing_the_same_frame_comes_back(fitted: unveil.Fitted) -> None:
    frame = pd.DataFrame(COLUMNS | {"label": HOLED["label"]})
    pd.testing.assert_frame_equal(fitted.impute(frame), frame)
    found = fitted.imputation(frame, draws=2, intervals=0.9)
    assert found.filled == {}
    assert not found.warnings
    assert np.array_equal(found.draws[1], frame[list(COLUMNS)].to_numpy())


def test_draws_stand_below_one_another_and_intervals_beside(fitted: unveil.Fitted) -> None:
    frame = pl.DataFrame(pa.table(HOLED))
    long = fitted.impute(frame, draws=3, intervals=0.8)
    assert long["draw"].to_list() == [1] * SIZE + [2] * SIZE + [3] * SIZE
    added = {f"{name}_{end}" for name in ("real", "tenths", "count") for end in ("lo", "hi")}
    assert set(long.columns) == {"draw", *frame.columns, *added}
    gone = np.isnan(HOLED["real"])
    tables = cells(long, "real").reshape(3, SIZE)
    assert np.array_equal(tables[:, ~gone], np.tile(HOLED["real"][~gone], (3, 1)))
    assert (np.ptp(tables[:, gone], axis=0) > 0).all()
    low, high = (cells(long, f"tenths_{end}")[:SIZE] for end in ("lo", "hi"))
    gone = np.isnan(HOLED["tenths"])
    assert np.isnan(low[~gone]).all()
    assert (low[gone] < high[gone]).all()
    assert np.allclose(low[gone] * 10, np.rint(low[gone] * 10))
    counts = cells(long, "count_lo")[:SIZE][np.isnan(HOLED["count"])]
    assert np.array_equal(counts, np.rint(counts))


def test_wider_intervals_hold_narrower_ones(fitted: unveil.Fitted) -> None:
    narrow, wide = (fitted.imputation(pa.table(HOLED), intervals=p) for p in (0.5, 0.9))
    there = ~np.isnan(narrow.low)
    assert (wide.low[there] <= narrow.low[there]).all()
    assert (wide.high[there] >= narrow.high[there]).all()
    assert (wide.high - wide.low)[there].sum() > 1.3 * (narrow.high - narrow.low)[there].sum()


def outside(found: Imputation, name: str) -> int:
    """How many draws and ends of a column lie beyond the values that were seen of it."""
    place = found.rows.names.index(name)
    told = [found.draws[..., place], found.low[:, place], found.high[:, place]]
    values = np.concatenate([each.ravel() for each in told])
    return int(((values < np.nanmin(HOLED[name])) | (values > np.nanmax(HOLED[name]))).sum())


def test_what_fills_gaps_is_within_what_was_seen(fitted: unveil.Fitted, monkeypatch) -> None:
    asked = {"draws": 20, "intervals": 0.999}
    found = fitted.imputation(pa.table(HOLED), **asked)
    assert [outside(found, name) for name in ("real", "tenths", "count")] == [0, 0, 0]
    monkeypatch.setattr(unveil.Fitted, "within", ANYWHERE)  # the mutant
    assert outside(fitted.imputation(pa.table(HOLED), **asked), "real") > 20


def test_small_integers_are_filled_by_small_integers() -> None:
    greys = pd.array(np.arange(60) * 4 + 10, dtype="UInt8")
    frame = pd.DataFrame({"grey": greys, "size": np.arange(60) / 7})
    frame.loc[::5, "grey"] = pd.NA
    filled = unveil.fit(frame, latent=1, epochs=1).impute(frame, draws=9)
    assert filled["grey"].dtype == "UInt8"
    assert filled["grey"].between(14, 246).all()


def test_only_intervals_that_are_asked_for_are_spoken_of() -> None:
    table = {name: HOLED[name][:12] for name in ("real", "tenths")}
    model = unveil.fit(pa.table(table), latent=1, epochs=1)
    assert not any("interval" in said for said in model.imputation(pa.table(table)).warnings)
    said = model.imputation(pa.table(table), intervals=0.99).warnings
    assert any("99% intervals are not calibrated" in sentence for sentence in said)


def test_arrays_come_back_as_arrays() -> None:
    table = np.stack([HOLED["real"], HOLED["tenths"]], axis=1)
    model = unveil.fit(table, latent=1, epochs=1)
    filled = model.impute(table)
    assert isinstance(filled, np.ndarray)
    assert filled.dtype == table.dtype
    assert np.array_equal(filled[~np.isnan(table)], table[~np.isnan(table)])
    assert np.array_equal(model.impute(torch.from_numpy(table)), filled)
    assert model.impute(table, draws=4).shape == (4, SIZE, 2)
    with pytest.raises(InputError, match="expected a frame with named columns"):
        model.impute(table, intervals=0.9)


def test_probabilities_are_those_of_the_missing_classes(fitted: unveil.Fitted) -> None:
    found = fitted.imputation(pa.table(HOLED))
    p, gone = found.probabilities["yes"], np.isnan(HOLED["yes"])
    assert np.isnan(p[~gone]).all()
    assert np.allclose(p[gone].sum(1), 1)
    assert np.array_equal(p[gone].argmax(1), found.values[gone, found.rows.names.index("yes")])


def test_classes_are_filled_by_their_own_values() -> None:
    table = {
        "size": np.array([1.0, 2.0, 5.0])[np.arange(60) % 3],
        "also": np.array([1.0, 2.0, 5.0])[np.arange(60) % 3],
    }
    table["size"][::7] = np.nan
    model = unveil.fit(pa.table(table), likelihood="categorical", latent=1, epochs=2)
    found = model.imputation(pa.table(table), draws=5, intervals=0.9)
    assert set(found.values[:, 0]) <= {1.0, 2.0, 5.0}
    assert set(found.draws[..., 0].ravel()) <= {1.0, 2.0, 5.0}
    assert np.isnan(found.low).all()
    assert np.allclose(found.probabilities["size"][::7].sum(1), 1)
    assert found.ends().names == ()


def test_a_shift_moves_what_fills_gaps_of_numbers_alone(fitted: unveil.Fitted) -> None:
    frame = pa.table(HOLED)
    usual = fitted.imputation(frame, draws=1, intervals=0.9)
    both = fitted.imputation(frame, draws=1, intervals=0.9, shift=2.0)
    one = fitted.imputation(frame, shift={"real": -1.0})
    names = usual.rows.names
    real, yes, count = (names.index(n) for n in ("real", "yes", "count"))
    gone, sd = usual.missing[:, real], np.nanstd(HOLED["real"])
    for name in ("values", "low", "high"):
        moved = getattr(both, name)[gone, real] - getattr(usual, name)[gone, real]
        assert np.allclose(moved, 2 * sd)
    assert np.allclose(both.draws[0, gone, real] - usual.draws[0, gone, real], 2 * sd)
    assert np.array_equal(both.values[:, yes], usual.values[:, yes])
    assert np.allclose(one.values[gone, real] - usual.values[gone, real], -sd)
    assert np.array_equal(one.values[:, count], usual.values[:, count])
    assert (both.values[:, count] >= usual.values[:, count]).all()
    assert np.array_equal(both.values[~both.missing], usual.values[~usual.missing])


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"draws": 0}, "expected at least 1 draw"),
        ({"intervals": 0.0}, "level between 0 and 1"),
        ({"intervals": 1.0}, "level between 0 and 1"),
        ({"intervals": 90.0}, "level between 0 and 1"),
        ({"intervals": NAN}, "level between 0 and 1"),
        ({"shift": NAN}, "expected a finite shift"),
        ({"shift": math.inf}, "expected a finite shift"),
        ({"shift": {"real": NAN}}, "expected a finite shift of column 'real'"),
        ({"shift": {"weight": 1.0}}, "weight came"),
        ({"shift": {"yes": 1.0}}, "yes came"),
    ],
)
def test_what_cannot_be_asked_is_refused(fitted: unveil.Fitted, asked: dict, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        fitted.impute(pa.table(HOLED), **asked)


def test_a_spread_of_one_cell_is_no_spread(fitted: unveil.Fitted) -> None:
    one = pa.table({name: column[:1] for name, column in HOLED.items()})
    fitted.impute(one)
    with pytest.raises(InputError, match="expected two observed cells or more in column 'real'"):
        fitted.impute(one, shift={"real": 1.0})


@pytest.mark.parametrize(
    ("name", "asked"), [("draw", {"draws": 2}), ("real_lo", {"intervals": 0.9})]
)
def test_a_column_that_would_be_written_twice_is_refused(
    fitted: unveil.Fitted, name: str, asked: dict
) -> None:
    frame = pa.table(HOLED)
    found = fitted.imputation(frame, **asked)
    there = found.rows.frame.with_columns(found.rows.frame["label"].alias(name))
    clashing = replace(found, rows=replace(found.rows, frame=there, labels={name: HOLED["label"]}))
    for way_out in (clashing.table, clashing.as_they_came):
        with pytest.raises(InputError, match=f"expected no column called {name}"):
            way_out()


def test_rows_that_show_nothing_and_draws_that_do_not_count_are_told_of(
    fitted: unveil.Fitted,
) -> None:
    empty = pa.table({name: np.full(2, np.nan) for name in HOLED})
    assert "2 of 2 rows show nothing" in fitted.imputation(empty).warnings[0]
    odd = {name: np.array([np.nan]) for name in HOLED} | {
        "real": np.array([1e5]), "tenths": np.array([-2e5])
    }  # fmt: skip
    warned = fitted.imputation(pa.table(odd)).warnings[0]
    assert "in 1 of 1 rows fewer than 10 of 1000 draws count" in warned


def test_a_saved_model_imputes_as_the_fitted_one(fitted: unveil.Fitted, tmp_path: Path) -> None:
    fitted.save(tmp_path / "m")
    loaded = unveil.load(tmp_path / "m")
    ours, theirs = (m.imputation(pa.table(HOLED), draws=2, intervals=0.9) for m in (fitted, loaded))
    for name in ("values", "draws", "low", "high"):
        assert np.array_equal(getattr(ours, name), getattr(theirs, name), equal_nan=True)


# ---- the verb ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(fitted: unveil.Fitted, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("impute")
    fitted.save(folder / "m")
    table = pa.table({n: pa.array(c, from_pandas=True) for n, c in HOLED.items()})
    pyarrow.csv.write_csv(table, folder / "holes.csv")
    return folder


def test_the_verb_writes_what_the_library_says(folder: Path, capsys) -> None:
    out, said = folder / "full.csv", folder / "said.json"
    words = ["impute", f"{folder}/m", f"{folder}/holes.csv", "-o", str(out), "--json", str(said)]
    assert run([*words, "--draws", "2", "--intervals", "0.9", "--shift", "0.5"]) == 0
    written = pd.read_csv(out)
    assert written["draw"].tolist() == [1] * SIZE + [2] * SIZE
    assert not written[list(COLUMNS)].isna().any().any()
    assert {"real_lo", "real_hi", "label"} <= set(written.columns)
    library = unveil.load(folder / "m").imputation(
        folder / "holes.csv", draws=2, intervals=0.9, shift=0.5
    )
    assert np.array_equal(written["real"], library.draws[..., 0].ravel())
    document = pd.read_json(said, typ="series")
    assert document["rows"] == SIZE
    assert document["filled"]["real"] == int(np.isnan(HOLED["real"]).sum())
    printed = capsys.readouterr().out
    assert "missing at random" in printed
    assert "90% intervals hold" in printed
    assert document["intervals"] in printed


@pytest.mark.parametrize(
    "wrong", [["--draws", "0"], ["--intervals", "90"], ["--shift", "inf"], ["--draws", "x"]]
)
def test_the_verb_refuses_in_a_sentence_and_writes_nothing(
    folder: Path, wrong: list[str], capsys
) -> None:
    out = folder / "never.csv"
    words = ["impute", f"{folder}/m", f"{folder}/holes.csv", "-o", str(out)]
    assert run([*words, *wrong]) == 2
    assert not out.exists()
    assert capsys.readouterr().err


def test_pictures_have_gaps_too(tmp_path: Path, capsys) -> None:
    digits = read("digits").values.astype(float)[:40]
    unveil.fit(digits, latent=2, epochs=1).save(tmp_path / "m")
    holed = digits.copy()
    holed[:, :4] = np.nan
    np.save(tmp_path / "holes.npy", holed)
    words = ["impute", f"{tmp_path}/m", f"{tmp_path}/holes.npy", "-o", f"{tmp_path}/full.npy"]
    assert run(words) == 0
    filled = np.load(tmp_path / "full.npy")
    assert np.array_equal(filled[:, 4:], digits[:, 4:])
    assert ((filled >= 0) & (filled <= 16) & (filled == np.rint(filled))).all()
    assert run([*words, "--draws", "2"]) == 2
    assert "expected named columns" in capsys.readouterr().err
