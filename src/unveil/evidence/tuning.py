"""The sizes of annealing's moves, found on simulated rows and frozen before real ones are seen.

A size that listens to its own chain would make the chain forget what it is to leave as it is; a
size that was settled on other rows cannot.
"""

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from unveil.evidence.hmc import hmc
from unveil.evidence.simulated import simulate
from unveil.evidence.starts import FromPosterior, FromPrior, Start
from unveil.latent import LatentVariableModel
from unveil.shapes import Given, Rows
from unveil.tiles import Tile

# The sizes are found at so many temperatures, from b = 1 down to b = 0.
NODES = 9
ROWS, MOVES = 32, 6
# The share of moves to be accepted. 0.65 goes farthest for its price (Beskos et al. 2013); more are
# kept here for the rows that are harder than those simulated.
TARGET = 0.8
# How far the logarithm of the factor moves at a node's first move where all or none are accepted.
GAIN = 4.0
SMALLEST = 1e-30  # of a mean square, which is divided by


@final
@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The sizes of moves of both annealings, (node, latent) each."""

    from_posterior: Tensor
    from_prior: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """By name, as they are saved."""
        return {"from_posterior": self.from_posterior, "from_prior": self.from_prior}

    def to(self, device: torch.device) -> "Sizes":
        """The same sizes on another device."""
        return Sizes(**{name: sizes.to(device) for name, sizes in self.tensors().items()})


def tune_both(
    model: LatentVariableModel, like: Rows, given: Given = None, *, seed: int = 0
) -> Sizes:
    """Sizes of moves for annealing from q(z|x) and from p(z); see ``tune``."""
    return Sizes(
        from_posterior=tune(model, FromPosterior(), like, given, seed=seed),
        from_prior=tune(model, FromPrior(), like, given, seed=seed),
    )


def tune(
    model: LatentVariableModel,
    start: Start,
    like: Rows,
    given: Given = None,
    *,
    num_leapfrog: int = 5,
    seed: int = 0,
) -> Float[Tensor, "node latent"]:
    """Sizes of moves from the start's bridge to p(x, z), (node, latent), in the bridge's units.

    Rows are simulated with the missing cells and covariates of the first rows of ``like``, and
    their chains begin at exact draws of p(z|x), at b = 1. At each node every latent's unit is the
    inverse root mean square of ∂ log f_b/∂z (which has the mean curvature as its variance), and one
    factor for all rows and chains is moved until ``TARGET`` of the moves are accepted.

    >>> import unveil
    >>> from torch import nn
    >>> from unveil.evidence.starts import FromPrior
    >>> vae = unveil.VAE(
    ...     prior=unveil.StandardNormal(1),
    ...     likelihood=unveil.Conditional(nn.Linear(1, 3), unveil.Bernoulli(3)),
    ...     posterior=unveil.Conditional(nn.Linear(3, 2), unveil.DiagonalGaussian(1)),
    ... )
    >>> tune(vae, FromPrior(), torch.zeros(10, 3)).shape
    torch.Size([9, 1])
    """
    take = torch.arange(ROWS, device=like.device) % len(like)
    like, given = like[take], None if given is None else given[take]
    x, z = simulate(model, like, given, seed=seed, purpose="tune")
    tile = Tile(x=x, given=given, count=ROWS)
    noise = tile.noise(seed, "tune", model.num_latents + 2)
    with torch.no_grad():
        bridge = start.bridge(model, tile)
        point = bridge.at(z[None])
        log_factor, size, sizes = 0.0, torch.ones_like(z[0]), []
        for node in reversed(range(NODES)):
            b, squares = (node / (NODES - 1)) ** start.power, torch.zeros_like(z[0])
            for move in range(1, MOVES + 1):
                squares += (bridge.unit * point.slope(b)).square().mean((0, 1))
                size = math.exp(log_factor) * (squares / move).clamp_min(SMALLEST).rsqrt()
                point, moved = hmc(
                    bridge, point, b=b, size=size, num_leapfrog=num_leapfrog, noise=noise(1)
                )
                # In steps that shrink, so that it comes to rest at each node.
                log_factor += GAIN * (float(moved.double().mean()) - TARGET) / (move + 1)
            sizes.append(size)
    return torch.stack(sizes[::-1])
