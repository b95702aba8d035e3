"""Certified intervals: bounds on likelihoods, fair bets, and modes that q does not see."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from torch import Tensor, nn

import unveil
from oracles import CAUGHT, SURELY_WRONG, nonlinear_vae, normal, seeded, with_gaps
from unveil.distributions import draw
from unveil.evidence import bounded as module
from unveil.evidence.bounded import Bets, bounded_evidence
from unveil.evidence.quadrature import quadrature
from unveil.families import Family

NAN = math.nan

# ---- bounds on log p(x|z) ----------------------------------------------------------------------

MASSES: dict[str, Callable[[], Family]] = {
    "Bernoulli": lambda: unveil.Bernoulli(3),
    "Categorical": lambda: unveil.Categorical(3, 4),
    "Ordinal": lambda: unveil.Ordinal(3, 4),
    "Poisson": lambda: unveil.Poisson(3),
    "NegativeBinomial": lambda: unveil.NegativeBinomial(3),
    "ZeroInflated": lambda: unveil.ZeroInflated(unveil.Poisson(3)),
    "DiscretizedLogistic": lambda: unveil.DiscretizedLogistic(3, step=1.0),
    "DiscretizedLogisticMixture": lambda: unveil.DiscretizedLogisticMixture(3, 2, step=1.0),
}
DENSITIES: dict[str, Callable[[], Family]] = {
    "Gaussian": lambda: unveil.Gaussian(3, unit=4.0),
    "Gaussian, spread by cell": lambda: unveil.Gaussian(3, unveil.CellScale(), floor=0.1),
    "Gaussian, fixed spread": lambda: unveil.Gaussian(3, unveil.FixedScale(0.2)),
    "StudentT": lambda: unveil.StudentT(3, unveil.CellScale(), floor=0.1),
    "LogNormal": lambda: unveil.LogNormal(3, unveil.CellScale(), floor=0.1, unit=2.0),
    "VonMises": lambda: unveil.VonMises(3, floor=0.3),
    "ContinuousBernoulli": lambda: unveil.ContinuousBernoulli(3, floor=0.3),
    "Columns": lambda: unveil.Columns([((0, 2), unveil.Gaussian(2)), ((1,), unveil.Bernoulli(1))]),
}


def highest(family: Family, x: Tensor) -> tuple[Tensor, Tensor]:
    """The best log p(x|z) that a climb over the raw parameters finds, beside the bound."""
    raw = normal(90, len(x), family.num_parameters).requires_grad_()
    optimiser = torch.optim.Adam([raw], lr=0.3)
    for _ in range(400):
        optimiser.zero_grad()
        (-family(raw).log_prob(x).sum()).backward()
        optimiser.step()
    return family(raw).log_prob(x).detach(), family.log_supremum(x)


@pytest.mark.parametrize("family", [*MASSES.values(), *DENSITIES.values()],
                         ids=[*MASSES, *DENSITIES])  # fmt: skip
def test_no_parameters_exceed_the_bound(family: Callable[[], Family]) -> None:
    family = family().double()
    raw = 3 * normal(91, 2000, family.num_parameters)
    x = draw(family(raw), (), seeded(92)).double()
    x[::3, 1] = NAN
    assert (family(raw).log_prob(x) <= family.log_supremum(x) + 1e-9).all()


@pytest.mark.parametrize("family", DENSITIES.values(), ids=DENSITIES)
def test_a_climb_comes_near_to_the_bound_and_not_over_it(family: Callable[[], Family]) -> None:
    ends = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, NAN], [1.0, 1.0, 0.0]]).double()
    x = ends.clamp(min=0.5) if isinstance(family(), unveil.LogNormal) else ends
    reached, bound = highest(family().double(), x)
    assert (reached <= bound + 1e-9).all()
    assert (reached > bound - 0.2).all()


@pytest.mark.parametrize("family", MASSES.values(), ids=MASSES)
def test_a_mass_is_1_at_most_and_a_gap_counts_nothing(family: Callable[[], Family]) -> None:
    x = torch.tensor([[0.0, NAN, 1.0], [NAN, NAN, NAN]]).double()
    assert family().double().log_supremum(x).tolist() == [0.0, 0.0]


def test_a_gap_counts_nothing_in_a_density_either() -> None:
    family = unveil.Gaussian(2, unveil.FixedScale(0.5), unit=3.0).double()
    of_one = -0.5 * math.log(2 * math.pi) - math.log(0.5) - math.log(3)
    x = torch.tensor([[7.0, NAN], [7.0, 8.0], [NAN, NAN]]).double()
    assert family.log_supremum(x).tolist() == pytest.approx([of_one, 2 * of_one, 0.0])


def test_a_family_that_does_not_say_has_no_bound() -> None:
    x = torch.tensor([[7.0, NAN], [NAN, NAN]])
    assert unveil.DiagonalGaussian(2).log_supremum(x).tolist() == [math.inf, 0.0]


# ---- bets on weights of a known law ------------------------------------------------------------


def coins(rows: int, number: int, chance: float, *, seed: int) -> Tensor:
    """log-weights (draw, row) of w = 1 with this chance, else 0, all that B = 1 allows."""
    return (torch.rand(number, rows, generator=seeded(seed)) < chance).double().log()


def miscoverage(below: Tensor, above: Tensor, truth: float, delta: float) -> float:
    """By how many standard errors intervals fail more often than δ."""
    missed = ((below > truth) | (above < truth)).double().mean()
    return float((missed - delta) / math.sqrt(delta * (1 - delta) / len(below)))


@pytest.mark.parametrize(("number", "chance"), [(200, 0.01), (500, 0.3), (50, 0.97)])
def test_intervals_fail_no_more_often_than_they_may(number: int, chance: float) -> None:
    delta, truth = 0.05, math.log(chance)
    log_w = coins(4000, number, chance, seed=93)
    bets = Bets.none(torch.zeros(4000).double()).and_those_of(log_w)
    below, above = bets.lower(delta / 2), bets.upper(delta / 2)
    assert miscoverage(below, above, truth, delta) < SURELY_WRONG
    assert (below < above).all()
    if chance == 0.01:  # where rows show no 1 at all, a standard error is no interval
        w = log_w.exp()
        half = 1.96 * w.std(0) / math.sqrt(number)
        clt = (w.mean(0) - half).clamp(min=0).log(), (w.mean(0) + half).log()
        assert miscoverage(*clt, truth, delta) > CAUGHT


def test_intervals_are_as_short_as_a_bounded_mean_allows() -> None:
    """Within twice Clopper and Pearson's, which know that weights are 0 or 1."""
    log_w = coins(200, 2000, 0.05, seed=94)
    bets = Bets.none(torch.zeros(200).double()).and_those_of(log_w)
    ours = (bets.upper(0.025) - bets.lower(0.025)).mean()
    exact = [
        binomtest(int(k), 2000).proportion_ci(0.95, method="exact") for k in log_w.exp().sum(0)
    ]
    theirs = np.mean([math.log(ci.high / ci.low) for ci in exact])
    assert theirs < float(ours) < 2 * theirs


def test_draws_may_come_in_any_parts() -> None:
    log_w = normal(95, 300, 7) - 3
    whole = Bets.none(torch.zeros(7).double()).and_those_of(log_w)
    parts = Bets.none(torch.zeros(7).double())
    for part in log_w.split(70):
        parts = parts.and_those_of(part)
    torch.testing.assert_close(parts.lower(0.1), whole.lower(0.1))
    torch.testing.assert_close(parts.upper(0.1), whole.upper(0.1))


def test_weights_of_0_leave_no_lower_bound() -> None:
    bets = Bets.none(torch.zeros(1).double()).and_those_of(torch.full((100, 1), -math.inf))
    assert float(bets.lower(0.05)) == -math.inf
    assert float(bets.upper(0.05)) == pytest.approx(math.log(1 - (0.05 / 4) ** 0.01), abs=0.1)


def test_the_mean_over_rows_is_bounded_by_all_bets_at_once() -> None:
    delta, rows, repeats, truth = 0.2, 12, 20, math.log(0.1)
    at_once, one_by_one = [], []
    for repeat in range(repeats):
        bets = Bets.none(torch.zeros(rows).double())
        bets = bets.and_those_of(coins(rows, 300, 0.1, seed=1000 + repeat))
        at_once.append(bets.mean_upper(torch.ones(rows).double(), delta))
        one_by_one.append(float(bets.upper(delta / rows).mean()))
    missed = sum(value < truth for value in at_once)
    assert (missed / repeats - delta) / math.sqrt(delta * (1 - delta) / repeats) < SURELY_WRONG
    assert np.mean(at_once) < np.mean(one_by_one) - 0.1


def test_equal_rows_are_bet_on_once() -> None:
    """One row that counts 300 times is one bet; the mutant takes it for 300 independent ones."""
    delta, times, truth, repeats = 0.002, 300, math.log(0.5), 40
    once, mutant = [], []
    for repeat in range(repeats):
        log_w = coins(1, 20, 0.5, seed=2000 + repeat)
        bets = Bets.none(torch.zeros(1).double()).and_those_of(log_w)
        once.append(bets.mean_upper(torch.tensor([float(times)]).double(), delta))
        many = Bets.none(torch.zeros(times).double()).and_those_of(log_w.expand(-1, times))
        mutant.append(many.mean_upper(torch.ones(times).double(), delta))
        assert once[-1] == pytest.approx(float(bets.upper(delta)), abs=1e-5)
    none = torch.full((repeats,), -math.inf).double()
    assert miscoverage(none, torch.tensor(once).double(), truth, delta) < SURELY_WRONG
    assert miscoverage(none, torch.tensor(mutant).double(), truth, delta) > CAUGHT


# ---- a posterior with two modes, q on one ------------------------------------------------------


class Squared(nn.Module):
    """z → z²/4, which two z have in common."""

    def forward(self, z: Tensor) -> Tensor:
        return z.square() / 4


class OnOneMode(nn.Module):
    """q = N(4, ⅓²) for every row."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tensor([4.0, -1.3], dtype=x.dtype).expand(len(x), -1)


def two_modes(seen: float) -> unveil.VAE:
    """p(z) = r N(4, ½²) + (1 − r) N(−4, ½²), of which q sees the share r."""
    prior = unveil.GaussianMixture(1, 2, seeded(96))
    with torch.no_grad():
        prior.logits.copy_(torch.tensor([seen, 1 - seen]).log())
        prior.loc.copy_(torch.tensor([[4.0], [-4.0]]))
        prior.raw_scale.fill_(-0.75)
    return unveil.VAE(
        prior=prior,
        likelihood=unveil.Conditional(Squared(), unveil.Gaussian(1, unveil.FixedScale(0.5))),
        posterior=unveil.Conditional(OnOneMode(), unveil.DiagonalGaussian(1)),
    ).double()


ROWS = torch.linspace(3, 5, 200, dtype=torch.float64)[:, None]


@pytest.mark.parametrize("seen", [0.5, 0.9, 0.1])
def test_the_interval_holds_what_q_does_not_see(seen: float, monkeypatch) -> None:
    vae = two_modes(seen)
    moments = torch.zeros(200, 1).double(), torch.full((200, 1), 0.2).double()
    truth = quadrature(vae, ROWS, moments=moments).log_evidence
    result = bounded_evidence(vae, ROWS, num_samples=2000)
    assert (result.lower < truth).all()
    assert (truth < result.upper).all()
    assert (result.upper - result.lower).max() < 0.8
    assert result.mean_lower < truth.mean() < result.mean_upper
    assert result.mean_upper - result.mean_lower < 0.4
    assert result.reason is None
    # The mutant: draws of q alone, taken for bounded as if the prior had had its share.
    monkeypatch.setattr(module, "_Defensive", PlainDraws)
    mutant = bounded_evidence(vae, ROWS, num_samples=2000)
    assert (mutant.upper < truth).double().mean() > 0.9 or seen == 0.9
    assert mutant.mean_upper < truth.mean()


class PlainDraws:
    """w = p(x, z)/q(z|x), z ~ q(z|x)."""

    def __init__(self, model, tile, share, seed) -> None:
        self.model, self.tile = model, tile
        self.q, self.noise = model.posterior(tile.x), tile.noise(seed, "plain", 1)

    def draws(self, size: int, number: int) -> Tensor:
        return self.q.push(self.noise(size))

    def log_weights(self, z: Tensor) -> Tensor:
        return self.model.log_joint(self.tile.x, z) - self.q.log_prob(z)


# ---- any model ---------------------------------------------------------------------------------


def test_intervals_of_a_vae_hold_its_evidence_and_are_each_row_s_own() -> None:
    vae = nonlinear_vae(unveil.Bernoulli(6), latents=2)
    x = with_gaps((normal(97, 30, 6) > 0).float(), seed=98)
    x[4] = NAN
    result = bounded_evidence(vae, x, num_samples=1000)
    moments = torch.zeros(30, 2), torch.full((30, 2), 0.5)
    truth = quadrature(vae, x, moments=moments).log_evidence
    shown = torch.arange(30) != 4
    assert (result.lower < truth)[shown].all()
    assert (truth < result.upper)[shown].all()
    assert float(result.lower[4]) == float(result.upper[4]) == 0.0
    assert result.mean_lower < float(truth.mean()) < result.mean_upper
    few = torch.tensor([20, 4, 3])
    part = bounded_evidence(vae, x[few], num_samples=1000)
    assert torch.equal(part.lower, result.lower[few])
    assert torch.equal(part.upper, result.upper[few])


def test_rows_out_of_reach_say_so() -> None:
    vae = nonlinear_vae(unveil.Bernoulli(40), latents=2)
    x = (normal(99, 3, 40) > 0).float()
    result = bounded_evidence(vae, x, num_samples=100)
    assert result.out_of_reach.all()
    assert (result.upper > result.lower).all()
    assert "3 of 3 rows are out of reach of 100 draws" in str(result.reason)


def test_without_a_bound_on_the_likelihood_there_is_none_on_the_evidence() -> None:
    class Unsaid(Family):
        event_shape, num_parameters = (2,), 2

        def forward(self, raw):
            return unveil.Gaussian(2).double()(raw)

    vae = nonlinear_vae(Unsaid(), latents=1).double()
    result = bounded_evidence(vae, normal(100, 3, 2), num_samples=50)
    assert result.mean_upper is None
    assert result.upper.tolist() == [math.inf] * 3
    assert "no bound on p(x|z) is known" in str(result.reason)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_samples": 0}, r"expected at least 1 draw per row, got 0"),
        ({"share": 0.0}, r"expected a share between 0 and 1, got 0\.0; take 0\.2"),
        ({"delta": 1.0}, r"expected delta between 0 and 1, got 1\.0"),
    ],
)
def test_settings_that_certify_nothing_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        bounded_evidence(two_modes(0.5), ROWS, **settings)
