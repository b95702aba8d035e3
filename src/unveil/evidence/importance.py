"""Importance sampling of the evidence: p(x) = E_q[w], w = p(x, z)/q(z|x)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch

from unveil.evidence.weights import Tally, Weights
from unveil.latent import LatentVariableModel, Particles
from unveil.shapes import Given, PerRow, PerUnit, Rows
from unveil.tiles import RowsAlike, Tile, chunks, floats_per_draw, log_likelihoods, tiles
from unveil.units import rate_per_unit


@final
@dataclass(frozen=True, kw_only=True)
class Importance:
    """What K draws per row say, all per row in nats, float64; bitwise functions of the row.

    ``weights`` are those of the draws: their log_mean is a lower bound on log p(x) in expectation
    (Burda et al. 2016). ``distortion`` averages over the same draws; ``rate`` too, unless the KL
    has a closed form. ``rate_per_unit`` is (row, latent), or None when the KL does not split over
    latents; ``means`` (row, latent) are those of q.
    """

    weights: Weights
    distortion: PerRow
    rate: PerRow
    rate_per_unit: PerUnit | None
    means: PerUnit

    @property
    def elbo(self) -> PerRow:
        """E_q[log p(x|z)] − KL(q‖p) = −(distortion + rate)."""
        return -(self.distortion + self.rate)

    @property
    def num_samples(self) -> int:
        return self.weights.num_samples

    @property
    def log_evidence(self) -> PerRow:
        return self.weights.log_mean

    @property
    def log_evidence_variance(self) -> PerRow | None:
        return self.weights.log_mean_variance

    @property
    def ess(self) -> PerRow:
        return self.weights.ess

    @classmethod
    def joined(cls, parts: Sequence["Importance"]) -> "Importance":
        """The rows of all parts, in their order. Raises as ``Weights.joined`` does."""
        units = [part.rate_per_unit for part in parts if part.rate_per_unit is not None]
        return cls(
            weights=Weights.joined([part.weights for part in parts]),
            distortion=torch.cat([part.distortion for part in parts]),
            rate=torch.cat([part.rate for part in parts]),
            rate_per_unit=torch.cat(units) if units else None,
            means=torch.cat([part.means for part in parts]),
        )


def importance(
    model: LatentVariableModel,
    x: Rows,
    *,
    num_samples: int,
    seed: int = 0,
    given: Given = None,
    delta: float = 0.05,
    on_tile: Callable[[float], None] = lambda fraction: None,
) -> Importance:
    """Weigh ``num_samples`` draws of q(z|x) for each row x (row, *event).

    Memory is bounded whatever the number of draws and rows. ``delta`` is what each row's certified
    bound may fail with, ``on_tile`` hears the share that is done. Raises ValueError when
    num_samples is below 1 or delta outside (0, 1), ArithmeticError for a weight that is NaN or +∞
    (−∞ is legal: such a z cannot have made x).

    >>> import unveil
    >>> from torch import nn
    >>> vae = unveil.VAE(
    ...     prior=unveil.StandardNormal(1),
    ...     likelihood=unveil.Conditional(nn.Linear(1, 3), unveil.Bernoulli(3)),
    ...     posterior=unveil.Conditional(nn.Linear(3, 2), unveil.DiagonalGaussian(1)),
    ... )
    >>> result = importance(vae, torch.ones(4, 3), num_samples=10)
    >>> result.log_evidence.shape, bool((result.ess <= 10).all())
    (torch.Size([4]), True)
    """
    parts = []
    with torch.no_grad(), RowsAlike():
        for tile in tiles(x, given):
            parts.append(_weigh(model, tile, num_samples, seed, delta))
            on_tile(min(1.0, len(parts) * len(tile.x) / len(x)))
    return Importance.joined(parts)


def _weigh(
    model: LatentVariableModel, tile: Tile, num_samples: int, seed: int, delta: float
) -> Importance:
    """The figures of one tile's real rows, accumulated in float64 over chunks of draws."""
    tally = Tally(num_samples, len(tile.x), delta)
    q, p = model.posterior(tile.x, tile.given), model.prior(tile.given)
    noise = tile.noise(seed, "importance", model.num_latents)
    units = rate_per_unit(q, p)
    distortion, rate = torch.zeros(2, len(tile.x), dtype=torch.float64)
    for size in chunks(num_samples, floats_per_draw=floats_per_draw(model, tile)):
        z = q.push(noise(size))
        particles = Particles(
            z=z,
            log_prior=p.log_prob(z),
            log_likelihood=log_likelihoods(model, tile, z),
            log_posterior=q.log_prob(z),
        )
        tally.add(particles.log_weights)
        distortion -= particles.log_likelihood.double().sum(0).cpu() / num_samples
        if units is None:
            rate += size / num_samples * q.kl(p, particles.z).double().cpu()
    if units is not None:
        units = units.double().cpu()
        rate = units.sum(-1)
    means, _ = q.moments(tile.noise(seed, "moments", model.num_latents))
    return Importance(
        weights=tally.result(tile.observed)[: tile.count],
        distortion=distortion[: tile.count],
        rate=rate[: tile.count],
        rate_per_unit=None if units is None else units[: tile.count],
        means=means.double().cpu()[: tile.count],
    )
