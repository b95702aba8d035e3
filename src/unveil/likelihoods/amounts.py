"""Cells that are exactly 0 or a positive number: amounts spent, rain fallen, hours worked."""

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Generator, Tensor
from torch.special import log_ndtr, ndtr

from unveil.distributions import ROUNDED, Cells, Plain, draw
from unveil.likelihoods.inflated import WithExtraZeros
from unveil.likelihoods.positive import LogNormalDensity
from unveil.likelihoods.scale import LocationScale, Scale

# A column that was never 0, or always, may be otherwise in a new row.
FARTHEST_START = 1e-3
# So many points of a grid are summed up one by one for a mean; beyond, rounding moves it little.
POINTS_OF_MEAN = 8
# float64 holds no tail of a normal with less mass.
SMALLEST_TAIL = 1e-300


@final
class LogNormalSteps(Plain):
    """A log-normal as a density per unit of the data, or as masses on a grid of its own.

        p(x) = N(log x; μ, s²)/(x unit)                                     where step is 0
        P(x) = P(x − step/2 < y < x + step/2 | y > step/2),  log y ~ N(μ, s²),  x = step, 2 step, …

    ``loc`` μ and ``scale`` s have the batch shape; ``step`` and ``log_unit`` broadcast to it. Other
    values have log p = −∞. Masses have no unit.

    >>> whole = LogNormalSteps(*torch.tensor([0.0, 1.0, 1.0, 0.0]))
    >>> whole.log_prob(torch.arange(4.0)).exp()
    tensor([0.0000, 0.5468, 0.2154, 0.0987])
    """

    def __init__(self, loc: Tensor, scale: Tensor, step: Tensor, log_unit: Tensor) -> None:
        # Neighbouring ends of a fine grid would be one number in float32.
        self.loc, self.scale = loc.double(), scale.double()
        self.on_grid = step > 0
        self.step = torch.where(self.on_grid, step, 1.0).double()
        self.log_unit, self.dtype = log_unit.double(), loc.dtype
        self.density = LogNormalDensity(self.loc, self.scale)
        super().__init__(loc.shape, validate_args=False)

    def beyond(self, points: Tensor | float) -> Tensor:
        """(log y − μ)/s at the upper end of so many steps, float64."""
        return (torch.log((points + 0.5) * self.step) - self.loc) / self.scale

    def log_share(self, points: Tensor | float) -> Tensor:
        """log P(y > the upper end of so many steps | y > step/2), float64."""
        return log_ndtr(-self.beyond(points)) - log_ndtr(-self.beyond(0.0))

    def log_mass(self, points: Tensor | float) -> Tensor:
        """log P of that point of the grid, 1, 2, …, float64."""
        ends = self.beyond(points - 1), self.beyond(points)
        return _log_between(*ends) - log_ndtr(-self.beyond(0.0))

    def log_prob(self, value: Tensor) -> Tensor:
        possible = value > 0
        x = torch.where(possible, value, 1.0).double()
        points = torch.round(x / self.step).clamp(min=1.0)
        # float32 holds a multiple of the step to its own relative precision.
        near = (x / self.step - points).abs() <= ROUNDED + points * torch.finfo(torch.float32).eps
        log_p = torch.where(
            self.on_grid, self.log_mass(points), self.density.log_prob(x) - self.log_unit
        )
        possible = possible & (near | ~self.on_grid)
        return torch.where(possible, log_p, -math.inf).to(self.dtype)

    def cdf(self, value: Tensor) -> Tensor:
        # A value on the grid may be rounded to just below its point.
        points = torch.floor(value.double() / self.step + ROUNDED).clamp(min=0.0)
        stepped = -torch.expm1(self.log_share(points))
        return torch.where(self.on_grid, stepped, self.density.cdf(value.double())).to(self.dtype)

    @property
    def mean(self) -> Tensor:
        """Within half a step on a grid; much closer where the spread is above a step."""
        points = map(float, range(1, POINTS_OF_MEAN + 1))
        near = sum(k * self.log_mass(k).exp() for k in points) * self.step
        # E[y; y > end] of a log-normal is its mean times Φ(s − (log end − μ)/s).
        last = self.beyond(float(POINTS_OF_MEAN))
        beyond = log_ndtr(self.scale - last) - log_ndtr(-self.beyond(0.0))
        far = self.density.mean * beyond.exp()
        mean = torch.where(self.on_grid, near + far, self.density.mean)
        return mean.clamp(max=torch.finfo(self.dtype).max).to(self.dtype)


def _log_between(low: Tensor, high: Tensor) -> Tensor:
    """log(Φ(high) − Φ(low)): by symmetry in the lower tail, where neither is all but 1."""
    mirrored = low + high > 0
    low, high = torch.where(mirrored, -high, low), torch.where(mirrored, -low, high)
    log_ratio = (log_ndtr(low) - log_ndtr(high)).clamp(max=-torch.finfo(low.dtype).tiny)
    return log_ndtr(high) + torch.log(-torch.expm1(log_ratio))


@draw.register
def _(distribution: LogNormalSteps, shape: Sequence[int], generator: Generator) -> Tensor:
    d = distribution
    loc, scale = d.loc.detach(), d.scale.detach()
    u = torch.rand(
        (*shape, *loc.shape), generator=generator, device=loc.device, dtype=torch.float64
    )
    tail = torch.where(d.on_grid, ndtr(-d.beyond(0.0).detach()), 1.0)
    y = torch.exp(loc - scale * torch.special.ndtri((u * tail).clamp(min=SMALLEST_TAIL)))
    points = torch.round(y / d.step).clamp(min=1.0)
    limits = torch.finfo(d.dtype)
    return torch.where(d.on_grid, points * d.step, y).clamp(limits.tiny, limits.max).to(d.dtype)


@final
class SpikedLogNormal(LocationScale):
    """Cells that are exactly 0, or else positive: P(0) = π, and (1 − π) of a log-normal.

        P(0|z) = π,   p(x|z) = (1 − π) p⁺(x),   π = σ(raw)

    p⁺ is a ``LogNormalSteps``: on a grid of ``step`` (model units, broadcasting to the event) the
    true masses of the positive points, elsewhere (step 0) a density per unit of the data. raw
    (..., num_parameters) holds the location of log x, its raw spread where ``scale`` is a
    CellScale, and a logit of π for each cell. ``unit`` and ``floor`` are those of ``Gaussian``.

    Source: Aitchison 1955.

    >>> from unveil import FixedScale
    >>> family = SpikedLogNormal(1, FixedScale(1.0), step=1.0)
    >>> family(torch.zeros(1, 2)).log_prob(torch.arange(3.0)[:, None]).exp()
    tensor([0.5000, 0.2734, 0.1077])
    """

    step: Tensor
    log_unit: Tensor

    def __init__(
        self,
        event_shape: int | tuple[int, ...],
        scale: Scale | None = None,
        *,
        step: Tensor | float = 0.0,
        unit: Tensor | float = 1.0,
        floor: float = 0.01,
    ) -> None:
        super().__init__(event_shape, scale, floor)
        self.num_located = self.num_parameters
        self.num_parameters += math.prod(self.event_shape)
        self.register_buffer("step", torch.as_tensor(step, dtype=torch.float32))
        self.register_buffer("log_unit", torch.as_tensor(unit, dtype=torch.float64).log())

    def forward(self, raw: Tensor) -> Cells:
        located, logits = raw.tensor_split([self.num_located], dim=-1)
        positive = super().forward(located).base
        base = WithExtraZeros(positive, logits.unflatten(-1, self.event_shape))
        return Cells(base, event_dims=len(self.event_shape))

    def cells(self, loc: Tensor, scale: Tensor) -> Cells:
        """Of the positive ones."""
        base = LogNormalSteps(loc, scale.expand_as(loc), self.step, self.log_unit)
        return Cells(base, event_dims=len(self.event_shape))

    def start(self, mean: Tensor) -> Tensor:
        # Half the cells are 0 at the start, so the others have twice the mean.
        return self._started(2 * mean, torch.full_like(mean, 0.5))

    def start_at(self, x: Tensor) -> Tensor:
        """The share of zeros, and the mean of the others."""
        above = torch.where(x > 0, x, torch.nan).nanmean(0).nan_to_num(nan=1.0)
        zeros = (x == 0).sum(0) / (~torch.isnan(x)).sum(0).clamp(min=1)
        return self._started(above, zeros.to(x))

    def _started(self, mean: Tensor, zeros: Tensor) -> Tensor:
        spread = self.scale([torch.zeros_like(mean)], self.floor.to(mean.dtype)).detach()
        smallest = torch.finfo(mean.dtype).tiny
        log_mean = torch.log(mean.clamp(min=smallest)) - spread.square() / 2
        logits = torch.logit(zeros.clamp(FARTHEST_START, 1 - FARTHEST_START))
        spreads = mean.new_zeros(self.num_located - mean.numel())
        return torch.cat([log_mean.flatten(), spreads, logits.flatten()])

    def log_supremum(self, x: Tensor) -> Tensor:
        """That of a mass is 0; of a density, at the best location and the smallest spread."""
        above = torch.where(x > 0, x, 1.0)
        scale = self.smallest_scale.to(x.dtype)
        with torch.no_grad():
            best = self.cells(torch.log(above), scale.expand_as(x)).log_prob_cells(above)
        return torch.where((x > 0) & (self.step == 0), best, 0.0).flatten(1).sum(1)
