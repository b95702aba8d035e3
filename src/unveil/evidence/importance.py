"""Importance sampling of the evidence: p(x) = E_q[w], w = p(x, z)/q(z|x)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from unveil.latent import LatentVariableModel
from unveil.shapes import Given, PerRow, PerUnit, Rows
from unveil.tiles import RowsAlike, Tile, chunks, tiles
from unveil.units import rate_per_unit


@final
@dataclass(frozen=True, kw_only=True)
class Importance:
    """What K draws per row say, all per row in nats, float64; bitwise functions of the row.

    ``log_evidence`` is log (1/K) Σ w_k (Burda et al. 2016), a lower bound on log p(x) in
    expectation. ``distortion`` averages over the same draws; ``rate`` too, unless the KL has a
    closed form. ``ess`` is (Σw)²/Σw², from 1 to K. ``rate_per_unit`` is (row, latent), or None
    when the KL does not split over latents.
    """

    num_samples: int
    log_evidence: PerRow
    distortion: PerRow
    rate: PerRow
    ess: PerRow
    rate_per_unit: PerUnit | None
    means: PerUnit

    @property
    def elbo(self) -> PerRow:
        """E_q[log p(x|z)] − KL(q‖p) = −(distortion + rate)."""
        return -(self.distortion + self.rate)

    @property
    def log_evidence_variance(self) -> PerRow | None:
        """Variance of log_evidence over draws, by the delta method; None for a single draw.

        Var(w̄)/w̄² = (1/ESS − 1/K) K/(K − 1)
        """
        if self.num_samples == 1:
            return None
        spread = (1 / self.ess - 1 / self.num_samples).clamp(min=0.0)
        return spread * self.num_samples / (self.num_samples - 1)


def importance(
    model: LatentVariableModel,
    x: Rows,
    *,
    num_samples: int,
    seed: int = 0,
    given: Given = None,
    on_tile: Callable[[float], None] = lambda fraction: None,
) -> Importance:
    """Weigh ``num_samples`` draws of q(z|x) for each row x (row, *event).

    Memory is bounded whatever the number of draws and rows. ``on_tile`` hears the share that is
    done. Raises ValueError when num_samples is below 1, ArithmeticError for a weight that is NaN
    or +∞ (−∞ is legal: such a z cannot have made x).

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
    if num_samples < 1:
        raise ValueError(f"expected at least 1 draw per row, got {num_samples}")
    parts, done = [], 0
    with torch.no_grad(), RowsAlike():
        for tile in tiles(x, given):
            parts.append(_weigh(model, tile, num_samples, seed))
            done += tile.count
            on_tile(done / len(x))
    columns = {
        name: torch.cat([part[name] for part in parts])
        for name in parts[0]
        if parts[0][name] is not None
    }
    bad = ~(columns["log_evidence"] < math.inf)
    if bad.any():
        row = int(bad.nonzero()[0])
        raise ArithmeticError(
            f"expected finite log-weights, got {float(columns['log_evidence'][row])} in row {row}; "
            "the model's densities overflow there"
        )
    return Importance(
        num_samples=num_samples,
        **{"rate_per_unit": None, **columns},  # pyright: ignore[reportArgumentType]
    )


def _weigh(
    model: LatentVariableModel, tile: Tile, num_samples: int, seed: int
) -> dict[str, Tensor | None]:
    """The figures of one tile's real rows, accumulated in float64 over chunks of draws."""
    q, p = model.posterior(tile.x, tile.given), model.prior(tile.given)
    noise = tile.noise(seed, "importance", model.num_latents)
    rows, observed = len(tile.x), (~torch.isnan(tile.x)).flatten(1).any(1).cpu()
    log_sum = torch.full((rows,), -math.inf, dtype=torch.float64)
    log_sum_squares = log_sum.clone()
    log_likelihood, rate = torch.zeros(2, rows, dtype=torch.float64)
    for size in chunks(num_samples, floats_per_draw=rows * _widest(model, tile)):
        particles = model.particles(tile.x, noise(size), tile.given)
        log_w = particles.log_weights.double().cpu()
        log_sum = torch.logaddexp(log_sum, log_w.logsumexp(0))
        log_sum_squares = torch.logaddexp(log_sum_squares, (2 * log_w).logsumexp(0))
        log_likelihood += particles.log_likelihood.double().sum(0).cpu()
        rate += size / num_samples * q.kl(p, particles.z).double().cpu()
    units = rate_per_unit(q, p)
    if units is not None:
        rate = units.double().sum(-1).cpu()
    figures = {
        # Nothing observed: p(∅) = 1, whatever the draws say.
        "log_evidence": torch.where(observed, log_sum - math.log(num_samples), 0.0),
        "distortion": -log_likelihood / num_samples,
        "rate": rate,
        # Where no draw can have made x, all weights are alike in being zero: one draw's worth.
        "ess": torch.where(log_sum > -math.inf, torch.exp(2 * log_sum - log_sum_squares), 1.0),
        "rate_per_unit": None if units is None else units.double().cpu(),
        "means": q.moments(tile.noise(seed, "moments", model.num_latents))[0].double().cpu(),
    }
    return {name: None if t is None else t[: tile.count] for name, t in figures.items()}


def _widest(model: LatentVariableModel, tile: Tile) -> int:
    """The floats that one row of z makes at its widest: its cells, or a layer on the way."""
    return max(tile.x[0].numel(), *(p.shape[0] for p in model.parameters() if p.dim() > 1), 1)
