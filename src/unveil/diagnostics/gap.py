"""What the ELBO loses, and to whom: to the encoder, or to the family of its posteriors.

    log p(x) − ELBO(q) = [log p(x) − ELBO(q*)] + [ELBO(q*) − ELBO(q)]
                           approximation gap      amortisation gap

q* is the family's best posterior of the row. It is searched for, and what was found is at most as
good: so the second bracket is known from below, and the first from above.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from unveil.diagnostics.means import Mean
from unveil.distributions import MOMENT_DRAWS, DiagonalNormal, FullNormal, Pushforward
from unveil.evidence.starts import prior_draws
from unveil.evidence.weights import require_finite
from unveil.families import Family
from unveil.latent import LatentVariableModel
from unveil.objectives.base import require_count
from unveil.posteriors.diagonal import DiagonalGaussian
from unveil.posteriors.full import FullGaussian
from unveil.refining import Climb, cosine, descend, paired_elbos, require_own_numbers
from unveil.shapes import Given, PerRow, PerUnit, Rows
from unveil.tiles import RowsAlike, Tile, tiles

Place = tuple[PerUnit, PerUnit]  # a mean and a standard deviation of each latent of each row

# A climb so many times shorter tells which start is worth a whole one.
SCOUT = 4


@final
@dataclass(frozen=True, kw_only=True)
class Gap:
    """The ELBO of each row with the encoder's posterior and with the best that was found for it,
    by the same draws, nats per row, float64.

    Where the encoder's posteriors are of a kind whose numbers are not all a row's own (a flow, a
    hierarchy), those that were climbed over are of another: ``of_the_family`` is False, and what
    was found says what refining recovers, and nothing of the family's best.
    """

    elbo: PerRow
    refined_elbo: PerRow
    of_the_family: bool = True

    @property
    def amortisation(self) -> PerRow:
        """ELBO(q̂*) − ELBO(q): what the encoder loses, or more; a lower estimate.

        Where refining found nothing better it is exactly 0.
        """
        same = self.refined_elbo == self.elbo  # also where both are −∞
        return torch.where(same, 0.0, self.refined_elbo - self.elbo)

    def approximation(self, log_evidence: PerRow) -> PerRow:
        """log p(x) − ELBO(q̂*): what the family loses, or less; an upper estimate.

        ``log_evidence`` (row,) is log p(x), or an upper bound on it: the estimate is worth what
        the bound is worth. A lower bound gives an estimate of no side.
        """
        return log_evidence.double() - self.refined_elbo


def encoder_gap(held_out: Gap, training: Gap) -> Mean:
    """What the encoder loses on rows that it was not trained on beyond those that it was, nats.

        mean amortisation gap of held-out rows − mean amortisation gap of training rows

    The two must have no row in common. Source: Zhang, Hayes & Barber 2022 (generalization gap in
    amortized inference).

    >>> perfect = Gap(elbo=torch.zeros(2), refined_elbo=torch.zeros(2))
    >>> poor = Gap(elbo=torch.zeros(2), refined_elbo=torch.tensor([1.0, 3.0]))
    >>> encoder_gap(poor, perfect)
    Mean(value=2.0, error=1.0)
    """
    return Mean.over_rows(held_out.amortisation) - Mean.over_rows(training.amortisation)


def gap(
    model: LatentVariableModel,
    x: Rows,
    given: Given = None,
    *,
    family: Family | None = None,
    steps: int = 300,
    num_samples: int = 8,
    seed: int = 0,
) -> Gap:
    """Search for the best posterior of each row, and say how far the encoder's falls short of it.

        q̂* = the better of q(z|x) and of a climb from the best of three starts:
             the encoder's moments, the prior's, and a mode of p(x, z) with its curvature

    A climb is that of ``refine`` with ``steps`` steps of ``num_samples`` draws each, over a family
    whose numbers are all a row's own: by default FullGaussian where q is one, DiagonalGaussian
    otherwise. The best start is the one from which a short climb leads highest. Draws that took no
    part in the climbs choose, and draws that took part in neither report: the ELBO of q̂* is at most
    that of q* in expectation. Bitwise the row's own. Raises ValueError as ``refine`` does,
    ArithmeticError for an ELBO that is NaN or +∞. Source: Cremer, Li & Duvenaud 2018 (inference
    suboptimality), who start from the prior alone.

    >>> import unveil
    >>> from torch import nn
    >>> vae = unveil.VAE(
    ...     prior=unveil.StandardNormal(1),
    ...     likelihood=unveil.Conditional(nn.Linear(1, 3), unveil.Bernoulli(3)),
    ...     posterior=unveil.Conditional(nn.Linear(3, 2), unveil.DiagonalGaussian(1)),
    ... )
    >>> found = gap(vae, torch.eye(3), steps=20)
    >>> found.amortisation.shape, bool((found.amortisation > -0.01).all())
    (torch.Size([3]), True)
    """
    require_count("steps", steps, least=1)
    require_count("num_samples", num_samples, least=1)
    parts, of_the_family = [], True
    with torch.no_grad(), RowsAlike():
        for tile in tiles(x, given):
            q = model.posterior(tile.x, tile.given)
            of_the_family = isinstance(q, DiagonalNormal | FullNormal)
            climbed_over = family_of(q, model.num_latents) if family is None else family
            require_own_numbers(climbed_over)
            top = _top(model, climbed_over, tile, q, steps, num_samples, seed)
            choice = _best(model, tile, [q, top], seed, "gap, judge")
            elbos = paired_elbos(model, tile, [q, top], seed, "gap, report")
            parts.append(torch.cat([elbos[:1], elbos.gather(0, choice[None])])[:, : tile.count])
    elbo, refined = torch.cat(parts, dim=1)
    return Gap(
        elbo=require_finite(elbo, "log-densities"),
        refined_elbo=require_finite(refined, "log-densities"),
        of_the_family=of_the_family,
    )


def family_of(q: Pushforward, num_latents: int) -> Family:
    """The family of q's kind whose numbers are all a row's own.

    >>> from unveil.distributions import DiagonalNormal
    >>> family_of(DiagonalNormal(torch.zeros(3, 2), torch.ones(3, 2)), 2)
    DiagonalGaussian()
    """
    full = isinstance(q, FullNormal)
    return FullGaussian(num_latents) if full else DiagonalGaussian(num_latents)


def _top(
    model: LatentVariableModel,
    family: Family,
    tile: Tile,
    q: Pushforward,
    steps: int,
    num_samples: int,
    seed: int,
) -> Pushforward:
    """Where the climb from each row's best start ends."""

    def climb(start: Place, steps: int) -> Pushforward:
        way = Climb(model, family, tile, *start)
        return way.posterior(way.top(cosine(steps), num_samples, seed))

    encoder, prior = moments(model, tile, q), prior_moments(model, tile, seed)
    starts = encoder, prior, laplace(model, tile, encoder, prior, cosine(steps))
    scouts = [climb(start, max(1, steps // SCOUT)) for start in starts]
    best = _best(model, tile, scouts, seed, "gap, scout")[None, :, None]
    means, sds = zip(*(moments(model, tile, scout) for scout in scouts), strict=True)
    mean, sd = (torch.take_along_dim(torch.stack(each), best, 0)[0] for each in (means, sds))
    return climb((mean, sd), steps)


def _best(
    model: LatentVariableModel, tile: Tile, of: Sequence[Pushforward], seed: int, purpose: str
) -> Tensor:
    """Which posterior is the best of each row, (row,), by draws of that purpose."""
    return paired_elbos(model, tile, of, seed, purpose).nan_to_num(nan=-math.inf).argmax(0)


def moments(model: LatentVariableModel, tile: Tile, q: Pushforward) -> Place:
    """Mean and standard deviation of each row's posterior, (row, latent) each."""
    return q.moments(tile.noise(0, "moments", model.num_latents))


def prior_moments(model: LatentVariableModel, tile: Tile, seed: int) -> Place:
    """Mean and standard deviation of p(z|c) for each row of a tile, (row, latent) each: exact
    where it is a DiagonalNormal, else by draws."""
    shape = len(tile.x), model.num_latents
    prior = model.prior(tile.given)
    if isinstance(prior, DiagonalNormal):
        return prior.loc.expand(shape).to(tile.x), prior.scale.expand(shape).to(tile.x)
    z = prior_draws(model, tile, MOMENT_DRAWS, seed, "gap, prior")
    return z.mean(0), z.std(0)


def laplace(
    model: LatentVariableModel, tile: Tile, near: Place, prior: Place, schedule: Sequence[float]
) -> Place:
    """A mode of log p(x, z) of each row, and the sds that its curvature there allows.

        m = argmax_z log p(x, z),   s_u = 1/√(−∂² log p(x, z)/∂z_u²) at m

    The climbs start at ``near`` and at the mean of the prior, and the higher end is taken. An s_u
    is at most the prior's sd: where the curvature is not positive, it says no more than that.
    """
    loc, unit = (torch.stack(both) for both in zip(near, prior, strict=True))

    def log_joint(z: Tensor) -> Tensor:
        return model.log_joint(tile.x, z, tile.given)

    away = descend(
        torch.zeros_like(loc), lambda w: slope(lambda w: -log_joint(loc + unit * w), w), schedule
    )
    ends = loc + unit * away
    highest = log_joint(ends).nan_to_num(nan=-math.inf).argmax(0)
    mode = torch.where((highest == 0)[:, None], *ends)
    least = prior[1].square().reciprocal()
    return mode, torch.maximum(curvature(log_joint, mode).nan_to_num(0.0), least).rsqrt()


def slope(function: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """∂ function/∂z for a function of each row alone, (*start, row, latent)."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(function(z).sum(), [z])
    return gradient


def curvature(function: Callable[[Tensor], Tensor], z: PerUnit) -> PerUnit:
    """−∂² function/∂z_u², for a function of each row alone, (row, latent).

    >>> curvature(lambda z: -3 * z[:, 0].square() + z[:, 1], torch.ones(1, 2))
    tensor([[6., -0.]])
    """
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(function(z).sum(), [z], create_graph=True)
        columns = [
            torch.autograd.grad(one.sum(), [z], retain_graph=True)[0][:, unit]
            for unit, one in enumerate(gradient.unbind(-1))
        ]
    return -torch.stack(columns, -1)
