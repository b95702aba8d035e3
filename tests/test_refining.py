"""Each row's own posterior: the optimum where it is known, and never another row's business."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

import unveil
from oracles import (
    CAUGHT,
    SURELY_WRONG,
    a_linear_gaussian,
    linear_vae,
    nonlinear_vae,
    normal,
    seeded,
    with_gaps,
    z_score,
)
from unveil import refining, tiles
from unveil.check.models import LogNormalWeights
from unveil.distributions import DiagonalNormal, FullNormal, draw
from unveil.evidence.linear_gaussian import GaussianPosterior
from unveil.families import Family
from unveil.networks.mlp import Decoder, Encoder, FillsGaps
from unveil.refining import Refined, Rescaled, refine
from unveil.step import State, Tensors, plain_update
from unveil.tiles import Tile

MODEL = a_linear_gaussian()
BEST = MODEL.mean_field_posterior()
BAD = GaussianPosterior(gain=-0.5 * BEST.gain, covariance=9 * BEST.covariance)
X = 2 * normal(20, 250, 6)


def exact(x: Tensor) -> MultivariateNormal:
    q = MODEL.exact_posterior()
    return MultivariateNormal((x - MODEL.mean) @ q.gain.T, q.covariance.expand(len(x), -1, -1))


def covariances(refined: Refined, rows: int) -> Tensor:
    """Cov q(z|x) of each row (row, latent, latent): of a linear push, J Jᵀ with its Jacobian J."""
    q = refined.posterior
    centre = q.push(torch.zeros(1, rows, 3).double())[0]
    columns = [q.push(e.expand(1, rows, 3))[0] - centre for e in torch.eye(3).double()]
    jacobian = torch.stack(columns, -1)
    return jacobian @ jacobian.mT


# ---- the optimum -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "gap", "excess"),
    [
        (unveil.DiagonalGaussian(3), MODEL.kl_to_exact(X[:1], BEST).item(), 0.03),
        (unveil.FullGaussian(3), 0.0, 1e-3),  # its gradient loses its noise at the optimum
    ],
    ids=["mean-field", "full covariance"],
)
def test_a_bad_encoder_s_rows_climb_to_the_optimum_of_the_family(
    family: Family, gap: float, excess: float
) -> None:
    refined = refine(linear_vae(MODEL, BAD), X, family=family)
    ours = MultivariateNormal(refined.posterior.mean, covariances(refined, len(X)))
    gaps = kl_divergence(ours, exact(X)) - gap
    assert gaps.min() > -1e-9
    assert gaps.max() < excess
    assert (MODEL.kl_to_exact(X, BAD) - gap > 3).all()
    assert (refined.gain > 3).all()
    # Both reported ELBOs are the closed forms in expectation.
    assert refined.before.dtype == refined.after.dtype == torch.float64
    assert z_score(refined.before - MODEL.elbo(X, BAD), 0.0) < SURELY_WRONG
    # (An exact q leaves draws no noise to count in, so their error is held to nats as well.)
    error = refined.after - (MODEL.log_evidence(X) - gap)
    assert z_score(error, 0.0) < SURELY_WRONG or error.abs().max() < excess
    assert z_score(error + 0.1, 0.0) > CAUGHT


def test_a_row_that_only_lost_keeps_its_start() -> None:
    """From the optimum, a few steps far too long lead nowhere better."""
    x = X[:40]
    refined = refine(linear_vae(MODEL, BEST), x, steps=3, learning_rate=5.0)
    best_means = (x - MODEL.mean) @ BEST.gain.T
    assert torch.equal(refined.gain, torch.zeros(40, dtype=torch.float64))
    torch.testing.assert_close(refined.posterior.mean, best_means)
    torch.testing.assert_close(
        refined.posterior.stddev, BEST.covariance.diagonal().sqrt().expand(40, 3)
    )


def test_a_row_that_shows_nothing_climbs_to_the_prior() -> None:
    x = torch.full((1, 6), torch.nan).double()
    start = torch.ones(1, 3).double(), torch.full((1, 3), 0.5).double()
    refined = refine(linear_vae(MODEL, BEST), x, start=start, steps=200)
    torch.testing.assert_close(refined.posterior.mean, 0 * start[0], rtol=0.0, atol=0.01)
    torch.testing.assert_close(
        refined.posterior.stddev, torch.ones(1, 3).double(), atol=0.01, rtol=0.0
    )
    assert abs(float(refined.after)) < 1e-3
    assert float(refined.before) < -1


# ---- the pushforward ---------------------------------------------------------------------------


def test_a_rescaled_posterior_is_the_normal_that_it_should_be() -> None:
    loc, scale = normal(30, 5, 2), normal(31, 5, 2).exp()
    base = FullNormal(normal(32, 5, 2), normal(33, 5, 2).exp(), normal(34, 5, 2, 2).tril(-1))
    q = Rescaled(base, loc, scale)
    factor = scale[..., None] * base.scale[..., None] * (torch.eye(2) + base.lower)
    peer = MultivariateNormal(loc + scale * base.loc, factor @ factor.mT)
    z = q.push(normal(35, 7, 5, 2))
    torch.testing.assert_close(q.log_prob(z), peer.log_prob(z))
    torch.testing.assert_close(q.mean, peer.mean)
    torch.testing.assert_close(q.stddev, peer.stddev)
    torch.testing.assert_close(q.moments(lambda n: normal(36, n, 5, 2)), (peer.mean, peer.stddev))
    draws = draw(q, (20_000,), seeded(37))
    assert z_score(draws, peer.mean) < SURELY_WRONG
    assert z_score((draws - peer.mean).square(), peer.variance) < SURELY_WRONG
    assert z_score((1.1 * draws - peer.mean).square(), peer.variance) > CAUGHT


# ---- a result belongs to its row ---------------------------------------------------------------

ROWS = 290  # one whole tile and a padded one
SELECTIONS = {
    "reversed": torch.arange(ROWS - 1, -1, -1),
    "some": torch.tensor([280, 3, 77, 5]),
    "each twice": torch.arange(100, 200).repeat_interleave(2),
}
# Odd widths on purpose: a kernel that rounds by a row's place in memory shows itself there.
CASES: dict[str, tuple[Callable[[], unveil.VAE], Callable[[], Tensor]]] = {
    "width 13": (
        lambda: nonlinear_vae(unveil.Gaussian(5, unveil.CellScale()), latents=3, width=13),
        lambda: with_gaps(normal(40, ROWS, 5).float(), seed=41),
    ),
    "width 64, images": (
        lambda: nonlinear_vae(unveil.Bernoulli((4, 5)), latents=7, width=64, gaps=False),
        lambda: (normal(42, ROWS, 4, 5) > 0).float(),
    ),
    "width 7, float64": (
        lambda: nonlinear_vae(unveil.Gaussian(3), latents=3, width=7).double(),
        lambda: normal(43, ROWS, 3),
    ),
}


@pytest.fixture
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refining, "JUDGING_DRAWS", 8)


def numbers(refined: Refined) -> Tensor:
    """All that a row's result is made of, (row, number)."""
    elbos = torch.stack([refined.before, refined.after], -1)
    return torch.cat([refined.means.double(), refined.sds.double(), elbos], -1)


def differing_rows(vae: unveil.VAE, x: Tensor, family: Family) -> int:
    """How many rows differ in any bit when other rows stand beside them."""
    whole = numbers(refine(vae, x, family=family, steps=5))
    return sum(
        int((whole[index] != numbers(refine(vae, x[index], family=family, steps=5))).any(1).sum())
        for index in SELECTIONS.values()
    )


@pytest.mark.usefixtures("few_draws")
@pytest.mark.parametrize("family", [unveil.DiagonalGaussian, unveil.FullGaussian])
@pytest.mark.parametrize(("make", "rows"), CASES.values(), ids=CASES)
def test_what_is_refined_is_bitwise_the_row_s_own(
    make: Callable[[], unveil.VAE], rows: Callable[[], Tensor], family: Callable[[int], Family]
) -> None:
    vae = make()
    assert differing_rows(vae, rows(), family(vae.num_latents)) == 0


def broadcast_noise(
    self: Tile, seed: int, purpose: str, num_latents: int
) -> Callable[[int], Tensor]:
    """The mutant: every row of a tile gets the noise of its first."""
    own = OWN_NOISE(self, seed, purpose, num_latents)
    return lambda number: own(number)[:, :1].expand(-1, len(self.x), -1)


OWN_NOISE = Tile.noise


def shared_update(state: State, gradients: Tensors, *rest: object) -> State:
    """The mutant: one second moment for all rows."""
    new = plain_update(state, gradients, *rest)
    mean = new.second_moment["raw"].mean(0, keepdim=True).expand_as(gradients["raw"])
    return new._replace(second_moment={"raw": mean})


@pytest.mark.usefixtures("few_draws")
@pytest.mark.parametrize(
    ("of", "name", "mutant"),
    [
        (tiles, "_filled_product", lambda *factors: factors),
        (Tile, "noise", broadcast_noise),
        (refining, "plain_update", shared_update),
    ],
    ids=["kernels", "noise", "optimiser"],
)
def test_what_rows_share_is_noticed(
    monkeypatch: pytest.MonkeyPatch, of: object, name: str, mutant: Callable[..., object]
) -> None:
    make, rows = CASES["width 64, images"]
    monkeypatch.setattr(of, name, mutant)
    assert differing_rows(make(), rows(), unveil.DiagonalGaussian(7)) > 50


def test_distinct_rows_have_independent_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Log-normal weights have the same law in every row; a broadcast would move all rows alike."""
    x = torch.arange(1000, dtype=torch.float64)[:, None]

    def score() -> float:
        before = refine(LogNormalWeights(1.0), x, steps=1).before
        correlation = torch.corrcoef(torch.stack([before[:-1], before[1:]]))[0, 1]
        return float(correlation.abs()) * math.sqrt(1000)

    assert score() < SURELY_WRONG
    monkeypatch.setattr(Tile, "noise", broadcast_noise)
    assert score() > CAUGHT


def test_a_row_that_overflows_keeps_its_start_and_troubles_no_other() -> None:
    make, rows = CASES["width 13"]
    vae, x = make(), torch.nan_to_num(rows()[:30])
    fine = numbers(refine(vae, x, steps=5))
    broken = x.clone()
    broken[7] = 1e30
    refined = refine(vae, broken, steps=5)
    others = torch.arange(30) != 7
    assert torch.equal(numbers(refined)[others], fine[others])
    mean, sd = unveil.units.posterior_moments(vae, broken)
    assert torch.equal(refined.means[7], mean[7])
    assert torch.equal(refined.sds[7], sd[7])


def test_a_row_keeps_its_covariates() -> None:
    weights = seeded(50)
    sizes = {"covariates": 1, "width": 8, "depth": 1, "generator": weights}
    vae = unveil.VAE(
        prior=unveil.StandardNormal(2),
        likelihood=unveil.Conditional(Decoder(2, outputs=3, **sizes), unveil.Gaussian(3)),
        posterior=unveil.Conditional(
            Encoder((3,), outputs=4, gaps=FillsGaps(), **sizes), unveil.DiagonalGaussian(2)
        ),
    )
    x, given = normal(51, 20, 3).float(), normal(52, 20, 1).float()
    order = torch.randperm(20, generator=seeded(53))
    whole = numbers(refine(vae, x, given, steps=5))
    assert torch.equal(whole[order], numbers(refine(vae, x[order], given[order], steps=5)))
    assert (whole != numbers(refine(vae, x, -given, steps=5))).any(1).all()


# ---- what it leaves alone, and what it refuses -------------------------------------------------


def test_the_model_is_left_as_it_was_and_the_seed_is_all_the_randomness() -> None:
    make, rows = CASES["width 13"]
    vae, x, state = make(), rows()[:10], torch.get_rng_state()
    before = {name: p.detach().clone() for name, p in vae.named_parameters()}
    a, b, other = (numbers(refine(vae, x, steps=3, seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, other)
    assert all(torch.equal(p, before[name]) for name, p in vae.named_parameters())
    assert all(p.grad is None and p.requires_grad for p in vae.parameters())
    assert torch.equal(torch.get_rng_state(), state)


class OneSpread(Family):
    """A family one of whose numbers is no row's own."""

    def __init__(self) -> None:
        super().__init__()
        self.event_shape, self.num_parameters = (3,), 3
        self.scale = torch.nn.Parameter(torch.ones(3))

    def forward(self, raw: Tensor) -> DiagonalNormal:
        return DiagonalNormal(raw, self.scale.expand_as(raw))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"steps": 0}, r"expected steps of at least 1"),
        ({"num_samples": 0}, r"expected num_samples of at least 1"),
        ({"learning_rate": 0.0}, r"expected a learning rate above 0, got 0\.0"),
        ({"family": OneSpread()}, r"got OneSpread with parameters that every row shares; take"),
    ],
)
def test_settings_that_make_no_climb_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        refine(linear_vae(MODEL, BEST), X, **settings)
