"""Priors that are learned: mixtures, mixtures of posteriors, and those told the covariates."""

import copy
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

import unveil
from oracles import CAUGHT, SURELY_WRONG, normal, seeded, z_score
from unveil.distributions import DiagonalNormal, Pushforward, draw
from unveil.evidence.importance import importance
from unveil.families import Family
from unveil.networks.mlp import Decoder, Encoder, FillsGaps, ResidualMLP
from unveil.objectives.base import Objective
from unveil.priors.mixture import (
    SMALLEST_SD,
    GaussianMixture,
    MixtureOfNormals,
    aggregate,
    em_round,
)
from unveil.priors.vamp import VampPrior, distinct_rows
from unveil.step import (
    Batch,
    Step,
    Tensors,
    begin,
    functional_gradient,
    make_step,
    plain_update,
)
from unveil.tiles import RowsAlike


def a_mixture(components: int = 5, latents: int = 3) -> MixtureOfNormals:
    return MixtureOfNormals(
        torch.log_softmax(normal(1, components), 0),
        2 * normal(2, components, latents),
        torch.exp(0.5 * normal(3, components, latents)),
    )


def directly(p: MixtureOfNormals, z: Tensor) -> Tensor:
    """log Σ_c π_c N(z; μ_c, σ_c²), summed over a tensor (..., component, latent)."""
    each = Normal(p.loc, p.scale).log_prob(z[..., None, :]).sum(-1)
    return torch.logsumexp(p.log_weights + each, -1)


# ---- the density of a mixture ------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3,), (7, 3), (4, 7, 3), (0, 3)])
def test_the_products_are_the_direct_sum(shape: tuple[int, ...]) -> None:
    p, z = a_mixture(), 3 * normal(4, *shape)
    torch.testing.assert_close(p.log_prob(z), directly(p, z), rtol=1e-12, atol=1e-12)


def test_a_mixture_is_torch_s() -> None:
    p, z = a_mixture(), 3 * normal(5, 6, 3)
    peer = MixtureSameFamily(
        Categorical(logits=p.log_weights), Independent(Normal(p.loc, p.scale), 1)
    )
    torch.testing.assert_close(p.log_prob(z), peer.log_prob(z))
    torch.testing.assert_close(p.mean, peer.mean)
    torch.testing.assert_close(p.stddev, peer.stddev)


def test_a_mixture_far_from_the_origin_and_narrow_keeps_its_digits() -> None:
    """In float32 the expanded square would have none left: (100/0.01)² = 10⁸."""
    p = MixtureOfNormals(torch.zeros(1), torch.full((1, 3), 100.0), torch.full((1, 3), 0.01))
    z = 100 + 0.01 * normal(6, 50, 3).float()
    torch.testing.assert_close(p.log_prob(z), directly(p, z), rtol=1e-5, atol=1e-5)


def test_half_precision_networks_leave_the_density_in_full() -> None:
    p, z = a_mixture(), normal(7, 4, 3).float()
    with torch.autocast("cpu", torch.bfloat16):
        lowered = p.log_prob(z)
    torch.testing.assert_close(lowered, directly(p, z.double()).float(), rtol=1e-6, atol=1e-6)


def test_a_row_has_the_same_density_to_the_bit_wherever_it_stands() -> None:
    p, z = a_mixture(components=7), normal(8, 64, 3)
    order = torch.randperm(64, generator=seeded(9))
    with RowsAlike():
        assert torch.equal(p.log_prob(z)[order], p.log_prob(z[order]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [-1e4, 0.0, 1e4])
def test_value_and_gradient_are_finite_at_extremes(dtype: torch.dtype, size: float) -> None:
    prior = GaussianMixture(3, 4, seeded(0)).to(dtype)
    with torch.no_grad():
        for parameter in (prior.logits, prior.loc, prior.raw_scale):
            parameter.flatten()[::2] = size
    z = torch.tensor([[0.0, 1.0, -1.0], [1e4, -1e4, 1e4]], dtype=dtype).requires_grad_()
    value = prior().log_prob(z)
    gradients = torch.autograd.grad(value.sum(), [z, *prior.parameters()])
    assert value.dtype == dtype
    assert torch.isfinite(value).all()
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_no_component_is_narrower_than_the_smallest_sd() -> None:
    prior = GaussianMixture(2, 3, seeded(0))
    with torch.no_grad():
        prior.raw_scale.fill_(-1e4)
    assert torch.equal(prior().scale, torch.full((3, 2), SMALLEST_SD))


def test_an_untrained_mixture_is_near_the_standard_normal() -> None:
    """KL(N(0, I) ‖ p) and KL(p ‖ N(0, I)) by draws, for few components and for many."""
    standard = unveil.StandardNormal(5)()
    for components in (1, 10, 100):
        p = GaussianMixture(5, components, seeded(components))()
        for q, other in ((standard, p), (p, standard)):
            z = draw(q, (20_000,), seeded(1))
            assert (q.log_prob(z) - other.log_prob(z)).mean() < 0.1
        torch.testing.assert_close(p.weights, torch.full((components,), 1 / components))


# ---- its draws ---------------------------------------------------------------------------------


def test_draws_have_the_mixture_s_moments_and_its_density() -> None:
    """And a mutant that draws of equal components is noticed by each of the three."""
    p = a_mixture()
    equal = MixtureOfNormals(torch.full((5,), math.log(0.2)).double(), p.loc, p.scale)
    for q, verdict in ((p, lambda z: z < SURELY_WRONG), (equal, lambda z: z > CAUGHT)):
        z = draw(q, (200, 400), seeded(10)).flatten(0, 1)
        assert verdict(z_score(z, p.mean))
        assert verdict(z_score((z - p.mean).square(), p.variance))
        # E_p[r(z)/p(z)] = 1 for any density r that p covers: here one component of p's.
        one = DiagonalNormal(p.loc[0], p.scale[0])
        assert verdict(z_score((one.log_prob(z) - p.log_prob(z)).exp(), 1.0))


def test_draws_carry_no_gradient_and_are_the_generator_s() -> None:
    p = GaussianMixture(2, 3, seeded(0))()
    z = draw(p, (4,), seeded(1))
    assert not z.requires_grad
    assert torch.equal(z, draw(p, (4,), seeded(1)))
    assert draw(p, (), seeded(1)).shape == (2,)


# ---- a mixture prior in a model whose every answer is known -------------------------------------


def two_modes() -> GaussianMixture:
    """p(z) = ½N(−3, 0.3²) + ½N(3, 0.3²)."""
    prior = GaussianMixture(1, 2, seeded(0)).double()
    with torch.no_grad():
        prior.loc.copy_(torch.tensor([[-3.0], [3.0]]))
        prior.raw_scale.fill_(float(unveil.families.raw_of(torch.tensor(0.3).double())))
    return prior


def linear_model(prior: unveil.priors.base.Prior) -> unveil.VAE:
    vae = unveil.VAE(
        prior=prior,
        likelihood=unveil.Conditional(nn.Identity(), unveil.Gaussian(1, unveil.FixedScale(1.0))),
        posterior=unveil.Conditional(Encoder(
            (1,), covariates=0, outputs=2, width=4, depth=0, gaps=FillsGaps(), generator=seeded(2)
        ), unveil.DiagonalGaussian(1)),
    )  # fmt: skip
    return vae.double()


def by_quadrature(vae: unveil.VAE, x: Tensor) -> Tensor:
    """log p(x) = log ∫ p(z) p(x|z) dz on a grid of z, (row,)."""
    z = torch.linspace(-12, 12, 4801, dtype=torch.float64)
    rows = z[:, None, None].expand(-1, len(x), 1)
    return vae.log_joint(x, rows).logsumexp(0) + math.log(24 / 4800)


X = torch.tensor([[0.0], [3.2], [-2.5]], dtype=torch.float64)


def test_the_evidence_is_that_of_the_marginal_mixture() -> None:
    vae = linear_model(two_modes())
    marginal = MixtureOfNormals(
        torch.full((2,), 0.5).double().log(),
        torch.tensor([[-3.0], [3.0]]).double(),
        torch.full((2, 1), math.sqrt(1.09)).double(),
    )
    torch.testing.assert_close(by_quadrature(vae, X), marginal.log_prob(X))
    by_draws = importance(linear_model(unveil.StandardNormal(1)), X, num_samples=10).log_evidence
    assert not torch.allclose(by_draws, marginal.log_prob(X), atol=0.3)


def test_a_normal_posterior_leaves_the_gap_of_the_modes_it_misses() -> None:
    """p(z|x) has two modes far apart, and a normal q takes one of them, here the one at 3. The gap
    is −log of that mode's weight in p(z|x): log 2 for x = 0, and 0 where it has all of it."""
    vae = linear_model(two_modes())
    start = torch.ones(3, 1).double(), torch.ones(3, 1).double()
    refined = unveil.refine(vae, X, start=start, steps=200, learning_rate=0.2)
    weight = torch.sigmoid(6 * X[:, 0] / 1.09)
    gap = by_quadrature(vae, X) - refined.after
    torch.testing.assert_close(gap, -weight.log(), rtol=0.0, atol=1e-4)
    torch.testing.assert_close(
        gap[:2], torch.tensor([math.log(2), 0.0]).double(), atol=1e-4, rtol=0
    )
    assert gap[2] > 10
    assert (refined.gain > 1).all()


def test_a_mixture_is_learned_with_the_model() -> None:
    """On data of two clumps, the mixture's evidence is above the standard normal's after the same
    training, and its two components have parted."""
    sign = torch.randint(0, 2, (600, 1), generator=seeded(3)).double() * 2 - 1
    x = 5 * sign + math.sqrt(2) * normal(4, 600, 1)
    recipe = unveil.Recipe(batch_size=100, learning_rate=5e-2)
    evidence = {}
    for prior in (GaussianMixture(1, 2, seeded(5)), unveil.StandardNormal(1)):
        vae = linear_model(prior)
        unveil.train(vae, x, objective=unveil.ELBO(num_samples=4), recipe=recipe, epochs=50)
        evidence[type(prior)] = importance(vae, x, num_samples=50).log_evidence.mean()
        if isinstance(prior, GaussianMixture):
            apart = (prior().loc[0] - prior().loc[1]).abs()
    truth = -math.log(2) - 0.5 * (1 + math.log(4 * math.pi))
    assert apart > 8
    assert evidence[GaussianMixture] > evidence[unveil.StandardNormal] + 1
    assert abs(evidence[GaussianMixture] - truth) < 0.3


# ---- fitted afterwards to the aggregate posterior ----------------------------------------------


def clumps(rows: int, *, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Posteriors N(m, s²) whose aggregate is ½N((−4, 0), 1) + 0.3 N((4, 0), ¼) + 0.2 N((0, 5), 1),
    and one z of each."""
    loc = torch.tensor([[-4.0, 0.0], [4.0, 0.0], [0.0, 5.0]]).double()
    sd = torch.tensor([[1.0], [0.5], [1.0]]).double().expand(3, 2)
    number = [round(rows * w) for w in (0.5, 0.3, 0.2)]
    of = torch.repeat_interleave(torch.arange(3), torch.tensor(number))
    s = 0.4 * sd[of] * torch.rand(rows, 2, generator=seeded(seed), dtype=torch.float64)
    means = loc[of] + (sd[of].square() - s.square()).sqrt() * normal(seed + 1, rows, 2)
    return means, s, means + s * normal(seed + 2, rows, 2)


def test_em_finds_the_mixture_that_made_the_posteriors() -> None:
    means, sds, _ = clumps(4000, seed=20)
    p = aggregate(means, sds, 3, seed=1)()
    order = p.weights.argsort(descending=True)
    expected = torch.tensor([[-4.0, 0.0], [4.0, 0.0], [0.0, 5.0]]).double()
    assert torch.allclose(p.weights[order], torch.tensor([0.5, 0.3, 0.2]).double(), atol=1e-3)
    assert torch.allclose(p.loc[order], expected, atol=0.15)
    spreads = torch.tensor([[1.0], [0.5], [1.0]]).double()
    assert torch.allclose(p.scale[order], spreads.expand(3, 2), rtol=0.08)


def test_one_component_has_the_aggregate_s_own_moments() -> None:
    """Var z = Var m + E s²; a mutant that forgets s² is narrower."""
    means, sds, _ = clumps(500, seed=30)
    variance = means.var(0, correction=0) + sds.square().mean(0)
    torch.testing.assert_close(aggregate(means, sds, 1)().variance, variance)
    torch.testing.assert_close(aggregate(means, sds, 1)().mean, means.mean(0))
    assert (aggregate(means, 0 * sds, 1)().variance < variance - 0.01).all()


def test_no_round_of_em_loses() -> None:
    means, sds, _ = clumps(300, seed=40)
    square = means.square() + sds.square()
    start = 8 * normal(41, 6, 2)
    mixture, values = MixtureOfNormals(normal(42, 6).log_softmax(0), start, 1 + 0 * start), []
    for _ in range(60):
        mixture, value = em_round(mixture, means, square)
        values.append(value)
    gains = torch.tensor(values).diff()
    assert (gains > -1e-12).all()
    assert values[-1] > values[0] + 1


def test_a_mixture_of_the_aggregate_tells_new_rows_better_than_the_standard_normal() -> None:
    means, sds, _ = clumps(1000, seed=50)
    *_, unseen = clumps(1000, seed=60)
    mixed = aggregate(means, sds, 3)().log_prob(unseen)
    standard = unveil.StandardNormal(2).double()().log_prob(unseen)
    assert z_score(mixed - standard, 0.0) > CAUGHT
    assert (mixed - standard).mean() > 3


@pytest.mark.parametrize("components", [1, 4, 8])
def test_equal_rows_and_idle_components_leave_a_mixture_finite(components: int) -> None:
    means = torch.tensor([[1.0, 2.0]]).repeat(8, 1)
    p = aggregate(means, torch.zeros(8, 2), components)()
    assert torch.isfinite(p.log_prob(means)).all()
    assert torch.allclose(p.mean, means[0])
    assert torch.allclose(p.scale, torch.tensor(SMALLEST_SD))


def test_a_fit_to_the_aggregate_is_a_function_of_its_seed() -> None:
    means, sds, _ = clumps(200, seed=70)
    a, b, other = (aggregate(means, sds, 10, seed=seed)().loc for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, other)


def test_more_components_than_rows_and_moments_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected at least as many rows as the 3 components"):
        aggregate(torch.zeros(2, 1), torch.ones(2, 1), 3)
    with pytest.raises(ValueError, match=r"expected finite means and sds"):
        aggregate(torch.full((2, 1), torch.nan), torch.ones(2, 1), 1)


def test_a_mixture_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected at least 1 component in a mixture, got 0"):
        GaussianMixture(2, 0, seeded(0))


# ---- the mean of the posteriors of learned rows -------------------------------------------------

ROWS = (normal(80, 100, 4) @ normal(81, 4, 4)).float()


def vamp_vae(*, covariates: int = 0, low: Tensor | None = None) -> unveil.VAE:
    weights = seeded(82)
    sizes = {"covariates": covariates, "width": 8, "depth": 1, "generator": weights}
    posterior = unveil.Conditional(
        Encoder((4,), outputs=4, gaps=FillsGaps(), **sizes), unveil.DiagonalGaussian(2)
    )
    return unveil.VAE(
        prior=VampPrior(posterior, distinct_rows(ROWS, 6, weights), low=low),
        likelihood=unveil.Conditional(Decoder(2, outputs=4, **sizes), unveil.Gaussian(4)),
        posterior=posterior,
    )


def test_its_density_is_the_mean_of_the_posteriors() -> None:
    vae, z = vamp_vae().double(), normal(83, 5, 7, 2)
    each = vae.posterior(vae.p_z.pseudo_rows).log_prob(z[..., None, :])
    torch.testing.assert_close(vae.prior().log_prob(z), each.logsumexp(-1) - math.log(6))


def test_the_shared_posterior_is_saved_once_and_stays_shared_in_a_copy() -> None:
    vae = vamp_vae()
    assert [name for name in vae.state_dict() if name.startswith("p_z")] == ["p_z.pseudo_rows"]
    other = copy.deepcopy(vae)
    before = vae.prior().loc.clone()
    with torch.no_grad():
        other.q_z_given_x.network.body.leave.bias.add_(1.0)
    torch.testing.assert_close(other.prior().loc[:, 0], before[:, 0] + 1)
    assert torch.equal(vae.prior().loc, before)


def test_both_the_pseudo_rows_and_the_encoder_feel_the_prior() -> None:
    vae = vamp_vae()
    value = vae.prior().log_prob(normal(84, 3, 2).float()).sum()
    last = vae.q_z_given_x.network.body.leave.weight
    for gradient in torch.autograd.grad(value, [vae.p_z.pseudo_rows, last]):
        assert gradient.abs().sum() > 0


def test_parameters_that_are_lent_by_name_reach_the_prior_too() -> None:
    vae, z = vamp_vae(), normal(85, 3, 2).float()
    lent = {
        f"{name}": p + 0.1 for name, p in vae.q_z_given_x.named_parameters(prefix="q_z_given_x")
    }
    moved = copy.deepcopy(vae)
    moved.load_state_dict({**vae.state_dict(), **{name: p.detach() for name, p in lent.items()}})

    class PriorOf(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vae = vae

        def forward(self) -> Tensor:
            return self.vae.prior().log_prob(z)

    named = {f"vae.{name}": p for name, p in lent.items()}
    asked = torch.func.functional_call(PriorOf(), named, ())
    torch.testing.assert_close(asked, moved.prior().log_prob(z))
    assert not torch.allclose(asked, vae.prior().log_prob(z))


def test_pseudo_rows_stay_in_the_legal_range() -> None:
    low = torch.tensor([0.0, -math.inf, 0.0, -math.inf])
    vae = vamp_vae(low=low)
    legal = torch.maximum(vae.p_z.pseudo_rows, low)
    assert not torch.equal(legal, vae.p_z.pseudo_rows)
    assert torch.equal(vae.prior().loc, vae.posterior(legal.detach()).loc)


def test_it_is_trained_with_the_model() -> None:
    vae, recipe = vamp_vae(), unveil.Recipe(batch_size=50, learning_rate=1e-2)
    before = vae.p_z.pseudo_rows.detach().clone()
    run = unveil.train(vae, ROWS, held_out=ROWS[:20], recipe=recipe, epochs=2)
    assert run.history[-1]["objective"] > run.history[0]["objective"]
    assert not torch.equal(before, vae.p_z.pseudo_rows)


def one_step(make: Callable[..., Step], vae: unveil.VAE) -> Tensors:
    """The parameters after a step on some rows."""
    step = make(vae, unveil.ELBO(), unveil.Recipe())
    noise = normal(86, 1, 50, 2).float()
    clock, size = torch.tensor(0.0), torch.tensor(1e-2)
    state, info = step(begin(vae), Batch(ROWS[:50], None), noise, clock, size)
    assert info.finite
    return state.parameters


def captured_step(vae: unveil.VAE, objective: Objective, recipe: unveil.Recipe) -> Step:
    """The compiled step as one graph, run as it was captured: what the compiler adds takes long."""
    step = make_step(vae, objective, recipe, gradient=functional_gradient, update=plain_update)
    return torch.compile(step, fullgraph=True, dynamic=False, backend="eager")


# In a process of its own: the compiler cannot read through the annotation checks that pytest adds.
COMPARE = """
import torch
from test_priors import captured_step, one_step, vamp_vae
from unveil.step import eager_step

captured, eager = (one_step(step, vamp_vae()) for step in (captured_step, eager_step))
torch.testing.assert_close(captured, eager, rtol=1e-4, atol=1e-5)
print("equal")
"""


def test_a_step_with_a_mixture_is_captured_whole_and_is_the_eager_one_to_rounding() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", COMPARE],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stdout == "equal\n", ran.stderr


def test_covariates_are_refused_with_a_way_out() -> None:
    with pytest.raises(ValueError, match=r"expected no covariates .* take ConditionedPrior"):
        vamp_vae().prior(torch.ones(3, 1))


class Square(Pushforward):
    """A posterior that is no diagonal normal."""

    def push(self, noise: Tensor) -> Tensor:
        return noise


class Squares(Family):
    def __init__(self) -> None:
        super().__init__()
        self.event_shape, self.num_parameters = (2,), 4

    def forward(self, raw: Tensor) -> Square:
        return Square(raw.shape[:-1], torch.Size([2]), validate_args=False)


def test_a_posterior_that_is_no_diagonal_normal_is_refused() -> None:
    prior = VampPrior(unveil.Conditional(nn.Identity(), Squares()), ROWS[:3])
    with pytest.raises(ValueError, match=r"expected a posterior that is a diagonal .*got Square;"):
        prior()


def test_pseudo_rows_start_at_distinct_rows_whose_gaps_are_filled() -> None:
    x = torch.tensor([[1.0, 2.0], [1.0, 2.0], [math.nan, 3.0], [4.0, 5.0]])
    started = {tuple(row) for row in distinct_rows(x, 3, seeded(0)).tolist()}
    assert started in [{(1.0, 2.0), (gap, 3.0), (4.0, 5.0)} for gap in (1.0, 4.0)]
    with pytest.raises(ValueError, match=r"expected at least 4 distinct rows .* got 3; ask for"):
        distinct_rows(x, 4, seeded(0))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (torch.full((2, 4), math.nan), r"expected pseudo rows without gaps, got NaN; .*distinct"),
        (torch.zeros(0, 4), r"expected at least 1 pseudo row"),
    ],
)
def test_pseudo_rows_that_no_encoder_could_read_are_refused(rows: Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        VampPrior(vamp_vae().q_z_given_x, rows)


# ---- told the covariates -----------------------------------------------------------------------


def conditioned(num_latents: int = 1) -> unveil.ConditionedPrior:
    network = ResidualMLP(
        inputs=1, outputs=2 * num_latents, width=16, depth=1, generator=seeded(90)
    )
    return unveil.ConditionedPrior(network, unveil.DiagonalGaussian(num_latents))


def test_a_conditioned_prior_needs_covariates() -> None:
    with pytest.raises(
        ValueError, match=r"expected covariates for a prior .* got none; pass given"
    ):
        conditioned()()


def test_each_row_has_the_prior_of_its_own_covariates() -> None:
    prior, given = conditioned(3), normal(91, 5, 1).float()
    p, z = prior(given), normal(92, 4, 5, 3).float()
    one_by_one = [prior(given[i : i + 1]).log_prob(z[:, i : i + 1]) for i in range(5)]
    torch.testing.assert_close(p.log_prob(z), torch.cat(one_by_one, 1))
    assert prior.num_latents == 3
    assert len(p.mean.unique(dim=0)) == 5


def test_a_conditioned_prior_learns_what_the_covariates_say_of_z() -> None:
    """x = z + N(0, 1), z = ±4 as c says. Told c, the prior is N(±4, 0) and the evidence the
    noise's; told the wrong c, it is far below."""
    given = torch.randint(0, 2, (400, 1), generator=seeded(93)).double()
    x = 8 * given - 4 + normal(94, 400, 1)
    weights = seeded(95)
    encoder = Encoder(
        (1,), covariates=1, outputs=2, width=8, depth=0, gaps=FillsGaps(), generator=weights
    )

    class Told(nn.Module):
        def forward(self, z: Tensor, given: Tensor) -> Tensor:
            return z

    vae = unveil.VAE(
        prior=conditioned(),
        likelihood=unveil.Conditional(Told(), unveil.Gaussian(1, unveil.FixedScale(1.0))),
        posterior=unveil.Conditional(encoder, unveil.DiagonalGaussian(1)),
    ).double()
    recipe = unveil.Recipe(batch_size=100, learning_rate=2e-2)
    unveil.train(vae, x, given=given, recipe=recipe, epochs=60)
    right = importance(vae, x, num_samples=30, given=given).log_evidence.mean()
    wrong = importance(vae, x, num_samples=30, given=1 - given).log_evidence.mean()
    assert abs(right + 0.5 * (1 + math.log(2 * math.pi))) < 0.15
    assert wrong < right - 5


def test_a_prior_fitted_afterwards_is_kept_if_held_out_rows_become_likelier(tmp_path) -> None:
    """Rows of three clumps, hurriedly fitted, and rows of noise, of which z knows nothing."""
    rng = np.random.default_rng(50)
    clumped = 8.0 * rng.integers(0, 3, size=(400, 1)) + rng.normal(size=(400, 4))
    asked = {"latent": 1, "prior": "aggregate:components=3", "epochs": 40}
    kept = unveil.fit(clumped, **asked)
    left = unveil.fit(rng.normal(size=(400, 4)), **asked)
    z = torch.linspace(-3, 3, 7)[:, None]
    normal = unveil.StandardNormal(1)().log_prob(z)
    assert not any("N(0, I)" in warning for warning in kept.evaluation.warnings)
    assert (kept.vae.prior().log_prob(z) - normal).abs().max() > 0.1
    assert any("no clear gain" in warning for warning in left.evaluation.warnings)
    left.save(tmp_path / "m")
    for vae in (left.vae, unveil.load(tmp_path / "m").vae):
        torch.testing.assert_close(vae.prior().log_prob(z), normal)
