"""The narrow waist: a model with latent variables, and the particles that weigh it.

Bayes' rule gives p(z|x) = p(x|z) p(z) / p(x). What stands above this file knows four things of
a model (prior, likelihood, posterior and their joint) and never which networks make them.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import cast, final

from torch import Tensor, nn
from torch.distributions import Distribution

from unveil.distributions import Pushforward
from unveil.families import Conditional
from unveil.priors.base import Prior
from unveil.shapes import Given, Latents, Noise, PerDraw, Rows


@final
@dataclass(frozen=True, kw_only=True)
class Particles:
    """Draws z_k ~ q(z|x) and the three log-densities that weigh them, nats, (sample, row)."""

    z: Latents
    log_prior: PerDraw
    log_likelihood: PerDraw
    log_posterior: PerDraw

    @property
    def log_weights(self) -> PerDraw:
        """log w_k = log p(z_k) + log p(x|z_k) − log q(z_k|x)."""
        return self.log_prior + self.log_likelihood - self.log_posterior


class LatentVariableModel(nn.Module, ABC):
    """p(z|c), p(x|z,c) and q(z|x,c), for rows x (row, *event) and ``num_latents`` latents a row."""

    num_latents: int

    @abstractmethod
    def prior(self, given: Given = None) -> Distribution:
        """p(z|c)."""

    @abstractmethod
    def likelihood(self, z: Latents, given: Given = None) -> Distribution:
        """p(x|z,c), one row of data for each row of z (*sample, row, latent)."""

    @abstractmethod
    def posterior(self, x: Rows, given: Given = None) -> Pushforward:
        """q(z|x,c), the approximate posterior of each row."""

    def log_joint(self, x: Rows, z: Latents, given: Given = None) -> Tensor:
        """log p(x, z) = log p(z) + log p(x|z), nats, (*sample, row)."""
        return self.prior(given).log_prob(z) + self.likelihood(z, given).log_prob(x)

    def particles(self, x: Rows, noise: Noise, given: Given = None) -> Particles:
        """Push noise (sample, row, latent) through q(z|x) and weigh what comes out."""
        q = self.posterior(x, given)
        z = q.push(noise)
        return Particles(
            z=z,
            log_prior=self.prior(given).log_prob(z),
            log_likelihood=self.likelihood(z, given).log_prob(x),
            log_posterior=q.log_prob(z),
        )


@final
class VAE(LatentVariableModel):
    """The variational autoencoder: an encoder makes q(z|x), a decoder makes p(x|z).

    A new idea is a new prior, family, network or objective, never a subclass.
    Source: Kingma & Welling 2014; Rezende, Mohamed & Wierstra 2014.

    >>> import torch, unveil
    >>> vae = VAE(
    ...     prior=unveil.StandardNormal(2),
    ...     likelihood=Conditional(nn.Linear(2, 5), unveil.Bernoulli(5)),
    ...     posterior=Conditional(nn.Linear(5, 4), unveil.DiagonalGaussian(2)),
    ... )
    >>> x = torch.ones(3, 5)
    >>> vae.particles(x, torch.zeros(7, 3, 2)).log_weights.shape
    torch.Size([7, 3])
    """

    def __init__(self, *, prior: Prior, likelihood: Conditional, posterior: Conditional) -> None:
        super().__init__()
        if posterior.family.event_shape != (prior.num_latents,):
            raise ValueError(
                f"expected a posterior over the prior's {prior.num_latents} latents, got one over "
                f"{posterior.family.event_shape}; give both the same number"
            )
        self.num_latents = prior.num_latents
        self.p_z, self.p_x_given_z, self.q_z_given_x = prior, likelihood, posterior

    def prior(self, given: Given = None) -> Distribution:
        return self.p_z(given)

    def likelihood(self, z: Latents, given: Given = None) -> Distribution:
        return self.p_x_given_z(z, given)

    def posterior(self, x: Rows, given: Given = None) -> Pushforward:
        return cast(Pushforward, self.q_z_given_x(x, given))
