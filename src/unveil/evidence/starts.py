"""Where annealing starts: a density that can be drawn from, and the bridge from it to p(x, z)."""

from abc import ABC, abstractmethod
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.distributions import Distribution

from unveil import noise
from unveil.distributions import Pushforward, draw
from unveil.evidence.hmc import Bridge
from unveil.latent import LatentVariableModel
from unveil.shapes import Latents
from unveil.tiles import Tile, row_digests


class Start(ABC):
    """f₀ of each row.

    ``method`` names an annealing that starts there. ``power`` spaces its temperatures,
    b_t = (t/T)^power: where f_b changes fastest they lie closest.
    """

    method: ClassVar[str]
    power: ClassVar[float]

    @abstractmethod
    def draw(
        self, model: LatentVariableModel, tile: Tile, num_chains: int, seed: int, purpose: str
    ) -> Latents:
        """z ~ f₀, (chain, row, latent), from each row's own stream."""

    @abstractmethod
    def bridge(self, model: LatentVariableModel, tile: Tile) -> Bridge:
        """The densities from f₀ to p(x, z)."""


@final
class FromPosterior(Start):
    """f₀ = q(z|x): near the goal already, and blind to what the encoder does not see.

    Moves are measured in q's own standard deviations.
    """

    method = "AIS from q(z|x)"
    power = 1.0

    def draw(
        self, model: LatentVariableModel, tile: Tile, num_chains: int, seed: int, purpose: str
    ) -> Latents:
        epsilon = tile.noise(seed, purpose, model.num_latents)(num_chains)
        with torch.no_grad():
            return model.posterior(tile.x, tile.given).push(epsilon)

    def bridge(self, model: LatentVariableModel, tile: Tile) -> Bridge:
        with torch.no_grad():
            q = model.posterior(tile.x, tile.given)
            _, sd = q.moments(tile.noise(0, "moments", model.num_latents))

        def densities(z: Tensor) -> tuple[Tensor, Tensor]:
            log_q = q.log_prob(z)
            return log_q, model.log_joint(tile.x, z, tile.given) - log_q

        return Bridge(densities, sd)


@final
class FromPrior(Start):
    """f₀ = p(z): far from the goal, but what the encoder misses is found from here as well."""

    method = "AIS from p(z)"
    power = 4.0

    def draw(
        self, model: LatentVariableModel, tile: Tile, num_chains: int, seed: int, purpose: str
    ) -> Latents:
        return prior_draws(model, tile, num_chains, seed, purpose)

    def bridge(self, model: LatentVariableModel, tile: Tile) -> Bridge:
        with torch.no_grad():
            prior = model.prior(tile.given)

        def densities(z: Tensor) -> tuple[Tensor, Tensor]:
            return prior.log_prob(z), model.likelihood(z, tile.given).log_prob(tile.x)

        return Bridge(densities, tile.x.new_ones(len(tile.x), model.num_latents))


def prior_draws(
    model: LatentVariableModel, tile: Tile, num_samples: int, seed: int, purpose: str
) -> Latents:
    """z ~ p(z|c), (sample, row, latent), from each row's own stream.

    A prior that pushes noise is given the rows' noise; any other draws from a generator of the
    row's own.
    """
    with torch.no_grad():
        prior = model.prior(tile.given)
        if isinstance(prior, Pushforward):
            return prior.push(tile.noise(seed, purpose, model.num_latents)(num_samples))
        digests, device = row_digests(tile.x, tile.given).tolist(), tile.x.device
        rows = [
            draw(alone, (num_samples,), noise.generator(seed, purpose, *digest, device=device))
            for alone, digest in zip(_priors(model, tile), digests, strict=True)
        ]
    return torch.stack([z.reshape(num_samples, model.num_latents) for z in rows], dim=1)


def _priors(model: LatentVariableModel, tile: Tile) -> list[Distribution]:
    """The prior of each row by itself."""
    if tile.given is None:
        return [model.prior()] * len(tile.x)
    return [model.prior(c) for c in tile.given.split(1)]
