"""Evidence by the trapezoid rule on a grid over z, for models of one to three latents.

    p(x) ≈ h_1 ⋯ h_d Σ_i p(z_i) p(x|z_i),   z_i the nodes of a grid of steps h that fills a box

For a smooth integrand that vanishes at the faces of the box the rule's error falls faster than any
power of h once h is no larger than the posterior's standard deviation: of a normal posterior with
the sd σ it is 2e^{−2π²σ²/h²}, 5·10⁻⁹ at h = σ. Source: Trefethen & Weideman 2014, section 5.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import singledispatch
from itertools import product
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.distributions import Distribution

from unveil.distributions import DiagonalNormal, draw
from unveil.evidence.weights import require_finite
from unveil.latent import VAE, LatentVariableModel
from unveil.noise import generator
from unveil.priors.mixture import MixtureOfNormals
from unveil.refining import refine
from unveil.shapes import Given, PerRow, PerUnit, Rows
from unveil.tiles import FLOATS_PER_CHUNK, RowsAlike, Tile, floats_per_draw

# The most intervals along each axis, by the number of latents.
MOST_INTERVALS = {1: 2**17, 2: 1024, 3: 256}
# Intervals along each edge of a block, the unit in which nodes are looked at, or left out.
BLOCK = {1: 16, 2: 8, 3: 8}
# A first grid has so many steps to the refined posterior's standard deviation: then every second
# node is enough for five digits, and the rest is what the printed error has in reserve.
STEPS_PER_SD = 1.5
# While halving the grid changes a row by more than this, nats, the row gets a finer one.
TOLERANCE = 1e-3
# A row that changes by more than this on the finest grid allowed is refused.
LARGEST_ERROR = 0.05
# How far the box reaches beyond a normal's mean, in its standard deviations.
REACH = 9.0
# A sixteenth of the box on either side of each axis is its shell. A larger share of p(x) in there
# says that there may be more outside, and the box grows, so many times at most.
SHELL = 16
LARGEST_SHARE_IN_SHELL = 1e-8
GROWTH, MOST_GROWTHS = 1.5, 8
# While the share of p(x) outside is bounded by no less than this, the box grows as well, as far as
# the number of steps allows.
LARGEST_OUTSIDE = 1e-6
# A block none of whose corners comes so near to the highest of the whole grid, nats, is left out.
# Blocks are about five standard deviations wide, so that no mode hides between their corners.
FAR_BELOW = 28.0
# Draws that say how far a prior without moments in closed form reaches.
BOX_DRAWS = 4096
# As many rows are integrated at a time, and no more of their blocks.
ROWS_AT_A_TIME, BLOCKS_AT_A_TIME = 64, 4096


class CannotResolve(ValueError):
    """No grid that is allowed resolves p(x, z) as a function of z."""


@final
@dataclass(frozen=True, kw_only=True)
class Quadrature:
    """log p(x) by quadrature, nats, float64, and what may be wrong with it; all the row's own.

    log_evidence   (row,)
    error          how much it changes when every second node of each axis is left out; the
                   value itself is far nearer to the truth than that
    outside        a bound on the share of p(x) outside of the box: the prior's mass there times
                   sup_z p(x|z)/p(x); infinite where one of the two is not known
    step, nodes    of each axis, (row, latent)
    low, high      the ends of the box, (row, latent)
    """

    log_evidence: PerRow
    error: PerRow
    outside: PerRow
    step: PerUnit
    nodes: Int[Tensor, "row latent"]
    low: PerUnit
    high: PerUnit


def quadrature(
    model: LatentVariableModel,
    x: Rows,
    given: Given = None,
    *,
    moments: tuple[PerUnit, PerUnit] | None = None,
    on_part: Callable[[float], None] = lambda fraction: None,
) -> Quadrature:
    """Integrate p(x, z) over z, for each row on a grid of its own.

    ``moments`` are mean and sd (row, latent) of each row's refined posterior, by default those of
    a short ``refine``. A row's box holds REACH standard deviations of the prior and of its
    posterior, and grows until its shell holds next to nothing of p(x); its steps start below the
    posterior's sd, and are halved until halving changes nothing. Nodes are looked at only where
    blocks of them are not far below the highest. ``on_part`` hears the share of rows that is done.

    Raises CannotResolve, which is a ValueError, for more than three latents, and naming the row
    where the grid would need more steps than MOST_INTERVALS for one to be below the smallest sd,
    where halving the finest grid still changes p(x), and where p(x) does not vanish at the faces of
    the largest box. Raises ArithmeticError for a density that is NaN or +∞.

    >>> import unveil
    >>> from torch import nn
    >>> vae = unveil.VAE(
    ...     prior=unveil.StandardNormal(1),
    ...     likelihood=unveil.Conditional(nn.Linear(1, 3), unveil.Bernoulli(3)),
    ...     posterior=unveil.Conditional(nn.Linear(3, 2), unveil.DiagonalGaussian(1)),
    ... )
    >>> x = torch.tensor([[a, b, c] for a in (0.0, 1.0) for b in (0.0, 1.0) for c in (0.0, 1.0)])
    >>> round(float(quadrature(vae, x).log_evidence.exp().sum()), 6)
    1.0
    """
    if model.num_latents not in MOST_INTERVALS:
        raise CannotResolve(
            f"expected one to three latents to integrate over, got {model.num_latents}; bound the "
            "evidence with draws instead"
        )
    if moments is None:
        refined = refine(model, x, given, steps=100)
        moments = refined.means, refined.sds
    mean, sd = (t.double().cpu() for t in moments)
    shown = (~torch.isnan(x)).flatten(1).any(1).cpu()
    result = torch.zeros(len(x), 3, dtype=torch.float64)
    with torch.no_grad(), RowsAlike():
        first = grids = Grids.first(*_ends(model, x, given), mean, sd)
        pending, highest = shown.nonzero()[:, 0], log_supremum(model, x)
        outside = torch.zeros(len(x), dtype=torch.float64)
        while len(pending):
            _require_fine(grids, sd, pending)
            for rows in pending.split(ROWS_AT_A_TIME):
                place = rows.to(x.device)
                own = None if given is None else given[place]
                result[rows] = _integrate(model, x[place], own, grids[rows])
            require_finite(result[:, 0], "log-evidence")
            outside = (_log_mass_outside(model, given, grids) + highest - result[:, 0]).exp()
            grids, pending = _improved(first, grids, pending, result, outside)
            on_part(1 - len(pending) / len(x))
    log_p, error, _ = result.unbind(1)
    # Nothing observed: p(∅) = 1, and nothing is integrated.
    return Quadrature(
        log_evidence=log_p,
        error=error,
        outside=torch.where(shown, outside, 0.0),
        step=grids.step,
        nodes=grids.intervals + 1,
        low=grids.low,
        high=grids.low + grids.width,
    )


# ---- the box and the steps ---------------------------------------------------------------------


@final
@dataclass(frozen=True, kw_only=True)
class Grids:
    """The grid of each row: its box, and the number of intervals along each axis."""

    centre: PerUnit
    width: PerUnit
    intervals: Int[Tensor, "row latent"]

    @classmethod
    def first(cls, low: PerUnit, high: PerUnit, mean: PerUnit, sd: PerUnit) -> "Grids":
        """Around a prior that reaches from low to high, and posteriors of these moments."""
        centre, width = (low + high) / 2, high - low
        width = torch.maximum(width, 2 * ((mean - centre).abs() + REACH * sd))
        intervals = whole_blocks(width * STEPS_PER_SD / sd)
        return cls(centre=centre, width=width, intervals=intervals)

    def __getitem__(self, rows: Tensor) -> "Grids":
        return Grids(**{name: t[rows] for name, t in vars(self).items()})

    @property
    def low(self) -> Tensor:
        return self.centre - self.width / 2

    @property
    def step(self) -> Tensor:
        return self.width / self.intervals

    @property
    def latents(self) -> int:
        return self.width.shape[1]


def whole_blocks(intervals: PerUnit) -> Int[Tensor, "row latent"]:
    """The next number of intervals that blocks fill, as far as it is allowed.

    >>> whole_blocks(torch.tensor([[3.0, 100.0], [9.0, 1e9]]))
    tensor([[   8,  104],
            [  16, 1024]])
    """
    latents = intervals.shape[1]
    whole = BLOCK[latents] * (intervals / BLOCK[latents]).ceil()
    return whole.clamp(max=MOST_INTERVALS[latents]).long()


def _require_fine(grids: Grids, sd: PerUnit, rows: Tensor) -> None:
    """Raises CannotResolve where a step is above the row's sd."""
    coarseness = grids.step[rows] / sd[rows]
    place = int(coarseness.argmax())
    if coarseness.flatten()[place] > 1:
        row, unit = int(rows[place // grids.latents]), place % grids.latents
        raise CannotResolve(
            "expected a grid whose steps are below the posterior's sd, got a step of "
            f"{float(grids.step[row, unit]):.2g} over latent {unit} of row {row}, whose sd is "
            f"{float(sd[row, unit]):.2g}, with {int(grids.intervals[row, unit])} steps; bound the "
            "evidence with draws instead"
        )


def _improved(
    first: Grids, grids: Grids, rows: Tensor, result: Tensor, outside: PerRow
) -> tuple[Grids, Tensor]:
    """Better grids for the rows that have to be integrated again, and which rows they are."""
    _, error, share = result[rows].unbind(1)
    leaks = share > LARGEST_SHARE_IN_SHELL
    most, intervals = MOST_INTERVALS[grids.latents], grids.intervals[rows]
    has_room = (intervals * GROWTH < most).all(1)
    may_leak = (outside[rows] > LARGEST_OUTSIDE) & outside[rows].isfinite()
    wider = leaks | (may_leak & has_room)
    at_most = (intervals >= most).all(1)
    finer = ~wider & ~at_most & (error > TOLERANCE)
    grown = (grids.width[rows] / first.width[rows]).amax(1)
    _require(
        ~leaks | (grown < GROWTH**MOST_GROWTHS),
        rows,
        share,
        "expected p(x, z) to vanish at the faces of the box, got a share of {:.2g} of p(x) near "
        "them in row {}",
    )
    _require(
        wider | finer | (error <= LARGEST_ERROR),
        rows,
        error,
        "expected a grid that every second node is enough of, got a change of {:.2g} nats from "
        "leaving out the others in row {}",
    )
    width, intervals = grids.width.clone(), grids.intervals.clone()
    width[rows[wider]] *= GROWTH
    more = torch.where(wider, GROWTH, torch.where(finer, 2.0, 1.0))[:, None]
    intervals[rows] = whole_blocks(intervals[rows] * more)
    return replace(grids, width=width, intervals=intervals), rows[wider | finer]


def _require(good: Tensor, rows: Tensor, found: Tensor, sentence: str) -> None:
    """Raises CannotResolve for the first row that is not good, by what was found of it."""
    bad = (~good).nonzero()[:, 0]
    if len(bad):
        said = sentence.format(float(found[bad[0]]), int(rows[bad[0]]))
        raise CannotResolve(f"{said}; bound the evidence with draws instead")


# ---- the prior's box ---------------------------------------------------------------------------


def _per_prior(
    model: LatentVariableModel,
    given: Given,
    rows: int,
    function: Callable[[Distribution, Tensor], Tensor],
) -> Tensor:
    """function(prior, its rows) of every prior that there is: one, or one for each c."""
    if given is None:
        return function(model.prior(), torch.arange(rows))
    different, which = torch.unique(given.cpu(), dim=0, return_inverse=True)
    parts = [
        (own, function(model.prior(c[None].to(given)), own))
        for number, c in enumerate(different)
        for own in [(which == number).nonzero()[:, 0]]
    ]
    back = torch.argsort(torch.cat([own for own, _ in parts]))
    return torch.cat([part for _, part in parts])[back]


def _ends(model: LatentVariableModel, x: Rows, given: Given) -> tuple[PerUnit, PerUnit]:
    """The ends of the box that each row's prior asks for."""

    def ends(prior: Distribution, rows: Tensor) -> Tensor:
        return torch.stack(extent(prior)).double().cpu().expand(len(rows), -1, -1)

    low, high = _per_prior(model, given, len(x), ends).unbind(1)
    return low, high


def _log_mass_outside(model: LatentVariableModel, given: Given, grids: Grids) -> PerRow:
    def outside(prior: Distribution, rows: Tensor) -> Tensor:
        low, width = grids.low[rows], grids.width[rows]
        return log_mass_outside(prior, low, low + width).double().cpu()

    return _per_prior(model, given, len(grids.width), outside)


@singledispatch
def extent(prior: Distribution) -> tuple[Tensor, Tensor]:
    """The ends (latent,) of a box that holds all but next to nothing of p(z).

    Of a prior that is no normal and no mixture of them the range of draws, twice as wide.
    """
    z = draw(prior, (BOX_DRAWS,), generator(0, "quadrature, box"))
    z = z.reshape(BOX_DRAWS, -1)
    low, high = z.amin(0), z.amax(0)
    return low - (high - low) / 2, high + (high - low) / 2


@extent.register
def _(prior: DiagonalNormal) -> tuple[Tensor, Tensor]:
    loc, scale = prior.loc.reshape(-1), prior.scale.reshape(-1)
    return loc - REACH * scale, loc + REACH * scale


@extent.register
def _(prior: MixtureOfNormals) -> tuple[Tensor, Tensor]:
    reach = REACH * prior.scale
    return (prior.loc - reach).amin(0), (prior.loc + reach).amax(0)


@singledispatch
def log_mass_outside(prior: Distribution, low: Tensor, high: Tensor) -> Tensor:
    """A bound on the log of the prior's mass outside of boxes (row, latent), (row,): +∞ where none
    is known."""
    return torch.full_like(low[:, 0], math.inf)


@log_mass_outside.register
def _(prior: DiagonalNormal, low: Tensor, high: Tensor) -> Tensor:
    """log Σ_u [Φ((low_u − μ_u)/σ_u) + Φ((μ_u − high_u)/σ_u)]."""
    loc, scale = prior.loc.reshape(-1).double(), prior.scale.reshape(-1).double()
    sides = torch.cat([(low - loc) / scale, (loc - high) / scale], dim=-1)
    return torch.special.log_ndtr(sides).logsumexp(-1)


@log_mass_outside.register
def _(prior: MixtureOfNormals, low: Tensor, high: Tensor) -> Tensor:
    each = [
        log_weight + log_mass_outside(DiagonalNormal(loc, scale), low, high)
        for log_weight, loc, scale in zip(prior.log_weights, prior.loc, prior.scale, strict=True)
    ]
    return torch.stack(each).logsumexp(0)


def log_supremum(model: LatentVariableModel, x: Rows) -> PerRow:
    """A bound on log p(x|z) over z, (row,) float64; +∞ where none is known."""
    if isinstance(model, VAE):
        return model.p_x_given_z.family.log_supremum(x).double().cpu()
    return torch.full((len(x),), math.inf, dtype=torch.float64)


# ---- the sum over nodes ------------------------------------------------------------------------


def _integrate(model: LatentVariableModel, x: Rows, given: Given, grids: Grids) -> Tensor:
    """log p(x), its error, and the share of p(x) in the shell, (row, 3)."""
    block, latents = BLOCK[grids.latents], grids.latents
    edge, one = torch.arange(block), torch.zeros(1, latents, dtype=torch.long)
    joint = _Joint(model, x, given, grids)
    corners = [
        _box([torch.arange(0, n + 1, block) for n in row]) for row in grids.intervals.tolist()
    ]
    at_corners = joint.of([c.flatten(0, -2) for c in corners], one)
    wanted = [
        (block * _wanted(values.reshape(c.shape[:-1])).nonzero())
        for values, c in zip(at_corners, corners, strict=True)
    ]
    nodes = _box([edge] * latents).flatten(0, -2)
    even = (nodes % 2 == 0).all(-1)
    sums = torch.stack(
        [
            _sums(values, even, _in_shell(starts[:, None] + nodes, intervals))
            for values, starts, intervals in zip(
                joint.of(wanted, nodes), wanted, grids.intervals, strict=True
            )
        ]
    )
    log_volume = grids.step.log().sum(1)
    log_p, halved, shell = (sums + log_volume[:, None]).unbind(1)
    # −∞ has no change and no share: no z can have made such a row.
    possible = log_p > -math.inf
    error = torch.where(possible, (log_p - halved - latents * math.log(2)).abs(), 0.0)
    share = torch.where(possible, (shell - log_p).exp(), 0.0)
    return torch.stack([log_p, error, share], dim=1)


def _box(axes: Sequence[Tensor]) -> Tensor:
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)


def _wanted(at_corners: Float[Tensor, "*corner"]) -> Bool[Tensor, "*block"]:
    """The blocks one of whose corners is not far below the highest of all; all of them for NaN."""
    sides = product([slice(None, -1), slice(1, None)], repeat=at_corners.dim())
    best = torch.stack([at_corners[side] for side in sides]).amax(0)
    return ~(best < at_corners.max() - FAR_BELOW)


def _in_shell(index: Int[Tensor, "block node latent"], intervals: Tensor) -> Tensor:
    """Which nodes are near a face of the box, (block, node)."""
    share = index * SHELL
    return ((share <= intervals) | (share >= (SHELL - 1) * intervals)).any(-1)


def _sums(values: Tensor, even: Tensor, shell: Tensor) -> Tensor:
    """log Σ exp over all nodes (block, node) of one row, over the even ones, over the shell."""
    parts = values, values[:, even], values.masked_fill(~shell, -math.inf)
    return torch.stack([part.flatten().logsumexp(0) for part in parts])


@final
@dataclass(frozen=True)
class _Joint:
    """log p(x, z) of each row at nodes of its own grid."""

    model: LatentVariableModel
    x: Rows
    given: Given
    grids: Grids

    def of(self, starts: Sequence[Tensor], nodes: Tensor) -> tuple[Tensor, ...]:
        """Of every row (block, node), nats, float64: at the nodes that lie at numbers ``nodes``
        (node, latent) from those of its blocks' ``starts`` (block, latent)."""
        counts = [len(of_row) for of_row in starts]
        rows = torch.arange(len(starts)).repeat_interleave(torch.tensor(counts))
        index, size = torch.cat(list(starts)), self._blocks_at_a_time(len(nodes))
        values = [
            self._some(rows[first : first + size], index[first : first + size], nodes, size)
            for first in range(0, len(rows), size)
        ]
        return torch.cat(values).split(counts)

    def _blocks_at_a_time(self, nodes: int) -> int:
        one_row = Tile(x=self.x[:1], given=None, count=1)
        floats = nodes * floats_per_draw(self.model, one_row)
        return min(BLOCKS_AT_A_TIME, max(1, FLOATS_PER_CHUNK // 4 // floats))

    def _some(self, rows: Tensor, index: Tensor, nodes: Tensor, size: int) -> Tensor:
        """Always of the same shape, filled with copies of the last block."""
        padded = torch.arange(size).clamp(max=len(rows) - 1)
        own, at = rows[padded], nodes[:, None] + index[padded]
        z = (self.grids.low[own] + self.grids.step[own] * at).to(self.x)
        place = own.to(self.x.device)
        given = None if self.given is None else self.given[place]
        log_joint = self.model.log_joint(self.x[place], z, given)
        return log_joint.double().T[: len(rows)].cpu()
