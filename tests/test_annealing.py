"""Annealed importance sampling: its kernel, its weights forwards and back, and its settings."""

import math

import pytest
import torch
from torch import Tensor

import unveil
from instances.latents import CONDITIONED_PRIORS, PRIORS
from instances.likelihoods import LIKELIHOODS, Likelihood
from oracles import (
    CAUGHT,
    SURELY_WRONG,
    TwoModes,
    a_linear_gaussian,
    a_poor_posterior,
    affine,
    linear_vae,
    nonlinear_vae,
    normal,
    raw_of,
    seeded,
    shake,
    z_score,
)
from unveil.distributions import DiagonalNormal, draw
from unveil.evidence import annealing
from unveil.evidence.annealing import (
    Schedule,
    anneal,
    anneal_back,
    anneal_there_and_back,
    last,
    stages,
)
from unveil.evidence.hmc import Bridge, Point, hmc
from unveil.evidence.importance import importance
from unveil.evidence.simulated import simulate
from unveil.evidence.starts import FromPosterior, FromPrior, prior_draws
from unveil.evidence.tuning import ROWS, TARGET, tune
from unveil.priors.base import Prior
from unveil.tiles import tiles

STARTS = (FromPosterior(), FromPrior())


def nodes(latents: int, size: float = 0.5) -> Tensor:
    return torch.full((3, latents), size, dtype=torch.float64)


# ---- the kernel --------------------------------------------------------------------------------


def funnel(z: Tensor) -> tuple[Tensor, Tensor]:
    """v ~ N(0, 1.5²), u|v ~ N(0, e^v), and nothing added on the way."""
    v, u = z.unbind(-1)
    log_density = -v.square() / 4.5 - 0.5 * u.square() * torch.exp(-v) - 0.5 * v
    return log_density, 0 * log_density


def funnel_draws(chains: int) -> Tensor:
    v = 1.5 * normal(1, chains, 1)
    return torch.stack([v, torch.exp(0.5 * v) * normal(2, chains, 1)], dim=-1)


def after_moves(chains: int, moves: int, adapting: float) -> Tensor:
    """Exact draws of the funnel after so many moves; v² of each chain.

    ``adapting`` above 1 multiplies a chain's own size by that after each success, and divides it
    after each failure.
    """
    bridge, randomness = Bridge(funnel, torch.ones(2, dtype=torch.float64)), seeded(3)
    point = bridge.at(funnel_draws(chains))
    size = torch.full((chains, 1, 1), 0.5, dtype=torch.float64)
    for _ in range(moves):
        noise = torch.randn(chains, 1, 4, generator=randomness, dtype=torch.float64)
        point, moved = hmc(bridge, point, b=1.0, size=size, num_leapfrog=3, noise=noise)
        size = size * torch.where(moved[..., None], adapting, 1 / adapting)
    return point.z[:, 0, 0].square()


def test_a_move_leaves_its_target_as_it_is():
    assert z_score(after_moves(40_000, 40, adapting=1.0), 2.25) < SURELY_WRONG


def test_a_size_that_each_chain_adapts_is_caught():
    assert z_score(after_moves(40_000, 40, adapting=1.3), 2.25) > CAUGHT


def test_a_proposal_without_a_density_is_turned_down():
    def densities(z: Tensor) -> tuple[Tensor, Tensor]:
        return torch.where(z[..., 0] > 0, z[..., 0].log(), torch.nan), 0 * z[..., 0]

    bridge = Bridge(densities, torch.ones(1, dtype=torch.float64))
    point = bridge.at(torch.full((50, 1, 1), 0.3, dtype=torch.float64))
    noise = normal(4, 50, 1, 3)
    after, moved = hmc(
        bridge, point, b=1.0, size=torch.full((1,), 0.3).double(), num_leapfrog=1, noise=noise
    )
    assert 0 < int(moved.sum()) < 50
    assert bool((after.z > 0).all())


# ---- weights -----------------------------------------------------------------------------------


def ratios(start: unveil.evidence.starts.Start, *, temperatures: int, back: bool) -> Tensor:
    """ŵ/p(x), or r̂ p(x), of 500 simulated rows of a linear-Gaussian model with a poor q."""
    model = a_linear_gaussian()
    vae = linear_vae(model, a_poor_posterior(model))
    x, z = simulate(vae, torch.zeros(500, 6, dtype=torch.float64))
    schedule = Schedule(
        start=start, sizes=nodes(3), num_temperatures=temperatures, num_chains=16, num_leapfrog=3
    )
    exact = model.log_evidence(x)
    if back:
        return (anneal_back(vae, x, z, schedule).weights.log_mean + exact).exp()
    return (anneal(vae, x, schedule).weights.log_mean - exact).exp()


@pytest.mark.parametrize("start", STARTS, ids=lambda start: start.method)
@pytest.mark.parametrize("back", [False, True], ids=["forwards", "back"])
def test_weights_are_unbiased(start, back):
    assert z_score(ratios(start, temperatures=12, back=back), 1.0) < SURELY_WRONG


def test_moves_that_are_always_accepted_are_caught(monkeypatch: pytest.MonkeyPatch):
    def always(bridge, point, *, b, size, num_leapfrog, noise):
        # As far as a size goes that acceptance would have punished.
        there, moved = hmc(
            bridge, point, b=b, size=2 * size, num_leapfrog=num_leapfrog, noise=_lucky(noise)
        )
        return there, moved

    def _lucky(noise: Tensor) -> Tensor:
        return torch.cat([noise[..., :-1], torch.full_like(noise[..., -1:], -9.0)], dim=-1)

    monkeypatch.setattr(annealing, "hmc", always)
    assert z_score(ratios(FromPrior(), temperatures=12, back=False), 1.0) > CAUGHT


def test_under_perfect_mixing_the_gap_is_what_the_integrand_rises_over_the_temperatures(
    monkeypatch: pytest.MonkeyPatch,
):
    """U − L = (g(1) − g(0))/T, g(b) = E_b log [p(x, z)/q(z)] (Grosse et al. 2013)."""
    model = a_linear_gaussian(latents=2)
    q = a_poor_posterior(model)
    vae = linear_vae(model, q)
    x, _ = simulate(vae, torch.zeros(40, 6, dtype=torch.float64))
    exact = model.exact_posterior()
    at_q, at_p = (
        torch.linalg.inv(q.covariance),
        torch.linalg.inv(exact.covariance),
    )
    centred = x - model.mean
    pulls = (centred @ q.gain.T @ at_q, centred @ exact.gain.T @ at_p)
    randomness = seeded(5)

    def tempered(b: float, chains: int) -> Tensor:
        """Exact draws of f_b ∝ q^(1−b) p(x, z)^b."""
        covariance = torch.linalg.inv((1 - b) * at_q + b * at_p)
        mean = ((1 - b) * pulls[0] + b * pulls[1]) @ covariance
        epsilon = torch.randn(chains, *mean.shape, generator=randomness, dtype=torch.float64)
        return mean + epsilon @ torch.linalg.cholesky(covariance).T

    def perfect(bridge, point, *, b, size, num_leapfrog, noise):
        rows = point.z.shape[1]  # the tile's padding repeats its last row
        drawn = tempered(b, len(point.z))
        padding = drawn[:, -1:].expand(-1, rows - len(x), -1)
        return bridge.at(torch.cat([drawn, padding], 1)), torch.ones(len(drawn), rows).bool()

    monkeypatch.setattr(annealing, "hmc", perfect)

    def mean_log_weight(back: bool) -> Tensor:
        """Of single chains: log w is not averaged before its logarithm is taken."""
        schedule = Schedule(start=FromPosterior(), sizes=nodes(2), num_temperatures=10)
        (tile,) = tiles(x)
        bridge, temperatures = schedule.start.bridge(vae, tile), schedule.temperatures
        start = tempered(1.0 if back else 0.0, 600)
        start = torch.cat([start, start[:, -1:].expand(-1, 256 - len(x), -1)], 1)
        chains = stages(
            bridge, start, schedule, temperatures[::-1] if back else temperatures, lambda n: None
        )
        return last(chains).log_weights[:, : len(x)]

    (tile,) = tiles(x)
    bridge = FromPosterior().bridge(vae, tile)

    def rise() -> Tensor:
        ends = []
        for b in (0.0, 1.0):
            drawn = tempered(b, 600)
            drawn = torch.cat([drawn, drawn[:, -1:].expand(-1, 256 - len(x), -1)], 1)
            ends.append(bridge.at(drawn).log_ratio[:, : len(x)])
        return ends[1] - ends[0]

    gap = -mean_log_weight(back=True) - mean_log_weight(back=False)
    assert z_score((gap - rise() / 10).mean(1), 0.0) < SURELY_WRONG
    # Twice the temperatures would have had half of it.
    assert z_score((gap - rise() / 20).mean(1), 0.0) > CAUGHT


def test_annealing_from_the_prior_finds_the_mode_that_q_does_not_see():
    model, x = TwoModes(), torch.linspace(1, 4, 60, dtype=torch.float64)[:, None]
    exact = model.log_evidence(x)
    found = {}
    for start in STARTS:
        sizes = tune(model, start, x)
        schedule = Schedule(start=start, sizes=sizes, num_temperatures=200, num_chains=16)
        found[start.method] = anneal(model, x, schedule).weights.log_mean - exact
    blind, seeing = found.values()
    assert float(blind.mean()) < -0.6  # log ½: and nothing in its weights tells
    assert z_score(seeing.exp(), 1.0) < SURELY_WRONG
    assert float(seeing.mean()) > -0.1


def test_there_and_back_returns_from_where_it_arrived():
    """Nearer to the closed form the nearer annealing arrives, and without a guarantee."""
    model = a_linear_gaussian()
    vae = linear_vae(model, a_poor_posterior(model))
    x, _ = simulate(vae, torch.zeros(100, 6, dtype=torch.float64))
    schedule = Schedule(start=FromPosterior(), sizes=nodes(3), num_temperatures=10, num_leapfrog=3)
    off = [
        float((-back.weights.log_mean - model.log_evidence(x)).mean().abs())
        for back in (
            anneal_there_and_back(vae, x, schedule),
            anneal_there_and_back(vae, x, schedule.doubled().doubled()),
        )
    ]
    assert off[1] < 0.5 * off[0]
    assert off[1] < 0.15


# ---- every model of the package ----------------------------------------------------------------


def around(prior: Prior) -> unveil.VAE:
    """A linear decoder under any prior, and the q that would be exact under N(0, I)."""
    weight = normal(6, 4, 3)
    covariance = torch.linalg.inv(weight.T @ weight / 0.25 + torch.eye(3).double())
    gain, sd = covariance @ weight.T / 0.25, covariance.diagonal().sqrt()
    encoder = affine(torch.cat([gain, 0 * gain]), torch.cat([0 * sd, raw_of(2 * sd)]))
    return unveil.VAE(
        prior=prior,
        likelihood=unveil.Conditional(
            affine(weight, torch.zeros(4).double()), unveil.Gaussian(4, unveil.FixedScale(0.5))
        ),
        posterior=unveil.Conditional(encoder, unveil.DiagonalGaussian(3)),
    ).double()


def disagreement(vae: unveil.VAE, given: Tensor | None = None) -> float:
    """How far both annealings' p̂(x) are from that of draws of q, in standard errors over rows."""
    x = normal(10, 60, 4)
    drawn = importance(vae, x, num_samples=200, given=given).log_evidence
    z = []
    for start in STARTS:
        schedule = Schedule(
            start=start, sizes=nodes(3, 0.2), num_temperatures=16, num_chains=4, num_leapfrog=2
        )
        z.append(z_score((anneal(vae, x, schedule, given).weights.log_mean - drawn).exp(), 1.0))
    return max(z)


@pytest.mark.parametrize("prior", PRIORS, ids=lambda prior: type(prior).__name__)
def test_both_starts_agree_with_draws_of_q_under_every_prior(prior):
    assert disagreement(around(prior)) < SURELY_WRONG


@pytest.mark.parametrize("prior", CONDITIONED_PRIORS, ids=lambda prior: type(prior).__name__)
def test_both_starts_are_told_the_covariates(prior):
    class Told(torch.nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, value, given):
            return self.network(value)

    vae = around(prior)
    vae.p_x_given_z.network, vae.q_z_given_x.network = (
        Told(vae.p_x_given_z.network),
        Told(vae.q_z_given_x.network),
    )
    assert disagreement(vae, normal(11, 60, 2)) < SURELY_WRONG


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=lambda likelihood: likelihood.name)
def test_weights_are_unbiased_under_every_likelihood(likelihood: Likelihood):
    """ŵ/p(x) of simulated rows, each of them once, where one latent leaves p(x) to a plain sum."""
    family = likelihood.family()
    vae = nonlinear_vae(family, latents=1, width=5).double()
    shake(vae, seed=5, sd=0.15)
    x, _ = simulate(vae, torch.zeros(40, *family.event_shape, dtype=torch.float64))
    x = x.unique(dim=0)
    z = torch.arange(-9, 9, 0.01, dtype=torch.float64)[:, None, None].expand(-1, len(x), 1)
    with torch.no_grad():
        exact = vae.log_joint(x, z).logsumexp(0) + math.log(0.01)
    for start in STARTS:
        schedule = Schedule(
            start=start, sizes=nodes(1), num_temperatures=4, num_chains=64, num_leapfrog=2
        )
        weights = anneal(vae, x, schedule).weights
        variance = weights.log_mean_variance
        assert variance is not None
        off = float((weights.log_mean - exact).expm1().mean())
        error = math.hypot(float(variance.sum().sqrt()) / len(x), 1e-9)
        assert abs(off) < SURELY_WRONG * error
        assert off + 0.1 > SURELY_WRONG * error


# ---- rows --------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", STARTS, ids=lambda start: start.method)
def test_a_row_is_annealed_alike_wherever_it_stands(start):
    vae = nonlinear_vae(unveil.Bernoulli(9)).double()
    x = (torch.rand(300, 9, generator=seeded(12)) < 0.5).double()
    schedule = Schedule(start=start, sizes=nodes(2), num_temperatures=4, num_chains=3)
    whole = anneal(vae, x, schedule)
    order = torch.randperm(300, generator=seeded(13))[:40]
    some = anneal(vae, x[order], schedule)
    assert torch.equal(whole.weights.log_mean[order], some.weights.log_mean)
    assert torch.equal(whole.acceptance[order], some.acceptance)


def test_memory_does_not_grow_with_the_chains(monkeypatch: pytest.MonkeyPatch):
    vae = nonlinear_vae(unveil.Bernoulli(9)).double()
    x = torch.ones(2, 9).double()
    schedule = Schedule(start=FromPrior(), sizes=nodes(2), num_temperatures=3, num_chains=40)
    seen = []

    def watching(bridge, point: Point, **how):
        seen.append(len(point.z))
        return hmc(bridge, point, **how)

    monkeypatch.setattr("unveil.tiles.FLOATS_PER_CHUNK", 256 * 13 * 16)
    monkeypatch.setattr(annealing, "hmc", watching)
    anneal(vae, x, schedule)
    assert set(seen) == {16, 8}


def test_a_row_without_a_cell_has_no_evidence_for_or_against():
    vae = nonlinear_vae(unveil.Bernoulli(9)).double()
    x = torch.full((2, 9), math.nan).double()
    x[0] = 1.0
    for start in STARTS:
        schedule = Schedule(start=start, sizes=nodes(2), num_temperatures=3)
        assert float(anneal(vae, x, schedule).weights.log_mean[1]) == 0.0


def test_float32_loses_little():
    model = a_linear_gaussian()
    vae = linear_vae(model, a_poor_posterior(model))
    x, _ = simulate(vae, torch.zeros(50, 6, dtype=torch.float64))
    x = x.float().double()
    schedule = Schedule(start=FromPosterior(), sizes=nodes(3), num_temperatures=20)
    double = anneal(vae, x, schedule).weights.log_mean
    single = anneal(vae.float(), x.float(), schedule).weights.log_mean
    assert single.dtype == torch.float64
    assert float((single - double).abs().median()) < 1e-4


# ---- what cannot be ----------------------------------------------------------------------------


class Odd(unveil.LatentVariableModel):
    """A model whose likelihood is any function of z."""

    def __init__(self, log_likelihood):
        super().__init__()
        self.num_latents, self.log_likelihood = 1, log_likelihood

    def prior(self, given=None):
        return DiagonalNormal(torch.zeros(1).double(), torch.ones(1).double())

    def posterior(self, x, given=None):
        return DiagonalNormal(0 * x, 1 + 0 * x)

    def likelihood(self, z, given=None):
        log_likelihood = self.log_likelihood

        class Of(torch.distributions.Distribution):
            def log_prob(self, value):
                return log_likelihood(value, z)

        return Of(validate_args=False)


def quick(start) -> Schedule:
    return Schedule(start=start, sizes=nodes(1), num_temperatures=4)


def test_a_density_without_a_gradient_is_refused():
    model = Odd(lambda x, z: z.detach()[..., 0])
    with pytest.raises(TypeError, match="gradient in z"):
        anneal(model, torch.zeros(3, 1).double(), quick(FromPrior()))


def test_a_weight_that_is_no_number_is_refused_by_its_row():
    model = Odd(lambda x, z: torch.where(x[:, 0] == 1.0, torch.nan, z[..., 0]))
    with pytest.raises(ArithmeticError, match="row 2"):
        anneal(model, torch.tensor([[0.0], [0.0], [1.0]]).double(), quick(FromPrior()))


def test_where_half_of_z_cannot_have_made_x_the_rest_is_weighed():
    model = Odd(lambda x, z: torch.where(z[..., 0] > 0, 0 * z[..., 0], -math.inf))
    x = normal(14, 400, 1)
    schedule = Schedule(start=FromPrior(), sizes=nodes(1), num_temperatures=4, num_chains=32)
    weights = anneal(model, x, schedule).weights
    assert z_score(weights.log_mean.exp(), 0.5) < SURELY_WRONG


@pytest.mark.parametrize("setting", ["num_temperatures", "num_chains", "num_leapfrog"])
def test_a_schedule_of_nothing_is_refused(setting):
    with pytest.raises(ValueError, match=f"expected {setting} of at least 1, got 0"):
        Schedule(start=FromPrior(), sizes=nodes(1), **{setting: 0})


@pytest.mark.parametrize("sizes", [torch.ones(1, 2), torch.ones(9)])
def test_sizes_at_too_few_nodes_to_lie_between_are_refused(sizes):
    with pytest.raises(ValueError, match=r"expected sizes .* at 2 nodes or more, got the shape"):
        Schedule(start=FromPrior(), sizes=sizes)


# ---- draws and sizes ---------------------------------------------------------------------------


@pytest.mark.parametrize("prior", PRIORS[:3], ids=lambda prior: type(prior).__name__)
def test_prior_draws_are_the_prior_s_and_each_row_s_own(prior):
    vae = around(prior)
    (tile,) = tiles(normal(15, 256, 4))
    z = prior_draws(vae, tile, 200, 0, "test")
    theirs = draw(prior.double()(), (51_200,), seeded(16))
    assert z_score(z.flatten(0, 1), theirs.mean(0)) < SURELY_WRONG * math.sqrt(2)
    assert len(torch.unique(z[0, :, 0])) == 256


def test_sizes_are_frozen_where_most_moves_succeed():
    vae = nonlinear_vae(unveil.Bernoulli(9), latents=3).double()
    like = torch.zeros(5, 9).double()
    for start in STARTS:
        sizes = tune(vae, start, like)
        assert torch.equal(sizes, tune(vae, start, like))
        x, _ = simulate(vae, torch.zeros(2 * ROWS, 9).double(), seed=1)
        schedule = Schedule(start=start, sizes=sizes, num_temperatures=20)
        assert abs(float(anneal(vae, x, schedule).acceptance.mean()) - TARGET) < 0.15


def test_sizes_between_nodes_are_interpolated():
    sizes = torch.tensor([[1.0], [2.0], [4.0]])
    schedule = Schedule(start=FromPosterior(), sizes=sizes)
    assert [float(schedule.size(b)) for b in (0.0, 0.25, 0.5, 0.75, 1.0)] == [1, 1.5, 2, 3, 4]
