"""Hierarchical models: joint densities factorise, and the bound is the evidence where q is exact.

The oracle is linear and Gaussian on two levels, z₁ (2) above z₂ (1) above x (4):

    z₁ ~ N(0, I),  z₂|z₁ ~ N(A z₁ + a, s²),  x|z ~ N(W [z₁ z₂] + b, t²)

so that (z, x) is one Gaussian, whose marginals and conditionals are matrix algebra.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

import unveil
from oracles import CAUGHT, NOW, SURELY_WRONG, affine, normal, seeded, z_score
from unveil.chain import Chain, PushedChain
from unveil.distributions import DiagonalNormal, draw
from unveil.families import raw_of
from unveil.units import active_units

A, OFFSET, S = normal(1, 1, 2), normal(2, 1), 0.7
W, B, T = normal(3, 4, 3), normal(4, 4), 0.5
X = normal(5, 6, 4)


def joint() -> tuple[Tensor, Tensor]:
    """Mean and covariance of (z, x), from the equations above."""
    top = torch.eye(2).double()
    mix = torch.cat([torch.eye(2).double(), A])  # z = mix z₁ + noise of z₂
    of_z = mix @ top @ mix.T + torch.diag(torch.tensor([0.0, 0.0, S**2]).double())
    mean_z = torch.cat([torch.zeros(2).double(), OFFSET])
    of_x = W @ of_z @ W.T + T**2 * torch.eye(4).double()
    covariance = torch.cat([torch.cat([of_z, of_z @ W.T], 1), torch.cat([W @ of_z, of_x], 1)])
    return torch.cat([mean_z, W @ mean_z + B]), covariance


def given_first(mean: Tensor, covariance: Tensor, known: list[int], wanted: list[int]):
    """The wanted part given the known one: (gain, offset, conditional covariance)."""
    gain = torch.linalg.solve(covariance[known][:, known], covariance[known][:, wanted]).T
    offset = mean[wanted] - gain @ mean[known]
    rest = covariance[wanted][:, wanted] - gain @ covariance[known][:, wanted]
    return gain, offset, rest


def prior() -> unveil.TopDownPrior:
    network = affine(
        torch.cat([A, torch.zeros_like(A)]), torch.cat([OFFSET, raw_of(torch.tensor([S]).double())])
    )
    below = unveil.Conditional(network, unveil.DiagonalGaussian(1))
    return unveil.TopDownPrior(unveil.StandardNormal(2).double(), [below])


def exact_chain(x: Tensor) -> PushedChain:
    """p(z|x) itself, latent by latent: given x, the two latents of z₁ are not independent."""
    mean, covariance = joint()
    seen = [3, 4, 5, 6]

    def conditional(unit: int, above: list[int]) -> Callable[[Tensor], DiagonalNormal]:
        gain, offset, rest = given_first(mean, covariance, seen + above, [unit])
        sd = rest.sqrt().squeeze()

        def of(z: Tensor) -> DiagonalNormal:
            known = torch.cat([x.expand(*z.shape[:-1], 4), z], -1)
            loc = known @ gain.T + offset
            return DiagonalNormal(loc, sd.expand_as(loc))

        return of

    top = conditional(0, [])(x[:, :0])
    return PushedChain((1, 1, 1), top, [conditional(1, [0]), conditional(2, [0, 1])])


class Exact(unveil.Family):
    """The oracle's own posterior; what it is handed is the row."""

    event_shape, num_parameters = (3,), 4

    def forward(self, raw: Tensor) -> PushedChain:
        return exact_chain(raw)


def model(family: unveil.Family, encoder: nn.Module) -> unveil.VAE:
    likelihood = unveil.Gaussian(4, unveil.FixedScale(T), floor=0.0).double()
    return unveil.VAE(
        prior=prior(),
        likelihood=unveil.Conditional(affine(W, B), likelihood),
        posterior=unveil.Conditional(encoder, family),
    )


def evidence(x: Tensor) -> Tensor:
    mean, covariance = joint()
    return MultivariateNormal(mean[3:], covariance[3:, 3:]).log_prob(x)


# ---- the joint prior ---------------------------------------------------------------------------


def test_a_joint_prior_is_the_product_of_its_levels() -> None:
    mean, covariance = joint()
    z = normal(6, 50, 3)
    exact = MultivariateNormal(mean[:3], covariance[:3, :3]).log_prob(z)
    torch.testing.assert_close(prior()().log_prob(z), exact)


def test_draws_of_a_joint_prior_have_its_moments() -> None:
    mean, covariance = joint()
    z = draw(prior()(), (40_000,), seeded(7))
    products = (z - mean[:3])[:, :, None] * (z - mean[:3])[:, None, :]
    assert z_score(z, mean[:3]) < SURELY_WRONG
    assert z_score(products.flatten(1), covariance[:3, :3].flatten()) < SURELY_WRONG
    apart = torch.cat([z[:, :2].roll(1, 0), z[:, 2:]], 1)  # a level below that missed its z₁
    products = (apart - mean[:3])[:, :, None] * (apart - mean[:3])[:, None, :]
    assert z_score(products.flatten(1), covariance[:3, :3].flatten()) > CAUGHT


# ---- the joint posterior -----------------------------------------------------------------------


def random_posterior(rows: int = 5) -> PushedChain:
    network = affine(normal(8, 4, 2 + 3), normal(9, 4))
    family = unveil.TopDownGaussian((2, 2), features=[3], networks=[network])
    return family(normal(10, 1, family.num_parameters).expand(rows, -1))


def test_pushed_noise_is_weighed_by_the_product_of_the_levels() -> None:
    """log q(push(ε)) = log N(ε; 0, I) − log |∂z/∂ε|, the change of variables."""
    q, noise = random_posterior(), normal(11, 1, 5, 4)
    z = q.push(noise)
    jacobian = torch.autograd.functional.jacobian(q.push, noise)[0, :, :, 0]
    per_row = torch.stack([jacobian[row, :, row] for row in range(5)])
    standard = unveil.StandardNormal(4).double()().log_prob(noise)[0]
    expected = standard - torch.linalg.slogdet(per_row).logabsdet
    torch.testing.assert_close(q.log_prob(z)[0], expected)


def test_a_draw_weighs_the_same_whether_it_was_just_pushed_or_not() -> None:
    q, noise = random_posterior(), normal(12, 3, 5, 4)
    z = q.push(noise)
    torch.testing.assert_close(q.log_prob(z), q.log_prob(z.clone()))


def other_prior() -> Chain:
    def below(z: Tensor) -> DiagonalNormal:
        return DiagonalNormal(0.5 * z, torch.full_like(z, 2.0))

    return Chain((2, 2), unveil.StandardNormal(2).double()(), [below])


def test_the_rate_level_by_level_is_the_rate_by_draws_and_varies_less() -> None:
    q, p = random_posterior(rows=20_000), other_prior()
    z = q.push(normal(13, 1, 20_000, 4))
    by_level, by_draws = q.kl(p, z).detach(), (q.log_prob(z) - p.log_prob(z))[0].detach()
    assert z_score(by_level - by_draws, 0.0) < SURELY_WRONG
    assert by_level.var() < by_draws.var()
    elsewhere = torch.cat([2 * z[..., :2], z[..., 2:]], -1)  # draws of z₁ that are not q's
    assert z_score(q.kl(p, elsewhere) - by_draws, 0.0) > CAUGHT


def test_latents_that_are_the_same_for_all_rows_are_not_active() -> None:
    """Their means by draws would vary over rows, were it not that every ε comes with −ε."""
    network = affine(0.2 * normal(8, 4, 2 + 3), zeros(4))
    family = unveil.TopDownGaussian((2, 2), features=[3], networks=[network])
    q = family(0.2 * normal(10, 1, family.num_parameters).expand(400, -1))
    noise = normal(18, 64, 400, 4)
    means, _ = q.moments(lambda number: noise[:number])
    assert not active_units(means).any()
    mutant = q.push(noise)  # as many draws, without their opposites
    assert active_units(mutant.mean(0)).any()


# ---- the whole model ---------------------------------------------------------------------------


def test_with_the_exact_posterior_every_weight_is_the_evidence() -> None:
    vae = model(Exact(), nn.Identity())
    log_weights = vae.particles(X, normal(14, 9, 6, 3)).log_weights
    torch.testing.assert_close(log_weights, evidence(X).expand(9, 6))


def test_with_the_exact_posterior_the_elbo_is_the_evidence() -> None:
    vae = model(Exact(), nn.Identity())
    value = unveil.ELBO(num_samples=20_000)(vae, X, normal(15, 20_000, 6, 3), NOW)
    assert (value - evidence(X)).abs().max() < 0.1
    assert (value + math.log(2) - evidence(X)).abs().min() > 0.1  # a nat's fraction is seen


def test_training_closes_the_gap_that_the_family_can_close() -> None:
    """A chain of three levels of one latent, with linear networks, holds the exact posterior."""
    mean, covariance = joint()
    networks = [affine(zeros(2, above + 4), zeros(2)) for above in (1, 2)]
    family = unveil.TopDownGaussian((1, 1, 1), features=[4, 4], networks=networks)
    features_of_x = torch.cat([zeros(2, 4), torch.eye(4).double().repeat(2, 1)])
    vae = model(family, affine(features_of_x, zeros(10)))
    for part in (vae.p_z, vae.p_x_given_z):
        part.requires_grad_(False)
    x = draw_rows(MultivariateNormal(mean[3:], covariance[3:, 3:]), 400)
    unveil.train(
        vae,
        x,
        objective=unveil.SampledELBO(num_samples=2, warmup_steps=0),
        recipe=unveil.Recipe(batch_size=100, learning_rate=0.03, weight_decay=0.0),
        epochs=300,
    )
    log_weights = vae.particles(x, normal(16, 50, 400, 3)).log_weights.detach()
    gap = (evidence(x) - log_weights.mean(0)).mean()
    assert -0.01 < float(gap) < 0.02


def zeros(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.float64)


def draw_rows(rows: MultivariateNormal, number: int) -> Tensor:
    return rows.loc + normal(17, number, 4) @ rows.scale_tril.T
