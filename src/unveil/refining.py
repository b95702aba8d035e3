"""Each row's own posterior, climbed from where the encoder left it.

An encoder answers for all rows at once, and what it loses by that is the amortisation gap (Cremer,
Li & Duvenaud 2018). Here every row has parameters of its own, and only the family's gap is left.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast, final

import torch
from torch import Generator, Tensor

from unveil.distributions import Pushforward, draw
from unveil.families import Family
from unveil.latent import LatentVariableModel
from unveil.objectives.base import require_count
from unveil.posteriors.diagonal import DiagonalGaussian
from unveil.shapes import Given, PerRow, PerUnit, Rows
from unveil.step import Recipe, State, plain_update
from unveil.tiles import RowsAlike, Tile, chunks, tiles
from unveil.units import posterior_moments

# A gradient per unit of the start's sd is cut to this length.
LONGEST_GRADIENT = 1.0
# Draws by which each row's two posteriors are compared, and as many others that report them.
JUDGING_DRAWS = 256


@final
class Rescaled(Pushforward):
    """z = loc + scale ⊙ w, w ~ base: a pushforward in units of its own.

        log q(z) = log q_base((z − loc)/scale) − Σ_u log scale_u

    ``loc`` and ``scale`` have the shape (*batch, latent) of base.

    >>> from unveil.distributions import DiagonalNormal
    >>> one = torch.ones(3, 2)
    >>> q = Rescaled(DiagonalNormal(one, 3 * one), 10 * one, 2 * one)
    >>> q.mean[0], q.stddev[0]
    (tensor([12., 12.]), tensor([6., 6.]))
    """

    def __init__(self, base: Pushforward, loc: Tensor, scale: Tensor) -> None:
        self.base, self.loc, self.scale = base, loc, scale
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.loc + self.scale * self.base.mean

    @property
    def stddev(self) -> Tensor:
        return self.scale * self.base.stddev

    def push(self, noise: Tensor) -> Tensor:
        return self.loc + self.scale * self.base.push(noise)

    def moments(self, noise: Callable[[int], Tensor]) -> tuple[Tensor, Tensor]:
        mean, sd = self.base.moments(noise)
        return self.loc + self.scale * mean, self.scale * sd

    def log_prob(self, value: Tensor) -> Tensor:
        return self.base.log_prob((value - self.loc) / self.scale) - self.scale.log().sum(-1)


@draw.register
def _(distribution: Rescaled, shape: Sequence[int], generator: Generator) -> Tensor:
    loc, scale = distribution.loc.detach(), distribution.scale.detach()
    return loc + scale * draw(distribution.base, shape, generator)


@final
@dataclass(frozen=True, kw_only=True)
class Refined:
    """Each row's own q(z|x), and its ELBO before and after, nats per row, float64.

    ``posterior`` has batch shape (row,); ``means`` and ``sds`` (row, latent) are its moments. The
    two ELBOs are means over the same fresh draws, so that their difference is known better than
    either; where nothing was gained, they are equal.
    """

    posterior: Pushforward
    means: PerUnit
    sds: PerUnit
    before: PerRow
    after: PerRow

    @property
    def gain(self) -> PerRow:
        """What refining was worth: a lower estimate of the row's amortisation gap, nats."""
        return self.after - self.before


def refine(
    model: LatentVariableModel,
    x: Rows,
    given: Given = None,
    *,
    family: Family | None = None,
    start: tuple[PerUnit, PerUnit] | None = None,
    steps: int = 300,
    learning_rate: float = 0.1,
    num_samples: int = 8,
    seed: int = 0,
) -> Refined:
    """Climb each row's own ELBO over a family of posteriors, from where the encoder stands.

        λ* = argmax_λ E_{q_λ} [log p(x, z) − log q_λ(z)],   z = m + s ⊙ w,   w ~ family(λ)

    ``start`` is the mean m and sd s (row, latent) of each row, by default the encoder's; λ = 0,
    where every family is N(0, I), is N(m, diag s²). The default family, DiagonalGaussian, leaves
    the mean-field gap. Each row takes ``steps`` steps of Adam, of cosine size from
    ``learning_rate`` (in units of s) down to 0, with a gradient of ``num_samples`` draws that is
    free of noise where q is exact (Roeder, Wu & Duvenaud 2017). Its parameters are kept if draws
    that took no part in that call them better than the start; draws that took no part in either
    report both. Moments and ELBOs are bitwise the row's own, and the model is left as it was. It
    runs operation by operation, never compiled. Raises ValueError for less than one step or draw,
    a learning rate that is not above 0, and a family with parameters that rows would share.
    Source: Kim et al. 2018 (semi-amortised inference); Cremer, Li & Duvenaud 2018.

    >>> import unveil
    >>> from torch import nn
    >>> vae = unveil.VAE(
    ...     prior=unveil.StandardNormal(1),
    ...     likelihood=unveil.Conditional(nn.Linear(1, 3), unveil.Bernoulli(3)),
    ...     posterior=unveil.Conditional(nn.Linear(3, 2), unveil.DiagonalGaussian(1)),
    ... )
    >>> refined = refine(vae, torch.eye(3), steps=20)
    >>> refined.posterior.mean.shape, bool((refined.gain > -0.01).all())
    (torch.Size([3, 1]), True)
    """
    family = DiagonalGaussian(model.num_latents) if family is None else family
    require_count("steps", steps, least=1)
    require_count("num_samples", num_samples, least=1)
    if not (math.isfinite(learning_rate) and learning_rate > 0):
        raise ValueError(f"expected a learning rate above 0, got {learning_rate}")
    require_own_numbers(family)
    schedule = cosine(steps, learning_rate)
    loc, scale = posterior_moments(model, x, given) if start is None else start
    columns: list[tuple[Tensor, ...]] = []
    with torch.no_grad(), RowsAlike():
        # Where a row starts is cut as the rows are, and padded like them.
        places = tiles(torch.stack([loc, scale], dim=1).to(x))
        for tile, place in zip(tiles(x, given), places, strict=True):
            climb = Climb(model, family, tile, *place.x.unbind(1))
            raw = climb.top(schedule, num_samples, seed)
            unmoved, moved = climb.elbos(raw, seed, "refine, judge")
            raw = torch.where((moved > unmoved)[:, None], raw, 0.0)
            figures = climb.elbos(raw, seed, "refine, report")
            moments = climb.posterior(raw).moments(tile.noise(0, "moments", model.num_latents))
            columns.append(tuple(t[: tile.count] for t in (raw, *moments, *figures)))
        raw, means, sds, before, after = (torch.cat(parts) for parts in zip(*columns, strict=True))
        posterior = Rescaled(cast(Pushforward, family(raw)), loc.to(x), scale.to(x))
    return Refined(posterior=posterior, means=means, sds=sds, before=before, after=after)


def require_own_numbers(family: Family) -> None:
    """Raises ValueError for a family with parameters that rows would share."""
    if any(True for _ in family.parameters()):
        raise ValueError(
            f"expected a family whose numbers are all a row's own, got {type(family).__name__} "
            "with parameters that every row shares; take DiagonalGaussian or FullGaussian"
        )


def cosine(steps: int, learning_rate: float = 0.1) -> list[float]:
    """The sizes of so many steps, from ``learning_rate`` down to 0.

    >>> cosine(2, learning_rate=1.0)
    [1.0, 0.5]
    """
    return [0.5 * learning_rate * (1 + math.cos(math.pi * i / steps)) for i in range(steps)]


def descend(raw: Tensor, gradient: Callable[[Tensor], Tensor], schedule: Sequence[float]) -> Tensor:
    """Where a step of each size down ``gradient`` leads each row's numbers, (*place, row, number).

    The step is training's, without weight decay. All of its state is (*place, row, ...), the count
    of steps included: a row whose gradient is not finite waits, and no other row hears of it.

    >>> descend(torch.full((1, 1, 1), 3.0), lambda raw: 2 * raw, cosine(300)).round(decimals=3)
    tensor([[[0.]]])
    """
    one, alone = torch.ones_like(raw[..., :1]), Recipe(weight_decay=0.0)
    zeros = torch.zeros_like(raw)
    state = State({"raw": raw}, {"raw": zeros}, {"raw": zeros}, 0 * one)
    for size in schedule:
        slope = gradient(state.parameters["raw"])
        finite = torch.isfinite(slope).all(-1, keepdim=True)
        # Adam would remember a cliff that was met early for longer than the climb takes.
        shrink = slope.norm(dim=-1, keepdim=True).clamp_min(LONGEST_GRADIENT)
        rate = torch.full_like(one, size)
        state = plain_update(state, {"raw": slope}, shrink, finite, rate, alone)
    return state.parameters["raw"]


def paired_elbos(
    model: LatentVariableModel,
    tile: Tile,
    posteriors: Sequence[Pushforward],
    seed: int,
    purpose: str,
) -> Tensor:
    """The ELBO of each row of a tile with each posterior, (posterior, row), nats, float64.

    All of them push the same draws, so that their differences are known better than they are.
    """
    noise = tile.noise(seed, purpose, model.num_latents)
    sums = tile.x.new_zeros(len(posteriors), len(tile.x), dtype=torch.float64)
    for size in chunks(JUDGING_DRAWS, floats_per_draw=tile.x.numel()):
        epsilon = noise(size)
        for sum_, q in zip(sums, posteriors, strict=True):
            sum_ += log_weights(model, tile, q.push(epsilon), q).double().sum(0)
    return sums / JUDGING_DRAWS


def log_weights(model: LatentVariableModel, tile: Tile, z: Tensor, q: Pushforward) -> Tensor:
    """log p(x, z) − log q(z), nats, (sample, row)."""
    return model.log_joint(tile.x, z, tile.given) - q.log_prob(z)


@final
@dataclass(frozen=True)
class Climb:
    """One tile's rows, each with its own parameters of a posterior, in units of where it starts:
    at mean ``loc`` with sd ``scale``, (row, latent)."""

    model: LatentVariableModel
    family: Family
    tile: Tile
    loc: PerUnit
    scale: PerUnit

    def posterior(self, raw: Tensor) -> Rescaled:
        return Rescaled(cast(Pushforward, self.family(raw)), self.loc, self.scale)

    def top(self, schedule: Sequence[float], num_samples: int, seed: int) -> Tensor:
        """The parameters (row, num_parameters) after a step of each size."""
        noise = self.tile.noise(seed, "refine", self.model.num_latents)
        zeros = self.loc.new_zeros(len(self.loc), self.family.num_parameters)
        return descend(zeros, lambda raw: self.gradient(raw, noise(num_samples)), schedule)

    def gradient(self, raw: Tensor, noise: Tensor) -> Tensor:
        """The gradient of each row's −ELBO, along the draws' paths alone.

        The score that is left out, ∂ log q/∂λ at fixed z, is 0 in expectation.
        """
        raw = raw.requires_grad_()
        with torch.enable_grad():
            z, q = self.posterior(raw).push(noise), self.posterior(raw.detach())
            elbo = log_weights(self.model, self.tile, z, q).mean(0)
            (gradient,) = torch.autograd.grad(-elbo.sum(), [raw])
        return gradient

    def elbos(self, raw: Tensor, seed: int, purpose: str) -> tuple[Tensor, Tensor]:
        """The ELBO of each row at the start and at raw, (row,), by the same draws."""
        both = self.posterior(torch.zeros_like(raw)), self.posterior(raw)
        at_start, at_raw = paired_elbos(self.model, self.tile, both, seed, purpose)
        return at_start, at_raw
