"""Cells a step apart: grey levels, integers, rounded readings, as true probabilities."""

import math
from typing import final

import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily

from unveil import distributions
from unveil.distributions import Cells
from unveil.families import MassFamily, as_shape, beside_cells, side_by_side
from unveil.likelihoods.scale import CellScale, LocationScale, Scale
from unveil.likelihoods.start import solve

# How far apart components start where the grid has no end: two standard deviations either way.
REACH = 4.0
# A mean starts at least this share of a step from an end, which no mixture's mean reaches.
FARTHEST_START = 1e-3


@final
class DiscretizedLogistic(MassFamily, LocationScale):
    """Cells on a grid (grey levels, integers, rounded readings), as true probabilities.

    P(x) is the mass that a logistic puts on x ± step/2; ``low`` and ``high`` take their tails.
    ``step``, ``low``, ``high`` are in model units and broadcast to the event. The spread's floor
    is a fiftieth of a step: a mass cannot exceed one, so nothing is lost by going no lower.

    >>> family = DiscretizedLogistic((2, 2), step=1.0, low=0.0, high=16.0)
    >>> bool(family(torch.zeros(1, 4)).log_prob(torch.full((1, 2, 2), 3.0)) < 0)
    True
    """

    step: Tensor
    low: Tensor
    high: Tensor

    def __init__(
        self,
        event_shape: int | tuple[int, ...],
        scale: Scale | None = None,
        *,
        step: Tensor | float,
        low: Tensor | float = -math.inf,
        high: Tensor | float = math.inf,
    ) -> None:
        super().__init__(event_shape, scale, floor=torch.as_tensor(step) / 50)
        for name, value in (("step", step), ("low", low), ("high", high)):
            self.register_buffer(name, torch.as_tensor(value, dtype=torch.float32))

    def cells(self, loc: Tensor, scale: Tensor) -> Cells:
        base = distributions.DiscretizedLogistic(
            loc, scale, step=self.step, low=self.low, high=self.high
        )
        return Cells(base, event_dims=len(self.event_shape))


@final
class DiscretizedLogisticMixture(MassFamily):
    """Cells on a grid, as true probabilities with several modes.

        P(x) = Σ_k π_k P_k(x),   P_k a discretized logistic with location μ_k and spread s_k

    The network gives every cell K logits of π, K locations and K raw spreads. ``step``, ``low``,
    ``high`` and the spread's floor are those of ``DiscretizedLogistic``. A fixed distance is added
    to each location, so that raw zeros are K components over the whole range and not K copies of
    one, which no gradient would ever tell apart. Source: Salimans et al. 2017 (PixelCNN++), eq. 2,
    without its coupling of colours.

    >>> family = DiscretizedLogisticMixture((2, 2), 3, step=1.0, low=0.0, high=16.0)
    >>> family.num_parameters, family(torch.zeros(5, 36)).log_prob(torch.zeros(5, 2, 2)).shape
    (36, torch.Size([5]))
    """

    apart: Tensor

    def __init__(
        self,
        event_shape: int | tuple[int, ...],
        num_components: int,
        *,
        step: Tensor | float,
        low: Tensor | float = -math.inf,
        high: Tensor | float = math.inf,
    ) -> None:
        super().__init__()
        if num_components < 1:
            raise ValueError(f"expected at least one component, got {num_components}; give 5, say")
        self.event_shape = as_shape(event_shape)
        each = (*self.event_shape, num_components)
        # One cell per component: the components are a DiscretizedLogistic with one axis more.
        step, low, high = (
            torch.as_tensor(t, dtype=torch.float32)[..., None] for t in (step, low, high)
        )
        self.components = DiscretizedLogistic(each, CellScale(), step=step, low=low, high=high)
        self.num_parameters = math.prod(each) + self.components.num_parameters
        first = low.where(low.isfinite(), (high - REACH).where(high.isfinite(), -REACH / 2))
        last = high.where(high.isfinite(), first + REACH)
        share = (torch.arange(num_components) + 0.5) / num_components
        at = (first + (last - first) * share).expand(each)
        self.register_buffer("apart", self._shifted(at), persistent=False)

    def _shifted(self, by: Tensor) -> Tensor:
        """Numbers of the cells (*event, 3K) that are 0 but for the locations, (*event, K)."""
        return torch.cat([torch.zeros_like(by), by, torch.zeros_like(by)], dim=-1)

    def forward(self, raw: Tensor) -> Cells:
        return self._cells(beside_cells(raw, self.apart.shape[-1], self.event_shape))

    def _cells(self, numbers: Tensor) -> Cells:
        """The distribution of cells with these numbers (..., *event, 3K)."""
        logits, loc, raw_scale = (numbers + self.apart).chunk(3, dim=-1)
        spread = self.components.scale([raw_scale], self.components.floor.to(loc.dtype))
        chosen = Categorical(logits=logits, validate_args=False)
        base = MixtureSameFamily(
            chosen, self.components.cells(loc, spread).base, validate_args=False
        )
        return Cells(base, event_dims=len(self.event_shape))

    def start(self, mean: Tensor) -> Tensor:
        # The components move together: they stay apart, and their mean is in reach of both ends.
        each, within = self.components, FARTHEST_START * self.components.step[..., 0]
        target = mean.clamp(each.low[..., 0] + within, each.high[..., 0] - within)

        def shifted(by: Tensor) -> Tensor:
            return self._shifted(by[..., None].expand(each.event_shape))

        return side_by_side(shifted(solve(lambda by: self._cells(shifted(by)).mean, target)))
