"""What the latents hold: the rate taken apart, and what it buys along the way to it.

    E_x KL(q(z|x)‖p(z)) = I_q(x; z) + KL(q(z)‖p(z)),   q(z) = E_x q(z|x)

q(z) is known from rows alone, as a mean of their posteriors. The mean over all rows puts too much
of it where z was drawn from one of them, the mean over the others too little, and the truth lies
between. Source: Hoffman & Johnson 2016 (ELBO surgery); Poole et al. 2019 (the two means).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Normal

from unveil.diagnostics.means import Mean
from unveil.distributions import DiagonalNormal, Pushforward
from unveil.evidence.annealing import Schedule, stages
from unveil.evidence.weights import nth_row
from unveil.latent import LatentVariableModel
from unveil.noise import generator
from unveil.objectives.base import require_count
from unveil.shapes import Given, Latents, PerDraw, PerUnit, Rows
from unveil.tiles import RowsAlike, Tile, chunks, tiles
from unveil.units import ACTIVE_VARIANCE, rate_per_unit

# Densities of draws: of the whole z first, then of each latent, where these can be told apart.
Views = Float[Tensor, "view sample row"]


@final
@dataclass(frozen=True, kw_only=True)
class Between:
    """A number, nats, that is at least ``lower`` and at most ``upper`` in expectation."""

    lower: Mean
    upper: Mean

    def document(self) -> dict[str, Any]:
        """Both sides as plain JSON, with what they are worth."""
        return {
            "lower": self.lower.document(),
            "upper": self.upper.document(),
            "guarantee": "in_expectation",
        }


@final
@dataclass(frozen=True, kw_only=True)
class Surgery:
    """What the posteriors of ``rows`` rows hold, nats per row, each mean with its error over rows.

    ``rate`` is E_x KL(q(z|x)‖p(z)), ``mutual_information`` I_q(x; z) (its lower side at most log
    ``rows``), and ``marginal_kl`` KL(q(z)‖p(z)): the lower side of one and the upper side of the
    other add up to the rate exactly. ``total_correlation`` is KL(q(z)‖Π_u q(z_u)), None unless q's
    latents are independent given x; ``kl_per_unit`` is None unless p's are too. ``mean_variances``
    (latent,) are Var_x(E_q[z_u|x]).
    """

    rows: int
    rate: Mean
    mutual_information: Between
    marginal_kl: Between
    total_correlation: Between | None
    kl_per_unit: tuple[Mean, ...] | None
    mean_variances: tuple[float, ...]

    @property
    def active_units(self) -> int:
        """How many latents are used (Burda et al. 2016)."""
        return sum(variance > ACTIVE_VARIANCE for variance in self.mean_variances)

    def document(self) -> dict[str, Any]:
        """The findings as plain JSON."""
        correlation, units = self.total_correlation, self.kl_per_unit
        return {
            "rows": self.rows,
            "rate": self.rate.document(),
            "mutual_information": self.mutual_information.document(),
            "marginal_kl": self.marginal_kl.document(),
            "total_correlation": None if correlation is None else correlation.document(),
            "kl_per_unit": None if units is None else [unit.document() for unit in units],
            "mean_variances": list(self.mean_variances),
            "active_units": self.active_units,
        }


def surgery(
    model: LatentVariableModel,
    x: Rows,
    given: Given = None,
    *,
    num_samples: int = 2,
    max_rows: int = 10_000,
    seed: int = 0,
) -> Surgery:
    """Take the rate apart by weighing each row's draws with every row's posterior.

        I ≥ E log q(z_n|x_n)/[(1/N) Σ_m q(z_n|x_m)]            m = n among them
        I ≤ E log q(z_n|x_n)/[(1/(N − 1)) Σ_{m≠n} q(z_n|x_m)]

    ``num_samples`` draws z_n of each row come from its own stream. Of more than ``max_rows`` rows
    that many are taken, chosen by the seed. Time grows with rows², memory is bounded. Where p(z|c)
    depends on covariates, ``marginal_kl`` is E log q(z)/p(z|c). Raises ValueError for less than 2
    rows or 1 draw, ArithmeticError for a log-density that is NaN or a rate of +∞.

    >>> import unveil
    >>> from torch import nn
    >>> vae = unveil.VAE(
    ...     prior=unveil.StandardNormal(1),
    ...     likelihood=unveil.Conditional(nn.Linear(1, 3), unveil.Bernoulli(3)),
    ...     posterior=unveil.Conditional(nn.Linear(3, 2), unveil.DiagonalGaussian(1)),
    ... )
    >>> found = surgery(vae, torch.eye(3))
    >>> found.mutual_information.lower.value <= math.log(3)
    True
    """
    require_count("num_samples", num_samples, least=1)
    require_count("max_rows", max_rows, least=2)
    if len(x) < 2:
        raise ValueError(f"expected at least 2 rows, to tell one from another, got {len(x)}")
    if len(x) > max_rows:
        order = torch.randperm(len(x), generator=generator(seed, "surgery, rows"))
        chosen = order[:max_rows].sort().values.to(x.device)
        x, given = x[chosen], None if given is None else given[chosen]
    with torch.no_grad():
        with RowsAlike():
            drawn = _drawn(model, x, given, num_samples, seed)
        own, log_prior = drawn.log_posterior, drawn.log_prior
        sums = _sums_over_others(model, x, given, drawn.z)
    everyone = torch.logaddexp(own, sums) - math.log(len(x))
    others = sums - math.log(len(x) - 1)
    return Surgery(
        rows=len(x),
        rate=_mean(own[0] - log_prior),
        mutual_information=Between(
            lower=_mean(own[0] - everyone[0]), upper=_mean(own[0] - others[0])
        ),
        marginal_kl=Between(
            lower=_mean(others[0] - log_prior), upper=_mean(everyone[0] - log_prior)
        ),
        total_correlation=_correlation(everyone, others) if len(own) > 1 else None,
        kl_per_unit=drawn.kl_per_unit,
        mean_variances=tuple(drawn.means.var(dim=0, correction=0).tolist()),
    )


def _mean(values: PerDraw) -> Mean:
    return Mean.over_rows(values.mean(0))


def _correlation(everyone: Views, others: Views) -> Between:
    """E log q(z)/Π_u q(z_u), each density at its lowest and at its highest."""
    return Between(
        lower=_mean(others[0] - everyone[1:].sum(0)), upper=_mean(everyone[0] - others[1:].sum(0))
    )


@final
@dataclass(frozen=True, kw_only=True)
class _Drawn:
    """Each row's own draws, how likely they are, and what its posterior says without any."""

    z: Latents
    log_posterior: Views
    log_prior: PerDraw
    means: PerUnit
    kl_per_unit: tuple[Mean, ...] | None


def _drawn(
    model: LatentVariableModel, x: Rows, given: Given, num_samples: int, seed: int
) -> _Drawn:
    columns, rates = [], []
    for tile in tiles(x, given):
        q, p = model.posterior(tile.x, tile.given), model.prior(tile.given)
        z = q.push(tile.noise(seed, "surgery", model.num_latents)(num_samples))
        means, _ = q.moments(tile.noise(0, "moments", model.num_latents))
        figures = z.movedim(-1, 0), views(q, z), p.log_prob(z).double(), means.double().T
        columns.append(tuple(t[..., : tile.count] for t in figures))
        rates.append(rate_per_unit(q, p))
    z, own, log_prior, means = (torch.cat(parts, dim=-1) for parts in zip(*columns, strict=True))
    split = [rate for rate in rates if rate is not None]
    units = torch.cat(split)[: len(x)].unbind(-1) if split else None
    return _Drawn(
        z=z.movedim(0, -1),
        log_posterior=own,
        log_prior=log_prior,
        means=means.T,
        kl_per_unit=None if units is None else tuple(Mean.over_rows(unit) for unit in units),
    )


def _sums_over_others(model: LatentVariableModel, x: Rows, given: Given, z: Latents) -> Views:
    """log Σ_{m≠n} q(z_n|x_m) of every draw, in each view of q."""
    draws, row = z.flatten(0, 1), torch.arange(len(x), device=x.device).repeat(len(z))
    of_tiles = (
        _sum_over_tile(model, tile, draws, row - number * len(tile.x))
        for number, tile in enumerate(tiles(x, given))
    )
    return reduce(torch.logaddexp, of_tiles).unflatten(-1, z.shape[:2])


def _sum_over_tile(model: LatentVariableModel, tile: Tile, draws: Tensor, place: Tensor) -> Tensor:
    """log Σ_m q(z|x_m) over a tile's rows but a draw's own, (view, draw).

    ``place`` (draw,) is where in the tile a draw's own row stands, if it does. Memory is bounded:
    so many draws at a time stand beside every row.
    """
    q, parts = model.posterior(tile.x, tile.given), []
    sizes = list(chunks(len(draws), floats_per_draw=len(tile.x) * (1 + draws.shape[1])))
    for z, at in zip(draws.split(sizes), place.split(sizes), strict=True):
        pairs = views(q, z[:, None])[..., : tile.count]
        inside = (at >= 0) & (at < tile.count)
        pairs[:, inside, at[inside]] = -math.inf
        parts.append(pairs.logsumexp(-1))
    return torch.cat(parts, -1)


def views(q: Pushforward, z: Tensor) -> Views:
    """log q(z|x) and, where latents are independent given x, every log q(z_u|x): nats, float64,
    (view, sample, row), the whole first. ``z`` (sample, row or 1, latent) stands beside every row.

    >>> q = DiagonalNormal(torch.zeros(3, 2), torch.ones(3, 2))
    >>> views(q, torch.zeros(5, 1, 2)).shape
    torch.Size([3, 5, 3])
    """
    if not isinstance(q, DiagonalNormal):
        return q.log_prob(z.expand(-1, *q.batch_shape, -1)).double()[None]
    # With latents first every pass runs along memory.
    loc, scale, first = q.loc.T[:, None], q.scale.T[:, None], z.movedim(-1, 0).contiguous()
    units = Normal(loc.contiguous(), scale.contiguous(), validate_args=False).log_prob(first)
    return torch.cat([units.sum(0, keepdim=True), units]).double()


# ---- rate and distortion -----------------------------------------------------------------------

AlongTheWay = Float[Tensor, "temperature chain row"]
PerTemperature = Float[Tensor, "temperature row"]


@final
@dataclass(frozen=True, kw_only=True)
class RateDistortion:
    """At each temperature b, what q_b(z) ∝ p(z) p(x|z)^b costs and buys, nats per row, float64.

    ``rate`` is KL(q_b‖p(z)) and ``distortion`` −E_b log p(x|z), (temperature, row) each: no
    posterior has less of one without more of the other. At b = 1 their sum is −log p(x).
    """

    temperatures: tuple[float, ...]
    rate: PerTemperature
    distortion: PerTemperature

    def document(self) -> list[dict[str, Any]]:
        """The curve of means over rows as plain JSON."""
        return [
            {
                "temperature": b,
                "rate": Mean.over_rows(rate).document(),
                "distortion": Mean.over_rows(distortion).document(),
            }
            for b, rate, distortion in zip(
                self.temperatures, self.rate, self.distortion, strict=True
            )
        ]


def rate_distortion(
    temperatures: Sequence[float], log_likelihoods: AlongTheWay, log_weights: AlongTheWay
) -> RateDistortion:
    """The rate–distortion curve along one annealing from the prior to the posterior.

        log Z_b = log (1/K) Σ_k w_k,   D_b = −Σ_k w_k log p(x|z_k)/Σ_k w_k,   R_b = −log Z_b − b D_b

    Chain k of a row stands at z_k at temperature b with ``log_likelihoods`` log p(x|z_k) and the
    running ``log_weights`` log w_k for p(z) p(x|z)^b, nats, (temperature, chain, row) each. As log
    Z_b is a lower bound in expectation, R_b + b D_b is an upper one. Raises ValueError where the
    lengths disagree or a temperature is outside [0, 1], ArithmeticError where no chain of a row
    has any weight, or one is NaN or +∞.
    Source: Huang et al. 2020 (evaluating lossy compression rates of deep generative models).

    >>> one = torch.zeros(1, 4, 2)
    >>> curve = rate_distortion([0.5], -3.0 + one, -1.5 + one)
    >>> curve.rate, curve.distortion
    (tensor([[0., 0.]], dtype=torch.float64), tensor([[3., 3.]], dtype=torch.float64))
    """
    if len(temperatures) != len(log_weights):
        raise ValueError(
            f"expected one temperature for each of {len(log_weights)} rounds of weights, got "
            f"{len(temperatures)}"
        )
    if not all(0 <= b <= 1 for b in temperatures):
        raise ValueError(f"expected temperatures from 0 to 1, got {list(temperatures)}")
    log_weights, log_likelihoods = log_weights.double(), log_likelihoods.double()
    log_z = log_weights.logsumexp(1) - math.log(log_weights.shape[1])
    _require_weight(log_z)
    shares = log_weights.softmax(1)
    # A chain of no weight may stand where x is impossible.
    distortion = -torch.where(shares > 0, shares * log_likelihoods, 0.0).sum(1)
    b = torch.tensor(temperatures, dtype=torch.float64, device=log_z.device)[:, None]
    return RateDistortion(
        temperatures=tuple(temperatures), rate=-log_z - b * distortion, distortion=distortion
    )


def curve_from_prior(
    model: LatentVariableModel, x: Rows, schedule: Schedule, given: Given = None, *, seed: int = 0
) -> RateDistortion:
    """The rate–distortion curve of rows by one annealing from p(z), as ``rate_distortion`` says.

    ``schedule`` starts at the prior. Memory grows with its temperatures, chains and the rows.
    """
    likelihoods, weights = [], []
    with torch.no_grad(), RowsAlike():
        for tile in tiles(x, given):
            start, latents = schedule.start, model.num_latents
            z = start.draw(model, tile, schedule.num_chains, seed, "rate and distortion, start")
            noise = tile.noise(seed, "rate and distortion, moves", latents + 2)
            way = stages(start.bridge(model, tile), z, schedule, schedule.temperatures, noise)
            rounds = [(stage.point.log_ratio, stage.log_weights) for stage in way]
            for kept, rounds_of in zip(
                (likelihoods, weights), zip(*rounds, strict=True), strict=True
            ):
                kept.append(torch.stack(rounds_of)[..., : tile.count].double().cpu())
    return rate_distortion(
        schedule.temperatures[1:], torch.cat(likelihoods, -1), torch.cat(weights, -1)
    )


def _require_weight(log_z: PerTemperature) -> None:
    bad = ~torch.isfinite(log_z)
    if bad.any():
        _, row = bad.nonzero()[0].tolist()
        raise ArithmeticError(
            f"expected chains of some finite weight, got a mean of {float(log_z[bad][0].exp())} in "
            f"{nth_row(row, log_z.shape[1])}; start more chains, or leave that row out"
        )
