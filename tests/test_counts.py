"""Counts: their masses against SciPy's, their draws, their extra zeros, and their exposures."""

import math
import subprocess
import sys

import pytest
import scipy.stats
import torch
from torch import Tensor

import unveil
from oracles import CAUGHT, SURELY_WRONG, chi_square_z, normal, seeded, z_score
from unveil.distributions import Cells, draw
from unveil.families import Family
from unveil.likelihoods.counts import (
    LARGEST_DISPERSION,
    LARGEST_LOG_MEAN,
    SMALLEST_DISPERSION,
    Counts,
    GammaPoissonCounts,
    PoissonCounts,
)
from unveil.likelihoods.inflated import WithExtraZeros
from unveil.networks.mlp import Decoder

COUNTS = torch.tensor([0, 1, 2, 7, 30, 1000, 999_000, 1_000_000]).double()
MEANS = torch.tensor([1e-3, 0.7, 5.0, 900.0, 1e6]).double()
DISPERSIONS = (SMALLEST_DISPERSION, 1e-3, 0.5, 4.0, LARGEST_DISPERSION)


def nbinom(mean: Tensor, dispersion: float):
    """SciPy's negative binomial of the same mean and dispersion."""
    return scipy.stats.nbinom(1 / dispersion, (1 / (1 + dispersion * mean)).numpy())


def families() -> list[Family]:
    return [
        unveil.Poisson(4),
        unveil.NegativeBinomial(4),
        unveil.NegativeBinomial(4, unveil.CellScale()),
        unveil.ZeroInflated(unveil.Poisson(4)),
        unveil.ZeroInflated(unveil.NegativeBinomial(4, unveil.FixedScale(0.5))),
    ]


every_count = pytest.mark.parametrize(
    "family", families(), ids=["poisson", "column", "cell", "inflated poisson", "inflated"]
)


# ---- masses ------------------------------------------------------------------------------------


def test_a_poisson_is_scipys() -> None:
    log_p = PoissonCounts(MEANS.log()).log_prob(COUNTS[:, None])
    expected = scipy.stats.poisson(MEANS.numpy()).logpmf(COUNTS[:, None].numpy())
    torch.testing.assert_close(log_p, torch.from_numpy(expected), rtol=1e-9, atol=1e-7)


@pytest.mark.parametrize("dispersion", DISPERSIONS)
def test_a_negative_binomial_is_scipys(dispersion: float) -> None:
    alpha = torch.tensor(dispersion, dtype=torch.float64)
    log_p = GammaPoissonCounts(MEANS.log(), alpha).log_prob(COUNTS[:, None])
    expected = torch.from_numpy(nbinom(MEANS, dispersion).logpmf(COUNTS[:, None].numpy()))
    torch.testing.assert_close(log_p, expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("dispersion", DISPERSIONS)
def test_a_million_counted_in_float32_keeps_its_digits(dispersion: float) -> None:
    counts, log_mean = torch.tensor([9.99e5, 1e6, 1.001e6]), torch.tensor(13.8125)
    alpha = torch.tensor(dispersion)
    for low, high in (
        (PoissonCounts(log_mean), PoissonCounts(log_mean.double())),
        (GammaPoissonCounts(log_mean, alpha), GammaPoissonCounts(log_mean.double(), alpha)),
    ):
        in_float32, exact = low.log_prob(counts).double(), high.log_prob(counts.double())
        torch.testing.assert_close(in_float32, exact, rtol=1e-6, atol=1e-5)
    rounded = counts * log_mean - log_mean.exp() - torch.lgamma(counts + 1)
    exact = PoissonCounts(log_mean.double()).log_prob(counts.double())
    assert (rounded - exact).abs().max() > 0.1


def test_a_negative_binomial_without_dispersion_is_a_poisson() -> None:
    counts, log_mean = torch.arange(30).double(), torch.tensor(1.5).double()
    poisson = PoissonCounts(log_mean).log_prob(counts)

    def away(dispersion: float) -> float:
        alpha = torch.tensor(dispersion).double()
        return float((GammaPoissonCounts(log_mean, alpha).log_prob(counts) - poisson).abs().max())

    assert away(SMALLEST_DISPERSION) < 1e-3 < away(0.01)


def test_the_variance_of_a_negative_binomial_is_that_of_its_masses() -> None:
    p = GammaPoissonCounts(torch.tensor(1.2).double(), torch.tensor(0.7).double())
    counts = torch.arange(2000).double()
    mass = p.log_prob(counts).exp()
    torch.testing.assert_close((counts * mass).sum(), p.mean)
    torch.testing.assert_close(((counts - p.mean).square() * mass).sum(), p.variance)


@every_count
def test_what_is_no_count_is_impossible(family: Family) -> None:
    p = family(torch.zeros(family.num_parameters))
    log_p = p.log_prob_cells(torch.tensor([-1.0, -0.5, 0.5, 2.25]))
    assert torch.equal(log_p, torch.full((4,), -math.inf))


# ---- parameters --------------------------------------------------------------------------------


def test_a_log_mean_beyond_what_a_count_can_be_rises_in_a_straight_line() -> None:
    raw = torch.tensor([0.0, LARGEST_LOG_MEAN, LARGEST_LOG_MEAN + 3, 1e4]).requires_grad_()
    mean = unveil.Poisson(4)(raw).mean
    slope = torch.autograd.grad(mean.sum(), [raw])[0]
    top = 2.0**24
    torch.testing.assert_close(mean[:3], torch.tensor([1.0, top, 4 * top]), rtol=1e-5, atol=0.0)
    torch.testing.assert_close(slope, torch.tensor([1.0, top, top, top]), rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("raw", [-1e4, 1e4])
def test_a_dispersion_stays_within_its_bounds(raw: float) -> None:
    family = unveil.NegativeBinomial(1, unveil.CellScale())
    base = family(torch.tensor([0.0, raw])).base
    bound = LARGEST_DISPERSION if raw > 0 else SMALLEST_DISPERSION
    torch.testing.assert_close(base.dispersion, torch.tensor([bound]))


@every_count
def test_counts_start_at_their_mean(family: Family) -> None:
    mean = torch.tensor([0.0, 0.01, 3.0, 1e5])
    started = family(family.start(mean)).mean.detach()
    torch.testing.assert_close(started, mean, rtol=1e-4, atol=2e-4)


# ---- draws -------------------------------------------------------------------------------------


def score(draws_of: Counts, masses_of: Counts) -> float:
    """The chi-square score of one distribution's draws under the other's masses."""
    values = draw(draws_of, (50_000,), seeded(3)).long()
    masses = masses_of.log_prob(torch.arange(int(values.max()) + 1).double()).exp()
    return chi_square_z(torch.bincount(values).double(), masses)


@pytest.mark.parametrize(("mean", "dispersion"), [(3.0, 0.4), (40.0, 0.02), (2.0, 20.0)])
def test_negative_binomial_draws_have_the_right_dispersion(mean: float, dispersion: float) -> None:
    def p(factor: float) -> Counts:
        alpha = torch.tensor(factor * dispersion).double()
        return GammaPoissonCounts(torch.tensor(mean).double().log(), alpha)

    assert score(p(1.0), p(1.0)) < SURELY_WRONG
    assert score(p(1.3), p(1.0)) > CAUGHT / 2
    assert score(PoissonCounts(p(1.0).log_mean), p(1.0)) > CAUGHT


def test_large_counts_are_drawn_with_their_mean_and_variance() -> None:
    for p, variance in (
        (PoissonCounts(torch.tensor(1e6).double().log()), 1e6),
        (GammaPoissonCounts(torch.tensor(1e5).double().log(), torch.tensor(0.25)), 1e5 + 2.5e9),
    ):
        draws = draw(p, (20_000,), seeded(5))
        assert z_score(draws, float(p.mean)) < SURELY_WRONG
        assert z_score((draws - p.mean).square(), variance) < SURELY_WRONG
        assert z_score((1.2 * (draws - p.mean)).square(), variance) > CAUGHT


@every_count
def test_draws_come_from_the_generator_alone(family: Family) -> None:
    p = family(normal(0, 3, family.num_parameters).float())
    before = torch.get_rng_state()
    first, again, other = (draw(p, (5,), seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert first.shape == (5, 3, 4)
    assert first.dtype == torch.float32
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


# ---- extra zeros -------------------------------------------------------------------------------


def test_a_zero_inflated_mass_is_the_sum_of_its_two_parts() -> None:
    raw, dispersion = normal(1, 6), 0.5
    family = unveil.ZeroInflated(unveil.NegativeBinomial(3, unveil.FixedScale(dispersion)))
    counts = torch.tensor([0.0, 0.0, 4.0]).double()
    mass = family(raw).log_prob_cells(counts).exp()
    counted = torch.from_numpy(nbinom(raw[:3].exp(), dispersion).pmf(counts.numpy()))
    extra = torch.sigmoid(raw[3:])
    torch.testing.assert_close(mass, extra * (counts == 0) + (1 - extra) * counted)


def test_the_mean_of_a_zero_inflated_count_is_that_of_its_masses() -> None:
    family = unveil.ZeroInflated(unveil.NegativeBinomial(1, unveil.FixedScale(0.3)))
    p = family(torch.tensor([1.1, 0.4]).double())
    counts = torch.arange(500).double()[:, None]
    mean = (counts[:, 0] * p.log_prob(counts).exp()).sum()
    torch.testing.assert_close(mean, p.mean[0])


@pytest.mark.parametrize("logit", [-1e4, 1e4])
def test_a_cell_that_is_surely_one_or_the_other_has_a_finite_gradient(logit: float) -> None:
    log_mean, logits = torch.tensor([1.0, 1.0, 200.0]), torch.full((3,), logit)
    for leaf in (log_mean, logits):
        leaf.requires_grad_()
    p = WithExtraZeros(PoissonCounts(log_mean), logits)
    log_p = p.log_prob(torch.tensor([0.0, 3.0, 0.0]))
    gradients = torch.autograd.grad(log_p.sum(), [log_mean, logits])
    assert all(torch.isfinite(t).all() for t in (log_p, *gradients))


@pytest.mark.parametrize(
    "family",
    [unveil.Gaussian(2), unveil.Columns([((0,), unveil.Poisson(1)), ((1,), unveil.Gaussian(1))])],
    ids=["density", "columns"],
)
def test_extra_zeros_beside_a_density_are_refused(family: Family) -> None:
    with pytest.raises(ValueError, match=r"expected a family that gives each cell a mass, got"):
        unveil.ZeroInflated(family)


# ---- exposures ---------------------------------------------------------------------------------


def decoder_and_its_offset(family: Family) -> tuple[Decoder, unveil.WithOffset]:
    decoder = Decoder(2, covariates=1, outputs=family.num_parameters, width=8, depth=1)
    return decoder, unveil.WithOffset(decoder, covariate=1, cells=4)


@every_count
def test_an_exposure_multiplies_the_mean_and_changes_nothing_else(family: Family) -> None:
    decoder, offset = decoder_and_its_offset(family)
    z, given = normal(2, 7, 3, 2).float(), torch.tensor([[0.3, 2.0], [1.0, 5.0], [-1.0, 1.0]])
    counts = torch.tensor([0.0, 1.0, 4.0, 9.0]).expand(3, 4)
    with_offset = unveil.Conditional(offset, family)(z, given)
    exposure, rest = given[:, 1:], given[:, :1]
    without = unveil.Conditional(decoder, family)(z, rest)
    torch.testing.assert_close(with_offset.mean, without.mean * exposure)
    raw = decoder(z, rest)
    shifted = family(torch.cat([raw[..., :4] + exposure.log(), raw[..., 4:]], dim=-1))
    assert torch.equal(with_offset.log_prob(counts), shifted.log_prob(counts))
    as_it_was = with_offset.log_prob(counts) == without.log_prob(counts)
    assert torch.equal(as_it_was, (exposure[:, 0] == 1).expand(7, 3))


def test_a_model_learns_rates_and_not_exposures() -> None:
    """Rows that differ in their exposures alone are all explained by one rate."""
    rate, exposure = 3.0, torch.tensor([0.5, 1.0, 4.0, 20.0]).repeat(50)[:, None]
    means = (rate * exposure).expand(-1, 4).log()
    x = draw(PoissonCounts(means), (), seeded(9))

    def log_likelihood(network: torch.nn.Module, given: Tensor | None) -> float:
        p = unveil.Conditional(network, unveil.Poisson(4))
        return float(p(torch.zeros(len(x), 2), given).log_prob(x).mean().detach())

    plain = Decoder(2, covariates=0, outputs=4, width=8, depth=1)
    torch.nn.init.zeros_(plain.body.leave.weight)
    torch.nn.init.constant_(plain.body.leave.bias, math.log(rate))
    offset = unveil.WithOffset(plain, covariate=0, cells=4)
    truth = float(Cells(PoissonCounts(means), event_dims=1).log_prob(x).mean())
    assert log_likelihood(offset, exposure) == pytest.approx(truth, rel=1e-5)
    assert log_likelihood(plain, None) < truth - 10


@pytest.mark.parametrize("exposure", [0.0, -1.0, math.nan])
def test_an_exposure_that_is_none_is_refused(exposure: float) -> None:
    _, offset = decoder_and_its_offset(unveil.Poisson(4))
    given = torch.tensor([[0.0, 1.0], [0.0, exposure]])
    with pytest.raises(ValueError, match=r"expected exposures above 0 in covariate 1, got"):
        offset(torch.zeros(2, 2), given)


def test_rows_without_covariates_have_no_exposure() -> None:
    _, offset = decoder_and_its_offset(unveil.Poisson(4))
    with pytest.raises(ValueError, match=r"expected covariates, of which number 1 is an exposure"):
        offset(torch.zeros(2, 2))


# ---- compiled ----------------------------------------------------------------------------------

# In a process of its own: the compiler cannot read through the annotation checks that pytest adds.
COMPARE = """
import math, torch, unveil

x = torch.tensor([0.0, 1.0, 2.0, math.nan]).repeat(3, 1)
for family in (
    unveil.ZeroInflated(unveil.NegativeBinomial(4, unveil.CellScale())),
    unveil.Categorical(4, num_classes=3),
    unveil.Ordinal(4, num_classes=3),
):
    raw = torch.linspace(-1, 1, family.num_parameters).repeat(3, 1).requires_grad_()
    results = []
    log_prob = lambda raw: family(raw).log_prob(x)
    torch.compiler.reset()
    for f in (log_prob, torch.compile(log_prob, fullgraph=True, backend="aot_eager")):
        value = f(raw)
        results.append((value, *torch.autograd.grad(value.sum(), [raw])))
    torch.testing.assert_close(*results)
print("equal")
"""


def test_counts_and_classes_are_one_graph_for_the_compiler() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", COMPARE], capture_output=True, text=True, check=False
    )
    assert ran.stdout == "equal\n", ran.stderr
