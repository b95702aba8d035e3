"""Where the evidence is known and q's family holds the posterior, training closes the gap.

    log p(x) − ELBO = KL(q(z|x) ‖ p(z|x))

Each row has parameters of its own, so that nothing but the family limits q; the noise is a
quadrature's nodes, so that nothing is left to chance, and the gap is read off a finer one.
"""

import math
from dataclasses import dataclass
from typing import final

import pytest
import torch
from torch import Tensor, nn

import unveil
from oracles import SURELY_WRONG, a_linear_gaussian, linear_vae, normal, seeded, z_score
from unveil.check.conjugate import Conjugate, EveryCell, LogGamma, LogitBeta
from unveil.distributions import draw
from unveil.families import Conditional, Family
from unveil.likelihoods.counts import Poisson


class Free(nn.Module):
    """A network that is a table: each row's own numbers."""

    def __init__(self, rows: int, outputs: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(rows, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.values


def freed(vae: unveil.VAE, family: Family, rows: int) -> unveil.VAE:
    """The same model, with a posterior of this family that is free in each row."""
    vae.q_z_given_x = Conditional(Free(rows, family.num_parameters), family)
    return vae.double()


@final
@dataclass(frozen=True, kw_only=True)
class Quadrature:
    """Nodes ε_k (sample, latent) with Σ_k w_k f(ε_k) ≈ E f(ε), ε ~ N(0, I)."""

    nodes: Tensor
    weights: Tensor

    def elbo(self, vae: unveil.VAE, x: Tensor) -> Tensor:
        """Σ_k w_k [log p(x, z_k) − log q(z_k|x)], nats per row."""
        noise = self.nodes[:, None].expand(-1, len(x), -1)
        return (self.weights[:, None] * vae.particles(x, noise).log_weights).sum(0)


def on_a_line(step: float) -> Quadrature:
    nodes = torch.arange(-7, 7 + step / 2, step, dtype=torch.float64)
    return Quadrature(nodes=nodes[:, None], weights=(-nodes.square() / 2).softmax(0))


def corners(latents: int) -> Quadrature:
    """Those of a cube have the mean and covariance of N(0, I): exact for what is quadratic."""
    ends = torch.tensor([-1.0, 1.0]).double()
    nodes = torch.cartesian_prod(*[ends] * latents)
    return Quadrature(nodes=nodes, weights=torch.full((len(nodes),), 1 / len(nodes)).double())


def trained(vae: unveil.VAE, x: Tensor, quadrature: Quadrature) -> None:
    """L-BFGS on the posterior alone: the objective is a sum, and knows no noise."""
    optimizer = torch.optim.LBFGS(
        list(vae.q_z_given_x.parameters()), max_iter=150, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = -quadrature.elbo(vae, x).mean()
        value.backward()
        return value

    optimizer.step(loss)


# ---- Gaussian ----------------------------------------------------------------------------------


def test_a_full_covariance_closes_the_gap_that_a_diagonal_one_leaves() -> None:
    model, x = a_linear_gaussian(), normal(0, 5, 6)
    mean_field = model.mean_field_posterior()
    known = {
        unveil.FullGaussian: torch.zeros(5).double(),
        unveil.DiagonalGaussian: model.kl_to_exact(x, mean_field),
    }
    for family, gap in known.items():
        vae = freed(linear_vae(model, mean_field), family(3), 5)
        trained(vae, x, corners(3))
        with torch.no_grad():
            left = model.log_evidence(x) - corners(3).elbo(vae, x)
        torch.testing.assert_close(left, gap, rtol=0.0, atol=1e-3)
    assert (gap > 0.1).all()


# ---- conjugate pairs on a line -----------------------------------------------------------------

# So little of a prior's weight that posteriors are far from normal.
A, B = 1.0, 2.0


def gaps(prior: Conjugate, likelihood: Family, x: Tensor) -> dict[str, Tensor]:
    """What is left between evidence and ELBO after training, by family, nats per row."""
    families = {
        "flow": unveil.FlowPosterior(1, context=4, width=16, transforms=1, generator=seeded(0)),
        "diagonal": unveil.DiagonalGaussian(1),
    }
    left = {}
    for name, family in families.items():
        vae = unveil.VAE(
            prior=prior,
            likelihood=Conditional(EveryCell(x.shape[-1]), likelihood),
            posterior=Conditional(nn.Identity(), family),
        )
        vae = freed(vae, family, len(x))
        trained(vae, x, on_a_line(0.05))
        with torch.no_grad():
            left[name] = prior.log_evidence(x) - on_a_line(0.003).elbo(vae, x)
    return left


@pytest.mark.parametrize("prior", [LogitBeta(A, B), LogGamma(A, B)], ids=["beta", "gamma"])
def test_the_oracles_draws_and_moments_are_those_of_its_density(prior: Conjugate) -> None:
    nothing = torch.zeros(1, 0).double()
    mean, variance = prior.moments(nothing)
    z = draw(prior(), (20_000,), seeded(0))[:, 0]
    assert abs(z_score(z, float(mean))) < SURELY_WRONG
    assert abs(z_score((z - mean).square(), float(variance))) < SURELY_WRONG
    line = torch.arange(-40, 12, 1e-3, dtype=torch.float64)
    p = prior().log_prob(line[:, None]).exp() * 1e-3
    torch.testing.assert_close((p * line).sum(), mean[0])
    torch.testing.assert_close((p * (line - mean).square()).sum(), variance[0])


def test_the_oracles_evidence_is_that_of_quadrature() -> None:
    z = torch.arange(-40, 12, 1e-3, dtype=torch.float64)[:, None, None]
    ones, counts = (
        torch.tensor([[0.0, 1.0, 1.0]]).double(),
        torch.tensor([[0.0, 3.0, 1.0]]).double(),
    )
    for prior, likelihood, x in (
        (LogitBeta(A, B), unveil.Bernoulli(3), ones),
        (LogGamma(A, B), Poisson(3), counts),
    ):
        log_joint = prior().log_prob(z) + likelihood(z.expand(-1, 1, 3)).log_prob(x)
        log_p = log_joint.logsumexp(0) + math.log(1e-3)
        torch.testing.assert_close(log_p, prior.log_evidence(x))


def test_a_flow_closes_the_gap_of_beta_and_bernoulli() -> None:
    x = (torch.arange(4)[None] < torch.tensor([0, 1, 4])[:, None]).double()
    left = gaps(LogitBeta(A, B), unveil.Bernoulli(4), x)
    assert ((left["flow"] > -1e-6) & (left["flow"] < 0.005)).all()
    assert (left["diagonal"] > 0.01).all()
    assert left["diagonal"].max() > 0.04


def test_a_flow_closes_the_gap_of_gamma_and_poisson() -> None:
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [3.0, 1.0]]).double()
    left = gaps(LogGamma(A, B), Poisson(2), x)
    assert ((left["flow"] > -1e-6) & (left["flow"] < 0.005)).all()
    assert (left["diagonal"] > 0.01).all()
    assert left["diagonal"].max() > 0.04
