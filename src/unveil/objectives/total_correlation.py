"""β-TCVAE: the rate taken apart, and its parts weighed.

E_x KL(q(z|x)‖p(z)) = I(z; x) + KL(q(z) ‖ Π_u q(z_u)) + Σ_u KL(q(z_u)‖p(z_u)),   q(z) = E_x q(z|x)
"""

import math
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Normal

from unveil.distributions import DiagonalNormal
from unveil.latent import LatentVariableModel
from unveil.objectives.base import BatchObjective, Objective, require_count, require_weight
from unveil.shapes import Given, Noise, PerRow, Rows

Pairs = Float[Tensor, "row row"]


def log_stratified_weights(batch: int, rows: int, like: Tensor) -> Pairs:
    """log W with which q(z_i|x_j) of a minibatch's rows j make up q(z_i) over all ``rows``.

        W_ii = 1/N,    W_ij = (N − 1)/(N (M − 1)) for j ≠ i

    Row i is surely in the batch of M and stands for itself alone; the other M − 1 are a random
    draw from the other N − 1 and stand for all of these. Σ_j W_ij q(z|x_j) then has the expectation
    (1/N) Σ_n q(z|x_n), which equal weights have not. Returns (row, row), in the type of ``like``.

    >>> log_stratified_weights(3, 5, torch.zeros(())).exp()
    tensor([[0.2000, 0.4000, 0.4000],
            [0.4000, 0.2000, 0.4000],
            [0.4000, 0.4000, 0.2000]])
    """
    log_own, log_other = -math.log(rows), math.log((rows - 1) / (rows * (batch - 1)))
    return like.new_full((batch, batch), log_other).fill_diagonal_(log_own)


@final
@dataclass(frozen=True, kw_only=True)
class TotalCorrelation(BatchObjective):
    """E_q[log p(x|z)] − α I(z; x) − β KL(q(z)‖Π_u q(z_u)) − γ [Π_u q(z_u) against p(z)].

    A large β makes latents independent over the data. The last term is Σ_u KL(q(z_u)‖p(z_u)) where
    the prior's latents are independent. q(z) is estimated without bias from the rows of a
    minibatch, as one of ``rows`` training rows, but the logarithm of an estimate is a little low;
    at α = β = γ the parts add up to the rate all the same, draw by draw. It is no bound. Needs q
    of independent Gaussian latents (raises TypeError), and ``rows``, which training settles, and
    batches of at least 2 rows (raises ValueError). Source: Chen et al. 2018 (isolating sources of
    disentanglement), eqs. 2 and 4; the weights are ``log_stratified_weights``.

    >>> TotalCorrelation(beta=6.0).scheduled(1000, rows=500)
    TotalCorrelation(num_samples=1, beta=6.0, alpha=1.0, gamma=1.0, rows=500)
    """

    beta: float
    alpha: float = 1.0
    gamma: float = 1.0
    rows: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("alpha", "beta", "gamma"):
            require_weight(name, getattr(self, name))
        if self.rows is not None:
            require_count("rows", self.rows, least=2)

    def scheduled(self, total_steps: int, rows: int) -> Objective:
        return self if self.rows is not None else replace(self, rows=rows)

    def __call__(
        self,
        model: LatentVariableModel,
        x: Rows,
        noise: Noise,
        step: Tensor,
        given: Given = None,
    ) -> PerRow:
        self.require_company(x)
        if self.rows is None:
            raise ValueError(
                "expected the number of training rows that a batch is drawn from, got none; write "
                "TotalCorrelation(rows=...), or let train settle it"
            )
        q = model.posterior(x, given)
        if not isinstance(q, DiagonalNormal):
            raise TypeError(
                f"expected a posterior of independent Gaussian latents, got {type(q).__name__}; "
                "take DiagonalGaussian, whose q(z_u) can be told apart"
            )
        z = q.push(noise)
        log_weights = log_stratified_weights(len(x), self.rows, z)
        units = Normal(q.loc, q.scale, validate_args=False).log_prob(z[:, :, None])
        log_aggregate = torch.logsumexp(log_weights + units.sum(-1), dim=-1)
        log_marginals = torch.logsumexp(log_weights[..., None] + units, dim=-2).sum(-1)
        information = q.log_prob(z) - log_aggregate
        correlation = log_aggregate - log_marginals
        distance = log_marginals - model.prior(given).log_prob(z)
        rate = self.alpha * information + self.beta * correlation + self.gamma * distance
        return (model.likelihood(z, given).log_prob(x) - rate).mean(0)
