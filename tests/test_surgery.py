"""The rate taken apart, against the Gaussians for which every part is a closed form."""

import json
import math

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
    nonlinear_vae,
    normal,
    with_gaps,
)
from unveil import tiles
from unveil.diagnostics.means import Mean
from unveil.diagnostics.surgery import (
    Between,
    RateDistortion,
    Surgery,
    _drawn,
    _sums_over_others,
    rate_distortion,
    surgery,
)
from unveil.evidence.linear_gaussian import GaussianPosterior, LinearGaussian

# Of a known aggregate: x ~ N(μ, C) and q(z|x) = N(A(x − μ), S) make q(z) = N(0, ACAᵀ + S).
MODEL = a_linear_gaussian()
MEAN_FIELD = MODEL.mean_field_posterior()
DATA_FACTOR = 1.3 * normal(70, 6, 6)  # its rows are not the model's own: q(z) is not p(z)


def rows(number: int, seed: int = 71) -> Tensor:
    return MODEL.mean + normal(seed, number, 6) @ DATA_FACTOR.T


def aggregate(q: GaussianPosterior) -> Tensor:
    gain = q.gain @ DATA_FACTOR
    return gain @ gain.T + q.covariance


def information(q: GaussianPosterior) -> float:
    """I(x; z) = ½ (log|ACAᵀ + S| − log|S|)."""
    return float(0.5 * (torch.logdet(aggregate(q)) - torch.logdet(q.covariance)))


def distance(q: GaussianPosterior) -> float:
    """KL(q(z)‖N(0, I)) = ½ (tr V − k − log|V|)."""
    v = aggregate(q)
    return float(0.5 * (v.trace() - len(v) - torch.logdet(v)))


def correlation(q: GaussianPosterior) -> float:
    """½ (Σ_u log V_uu − log|V|)."""
    v = aggregate(q)
    return float(0.5 * (v.diagonal().log().sum() - torch.logdet(v)))


def rate(q: GaussianPosterior) -> float:
    """E_x KL(q(z|x)‖p(z)), from the posteriors alone."""
    mean_square = (q.gain @ DATA_FACTOR).square().sum()
    return float(
        0.5 * (q.covariance.trace() + mean_square - len(q.gain) - torch.logdet(q.covariance))
    )


def is_below(mean: Mean, value: float) -> bool:
    assert mean.error is not None
    return mean.value - value < SURELY_WRONG * mean.error


def holds(between: Between, value: float) -> bool:
    return is_below(between.lower, value) and is_below(
        Mean(value=-between.upper.value, error=between.upper.error), -value
    )


# ---- closed forms ------------------------------------------------------------------------------


def test_the_closed_forms_add_up() -> None:
    for q in (MEAN_FIELD, MODEL.exact_posterior()):
        assert information(q) + distance(q) == pytest.approx(rate(q), abs=1e-12)


@pytest.mark.parametrize(
    "q", [MEAN_FIELD, MODEL.exact_posterior()], ids=["mean-field", "full covariance"]
)
def test_every_part_lies_between_its_sides(q: GaussianPosterior) -> None:
    found = surgery(linear_vae(MODEL, q), rows(2000), num_samples=1)
    parts = {
        "information": (found.mutual_information, information(q)),
        "distance": (found.marginal_kl, distance(q)),
    }
    if found.total_correlation is not None:
        parts["correlation"] = found.total_correlation, correlation(q)
    for between, exact in parts.values():
        assert holds(between, exact)
        assert between.upper.value - between.lower.value < 0.5
        assert not holds(between, exact + 1.5)
        assert not holds(between, exact - 1.5)
    assert found.rate.error is not None
    assert abs(found.rate.value - rate(q)) < SURELY_WRONG * found.rate.error
    one, other = found.mutual_information, found.marginal_kl
    assert one.lower.value + other.upper.value == pytest.approx(found.rate.value)
    assert one.upper.value + other.lower.value == pytest.approx(found.rate.value)


def test_the_rate_per_unit_is_the_closed_form() -> None:
    found = surgery(linear_vae(MODEL, MEAN_FIELD), rows(2000), num_samples=1)
    assert found.kl_per_unit is not None
    variances = MEAN_FIELD.covariance.diagonal()
    squares = (MEAN_FIELD.gain @ DATA_FACTOR).square().sum(-1)
    exact = 0.5 * (variances + squares - 1 - variances.log())
    for unit, value in zip(found.kl_per_unit, exact.tolist(), strict=True):
        assert unit.error is not None
        assert abs(unit.value - value) < SURELY_WRONG * unit.error
    # Var_x(E_q[z_u|x]), by the same closed form
    torch.testing.assert_close(
        torch.tensor(found.mean_variances).double(), squares, rtol=0.15, atol=0.0
    )
    assert found.active_units == 3
    assert surgery(linear_vae(MODEL, MODEL.exact_posterior()), rows(9)).kl_per_unit is None


# ---- the mutants that a sandwich must not survive ------------------------------------------------

TIGHT = GaussianPosterior(
    gain=MEAN_FIELD.gain, covariance=torch.diag(torch.full((3,), 1e-3).double())
)


def replicates(number: int, rows_each: int) -> list[Surgery]:
    """Of few rows each, so that the two sides of what TIGHT holds are far apart."""
    vae = linear_vae(MODEL, TIGHT)
    return [surgery(vae, rows(rows_each, seed=100 + i), num_samples=1) for i in range(number)]


def mean_of(values: list[float]) -> Mean:
    return Mean.over_rows(torch.tensor(values).double())


def test_each_side_holds_where_rows_are_few_and_its_mutants_do_not() -> None:
    exact = information(TIGHT)
    found = replicates(40, rows_each=30)
    lower = [one.mutual_information.lower.value for one in found]
    upper = [one.mutual_information.upper.value for one in found]
    assert exact > 2 * math.log(30)  # more than 30 rows can tell apart
    assert max(lower) <= math.log(30) + 1e-12
    assert is_below(mean_of(lower), exact)
    assert is_below(mean_of([-value for value in upper]), -exact)
    # One is subtracted where the other belongs: n among those that q(z) is made of, then not.
    assert not is_below(mean_of([-value for value in lower]), -exact)
    assert not is_below(mean_of(upper), exact)


def test_a_sum_over_rows_that_is_not_divided_by_their_number_is_noticed() -> None:
    x = rows(400)
    vae = linear_vae(MODEL, MEAN_FIELD)
    with torch.no_grad():
        drawn = _drawn(vae, x, None, 1, 0)
        own = drawn.log_posterior
        everyone = torch.logaddexp(own, _sums_over_others(vae, x, None, drawn.z))
    right = Mean.over_rows((own - everyone)[0, 0] + math.log(400))
    mutant = Mean.over_rows((own - everyone)[0, 0])
    found = surgery(vae, x, num_samples=1).mutual_information.lower
    assert right.value == pytest.approx(found.value)
    assert mutant.error is not None
    assert abs(mutant.value - found.value) > CAUGHT * mutant.error


def test_all_pairs_are_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against one matrix, with a tile that is padded and draws that come in chunks."""
    vae, x = nonlinear_vae(unveil.Gaussian(5), latents=3), normal(72, 300, 5).float()
    with torch.no_grad():
        drawn = _drawn(vae, x, None, 2, 0)
        q = vae.posterior(x)
        units = torch.distributions.Normal(q.loc, q.scale).log_prob(drawn.z[:, :, None]).double()
        matrix = torch.cat([units.sum(-1, keepdim=True), units], -1).movedim(-1, 0)
        itself = torch.eye(300, dtype=torch.bool)
        whole = _sums_over_others(vae, x, None, drawn.z)
        monkeypatch.setattr(tiles, "FLOATS_PER_CHUNK", 100_000)
        pieces = _sums_over_others(vae, x, None, drawn.z)
    alone = matrix.diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(drawn.log_posterior, alone, rtol=1e-4, atol=1e-4)
    expected = matrix.masked_fill(itself, -math.inf).logsumexp(-1)
    for others in (whole, pieces):
        torch.testing.assert_close(others, expected, rtol=1e-4, atol=1e-4)
    assert (matrix.logsumexp(-1) - expected).mean() > 2e-3  # a draw's own row is told apart


# ---- how it is asked ---------------------------------------------------------------------------


def test_unused_latents_are_told_from_used_ones() -> None:
    """A decoder that ignores z, and an encoder that has noticed."""
    model = LinearGaussian(
        weight=torch.diag(torch.tensor([2.0, 1.0, 0.0])).double(),
        mean=torch.zeros(3).double(),
        noise_variance=1.0,
    )
    found = surgery(linear_vae(model, model.mean_field_posterior()), normal(73, 100, 3))
    assert found.active_units == 2
    assert found.mean_variances[2] == 0.0
    assert found.kl_per_unit is not None
    assert found.kl_per_unit[2].value == pytest.approx(0.0, abs=1e-12)


def test_posteriors_of_every_kind_are_taken_apart() -> None:
    vae = nonlinear_vae(unveil.Gaussian(5), latents=3)
    for family in (unveil.FullGaussian(3), unveil.FlowPosterior(3, context=2)):
        network = torch.nn.Linear(5, family.num_parameters)
        model = unveil.VAE(
            prior=vae.p_z,
            likelihood=vae.p_x_given_z,
            posterior=unveil.Conditional(network, family),
        )
        found = surgery(model, normal(74, 20, 5).float())
        assert found.total_correlation is None
        assert found.mutual_information.lower.value <= math.log(20)
        assert found.mutual_information.lower.value <= found.mutual_information.upper.value


def test_it_is_a_function_of_the_seed_and_of_at_most_so_many_rows() -> None:
    vae, x = nonlinear_vae(unveil.Gaussian(5)), with_gaps(normal(75, 50, 5).float(), seed=76)
    a, b, other = (surgery(vae, x, max_rows=20, seed=seed) for seed in (0, 0, 1))
    assert a == b
    assert a.rows == 20
    assert a.mean_variances != other.mean_variances
    assert surgery(vae, x).rows == 50
    document = json.loads(json.dumps(a.document(), allow_nan=False))
    assert document["active_units"] == a.active_units
    assert document["mutual_information"]["lower"]["value"] == a.mutual_information.lower.value


def test_what_cannot_be_compared_is_refused() -> None:
    vae, x = nonlinear_vae(unveil.Gaussian(5)), normal(77, 4, 5).float()
    with pytest.raises(ValueError, match=r"^expected at least 2 rows, .* got 1"):
        surgery(vae, x[:1])
    with pytest.raises(ValueError, match=r"expected num_samples of at least 1"):
        surgery(vae, x, num_samples=0)
    x[2] = math.inf
    with pytest.raises(ArithmeticError, match=r"got nan in row"):
        surgery(vae, x)


# ---- rate and distortion -----------------------------------------------------------------------

TEMPERATURES = (0.0, 0.05, 0.3, 1.0)


def tempered(model: LinearGaussian, x: Tensor, b: float) -> tuple[Tensor, Tensor]:
    """R(b) and D(b) of q_b = N(m, V): V = (I + b WᵀW/s²)⁻¹, m = V b Wᵀ(x − μ)/s²."""
    cells, latents = model.weight.shape
    s2 = model.noise_variance
    v = torch.linalg.inv(torch.eye(latents).double() + b * model.weight.T @ model.weight / s2)
    m = b * (x - model.mean) @ model.weight @ v / s2
    spread = (model.weight @ v @ model.weight.T).trace()
    misfit = (x - model.mean - m @ model.weight.T).square().sum(-1)
    distortion = 0.5 * (cells * math.log(2 * math.pi * s2) + (spread + misfit) / s2)
    rate = 0.5 * (v.trace() + m.square().sum(-1) - latents - torch.logdet(v))
    return rate, distortion


def curve(model: LinearGaussian, x: Tensor) -> tuple[Tensor, Tensor]:
    """Chains that stand on the nodes of quadrature under the prior and weigh what it weighs."""
    z, share = gauss_hermite(150)
    vae = linear_vae(model, model.exact_posterior())
    with torch.no_grad():
        log_p = vae.likelihood(z[:, None, None].expand(-1, len(x), 1)).log_prob(x)
    b = torch.tensor(TEMPERATURES, dtype=torch.float64)[:, None, None]
    return log_p.expand(len(b), -1, -1), b * log_p + (len(share) * share).log()[:, None]


ONE_LATENT = LinearGaussian(
    weight=normal(78, 4, 1), mean=torch.zeros(4).double(), noise_variance=0.8
)


def test_rate_and_distortion_are_the_closed_forms() -> None:
    x = normal(79, 7, 4)
    log_p, log_w = curve(ONE_LATENT, x)
    found = rate_distortion(TEMPERATURES, log_p, log_w)
    exact = [tempered(ONE_LATENT, x, b) for b in TEMPERATURES]
    rates, distortions = (torch.stack(side) for side in zip(*exact, strict=True))
    torch.testing.assert_close(found.rate, rates, rtol=0.0, atol=1e-9)
    torch.testing.assert_close(found.distortion, distortions, rtol=0.0, atol=1e-9)
    torch.testing.assert_close(
        -(found.rate[-1] + found.distortion[-1]), ONE_LATENT.log_evidence(x), rtol=0.0, atol=1e-9
    )
    assert torch.equal(found.rate[0].abs() < 1e-12, torch.ones(7, dtype=torch.bool))
    # Weights that are forgotten, or that are one temperature late, are noticed.
    for mutant in (0 * log_w, log_w.roll(1, 0)):
        wrong = rate_distortion(TEMPERATURES, log_p, mutant)
        assert float((wrong.distortion - distortions).abs().max()) > 0.1


def test_a_curve_is_written_as_means_over_rows() -> None:
    log_p, log_w = curve(ONE_LATENT, normal(80, 7, 4))
    found = rate_distortion(TEMPERATURES, log_p, log_w)
    points = json.loads(json.dumps(found.document(), allow_nan=False))
    assert [point["temperature"] for point in points] == list(TEMPERATURES)
    assert points[1]["rate"]["value"] == pytest.approx(float(found.rate[1].mean()))
    assert type(found) is RateDistortion


def test_a_chain_without_weight_may_stand_where_x_is_impossible() -> None:
    log_p = torch.tensor([[[-2.0], [-math.inf]]])
    found = rate_distortion([1.0], log_p, log_p)
    assert found.distortion.tolist() == [[2.0]]
    with pytest.raises(ArithmeticError, match=r"a mean of 0\.0 in row 0 of .*; start more"):
        rate_distortion([1.0], log_p, torch.full_like(log_p, -math.inf))
    with pytest.raises(ArithmeticError, match=r"a mean of nan in row 0"):
        rate_distortion([1.0], log_p, torch.full_like(log_p, math.nan))
    with pytest.raises(ValueError, match=r"one temperature for each of 1 rounds .*, got 2"):
        rate_distortion([0.5, 1.0], log_p, log_p)
    with pytest.raises(ValueError, match=r"expected temperatures from 0 to 1, got \[1\.5\]"):
        rate_distortion([1.5], log_p, log_p)
