"""Whether chains agree, and how many independent draws theirs are worth.

Both measures look at ranks, so that a latent without mean or variance is judged as well as any.
Source: Vehtari, Gelman, Simpson, Carpenter & Bürkner 2021.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import ndtri
from scipy.stats import rankdata
from torch import Tensor

Chains = Float[Tensor, "draw chain *event"]
PerEvent = Float[Tensor, "*event"]

# Two halves of a chain need so many draws each to have a variance and one lag.
FEWEST_DRAWS = 8


def split_rhat(chains: Chains) -> PerEvent:
    """R̂: how much wider all chains together are than each of their halves, 1 where they agree.

        R̂ = √(var⁺/W),   var⁺ = (n − 1)/n W + B/n

    W is the mean variance within and B/n that of the means of the 2m halves of n draws, of the
    draws' normal scores; the larger R̂ of those and of their distances from the median, so that
    chains which differ in spread alone are seen. ``chains`` (draw, chain, *event) gives one number
    per event, above 1.01 where they have not mixed, ∞ where no half moved at all. Raises
    ValueError for fewer than 8 draws. Source: Vehtari et al. 2021, eqs. 3, 4 and 14.

    >>> one = torch.linspace(0, 1, 100)[torch.randperm(100, generator=torch.Generator())]
    >>> bool(split_rhat(torch.stack([one, one + 5], dim=1)) > 1.5)
    True
    """
    halves = _halves(chains)
    (centre,) = _quantiles(halves, [0.5])
    folded = _normal_scores((halves - centre).abs())
    return torch.maximum(_rhat(_normal_scores(halves)), _rhat(folded))


def effective_draws(chains: Chains) -> PerEvent:
    """How many independent draws tell as much, of the bulk and of both tails, whichever is least.

        ESS = S/(−1 + 2 Σ_t P_t),   P_t = ρ_2t + ρ_2t+1

    over Geyer's initial pairs, those before the first that is not above 0, made to fall. The bulk's
    are the normal scores' and the tails' those of being below the 5 % and the 95 % quantile.
    ``chains`` (draw, chain, *event) gives one number per event, 0 where no half moved at all.
    Raises ValueError for fewer than 8 draws.
    Source: Vehtari et al. 2021, eqs. 10 to 13; Geyer 1992.

    >>> g = torch.Generator().manual_seed(0)
    >>> 3000 < float(effective_draws(torch.randn(1000, 4, generator=g))) < 5000
    True
    """
    halves = _halves(chains)
    low, high = _quantiles(halves, [0.05, 0.95])
    views = _normal_scores(halves), (halves <= low).double(), (halves <= high).double()
    return torch.stack([_effective(view) for view in views]).amin(0)


def _halves(chains: Tensor) -> Tensor:
    """(half the draws, twice the chains, *event), float64; an odd draw is left out."""
    if len(chains) < FEWEST_DRAWS:
        raise ValueError(
            f"expected at least {FEWEST_DRAWS} draws of each chain, got {len(chains)}; take more"
        )
    half = len(chains) // 2
    return torch.cat([chains[:half], chains[-half:]], dim=1).double()


def _quantiles(halves: Tensor, levels: Sequence[float]) -> Tensor:
    """Of all draws of each event, (level, *event)."""
    return torch.from_numpy(np.quantile(halves.flatten(0, 1).numpy(), levels, axis=0))


def _normal_scores(halves: Tensor) -> Tensor:
    """Φ⁻¹((rank − 3/8)/(S + 1/4)) of each value among all S of its event."""
    flat = halves.flatten(0, 1).numpy()
    scores = ndtri((rankdata(flat, axis=0) - 0.375) / (len(flat) + 0.25))
    return torch.from_numpy(scores).reshape(halves.shape)


def _variances(halves: Tensor) -> tuple[Tensor, Tensor]:
    """W and var⁺ of each event."""
    draws = len(halves)
    within = halves.var(0).mean(0)
    return within, within * (draws - 1) / draws + halves.mean(0).var(0)


def _rhat(halves: Tensor) -> Tensor:
    within, pooled = _variances(halves)
    return torch.where(within > 0, (pooled / within).sqrt(), math.inf)


def _effective(halves: Tensor) -> Tensor:
    """S/τ of each event, τ from the initial monotone sequence of pairs."""
    draws, total = len(halves), halves.shape[0] * halves.shape[1]
    within, pooled = _variances(halves)
    spectrum = torch.fft.rfft(halves - halves.mean(0), n=2 * draws, dim=0)
    covariance = torch.fft.irfft(spectrum.abs().square(), dim=0)[:draws].mean(1) / draws
    correlation = 1 - (within - covariance) / pooled
    correlation[0] = 1.0
    pairs = correlation[: draws // 2 * 2].unflatten(0, (-1, 2)).sum(1)
    initial = (pairs > 0).cumprod(0).bool()
    falling = torch.where(initial, pairs, 0.0).cummin(0).values
    # Chains that turn back at each draw tell more than independent ones, but not without end.
    length = (2 * falling.sum(0) - 1).clamp_min(1 / math.log10(total))
    return torch.where(within > 0, total / length, 0.0)
