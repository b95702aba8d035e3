"""Rows under conditions: exact where the conditionals are known, refused where they are not."""

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, Normal

import unveil
from linear_model import LinearModel
from oracles import CAUGHT, SURELY_WRONG, z_score
from unveil import conditional
from unveil.conditional import (
    Conditioned,
    Conditions,
    conditions,
    fulfilled,
    sample_where,
)
from unveil.data.schema import Column, Schema
from unveil.distributions import Binary, Cells, DiagonalNormal, DiscretizedLogistic, Joined
from unveil.distributions import draw as unveil_draw
from unveil.errors import InputError
from unveil.likelihoods.angles import VonMisesDensity
from unveil.likelihoods.classes import Classes, Ranks
from unveil.likelihoods.counts import GammaPoissonCounts, PoissonCounts
from unveil.likelihoods.inflated import WithExtraZeros
from unveil.likelihoods.positive import LogNormalDensity
from unveil.likelihoods.proportions import ContinuousBernoulliDensity
from unveil.likelihoods.real import StudentTDensity
from unveil.noise import generator

# ---- distribution functions ---------------------------------------------------------------------


def of(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


DENSITIES = {
    "student": (StudentTDensity(of(0.3), of(0.7), of(3.0)), stats.t(3, 0.3, 0.7)),
    "log_normal": (LogNormalDensity(of(0.3), of(0.7)), stats.lognorm(0.7, scale=math.exp(0.3))),
    "von_mises": (
        VonMisesDensity(of(0.3).cos(), of(0.3).sin(), of(2.0)),
        stats.vonmises(2.0, loc=0.3),
    ),
}


@pytest.mark.parametrize("name", DENSITIES)
def test_distribution_functions_are_scipys(name: str) -> None:
    ours, theirs = DENSITIES[name]
    t = torch.linspace(-2.8, 2.8, 50, dtype=torch.float64)
    assert np.allclose(ours.cdf(t).numpy(), theirs.cdf(t.numpy()), atol=1e-12)


def test_angles_go_on_counting_after_a_turn() -> None:
    density = VonMisesDensity(of(0.3).cos(), of(0.3).sin(), of(2.0))
    over_the_seam = density.cdf(of(math.pi + 1)) - density.cdf(of(math.pi - 1))
    mass, _ = integrate.quad(
        lambda t: float(density.log_prob(of(t)).exp()), math.pi - 1, math.pi + 1
    )
    assert float(over_the_seam) == pytest.approx(mass, abs=1e-9)


@pytest.mark.parametrize("logit", [-30.0, -1.0, 0.0, 1e-9, 2.0, 30.0])
def test_proportions_have_the_mass_of_their_density(logit: float) -> None:
    density = ContinuousBernoulliDensity(of(logit))
    assert density.cdf(of(-0.5, 1.5)).tolist() == [0.0, 1.0]
    for end in (0.05, 0.5, 0.99):
        mass, _ = integrate.quad(lambda t: float(density.log_prob(of(t)).exp()), 0, end)
        assert float(density.cdf(of(end))) == pytest.approx(mass, abs=1e-9)


COUNTS = torch.arange(400, dtype=torch.float64)
MASSES = {
    "binary": (Binary(of(0.4)), COUNTS[:2]),
    "classes": (Classes(of(0.2, 0.5, 0.3).log()), COUNTS[:3]),
    "ranks": (Ranks(of(0.2, 0.5, 0.3).log()), COUNTS[:3]),
    "poisson": (PoissonCounts(of(1.2)), COUNTS),
    "negative_binomial": (GammaPoissonCounts(of(1.2), of(0.8)), COUNTS),
    "inflated": (WithExtraZeros(PoissonCounts(of(1.2)), of(0.4)), COUNTS),
    "grid": (DiscretizedLogistic(of(1.3), of(0.7), step=0.1, low=0.0, high=3.0), COUNTS[:31] / 10),
    "endless": (DiscretizedLogistic(of(0.3), of(0.2), step=0.5), (COUNTS - 200) / 2),
    "mixture": (
        MixtureSameFamily(
            Categorical(of(0.3, 0.7)), DiscretizedLogistic(of(1.0, 2.0), of(0.3, 0.1), step=1.0),
            validate_args=False,
        ),
        COUNTS - 200,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MASSES)
def test_distribution_functions_add_up_the_masses(name: str) -> None:
    distribution, values = MASSES[name]
    up_to = torch.stack([distribution.log_prob(v).exp().reshape(()) for v in values]).cumsum(0)
    at, between = (
        torch.stack([distribution.cdf(v).reshape(()) for v in values + by])
        for by in (0.0, 0.4 * float(values[1] - values[0]))
    )
    assert torch.allclose(at, up_to, atol=1e-9)
    assert torch.allclose(between, up_to, atol=1e-9)
    assert float(distribution.cdf(values[0] - 1)) == pytest.approx(0.0, abs=1e-9)


def test_columns_of_several_kinds_stand_where_they_belong() -> None:
    a = Cells(Normal(of(0.0, 1.0), of(1.0, 1.0), validate_args=False), event_dims=1)
    b = Cells(Binary(of(0.4)), event_dims=1)
    joined = Joined([(torch.tensor([2, 0]), a), (torch.tensor([1]), b)])
    x = of(1.0, 0.0, 0.0)
    assert torch.allclose(joined.cdf_cells(x), of(0.5, float(torch.sigmoid(of(-0.4))), 0.5))
    assert torch.allclose(joined.log_prob_cells(x).sum(), joined.log_prob(x))
    gappy = of(1.0, math.nan, 0.0)
    assert joined.log_prob_cells(gappy)[1] == 0


# ---- exact conditionals -------------------------------------------------------------------------

CELLS = 6
NOTHING = torch.full((CELLS,), math.nan, dtype=torch.float64)


def asked(
    *, equal: dict[int, float] | None = None, between: dict[int, tuple[float, float]] | None = None
) -> Conditions:
    """Conditions by cell, in model units."""
    cells = {name: NOTHING.clone() for name in ("equal", "low", "high")}
    for cell, value in (equal or {}).items():
        cells["equal"][cell] = value
    for cell, (low, high) in (between or {}).items():
        cells["low"][cell], cells["high"][cell] = low, high
    return Conditions(**cells)


def joint_normal(model: LinearModel) -> tuple[Tensor, Tensor]:
    weight, s2 = model.model.weight, model.model.noise_variance
    return model.model.mean, weight @ weight.T + s2 * torch.eye(len(weight)).double()


def errors(drawn: Conditioned, mean: Tensor, sd: Tensor, cells: list[int]) -> float:
    """The largest |z| of the columns' means and variances, by the number of effective draws."""
    x = drawn.x[:, cells]
    number = min(len(x), drawn.ess)
    off = (x.mean(0) - mean) / (sd / math.sqrt(number))
    spread = (x.var(0) / sd.square() - 1) / math.sqrt(2 / number)
    return float(torch.cat([off, spread]).abs().max())


def exact_given_equal(model: LinearModel, equal: dict[int, float]) -> tuple[Tensor, Tensor]:
    mean, covariance = joint_normal(model)
    told, rest = list(equal), [j for j in range(CELLS) if j not in equal]
    gain = covariance[rest][:, told] @ torch.linalg.inv(covariance[told][:, told])
    values = torch.tensor(list(equal.values())).double()
    expected = mean[rest] + gain @ (values - mean[told])
    left = covariance[rest][:, rest] - gain @ covariance[told][:, rest]
    return expected, left.diagonal().sqrt()


EQUAL = {0: 1.0, 3: -0.5}
REST = [1, 2, 4, 5]


@pytest.mark.parametrize("model", [LinearModel(), LinearModel(gain=0.5, width=1.5)])
def test_rows_that_share_a_value_are_those_of_the_exact_conditional(
    model: LinearModel, monkeypatch
) -> None:
    """Whether q is exact or poor; a mutant that takes every proposal for as good is told."""
    drawn = sample_where(model, asked(equal=EQUAL), 4000, seed=3)
    assert (drawn.x[:, [0, 3]] == of(1.0, -0.5)).all()
    mean, sd = exact_given_equal(model, EQUAL)
    assert errors(drawn, mean, sd, REST) < SURELY_WRONG
    proposed = conditional._proposed

    def unweighted(*arguments: Any) -> tuple[Tensor, Tensor]:
        z, log_w = proposed(*arguments)
        return z, torch.zeros_like(log_w)

    monkeypatch.setattr(conditional, "_proposed", unweighted)
    mutant = sample_where(model, asked(equal=EQUAL), 4000, seed=3)
    assert errors(mutant, mean, sd, REST) > CAUGHT


def test_the_probability_of_a_value_is_its_density() -> None:
    model = LinearModel()
    mean, covariance = joint_normal(model)
    exact = Normal(mean[0], covariance[0, 0].sqrt()).log_prob(torch.tensor(1.0))
    drawn = sample_where(model, asked(equal={0: 1.0}), 10)
    assert drawn.log_probability == pytest.approx(float(exact), abs=0.05)


@pytest.mark.parametrize("ends", [(0.5, 1.0), (-math.inf, -1.0), (2.0, math.inf)])
def test_rows_between_ends_are_those_of_the_exact_conditional(ends: tuple[float, float]) -> None:
    """x_1 is a truncated normal, and the others follow it by regression."""
    model = LinearModel()
    mean, covariance = joint_normal(model)
    sd = covariance.diagonal().sqrt()
    drawn = sample_where(model, asked(between={1: ends}), 4000, seed=1)
    low, high = ((end - float(mean[1])) / float(sd[1]) for end in ends)
    cut = stats.truncnorm(low, high, loc=float(mean[1]), scale=float(sd[1]))
    assert bool(((drawn.x[:, 1] >= ends[0]) & (drawn.x[:, 1] <= ends[1])).all())
    slope = covariance[:, 1] / covariance[1, 1]
    expected = mean + slope * (cut.mean() - mean[1])
    left = covariance.diagonal() - slope * covariance[:, 1] + slope.square() * cut.var()
    rest = [0, 2, 3, 4, 5]
    assert errors(drawn, expected[rest], left[rest].sqrt(), rest) < SURELY_WRONG
    assert stats.kstest(drawn.x[::8, 1].numpy(), cut.cdf).pvalue > 1e-6
    probability = stats.norm.cdf(high) - stats.norm.cdf(low)
    assert drawn.log_probability == pytest.approx(math.log(probability), abs=0.1)
    free = sample_where(model, asked(), 4000, seed=1)
    assert errors(free, expected[rest], left[rest].sqrt(), rest) > CAUGHT


class Enumerated(unveil.LatentVariableModel):
    """Three binary cells and one of three classes, whose chances are functions of z ~ N(0, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.num_latents = 1
        self.p_z = unveil.StandardNormal(1).double()

    def prior(self, given=None):
        return self.p_z(given)

    def likelihood(self, z, given=None):
        binary = Cells(Binary(z * of(2.0, -3.0, 1.0) + of(0.1, 0.5, -1.0)), event_dims=1)
        logits = (z * of(1.5, 0.0, -2.0))[..., None, :]
        classes = Cells(Classes(logits.log_softmax(-1)), event_dims=1)
        return Joined([(torch.tensor([0, 1, 3]), binary), (torch.tensor([2]), classes)])

    def posterior(self, x, given=None):
        return DiagonalNormal(torch.full_like(x[:, :1], 0.3), torch.full_like(x[:, :1], 1.2))

    def joint(self) -> dict[tuple[int, ...], float]:
        """P(x) of all 24 rows, by quadrature."""
        z = torch.linspace(-9, 9, 4001, dtype=torch.float64)
        log_p = Normal(0.0, 1.0).log_prob(z)
        rows = list(itertools.product((0, 1), (0, 1), (0, 1, 2), (0, 1)))
        x = torch.tensor(rows, dtype=torch.float64)[:, None]
        log_joint = self.likelihood(z[:, None]).log_prob(x) + log_p
        return dict(zip(rows, (log_joint.exp().sum(1) * 18 / 4000).tolist(), strict=True))


def test_an_enumerated_model_is_conditioned_exactly() -> None:
    """One binary cell equal, the class 1 or 2: every row's share beside its probability."""
    model = Enumerated()
    conditions = Conditions(
        equal=of(1.0, math.nan, math.nan, math.nan),
        low=of(math.nan, math.nan, 0.5, math.nan),
        high=of(math.nan, math.nan, 2.5, math.nan),
    )
    drawn = sample_where(model, conditions, 4000, seed=2)
    possible = {row: p for row, p in model.joint().items() if row[0] == 1 and row[2] >= 1}
    whole = sum(possible.values())
    assert drawn.log_probability == pytest.approx(math.log(whole), abs=0.05)
    rows = [tuple(map(round, row)) for row in drawn.x.tolist()]
    assert set(rows) <= set(possible)
    number = min(len(rows), drawn.ess)
    unconditioned = model.joint()

    def furthest(expected: dict[tuple[int, ...], float]) -> float:
        return max(
            abs(rows.count(row) / len(rows) - p) / math.sqrt(p * (1 - p) / number)
            for row, p in expected.items()
        )

    assert furthest({row: p / whole for row, p in possible.items()}) < SURELY_WRONG
    assert furthest({row: unconditioned[row] for row in possible}) > CAUGHT / 2


def test_draws_are_a_function_of_the_seed() -> None:
    model, wanted = LinearModel(), asked(equal={0: 1.0}, between={1: (0.0, 1.0)})
    first, again, other = (sample_where(model, wanted, 20, seed=seed).x for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_covariates_are_conditioned_on_as_well() -> None:
    model = LinearModel()
    wanted, given = asked(equal={0: 1.0}), of(2.0)[None]
    drawn = sample_where(model, wanted, 4000, given=given, seed=5)
    mean, covariance = joint_normal(model)
    mean = mean + model.of_given[:, 0] * 2.0
    slope = covariance[1:, 0] / covariance[0, 0]
    expected = mean[1:] + slope * (1.0 - mean[0])
    left = covariance.diagonal()[1:] - slope * covariance[1:, 0]
    assert errors(drawn, expected, left.sqrt(), [1, 2, 3, 4, 5]) < SURELY_WRONG


# ---- refused ------------------------------------------------------------------------------------


def test_what_the_model_never_does_is_refused() -> None:
    with pytest.raises(InputError, match="none of 20000 draws of the model could"):
        sample_where(LinearModel(), asked(between={1: (900.0, 901.0)}), 5)


def test_what_it_hardly_ever_does_is_refused() -> None:
    poor = LinearModel(gain=0.0, width=0.01)
    with pytest.raises(InputError, match="count in effect, where 20 are needed"):
        sample_where(poor, asked(equal=dict.fromkeys(range(CELLS), 12.0)), 5)


def test_more_rows_than_the_draws_stand_for_are_refused() -> None:
    wanted = asked(equal={0: 6.0, 1: 6.0, 2: -6.0, 3: 5.0, 4: 1.0})
    with pytest.raises(InputError, match=r"expected at most \d+ rows under these conditions"):
        sample_where(LinearModel(gain=0.8), wanted, 2_000_000)


def test_less_than_a_row_is_refused() -> None:
    with pytest.raises(InputError, match="expected at least 1 row to sample, but 0 came"):
        sample_where(LinearModel(), asked(), 0)


SCHEMA = Schema(
    (7,),
    (
        Column("age", "grid", 40.0, 10.0, step=1.0),
        Column("pay", "real", 5.0, 2.0),
        Column("sex", "binary", step=1.0, low=0.0, high=1.0, type="text", words=("f", "m")),
        Column("visits", "count", step=1.0, low=0.0),
        Column("size", "ordinal", step=1.0, low=0.0, high=2.0, levels=(1.0, 2.0, 5.0)),
        Column("wind", "angle", unit=360.0 / math.tau, low=0.0, high=360.0),
        Column("year", "constant", shift=2024.0),
    ),
    gaps=False,
)


def test_a_word_is_a_condition_as_any_value_is() -> None:
    assert conditions(SCHEMA, {"sex": "m"}).equal[2] == 1.0
    x = torch.zeros(1, 6)
    assert fulfilled(SCHEMA, {"sex": "m"}, x)[0, 2] == 1.0


def test_ends_from_zero_on_hold_an_amount_that_is_exactly_zero() -> None:
    schema = Schema((1,), (Column("paid", "amount", unit=5.0, low=0.0),), gaps=False)
    assert conditions(schema, {"paid": (0, 10)}).low[0] < 0
    assert conditions(schema, {"paid": (5, 10)}).low[0] == 1.0


def test_conditions_are_put_into_model_units() -> None:
    found = conditions(
        SCHEMA, {"age": (20, 40), "pay": 7.0, "size": (1.5, None), "wind": (350, 10), "year": 2024}
    )
    assert found.equal[1] == 1.0
    assert np.allclose(found.low[[0, 4, 5]], [-2.05, 0.5, 350 / 360 * math.tau])
    assert np.allclose(found.high[[0, 4, 5]], [0.05, 2.5, 370 / 360 * math.tau])
    assert found.between.tolist() == [True, False, False, False, True, True]


def test_ends_between_two_points_of_a_grid_hold_those_inside() -> None:
    found = conditions(SCHEMA, {"age": (20.4, 21.2), "visits": (None, 3)})
    assert np.allclose([found.low[0], found.high[0]], [(20.5 - 40) / 10, (21.5 - 40) / 10])
    assert (float(found.low[3]), float(found.high[3])) == (-0.5, 3.5)


def test_a_real_column_between_equal_ends_must_equal_them() -> None:
    found = conditions(SCHEMA, {"pay": (7.0, 7.0)})
    assert found.equal[1] == 1.0
    assert not found.between.any()


def test_what_was_asked_for_comes_out_to_the_digit() -> None:
    x = torch.tensor([[-1.9999, 1.0000001, 1.0, 2.999999, 1.0, 0.1]], dtype=torch.float64)
    values = fulfilled(SCHEMA, {"pay": 7.0, "visits": (2, 3), "age": (20, 40)}, x)
    assert values[0, [0, 1, 3, 6]].tolist() == [20.0, 7.0, 3.0, 2024.0]


@pytest.mark.parametrize(
    ("where", "sentence"),
    [
        ({"agee": 3}, "expected conditions on the columns of the model .* but agee came"),
        ({"age": 20.5}, "expected a value on the grid of step 1 .* '20.5' came"),
        ({"age": "old"}, "expected a value on the grid of step 1 .* 'old' came"),
        ({"sex": "3"}, "expected f or m in column 'sex', but '3' came"),
        ({"age": (40, 20)}, "expected the lower end first"),
        ({"age": (20.2, 20.7)}, "none lies between 20.2 and 20.7"),
        ({"age": (20, 30, 40)}, "expected two ends .* but 3 came"),
        ({"pay": ("much", 3)}, "expected an end such as a finite number for column 'pay'"),
        ({"year": 2023}, "expected the one value 2024 that it always had"),
        ({"year": (1999, 2000)}, "which is impossible; leave the condition out"),
    ],
)
def test_conditions_that_cannot_be_get_a_sentence(where, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        conditions(SCHEMA, where)


def test_classes_without_an_order_have_no_ends() -> None:
    codes: dict[str, Any] = {"step": 1.0, "low": 0.0, "high": 2.0, "levels": (1.0, 2.0, 5.0)}
    schema = Schema((1,), (Column("kind", "category", **codes),), gaps=False)
    with pytest.raises(InputError, match="whose classes have no order"):
        conditions(schema, {"kind": (1.0, 2.0)})


def test_probabilities_and_pictures_have_no_conditions() -> None:
    grey = Column("cell", "grid", 8.0, 8.0, step=1.0, low=0.0, high=16.0)
    with pytest.raises(InputError, match="expected a table with named columns"):
        conditions(Schema((2, 2), (grey,), gaps=False), {"cell": 3})
    read = Schema((1,), (grey.binarized(),), gaps=False)
    with pytest.raises(InputError, match="are read as probabilities"):
        conditions(read, {"cell": 16})


def test_drawn_angles_lie_on_the_way_through_the_seam() -> None:
    schema = Schema((1,), SCHEMA.columns[5:6], gaps=False)
    vae = unveil.VAE(
        prior=unveil.StandardNormal(1),
        likelihood=unveil.Conditional(
            torch.nn.Linear(1, 2), unveil.VonMises(1, unit=360.0 / math.tau)
        ),
        posterior=unveil.Conditional(Zeros(), unveil.DiagonalGaussian(1)),
    )
    where = {"wind": (350, 10)}
    values = fulfilled(schema, where, sample_where(vae, conditions(schema, where), 200).x)[:, 0]
    assert ((values >= 350) | (values <= 10)).all()
    assert (values >= 350).any() and (values <= 10).any()


def share_before_the_seam() -> float:
    """Of uniform angles between 100 and 260 degrees, those below 180, as a z-score of a half."""
    schema = Schema((1,), SCHEMA.columns[5:6], gaps=False)
    decoder = torch.nn.Linear(1, 2)
    torch.nn.init.zeros_(decoder.weight)
    torch.nn.init.zeros_(decoder.bias)  # no concentration about any direction
    vae = unveil.VAE(
        prior=unveil.StandardNormal(1),
        likelihood=unveil.Conditional(decoder, unveil.VonMises(1, unit=360.0 / math.tau)),
        posterior=unveil.Conditional(Zeros(), unveil.DiagonalGaussian(1)),
    )
    where = {"wind": (100, 260)}
    values = fulfilled(schema, where, sample_where(vae, conditions(schema, where), 4000).x)[:, 0]
    assert ((values >= 100) & (values <= 260)).all()
    return z_score(torch.from_numpy((values < 180).astype(float)), 0.5)


def test_angles_fall_evenly_on_both_sides_of_the_seam(monkeypatch) -> None:
    assert abs(share_before_the_seam()) < SURELY_WRONG
    within = conditional.draw_within
    monkeypatch.setattr(
        conditional,
        "draw_within",
        lambda ends, likelihood, randomness: within(
            replace(ends, turn=0 * ends.turn), likelihood, randomness
        ),
    )
    assert abs(share_before_the_seam()) > CAUGHT


class Zeros(torch.nn.Module):
    """An encoder that says nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x), 2)


# ---- within what was seen ------------------------------------------------------------------------

# One cell in two within its range, one in forty, and one that no draw will ever hit.
LOCATIONS, LOW, HIGH = of(0.0, -1.0, -30.0), of(-0.5, 1.0, 0.0), of(1.0, 1.5, 1.0)


def pit_of_truncated(seed: int) -> Tensor:
    """Where draws within a range stand in the truncated distribution, (draw, cell)."""
    spread = torch.ones(20_000, 3, dtype=torch.float64)
    likelihood = Cells(Normal(LOCATIONS * spread, spread), event_dims=1)
    ends = Conditions(equal=torch.full_like(LOW, math.nan), low=LOW, high=HIGH)
    x = conditional.draw_within(ends, likelihood, generator(seed, "test")).numpy()
    where = stats.truncnorm(LOW - LOCATIONS, HIGH - LOCATIONS, loc=LOCATIONS)
    return torch.from_numpy(where.cdf(x))[:, :2]


def test_draws_within_a_range_have_the_truncated_distribution() -> None:
    for u in pit_of_truncated(0).T:
        assert stats.kstest(u.numpy(), "uniform").pvalue > 1e-4


def test_draws_moved_to_the_ends_are_noticed(monkeypatch) -> None:
    def moved(ends: Conditions, likelihood: Any, randomness: Any) -> Tensor:
        return torch.maximum(torch.minimum(unveil_draw(likelihood, (), randomness), HIGH), LOW)

    monkeypatch.setattr(conditional, "draw_within", moved)
    for u in pit_of_truncated(0).T:
        assert stats.kstest(u.numpy(), "uniform").pvalue < 1e-9


def test_no_draw_lies_outside_of_its_range_however_improbable_that_is() -> None:
    likelihood = Cells(Normal(LOCATIONS.expand(50, 3), 1.0), event_dims=1)
    ends = Conditions(equal=torch.full_like(LOW, math.nan), low=LOW, high=HIGH)
    x = conditional.draw_within(ends, likelihood, generator(0, "test"))
    assert bool(((x >= LOW) & (x <= HIGH)).all())


def test_samples_stay_within_the_range_of_the_rows_given_to_fit() -> None:
    """Of a model that is hardly trained, and so far too wide; angles and classes have no range."""
    rng = np.random.default_rng(0)
    years, pay = rng.integers(18, 66, 200), np.round(np.exp(rng.normal(7, 1, 200)), 2)
    table = pa.table({"age": years, "pay": pay, "sex": np.array(["f", "m"])[years % 2]})
    fitted = unveil.fit(table, latent=1, epochs=1)
    for drawn in (fitted.sample(2000), fitted.sample(200, where={"sex": "f"})):
        age, salary = drawn["age"].to_numpy(), drawn["pay"].to_numpy()
        assert years.min() <= age.min() and age.max() <= years.max()
        assert pay.min() <= salary.min() and salary.max() <= pay.max()
    assert not set(fitted.sample_like(table)[1][:, 0]) <= set(range(18, 66))
